// A compiled module, ready to be called, with nothing but the TVM runtime.
#ifndef OFA_TVM_RUNNER_NETWORK_H_
#define OFA_TVM_RUNNER_NETWORK_H_

#include <tvm/ffi/container/tensor.h>
#include <tvm/ffi/extra/json.h>
#include <tvm/ffi/extra/module.h>
#include <tvm/ffi/function.h>

#include <cstddef>
#include <cstdint>
#include <string>
#include <vector>

#include "preprocess.h"

namespace ofa_tvm {

class Network {
 public:
  // Loads a module and gives the thread that does so a pool of as many threads as the module was measured with,
  // or fewer where fewer CPUs may be used. Throws std::exception with what is wrong.
  explicit Network(const std::string& path);

  const std::vector<int64_t>& shape() const { return shape_; }  // of one example
  const std::vector<std::string>& labels() const { return labels_; }
  int threads() const { return threads_; }

  // How pictures become the input. Throws std::runtime_error where the module says nothing of that, or what does
  // not fit its input.
  Preprocessing preprocessing() const;

  // The first output for one float32 example of `shape()`; a module for several at once gets zeros beside it.
  std::vector<float> operator()(const std::vector<float>& input) const;

  // Milliseconds of so many calls, each by itself, after one that is not counted.
  std::vector<double> Time(const std::vector<float>& input, int calls) const;

 private:
  tvm::ffi::Tensor Input(const std::vector<float>& values) const;
  tvm::ffi::json::Value Note(const char* key) const;

  tvm::ffi::Module library_, vm_;
  tvm::ffi::Function main_;
  tvm::ffi::json::Object metadata_;
  std::vector<int64_t> shape_;
  int64_t batch_ = 1;
  int threads_ = 1;
  std::vector<std::string> labels_;
};

struct Class {
  size_t index = 0;
  std::string label;
  double probability = 0;
};

// The likeliest classes, likeliest first.
std::vector<Class> Likeliest(const std::vector<float>& logits, const std::vector<std::string>& labels, size_t top);

std::string ReadFile(const std::string& path);

// Throws std::runtime_error with what is wrong, to follow the file's name.
std::vector<float> ReadNpy(const std::string& file, const std::vector<int64_t>& shape);

}  // namespace ofa_tvm

#endif
