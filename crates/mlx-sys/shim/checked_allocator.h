// Allocations that fail are errors. MLX's allocator of the CPU returns a null
// buffer where the system has no memory, and MLX's operations write through it.
#pragma once

#include <cstddef>

#include "mlx/allocator.h"

// Throws if there is no buffer.
mlx::core::allocator::Buffer or_out_of_memory(
    mlx::core::allocator::Buffer buffer, size_t size);
