#include "ops/ceiling/ceiling.h"

#include "simd/task.h"

namespace lamella::LAMELLA_ISA {
namespace {

// Latency times units: 8 chains on current x86 cores, 16 where there are four units.
constexpr int chains = Float::registers == 32 ? 24 : 12;
constexpr int unroll = 4;

void fma_chains(int threads, std::int64_t steps, float b, float c, float* sums) {
  parallel_for(threads, [=](std::int64_t thread) {
    Float s[chains];
    // Unequal, or the compiler would compute one chain for all.
#pragma GCC unroll 24
    for (int i = 0; i < chains; ++i) s[i] = set(c * static_cast<float>(i + 1));
    const Float factor = set(b);
    const Float term = set(c);
    for (std::int64_t step = 0; step < steps; ++step) {
#pragma GCC unroll 24
      for (int i = 0; i < chains; ++i) s[i] = fma(s[i], factor, term);
    }
    Float total = zero();
#pragma GCC unroll 24
    for (int i = 0; i < chains; ++i) total = total + s[i];
    sums[thread * ceiling::sum_stride] = sum(total);
  });
}

void read(int threads, std::int64_t part, std::int64_t passes, const float* x, float* sums) {
  parallel_for(threads, [=](std::int64_t thread) {
    const float* begin = x + thread * part;
    Float s[unroll];
    for (int i = 0; i < unroll; ++i) s[i] = zero();
    for (std::int64_t pass = 0; pass < passes; ++pass) {
      for (std::int64_t k = 0; k < part; k += unroll * Float::width) {
#pragma GCC unroll 4
        for (int i = 0; i < unroll; ++i) s[i] = s[i] + load(begin + k + i * Float::width);
      }
    }
    sums[thread * ceiling::sum_stride] = sum((s[0] + s[1]) + (s[2] + s[3]));
  });
}

void copy(int threads, std::int64_t part, std::int64_t passes, bool by_library, const float* x,
          float* y) {
  parallel_for(threads, [=](std::int64_t thread) {
    const float* from = x + thread * part;
    float* to = y + thread * part;
    for (std::int64_t pass = 0; pass < passes; ++pass) {
      if (by_library) {
        std::memcpy(to, from, static_cast<std::size_t>(part) * sizeof(float));
        continue;
      }
      for (std::int64_t k = 0; k < part; k += unroll * Float::width) {
#pragma GCC unroll 4
        for (int i = 0; i < unroll; ++i) {
          store(to + k + i * Float::width, load(from + k + i * Float::width));
        }
      }
    }
  });
}

}  // namespace
}  // namespace lamella::LAMELLA_ISA

namespace lamella::ceiling::LAMELLA_ISA {

namespace kernel = lamella::LAMELLA_ISA;
extern const Kernels kernels = {2 * kernel::chains * kernel::Float::width, kernel::fma_chains,
                                kernel::read, kernel::copy};

}  // namespace lamella::ceiling::LAMELLA_ISA
