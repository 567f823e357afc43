// Dropout: one pass over memory; the random words take about as long as the loads and stores.
#include "ops/dropout/dropout.h"
#include "simd/philox.h"
#include "simd/pointwise.h"

namespace lamella::LAMELLA_ISA {
namespace {

LAMELLA_INLINE Float kept(Float x, Int words, Int threshold, Float scale) {
  return select(less_unsigned(words, threshold), x * scale, zero());
}

void apply(dropout::Mask mask, std::int64_t size, const float* x, float* y) {
  const Float scale = set(mask.scale);
  if (mask.threshold > 0xFFFFFFFFu) {  // no word is above it
    return parallel_vectors(size, [&](auto place) { place.put(y, place.get(x) * scale); });
  }
  const PhiloxKeys keys = philox_keys(mask.seed);
  const Int threshold = set_int(static_cast<std::int32_t>(mask.threshold));
  constexpr std::int64_t step = 2 * Float::width;
  static_assert(pointwise_chunk % step == 0);
  parallel_chunks(size, pointwise_chunk, [&](std::int64_t begin, std::int64_t end) {
    std::int64_t i = begin;
    for (; i + step <= end; i += step) {
      const PhiloxWords words = philox(keys, static_cast<std::uint64_t>(i) / 4);
      store(y + i, kept(load(x + i), words.first, threshold, scale));
      store(y + i + Float::width, kept(load(x + i + Float::width), words.second, threshold, scale));
    }
    if (i == end) return;
    const PhiloxWords words = philox(keys, static_cast<std::uint64_t>(i) / 4);
    const std::int64_t n = min_i(end - i, Float::width);
    store_n(y + i, kept(load_n(x + i, n), words.first, threshold, scale), n);
    i += n;
    if (i == end) return;
    store_n(y + i, kept(load_n(x + i, end - i), words.second, threshold, scale), end - i);
  });
}

}  // namespace
}  // namespace lamella::LAMELLA_ISA

namespace lamella::dropout::LAMELLA_ISA {

extern const Kernels kernels = {lamella::LAMELLA_ISA::apply};

}  // namespace lamella::dropout::LAMELLA_ISA
