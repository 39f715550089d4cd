// Gradient of a depthwise convolution by its weights, float32, images in channels-last order.

#include <algorithm>
#include <cstdint>
#include <cstring>
#include <vector>

// PyTorch's threads: it has an OpenMP runtime loaded, and a second one would compete with it. Every runtime has
// GNU's entry point, so that any compiler will do; where there is none, everything runs on the calling thread.
extern "C" {
__attribute__((weak)) void GOMP_parallel(void (*body)(void*), void* data, unsigned threads, unsigned flags);
__attribute__((weak)) int omp_get_thread_num();
__attribute__((weak)) int omp_get_num_threads();
}

namespace {

#if defined(__AVX512F__)
constexpr int kLanes = 16;
#elif defined(__AVX__)
constexpr int kLanes = 8;
#else
constexpr int kLanes = 4;
#endif
typedef float Lanes __attribute__((vector_size(kLanes * sizeof(float))));

struct Shape {
  int64_t images, height, width, channels, out_height, out_width;
};

// One image's channels [first, first + n), n <= kLanes, into rows of whole vectors with `pad` zeros around.
void pack(const float* image, int64_t height, int64_t width, int64_t channels, int64_t first, int64_t n,
          int64_t pad, Lanes* packed) {
  const int64_t row = width + 2 * pad;
  for (int64_t y = 0; y < height; ++y) {
    const float* from = image + y * width * channels + first;
    Lanes* to = packed + (y + pad) * row + pad;
    if (n == kLanes) {
      for (int64_t x = 0; x < width; ++x) std::memcpy(to + x, from + x * channels, sizeof(Lanes));
    } else {  // the other lanes were cleared before
      for (int64_t x = 0; x < width; ++x) std::memcpy(to + x, from + x * channels, n * sizeof(float));
    }
  }
}

// sums[i * K + j] += sum over positions of gradient (y, x) times input (y * S + i, x * S + j).
template <int K, int S>
void correlate(const Lanes* input, const Lanes* gradient, int64_t out_height, int64_t out_width, int64_t row,
               Lanes* sums) {
  for (int64_t y = 0; y < out_height; ++y) {
    const Lanes* g = gradient + y * out_width;
    for (int i = 0; i < K; ++i) {
      const Lanes* from = input + (y * S + i) * row;
      Lanes even[K], odd[K];  // two chains of additions for each tap hide the latency of one
      for (int j = 0; j < K; ++j) even[j] = sums[i * K + j], odd[j] = Lanes{};
      int64_t x = 0;
      for (; x + 1 < out_width; x += 2) {
        const Lanes g0 = g[x], g1 = g[x + 1];
        const Lanes* at = from + x * S;
#pragma GCC unroll 8
        for (int j = 0; j < K; ++j) even[j] += g0 * at[j], odd[j] += g1 * at[j + S];
      }
      if (x < out_width) {
#pragma GCC unroll 8
        for (int j = 0; j < K; ++j) even[j] += g[x] * from[x * S + j];
      }
      for (int j = 0; j < K; ++j) sums[i * K + j] = even[j] + odd[j];
    }
  }
}

// The tasks are blocks of channels times chunks of images. Chunks depend on the images alone, so that the order of
// additions, and with it the result, does not depend on the threads.
template <int K, int S>
struct WeightGradient {
  static constexpr int64_t kPad = K / 2;
  const float *input, *gradient;
  Shape shape;
  int64_t blocks = (shape.channels + kLanes - 1) / kLanes;
  int64_t chunk = std::max<int64_t>(4, (shape.images + 15) / 16);
  int64_t chunks = (shape.images + chunk - 1) / chunk;
  std::vector<Lanes> sums = std::vector<Lanes>(blocks * chunks * K * K, Lanes{});

  // Every n-th task, for one of n threads.
  void run(int64_t thread, int64_t threads) {
    const int64_t row = shape.width + 2 * kPad;
    std::vector<Lanes> x(row * (shape.height + 2 * kPad)), g(shape.out_height * shape.out_width);
    for (int64_t task = thread; task < blocks * chunks; task += threads) {
      const int64_t first = task % blocks * kLanes, n = std::min<int64_t>(kLanes, shape.channels - first);
      if (n < kLanes) {
        std::fill(x.begin(), x.end(), Lanes{});
        std::fill(g.begin(), g.end(), Lanes{});
      }
      const int64_t image = task / blocks * chunk;
      for (int64_t i = image; i < std::min(image + chunk, shape.images); ++i) {
        pack(input + i * shape.height * shape.width * shape.channels, shape.height, shape.width,
             shape.channels, first, n, kPad, x.data());
        pack(gradient + i * shape.out_height * shape.out_width * shape.channels, shape.out_height,
             shape.out_width, shape.channels, first, n, 0, g.data());
        correlate<K, S>(x.data(), g.data(), shape.out_height, shape.out_width, row, &sums[task * K * K]);
      }
    }
  }

  static void on_thread(void* self) {
    static_cast<WeightGradient*>(self)->run(omp_get_thread_num(), omp_get_num_threads());
  }

  void store(float* weights) const {
    for (int64_t c = 0; c < shape.channels; ++c) {
      for (int tap = 0; tap < K * K; ++tap) {
        float sum = 0;
        for (int64_t part = 0; part < chunks; ++part) {
          sum += sums[(part * blocks + c / kLanes) * K * K + tap][c % kLanes];
        }
        weights[c * K * K + tap] = sum;
      }
    }
  }
};

template <int K, int S>
void weight_gradient(const float* input, const float* gradient, float* weights, const Shape& shape) {
  WeightGradient<K, S> work{input, gradient, shape};
  if (GOMP_parallel && omp_get_thread_num && omp_get_num_threads) {
    GOMP_parallel(WeightGradient<K, S>::on_thread, &work, 0, 0);  // 0: as many threads as PyTorch has set
  } else {
    work.run(0, 1);
  }
  work.store(weights);
}

}  // namespace

// 0, or 1 where this kernel size and stride are not served.
extern "C" __attribute__((visibility("default"))) int ofa_tvm_depthwise_weight_gradient(
    const float* input, const float* gradient, float* weights, int64_t images, int64_t height, int64_t width,
    int64_t channels, int64_t out_height, int64_t out_width, int kernel, int stride) {
  const Shape shape{images, height, width, channels, out_height, out_width};
  switch (kernel * 10 + stride) {
    case 31: weight_gradient<3, 1>(input, gradient, weights, shape); return 0;
    case 32: weight_gradient<3, 2>(input, gradient, weights, shape); return 0;
    case 51: weight_gradient<5, 1>(input, gradient, weights, shape); return 0;
    case 52: weight_gradient<5, 2>(input, gradient, weights, shape); return 0;
    case 71: weight_gradient<7, 1>(input, gradient, weights, shape); return 0;
    case 72: weight_gradient<7, 2>(input, gradient, weights, shape); return 0;
    default: return 1;
  }
}
