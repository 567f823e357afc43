// Dropout: y = x keep / (1 - rate), and backward dx = dy keep / (1 - rate) with the same mask,
// which is recomputed from the seed instead of kept.
//
// Element i of the array in C order is kept when word i of the Philox stream of the seed (word i %
// 4 of counter i / 4, core/philox.h) is below dropout_threshold(rate): a function of seed, rate and
// i alone, the same on every instruction set. What is dropped is 0, whatever it was.
#pragma once

#include <cstdint>

#include "core/isa.h"

namespace lamella::dropout {

struct Mask {
  std::uint64_t seed;
  std::uint64_t threshold;  // at most 2^32, which keeps everything
  float scale;              // 1 / (1 - rate)
};

struct Kernels {
  // y[i] = x[i] scale where i is kept, else 0; both directions.
  void (*apply)(Mask mask, std::int64_t size, const float* x, float* y);
};

LAMELLA_DECLARE_KERNELS()

}  // namespace lamella::dropout
