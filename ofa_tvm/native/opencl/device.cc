// Devices, memory, copies and timers: `device_api.opencl` and `runtime.timer.opencl`.
#include <tvm/ffi/function.h>
#include <tvm/ffi/reflection/registry.h>

#include <algorithm>
#include <array>
#include <cstdlib>

#include "opencl.h"

// timer.h includes tensor.h, which includes a header that the wheel of TVM lacks; timers do not need it.
#define TVM_RUNTIME_TENSOR_H_
#include <tvm/runtime/timer.h>

namespace ofa_tvm::opencl {

using tvm::Device;
using tvm::runtime::DeviceAPI;
using tvm::runtime::DeviceAttrKind;

namespace {

thread_local int current_device = 0;

std::vector<std::unique_ptr<OpenCLDevice>> FindDevices() {
  std::vector<std::unique_ptr<OpenCLDevice>> found;
  cl_uint count = 0;
  // PoCL reads this when it compiles. Its default lets LLVM put work-items into vectors, which with AVX2 computed
  // wrong sums of bytes, others at every call (3.1, LLVM 14); the user's own choice stands.
  setenv("POCL_WORK_GROUP_METHOD", "loops", 0);
  // Without a platform, loaders answer CL_PLATFORM_NOT_FOUND_KHR: no device, and no error either.
  if (clGetPlatformIDs(0, nullptr, &count) != CL_SUCCESS || count == 0) return found;
  std::vector<cl_platform_id> platforms(count);
  Check(clGetPlatformIDs(count, platforms.data(), nullptr), "clGetPlatformIDs");
  for (cl_device_type type : {CL_DEVICE_TYPE_GPU, CL_DEVICE_TYPE_ACCELERATOR, CL_DEVICE_TYPE_CPU}) {
    for (cl_platform_id platform : platforms) {
      if (clGetDeviceIDs(platform, type, 0, nullptr, &count) != CL_SUCCESS) continue;  // none of this type
      std::vector<cl_device_id> ids(count);
      Check(clGetDeviceIDs(platform, type, count, ids.data(), nullptr), "clGetDeviceIDs");
      for (cl_device_id id : ids) found.push_back(std::make_unique<OpenCLDevice>(platform, id));
    }
  }
  return found;
}

cl_mem Buffer(const void* data) { return static_cast<cl_mem>(const_cast<void*>(data)); }

class OpenCLDeviceAPI final : public DeviceAPI {
 public:
  void SetDevice(Device device) final {
    DeviceAt(device.device_id);
    current_device = device.device_id;
  }

  void GetAttr(Device device, DeviceAttrKind kind, ffi::Any* rv) final {
    const auto index = static_cast<size_t>(device.device_id);
    if (kind == DeviceAttrKind::kExist) {
      *rv = static_cast<int64_t>(device.device_id >= 0 && index < Devices().size());
      return;
    }
    const OpenCLDevice& cl = DeviceAt(device.device_id);
    switch (kind) {
      case DeviceAttrKind::kMaxThreadsPerBlock:
        *rv = static_cast<int64_t>(cl.Number<size_t>(CL_DEVICE_MAX_WORK_GROUP_SIZE));
        break;
      case DeviceAttrKind::kWarpSize:
        *rv = 1;  // OpenCL 1.2 promises nothing about threads that run in step
        break;
      case DeviceAttrKind::kMaxSharedMemoryPerBlock:
        *rv = static_cast<int64_t>(cl.Number<cl_ulong>(CL_DEVICE_LOCAL_MEM_SIZE));
        break;
      case DeviceAttrKind::kComputeVersion:
        *rv = ffi::String(cl.Text(CL_DEVICE_VERSION));
        break;
      case DeviceAttrKind::kDeviceName:
        *rv = ffi::String(cl.name());
        break;
      case DeviceAttrKind::kMaxClockRate:  // kHz
        *rv = static_cast<int64_t>(cl.Number<cl_uint>(CL_DEVICE_MAX_CLOCK_FREQUENCY)) * 1000;
        break;
      case DeviceAttrKind::kMultiProcessorCount:
        *rv = static_cast<int64_t>(cl.Number<cl_uint>(CL_DEVICE_MAX_COMPUTE_UNITS));
        break;
      case DeviceAttrKind::kMaxThreadDimensions: {
        const auto size = cl.Number<std::array<size_t, 3>>(CL_DEVICE_MAX_WORK_ITEM_SIZES);
        *rv = ffi::String("[" + std::to_string(size[0]) + ", " + std::to_string(size[1]) + ", " +
                          std::to_string(size[2]) + "]");
        break;
      }
      case DeviceAttrKind::kApiVersion:
        *rv = CL_TARGET_OPENCL_VERSION;
        break;
      case DeviceAttrKind::kDriverVersion:
        *rv = ffi::String(cl.Text(CL_DRIVER_VERSION));
        break;
      case DeviceAttrKind::kL2CacheSizeBytes:
        *rv = static_cast<int64_t>(cl.Number<cl_ulong>(CL_DEVICE_GLOBAL_MEM_CACHE_SIZE));
        break;
      case DeviceAttrKind::kTotalGlobalMemory:
        *rv = static_cast<int64_t>(cl.Number<cl_ulong>(CL_DEVICE_GLOBAL_MEM_SIZE));
        break;
      default:
        break;  // unknown to OpenCL 1.2: None
    }
  }

  // For targets made "from a device"; names are those of TVM's target attributes.
  void GetTargetProperty(Device device, const std::string& property, ffi::Any* rv) final {
    const OpenCLDevice& cl = DeviceAt(device.device_id);
    if (property == "max_num_threads" || property == "max_threads_per_block") {
      *rv = static_cast<int64_t>(cl.Number<size_t>(CL_DEVICE_MAX_WORK_GROUP_SIZE));
    } else if (property == "max_shared_memory_per_block") {
      *rv = static_cast<int64_t>(cl.Number<cl_ulong>(CL_DEVICE_LOCAL_MEM_SIZE));
    } else if (property == "device_name") {
      *rv = ffi::String(cl.name());
    } else if (property == "supports_float16") {
      *rv = cl.Text(CL_DEVICE_EXTENSIONS).find("cl_khr_fp16") != std::string::npos;
    }
  }

  void* AllocDataSpace(Device device, size_t bytes, size_t, DLDataType) final {
    OpenCLDevice& cl = DeviceAt(device.device_id);
    cl_int code = CL_SUCCESS;
    // Zero bytes are no valid buffer, but a valid tensor.
    cl_mem buffer = clCreateBuffer(cl.context(), CL_MEM_READ_WRITE, std::max<size_t>(bytes, 1), nullptr, &code);
    if (code != CL_SUCCESS) {
      constexpr cl_ulong mib = 1 << 20;
      TVM_FFI_THROW(RuntimeError)
          << "OpenCL: device " << device.device_id << " (" << cl.name() << ") has no room for a buffer of "
          << bytes / mib << " MiB (" << bytes << " bytes); it allows "
          << cl.Number<cl_ulong>(CL_DEVICE_MAX_MEM_ALLOC_SIZE) / mib << " MiB a buffer and has "
          << cl.Number<cl_ulong>(CL_DEVICE_GLOBAL_MEM_SIZE) / mib << " MiB in all: " << ErrorName(code);
    }
    return buffer;
  }

  void FreeDataSpace(Device, void* data) final {
    // The buffer goes when the commands that use it are done. Called from destructors, so it does not throw.
    clReleaseMemObject(Buffer(data));
  }

  void StreamSync(Device device, TVMStreamHandle) final {
    Check(clFinish(DeviceAt(device.device_id).queue()), "clFinish, which waits for earlier kernels,");
  }

 protected:
  // Copies that touch host memory are done when this returns: the caller may free that memory at once.
  void CopyDataFromTo(const void* from, size_t from_offset, void* to, size_t to_offset, size_t bytes,
                      Device from_device, Device to_device, DLDataType, TVMStreamHandle) final {
    if (bytes == 0) return;
    const bool from_host = from_device.device_type != kDLOpenCL, to_host = to_device.device_type != kDLOpenCL;
    if (from_host) {
      Write(to_device, Buffer(to), to_offset, bytes, static_cast<const char*>(from) + from_offset);
    } else if (to_host) {
      Read(from_device, Buffer(from), from_offset, bytes, static_cast<char*>(to) + to_offset);
    } else if (from_device.device_id == to_device.device_id) {
      Check(clEnqueueCopyBuffer(DeviceAt(to_device.device_id).queue(), Buffer(from), Buffer(to), from_offset,
                                to_offset, bytes, 0, nullptr, nullptr),
            "clEnqueueCopyBuffer");
    } else {  // devices have contexts of their own, which share no buffers
      std::vector<char> between(bytes);
      Read(from_device, Buffer(from), from_offset, bytes, between.data());
      Write(to_device, Buffer(to), to_offset, bytes, between.data());
    }
  }

 private:
  static void Write(Device device, cl_mem buffer, size_t offset, size_t bytes, const char* data) {
    Check(clEnqueueWriteBuffer(DeviceAt(device.device_id).queue(), buffer, CL_TRUE, offset, bytes, data, 0,
                               nullptr, nullptr),
          "clEnqueueWriteBuffer");
  }
  static void Read(Device device, cl_mem buffer, size_t offset, size_t bytes, char* data) {
    Check(clEnqueueReadBuffer(DeviceAt(device.device_id).queue(), buffer, CL_TRUE, offset, bytes, data, 0,
                              nullptr, nullptr),
          "clEnqueueReadBuffer");
  }
};

// Time on the device between two markers in its queue, by the device's own clock.
class OpenCLTimer final : public tvm::runtime::TimerNode {
 public:
  explicit OpenCLTimer(Device device) : queue_(DeviceAt(device.device_id).queue()) {}

  void Start() final { start_ = Marker(); }
  void Stop() final { stop_ = Marker(); }

  int64_t SyncAndGetElapsedNanos() final {
    Check(clFinish(queue_), "clFinish");
    return static_cast<int64_t>(EndOf(stop_) - EndOf(start_));
  }

  TVM_FFI_DECLARE_OBJECT_INFO_FINAL("ofa_tvm.OpenCLTimer", OpenCLTimer, tvm::runtime::TimerNode);

 private:
  Event Marker() const {
    cl_event event = nullptr;
    Check(clEnqueueMarkerWithWaitList(queue_, 0, nullptr, &event), "clEnqueueMarkerWithWaitList");
    return Event(event);
  }
  static cl_ulong EndOf(const Event& event) {
    cl_ulong nanoseconds = 0;
    Check(clGetEventProfilingInfo(event.get(), CL_PROFILING_COMMAND_END, sizeof nanoseconds, &nanoseconds,
                                  nullptr),
          "clGetEventProfilingInfo");
    return nanoseconds;
  }

  cl_command_queue queue_;
  Event start_, stop_;
};

}  // namespace

void OpenCLDevice::Open() {
  std::call_once(opened_, [this] {
    cl_int code = CL_SUCCESS;
    const cl_context_properties properties[] = {CL_CONTEXT_PLATFORM,
                                                reinterpret_cast<cl_context_properties>(platform_), 0};
    context_ = Context(clCreateContext(properties, 1, &id_, nullptr, nullptr, &code));
    Check(code, "clCreateContext for " + name());
    queue_ = Queue(clCreateCommandQueue(context_.get(), id_, CL_QUEUE_PROFILING_ENABLE, &code));
    Check(code, "clCreateCommandQueue for " + name());
  });
}

std::string OpenCLDevice::Text(cl_device_info what) const {
  size_t size = 0;
  Check(clGetDeviceInfo(id_, what, 0, nullptr, &size), "clGetDeviceInfo");
  std::string text(size, '\0');
  Check(clGetDeviceInfo(id_, what, size, text.data(), nullptr), "clGetDeviceInfo");
  text.resize(text.find('\0') == std::string::npos ? size : text.find('\0'));
  return text;
}

const std::vector<std::unique_ptr<OpenCLDevice>>& Devices() {
  static const auto* devices = new std::vector<std::unique_ptr<OpenCLDevice>>(FindDevices());
  return *devices;
}

OpenCLDevice& DeviceAt(int index) {
  const auto& devices = Devices();
  if (devices.empty()) {
    TVM_FFI_THROW(RuntimeError) << "OpenCL: no platform has a device; install the vendor's driver, or PoCL for "
                                   "the CPU (apt-get install pocl-opencl-icd)";
  }
  if (index < 0 || static_cast<size_t>(index) >= devices.size()) {
    std::string names;
    for (const auto& device : devices) names += (names.empty() ? "" : ", ") + device->name();
    TVM_FFI_THROW(RuntimeError) << "OpenCL: there is no device " << index << "; there are " << devices.size()
                                << ", counted from 0: " << names;
  }
  return *devices[index];
}

int CurrentDevice() { return current_device; }

const char* ErrorName(cl_int code) {
  switch (code) {
#define OFA_TVM_NAME(name) \
  case name:               \
    return #name
    OFA_TVM_NAME(CL_DEVICE_NOT_FOUND);
    OFA_TVM_NAME(CL_DEVICE_NOT_AVAILABLE);
    OFA_TVM_NAME(CL_COMPILER_NOT_AVAILABLE);
    OFA_TVM_NAME(CL_MEM_OBJECT_ALLOCATION_FAILURE);
    OFA_TVM_NAME(CL_OUT_OF_RESOURCES);
    OFA_TVM_NAME(CL_OUT_OF_HOST_MEMORY);
    OFA_TVM_NAME(CL_PROFILING_INFO_NOT_AVAILABLE);
    OFA_TVM_NAME(CL_MEM_COPY_OVERLAP);
    OFA_TVM_NAME(CL_BUILD_PROGRAM_FAILURE);
    OFA_TVM_NAME(CL_EXEC_STATUS_ERROR_FOR_EVENTS_IN_WAIT_LIST);
    OFA_TVM_NAME(CL_INVALID_VALUE);
    OFA_TVM_NAME(CL_INVALID_DEVICE);
    OFA_TVM_NAME(CL_INVALID_CONTEXT);
    OFA_TVM_NAME(CL_INVALID_COMMAND_QUEUE);
    OFA_TVM_NAME(CL_INVALID_MEM_OBJECT);
    OFA_TVM_NAME(CL_INVALID_BINARY);
    OFA_TVM_NAME(CL_INVALID_BUILD_OPTIONS);
    OFA_TVM_NAME(CL_INVALID_PROGRAM_EXECUTABLE);
    OFA_TVM_NAME(CL_INVALID_KERNEL_NAME);
    OFA_TVM_NAME(CL_INVALID_KERNEL);
    OFA_TVM_NAME(CL_INVALID_ARG_INDEX);
    OFA_TVM_NAME(CL_INVALID_ARG_VALUE);
    OFA_TVM_NAME(CL_INVALID_ARG_SIZE);
    OFA_TVM_NAME(CL_INVALID_KERNEL_ARGS);
    OFA_TVM_NAME(CL_INVALID_WORK_DIMENSION);
    OFA_TVM_NAME(CL_INVALID_WORK_GROUP_SIZE);
    OFA_TVM_NAME(CL_INVALID_WORK_ITEM_SIZE);
    OFA_TVM_NAME(CL_INVALID_EVENT);
    OFA_TVM_NAME(CL_INVALID_OPERATION);
    OFA_TVM_NAME(CL_INVALID_BUFFER_SIZE);
    OFA_TVM_NAME(CL_INVALID_GLOBAL_WORK_SIZE);
#undef OFA_TVM_NAME
    default:
      return "an error that OpenCL 1.2 does not name";
  }
}

TVM_FFI_STATIC_INIT_BLOCK() {
  ffi::reflection::GlobalDef()
      .def_packed("device_api.opencl",
                  [](ffi::PackedArgs, ffi::Any* rv) {
                    static OpenCLDeviceAPI* api = new OpenCLDeviceAPI();
                    *rv = static_cast<void*>(api);
                  })
      .def("runtime.timer.opencl",
           [](Device device) { return tvm::runtime::Timer(ffi::make_object<OpenCLTimer>(device)); });
}

}  // namespace ofa_tvm::opencl
