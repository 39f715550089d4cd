/* Runs a program under a filter of system calls like that of Android's apps: `app_filter PROGRAM [ARGUMENT]...`.
 *
 * Android allows what its C library's SYSCALLS.TXT has, less SECCOMP_BLOCKLIST_APP.TXT and _COMMON, plus
 * SECCOMP_ALLOWLIST_APP.TXT and _COMMON (platform/bionic/libc), and answers every other call with SIGSYS. Refused
 * here is what those lists of Android 9 to 14 lack or block and a C library may ask for, and every call that is
 * younger than the kernels of such phones: statx (332) and later ones. Calls of x86 that no aarch64 has
 * (open, stat, fork) are allowed; there glibc makes others. */
#include <linux/audit.h>
#include <linux/filter.h>
#include <linux/seccomp.h>
#include <stddef.h>
#include <stdio.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <unistd.h>

static const int refused[] = {
    SYS_set_robust_list, SYS_get_robust_list, SYS_shmget, SYS_shmat, SYS_shmctl, SYS_shmdt, SYS_semget, SYS_semop,
    SYS_semctl, SYS_semtimedop, SYS_msgget, SYS_msgsnd, SYS_msgrcv, SYS_msgctl, SYS_mq_open, SYS_mq_unlink,
    SYS_setuid, SYS_setgid, SYS_setreuid, SYS_setregid, SYS_setresgid, SYS_setfsuid, SYS_setfsgid, SYS_setgroups,
    SYS_chroot, SYS_mount, SYS_umount2, SYS_acct, SYS_reboot, SYS_sethostname, SYS_setdomainname, SYS_init_module,
    SYS_delete_module, SYS_adjtimex, SYS_settimeofday, SYS_clock_settime, SYS_swapon, SYS_swapoff, SYS_syslog,
    SYS_add_key, SYS_keyctl, SYS_request_key, SYS_mbind, SYS_set_mempolicy, SYS_get_mempolicy, SYS_migrate_pages,
    SYS_kcmp, SYS_bpf, SYS_fanotify_init, SYS_open_by_handle_at, SYS_modify_ldt, SYS_vhangup, SYS_uselib,
};

int main(int argc, char **argv) {
  enum { COUNT = sizeof refused / sizeof *refused };
  struct sock_filter program[COUNT * 2 + 5];
  struct sock_fprog filter = {0, program};
  unsigned short n = 0;
  if (argc < 2) return 2;
  program[n++] = (struct sock_filter)BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(struct seccomp_data, nr));
  for (int i = 0; i < COUNT; ++i) {
    program[n++] = (struct sock_filter)BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, refused[i], 0, 1);
    program[n++] = (struct sock_filter)BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_TRAP);
  }
  program[n++] = (struct sock_filter)BPF_JUMP(BPF_JMP | BPF_JGE | BPF_K, SYS_statx, 0, 1);
  program[n++] = (struct sock_filter)BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_TRAP);
  program[n++] = (struct sock_filter)BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW);
  filter.len = n;
  if (prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) || prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, &filter)) {
    perror("no filters of system calls here");
    return 77;
  }
  execv(argv[1], argv + 1);
  perror(argv[1]);
  return 127;
}
