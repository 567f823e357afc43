#include "gemm/tile.h"

#include "simd/fma_into.h"

namespace lamella::LAMELLA_ISA {
namespace {

template <int rows, int vectors>
struct Accumulators {
  Float v[rows][vectors];

  LAMELLA_INLINE void begin(const Tile& t) {
#pragma GCC unroll 4
    for (int j = 0; j < vectors; ++j) {
      const std::int64_t left = t.columns - j * Float::width;
      if (t.accumulate) {
#pragma GCC unroll 16
        for (int r = 0; r < rows; ++r) {
          const float* c = t.c[r] + j * Float::width;
          v[r][j] = left >= Float::width ? load(c) : load_n(c, max_i(left, 0));
        }
      } else {
        const float* bias = t.bias + j * Float::width;
        const Float first = t.bias == nullptr      ? zero()
                            : left >= Float::width ? load(bias)
                                                   : load_n(bias, max_i(left, 0));
#pragma GCC unroll 16
        for (int r = 0; r < rows; ++r) v[r][j] = first;
      }
    }
  }

  LAMELLA_INLINE void end(const Tile& t) {
    if (t.relu) {
#pragma GCC unroll 16
      for (int r = 0; r < rows; ++r) {
#pragma GCC unroll 4
        for (int j = 0; j < vectors; ++j) v[r][j] = max(zero(), v[r][j]);
      }
    }
    if (t.columns == vectors * Float::width) {
#pragma GCC unroll 16
      for (int r = 0; r < rows; ++r) {
#pragma GCC unroll 4
        for (int j = 0; j < vectors; ++j) store(t.c[r] + j * Float::width, v[r][j]);
      }
      return;
    }
#pragma GCC unroll 4
    for (int j = 0; j < vectors; ++j) {
      const std::int64_t left = t.columns - j * Float::width;
      if (left <= 0) return;
#pragma GCC unroll 16
      for (int r = 0; r < rows; ++r) {
        store_n(t.c[r] + j * Float::width, v[r][j], min_i(left, Float::width));
      }
    }
  }

  // One term of the reduction; a(r) is the broadcast operand of row r.
  template <class A>
  LAMELLA_INLINE void step(const float* b, const A& a) {
    Float bv[vectors];
#pragma GCC unroll 4
    for (int j = 0; j < vectors; ++j) bv[j] = load(b + j * Float::width);
#pragma GCC unroll 16
    for (int r = 0; r < rows; ++r) {
      const Float av = set(a(r));
#pragma GCC unroll 4
      for (int j = 0; j < vectors; ++j) fma_into(v[r][j], av, bv[j]);
    }
  }
};

template <Form form, int rows, int vectors>
void run_tile(const Tile& t) {
  Accumulators<rows, vectors> acc;
  acc.begin(t);
  const std::int64_t b_stride = t.b_stride;
  for (std::int64_t s = 0; s < t.segment_count; ++s) {
    const Segment segment = t.segments[s];
    const float* b = t.b + segment.b;
    if constexpr (form == Form::columns) {
      const float* a = t.a[0] + segment.a;
      for (std::int64_t k = 0; k < segment.length; ++k, a += t.a_step, b += b_stride) {
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
  if constexpr (vectors <= 2 && max_tile_rows == 12) {
    switch (rows) {
      case 7:
        return run_tile<form, 7, vectors>;
      case 8:
        return run_tile<form, 8, vectors>;
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
  if (vectors == 2) return with_rows<form, 2>(rows);
  return with_rows<form, 4>(rows);
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
