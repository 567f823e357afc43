// Rotary embedding: one pass over memory, some positions a task.
#include "core/cache.h"
#include "core/memory_pool.h"
#include "ops/rotary_embedding/rotary_embedding.h"
#include "simd/pointwise.h"

namespace lamella::LAMELLA_ISA {
namespace {

using rotary_embedding::Problem;

// A task's share of the result: large enough to pay for its start, small enough for L2.
constexpr std::int64_t task_floats = 16384;

template <bool past_caches>
LAMELLA_INLINE void put(WholeVector at, float* p, Float v) {
  past_caches ? stream(p + at.i, v) : store(p + at.i, v);
}
template <bool past_caches>
LAMELLA_INLINE void put(PartOfVector at, float* p, Float v) {
  at.put(p, v);
}

LAMELLA_INLINE Float of_direction(Float sin, bool backward) {
  return backward ? zero() - sin : sin;
}

template <bool past_caches>
void turn_halves(const Problem& p, std::int64_t begin, std::int64_t end, const float* x, float* y) {
  for (std::int64_t position = begin; position < end; ++position) {
    const float* const cos = p.cos + position % p.period * p.half;
    const float* const sin = p.sin + position % p.period * p.half;
    for (std::int64_t head = 0; head < p.heads; ++head) {
      const std::int64_t row = (position * p.heads + head) * 2 * p.half;
      for_vectors(0, p.half, [&](auto at) {
        const Float c = at.get(cos);
        const Float s = of_direction(at.get(sin), p.backward);
        const Float x1 = at.get(x + row);
        const Float x2 = at.get(x + row + p.half);
        put<past_caches>(at, y + row, fnma(x2, s, x1 * c));
        put<past_caches>(at, y + row + p.half, fma(x1, s, x2 * c));
      });
    }
  }
}

// The lanes 2k and 2k + 1 exchanged.
LAMELLA_INLINE Float swap_neighbours(Float x) {
  return from_bits(zip_even(odd_to_even(bits(x)), bits(x)));
}

// `turns` (4 half) is memory for a position's factors: cos twice each, then -sin and sin.
template <bool past_caches>
void turn_neighbours(const Problem& p, std::int64_t begin, std::int64_t end, const float* x,
                     float* y, float* turns) {
  const std::int64_t size = 2 * p.half;
  const float sign = p.backward ? -1.0f : 1.0f;
  for (std::int64_t position = begin; position < end; ++position) {
    const float* const cos = p.cos + position % p.period * p.half;
    const float* const sin = p.sin + position % p.period * p.half;
    for (std::int64_t k = 0; k < p.half; ++k) {
      turns[2 * k] = turns[2 * k + 1] = cos[k];
      turns[size + 2 * k] = -sign * sin[k];
      turns[size + 2 * k + 1] = sign * sin[k];
    }
    for (std::int64_t head = 0; head < p.heads; ++head) {
      const std::int64_t row = (position * p.heads + head) * size;
      for_vectors(0, size, [&](auto at) {
        const Float v = at.get(x + row);
        const Float turned = swap_neighbours(v) * at.get(turns + size);
        put<past_caches>(at, y + row, fma(v, at.get(turns), turned));
      });
    }
  }
}

template <bool past_caches>
void turn_all(const Problem& p, const float* x, float* y) {
  const std::int64_t chunk = max_i(1, task_floats / (p.heads * 2 * p.half));
  const std::int64_t tasks = ceil_div(p.positions, chunk);
  const int slots = static_cast<int>(min_i(num_threads(), tasks));
  const Scratch<float> turns(p.op, p.interleaved ? slots * 4 * p.half : 0);
  parallel_for_slots(tasks, slots, [&](std::int64_t task, int slot) {
    const std::int64_t begin = task * chunk;
    const std::int64_t end = min_i(begin + chunk, p.positions);
    if (p.interleaved) {
      turn_neighbours<past_caches>(p, begin, end, x, y, turns.get() + slot * 4 * p.half);
    } else {
      turn_halves<past_caches>(p, begin, end, x, y);
    }
    if (past_caches) stream_fence();
  });
}

void turn(const Problem& p, const float* x, float* y) {
  if (p.positions == 0) return;
  const std::int64_t row = p.interleaved ? 2 * p.half : p.half;
  const std::int64_t bytes = p.positions * p.heads * 2 * p.half * 4;
  if (outgrows_cache(bytes) && can_stream(y, row)) {
    turn_all<true>(p, x, y);
  } else {
    turn_all<false>(p, x, y);
  }
}

}  // namespace
}  // namespace lamella::LAMELLA_ISA

namespace lamella::rotary_embedding::LAMELLA_ISA {

extern const Kernels kernels = {lamella::LAMELLA_ISA::turn};

}  // namespace lamella::rotary_embedding::LAMELLA_ISA
