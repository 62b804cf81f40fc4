#pragma once

#include "mlx/array.h"

// Gives `a` memory for all its elements. Large buffers come back here when the
// array dies and serve the next one of about the same size: the system clears
// every page that it hands out, which costs more than many an operation. MLX
// counts them as in use, but with them it never holds more than it once needed.
// Throws where live arrays would exceed MLX's memory limit.
void allocate_cached(mlx::core::array& a);
