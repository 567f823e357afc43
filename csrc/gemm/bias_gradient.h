// The bias gradient of dense and convolution: sums over rows, on the thread pool.
#pragma once

#include "core/memory_pool.h"
#include "simd/column_sums.h"
#include "simd/task.h"

namespace lamella::LAMELLA_ISA {

// out[c] = sum over r of dz[r][c]. Rows are summed in chunks of a fixed size and the chunks' sums
// in order, so the result does not depend on the number of threads.
inline void bias_gradient(const float* dz, std::int64_t rows, std::int64_t columns, float* out) {
  const std::int64_t chunk = max_i(32, (16 << 10) / max_i(columns, 1));
  const std::int64_t chunks = ceil_div(rows, chunk);
  if (chunks <= 1) return column_sums(dz, rows, columns, columns, out);
  const Scratch<float> partial("bias gradient", chunks * columns);
  float* const sums = partial.get();
  parallel_for(chunks, [&](std::int64_t i) {
    column_sums(dz + i * chunk * columns, min_i(chunk, rows - i * chunk), columns, columns,
                sums + i * columns);
  });
  column_sums(sums, chunks, columns, columns, out);
}

}  // namespace lamella::LAMELLA_ISA
