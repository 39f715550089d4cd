/* What every generated driver begins with (driver_source.py): TVM's types, and memory.
 *
 * Weights, in order of use, and workspaces lie on huge pages where the system has them: a network reads all of
 * its weights in every call, and with pages of 4 KB it waits for address translation. The driver defines
 * WEIGHT_BYTES and WORKSPACE_BYTES before this. */
#ifndef _GNU_SOURCE
#define _GNU_SOURCE
#endif
#include <fcntl.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>
#ifdef __cplusplus
extern "C" {
#endif

typedef struct { int32_t type, id; } Device;
typedef struct { uint8_t code, bits; uint16_t lanes; } DType;
/* DLTensor of DLPack */
typedef struct {
  void *data; Device device; int32_t ndim; DType dtype; int64_t *shape, *strides; uint64_t byte_offset;
} Tensor;
/* TVMFFIAny; a tensor object is a 24-byte header followed by its DLTensor */
typedef struct { int32_t kind; uint32_t padding; union { int64_t i; void *p; } value; } Any;
enum { TENSOR_POINTER = 7, HEADER = 24 };
void *TVMBackendAllocWorkspace(int, int, uint64_t, int, int);
int TVMBackendFreeWorkspace(int, int, void *);
void TVMFFIErrorSetRaisedFromCStr(const char *, const char *);
static inline Tensor *tensor_of(const Any *a) {
  return (Tensor *)(a->kind == TENSOR_POINTER ? a->value.p : (void *)((char *)a->value.p + HEADER));
}
/* Where a tensor begins. */
static inline char *begin_of(const Tensor *t) { return (char *)t->data + t->byte_offset; }
typedef int32_t Kernel(void *, const Any *, int32_t, Any *);

/* What a kernel is called on: a tensor within an argument of the network, its weights or its workspace.
 * `dims` are extents, then strides. */
enum { WEIGHTS = -1, WORKSPACE = -2 };
typedef struct { uint64_t offset; const int64_t *dims; int32_t ndim, place; DType dtype; } Operand;
typedef struct { Kernel *kernel; int32_t operands; } Step;

#define ALIGNMENT 64 /* that kernels take for granted, as TVM allocates */
#define HUGE_PAGE ((size_t)2 << 20)
#define LEAST ((size_t)1 << 20) /* bytes that are worth a huge page */
#define IDLE 16                 /* workspaces kept for the next calls */

/* Whether the system puts memory on huge pages where it is asked to. */
static inline int has_huge_pages(void) {
  char text[64];
  int file = open("/sys/kernel/mm/transparent_hugepage/enabled", O_RDONLY | O_CLOEXEC);
  ssize_t size = file < 0 ? -1 : read(file, text, sizeof text - 1);
  if (file >= 0) close(file);
  if (size <= 0) return 0;
  text[size] = 0;
  return strstr(text, "[never]") == NULL;
}

static inline size_t whole_pages(size_t bytes) { return (bytes + HUGE_PAGE - 1) / HUGE_PAGE * HUGE_PAGE; }

/* Memory from a huge page's boundary on; NULL if there is none. */
static inline char *allocate(size_t bytes) {
  size_t size = whole_pages(bytes), reserved = size + HUGE_PAGE, before;
  char *all = (char *)mmap(NULL, reserved, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0), *memory;
  if (all == (char *)MAP_FAILED) return NULL;
  memory = (char *)whole_pages((size_t)all);
  before = (size_t)(memory - all);
  if (before) munmap(all, before);
  if (reserved - before - size) munmap(memory + size, reserved - before - size);
#ifdef MADV_HUGEPAGE
  madvise(memory, size, MADV_HUGEPAGE);
#endif
  return memory;
}

#if WEIGHT_BYTES > 0
extern const char network_weights[] __attribute__((visibility("hidden")));
static char *copied_weights;

/* The weights: on huge pages once they were copied there, until then as they lie in the library. */
static inline const char *take_weights(void) {
  static int begun;
  const char *ready = __atomic_load_n(&copied_weights, __ATOMIC_ACQUIRE);
  char *copy;
  if (ready) return ready;
  if ((size_t)WEIGHT_BYTES < LEAST || __atomic_exchange_n(&begun, 1, __ATOMIC_ACQ_REL)) return network_weights;
  copy = has_huge_pages() ? allocate(WEIGHT_BYTES) : NULL;
  if (!copy) return network_weights;
  memcpy(copy, network_weights, WEIGHT_BYTES);
  /* The pages of the file are not needed in memory as well; should anybody read them, they are read again. */
  madvise((void *)network_weights, WEIGHT_BYTES / (size_t)sysconf(_SC_PAGESIZE) * (size_t)sysconf(_SC_PAGESIZE),
          MADV_DONTNEED);
  __atomic_store_n(&copied_weights, copy, __ATOMIC_RELEASE);
  return copy;
}
#else
static inline const char *take_weights(void) { return NULL; }
#endif

static char *idle[IDLE];

/* Memory for what one call computes on the way; NULL if there is none. */
static inline char *take_workspace(void) {
  if ((size_t)WORKSPACE_BYTES < LEAST) return (char *)TVMBackendAllocWorkspace(1, 0, WORKSPACE_BYTES, 2, 32);
  for (int i = 0; i < IDLE; ++i) {
    char *memory = __atomic_exchange_n(&idle[i], (char *)NULL, __ATOMIC_ACQ_REL);
    if (memory) return memory;
  }
  return allocate(WORKSPACE_BYTES);
}

static inline void give_back(char *memory) {
  if ((size_t)WORKSPACE_BYTES < LEAST) {
    TVMBackendFreeWorkspace(1, 0, memory);
    return;
  }
  for (int i = 0; i < IDLE; ++i) {
    char *none = NULL;
    if (__atomic_compare_exchange_n(&idle[i], &none, memory, 0, __ATOMIC_ACQ_REL, __ATOMIC_RELAXED)) return;
  }
  munmap(memory, whole_pages(WORKSPACE_BYTES));
}

__attribute__((destructor)) static void release_memory(void) {
  for (int i = 0; i < IDLE; ++i)
    if (idle[i]) munmap(idle[i], whole_pages(WORKSPACE_BYTES));
#if WEIGHT_BYTES > 0
  if (copied_weights) munmap(copied_weights, whole_pages(WEIGHT_BYTES));
#endif
}
