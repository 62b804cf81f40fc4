/* A node of the MLX graph whose CPU evaluation and gradient are callbacks. */
#pragma once
#include <stddef.h>
#include <stdint.h>

#include "mlx/c/array.h"
#include "mlx/c/stream.h"

#ifdef __cplusplus
extern "C" {
#endif

/* One operand of an evaluation: row-major data, `size` elements of `dtype`. */
typedef struct eat_buffer_ {
  void* data;
  size_t size;
  const int* shape;
  size_t ndim;
  mlx_dtype dtype;
} eat_buffer;

typedef struct eat_host_op_ {
  /* Owned by the node; `drop` is called once, from any thread. */
  void* context;
  const char* name;
  /* Fills `outputs`; runs on the stream's thread and must not unwind. An input
   * whose memory became an output's has no data and no elements; the output then
   * holds the input's elements. */
  void (*eval)(
      void* context,
      const eat_buffer* inputs,
      size_t num_inputs,
      const eat_buffer* outputs,
      size_t num_outputs);
  /* Writes one new array per entry of `argnums` into `grads`; 0 on success. */
  int (*vjp)(
      void* context,
      const mlx_array* primals,
      size_t num_primals,
      const mlx_array* cotangents,
      size_t num_cotangents,
      const int* argnums,
      size_t num_argnums,
      const mlx_array* outputs,
      size_t num_outputs,
      mlx_array* grads);
  void (*drop)(void* context);
} eat_host_op;

/* Builds the node lazily on the CPU stream `stream` and writes its
 * `num_outputs` arrays. Takes ownership of `op.context` even on failure.
 * `shapes` holds the outputs' dimensions one after another. `donors` names per
 * output the input whose memory it takes if nobody else needs it and shape and
 * dtype are the same, or -1. */
int eat_host_op_apply(
    mlx_array* results,
    eat_host_op op,
    const mlx_array* inputs,
    size_t num_inputs,
    const int* shapes,
    const size_t* ndims,
    const mlx_dtype* dtypes,
    const int* donors,
    size_t num_outputs,
    mlx_stream stream);

/* Bytes of dead outputs that are kept for the next ones. */
size_t eat_buffer_cache_bytes(void);

/* Gives them back to the system. */
void eat_buffer_cache_clear(void);

/* From here on, MLX throws where the system has no memory for an array on the
 * CPU, instead of writing through a null pointer. */
void eat_check_allocations(void);

#ifdef __cplusplus
}
#endif
