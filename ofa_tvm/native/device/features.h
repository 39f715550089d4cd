// What instructions this machine's cores have.
#pragma once

#include <errno.h>
#include <signal.h>
#include <sys/auxv.h>
#include <sys/wait.h>
#include <unistd.h>

#include <string>

namespace {

#ifdef __aarch64__
// Whether an instruction is one here. Phones' kernels are often older than the bits that tell of it.
bool runs(void (*instruction)()) {
  pid_t child = fork();
  if (!child) {
    signal(SIGILL, [](int) { _exit(1); });
    instruction();
    _exit(0);
  }
  int status = 1;
  while (child > 0 && waitpid(child, &status, 0) < 0 && errno == EINTR) {
  }
  return child > 0 && WIFEXITED(status) && !WEXITSTATUS(status);
}
#endif

// LLVM's names of what the cores have, of that which compiled kernels may use; nothing where that is not known.
std::string features() {
  std::string names;
#ifdef __aarch64__
  unsigned long first = getauxval(AT_HWCAP), second = getauxval(AT_HWCAP2);
  auto has = [&names](const char* name, bool there) {
    if (there) names += std::string(names.empty() ? "" : " ") + name;
  };
  has("neon", first >> 1 & 1);
  has("lse", first >> 8 & 1);
  has("rdm", first >> 12 & 1);
  has("fullfp16", first >> 10 & 1 || runs([] { __asm__ volatile(".inst 0x4e421420" ::: "v0"); }));  // fadd .8h
  has("dotprod", first >> 20 & 1 || runs([] { __asm__ volatile(".inst 0x4e829420" ::: "v0"); }));   // sdot .4s
  has("sve", first >> 22 & 1);
  has("i8mm", second >> 13 & 1);
  has("bf16", second >> 14 & 1);
#endif
  return names;
}

}  // namespace
