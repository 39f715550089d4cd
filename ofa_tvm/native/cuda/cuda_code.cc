// CUDA binaries in TVM modules, on machines without a GPU.
//
// TVM's own CUDA runtime needs the driver, even where code is only to be compiled and saved. This module takes
// its place then: it holds what the compiler made, in the same byte format, and can do nothing else. There is
// no `device_api.cuda` here, so that a process with this library is never taken for one that has a GPU.
#include <tvm/ffi/extra/module.h>
#include <tvm/ffi/function.h>
#include <tvm/ffi/reflection/registry.h>

#include "../common/device_code.h"

namespace ofa_tvm {
namespace {

class CudaCode final : public ffi::ModuleObj {
 public:
  // TVM hands over source, and has whoever runs kernels compile it; here that is done at once.
  explicit CudaCode(DeviceCode code) : code_(std::move(code)) {
    if (code_.format != "cuda") return;
    source_ = ffi::String(code_.code);
    const auto compile = ffi::Function::GetGlobalRequired("tvm_callback_cuda_compile");
    const auto binary = compile(source_).cast<ffi::Bytes>();
    code_.code.assign(binary.data(), binary.size());
    code_.format = "cubin";
  }

  const char* kind() const final { return "cuda"; }
  int GetPropertyMask() const final { return ffi::Module::kBinarySerializable; }
  ffi::Bytes SaveToBytes() const final { return code_.ToBytes(); }
  bool ImplementsFunction(const ffi::String& name) final { return code_.functions.count(name) != 0; }

  ffi::String InspectSource(const ffi::String&) const final { return source_; }

  ffi::Optional<ffi::Function> GetFunction(const ffi::String& name) final {
    if (!ImplementsFunction(name)) return std::nullopt;
    TVM_FFI_THROW(RuntimeError) << "CUDA: " << name << " was compiled without a GPU and cannot run here; run it "
                                << "where the NVIDIA driver is installed";
    TVM_FFI_UNREACHABLE();
  }

 private:
  DeviceCode code_;
  ffi::String source_;
};

}  // namespace

TVM_FFI_STATIC_INIT_BLOCK() {
  ffi::reflection::GlobalDef().def(
      "ffi.Module.create.cuda",
      [](ffi::Bytes code, ffi::String format, ffi::Map<ffi::String, ffi::ObjectRef> functions,
         ffi::Map<ffi::String, ffi::String>) {
        return ffi::Module(ffi::make_object<CudaCode>(DeviceCode::FromCompiler(code, format, functions)));
      });
}

}  // namespace ofa_tvm
