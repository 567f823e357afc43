// What the device can do at best, as kernels to be timed: benchmarks measure the ops against it.
//
//   fma    chains of s = s * b + c in registers, 2 FLOPs a thread, chain and step
//   read   every element of an array loaded once and added up
//   copy   y = x
//
// One pass over an array is one launch, as it is of an op: so a pass finds in the L2 what fits it,
// and nothing in the multiprocessors' own caches.
#pragma once

#include <cstdint>

namespace lamella::device::ceiling {

// Threads that run at once, each of which writes a sum; FLOPs of a step of all of them.
std::int64_t fma_threads();
std::int64_t fma_flops_per_step();
// With |b| < 1 the chains converge to c / (1 - b): numbers stay normal.
void fma(const char* op, std::int64_t steps, float b, float c, float* sums);

std::int64_t read_threads(std::int64_t count);
// x (count), sums (read_threads(count)); count a multiple of 4, x aligned to 16 bytes.
void read(const char* op, std::int64_t count, const float* x, float* sums);
// x, y (count), likewise.
void copy(const char* op, std::int64_t count, const float* x, float* y);

}  // namespace lamella::device::ceiling
