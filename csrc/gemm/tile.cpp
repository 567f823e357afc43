#include "gemm/tile.h"

#include "gemm/accumulators.h"

namespace lamella::LAMELLA_ISA {
namespace {

template <Form form, int rows, int vectors>
void run_tile(const Tile& t) {
  Accumulators<rows, vectors> acc;
  acc.begin(t);
  const std::int64_t b_stride = t.b_stride;
  const float* ahead = t.ahead.from;
  for (std::int64_t s = 0; s < t.segment_count; ++s) {
    const Segment segment = t.segments[s];
    const float* b = t.b + segment.b;
    if constexpr (form == Form::columns) {
      const float* a = t.a[0] + segment.a;
      for (std::int64_t k = 0; k < segment.length; ++k, a += t.a_step, b += b_stride) {
        prefetch_to_l2(ahead);
        ahead += t.ahead.step;
        acc.step(b, [&](int r) { return a[r]; });
      }
    } else {
      const float* a[rows];
#pragma GCC unroll 16
      for (int r = 0; r < rows; ++r) a[r] = t.a[r] + segment.a;
      std::int64_t k = 0;
      if constexpr (form == Form::rows) {
        // Four terms at a time: one load of each row's address serves four broadcasts.
        for (; k + 4 <= segment.length; k += 4, b += 4 * b_stride) {
#pragma GCC unroll 4
          for (int u = 0; u < 4; ++u) {
            acc.step(b + u * b_stride, [&](int r) { return a[r][k + u]; });
          }
        }
        for (; k < segment.length; ++k, b += b_stride) {
          acc.step(b, [&](int r) { return a[r][k]; });
        }
      } else {
        for (std::int64_t i = 0; k < segment.length; ++k, i += t.a_step, b += b_stride) {
          acc.step(b, [&](int r) { return a[r][i]; });
        }
      }
    }
  }
  acc.end(t);
}

template <Form form, int vectors>
TileKernel with_rows(std::int64_t rows) {
  switch (rows) {
    case 1:
      return run_tile<form, 1, vectors>;
    case 2:
      return run_tile<form, 2, vectors>;
    default:
      break;
  }
  if constexpr (vectors <= 3) {
    if (rows == 3) return run_tile<form, 3, vectors>;
  }
  if constexpr (vectors <= 2 || wide_tile_rows == 6) {
    switch (rows) {
      case 3:
        return run_tile<form, 3, vectors>;
      case 4:
        return run_tile<form, 4, vectors>;
      case 5:
        return run_tile<form, 5, vectors>;
      case 6:
        return run_tile<form, 6, vectors>;
      default:
        break;
    }
  }
  if constexpr (vectors <= 3 && max_tile_rows == 12) {
    if (rows == 7) return run_tile<form, 7, vectors>;
    if (rows == 8) return run_tile<form, 8, vectors>;
  }
  if constexpr (vectors <= 2 && max_tile_rows == 12) {
    switch (rows) {
      case 9:
        return run_tile<form, 9, vectors>;
      case 10:
        return run_tile<form, 10, vectors>;
      case 11:
        return run_tile<form, 11, vectors>;
      case 12:
        return run_tile<form, 12, vectors>;
      default:
        break;
    }
  }
  return nullptr;
}

template <Form form>
TileKernel with_vectors(std::int64_t rows, int vectors) {
  if (vectors == 1) return with_rows<form, 1>(rows);
  if constexpr (form != Form::gather) {
    if (vectors == 3) return with_rows<form, 3>(rows);
    if (vectors == 4) return with_rows<form, 4>(rows);
  }
  return with_rows<form, 2>(rows);
}

}  // namespace

TileKernel tile_kernel(Form form, std::int64_t rows, int vectors) {
  switch (form) {
    case Form::rows:
      return with_vectors<Form::rows>(rows, vectors);
    case Form::columns:
      return with_vectors<Form::columns>(rows, vectors);
    case Form::gather:
      return with_vectors<Form::gather>(rows, vectors);
  }
  return nullptr;
}

}  // namespace lamella::LAMELLA_ISA
