// Which way up a picture is: the orientation in EXIF, or else in XMP.
#include <cstddef>
#include <cstdint>
#include <string>

#include "picture.h"

namespace ofa_tvm {
namespace {

constexpr int kUnknown = 0;
constexpr uint16_t kOrientationTag = 0x0112;

// Numbers out of bytes of either order; what lies outside of them reads as 0.
struct Bytes {
  const std::string& text;
  bool big;

  uint32_t At(size_t at, size_t size) const {
    uint32_t value = 0;
    if (at > text.size() || size > text.size() - at) return 0;
    for (size_t i = 0; i < size; ++i) {
      value = value << 8 | static_cast<uint8_t>(text[big ? at + i : at + size - 1 - i]);
    }
    return value;
  }
};

int Known(uint32_t value) { return value >= 1 && value <= 8 ? static_cast<int>(value) : kUnknown; }

int OfExif(const std::string& tiff) {
  if (tiff.compare(0, 2, "MM") != 0 && tiff.compare(0, 2, "II") != 0) return kUnknown;
  const Bytes bytes{tiff, tiff[0] == 'M'};
  const size_t folder = bytes.At(4, 4), entries = bytes.At(folder, 2);
  for (size_t i = 0; i < entries; ++i) {
    const size_t entry = folder + 2 + 12 * i;
    if (entry + 12 > tiff.size()) break;
    if (bytes.At(entry, 2) != kOrientationTag) continue;
    switch (bytes.At(entry + 2, 2)) {  // its type
      case 1: return Known(bytes.At(entry + 8, 1));
      case 3: return Known(bytes.At(entry + 8, 2));
      case 4: return Known(bytes.At(entry + 8, 4));
      default: return kUnknown;
    }
  }
  return kUnknown;
}

int OfXmp(const std::string& xmp) {
  for (const char* name : {"tiff:Orientation=\"", "tiff:Orientation>"}) {
    const size_t at = xmp.find(name);
    if (at == std::string::npos) continue;
    const size_t value = at + std::string(name).size();
    if (value < xmp.size() && xmp[value] >= '1' && xmp[value] <= '8') return xmp[value] - '0';
  }
  return kUnknown;
}

// What follows a mark at the beginning of a block; empty where the block is another one.
std::string After(const std::string& block, const std::string& mark) {
  return block.compare(0, mark.size(), mark) == 0 ? block.substr(mark.size()) : std::string();
}

struct Found {
  int exif = kUnknown, xmp = kUnknown;
  int Best() const { return exif != kUnknown ? exif : xmp != kUnknown ? xmp : 1; }
};

Found InJpeg(const std::string& file) {
  const Bytes bytes{file, true};
  Found found;
  for (size_t at = 2; at + 4 <= file.size();) {
    if (bytes.At(at, 1) != 0xFF) break;
    const uint32_t marker = bytes.At(at + 1, 1);
    if (marker == 0xFF) {  // a filler
      ++at;
      continue;
    }
    const size_t size = bytes.At(at + 2, 2);
    if (marker == 0xDA || size < 2) break;  // the pixels begin
    if (marker == 0xE1) {
      const std::string block = file.substr(at + 4, size - 2);
      const std::string exif = After(block, std::string("Exif\0\0", 6));
      if (found.exif == kUnknown && !exif.empty()) found.exif = OfExif(exif);
      const std::string xmp = After(block, std::string("http://ns.adobe.com/xap/1.0/\0", 29));
      if (found.xmp == kUnknown && !xmp.empty()) found.xmp = OfXmp(xmp);
    }
    at += 2 + size;
  }
  return found;
}

Found InPng(const std::string& file) {
  const Bytes bytes{file, true};
  Found found;
  for (size_t at = 8; at + 12 <= file.size();) {
    const size_t size = bytes.At(at, 4);
    if (size > file.size() - at - 12) break;
    const std::string name = file.substr(at + 4, 4);
    if (name == "eXIf") found.exif = OfExif(file.substr(at + 8, size));
    if (name == "iTXt") {
      const std::string xmp = After(file.substr(at + 8, size), std::string("XML:com.adobe.xmp\0", 18));
      if (!xmp.empty()) found.xmp = OfXmp(xmp);
    }
    at += 12 + size;
  }
  return found;
}

}  // namespace

int Orientation(const std::string& file) {
  if (IsJpeg(file)) return InJpeg(file).Best();
  return IsPng(file) ? InPng(file).Best() : 1;
}

}  // namespace ofa_tvm
