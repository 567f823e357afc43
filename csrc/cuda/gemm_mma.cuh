// Tiles of products on the tensor cores (mma.sync, compute capability 8.0 and later): bfloat16 and
// float16 in memory, sums in float32; and TF32, where a caller asks for it by name.
//
// The limit is the tensor cores' rate; a warp of 64 x 64 reads 4 KB of shared memory for 65536
// multiply-adds, and a tile of 128 x 256 768 bytes of the L2 cache for 32768.
//
// Another implementation (wgmma with bulk copies) is another kernel beside product_kernel, which
// takes the same Problem and Finish; its operands describe a tensor map instead of a Loader.
#pragma once

#include "cuda/gemm_fma.cuh"
#include "cuda/mma.cuh"

namespace lamella::device::gemm {

// A tile of 16-bit elements in chunks of 16 bytes as memory has them, along k or along rows. Chunks
// are permuted within their line, so that the 8 that ldmatrix reads of neighbouring lines lie in
// different banks.
template <class T, int rows_, int depth_, bool along_rows_>
struct ChunkLayout {
  using Element = T;
  static constexpr int rows = rows_;
  static constexpr int depth = depth_;
  static constexpr bool along_rows = along_rows_;
  static constexpr int chunk = 16 / sizeof(T);  // elements
  static constexpr int lines = along_rows ? depth : rows;
  static constexpr int across = (along_rows ? rows : depth) / chunk;  // chunks of a line
  static constexpr int size = rows * depth;
  static_assert(across >= 4 && (across & (across - 1)) == 0);

  // Where chunk `c` of a line begins.
  __host__ __device__ static constexpr int chunk_at(int line, int c) {
    const int turn = across >= 8 ? line % 8 : line / 2 % 4;
    return (line * across + (c ^ turn)) * chunk;
  }
  __host__ __device__ static constexpr int at(int row, int k) {
    const int line = along_rows ? k : row;
    const int in_line = along_rows ? row : k;
    return chunk_at(line, in_line / chunk) + in_line % chunk;
  }
};

namespace detail {

// The sums of a warp's tile in mma's layout: 16 x 8 pieces.
template <int pieces_m, int pieces_n>
struct MmaSums {
  static constexpr int width = 2;
  float sums[pieces_m][pieces_n][4];

  __device__ MmaSums() {
#pragma unroll
    for (int i = 0; i < pieces_m; ++i) {
#pragma unroll
      for (int j = 0; j < pieces_n; ++j) {
#pragma unroll
        for (int e = 0; e < 4; ++e) sums[i][j][e] = 0.0f;
      }
    }
  }

  // f(row, column, values) for rows and columns of the warp's tile.
  template <bool unrolled, class Function>
  __device__ void visit(int first_row, int first_column, const Function& f) {
    const int row = first_row + lane_index() / 4;
    const int column = first_column + lane_index() % 4 * 2;
    if constexpr (unrolled) {
#pragma unroll
      for (int i = 0; i < pieces_m; ++i) visit_piece(f, row + i * 16, column, sums[i]);
    } else {
      // Registers have no index: each turn takes the first pieces, and the others move up.
#pragma unroll 1
      for (int i = 0; i < pieces_m; ++i) {
        visit_piece(f, row + i * 16, column, sums[0]);
#pragma unroll
        for (int p = 1; p < pieces_m; ++p) {
#pragma unroll
          for (int j = 0; j < pieces_n; ++j) {
#pragma unroll
            for (int e = 0; e < 4; ++e) sums[p - 1][j][e] = sums[p][j][e];
          }
        }
      }
    }
  }

 private:
  template <class Function>
  __device__ static void visit_piece(const Function& f, int row, int column,
                                     const float (&pieces)[pieces_n][4]) {
#pragma unroll
    for (int j = 0; j < pieces_n; ++j) {
      float upper[2] = {pieces[j][0], pieces[j][1]};
      f(row, column + j * 8, upper);
      float lower[2] = {pieces[j][2], pieces[j][3]};
      f(row + 8, column + j * 8, lower);
    }
  }
};

}  // namespace detail

// warps_m x warps_n warps, each with warp_m x warp_n sums. T: __nv_bfloat16 or __half.
template <class T, bool a_along_rows, bool b_along_rows, int warps_m, int warps_n, int warp_m,
          int warp_n, int stages_, int blocks_, int rate_>
struct MmaTile {
  static constexpr int m = warps_m * warp_m;
  static constexpr int n = warps_n * warp_n;
  static constexpr int depth = 32;
  static constexpr int stages = stages_;
  static constexpr int threads = warps_m * warps_n * warp_size;
  static constexpr int blocks = blocks_;
  static constexpr double rate = rate_;
  static constexpr bool supported = has_bf16_mma;

  using Element = T;
  using A = ChunkLayout<T, m, depth, a_along_rows>;
  using B = ChunkLayout<T, n, depth, b_along_rows>;

  class Accumulators {
   public:
    using Sums = detail::MmaSums<warp_m / 16, warp_n / 8>;
    static constexpr int width = Sums::width;

    __device__ Accumulators()
        : row_(warp_index() / warps_n * warp_m), column_(warp_index() % warps_n * warp_n) {}

    __device__ void multiply(const T* a, const T* b) {
#pragma unroll
      for (int k = 0; k < depth; k += 16) {
        unsigned rows[warp_m / 16][4];
        unsigned columns[warp_n / 16][4];  // two pieces each
#pragma unroll
        for (int i = 0; i < warp_m / 16; ++i) read_rows(a, row_ + i * 16, k, rows[i]);
#pragma unroll
        for (int j = 0; j < warp_n / 16; ++j) read_columns(b, column_ + j * 16, k, columns[j]);
#pragma unroll
        for (int i = 0; i < warp_m / 16; ++i) {
#pragma unroll
          for (int j = 0; j < warp_n / 8; ++j) {
            const unsigned column[2] = {columns[j / 2][j % 2 * 2], columns[j / 2][j % 2 * 2 + 1]};
            mma_m16n8k16<T>(sums_.sums[i][j], rows[i], column);
          }
        }
      }
    }

    template <bool unrolled, class Function>
    __device__ void visit(const Function& f) {
      sums_.template visit<unrolled>(row_, column_, f);
    }

   private:
    // Rows row .. row + 16 at k .. k + 16: quarters of 8 x 8, below one another first.
    __device__ static void read_rows(const T* a, int row, int k, unsigned (&fragment)[4]) {
      const int lane = lane_index();
      if constexpr (a_along_rows) {
        ldmatrix<4, true>(fragment,
                          a + A::at(row + lane / 8 % 2 * 8, k + lane % 8 + lane / 16 * 8));
      } else {
        ldmatrix<4>(fragment, a + A::at(row + lane % 16, k + lane / 16 * 8));
      }
    }
    // Columns column .. column + 16 at k .. k + 16: quarters of 8 x 8, along k first.
    __device__ static void read_columns(const T* b, int column, int k, unsigned (&fragment)[4]) {
      const int lane = lane_index();
      if constexpr (b_along_rows) {
        ldmatrix<4, true>(fragment, b + B::at(column + lane / 16 * 8, k + lane % 16));
      } else {
        ldmatrix<4>(fragment, b + B::at(column + lane % 8 + lane / 16 * 8, k + lane / 8 % 2 * 8));
      }
    }

    Sums sums_;
    int row_, column_;
  };
};

// Which way the operands lie is the tiles' matter too: shared memory has them as memory does.
template <class T, bool a_along_rows, bool b_along_rows>
using MmaTiles = TileList<
    MmaTile<T, a_along_rows, b_along_rows, 2, 4, 64, 64, 4, 1, 1200>,  // 128 x 256, 256 threads
    MmaTile<T, a_along_rows, b_along_rows, 2, 2, 64, 64, 4, 2, 1000>,  // 128 x 128, 128 threads
    MmaTile<T, a_along_rows, b_along_rows, 2, 2, 32, 32, 4, 4, 600>>;  // 64 x 64, 128 threads

// TF32: float32 in memory, of which the products see 10 bits of the fraction. Operands load as for
// FmaTile.
template <int warps_m, int warps_n, int warp_m, int warp_n, int stages_, int blocks_, int rate_>
struct Tf32Tile {
  static constexpr int m = warps_m * warp_m;
  static constexpr int n = warps_n * warp_n;
  static constexpr int depth = 8;
  static constexpr int stages = stages_;
  static constexpr int threads = warps_m * warps_n * warp_size;
  static constexpr int blocks = blocks_;
  static constexpr double rate = rate_;
  static constexpr bool supported = has_bf16_mma;

  // A fragment's 4 x 8 elements lie in different banks.
  using Element = float;
  using A = ColumnLayout<m, depth, 8>;
  using B = ColumnLayout<n, depth, 8>;

  class Accumulators {
   public:
    using Sums = detail::MmaSums<warp_m / 16, warp_n / 8>;
    static constexpr int width = Sums::width;

    __device__ Accumulators()
        : row_(warp_index() / warps_n * warp_m), column_(warp_index() % warps_n * warp_n) {}

    __device__ void multiply(const float* a, const float* b) {
      const int across = lane_index() / 4;
      const int k = lane_index() % 4;
      unsigned columns[warp_n / 8][2];
#pragma unroll
      for (int j = 0; j < warp_n / 8; ++j) {
#pragma unroll
        for (int e = 0; e < 2; ++e) {
          columns[j][e] = tf32(b[B::at(column_ + j * 8 + across, k + e * 4)]);
        }
      }
#pragma unroll
      for (int i = 0; i < warp_m / 16; ++i) {
        unsigned rows[4];
#pragma unroll
        for (int e = 0; e < 4; ++e) {
          rows[e] = tf32(a[A::at(row_ + i * 16 + across + e % 2 * 8, k + e / 2 * 4)]);
        }
#pragma unroll
        for (int j = 0; j < warp_n / 8; ++j) mma_m16n8k8_tf32(sums_.sums[i][j], rows, columns[j]);
      }
    }

    template <bool unrolled, class Function>
    __device__ void visit(const Function& f) {
      sums_.template visit<unrolled>(row_, column_, f);
    }

   private:
    Sums sums_;
    int row_, column_;
  };
};

using Tf32Tiles = TileList<Tf32Tile<2, 2, 64, 64, 5, 2, 400>,   // 128 x 128, 128 threads
                           Tf32Tile<2, 2, 32, 32, 5, 4, 300>>;  // 64 x 64, 128 threads

}  // namespace lamella::device::gemm
