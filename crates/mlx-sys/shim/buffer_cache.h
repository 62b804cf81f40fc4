#pragma once

#include "mlx/array.h"

// Gives `a` memory for all its elements. Large buffers come back here when the
// array dies and serve the next one of about the same size: the system clears
// every page that it hands out, which costs more than many an operation.
void allocate_cached(mlx::core::array& a);
