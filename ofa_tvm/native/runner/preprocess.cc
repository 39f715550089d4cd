#include "preprocess.h"

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <stdexcept>

namespace ofa_tvm {
namespace {

// Pillow resamples 8-bit pictures in whole numbers with so many bits behind the point, first along rows and then
// along columns, with 8-bit pixels in between.
constexpr int kBits = 32 - 8 - 2;

struct Box {
  float left, top, right, bottom;
};

double Bilinear(double x) {
  x = std::fabs(x);
  return x < 1 ? 1 - x : 0;
}

double Bicubic(double x) {
  constexpr double a = -0.5;
  x = std::fabs(x);
  if (x < 1) return ((a + 2) * x - (a + 3)) * x * x + 1;
  return x < 2 ? (((x - 5) * x + 8) * x - 4) * a : 0;
}

// Which pixels of a line make one of the result, and with which weights.
struct Weights {
  int first = 0;
  std::vector<int32_t> of;
};

std::vector<Weights> WeightsOf(int size, float begin, float end, int wanted, bool cubic) {
  const double scale = static_cast<double>(end - begin) / wanted, widened = std::max(scale, 1.0);
  const double support = (cubic ? 2.0 : 1.0) * widened;
  std::vector<Weights> all(static_cast<size_t>(wanted));
  std::vector<double> exact;
  for (int i = 0; i < wanted; ++i) {
    const double centre = begin + (i + 0.5) * scale;
    const int first = std::max(static_cast<int>(centre - support + 0.5), 0);
    const int last = std::min(static_cast<int>(centre + support + 0.5), size);
    exact.clear();
    double sum = 0;
    for (int x = first; x < last; ++x) {
      const double at = (x - centre + 0.5) * (1.0 / widened);
      exact.push_back(cubic ? Bicubic(at) : Bilinear(at));
      sum += exact.back();
    }
    Weights& weights = all[static_cast<size_t>(i)];
    weights.first = first;
    for (double weight : exact) {
      if (sum != 0) weight /= sum;
      weights.of.push_back(static_cast<int32_t>((weight < 0 ? -0.5 : 0.5) + weight * (1 << kBits)));
    }
  }
  return all;
}

// One channel of one pixel: a weighted sum over pixels that lie `stride` bytes apart.
uint8_t Mixed(const uint8_t* from, size_t stride, const std::vector<int32_t>& weights) {
  int64_t sum = 1 << (kBits - 1);
  for (const int32_t weight : weights) {
    sum += static_cast<int64_t>(*from) * weight;
    from += stride;
  }
  return static_cast<uint8_t>(std::clamp<int64_t>(sum >> kBits, 0, 255));
}

Picture AlongRows(const Picture& picture, const std::vector<Weights>& weights, int top, int bottom) {
  Picture made{static_cast<int>(weights.size()), bottom - top, {}};
  made.rgb.reserve(3 * weights.size() * static_cast<size_t>(made.height));
  for (int y = top; y < bottom; ++y) {
    const uint8_t* row = &picture.rgb[3 * static_cast<size_t>(y) * picture.width];
    for (const Weights& pixel : weights) {
      for (int c = 0; c < 3; ++c) made.rgb.push_back(Mixed(row + 3 * pixel.first + c, 3, pixel.of));
    }
  }
  return made;
}

Picture AlongColumns(const Picture& picture, const std::vector<Weights>& weights, int top) {
  Picture made{picture.width, static_cast<int>(weights.size()), {}};
  const size_t stride = 3 * static_cast<size_t>(picture.width);
  made.rgb.reserve(stride * weights.size());
  for (const Weights& row : weights) {
    const uint8_t* from = &picture.rgb[static_cast<size_t>(row.first - top) * stride];
    for (size_t x = 0; x < stride; ++x) made.rgb.push_back(Mixed(from + x, stride, row.of));
  }
  return made;
}

Picture Resampled(const Picture& picture, const Box& box, int side, bool cubic) {
  const auto columns = WeightsOf(picture.width, box.left, box.right, side, cubic);
  const auto rows = WeightsOf(picture.height, box.top, box.bottom, side, cubic);
  const bool wider = side != picture.width || box.left != 0 || box.right != static_cast<float>(side);
  const bool higher = side != picture.height || box.top != 0 || box.bottom != static_cast<float>(side);
  if (!wider) return higher ? AlongColumns(picture, rows, 0) : picture;
  const int top = higher ? rows.front().first : 0;
  const int bottom = higher ? rows.back().first + static_cast<int>(rows.back().of.size()) : picture.height;
  const Picture made = AlongRows(picture, columns, top, bottom);
  return higher ? AlongColumns(made, rows, top) : made;
}

std::vector<int> NearestOf(int size, float begin, float end, int wanted) {
  const double step = static_cast<double>(end - begin) / wanted;
  double at = begin + step * 0.5;
  std::vector<int> all;
  for (int i = 0; i < wanted; ++i, at += step) all.push_back(std::clamp(static_cast<int>(at), 0, size - 1));
  return all;
}

Picture Nearest(const Picture& picture, const Box& box, int side) {
  const auto columns = NearestOf(picture.width, box.left, box.right, side);
  Picture made{side, side, {}};
  for (const int y : NearestOf(picture.height, box.top, box.bottom, side)) {
    for (const int x : columns) {
      const uint8_t* from = &picture.rgb[3 * (static_cast<size_t>(y) * picture.width + x)];
      made.rgb.insert(made.rgb.end(), from, from + 3);
    }
  }
  return made;
}

Box Taken(const Picture& picture, double crop) {
  const double width = picture.width, height = picture.height;
  if (crop <= 0) return {0, 0, static_cast<float>(width), static_cast<float>(height)};
  const double side = std::min(width, height) * crop, left = (width - side) / 2, top = (height - side) / 2;
  return {static_cast<float>(left), static_cast<float>(top), static_cast<float>(left + side),
          static_cast<float>(top + side)};
}

}  // namespace

std::vector<uint8_t> Resize(const Picture& picture, const Preprocessing& how) {
  const Box box = Taken(picture, how.crop);
  if (how.interpolation == "nearest") return Nearest(picture, box, how.resolution).rgb;
  if (how.interpolation != "bilinear" && how.interpolation != "bicubic") {
    throw std::runtime_error("the module wants pictures scaled by " + how.interpolation + ", which is not known");
  }
  return Resampled(picture, box, how.resolution, how.interpolation == "bicubic").rgb;
}

std::vector<float> Prepare(const Picture& picture, const Preprocessing& how) {
  const std::vector<uint8_t> pixels = Resize(picture, how);
  const size_t count = pixels.size() / 3;
  std::vector<float> values(pixels.size());
  for (size_t c = 0; c < 3; ++c) {
    for (size_t i = 0; i < count; ++i) {
      values[c * count + i] = (static_cast<float>(pixels[3 * i + c]) / 255.0f - how.mean[c]) / how.std[c];
    }
  }
  return values;
}

}  // namespace ofa_tvm
