// Runs a compiled module (model.so of an artefact) with nothing but the TVM runtime.
//
//   classify MODEL.SO INPUT [TOP_K]
//
// INPUT is a .npy file of float32 network input (1, 3, height, width), or a binary .ppm picture (P6) of exactly
// the module's height and width, which is normalised as the module's metadata say.

#include <sched.h>
#include <tvm/ffi/container/array.h>
#include <tvm/ffi/container/tensor.h>
#include <tvm/ffi/extra/json.h>
#include <tvm/ffi/extra/module.h>
#include <tvm/ffi/function.h>

#include <algorithm>
#include <chrono>
#include <cmath>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <fstream>
#include <iterator>
#include <numeric>
#include <sstream>
#include <stdexcept>
#include <string>
#include <vector>

namespace ffi = tvm::ffi;

namespace {

constexpr int kPooledAllocator = 2;   // of TVM's virtual machine
constexpr std::size_t kAlignment = 64;  // what compiled kernels assume of every tensor
constexpr DLDevice kCpu{kDLCPU, 0};
constexpr DLDataType kFloat32{kDLFloat, 32, 1};

struct AlignedMemory {
  void AllocData(DLTensor* tensor) {
    const std::size_t bytes = std::max<std::size_t>(ffi::GetDataSize(*tensor), 1);
    tensor->data = std::aligned_alloc(kAlignment, (bytes + kAlignment - 1) / kAlignment * kAlignment);
    if (tensor->data == nullptr) throw std::bad_alloc();
  }
  void FreeData(DLTensor* tensor) { std::free(tensor->data); }
};

std::string ReadFile(const std::string& path) {
  std::ifstream file(path, std::ios::binary);
  if (!file) throw std::runtime_error("cannot read " + path);
  return {std::istreambuf_iterator<char>(file), {}};
}

int64_t UsableCpus() {
  cpu_set_t cpus;
  return sched_getaffinity(0, sizeof cpus, &cpus) == 0 ? CPU_COUNT(&cpus) : 1;
}

// Gives the networks that this thread calls a pool of so many threads, itself included, as they were measured. TVM
// would take half the CPUs and bind its callers to one each. The pool starts here: the list's length is its size.
void UseThreads(int threads) {
  setenv("TVM_BIND_THREADS", "0", 0);
  const int any_mode = 1;
  const std::vector<ffi::String> cpus(static_cast<std::size_t>(threads), "0");
  ffi::Function::GetGlobalRequired("runtime.config_threadpool")(any_mode, threads,
                                                                ffi::Array<ffi::String>(cpus.begin(), cpus.end()));
}

// A network ready to be called, and what its metadata say.
class Network {
 public:
  explicit Network(const std::string& path) : library_(ffi::Module::LoadFromFile(path)) {
    vm_ = library_->GetFunction("vm_load_executable").value()().cast<ffi::Module>();
    vm_->GetFunction("vm_initialization").value()(static_cast<int>(kDLCPU), 0, kPooledAllocator);
    main_ = vm_->GetFunction("main").value();
    const auto raw = vm_->GetFunction("metadata").value()().cast<ffi::Tensor>();
    const std::string text(static_cast<const char*>(raw.data_ptr()), static_cast<std::size_t>(raw.numel()));
    metadata_ = ffi::json::Parse(text).cast<ffi::json::Object>();
    const auto inputs = Of<ffi::json::Array>(metadata_, "inputs");
    for (const auto& side : Of<ffi::json::Array>(inputs[0].cast<ffi::json::Object>(), "shape")) {
      shape_.push_back(side.cast<int64_t>());
    }
    const auto target = Of<ffi::json::Object>(metadata_, "target");
    UseThreads(static_cast<int>(std::min(Of<int64_t>(target, "threads"), UsableCpus())));
  }

  const std::vector<int64_t>& shape() const { return shape_; }

  ffi::Tensor operator()(const ffi::Tensor& input) const {
    const ffi::Any result = main_(input);
    if (auto tensor = result.as<ffi::Tensor>()) return *tensor;
    return result.cast<ffi::Array<ffi::Tensor>>()[0];
  }

  // The exporter's notes are JSON in strings; absent ones give an empty value.
  ffi::json::Value Note(const char* key) const {
    if (metadata_.count(ffi::String("onnx_metadata")) == 0) return nullptr;
    const auto notes = Of<ffi::json::Object>(metadata_, "onnx_metadata");
    if (notes.count(ffi::String(key)) == 0) return nullptr;
    return ffi::json::Parse(Of<ffi::String>(notes, key));
  }

  template <typename T>
  static T Of(const ffi::json::Object& object, const char* key) {
    return object[ffi::String(key)].cast<T>();
  }

 private:
  ffi::Module library_;
  ffi::Module vm_{library_};
  ffi::Function main_;
  ffi::json::Object metadata_;
  std::vector<int64_t> shape_;
};

std::vector<float> ReadNpy(const std::string& path, const std::vector<int64_t>& shape) {
  const std::string file = ReadFile(path);
  if (file.size() < 12 || file.compare(0, 6, "\x93NUMPY") != 0) throw std::runtime_error(path + " is not a .npy file");
  const bool short_header = file[6] == 1;
  const auto* bytes = reinterpret_cast<const unsigned char*>(file.data());
  std::size_t length = bytes[8] | bytes[9] << 8;
  if (!short_header) length |= static_cast<std::size_t>(bytes[10]) << 16 | static_cast<std::size_t>(bytes[11]) << 24;
  const std::size_t start = (short_header ? 10 : 12) + length;
  const std::string header = file.substr(0, std::min(start, file.size()));
  const auto count = std::accumulate(shape.begin(), shape.end(), std::size_t{1}, std::multiplies<>());
  if (header.find("'<f4'") == std::string::npos || header.find("'fortran_order': False") == std::string::npos ||
      file.size() != start + count * sizeof(float)) {
    throw std::runtime_error(path + " does not hold one float32 input of the module's shape");
  }
  std::vector<float> values(count);
  std::memcpy(values.data(), file.data() + start, count * sizeof(float));
  return values;
}

std::vector<float> ReadPpm(const std::string& path, const Network& network) {
  const auto height = network.shape()[2], width = network.shape()[3];
  std::istringstream file(ReadFile(path));
  std::string magic;
  int64_t w = 0, h = 0, maximum = 0;
  file >> magic >> w >> h >> maximum;
  if (!file || magic != "P6" || maximum != 255) throw std::runtime_error(path + " is not a binary 8-bit PPM (P6)");
  if (w != width || h != height) {
    throw std::runtime_error(path + " is " + std::to_string(w) + " x " + std::to_string(h) + "; scale it to " +
                             std::to_string(width) + " x " + std::to_string(height));
  }
  file.get();
  const auto pixels = static_cast<std::size_t>(w * h);
  std::string data(3 * pixels, '\0');
  if (!file.read(&data[0], static_cast<std::streamsize>(data.size()))) throw std::runtime_error(path + " is cut short");
  const auto note = network.Note("preprocessing");
  if (note == nullptr) throw std::runtime_error("the module does not say how pictures become its input");
  const auto how = note.cast<ffi::json::Object>();
  const auto mean = Network::Of<ffi::json::Array>(how, "mean"), std = Network::Of<ffi::json::Array>(how, "std");
  std::vector<float> values(3 * pixels);
  for (std::size_t c = 0; c < 3; ++c) {
    const auto m = static_cast<float>(mean[c].cast<double>()), s = static_cast<float>(std[c].cast<double>());
    for (std::size_t i = 0; i < pixels; ++i) {
      values[c * pixels + i] = (static_cast<unsigned char>(data[3 * i + c]) / 255.0f - m) / s;
    }
  }
  return values;
}

int Run(int argc, char** argv) {
  if (argc < 3 || argc > 4) {
    std::fprintf(stderr, "usage: %s MODEL.SO INPUT.npy|INPUT.ppm [TOP_K]\n", argv[0]);
    return 2;
  }
  const Network network(argv[1]);
  const std::string path = argv[2];
  const bool ppm = path.size() > 4 && path.compare(path.size() - 4, 4, ".ppm") == 0;
  const auto& shape = network.shape();
  const std::vector<float> values = ppm ? ReadPpm(path, network) : ReadNpy(path, shape);
  const auto input = ffi::Tensor::FromNDAlloc(AlignedMemory(), ffi::ShapeView(shape.data(), shape.size()), kFloat32, kCpu);
  std::memcpy(input.data_ptr(), values.data(), values.size() * sizeof(float));

  ffi::Tensor output = network(input);
  const auto before = std::chrono::steady_clock::now();
  output = network(input);
  const std::chrono::duration<double, std::milli> took = std::chrono::steady_clock::now() - before;

  const auto* logits = static_cast<const float*>(output.data_ptr());
  const auto classes = static_cast<std::size_t>(output.numel());
  const float largest = *std::max_element(logits, logits + classes);
  double sum = 0;
  for (std::size_t i = 0; i < classes; ++i) sum += std::exp(static_cast<double>(logits[i]) - largest);
  std::vector<std::size_t> order(classes);
  std::iota(order.begin(), order.end(), std::size_t{0});
  std::stable_sort(order.begin(), order.end(), [&](auto a, auto b) { return logits[a] > logits[b]; });
  const auto note = network.Note("labels");
  const auto labels = note == nullptr ? ffi::json::Array() : note.cast<ffi::json::Array>();
  const auto top = std::min<std::size_t>(classes, argc > 3 ? std::max(1, std::atoi(argv[3])) : 5);
  for (std::size_t i = 0; i < top; ++i) {
    const std::size_t c = order[i];
    const std::string label = c < labels.size() ? std::string(labels[c].cast<ffi::String>()) : std::to_string(c);
    std::printf("%s\t%.6f\n", label.c_str(), std::exp(static_cast<double>(logits[c]) - largest) / sum);
  }
  const int threads = ffi::Function::GetGlobalRequired("runtime.NumThreads")().cast<int>();
  std::fprintf(stderr, "%d thread%s, %.3f ms\n", threads, threads > 1 ? "s" : "", took.count());
  return 0;
}

}  // namespace

int main(int argc, char** argv) {
  try {
    return Run(argc, argv);
  } catch (const std::exception& error) {
    std::fprintf(stderr, "error: %s\n", error.what());
    return 1;
  }
}
