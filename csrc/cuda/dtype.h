// The element types of lamella.cuda.Array. Ops take those of core/arrays.h; the others are stored,
// converted and exchanged.
#pragma once

#include <cstddef>

namespace lamella::device {

enum class DType { float32, float16, bfloat16, float64, int8, int32, int64, uint8, boolean };

std::size_t item_size(DType dtype);
const char* dtype_name(DType dtype);

}  // namespace lamella::device
