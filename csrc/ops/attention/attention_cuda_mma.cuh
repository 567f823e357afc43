// Tiles of 16-bit elements and the products of attention on tensor cores, in float32. A warp has
// 16 rows of a product for each of its `row_tiles`; who holds which element is in cuda/mma.cuh.
//
// Tiles are rows of D elements. A row's units of 16 bytes are permuted by the row's number, so that
// the 8 rows that ldmatrix reads at once lie in 8 different groups of banks.
#pragma once

#include "cuda/copy.cuh"
#include "cuda/exp2.cuh"
#include "cuda/mma.cuh"
#include "ops/attention/attention_cuda_scores.cuh"

namespace lamella::attention::tensor {

using namespace tiles;

// A problem whose arrays are of T: those of `p` are not used.
template <class T>
struct TypedProblem {
  Problem p;
  const T* query;
  const T* key;
  const T* value;
};

template <int size>
__device__ inline int place_in_tile(int row, int unit) {
  return row * size + ((unit ^ (row & 7)) << 3);
}

// Copies rows [0, valid) of `width` elements, a multiple of 8, row r from row_at(r),
// asynchronously; what is missing up to `rows` rows of `size` elements is zeros.
template <int size, int threads, class T, class Row>
__device__ inline void load_tile(T* to, int rows, int valid, int width, const Row& row_at) {
  constexpr int units = size / 8;
  const int unit = static_cast<int>(threadIdx.x) % units;
#pragma unroll 4
  for (int r = static_cast<int>(threadIdx.x) / units; r < rows; r += threads / units) {
    const bool inside = r < valid && unit * 8 < width;
    const T* const from = row_at(r < valid ? r : 0) + (inside ? unit * 8 : 0);
    lamella::device::copy_async<16>(to + place_in_tile<size>(r, unit), from, inside);
  }
}

// The bits of an exponent of infinities and NaNs, and of 1.
template <class T>
struct Bits;
template <>
struct Bits<__nv_bfloat16> {
  static constexpr unsigned exponent = 0x7F80, one = 0x3F80;
};
template <>
struct Bits<__half> {
  static constexpr unsigned exponent = 0x7C00, one = 0x3C00;
};

template <class T>
__device__ inline unsigned pack(float first, float second);
template <>
__device__ inline unsigned pack<__nv_bfloat16>(float first, float second) {
  const __nv_bfloat162 pair = __floats2bfloat162_rn(first, second);
  unsigned bits;
  memcpy(&bits, &pair, sizeof bits);
  return bits;
}
template <>
__device__ inline unsigned pack<__half>(float first, float second) {
  const __half2 pair = __floats2half2_rn(first, second);
  unsigned bits;
  memcpy(&bits, &pair, sizeof bits);
  return bits;
}

__device__ inline float to_float(__nv_bfloat16 v) {
  return __bfloat162float(v);
}
__device__ inline float to_float(__half v) {
  return __half2float(v);
}

// body(bits) for both elements of a word, whose results are put together.
template <class Body>
__device__ inline unsigned for_both(unsigned word, const Body& body) {
  return body(word & 0xFFFFu) | body(word >> 16) << 16;
}

// Whether what this thread copied with load_tile is finite, after its wait.
template <int size, int threads, class T>
__device__ inline bool copied_tile_is_finite(const T* tile, int rows) {
  constexpr int units = size / 8;
  constexpr unsigned exponent = Bits<T>::exponent;
  const int unit = static_cast<int>(threadIdx.x) % units;
  bool finite = true;
  for (int r = static_cast<int>(threadIdx.x) / units; r < rows; r += threads / units) {
    const int4 v = *reinterpret_cast<const int4*>(tile + place_in_tile<size>(r, unit));
    const int words[4] = {v.x, v.y, v.z, v.w};
#pragma unroll
    for (int i = 0; i < 4; ++i) {
      const auto word = static_cast<unsigned>(words[i]);
      finite = finite && (word & exponent) != exponent && (word >> 16 & exponent) != exponent;
    }
  }
  return finite;
}

// Where in a tile this lane reads its part of the fragments at row 0 and depth 0. Another depth is
// another unit of the same row: its bits are turned over.
template <int size>
__device__ inline int place_of_a() {
  return place_in_tile<size>(lane() % 16, lane() / 16);
}
template <int size>
__device__ inline int place_of_b() {
  return place_in_tile<size>(lane() % 8 + lane() / 16 * 8, lane() / 8 % 2);
}

// Fragments of tiles; depth, and turned column, are multiples of 16. A: 16 rows, 16 of depth.
template <int size, class T>
__device__ inline void load_a(const T* tile, int row, int depth, unsigned (&a)[4]) {
  lamella::device::ldmatrix<4>(a, tile + (place_of_a<size>() ^ depth) + row * size);
}
// B of two tiles of 8 columns, which are the tile's rows: registers 0 and 1, 2 and 3.
template <int size, class T>
__device__ inline void load_b(const T* tile, int column, int depth, unsigned (&b)[4]) {
  lamella::device::ldmatrix<4>(b, tile + (place_of_b<size>() ^ depth) + column * size);
}
// The same where depth goes along the tile's rows.
template <int size, class T>
__device__ inline void load_turned_b(const T* tile, int depth, int column, unsigned (&b)[4]) {
  lamella::device::ldmatrix<4, true>(b, tile + (place_of_a<size>() ^ column) + depth * size);
}

template <int row_tiles, int columns>
using Fragments = float[row_tiles][columns / 8][4];

template <class T>
__device__ inline void multiply_both(float (&first)[4], float (&second)[4], const unsigned (&a)[4],
                                     const unsigned (&b)[4]) {
  const unsigned b0[2] = {b[0], b[1]};
  const unsigned b1[2] = {b[2], b[3]};
  lamella::device::mma_m16n8k16<T>(first, a, b0);
  lamella::device::mma_m16n8k16<T>(second, a, b1);
}

// s += rows of `mine` times rows of `others`, over all of their elements.
template <int size, int row_tiles, int columns, class T>
__device__ inline void add_dots(const T* mine, int row, const T* others, int column,
                                Fragments<row_tiles, columns>& s) {
#pragma unroll
  for (int depth = 0; depth < size; depth += 16) {
    unsigned a[row_tiles][4];
#pragma unroll
    for (int m = 0; m < row_tiles; ++m) load_a<size>(mine, row + 16 * m, depth, a[m]);
#pragma unroll
    for (int j = 0; j < columns / 8; j += 2) {
      unsigned b[4];
      load_b<size>(others, column + 8 * j, depth, b);
#pragma unroll
      for (int m = 0; m < row_tiles; ++m) multiply_both<T>(s[m][j], s[m][j + 1], a[m], b);
    }
  }
}

// o += a b where an element of a that is 0 meets nothing of b, which may hold anything: what is
// finite as it is; infinities and NaNs as counts of what they meet.
template <class T>
__device__ inline void multiply_nonzero(float (&o)[4], const unsigned (&a)[4], const unsigned b0,
                                        const unsigned b1) {
  constexpr unsigned exponent = Bits<T>::exponent;
  constexpr unsigned one = Bits<T>::one;
  unsigned positive[4], negative[4];
#pragma unroll
  for (int i = 0; i < 4; ++i) {
    positive[i] = for_both(a[i], [](unsigned v) { return v != 0 && v < 0x8000u ? one : 0u; });
    negative[i] = for_both(a[i], [](unsigned v) { return v > 0x8000u ? one : 0u; });
  }
  const auto part = [&](unsigned bits, int which) {
    return for_both(bits, [=](unsigned v) {
      if ((v & exponent) != exponent) return which == 0 ? v : 0u;
      const int is = v == exponent ? 1 : v == (exponent | 0x8000u) ? 2 : 3;
      return is == which ? one : 0u;
    });
  };
  float more[4] = {}, less[4] = {}, nan[4] = {};
  const unsigned finite[2] = {part(b0, 0), part(b1, 0)};
  const unsigned above[2] = {part(b0, 1), part(b1, 1)};
  const unsigned below[2] = {part(b0, 2), part(b1, 2)};
  const unsigned unknown[2] = {part(b0, 3), part(b1, 3)};
  lamella::device::mma_m16n8k16<T>(o, a, finite);
  lamella::device::mma_m16n8k16<T>(more, positive, above);
  lamella::device::mma_m16n8k16<T>(more, negative, below);
  lamella::device::mma_m16n8k16<T>(less, positive, below);
  lamella::device::mma_m16n8k16<T>(less, negative, above);
  lamella::device::mma_m16n8k16<T>(nan, positive, unknown);
  lamella::device::mma_m16n8k16<T>(nan, negative, unknown);
#pragma unroll
  for (int i = 0; i < 4; ++i) {
    if (more[i] > 0.0f) o[i] -= minus_infinity();
    if (less[i] > 0.0f) o[i] += minus_infinity();
    if (nan[i] > 0.0f) o[i] = __int_as_float(0x7FC00000);
  }
}

// o += x others: x of `columns` columns, which meet the rows of `others` from `row` on. x stays in
// registers: what the product before left is what this one takes.
template <int size, int row_tiles, int columns, class T>
__device__ inline void add_product(const Fragments<row_tiles, columns>& x, const T* others, int row,
                                   bool finite, Fragments<row_tiles, size>& o) {
#pragma unroll
  for (int k = 0; k < columns / 16; ++k) {
    unsigned a[row_tiles][4];
#pragma unroll
    for (int m = 0; m < row_tiles; ++m) {
#pragma unroll
      for (int i = 0; i < 4; ++i) {
        const float (&pair)[4] = x[m][2 * k + i / 2];
        a[m][i] = pack<T>(pair[i % 2 * 2], pair[i % 2 * 2 + 1]);
      }
    }
#pragma unroll
    for (int j = 0; j < size / 8; j += 2) {
      unsigned b[4];
      load_turned_b<size>(others, row + 16 * k, 8 * j, b);
      if (finite) {
#pragma unroll
        for (int m = 0; m < row_tiles; ++m) multiply_both<T>(o[m][j], o[m][j + 1], a[m], b);
      } else {
#pragma unroll 1
        for (int half = 0; half < 2; ++half) {
#pragma unroll
          for (int m = 0; m < row_tiles; ++m) {
            float sum[4];
#pragma unroll
            for (int i = 0; i < 4; ++i) sum[i] = half == 0 ? o[m][j][i] : o[m][j + 1][i];
            multiply_nonzero<T>(sum, a[m], half == 0 ? b[0] : b[2], half == 0 ? b[1] : b[3]);
#pragma unroll
            for (int i = 0; i < 4; ++i) {
              if (half == 0) {
                o[m][j][i] = sum[i];
              } else {
                o[m][j + 1][i] = sum[i];
              }
            }
          }
        }
      }
    }
  }
}

// The rows and columns of a fragment that a thread has: group() and 8 more, 2 pair() and 1 more.
__device__ inline int group() {
  return lane() / 4;
}
__device__ inline int pair() {
  return lane() % 4;
}

// A row of a result: o's elements in 8 columns each.
template <int size, class T>
__device__ inline void store_fragment_row(const float (*o)[4], int half, float factor, int width,
                                          T* to) {
#pragma unroll
  for (int j = 0; j < size / 8; ++j) {
    const int at = 8 * j + 2 * pair();
    if (at < width) {
      *reinterpret_cast<unsigned*>(to + at) =
          pack<T>(o[j][2 * half] * factor, o[j][2 * half + 1] * factor);
    }
  }
}

// Whether dropout keeps pairs (row, key) and (row, key + 1), key even: bits 0 and 1.
__device__ inline unsigned kept_pair(const Problem& p, int64_t score_row, int64_t key) {
  const auto word = static_cast<std::uint64_t>(score_row * p.dropout_row() + key);
  const Philox4 words = philox(p.dropout.seed, word / 4);
  const bool later = (word & 2) != 0;
  const std::uint32_t first = later ? words.word[2] : words.word[0];
  const std::uint32_t second = later ? words.word[3] : words.word[1];
  return (first < p.dropout.threshold ? 1u : 0u) | (second < p.dropout.threshold ? 2u : 0u);
}
__device__ inline bool keeps(const Problem& p, int64_t score_row, int64_t key) {
  return (kept_pair(p, score_row, key & ~int64_t{1}) >> (key & 1) & 1) != 0;
}

}  // namespace lamella::attention::tensor
