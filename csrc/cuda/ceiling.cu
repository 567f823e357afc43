#include "cuda/ceiling.h"

#include "cuda/kernel.cuh"
#include "cuda/launch.cuh"

namespace lamella::device::ceiling {
namespace {

constexpr int threads = 256;
constexpr int chains = 8;          // times the warps of a scheduler: more than an FMA's latency
constexpr int steps_unrolled = 8;  // so that the loop's own instructions count for little
constexpr int in_flight = 4;

__global__ void fma_chains(std::int64_t steps, float b, float c, float* sums) {
  float s[chains];
  // Unequal, or the compiler would compute one chain for all.
#pragma unroll
  for (int i = 0; i < chains; ++i) s[i] = c * static_cast<float>(i + 1);
#pragma unroll steps_unrolled
  for (std::int64_t step = 0; step < steps; ++step) {
#pragma unroll
    for (int i = 0; i < chains; ++i) s[i] = fmaf(s[i], b, c);
  }
  float total = 0.0f;
#pragma unroll
  for (int i = 0; i < chains; ++i) total += s[i];
  sums[grid_thread()] = total;
}

__global__ void read_all(std::int64_t count, const float4* x, float* sums) {
  const std::int64_t stride = grid_threads();
  std::int64_t i = grid_thread();
  float total = 0.0f;
  for (; i + (in_flight - 1) * stride < count; i += in_flight * stride) {
    float4 v[in_flight];
#pragma unroll
    for (int k = 0; k < in_flight; ++k) v[k] = x[i + k * stride];
#pragma unroll
    for (int k = 0; k < in_flight; ++k) total += (v[k].x + v[k].y) + (v[k].z + v[k].w);
  }
  for (; i < count; i += stride) total += (x[i].x + x[i].y) + (x[i].z + x[i].w);
  sums[grid_thread()] = total;
}

__global__ void copy_all(std::int64_t count, const float4* x, float4* y) {
  const std::int64_t stride = grid_threads();
  std::int64_t i = grid_thread();
  for (; i + (in_flight - 1) * stride < count; i += in_flight * stride) {
    float4 v[in_flight];
#pragma unroll
    for (int k = 0; k < in_flight; ++k) v[k] = x[i + k * stride];
#pragma unroll
    for (int k = 0; k < in_flight; ++k) y[i + k * stride] = v[k];
  }
  for (; i < count; i += stride) y[i] = x[i];
}

Launch all_at_once() {
  return {dim3(static_cast<unsigned>(resident_blocks(fma_chains, threads, 0))), dim3(threads)};
}

}  // namespace

std::int64_t fma_threads() {
  return static_cast<std::int64_t>(all_at_once().grid.x) * threads;
}

std::int64_t fma_flops_per_step() {
  return 2 * chains * fma_threads();
}

void fma(const char* op, std::int64_t steps, float b, float c, float* sums) {
  launch(op, all_at_once(), fma_chains, steps, b, c, sums);
}

std::int64_t read_threads(std::int64_t count) {
  const Launch shape = elements(count / 4, in_flight);
  return static_cast<std::int64_t>(shape.grid.x) * shape.block.x;
}

void read(const char* op, std::int64_t count, const float* x, float* sums) {
  launch(op, elements(count / 4, in_flight), read_all, count / 4,
         reinterpret_cast<const float4*>(x), sums);
}

void copy(const char* op, std::int64_t count, const float* x, float* y) {
  launch(op, elements(count / 4, in_flight), copy_all, count / 4,
         reinterpret_cast<const float4*>(x), reinterpret_cast<float4*>(y));
}

}  // namespace lamella::device::ceiling
