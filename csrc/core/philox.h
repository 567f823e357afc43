// Philox4x32-10, a counter-based random generator (Salmon, Moraes, Dror, Shaw: "Parallel random
// numbers: as easy as 1, 2, 3", SC 2011). Element i of a stream is a pure function of (seed, i), so
// any thread and any backend computes any element, and a backward pass recomputes the mask of its
// forward pass instead of keeping it.
#pragma once

#include <cstdint>

#include "core/host_device.h"

namespace lamella {

struct Philox4 {
  std::uint32_t word[4];
};

// Four words: those numbered 4 * counter .. 4 * counter + 3 of the stream `seed`.
LAMELLA_HOST_DEVICE inline Philox4 philox(std::uint64_t seed, std::uint64_t counter) {
  std::uint32_t c0 = static_cast<std::uint32_t>(counter);
  std::uint32_t c1 = static_cast<std::uint32_t>(counter >> 32);
  std::uint32_t c2 = 0;
  std::uint32_t c3 = 0;
  std::uint32_t k0 = static_cast<std::uint32_t>(seed);
  std::uint32_t k1 = static_cast<std::uint32_t>(seed >> 32);
  for (int round = 0; round < 10; ++round) {
    const std::uint64_t p0 = std::uint64_t{0xD2511F53u} * c0;
    const std::uint64_t p1 = std::uint64_t{0xCD9E8D57u} * c2;
    const std::uint32_t n0 = static_cast<std::uint32_t>(p1 >> 32) ^ c1 ^ k0;
    const std::uint32_t n2 = static_cast<std::uint32_t>(p0 >> 32) ^ c3 ^ k1;
    c1 = static_cast<std::uint32_t>(p1);
    c3 = static_cast<std::uint32_t>(p0);
    c0 = n0;
    c2 = n2;
    k0 += 0x9E3779B9u;
    k1 += 0xBB67AE85u;
  }
  return {{c0, c1, c2, c3}};
}

// Dropout keeps an element when its word is below this: P(keep) = 1 - rate to within 2^-32.
inline std::uint64_t dropout_threshold(double rate) {
  return static_cast<std::uint64_t>((1.0 - rate) * 4294967296.0);
}

}  // namespace lamella
