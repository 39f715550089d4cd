// Whether a module is as the compiler wrote it.
#ifndef OFA_TVM_RUNNER_WHOLE_H_
#define OFA_TVM_RUNNER_WHOLE_H_

#include <string>

namespace ofa_tvm {

// Refuses a module that does not end in the checksum which the compiler wrote behind it: the system's loader believes
// a damaged file and dies with the process, or its network answers wrongly.
void RequireWhole(const std::string& path);

}  // namespace ofa_tvm

#endif
