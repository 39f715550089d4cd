/* Runs a program under the filter of system calls of Android's apps: `app_filter PROGRAM [ARGUMENT]...`.
 *
 * Android allows what its C library's SYSCALLS.TXT has, less SECCOMP_BLOCKLIST_APP.TXT and _COMMON, plus
 * SECCOMP_ALLOWLIST_APP.TXT and _COMMON (platform/bionic/libc), and answers every other call with SIGSYS. Allowed
 * here is what the lists of 2025 have for 64-bit apps, less what came to them after Android 9 (statx, close_range,
 * bpf, membarrier, userfaultfd, epoll_pwait2, mseal, process_madvise, pidfd_open and its kin). Where glibc makes an
 * older call on x86 than on aarch64, which has no such call, the old one is allowed if the new one is. */
#include <linux/filter.h>
#include <linux/seccomp.h>
#include <stddef.h>
#include <stdio.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <unistd.h>

static const int allowed[] = {
    /* Processes, users, signals. */
    SYS_brk, SYS_capget, SYS_capset, SYS_clone, SYS_execve, SYS_execveat, SYS_exit, SYS_exit_group, SYS_futex,
    SYS_getegid, SYS_geteuid, SYS_getgid, SYS_getgroups, SYS_getpgid, SYS_getpid, SYS_getppid, SYS_getpriority,
    SYS_getresgid, SYS_getresuid, SYS_getrlimit, SYS_getrusage, SYS_getsid, SYS_gettid, SYS_getuid, SYS_kill,
    SYS_perf_event_open, SYS_personality, SYS_prctl, SYS_prlimit64, SYS_process_vm_readv, SYS_process_vm_writev,
    SYS_ptrace, SYS_restart_syscall, SYS_rt_sigaction, SYS_rt_sigpending, SYS_rt_sigprocmask, SYS_rt_sigqueueinfo,
    SYS_rt_sigreturn, SYS_rt_sigsuspend, SYS_rt_sigtimedwait, SYS_rt_tgsigqueueinfo, SYS_seccomp, SYS_set_tid_address,
    SYS_setns, SYS_setpgid, SYS_setpriority, SYS_setresuid, SYS_setrlimit, SYS_setsid, SYS_sigaltstack, SYS_signalfd4,
    SYS_tgkill, SYS_tkill, SYS_unshare, SYS_wait4, SYS_waitid,
    /* Cores and clocks. */
    SYS_clock_getres, SYS_clock_gettime, SYS_clock_nanosleep, SYS_getcpu, SYS_getitimer, SYS_gettimeofday,
    SYS_ioprio_get, SYS_ioprio_set, SYS_nanosleep, SYS_sched_get_priority_max, SYS_sched_get_priority_min,
    SYS_sched_getaffinity, SYS_sched_getattr, SYS_sched_getparam, SYS_sched_getscheduler, SYS_sched_rr_get_interval,
    SYS_sched_setaffinity, SYS_sched_setattr, SYS_sched_setparam, SYS_sched_setscheduler, SYS_sched_yield,
    SYS_setitimer, SYS_sysinfo, SYS_timer_create, SYS_timer_delete, SYS_timer_getoverrun, SYS_timer_gettime,
    SYS_timer_settime, SYS_timerfd_create, SYS_timerfd_gettime, SYS_timerfd_settime, SYS_times, SYS_uname,
    /* Memory. */
    SYS_getrandom, SYS_madvise, SYS_memfd_create, SYS_mincore, SYS_mlock, SYS_mlock2, SYS_mlockall, SYS_mmap,
    SYS_mprotect, SYS_mremap, SYS_msync, SYS_munlock, SYS_munlockall, SYS_munmap,
    /* Files. */
    SYS_chdir, SYS_close, SYS_copy_file_range, SYS_dup, SYS_dup3, SYS_epoll_create1, SYS_epoll_ctl, SYS_epoll_pwait,
    SYS_eventfd2, SYS_faccessat, SYS_fadvise64, SYS_fallocate, SYS_fchdir, SYS_fchmod, SYS_fchmodat, SYS_fchown,
    SYS_fchownat, SYS_fcntl, SYS_fdatasync, SYS_fgetxattr, SYS_flistxattr, SYS_flock, SYS_fremovexattr, SYS_fsetxattr,
    SYS_fstat, SYS_fstatfs, SYS_fsync, SYS_ftruncate, SYS_getcwd, SYS_getdents64, SYS_getxattr, SYS_inotify_add_watch,
    SYS_inotify_init1, SYS_inotify_rm_watch, SYS_io_cancel, SYS_io_destroy, SYS_io_getevents, SYS_io_setup,
    SYS_io_submit, SYS_ioctl, SYS_lgetxattr, SYS_linkat, SYS_listxattr, SYS_llistxattr, SYS_lremovexattr, SYS_lseek,
    SYS_lsetxattr, SYS_mkdirat, SYS_mknodat, SYS_newfstatat, SYS_openat, SYS_pipe2, SYS_pivot_root, SYS_ppoll,
    SYS_pread64, SYS_preadv, SYS_preadv2, SYS_pselect6, SYS_pwrite64, SYS_pwritev, SYS_pwritev2, SYS_quotactl,
    SYS_read, SYS_readahead, SYS_readlinkat, SYS_readv, SYS_removexattr, SYS_renameat, SYS_renameat2, SYS_sendfile,
    SYS_setxattr, SYS_splice, SYS_statfs, SYS_symlinkat, SYS_sync, SYS_sync_file_range, SYS_syncfs, SYS_tee,
    SYS_truncate, SYS_umask, SYS_unlinkat, SYS_utimensat, SYS_vmsplice, SYS_write, SYS_writev,
    /* Sockets. */
    SYS_accept4, SYS_bind, SYS_connect, SYS_getpeername, SYS_getsockname, SYS_getsockopt, SYS_listen, SYS_recvfrom,
    SYS_recvmmsg, SYS_recvmsg, SYS_sendmmsg, SYS_sendmsg, SYS_sendto, SYS_setsockopt, SYS_shutdown, SYS_socket,
    SYS_socketpair,
#ifdef __x86_64__ /* What aarch64 does by the newer calls above. */
    SYS_access, SYS_arch_prctl, SYS_chmod, SYS_chown, SYS_creat, SYS_dup2, SYS_epoll_create, SYS_epoll_wait,
    SYS_eventfd, SYS_fork, SYS_getdents, SYS_getpgrp, SYS_inotify_init, SYS_lchown, SYS_link, SYS_lstat, SYS_mkdir,
    SYS_mknod, SYS_open, SYS_pause, SYS_pipe, SYS_poll, SYS_readlink, SYS_rename, SYS_rmdir, SYS_select, SYS_stat,
    SYS_symlink, SYS_time, SYS_unlink, SYS_utime, SYS_utimes, SYS_vfork,
#endif
};

int main(int argc, char **argv) {
  enum { COUNT = sizeof allowed / sizeof *allowed };
  struct sock_filter program[COUNT * 2 + 2];
  struct sock_fprog filter = {0, program};
  unsigned short n = 0;
  if (argc < 2) return 2;
  program[n++] = (struct sock_filter)BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(struct seccomp_data, nr));
  for (int i = 0; i < COUNT; ++i) {
    program[n++] = (struct sock_filter)BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, allowed[i], 0, 1);
    program[n++] = (struct sock_filter)BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW);
  }
  program[n++] = (struct sock_filter)BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_TRAP);
  filter.len = n;
  if (prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) || prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, &filter)) {
    perror("no filters of system calls here");
    return 77;
  }
  execv(argv[1], argv + 1);
  perror(argv[1]);
  return 127;
}
