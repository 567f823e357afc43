// Whether memory that an op writes is also memory that it reads: checked before anything is
// changed.
#pragma once

#include <cstdint>

#include "core/arguments.h"

namespace lamella {

inline bool overlap(const float* a, std::int64_t a_size, const float* b, std::int64_t b_size) {
  const auto first = reinterpret_cast<std::uintptr_t>(a);
  const auto second = reinterpret_cast<std::uintptr_t>(b);
  return first < second + static_cast<std::uintptr_t>(b_size) * sizeof(float) &&
         second < first + static_cast<std::uintptr_t>(a_size) * sizeof(float);
}

// Neither `output` nor `input` may reach into the other; equal memory is refused as well.
inline void expect_separate(const char* op, const char* output_name, const float* output,
                            std::int64_t output_size, const char* input_name, const float* input,
                            std::int64_t input_size) {
  if (output_size == 0 || input_size == 0) return;
  if (!overlap(output, output_size, input, input_size)) return;
  throw ValueError(message(op, ": ", output_name, " is written and must not overlap ", input_name));
}

}  // namespace lamella
