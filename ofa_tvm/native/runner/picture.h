// A picture file as upright 8-bit RGB, equal to what ofa_tvm.images:open_image makes of it.
#ifndef OFA_TVM_RUNNER_PICTURE_H_
#define OFA_TVM_RUNNER_PICTURE_H_

#include <cstdint>
#include <string>
#include <vector>

namespace ofa_tvm {

constexpr int64_t kMostPixels = 50000000;

struct Picture {
  int width = 0, height = 0;
  std::vector<uint8_t> rgb;  // row by row, three bytes a pixel
};

// Decodes JPEG, PNG and binary 8-bit PPM, turned as EXIF or XMP says. Grey is replicated, 16 bits become 8,
// transparency is laid on white. Throws std::runtime_error with what is wrong, to follow the file's name.
Picture DecodePicture(const std::string& file);

// 1 to 8, as EXIF numbers them; 1 (upright) where the file says nothing that makes sense.
int Orientation(const std::string& file);

bool IsJpeg(const std::string& file);
bool IsPng(const std::string& file);

}  // namespace ofa_tvm

#endif
