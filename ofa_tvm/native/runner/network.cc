#include "network.h"

#include <sched.h>
#include <tvm/ffi/container/array.h>

#include <algorithm>
#include <cerrno>
#include <chrono>
#include <cmath>
#include <cstdlib>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <functional>
#include <iterator>
#include <new>
#include <numeric>
#include <stdexcept>
#include <utility>

#include "whole.h"

namespace ofa_tvm {

namespace ffi = tvm::ffi;

namespace {

constexpr int kPooledAllocator = 2;     // of TVM's virtual machine
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

template <typename T>
T Of(const ffi::json::Object& object, const char* key) {
  return object[ffi::String(key)].cast<T>();
}

bool Has(const ffi::json::Object& object, const char* key) {
  return object.count(ffi::String(key)) != 0 && object[ffi::String(key)] != nullptr;
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

// What a library holds under a name. Whatever carries a checksum may be put in the module's place.
ffi::Function Held(const ffi::Module& module, const char* name, const std::string& path) {
  const auto function = module->GetFunction(name);
  if (!function.has_value()) {
    throw std::runtime_error("the module cannot be used: " + path + " holds no network that ofa-tvm compiled");
  }
  return function.value();
}

ffi::Module Loaded(const std::string& path) {
  RequireWhole(path);
  try {
    return ffi::Module::LoadFromFile(path);
  } catch (const ffi::Error&) {  // its words are of TVM's code; the loader's reasons follow from the file
    throw std::runtime_error("the module cannot be used: the system's loader does not take " + path +
                             "; is it for this processor family?");
  }
}

ffi::Tensor First(const ffi::Any& result) {
  if (auto tensor = result.as<ffi::Tensor>()) return *tensor;
  return result.cast<ffi::Array<ffi::Tensor>>()[0];
}

}  // namespace

Network::Network(const std::string& path) : library_(Loaded(path)), vm_(library_) {
  vm_ = Held(library_, "vm_load_executable", path)().cast<ffi::Module>();
  Held(vm_, "vm_initialization", path)(static_cast<int>(kDLCPU), 0, kPooledAllocator);
  main_ = Held(vm_, "main", path);
  const auto raw = Held(vm_, "metadata", path)().cast<ffi::Tensor>();
  const std::string text(static_cast<const char*>(raw.data_ptr()), static_cast<std::size_t>(raw.numel()));
  metadata_ = ffi::json::Parse(text).cast<ffi::json::Object>();
  const auto inputs = Of<ffi::json::Array>(metadata_, "inputs");
  for (const auto& side : Of<ffi::json::Array>(inputs[0].cast<ffi::json::Object>(), "shape")) {
    shape_.push_back(side.cast<int64_t>());
  }
  if (!shape_.empty()) std::swap(batch_, shape_.front());
  const auto note = Note("labels");
  if (note != nullptr) {
    for (const auto& label : note.cast<ffi::json::Array>()) labels_.emplace_back(label.cast<ffi::String>());
  }
  const auto target = Of<ffi::json::Object>(metadata_, "target");
  threads_ = static_cast<int>(std::min(Of<int64_t>(target, "threads"), UsableCpus()));
  UseThreads(threads_);
}

// The exporter's notes are JSON in strings; absent ones give an empty value.
ffi::json::Value Network::Note(const char* key) const {
  if (!Has(metadata_, "onnx_metadata")) return nullptr;
  const auto notes = Of<ffi::json::Object>(metadata_, "onnx_metadata");
  if (!Has(notes, key)) return nullptr;
  return ffi::json::Parse(Of<ffi::String>(notes, key));
}

Preprocessing Network::preprocessing() const {
  const auto note = Note("preprocessing");
  if (note == nullptr) throw std::runtime_error("the module does not say how pictures become its input");
  const auto how = note.cast<ffi::json::Object>();
  Preprocessing made;
  const auto mean = Of<ffi::json::Array>(how, "mean"), std = Of<ffi::json::Array>(how, "std");
  for (std::size_t c = 0; c < 3; ++c) {
    made.mean[c] = static_cast<float>(mean[c].cast<double>());
    made.std[c] = static_cast<float>(std[c].cast<double>());
  }
  made.resolution = static_cast<int>(Of<int64_t>(how, "resolution"));
  if (Has(how, "interpolation")) made.interpolation = std::string(Of<ffi::String>(how, "interpolation"));
  if (Has(how, "crop")) made.crop = Of<double>(how, "crop");
  if (shape_ != std::vector<int64_t>{1, 3, made.resolution, made.resolution}) {
    throw std::runtime_error("the module's pictures of " + std::to_string(made.resolution) +
                             " pixels do not fit its input; compile it again");
  }
  return made;
}

ffi::Tensor Network::Input(const std::vector<float>& values) const {
  std::vector<int64_t> whole = shape_;
  if (!whole.empty()) whole.front() = batch_;
  const auto input =
      ffi::Tensor::FromNDAlloc(AlignedMemory(), ffi::ShapeView(whole.data(), whole.size()), kFloat32, kCpu);
  const auto count = static_cast<std::size_t>(input.numel());
  if (count != values.size() * static_cast<std::size_t>(batch_)) throw std::runtime_error("is not one example");
  auto* to = static_cast<float*>(input.data_ptr());
  std::fill(std::copy(values.begin(), values.end(), to), to + count, 0.0f);
  return input;
}

std::vector<float> Network::operator()(const std::vector<float>& input) const {
  const ffi::Tensor output = First(main_(Input(input)));
  const auto* values = static_cast<const float*>(output.data_ptr());
  return {values, values + output.numel() / batch_};
}

std::vector<double> Network::Time(const std::vector<float>& input, int calls) const {
  const ffi::Tensor tensor = Input(input);
  std::vector<double> taken;
  main_(tensor);
  for (int i = 0; i < calls; ++i) {
    const auto before = std::chrono::steady_clock::now();
    main_(tensor);
    const std::chrono::duration<double, std::milli> took = std::chrono::steady_clock::now() - before;
    taken.push_back(took.count());
  }
  return taken;
}

std::vector<Class> Likeliest(const std::vector<float>& logits, const std::vector<std::string>& labels, size_t top) {
  const double largest = *std::max_element(logits.begin(), logits.end());
  double sum = 0;
  for (const float logit : logits) sum += std::exp(static_cast<double>(logit) - largest);
  std::vector<std::size_t> order(logits.size());
  std::iota(order.begin(), order.end(), std::size_t{0});
  std::stable_sort(order.begin(), order.end(), [&](auto a, auto b) { return logits[a] > logits[b]; });
  order.resize(std::min(top, order.size()));
  std::vector<Class> classes;
  for (const std::size_t i : order) {
    const std::string label = i < labels.size() ? labels[i] : std::to_string(i);
    classes.push_back({i, label, std::exp(static_cast<double>(logits[i]) - largest) / sum});
  }
  return classes;
}

std::string ReadFile(const std::string& path) {
  std::error_code ignored;
  if (std::filesystem::is_directory(path, ignored)) throw std::runtime_error("is a folder; name the files in it");
  std::ifstream file(path, std::ios::binary);
  if (!file) throw std::runtime_error("cannot be read: " + std::string(std::strerror(errno)));
  std::string content{std::istreambuf_iterator<char>(file), {}};
  if (file.bad()) throw std::runtime_error("cannot be read");
  return content;
}

std::vector<float> ReadNpy(const std::string& file, const std::vector<int64_t>& shape) {
  if (file.size() < 12 || file.compare(0, 6, "\x93NUMPY") != 0) throw std::runtime_error("is not a .npy file");
  const bool short_header = file[6] == 1;
  const auto* bytes = reinterpret_cast<const unsigned char*>(file.data());
  std::size_t length = bytes[8] | bytes[9] << 8;
  if (!short_header) length |= static_cast<std::size_t>(bytes[10]) << 16 | static_cast<std::size_t>(bytes[11]) << 24;
  const std::size_t start = (short_header ? 10 : 12) + length;
  const std::string header = file.substr(0, std::min(start, file.size()));
  const auto count = std::accumulate(shape.begin(), shape.end(), std::size_t{1}, std::multiplies<>());
  if (header.find("'<f4'") == std::string::npos || header.find("'fortran_order': False") == std::string::npos ||
      file.size() != start + count * sizeof(float)) {
    throw std::runtime_error("does not hold one float32 input of the module's shape");
  }
  std::vector<float> values(count);
  std::memcpy(values.data(), file.data() + start, count * sizeof(float));
  return values;
}

}  // namespace ofa_tvm
