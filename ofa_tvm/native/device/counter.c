/* QEMU plugin: counts the guest instructions of one emulated process into a file that the guest maps as well.
 *
 * Loaded by `qemu-aarch64 -plugin counter.so,count=PATH`; PATH holds one 64-bit number. The few declarations
 * of QEMU's plugin interface that are needed stand here, because distributions do not ship its header.
 * QEMU_PLUGIN_API is 1 up to QEMU 8 and 2 from QEMU 9 on. */
#include <fcntl.h>
#include <stdint.h>
#include <string.h>
#include <stddef.h>
#include <sys/mman.h>
#include <unistd.h>

struct qemu_plugin_tb;
typedef uint64_t qemu_plugin_id_t;
enum { NO_REGISTERS = 0, ADD_U64 = 0 };
void qemu_plugin_register_vcpu_tb_trans_cb(qemu_plugin_id_t,
                                           void (*)(qemu_plugin_id_t, struct qemu_plugin_tb *));
size_t qemu_plugin_tb_n_insns(const struct qemu_plugin_tb *);
#if QEMU_PLUGIN_API == 1
void qemu_plugin_register_vcpu_tb_exec_inline(struct qemu_plugin_tb *, int, void *, uint64_t);
#else
void qemu_plugin_register_vcpu_tb_exec_cb(struct qemu_plugin_tb *, void (*)(unsigned, void *), int, void *);
#endif

__attribute__((visibility("default"))) int qemu_plugin_version = QEMU_PLUGIN_API;

static volatile uint64_t *counter;

#if QEMU_PLUGIN_API != 1
static void executed(unsigned cpu, void *instructions) {
  (void)cpu;
  *counter += (uintptr_t)instructions;
}
#endif

static void translated(qemu_plugin_id_t id, struct qemu_plugin_tb *block) {
  (void)id;
  size_t instructions = qemu_plugin_tb_n_insns(block);
#if QEMU_PLUGIN_API == 1
  qemu_plugin_register_vcpu_tb_exec_inline(block, ADD_U64, (void *)counter, instructions);
#else
  qemu_plugin_register_vcpu_tb_exec_cb(block, executed, NO_REGISTERS, (void *)instructions);
#endif
}

__attribute__((visibility("default"))) int qemu_plugin_install(qemu_plugin_id_t id, const void *info,
                                                               int argc, char **argv) {
  (void)info;
  for (int i = 0; i < argc; ++i) {
    if (strncmp(argv[i], "count=", 6)) continue;
    int file = open(argv[i] + 6, O_RDWR);
    if (file < 0) return -1;
    void *page = mmap(NULL, sizeof *counter, PROT_READ | PROT_WRITE, MAP_SHARED, file, 0);
    close(file);
    if (page == MAP_FAILED) return -1;
    counter = page;
    qemu_plugin_register_vcpu_tb_trans_cb(id, translated);
    return 0;
  }
  return -1;
}
