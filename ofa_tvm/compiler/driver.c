/* What every generated driver ends with: its steps, one after the other. The driver defines before this:
 * `operands` (of all steps, in order), `steps`, STEPS, MOST (operands of a step), NETWORK (its own symbol) and, if
 * it is to be profiled, PROFILE (the symbol of what tells the times). */
#ifdef PROFILE
#include <time.h>
static double seconds[STEPS + 1];
static double now(void) {
  struct timespec t;
  clock_gettime(CLOCK_MONOTONIC, &t);
  return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}

/* Seconds that each step took since this was last asked, into a tensor. */
int32_t PROFILE(void *self, const Any *args, int32_t count, Any *result) {
  (void)self; (void)count; (void)result;
  memcpy(tensor_of(args)->data, seconds, STEPS * sizeof *seconds);
  memset(seconds, 0, sizeof seconds);
  return 0;
}
#endif

/* The network: inputs, then outputs. */
int32_t NETWORK(void *self, const Any *args, int32_t count, Any *result) {
  Tensor tensors[MOST];
  Any pointers[MOST], none;
  int32_t code = 0;
  const Operand *o = operands;
  const char *weights = take_weights();
  char *workspace;
  (void)self; (void)result;
  for (int32_t i = 0; i < count; ++i) /* kernels do not look */
    if ((size_t)begin_of(tensor_of(args + i)) % ALIGNMENT) {
      TVMFFIErrorSetRaisedFromCStr("ValueError", "inputs and outputs have to begin at multiples of 64 bytes");
      return -1;
    }
  workspace = take_workspace();
  if (!workspace) {
    TVMFFIErrorSetRaisedFromCStr("MemoryError", "there is no memory for what the network computes on the way");
    return -1;
  }
#ifdef PROFILE
  double begin = now();
#endif
  none.kind = 0; none.padding = 0; none.value.i = 0;
  for (int32_t step = 0; step < STEPS && !code; ++step) {
    for (int32_t i = 0; i < steps[step].operands; ++i, ++o) {
      Tensor *t = tensors + i;
      const Tensor *argument = o->place < 0 ? NULL : tensor_of(args + o->place);
      t->data = argument ? begin_of(argument) : (void *)((o->place == WEIGHTS ? weights : workspace) + o->offset);
      t->byte_offset = 0;
      t->device.type = 1; t->device.id = 0; t->ndim = o->ndim; t->dtype = o->dtype;
      t->shape = (int64_t *)o->dims; t->strides = (int64_t *)o->dims + o->ndim;
      pointers[i].kind = TENSOR_POINTER; pointers[i].padding = 0; pointers[i].value.p = t;
    }
    code = steps[step].kernel(NULL, pointers, steps[step].operands, &none);
#ifdef PROFILE
    double end = now();
    seconds[step] += end - begin;
    begin = end;
#endif
  }
  give_back(workspace);
  return code;
}
#ifdef __cplusplus
}
#endif
