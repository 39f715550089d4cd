// Device code with what TVM knows of its functions, and its serialised form.
//
// TVM's compiler hands device code to `ffi.Module.create.<kind>`; a shared library carries it as bytes, which
// `ffi.Module.load_from_bytes.<kind>` reads back. The byte format here is TVM's own, so that a library made
// where no runtime for the device was loaded works where one is, and the other way round:
//
//   format, {symbol: (name, argument types, launch tags, extra tags)}, code
//
// with strings and lists behind their 64-bit lengths, little-endian.
#ifndef OFA_TVM_NATIVE_DEVICE_CODE_H_
#define OFA_TVM_NATIVE_DEVICE_CODE_H_

#include <tvm/ffi/container/array.h>
#include <tvm/ffi/container/map.h>
#include <tvm/ffi/dtype.h>
#include <tvm/ffi/error.h>
#include <tvm/ffi/reflection/accessor.h>
#include <tvm/ffi/string.h>

#include <cstdint>
#include <cstring>
#include <map>
#include <string>
#include <type_traits>
#include <vector>

namespace ofa_tvm {

namespace ffi = tvm::ffi;

// One kernel: the types of its arguments, and the names of the launch sizes that follow them in a call.
struct FunctionInfo {
  std::string name;
  std::vector<DLDataType> arg_types;
  std::vector<std::string> launch_tags;
  std::vector<int32_t> extra_tags;

  // Reads TVM's `runtime.FunctionInfo`, whose C++ type is not public, by reflection.
  static FunctionInfo FromTvm(const ffi::ObjectRef& info) {
    const auto field = [&](const char* name) {
      return ffi::reflection::FieldGetter("runtime.FunctionInfo", name)(info);
    };
    FunctionInfo result;
    result.name = field("name").cast<ffi::String>();
    for (const auto& item : field("arg_types").cast<ffi::Array<ffi::Any>>()) {
      result.arg_types.push_back(item.cast<DLDataType>());
    }
    for (const auto& item : field("launch_param_tags").cast<ffi::Array<ffi::Any>>()) {
      result.launch_tags.push_back(item.cast<ffi::String>());
    }
    for (const auto& item : field("arg_extra_tags").cast<ffi::Array<ffi::Any>>()) {
      result.extra_tags.push_back(item.cast<int32_t>());
    }
    return result;
  }
};

// Appends values to a string of bytes.
class ByteWriter {
 public:
  std::string bytes;

  template <typename T>
  void Raw(const T& value) {
    static_assert(std::is_trivially_copyable_v<T>);
    bytes.append(reinterpret_cast<const char*>(&value), sizeof(T));
  }
  void Value(const std::string& text) {
    Raw<uint64_t>(text.size());
    bytes += text;
  }
  void Value(const DLDataType& type) { Raw(type); }
  void Value(int32_t number) { Raw(number); }
  template <typename T>
  void Value(const std::vector<T>& list) {
    Raw<uint64_t>(list.size());
    for (const T& item : list) Value(item);
  }
};

// Takes values from bytes; whatever does not fit into them is an error, not a read beyond their end.
class ByteReader {
 public:
  ByteReader(const char* data, size_t size) : at_(data), left_(size) {}

  template <typename T>
  T Raw() {
    static_assert(std::is_trivially_copyable_v<T>);
    T value;
    std::memcpy(&value, Take(sizeof(T)), sizeof(T));
    return value;
  }
  void Value(std::string* text) {
    const auto size = Raw<uint64_t>();
    text->assign(Take(size), size);
  }
  void Value(DLDataType* type) { *type = Raw<DLDataType>(); }
  void Value(int32_t* number) { *number = Raw<int32_t>(); }
  template <typename T>
  void Value(std::vector<T>* list) {
    const auto size = Raw<uint64_t>();
    for (uint64_t i = 0; i < size; ++i) Value(&list->emplace_back());
  }

 private:
  const char* Take(uint64_t size) {
    if (size > left_) TVM_FFI_THROW(ValueError) << "device code is cut short or damaged; compile it again";
    const char* start = at_;
    at_ += size;
    left_ -= size;
    return start;
  }
  const char* at_;
  uint64_t left_;
};

// Code of one device module.
struct DeviceCode {
  std::string format;  // "cl", "cuda", "ptx", "cubin" or "fatbin"
  std::map<std::string, FunctionInfo> functions;
  std::string code;

  static DeviceCode FromCompiler(const ffi::Bytes& code, const ffi::String& format,
                                 const ffi::Map<ffi::String, ffi::ObjectRef>& functions) {
    DeviceCode result;
    result.format = format;
    result.code.assign(code.data(), code.size());
    for (const auto& [symbol, info] : functions) {
      result.functions[symbol] = FunctionInfo::FromTvm(info);
    }
    return result;
  }

  static DeviceCode FromBytes(const ffi::Bytes& bytes) {
    ByteReader reader(bytes.data(), bytes.size());
    DeviceCode result;
    reader.Value(&result.format);
    const auto count = reader.Raw<uint64_t>();
    for (uint64_t i = 0; i < count; ++i) {
      std::string symbol;
      reader.Value(&symbol);
      FunctionInfo& info = result.functions[symbol];
      reader.Value(&info.name);
      reader.Value(&info.arg_types);
      reader.Value(&info.launch_tags);
      reader.Value(&info.extra_tags);
    }
    reader.Value(&result.code);
    return result;
  }

  ffi::Bytes ToBytes() const {
    ByteWriter writer;
    writer.Value(format);
    writer.Raw<uint64_t>(functions.size());
    for (const auto& [symbol, info] : functions) {
      writer.Value(symbol);
      writer.Value(info.name);
      writer.Value(info.arg_types);
      writer.Value(info.launch_tags);
      writer.Value(info.extra_tags);
    }
    writer.Value(code);
    return ffi::Bytes(std::move(writer.bytes));
  }
};

}  // namespace ofa_tvm

#endif  // OFA_TVM_NATIVE_DEVICE_CODE_H_
