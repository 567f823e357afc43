// Tensor-core primitives: which element each lane's registers hold, against tables written from
// the PTX ISA manual, and whole products against plain loops. On the executor, and on a GPU.
// Prints what failed; the exit status is the number of failures.
#include <cmath>
#include <cstring>

#include "cuda/mma.cuh"
#include "program.h"

using namespace lamella::device;

namespace {

std::size_t index(int i) {
  return static_cast<std::size_t>(i);
}

// The manual's formulas, element i of a lane's fragment ("Matrix Fragments for mma.m16n8k16 with
// floating point type", "... mma.m16n8k8"): groupID = lane >> 2, threadID_in_group = lane % 4.
struct Place {
  int row, column;
};

Place place_a16(int lane, int i) {  // .f16, .bf16: a0 to a7
  const int group = lane >> 2;
  const int thread = lane % 4;
  return {(i >= 0 && i < 2) || (i >= 4 && i < 6) ? group : group + 8,
          i < 4 ? thread * 2 + (i & 1) : thread * 2 + (i & 1) + 8};
}
Place place_b16(int lane, int i) {  // b0 to b3
  const int group = lane >> 2;
  const int thread = lane % 4;
  return {i < 2 ? thread * 2 + (i & 1) : thread * 2 + (i & 1) + 8, group};
}
Place place_c(int lane, int i) {  // c0 to c3
  const int group = lane >> 2;
  const int thread = lane % 4;
  return {i < 2 ? group : group + 8, thread * 2 + (i & 1)};
}
Place place_a_tf32(int lane, int i) {  // a0 to a3
  const int group = lane >> 2;
  const int thread = lane % 4;
  return {i == 0 || i == 2 ? group : group + 8, i == 0 || i == 1 ? thread : thread + 4};
}
Place place_b_tf32(int lane, int i) {  // b0, b1
  const int group = lane >> 2;
  const int thread = lane % 4;
  return {i == 0 ? thread : thread + 4, group};
}

// Registers straight from memory: a[lane][4], b[lane][2], d[lane][4] (added to).
template <class T>
__global__ void multiply_16(const unsigned* a, const unsigned* b, float* d) {
  unsigned fa[4];
  unsigned fb[2];
  float fd[4];
  for (int i = 0; i < 4; ++i) fa[i] = a[4 * threadIdx.x + i];
  for (int i = 0; i < 2; ++i) fb[i] = b[2 * threadIdx.x + i];
  for (int i = 0; i < 4; ++i) fd[i] = d[4 * threadIdx.x + i];
  mma_m16n8k16<T>(fd, fa, fb);
  for (int i = 0; i < 4; ++i) d[4 * threadIdx.x + i] = fd[i];
}

__global__ void multiply_tf32(const float* a, const float* b, float* d) {
  unsigned fa[4];
  unsigned fb[2];
  float fd[4];
  for (int i = 0; i < 4; ++i) fa[i] = tf32(a[4 * threadIdx.x + i]);
  for (int i = 0; i < 2; ++i) fb[i] = tf32(b[2 * threadIdx.x + i]);
  for (int i = 0; i < 4; ++i) fd[i] = d[4 * threadIdx.x + i];
  mma_m16n8k8_tf32(fd, fa, fb);
  for (int i = 0; i < 4; ++i) d[4 * threadIdx.x + i] = fd[i];
}

// Small integers, all products and sums of which are exact in every type here.
int small(int i) {
  return i * 29 % 17 - 8;
}

// A b + C with integers at the places of the manual's tables.
template <class T>
void test_product_16(const char* type) {
  constexpr int depth = 16;
  int a[16][depth];
  int b[depth][8];
  for (int i = 0; i < 16 * depth; ++i) a[i / depth][i % depth] = small(i);
  for (int i = 0; i < depth * 8; ++i) b[i / 8][i % 8] = small(3 * i + 5);
  std::vector<T> fa(32 * 8);
  std::vector<T> fb(32 * 4);
  std::vector<float> fd(32 * 4);
  for (int lane = 0; lane < 32; ++lane) {
    for (int i = 0; i < 8; ++i) {
      const Place p = place_a16(lane, i);
      fa[index(8 * lane + i)] = T(static_cast<float>(a[p.row][p.column]));
    }
    for (int i = 0; i < 4; ++i) {
      const Place p = place_b16(lane, i);
      fb[index(4 * lane + i)] = T(static_cast<float>(b[p.row][p.column]));
      const Place c = place_c(lane, i);
      fd[index(4 * lane + i)] = static_cast<float>(small(c.row * 8 + c.column));
    }
  }
  std::vector<unsigned> ra(32 * 4);
  std::vector<unsigned> rb(32 * 2);
  std::memcpy(ra.data(), fa.data(), ra.size() * 4);  // two to a register, the first in the low half
  std::memcpy(rb.data(), fb.data(), rb.size() * 4);
  const Array<unsigned> da(ra);
  const Array<unsigned> db(rb);
  const Array<float> dd(fd);
  launch("mma", {.grid = 1, .block = 32}, multiply_16<T>, da.get(), db.get(), dd.get());
  const std::vector<float> d = dd.host();
  for (int lane = 0; lane < 32; ++lane) {
    for (int i = 0; i < 4; ++i) {
      const Place p = place_c(lane, i);
      int sum = small(p.row * 8 + p.column);
      for (int k = 0; k < depth; ++k) sum += a[p.row][k] * b[k][p.column];
      expect(d[index(4 * lane + i)] == static_cast<float>(sum),
             std::string("mma_m16n8k16 of ") + type + ", lane " + std::to_string(lane));
    }
  }
}

void test_product_tf32() {
  constexpr int depth = 8;
  std::vector<float> fa(32 * 4);
  std::vector<float> fb(32 * 2);
  std::vector<float> fd(32 * 4);
  const auto a = [](int row, int k) { return small(row * 8 + k); };
  const auto b = [](int k, int column) { return small(3 * (k * 8 + column) + 5); };
  for (int lane = 0; lane < 32; ++lane) {
    for (int i = 0; i < 4; ++i) {
      const Place p = place_a_tf32(lane, i);
      // What TF32 does not hold is rounded away: a relative 2^-12, to either side.
      fa[index(4 * lane + i)] =
          static_cast<float>(a(p.row, p.column)) * (1.0f + (i % 2 == 0 ? 0x1p-13f : -0x1p-13f));
      const Place c = place_c(lane, i);
      fd[index(4 * lane + i)] = static_cast<float>(small(c.row * 8 + c.column));
    }
    for (int i = 0; i < 2; ++i) {
      const Place p = place_b_tf32(lane, i);
      fb[index(2 * lane + i)] = static_cast<float>(b(p.row, p.column));
    }
  }
  const Array<float> da(fa);
  const Array<float> db(fb);
  const Array<float> dd(fd);
  launch("mma", {.grid = 1, .block = 32}, multiply_tf32, da.get(), db.get(), dd.get());
  const std::vector<float> d = dd.host();
  for (int lane = 0; lane < 32; ++lane) {
    for (int i = 0; i < 4; ++i) {
      const Place p = place_c(lane, i);
      int sum = small(p.row * 8 + p.column);
      for (int k = 0; k < depth; ++k) sum += a(p.row, k) * b(k, p.column);
      expect(d[index(4 * lane + i)] == static_cast<float>(sum),
             "mma_m16n8k8_tf32, lane " + std::to_string(lane));
    }
  }
}

__global__ void round_tf32(const float* x, unsigned* y) {
  y[threadIdx.x] = tf32(x[threadIdx.x]);
}

void test_rounding() {
  // The bit below the last counts up from one half on, away from zero.
  const std::vector<float> x = {
      1.0f,  1.0f + 0x1p-11f, 1.0f + 0x1p-11f - 0x1p-23f, -1.0f - 0x1p-11f, 2.0f - 0x1p-23f, 0.0f,
      -0.0f, INFINITY};
  const std::vector<float> y = {1.0f, 1.0f + 0x1p-10f, 1.0f,    -1.0f - 0x1p-10f, 2.0f,
                                0.0f, -0.0f,           INFINITY};
  const Array<float> in(x);
  const Array<unsigned> out(x.size());
  launch("tf32", {.grid = 1, .block = static_cast<unsigned>(x.size())}, round_tf32, in.get(),
         out.get());
  const std::vector<unsigned> host = out.host();
  for (std::size_t i = 0; i < x.size(); ++i) {
    unsigned expected;
    std::memcpy(&expected, &y[i], sizeof expected);
    expect(host[i] == expected, "tf32, number " + std::to_string(i));
  }
}

// Eight rows for each of `count` matrices, each row somewhere else, none next to another.
template <int count, bool transposed>
__global__ void load(const unsigned short* x, unsigned* y) {
  unsigned short* shared = dynamic_shared<unsigned short>();
  constexpr int stride = 24;  // of a row: 48 bytes
  for (int i = static_cast<int>(threadIdx.x); i < 8 * count * 8; i += 32) {
    const int row = i / 8;
    shared[(row * 5 % (8 * count)) * stride + i % 8] = x[i];
  }
  __syncthreads();
  const int row = static_cast<int>(threadIdx.x) % (8 * count);
  unsigned registers[count];
  ldmatrix<count, transposed>(registers, &shared[(row * 5 % (8 * count)) * stride]);
  for (int i = 0; i < count; ++i) y[count * threadIdx.x + i] = registers[i];
}

template <int count, bool transposed>
void test_load() {
  std::vector<unsigned short> x(8 * count * 8);
  for (std::size_t i = 0; i < x.size(); ++i) x[i] = static_cast<unsigned short>(i * 131 + 7);
  const Array<unsigned short> in(x);
  const Array<unsigned> out(32 * count);
  launch("ldmatrix", {.grid = 1, .block = 32, .shared_bytes = 8 * count * 48},
         load<count, transposed>, in.get(), out.get());
  const std::vector<unsigned> host = out.host();
  for (int lane = 0; lane < 32; ++lane) {
    for (int matrix = 0; matrix < count; ++matrix) {
      // "ldmatrix": lanes 0 to 3 hold row 0, two elements each, lanes 4 to 7 row 1, and so on.
      const int row = lane / 4;
      unsigned pair = 0;
      for (int half = 1; half >= 0; --half) {
        const int column = lane % 4 * 2 + half;
        const int element = transposed ? column * 8 + row : row * 8 + column;
        pair = pair << 16 | x[index(matrix * 64 + element)];
      }
      expect(host[index(count * lane + matrix)] == pair, "ldmatrix<" + std::to_string(count) +
                                                             (transposed ? ", true>" : ">") +
                                                             ", lane " + std::to_string(lane));
    }
  }
}

// c(16, 8) = a(16, 32) b(32, 8) through ldmatrix, b stored as [n][k] or as [k][n].
template <class T, bool rows_of_k>
__global__ void product(const T* a, const T* b, float* c) {
  constexpr int depth = 32;
  T* tile_a = dynamic_shared<T>();
  T* tile_b = tile_a + 16 * depth;
  for (int i = static_cast<int>(threadIdx.x); i < 16 * depth; i += 32) tile_a[i] = a[i];
  for (int i = static_cast<int>(threadIdx.x); i < 8 * depth; i += 32) tile_b[i] = b[i];
  __syncthreads();
  const int lane = lane_index();
  float d[4] = {};
  for (int k = 0; k < depth; k += 16) {
    unsigned fa[4];
    unsigned fb[2];
    ldmatrix<4>(fa, tile_a + lane % 16 * depth + k + lane / 16 * 8);
    if constexpr (rows_of_k) {
      ldmatrix<2, true>(fb, tile_b + (k + lane % 16) * 8);
    } else {
      ldmatrix<2>(fb, tile_b + lane % 8 * depth + k + lane / 8 % 2 * 8);
    }
    mma_m16n8k16<T>(d, fa, fb);
  }
  for (int i = 0; i < 4; ++i) {
    c[(lane / 4 + i / 2 * 8) * 8 + lane % 4 * 2 + i % 2] = d[i];
  }
}

template <class T, bool rows_of_k>
void test_loaded_product() {
  constexpr int depth = 32;
  std::vector<T> a(16 * depth);
  std::vector<T> b(8 * depth);
  for (int i = 0; i < 16 * depth; ++i) a[index(i)] = T(static_cast<float>(small(i)));
  for (int i = 0; i < 8 * depth; ++i) b[index(i)] = T(static_cast<float>(small(7 * i + 3)));
  const Array<T> in_a(a);
  const Array<T> in_b(b);
  const Array<float> out(16 * 8);
  launch("product", {.grid = 1, .block = 32, .shared_bytes = 24 * depth * sizeof(T)},
         product<T, rows_of_k>, in_a.get(), in_b.get(), out.get());
  const std::vector<float> c = out.host();
  for (int row = 0; row < 16; ++row) {
    for (int column = 0; column < 8; ++column) {
      int sum = 0;
      for (int k = 0; k < depth; ++k) {
        sum += small(row * depth + k) *
               small(7 * (rows_of_k ? k * 8 + column : column * depth + k) + 3);
      }
      expect(c[index(row * 8 + column)] == static_cast<float>(sum),
             "product at " + std::to_string(row) + ", " + std::to_string(column));
    }
  }
}

void test_all() {
  test_load<1, false>();
  test_load<2, false>();
  test_load<4, false>();
  test_load<1, true>();
  test_load<2, true>();
  test_load<4, true>();
  test_product_16<__half>("half");
  test_loaded_product<__half, false>();
  test_loaded_product<__half, true>();
  if (properties().capability() < 80) return;
  test_product_16<__nv_bfloat16>("bfloat16");
  test_loaded_product<__nv_bfloat16, false>();
  test_loaded_product<__nv_bfloat16, true>();
  test_product_tf32();
  test_rounding();
}

}  // namespace

int main() {
  test_all();
  std::printf("%d failures\n", failures.load());
  return failures > 255 ? 255 : failures.load();
}
