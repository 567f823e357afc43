// What both passes of the LSTM with layer normalization and projection share: rows of gates and
// their statistics, and the vectors that go with them in the rows' layout.
#pragma once

#include "core/memory_pool.h"
#include "ops/lstm/lstm.h"
#include "recurrent/gate_panels.h"
#include "simd/row_sums.h"

namespace lamella::LAMELLA_ISA {

// body(u, k) for the vectors of padded units: unit u is at k in a row of gates, and each further
// gate's a block of units behind it.
template <class Body>
LAMELLA_INLINE void for_unit_vectors(const GateLayout& gates, const Body& body) {
  const std::int64_t blocks = gates.blocks();
  for (std::int64_t block = 0; block < blocks; ++block) {
    for (std::int64_t w = 0; w < unit_block; w += Float::width) {
      body(block * unit_block + w, block * (4 * unit_block) + w);
    }
  }
}

// Which of a row's statistics.
enum Normalized : std::int64_t { of_x, of_h, of_c };
using lstm::statistics_floats;

// The mean of a row and 1 / its deviation.
struct RowStatistics {
  Float mean, inverse_deviation;

  // From where they are kept; of what is not normalized there are none.
  RowStatistics(const float* gamma, const float* row, Normalized which)
      : mean(gamma == nullptr ? zero() : set(row[2 * which])),
        inverse_deviation(gamma == nullptr ? zero() : set(row[2 * which + 1])) {}
  LAMELLA_INLINE Float unit(Float v) const { return (v - mean) * inverse_deviation; }
};

// body(at) for the vectors of a row, without the lanes behind its last unit.
template <class Body>
LAMELLA_INLINE void for_units(const GateLayout& l, const Body& body) {
  const std::int64_t whole = l.units / unit_block * l.block_floats();
  for (std::int64_t i = 0; i < whole; i += Float::width) body(WholeVector{i});
  const std::int64_t rest = l.units % unit_block;
  if (rest == 0) return;
  for (std::int64_t gate = 0; gate < l.gates; ++gate) {
    for (std::int64_t w = 0; w < rest; w += Float::width) {
      body(PartOfVector{whole + gate * unit_block + w, min_i(Float::width, rest - w)});
    }
  }
}

// Mean and 1 / deviation of some rows, to[row][2]. Two passes over what is in L1: the sum of the
// squares less the square of the sum would lose the digits that the mean has.
template <int rows>
LAMELLA_INLINE void statistics_of(const GateLayout& l, const float* const* v, float epsilon,
                                  float* const* to) {
  const float share = 1.0f / static_cast<float>(l.gates * l.units);
  Float sums[rows], means[rows];
#pragma GCC unroll 4
  for (int r = 0; r < rows; ++r) sums[r] = zero();
  for_units(l, [&](auto at) {
#pragma GCC unroll 4
    for (int r = 0; r < rows; ++r) sums[r] = sums[r] + at.get(v[r]);
  });
#pragma GCC unroll 4
  for (int r = 0; r < rows; ++r) {
    to[r][0] = share * sum(sums[r]);
    means[r] = set(to[r][0]);
    sums[r] = zero();
  }
  for_units(l, [&](auto at) {
#pragma GCC unroll 4
    for (int r = 0; r < rows; ++r) {
      const Float d = inside_or(at.get(v[r]) - means[r], at, zero());
      sums[r] = fma(d, d, sums[r]);
    }
  });
#pragma GCC unroll 4
  for (int r = 0; r < rows; ++r) {
    to[r][1] = 1.0f / __builtin_sqrtf(share * sum(sums[r]) + epsilon);
  }
}

// Four rows at a time: one alone would wait for each sum, its root and its quotient.
inline void row_statistics(const GateLayout& l, const float* const* v, std::int64_t rows,
                           float epsilon, float* const* to) {
  std::int64_t r = 0;
  for (; r + 4 <= rows; r += 4) statistics_of<4>(l, v + r, epsilon, to + r);
  for (; r < rows; ++r) statistics_of<1>(l, v + r, epsilon, to + r);
}

// The vectors of an LSTM in its rows' layout, zeros behind the last unit and where one is absent.
class VariantVectors {
 public:
  VariantVectors(const recurrent::Sequence& q, const lstm::Variant& v)
      : memory_(q.op,
                3 * GateLayout{q.units, 4}.row_floats() + 2 * GateLayout{q.units, 1}.row_floats()) {
    const GateLayout of_gates = {q.units, 4};
    const GateLayout of_units = {q.units, 1};
    float* to = memory_.get();
    bias = pack(of_gates, q.bias, to);
    gamma_x = pack(of_gates, v.gamma_x, to);
    gamma_h = pack(of_gates, v.gamma_h, to);
    gamma_c = pack(of_units, v.gamma_c, to);
    beta_c = pack(of_units, v.beta_c, to);
  }

  const float* bias;
  const float* gamma_x;
  const float* gamma_h;
  const float* gamma_c;
  const float* beta_c;

 private:
  static const float* pack(const GateLayout& l, const float* from, float*& to) {
    float* const row = to;
    to += l.row_floats();
    if (from == nullptr) {
      std::memset(row, 0, static_cast<std::size_t>(l.row_floats()) * sizeof(float));
    } else {
      pack_gate_panels(l, from, 1, 0, l.blocks(), row);
    }
    return row;
  }

  Scratch<float> memory_;
};

}  // namespace lamella::LAMELLA_ISA
