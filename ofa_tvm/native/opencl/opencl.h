// OpenCL devices for TVM's runtime: what device.cc and module.cc share.
#ifndef OFA_TVM_NATIVE_OPENCL_OPENCL_H_
#define OFA_TVM_NATIVE_OPENCL_OPENCL_H_

#define CL_TARGET_OPENCL_VERSION 120
#include <CL/cl.h>
#include <tvm/ffi/error.h>
#include <tvm/runtime/device_api.h>

#include <memory>
#include <mutex>
#include <string>
#include <utility>
#include <vector>

namespace ofa_tvm::opencl {

namespace ffi = tvm::ffi;

// Name of an error code, as the OpenCL specification spells it.
const char* ErrorName(cl_int code);

// Throws if an OpenCL call failed; `what` names the call and, where it helps, its circumstances.
inline void Check(cl_int code, const std::string& what) {
  if (code != CL_SUCCESS) {
    TVM_FFI_THROW(RuntimeError) << "OpenCL: " << what << " failed: " << ErrorName(code) << " (" << code << ")";
  }
}

// Owns one reference to an OpenCL object.
template <typename T, cl_int (*Release)(T)>
class Handle {
 public:
  Handle() = default;
  explicit Handle(T object) : object_(object) {}
  Handle(Handle&& other) noexcept : object_(std::exchange(other.object_, nullptr)) {}
  Handle& operator=(Handle&& other) noexcept {
    std::swap(object_, other.object_);
    return *this;
  }
  Handle(const Handle&) = delete;
  Handle& operator=(const Handle&) = delete;
  ~Handle() {
    if (object_ != nullptr) Release(object_);
  }
  T get() const { return object_; }

 private:
  T object_ = nullptr;
};

using Context = Handle<cl_context, clReleaseContext>;
using Queue = Handle<cl_command_queue, clReleaseCommandQueue>;
using Program = Handle<cl_program, clReleaseProgram>;
using Kernel = Handle<cl_kernel, clReleaseKernel>;
using Event = Handle<cl_event, clReleaseEvent>;

// One device with its context and its in-order queue, which are made when first asked for.
class OpenCLDevice {
 public:
  OpenCLDevice(cl_platform_id platform, cl_device_id id) : platform_(platform), id_(id) {}

  cl_device_id id() const { return id_; }
  cl_context context() {
    Open();
    return context_.get();
  }
  cl_command_queue queue() {
    Open();
    return queue_.get();
  }
  std::string Text(cl_device_info what) const;
  std::string name() const { return Text(CL_DEVICE_NAME); }

  template <typename T>
  T Number(cl_device_info what) const {
    T value{};
    Check(clGetDeviceInfo(id_, what, sizeof(T), &value, nullptr), "clGetDeviceInfo");
    return value;
  }

 private:
  void Open();

  cl_platform_id platform_;
  cl_device_id id_;
  std::once_flag opened_;
  Context context_;
  Queue queue_;
};

// Every device of every platform: GPUs first, then accelerators, then CPUs. Found once, never freed, since
// other static objects may still use a device while the process ends.
const std::vector<std::unique_ptr<OpenCLDevice>>& Devices();

// Device `index`; throws if there is none, saying what there is.
OpenCLDevice& DeviceAt(int index);

// Index of the device that the calling thread set last.
int CurrentDevice();

}  // namespace ofa_tvm::opencl

#endif  // OFA_TVM_NATIVE_OPENCL_OPENCL_H_
