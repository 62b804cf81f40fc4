// Half-precision accessors that mlx-c compiles on Arm only, and the one symbol
// of macOS that mlx-rs refers to. Rust sees both half types as 16 raw bits.
#include <chrono>
#include <cstdint>

#include "mlx/c/array.h"
#include "mlx/c/error.h"
#include "mlx/c/private/mlx.h"

namespace {

template <typename T>
int item(uint16_t* result, mlx_array arr) {
  try {
    const T value = mlx_array_get_(arr).item<T>();
    *result = reinterpret_cast<const uint16_t&>(value);
    return 0;
  } catch (std::exception& e) {
    mlx_error(e.what());
    return 1;
  }
}

template <typename T>
const uint16_t* data(mlx_array arr) {
  try {
    return reinterpret_cast<const uint16_t*>(mlx_array_get_(arr).data<T>());
  } catch (std::exception& e) {
    mlx_error(e.what());
    return nullptr;
  }
}

} // namespace

extern "C" {

#ifndef HAS_FLOAT16
int mlx_array_item_float16(uint16_t* result, mlx_array arr) {
  return item<mlx::core::float16_t>(result, arr);
}

const uint16_t* mlx_array_data_float16(mlx_array arr) {
  return data<mlx::core::float16_t>(arr);
}
#endif

#ifndef HAS_BFLOAT16
int mlx_array_item_bfloat16(uint16_t* result, mlx_array arr) {
  return item<mlx::core::bfloat16_t>(result, arr);
}

const uint16_t* mlx_array_data_bfloat16(mlx_array arr) {
  return data<mlx::core::bfloat16_t>(arr);
}
#endif

#ifndef __APPLE__
uint64_t mach_approximate_time() {
  const auto now = std::chrono::steady_clock::now().time_since_epoch();
  return std::chrono::duration_cast<std::chrono::nanoseconds>(now).count();
}
#endif

} // extern "C"
