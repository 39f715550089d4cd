/* Runs a program in such a way that system calls which a filter refuses fail with "no such call", instead of
 * ending it: `refused PROGRAM [ARGUMENT]...`.
 *
 * Android lets the processes of apps (a terminal app's, too; not those of `adb shell`) make the calls that its
 * own C library makes, and answers any other one with the signal SIGSYS. glibc makes some of them, first of all
 * set_robust_list, and does without them where the kernel says that it has no such call. A handler in the
 * program would not do: glibc starts threads with all signals blocked. So this process traces the program, which
 * costs nothing as long as no signal comes.
 *
 * It is linked without a C library, because that would make such calls itself. */
#include <elf.h>
#include <errno.h>
#include <signal.h>
#include <stddef.h>
#include <sys/ptrace.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <sys/user.h>
#include <sys/wait.h>

enum { FROM_FILTER = 1 }; /* SYS_SECCOMP, a signal's si_code */

#if defined(__aarch64__)
typedef struct user_regs_struct Registers;
#define RESULT(registers) ((registers).regs[0])
__asm__(".globl _start\n_start:\n mov x0, sp\n bl begin\n");
static long call(long number, long a, long b, long c, long d) {
  register long x8 __asm__("x8") = number, x0 __asm__("x0") = a, x1 __asm__("x1") = b, x2 __asm__("x2") = c;
  register long x3 __asm__("x3") = d, x4 __asm__("x4") = 0;
  __asm__ volatile("svc #0" : "+r"(x0) : "r"(x8), "r"(x1), "r"(x2), "r"(x3), "r"(x4) : "memory", "cc");
  return x0;
}
#elif defined(__x86_64__)
typedef struct user_regs_struct Registers;
#define RESULT(registers) ((registers).rax)
__asm__(".globl _start\n_start:\n mov %rsp, %rdi\n and $-16, %rsp\n call begin\n");
static long call(long number, long a, long b, long c, long d) {
  register long r10 __asm__("r10") = d, r8 __asm__("r8") = 0;
  long result = number;
  __asm__ volatile("syscall" : "+a"(result) : "D"(a), "S"(b), "d"(c), "r"(r10), "r"(r8) : "rcx", "r11", "memory");
  return result;
}
#else
#error "no registers of this processor family"
#endif

static void end(int status) {
  for (;;) call(SYS_exit_group, status, 0, 0, 0);
}

static long trace(long request, long process, long address, long data) {
  return call(SYS_ptrace, request, process, address, data);
}

/* Whether a stop by SIGSYS comes from a filter; the refused call has then failed with ENOSYS. */
static int answered(long process) {
  siginfo_t info;
  Registers registers;
  struct iovec all = {&registers, sizeof registers};
  if (trace(PTRACE_GETSIGINFO, process, 0, (long)&info) < 0 || info.si_code != FROM_FILTER) return 0;
  if (trace(PTRACE_GETREGSET, process, NT_PRSTATUS, (long)&all) < 0) return 0;
  RESULT(registers) = -ENOSYS;
  return trace(PTRACE_SETREGSET, process, NT_PRSTATUS, (long)&all) >= 0;
}

__attribute__((used, noreturn)) void begin(long *stack) {
  long count = stack[0], own;
  char **arguments = (char **)(stack + 1), **environment = arguments + count + 1;
  int status = 0;
  if (count < 2) end(2);
  if (!(own = call(SYS_clone, SIGCHLD, 0, 0, 0))) {
    trace(PTRACE_TRACEME, 0, 0, 0);
    call(SYS_kill, call(SYS_getpid, 0, 0, 0, 0), SIGSTOP, 0, 0);
    call(SYS_execve, (long)arguments[1], (long)(arguments + 1), (long)environment, 0);
    end(127);
  }
  if (own < 0 || call(SYS_wait4, own, (long)&status, __WALL, 0) != own || !WIFSTOPPED(status)) end(126);
  trace(PTRACE_SETOPTIONS, own, 0,
        PTRACE_O_TRACEFORK | PTRACE_O_TRACEVFORK | PTRACE_O_TRACECLONE | PTRACE_O_TRACEEXEC | PTRACE_O_EXITKILL);
  trace(PTRACE_CONT, own, 0, 0);
  for (;;) {
    long process = call(SYS_wait4, -1, (long)&status, __WALL, 0);
    if (process == -EINTR) continue;
    if (process < 0) end(126);
    if (!WIFSTOPPED(status)) {
      if (process == own) end(WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status));
      continue;
    }
    int sent = WSTOPSIG(status);
    /* A new thread or child begins with SIGSTOP, an event stops with SIGTRAP: neither is for the program. */
    if (status >> 16 || sent == SIGSTOP || (sent == SIGSYS && answered(process))) sent = 0;
    trace(PTRACE_CONT, process, 0, sent);
  }
}
