// What this machine can do at best, as kernels to be timed: benchmarks measure the ops against it.
//
//   fma    chains of s = s * b + c in registers, 2 FLOPs a lane and step, no memory touched
//   read   every element of an array loaded once and added up
//   copy   y = x, by vector stores or by the C library (which may store past the caches)
//
// Every thread works on a part of its own, `passes` times over, so that what fits its caches is
// found there again.
#pragma once

#include <cstdint>

#include "core/isa.h"

namespace lamella::ceiling {

// The sums of two threads lie on different cache lines: sums has shape (threads, sum_stride).
constexpr std::int64_t sum_stride = 16;

struct Kernels {
  // FLOPs of one thread's step; baseline rounds products, so that a step is two instructions there.
  std::int64_t fma_flops_per_step;
  // With |b| < 1 the chains converge to c / (1 - b): numbers stay normal.
  void (*fma)(int threads, std::int64_t steps, float b, float c, float* sums);
  // x (threads, part), part a multiple of 64.
  void (*read)(int threads, std::int64_t part, std::int64_t passes, const float* x, float* sums);
  // x, y (threads, part), part a multiple of 64, y apart from x.
  void (*copy)(int threads, std::int64_t part, std::int64_t passes, bool by_library, const float* x,
               float* y);
};

LAMELLA_DECLARE_KERNELS()

}  // namespace lamella::ceiling
