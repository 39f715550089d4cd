// Device modules: `ffi.Module.create.opencl` and `ffi.Module.load_from_bytes.opencl`.
#include <tvm/ffi/cast.h>
#include <tvm/ffi/extra/module.h>
#include <tvm/ffi/function.h>
#include <tvm/ffi/reflection/registry.h>

#include <algorithm>
#include <array>
#include <cctype>
#include <cstdint>
#include <sstream>

#include "../common/device_code.h"
#include "opencl.h"

namespace ofa_tvm::opencl {
namespace {

constexpr const char* kKind = "opencl";

// How a call's trailing integers become OpenCL's global and local sizes.
struct LaunchSizes {
  std::array<size_t, 3> blocks{1, 1, 1}, threads{1, 1, 1};

  // `blockIdx.x` is (true, 0), `threadIdx.z` (false, 2).
  static std::pair<bool, size_t> Axis(const std::string& tag) {
    const size_t dot = tag.find('.');
    const std::string kind = tag.substr(0, dot);
    const bool valid = dot != std::string::npos && dot + 2 == tag.size() && tag[dot + 1] >= 'x' &&
                       tag[dot + 1] <= 'z' && (kind == "blockIdx" || kind == "threadIdx");
    if (!valid) TVM_FFI_THROW(ValueError) << "OpenCL: kernels cannot be launched with " << tag;
    return {kind == "blockIdx", static_cast<size_t>(tag[dot + 1] - 'x')};
  }
};

// A kernel of one module on one device. Its arguments are state of the OpenCL object, hence the lock.
struct BuiltKernel {
  Program program;
  Kernel kernel;
  std::mutex launching;
};

class OpenCLModule final : public ffi::ModuleObj {
 public:
  explicit OpenCLModule(DeviceCode code) : code_(std::move(code)), built_(Devices().size()) {
    if (code_.format != "cl") {
      TVM_FFI_THROW(ValueError) << "OpenCL: device code has format " << code_.format << ", not cl";
    }
    for (const auto& [symbol, info] : code_.functions) {
      for (const std::string& tag : info.launch_tags) LaunchSizes::Axis(tag);
    }
  }

  const char* kind() const final { return kKind; }
  int GetPropertyMask() const final {
    return ffi::Module::kBinarySerializable | ffi::Module::kRunnable;
  }
  ffi::Bytes SaveToBytes() const final { return code_.ToBytes(); }
  ffi::String InspectSource(const ffi::String&) const final { return code_.code; }
  bool ImplementsFunction(const ffi::String& name) final { return code_.functions.count(name) != 0; }

  ffi::Optional<ffi::Function> GetFunction(const ffi::String& name) final {
    const auto found = code_.functions.find(name);
    if (found == code_.functions.end()) return std::nullopt;
    // The function keeps its module alive.
    return ffi::Function::FromPacked(
        [self = ffi::GetObjectPtr<OpenCLModule>(this), info = &found->second](ffi::PackedArgs args, ffi::Any*) {
          self->Launch(*info, args);
        });
  }

 private:
  // What was built for one device, each kernel when it is first launched there.
  struct BuiltKernels {
    std::mutex building;
    std::map<std::string, std::unique_ptr<BuiltKernel>> kernels;
  };

  void Launch(const FunctionInfo& info, const ffi::PackedArgs& args) {
    const size_t arg_count = info.arg_types.size();
    if (static_cast<size_t>(args.size()) != arg_count + info.launch_tags.size()) {
      TVM_FFI_THROW(TypeError) << "OpenCL: kernel " << info.name << " takes " << arg_count << " arguments and "
                               << info.launch_tags.size() << " launch sizes, but got " << args.size();
    }
    LaunchSizes sizes;
    for (size_t i = 0; i < info.launch_tags.size(); ++i) {
      const auto [is_block, axis] = LaunchSizes::Axis(info.launch_tags[i]);
      (is_block ? sizes.blocks : sizes.threads)[axis] = args[arg_count + i].cast<int64_t>();
    }
    std::array<size_t, 3> global;
    for (size_t axis = 0; axis < 3; ++axis) global[axis] = sizes.blocks[axis] * sizes.threads[axis];
    OpenCLDevice& device = DeviceAt(CurrentDevice());
    BuiltKernel& built = Built(info, device, CurrentDevice());
    const std::lock_guard<std::mutex> lock(built.launching);
    for (size_t i = 0; i < arg_count; ++i) SetArgument(info, built.kernel.get(), i, args[i]);
    const cl_int code = clEnqueueNDRangeKernel(device.queue(), built.kernel.get(), 3, nullptr, global.data(),
                                               sizes.threads.data(), 0, nullptr, nullptr);
    if (code != CL_SUCCESS) {
      const auto& t = sizes.threads;
      Check(code, "launch of " + info.name + " with a work-group of " + std::to_string(t[0]) + " x " +
                      std::to_string(t[1]) + " x " + std::to_string(t[2]) + " on " + device.name() +
                      " (at most " + std::to_string(device.Number<size_t>(CL_DEVICE_MAX_WORK_GROUP_SIZE)) + ")");
    }
  }

  static void SetArgument(const FunctionInfo& info, cl_kernel kernel, cl_uint index, const ffi::AnyView& value) {
    const DLDataType type = info.arg_types[index];
    const auto set = [&](const auto& plain) {
      Check(clSetKernelArg(kernel, index, sizeof plain, &plain),
            "argument " + std::to_string(index) + " of " + info.name);
    };
    const auto is = [&](int code, int bits) { return type.code == code && type.bits == bits && type.lanes == 1; };
    if (type.code == kDLOpaqueHandle) {
      set(static_cast<cl_mem>(value.cast<void*>()));
    } else if (is(kDLInt, 32) || is(kDLUInt, 32)) {
      set(static_cast<int32_t>(value.cast<int64_t>()));
    } else if (is(kDLInt, 64) || is(kDLUInt, 64)) {
      set(value.cast<int64_t>());
    } else if (is(kDLInt, 16) || is(kDLUInt, 16)) {
      set(static_cast<int16_t>(value.cast<int64_t>()));
    } else if (is(kDLInt, 8) || is(kDLUInt, 8) || type.code == kDLBool) {
      set(static_cast<int8_t>(value.cast<int64_t>()));
    } else if (is(kDLFloat, 32)) {
      set(static_cast<float>(value.cast<double>()));
    } else if (is(kDLFloat, 64)) {
      set(value.cast<double>());
    } else {
      TVM_FFI_THROW(TypeError) << "OpenCL: argument " << index << " of " << info.name
                               << " has a scalar type that cannot be passed: " << ffi::DLDataTypeToString(type);
    }
  }

  BuiltKernel& Built(const FunctionInfo& info, OpenCLDevice& device, size_t index) {
    BuiltKernels& built = built_[index];
    const std::lock_guard<std::mutex> lock(built.building);
    std::unique_ptr<BuiltKernel>& kernel = built.kernels[info.name];
    if (kernel == nullptr) {
      auto made = std::make_unique<BuiltKernel>();
      made->program = Build(device, SourceOf(info.name));
      cl_int code = CL_SUCCESS;
      made->kernel = Kernel(clCreateKernel(made->program.get(), info.name.c_str(), &code));
      Check(code, "clCreateKernel " + info.name);
      kernel = std::move(made);
    }
    return *kernel;
  }

  // Source of one kernel, which TVM marks by a comment; all of it where there is none. A program for each
  // kernel lets drivers that cache what they build (PoCL) know a kernel again that networks share, if its text
  // says nothing of the network: no prototypes of other kernels, no arrays named after its variables.
  std::string SourceOf(const std::string& name) const {
    const std::string& all = code_.code;
    const std::string marker = "// Function: ";
    const size_t start = all.find(marker + name + "\n");
    if (start == std::string::npos) return all;
    const size_t end = all.find(marker, start + marker.size());
    std::istringstream lines(all.substr(0, all.find(marker)) +
                             all.substr(start, end == std::string::npos ? end : end - start));
    std::string plain;
    for (std::string line; std::getline(lines, line);) {
      const bool prototype = line.rfind("__kernel ", 0) == 0 && line.size() > 2 && line.substr(line.size() - 2) == ");";
      if (!prototype) plain += line + "\n";
    }
    return WithNumberedArrays(plain);
  }

  // The arrays' names, which TVM ends in `_ptr`, replaced by numbers in order of appearance.
  static std::string WithNumberedArrays(const std::string& source) {
    const auto in_word = [](unsigned char c) { return std::isalnum(c) != 0 || c == '_'; };
    const std::string suffix = "_ptr";
    std::map<std::string, std::string> names;
    std::string result;
    for (size_t i = 0; i < source.size();) {
      size_t end = i;
      while (end < source.size() && in_word(source[end])) ++end;
      std::string word = source.substr(i, std::max<size_t>(end - i, 1));
      if (word.size() > suffix.size() && word.compare(word.size() - suffix.size(), suffix.size(), suffix) == 0) {
        word = names.try_emplace(word, "array" + std::to_string(names.size()) + suffix).first->second;
      }
      result += word;
      i = std::max(end, i + 1);
    }
    return result;
  }

  static Program Build(OpenCLDevice& device, const std::string& source) {
    const char* text = source.data();
    const size_t length = source.size();
    cl_int code = CL_SUCCESS;
    Program program(clCreateProgramWithSource(device.context(), 1, &text, &length, &code));
    Check(code, "clCreateProgramWithSource");
    const cl_device_id id = device.id();
    code = clBuildProgram(program.get(), 1, &id, "", nullptr, nullptr);
    if (code != CL_SUCCESS) {
      size_t size = 0;
      clGetProgramBuildInfo(program.get(), id, CL_PROGRAM_BUILD_LOG, 0, nullptr, &size);
      std::string log(size, '\0');
      clGetProgramBuildInfo(program.get(), id, CL_PROGRAM_BUILD_LOG, size, log.data(), nullptr);
      TVM_FFI_THROW(RuntimeError) << "OpenCL: the driver of " << device.name() << " cannot build the kernels: "
                                  << ErrorName(code) << "\n"
                                  << log.c_str();
    }
    return program;
  }

  DeviceCode code_;
  std::vector<BuiltKernels> built_;  // by device
};

ffi::Module MakeModule(DeviceCode code) { return ffi::Module(ffi::make_object<OpenCLModule>(std::move(code))); }

}  // namespace

TVM_FFI_STATIC_INIT_BLOCK() {
  ffi::reflection::GlobalDef()
      .def("ffi.Module.create.opencl",
           [](ffi::Bytes code, ffi::String format, ffi::Map<ffi::String, ffi::ObjectRef> functions,
              ffi::Map<ffi::String, ffi::String>) {
             return MakeModule(DeviceCode::FromCompiler(code, format, functions));
           })
      .def("ffi.Module.load_from_bytes.opencl",
           [](ffi::Bytes bytes) { return MakeModule(DeviceCode::FromBytes(bytes)); });
}

}  // namespace ofa_tvm::opencl
