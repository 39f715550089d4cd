// From pixels to a network's input, as ofa_tvm.images:Preprocessing does it: the same bytes, the same floats.
#ifndef OFA_TVM_RUNNER_PREPROCESS_H_
#define OFA_TVM_RUNNER_PREPROCESS_H_

#include <array>
#include <string>
#include <vector>

#include "picture.h"

namespace ofa_tvm {

struct Preprocessing {
  std::array<float, 3> mean{}, std{};  // a channel, of pixels scaled to 0..1
  int resolution = 0;                  // side of the square input, in pixels
  std::string interpolation = "bilinear";  // or "bicubic", "nearest"
  double crop = 0;  // share of the short side that the centred square takes; 0 stretches the whole picture
};

// Pixels of the square, row by row, three bytes each: pillow's Image.resize, whose filters widen when it scales
// down. Throws std::runtime_error on an interpolation that it does not know.
std::vector<uint8_t> Resize(const Picture& picture, const Preprocessing& how);

// Network input (1, 3, resolution, resolution).
std::vector<float> Prepare(const Picture& picture, const Preprocessing& how);

}  // namespace ofa_tvm

#endif
