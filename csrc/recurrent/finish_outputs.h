// What a recurrent op does about masked steps: their output rows repeat the state carried along.
#pragma once

#include "core/steps.h"
#include "simd/task.h"

namespace lamella::LAMELLA_ISA {

// outputs (N,T,U), of which the computed steps are there; h0 (N,U), null for zeros.
inline void repeat_carried(const Steps& steps, std::int64_t units, const float* h0,
                           float* outputs) {
  if (steps.all()) return;
  const auto bytes = static_cast<std::size_t>(units) * sizeof(float);
  parallel_for(steps.batch(), [&](std::int64_t row) {
    const std::int64_t n = steps.sequence(row);
    float* const out = outputs + n * steps.time() * units;
    std::int64_t j = 0;
    for (std::int64_t s = 0; s < steps.time(); ++s) {
      if (j < steps.length(row) && steps.position(j, row) == s) {
        ++j;
        continue;
      }
      if (s > 0) {
        std::memcpy(out + s * units, out + (s - 1) * units, bytes);
      } else if (h0 != nullptr) {
        std::memcpy(out, h0 + n * units, bytes);
      } else {
        std::memset(out, 0, bytes);
      }
    }
  });
}

// to[row(j, r)] = the gradient of h after step j of row r: that of its output row and of the masked
// ones behind it. dh0 (N,U) += those in front of the first step, unless it is null.
inline void gather_output_gradients(const Steps& steps, std::int64_t units, const float* d_outputs,
                                    float* to, float* dh0) {
  parallel_for(steps.batch(), [&](std::int64_t row) {
    const std::int64_t n = steps.sequence(row);
    const float* from = d_outputs + n * steps.time() * units;
    std::int64_t j = -1;
    for (std::int64_t s = 0; s < steps.time(); ++s, from += units) {
      const bool computed = j + 1 < steps.length(row) && steps.position(j + 1, row) == s;
      if (computed) ++j;
      float* const sum = j >= 0           ? to + (steps.offset(j) + row) * units
                         : dh0 != nullptr ? dh0 + n * units
                                          : nullptr;
      if (sum == nullptr) continue;
      if (computed) {
        std::memcpy(sum, from, static_cast<std::size_t>(units) * sizeof(float));
      } else {
        for (std::int64_t u = 0; u < units; ++u) sum[u] += from[u];
      }
    }
  });
}

}  // namespace lamella::LAMELLA_ISA
