// Kernels that break a rule of CUDA, and beside some the same kernel without its fault.
//
//   broken CASE SEED
//
// prints "result" and a few numbers, or "error" and the text of the exception; then, having run a
// correct kernel, "alive".
#include <cmath>
#include <cstdlib>
#include <cstring>

#include "cuda/copy.cuh"
#include "cuda/grid_barrier.cuh"
#include "cuda/mma.cuh"
#include "cuda/reduce.cuh"
#include "program.h"

using namespace lamella::device;

namespace {

constexpr int threads = 128;

// y = x reversed, through shared memory.
template <bool with_barrier>
__global__ void reverse(const float* x, float* y) {
  float* shared = dynamic_shared<float>();
  shared[threadIdx.x] = x[threadIdx.x];
  if constexpr (with_barrier) __syncthreads();
  y[threadIdx.x] = shared[threads - 1 - threadIdx.x];
}

template <bool with_barrier>
__global__ void reverse_static(const float* x, float* y) {
  __shared__ float shared[threads];
  shared[threadIdx.x] = x[threadIdx.x];
  if constexpr (with_barrier) __syncthreads();
  y[threadIdx.x] = shared[threads - 1 - threadIdx.x];
}

// Each lane of a warp hands its value to the next one.
template <bool with_barrier>
__global__ void hand_over(const float* x, float* y) {
  float* shared = dynamic_shared<float>();
  shared[threadIdx.x] = x[threadIdx.x];
  if constexpr (with_barrier) __syncwarp();
  y[threadIdx.x] = shared[warp_index() * warp_size + (lane_index() + 1) % warp_size];
}

// Two sums with the same shared memory; without a barrier between them the second overwrites what
// slower threads still read of the first.
template <bool with_barrier>
__global__ void two_sums(const float* x, float* y) {
  float* shared = dynamic_shared<float>();
  float total = 0;
  for (int round = 0; round < 2; ++round) {
    const float sum = warp_sum(x[threadIdx.x] * (round == 0 ? 1.0f : 100.0f));
    if (lane_index() == 0) shared[warp_index()] = sum;
    __syncthreads();
    for (int warp = 0; warp < threads / warp_size; ++warp) total += shared[warp];
    if constexpr (with_barrier) __syncthreads();
  }
  y[threadIdx.x] = total;
}

template <bool with_wait>
__global__ void copy(const float* x, float* y) {
  float* shared = dynamic_shared<float>();
  copy_async<4>(shared + threadIdx.x, x + threadIdx.x);
  copy_commit();
  if constexpr (with_wait) copy_wait<0>();
  __syncthreads();
  y[threadIdx.x] = shared[threads - 1 - threadIdx.x];
}

// The second of two groups is read when only the first has been waited for.
__global__ void copy_wait_short(const float* x, float* y) {
  float* shared = dynamic_shared<float>();
  for (int group = 0; group < 2; ++group) {
    copy_async<4>(shared + group * threads + threadIdx.x, x + threadIdx.x);
    copy_commit();
  }
  copy_wait<1>();
  __syncthreads();
  y[threadIdx.x] = shared[threadIdx.x] + shared[threads + threadIdx.x];
}

__global__ void copy_uncommitted(const float* x, float* y) {
  float* shared = dynamic_shared<float>();
  copy_async<4>(shared + threadIdx.x, x + threadIdx.x);
  copy_wait<0>();
  y[threadIdx.x] = shared[threadIdx.x];
}

// The source is overwritten before the copy has landed: either value may arrive.
__global__ void copy_from_changing(float* x, float* y) {
  float* shared = dynamic_shared<float>();
  copy_async<4>(shared + threadIdx.x, x + threadIdx.x);
  copy_commit();
  x[threadIdx.x] = 1e6f;
  copy_wait<0>();
  y[threadIdx.x] = shared[threadIdx.x];
}

__global__ void copy_misaligned(const float* x, float* y) {
  float* shared = dynamic_shared<float>();
  copy_async<16>(shared, x + 1);
  copy_commit();
  copy_wait<0>();
  y[threadIdx.x] = shared[0];
}

__global__ void write_dynamic(float* y, int place) {
  float* shared = dynamic_shared<float>();
  if (threadIdx.x == 5) shared[place] = 1.0f;
  shared[threadIdx.x] = 0.0f;
  y[threadIdx.x] = shared[threadIdx.x];
}

__global__ void read_dynamic(float* y, int place) {
  float* shared = dynamic_shared<float>();
  shared[threadIdx.x] = 0.0f;
  __syncthreads();
  y[threadIdx.x] = shared[place];
}

__global__ void read_static(float* y, int place) {
  __shared__ float shared[threads];
  shared[threadIdx.x] = 0.0f;
  __syncthreads();
  y[threadIdx.x] = shared[place];
}

__global__ void read_global(const float* x, float* y, int place) {
  y[threadIdx.x] = x[place];
}

__global__ void unwritten(float* y) {
  float* shared = dynamic_shared<float>();
  if (threadIdx.x != 7) shared[threadIdx.x] = 1.0f;
  __syncthreads();
  y[threadIdx.x] = shared[threadIdx.x];
}

__global__ void barrier_for_some(float* y) {
  if (threadIdx.x < 96) __syncthreads();
  y[threadIdx.x] = 0.0f;
}

__global__ void two_barriers(float* y) {
  if (threadIdx.x < 64) {
    __syncthreads();
  } else {
    __syncthreads();
  }
  y[threadIdx.x] = 0.0f;
}

__global__ void barrier_against_shuffle(float* y) {
  if (threadIdx.x == 40) {
    __syncthreads();
  } else {
    y[threadIdx.x] = __shfl_xor_sync(all_lanes, 1.0f, 1);
    __syncthreads();
  }
}

__global__ void shuffle_absent(float* y) {
  if (threadIdx.x == 33) return;
  y[threadIdx.x] = __shfl_xor_sync(all_lanes, 1.0f, 1);
}

__global__ void shuffle_not_in_mask(float* y) {
  if (threadIdx.x < 16) y[threadIdx.x] = __shfl_sync(0x0000FFFFu, 1.0f, 20);
}

__global__ void shuffle_small_block(float* y) {
  y[threadIdx.x] = __shfl_down_sync(all_lanes, 1.0f, 8);
}

__global__ void mask_without_self(float* y) {
  y[threadIdx.x] = static_cast<float>(__ballot_sync(0xFFFF0000u, 1));
}

__global__ void different_masks(float* y) {
  const unsigned mask = lane_index() < 16 ? 0xFFFFFFFFu : 0xFFFF8000u;
  y[threadIdx.x] = static_cast<float>(__ballot_sync(mask, 1));
}

__global__ void different_kinds(float* y) {
  if (lane_index() % 2 == 0) {
    y[threadIdx.x] = __shfl_xor_sync(all_lanes, 1.0f, 2);
  } else {
    y[threadIdx.x] = __shfl_down_sync(all_lanes, 1.0f, 2);
  }
}

__global__ void lane_elsewhere(float* y) {
  if (lane_index() >= 16) __syncwarp();
  __syncthreads();
  y[threadIdx.x] = 0.0f;
}

__global__ void bad_width(float* y) {
  y[threadIdx.x] = __shfl_xor_sync(all_lanes, 1.0f, 1, 12);
}

__global__ void mma_without_lane(float* y) {
  if (threadIdx.x == 3) return;
  float d[4] = {};
  const unsigned a[4] = {};
  const unsigned b[2] = {};
  mma_m16n8k16<__half>(d, a, b);
  y[threadIdx.x] = d[0];
}

__global__ void ldmatrix_misaligned(float* y) {
  __half* shared = dynamic_shared<__half>();
  for (int i = 0; i < 2; ++i) shared[2 * threadIdx.x + i] = __float2half(0.0f);
  __syncthreads();
  unsigned registers[1];
  ldmatrix<1>(registers, shared + lane_index() % 8 * 10);
  y[threadIdx.x] = static_cast<float>(registers[0]);
}

__global__ void meet(float* y, unsigned* barrier, int absent) {
  if (static_cast<int>(threadIdx.x) != absent) grid_barrier(barrier);
  y[threadIdx.x] = 0.0f;
}

__global__ void wait_for_ever(const unsigned* flag) {
  while (__ldcg(flag) == 0) __nanosleep(20);
}

__global__ void trap(float* y) {
  if (threadIdx.x == 17) __trap();
  y[threadIdx.x] = 0.0f;
}

__global__ void nothing() {}

struct Case {
  const char* name;
  void (*run)(float* x, float* y);
};

constexpr std::size_t shared_bytes = threads * sizeof(float);
constexpr Launch one_block = {.grid = 1, .block = threads, .shared_bytes = 2 * shared_bytes};

template <class... Parameters>
void start(Launch shape, void (*kernel)(Parameters...), std::type_identity_t<Parameters>... p) {
  launch("broken", shape, kernel, p...);
}

Launch exact() {
  Launch shape = one_block;
  shape.shared_bytes = shared_bytes;
  return shape;
}

void meeting(bool cooperative, unsigned value, int absent, float* y) {
  Launch shape = one_block;
  shape.cooperative = cooperative;
  const Array<unsigned> barrier(std::vector<unsigned>{value});
  start(shape, meet, y, barrier.get(), absent);
}

const Case cases[] = {
    {"reverse", [](float* x, float* y) { start(one_block, reverse<true>, x, y); }},
    {"reverse_static", [](float* x, float* y) { start(one_block, reverse_static<true>, x, y); }},
    {"hand_over", [](float* x, float* y) { start(one_block, hand_over<true>, x, y); }},
    {"two_sums", [](float* x, float* y) { start(one_block, two_sums<true>, x, y); }},
    {"copy", [](float* x, float* y) { start(one_block, copy<true>, x, y); }},
    {"no_barrier", [](float* x, float* y) { start(one_block, reverse<false>, x, y); }},
    {"no_barrier_static",
     [](float* x, float* y) { start(one_block, reverse_static<false>, x, y); }},
    {"no_warp_barrier", [](float* x, float* y) { start(one_block, hand_over<false>, x, y); }},
    {"no_second_barrier", [](float* x, float* y) { start(one_block, two_sums<false>, x, y); }},
    {"no_wait", [](float* x, float* y) { start(one_block, copy<false>, x, y); }},
    {"wait_short", [](float* x, float* y) { start(one_block, copy_wait_short, x, y); }},
    {"uncommitted", [](float* x, float* y) { start(one_block, copy_uncommitted, x, y); }},
    {"changing_source", [](float* x, float* y) { start(one_block, copy_from_changing, x, y); }},
    {"misaligned_copy", [](float* x, float* y) { start(one_block, copy_misaligned, x, y); }},
    {"dynamic_beyond", [](float*, float* y) { start(exact(), write_dynamic, y, threads); }},
    {"dynamic_before", [](float*, float* y) { start(exact(), write_dynamic, y, -3); }},
    {"dynamic_read", [](float*, float* y) { start(exact(), read_dynamic, y, threads); }},
    {"static_read", [](float*, float* y) { start(exact(), read_static, y, threads); }},
    {"global_read", [](float* x, float* y) { start(exact(), read_global, x, y, 4 * threads); }},
    {"unwritten", [](float*, float* y) { start(exact(), unwritten, y); }},
    {"no_dynamic",
     [](float* x, float* y) { start({.grid = 1, .block = threads}, reverse<true>, x, y); }},
    {"barrier_for_some", [](float*, float* y) { start(one_block, barrier_for_some, y); }},
    {"two_barriers", [](float*, float* y) { start(one_block, two_barriers, y); }},
    {"barrier_against_shuffle",
     [](float*, float* y) { start(one_block, barrier_against_shuffle, y); }},
    {"shuffle_absent", [](float*, float* y) { start(one_block, shuffle_absent, y); }},
    {"shuffle_not_in_mask", [](float*, float* y) { start(one_block, shuffle_not_in_mask, y); }},
    {"shuffle_small_block",
     [](float*, float* y) { start({.grid = 1, .block = dim3(4, 6)}, shuffle_small_block, y); }},
    {"mask_without_self", [](float*, float* y) { start(one_block, mask_without_self, y); }},
    {"different_masks", [](float*, float* y) { start(one_block, different_masks, y); }},
    {"different_kinds", [](float*, float* y) { start(one_block, different_kinds, y); }},
    {"lane_elsewhere", [](float*, float* y) { start(one_block, lane_elsewhere, y); }},
    {"bad_width", [](float*, float* y) { start(one_block, bad_width, y); }},
    {"mma_without_lane", [](float*, float* y) { start(one_block, mma_without_lane, y); }},
    {"ldmatrix_misaligned", [](float*, float* y) { start(one_block, ldmatrix_misaligned, y); }},
    {"grid_barrier", [](float*, float* y) { meeting(true, 0x80000000u, -1, y); }},
    {"grid_barrier_alone", [](float*, float* y) { meeting(false, 0, -1, y); }},
    {"grid_barrier_not_zero", [](float*, float* y) { meeting(true, 3, -1, y); }},
    {"grid_barrier_absent", [](float*, float* y) { meeting(true, 0, 9, y); }},
    {"wait_for_ever",
     [](float*, float*) {
       const Array<unsigned> flag(std::vector<unsigned>{0});
       start(one_block, wait_for_ever, flag.get());
     }},
    {"trap", [](float*, float* y) { start(one_block, trap, y); }},
    {"too_many_threads", [](float*, float*) { start({.grid = 1, .block = 1025}, nothing); }},
    {"no_threads", [](float*, float*) { start({.grid = 1, .block = 0}, nothing); }},
    {"too_many_blocks",
     [](float*, float*) { start({.grid = dim3(1, 65536), .block = 1}, nothing); }},
    {"too_much_shared",
     [](float*, float*) {
       start({.grid = 1, .block = 1, .shared_bytes = properties().shared_bytes + 1}, nothing);
     }},
    {"too_many_resident",
     [](float*, float*) {
       const int most = resident_blocks(nothing, 512, 0);
       start({.grid = static_cast<unsigned>(most + 1), .block = 512, .cooperative = true}, nothing);
     }},
};

}  // namespace

int main(int count, char** arguments) {
  if (count != 3) return 2;
#if defined(LAMELLA_SIMT)
  lamella::simt::set_seed(std::strtoull(arguments[2], nullptr, 10));
#endif
  const Array<float> x(numbers(threads));
  const Array<float> y(threads);
  for (const Case& c : cases) {
    if (std::strcmp(c.name, arguments[1]) != 0) continue;
    try {
      c.run(x.get(), y.get());
      std::printf("result");
      for (const float value : y.host()) std::printf(" %.9g", static_cast<double>(value));
      std::printf("\n");
    } catch (const std::exception& error) {
      std::printf("error %s\n", error.what());
    }
    fill_bytes(y.get(), 0xFF, shared_bytes);
    start(one_block, reverse<true>, x.get(), y.get());
    const std::vector<float> in = x.host();
    const std::vector<float> out = y.host();
    for (std::size_t i = 0; i < threads; ++i) {
      expect(out[i] == in[threads - 1 - i], "a correct kernel after it");
    }
    if (failures == 0) std::printf("alive\n");
    return failures;
  }
  std::printf("no case %s\n", arguments[1]);
  return 2;
}
