#include "picture.h"

#include <algorithm>
#include <array>
#include <cstring>
#include <limits>
#include <memory>
#include <sstream>
#include <stdexcept>

// Static, so that programs with a copy of their own may link this file as well.
#define STB_IMAGE_STATIC
#define STB_IMAGE_IMPLEMENTATION
#define STBI_ONLY_JPEG
#define STBI_ONLY_PNG
#define STBI_NO_STDIO
#define STBI_FAILURE_USERMSG
#ifdef __aarch64__
#define STBI_NEON
#endif
#pragma GCC diagnostic push
#pragma GCC diagnostic ignored "-Wunused-function"
#pragma GCC diagnostic ignored "-Wunused-but-set-variable"
#include "../third_party/stb_image.h"
#pragma GCC diagnostic pop

namespace ofa_tvm {
namespace {

[[noreturn]] void Refuse(const std::string& why) { throw std::runtime_error(why); }

void CheckSize(int64_t width, int64_t height) {
  if (width <= 0 || height <= 0) Refuse("holds no pixels");
  if (width > kMostPixels / height) Refuse("has more than 50 million pixels; scale it down first");
}

// The file as the decoder reads it; a file that ends too early gives zeros there, which it would take for pixels.
struct Source {
  const std::string& file;
  size_t at = 0;
  bool past_end = false;

  static int Read(void* user, char* data, int size) {
    auto* self = static_cast<Source*>(user);
    const size_t take = std::min(static_cast<size_t>(size), self->file.size() - self->at);
    std::memcpy(data, self->file.data() + self->at, take);
    self->at += take;
    if (take == 0) self->past_end = true;
    return static_cast<int>(take);
  }
  static void Skip(void* user, int size) {
    auto* self = static_cast<Source*>(user);
    const size_t left = self->file.size() - self->at;
    if (size > 0 && static_cast<size_t>(size) > left) self->past_end = true;
    if (size > 0) self->at += std::min(static_cast<size_t>(size), left);
  }
  static int End(void* user) {
    const auto* self = static_cast<Source*>(user);
    return self->at == self->file.size();
  }
};

constexpr stbi_io_callbacks kReading{Source::Read, Source::Skip, Source::End};

struct FreePixels {
  void operator()(void* pixels) const { stbi_image_free(pixels); }
};

template <typename T>
std::unique_ptr<T, FreePixels> Checked(T* pixels, const Source& source) {
  std::unique_ptr<T, FreePixels> owned(pixels);
  if (source.past_end) Refuse("is truncated: it ends before its last pixel");
  if (pixels == nullptr) {
    const char* reason = stbi_failure_reason();
    Refuse(std::string("cannot be decoded: ") + (reason == nullptr ? "it is damaged" : reason));
  }
  return owned;
}

std::unique_ptr<uint8_t, FreePixels> Load(const std::string& file, int channels, Picture* picture) {
  Source source{file};
  int kept = 0;
  return Checked(
      stbi_load_from_callbacks(&kReading, &source, &picture->width, &picture->height, &kept, channels), source);
}

Picture DecodeJpeg(const std::string& file) {
  Source header{file};
  int width = 0, height = 0, channels = 0;
  if (!stbi_info_from_callbacks(&kReading, &header, &width, &height, &channels)) {
    if (header.past_end) Refuse("is truncated: it ends before its first pixel");
    Refuse(std::string("cannot be decoded: ") + stbi_failure_reason());
  }
  CheckSize(width, height);
  Picture picture;
  const auto pixels = Load(file, 3, &picture);
  picture.rgb.assign(pixels.get(), pixels.get() + 3 * static_cast<size_t>(picture.width) * picture.height);
  return picture;
}

uint32_t BigEndian(const std::string& file, size_t at) {
  uint32_t value = 0;
  for (size_t i = 0; i < 4; ++i) value = value << 8 | static_cast<uint8_t>(file[at + i]);
  return value;
}

std::array<uint32_t, 256> CrcTable() {
  std::array<uint32_t, 256> table{};
  for (uint32_t i = 0; i < 256; ++i) {
    uint32_t value = i;
    for (int bit = 0; bit < 8; ++bit) value = (value & 1) ? 0xEDB88320u ^ value >> 1 : value >> 1;
    table[i] = value;
  }
  return table;
}

// The decoder compares no checksums: flipped bits would pass as pixels.
void CheckChunks(const std::string& file) {
  static const std::array<uint32_t, 256> table = CrcTable();
  for (size_t at = 8; at + 12 <= file.size();) {
    const size_t size = BigEndian(file, at);
    if (size > file.size() - at - 12) break;
    const std::string name = file.substr(at + 4, 4);
    uint32_t crc = ~0u;
    for (size_t i = at + 4; i < at + 8 + size; ++i) crc = table[(crc ^ static_cast<uint8_t>(file[i])) & 255] ^ crc >> 8;
    // A small first letter marks chunks that one can do without.
    if (~crc != BigEndian(file, at + 8 + size) && (name[0] & 32) == 0) {
      Refuse("is damaged: a checksum in it does not match");
    }
    if (name == "IEND") return;
    at += 12 + size;
  }
  Refuse("is truncated: it ends before its last pixel");
}

// One channel of a pixel laid on white, rounded as pillow's alpha_composite.
uint8_t OnWhite(uint32_t value, uint32_t alpha) {
  const uint32_t share = alpha * 128;  // of the picture, in 255 * 128ths
  const uint32_t mixed = value * share + 255 * (255 * 128 - share) + (0x80 << 7);
  return static_cast<uint8_t>(((mixed >> 8) + mixed) >> 8 >> 7);
}

Picture DecodePng(const std::string& file) {
  constexpr size_t kHeader = 33;  // signature and first chunk
  if (file.size() < kHeader || file.compare(12, 4, "IHDR") != 0) Refuse("cannot be decoded: it has no header");
  const int64_t width = BigEndian(file, 16), height = BigEndian(file, 20);
  CheckSize(width, height);
  CheckChunks(file);
  Picture picture;
  const auto count = static_cast<size_t>(width * height);
  picture.rgb.resize(3 * count);
  // Colours of 16 bits lose their lower half, grey of 16 bits is rounded.
  if (file[24] == 16 && file[25] == 0) {
    Source source{file};
    int kept = 0;
    const auto pixels = Checked(
        stbi_load_16_from_callbacks(&kReading, &source, &picture.width, &picture.height, &kept, 1), source);
    for (size_t i = 0; i < count; ++i) {
      const auto grey = static_cast<uint8_t>((pixels.get()[i] + 128u) / 257u);
      std::fill_n(&picture.rgb[3 * i], 3, grey);
    }
    return picture;
  }
  if (file[25] == 2) {  // as in training, one colour of an RGB picture that is to be transparent is not
    const auto pixels = Load(file, 3, &picture);
    picture.rgb.assign(pixels.get(), pixels.get() + 3 * count);
    return picture;
  }
  const auto pixels = Load(file, 4, &picture);
  for (size_t i = 0; i < count; ++i) {
    const uint8_t* from = pixels.get() + 4 * i;
    for (size_t c = 0; c < 3; ++c) picture.rgb[3 * i + c] = OnWhite(from[c], from[3]);
  }
  return picture;
}

Picture DecodePpm(const std::string& file) {
  std::istringstream text(file);
  std::string magic;
  int64_t width = 0, height = 0, maximum = 0;
  text >> magic;
  for (int64_t* value : {&width, &height, &maximum}) {
    while ((text >> std::ws).peek() == '#') text.ignore(std::numeric_limits<std::streamsize>::max(), '\n');
    text >> *value;
  }
  if (!text || maximum != 255) Refuse("is not a binary 8-bit PPM (P6)");
  CheckSize(width, height);
  text.get();
  Picture picture{static_cast<int>(width), static_cast<int>(height), {}};
  const size_t bytes = 3 * static_cast<size_t>(width * height);
  if (file.size() - static_cast<size_t>(text.tellg()) < bytes) Refuse("is truncated: it ends before its last pixel");
  picture.rgb.resize(bytes);
  text.read(reinterpret_cast<char*>(picture.rgb.data()), static_cast<std::streamsize>(bytes));
  return picture;
}

Picture Turned(const Picture& picture, int orientation) {
  if (orientation <= 1) return picture;
  const bool swapped = orientation >= 5;
  Picture turned{swapped ? picture.height : picture.width, swapped ? picture.width : picture.height, {}};
  turned.rgb.resize(picture.rgb.size());
  const bool from_right = orientation == 2 || orientation == 3 || orientation == 7 || orientation == 8;
  const bool from_below = orientation == 3 || orientation == 4 || orientation == 6 || orientation == 7;
  for (int y = 0; y < turned.height; ++y) {
    for (int x = 0; x < turned.width; ++x) {
      int column = swapped ? y : x, row = swapped ? x : y;
      if (from_right) column = picture.width - 1 - column;
      if (from_below) row = picture.height - 1 - row;
      const size_t from = 3 * (static_cast<size_t>(row) * picture.width + column);
      std::copy_n(&picture.rgb[from], 3, &turned.rgb[3 * (static_cast<size_t>(y) * turned.width + x)]);
    }
  }
  return turned;
}

}  // namespace

bool IsJpeg(const std::string& file) { return file.compare(0, 3, "\xFF\xD8\xFF") == 0; }

bool IsPng(const std::string& file) { return file.compare(0, 8, "\x89PNG\r\n\x1A\n") == 0; }

Picture DecodePicture(const std::string& file) {
  if (file.empty()) Refuse("is empty");
  if (file.compare(0, 2, "P6") == 0) return DecodePpm(file);
  if (IsJpeg(file)) return Turned(DecodeJpeg(file), Orientation(file));
  if (IsPng(file)) return Turned(DecodePng(file), Orientation(file));
  Refuse("is no JPEG, PNG or binary PPM picture");
}

}  // namespace ofa_tvm
