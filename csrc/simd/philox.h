// Philox4x32-10 on vectors: the same words as core/philox.h. A counter's four words live in the
// even lanes of four vectors, where a round is two multiplications and nothing has to be moved: the
// high half of a product lies beside the low half, and what odd lanes hold is ignored.
#pragma once

#include "simd/vec.h"

namespace lamella::LAMELLA_ISA {

// The keys of the ten rounds, the same in all lanes.
struct PhiloxKeys {
  Int first[10];
  Int second[10];
};

LAMELLA_INLINE PhiloxKeys philox_keys(std::uint64_t seed) {
  PhiloxKeys keys;
  std::uint32_t k0 = static_cast<std::uint32_t>(seed);
  std::uint32_t k1 = static_cast<std::uint32_t>(seed >> 32);
  for (int round = 0; round < 10; ++round) {
    keys.first[round] = set_int(static_cast<std::int32_t>(k0));
    keys.second[round] = set_int(static_cast<std::int32_t>(k1));
    k0 += 0x9E3779B9u;
    k1 += 0xBB67AE85u;
  }
  return keys;
}

// 2 * width successive words of the stream.
struct PhiloxWords {
  Int first;
  Int second;
};

// The words from 4 * counter on. counter must be a multiple of width / 2, the number of counters
// taken: then none of them carries into its upper 32 bits.
LAMELLA_INLINE PhiloxWords philox(const PhiloxKeys& keys, std::uint64_t counter) {
  // Lanes 4q and 4q + 2 take the counters q and width / 4 + q, which is what zip_pairs undoes.
  constexpr int half = Float::width / 4;
  static constexpr std::int32_t offsets[16] = {0, 0, half + 0, 0, 1, 0, half + 1, 0,
                                               2, 0, half + 2, 0, 3, 0, half + 3, 0};
  const Int m0 = set_int(static_cast<std::int32_t>(0xD2511F53u));
  const Int m1 = set_int(static_cast<std::int32_t>(0xCD9E8D57u));
  Int c0 = set_int(static_cast<std::int32_t>(counter)) + load_int(offsets);
  Int c1 = set_int(static_cast<std::int32_t>(counter >> 32));
  Int c2 = set_int(0);
  Int c3 = set_int(0);
#pragma GCC unroll 10
  for (int round = 0; round < 10; ++round) {
    const Int p0 = multiply_even(c0, m0);
    const Int p1 = multiply_even(c2, m1);
    c0 = odd_to_even(p1) ^ c1 ^ keys.first[round];
    c2 = odd_to_even(p0) ^ c3 ^ keys.second[round];
    c1 = p1;
    c3 = p0;
  }
  const Int words01 = zip_even(c0, c1);
  const Int words23 = zip_even(c2, c3);
  return {zip_pairs_low(words01, words23), zip_pairs_high(words01, words23)};
}

}  // namespace lamella::LAMELLA_ISA
