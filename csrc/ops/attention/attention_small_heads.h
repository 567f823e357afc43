// Attention forward of heads that fill half a vector or less, where all queries see all keys:
// scores lie turned, a key's with all queries of a block side by side, so that vectors are full in
// both products and maxima and sums need no steps across a vector. Keys and values stay in place.
#pragma once

#include "ops/attention/attention_products.h"

namespace lamella::LAMELLA_ISA {

class SmallHeads {
 public:
  static bool suits(const attention::Problem& p, const attention::Results& out) {
    const Scores scores(p);
    return scores.plain() && scores.shows_all() && !p.drops && out.weights == nullptr &&
           2 * p.value_size <= Float::width && p.queries * p.group() >= Float::width && p.keys > 0;
  }

  SmallHeads(const attention::Problem& p, const attention::Results& out)
      : p_(p),
        out_(out),
        rest_(Scores(p).rest()),
        blocks_(ceil_div(p.queries * p.group(), block_rows)),
        slots_(static_cast<int>(min_i(num_threads(), p.batch * p.key_heads * blocks_))),
        queries_(p.op, slots_ * block_rows * p.size),
        x_(p.op, slots_ * block_keys * block_rows),
        sums_(p.op, slots_ * block_rows * p.value_size),
        straight_(p.op, slots_ * block_rows * whole_vectors(p.value_size)),
        keys_(p.op, slots_ * block_keys) {}

  void run() const {
    parallel_for_slots(p_.batch * p_.key_heads * blocks_, slots_, [&](std::int64_t task, int slot) {
      const std::int64_t head = task / blocks_;
      const GroupRows rows(p_, head / p_.key_heads, head % p_.key_heads);
      const std::int64_t row = task % blocks_ * block_rows;
      attend(rows, row, min_i(block_rows, rows.count() - row), slot);
    });
  }

 private:
  static constexpr std::int64_t block_rows = score_panel;
  static constexpr std::int64_t vectors = block_rows / Float::width;
  static constexpr std::int64_t block_keys = 128;

  // Of the queries of a block, a lane each.
  struct Running {
    Float maximum[vectors];
    Float total[vectors];
  };

  // Rows [row, row + count).
  void attend(const GroupRows& rows, std::int64_t row, std::int64_t count, int slot) const {
    float* const queries = queries_.get() + slot * block_rows * p_.size;
    turn_queries(rows, row, count, queries);
    const Span columns = {0, whole_vectors(count)};
    const Block x = {x_.get() + slot * block_keys * block_rows, block_rows};
    const Block sums = {sums_.get() + slot * block_rows * p_.value_size, block_rows};
    for (std::int64_t i = 0; i < block_rows * p_.value_size; i += Float::width) {
      store(sums.data + i, zero());
    }
    Running r;
    for (std::int64_t v = 0; v < vectors; ++v) {
      r.maximum[v] = set(minus_infinity);
      r.total[v] = zero();
    }
    const float** const keys = keys_.get() + slot * block_keys;
    const std::int64_t stride = p_.key_heads * p_.size;
    const std::int64_t value_stride = p_.key_heads * p_.value_size;
    for (std::int64_t first = 0; first < p_.keys; first += block_keys) {
      const std::int64_t n = min_i(block_keys, p_.keys - first);
      const float* const key = p_.key + (rows.n * p_.keys + first) * stride + rows.k * p_.size;
      for (std::int64_t j = 0; j < n; ++j) keys[j] = key + j * stride;
      multiply_turned(keys, n, p_.size, queries, columns, x);
      weigh(columns, n, x, sums, r);
      const float* const value =
          p_.value + (rows.n * p_.keys + first) * value_stride + rows.k * p_.value_size;
      add_values(columns, n, x, {const_cast<float*>(value), value_stride}, sums);
    }
    put(rows, row, count, sums, r, straight_.get() + slot * block_rows * value_floats());
  }

  std::int64_t value_floats() const { return whole_vectors(p_.value_size); }

  // Heads of a group and queries lie in rows of their own.
  void turn_queries(const GroupRows& rows, std::int64_t row, std::int64_t count, float* to) const {
    if (rows.group == 1) {
      const float* const from = p_.query + rows.query_row(row) * p_.size;
      return turn_rows(from, p_.heads * p_.size, count, p_.size, to);
    }
    for (std::int64_t i = 0; i < block_rows; ++i) {
      const float* const from = p_.query + rows.query_row(row + min_i(i, count - 1)) * p_.size;
      for (std::int64_t e = 0; e < p_.size; ++e) to[e * block_rows + i] = from[e];
    }
  }

  // Makes weights of the scores of `n` keys, and what was summed before relative to the new maxima.
  void weigh(const Span& columns, std::int64_t n, const Block& x, const Block& sums,
             Running& r) const {
    std::int64_t c = 0;
    for (; c + 2 * Float::width <= columns.end; c += 2 * Float::width) weigh<2>(c, n, x, sums, r);
    if (c < columns.end) weigh<1>(c, n, x, sums, r);
  }

  // `width` vectors of queries from column c on.
  template <int width>
  void weigh(std::int64_t c, std::int64_t n, const Block& x, const Block& sums, Running& r) const {
    // Two chains a vector, so that a maximum need not wait for the one before.
    Float largest[2][width];
    for (int v = 0; v < width; ++v) {
      largest[0][v] = largest[1][v] = load(x.data + c + v * Float::width);
    }
    std::int64_t j = 1;
    for (; j + 2 <= n; j += 2) {
#pragma GCC unroll 2
      for (int v = 0; v < width; ++v) {
        largest[0][v] = max(largest[0][v], load(x.row(j) + c + v * Float::width));
        largest[1][v] = max(largest[1][v], load(x.row(j + 1) + c + v * Float::width));
      }
    }
    const Float rest = set(rest_);
    Float minus[width];
    Float total[width];
    for (int v = 0; v < width; ++v) {
      const std::int64_t at = c / Float::width + v;
      const Float last = load(x.row(n - 1) + c + v * Float::width);
      const Float block = max(max(largest[0][v], largest[1][v]), last) * rest;
      const Float before = r.maximum[at];
      r.maximum[at] = max(before, block);
      // Where all scores are -inf the maximum must not be subtracted.
      minus[v] = select(equal(r.maximum[at], set(minus_infinity)), zero(), zero() - r.maximum[at]);
      const Float shrink = exp2_nonpositive(before + minus[v]);
      total[v] = r.total[at] * shrink;
      for (std::int64_t e = 0; e < p_.value_size; ++e) {
        float* const to = sums.row(e) + c + v * Float::width;
        store(to, load(to) * shrink);
      }
    }
    for (j = 0; j < n; ++j) {
#pragma GCC unroll 2
      for (int v = 0; v < width; ++v) {
        float* const at = x.row(j) + c + v * Float::width;
        const Float weight = exp2_nonpositive(fma(load(at), rest, minus[v]));
        total[v] = total[v] + weight;
        store(at, weight);
      }
    }
    for (int v = 0; v < width; ++v) r.total[c / Float::width + v] = total[v];
  }

  void add_values(const Span& columns, std::int64_t n, const Block& x, const Block& values,
                  const Block& sums) const {
    Float test = zero();
    for (std::int64_t j = 0; j < n; ++j) {
      test = fma(load_n(values.row(j), p_.value_size), zero(), test);
    }
    if (sum(test) == 0.0f) {
      return add_transposed_product(values, n, {0, p_.value_size}, x, columns.end, sums);
    }
    // A weight of 0 meets no value.
    for (std::int64_t j = 0; j < n; ++j) {
      for (std::int64_t c = 0; c < columns.end; c += Float::width) {
        const Float weight = load(x.row(j) + c);
        for (std::int64_t e = 0; e < p_.value_size; ++e) {
          float* const to = sums.row(e) + c;
          const Float after = fma(set(values.row(j)[e]), weight, load(to));
          store(to, select(equal(weight, zero()), load(to), after));
        }
      }
    }
  }

  void put(const GroupRows& rows, std::int64_t row, std::int64_t count, const Block& sums,
           const Running& r, float* straight) const {
    float lse[block_rows];
    for (std::int64_t c = 0; c < whole_vectors(count); c += Float::width) {
      const Float total = r.total[c / Float::width];
      const Mask none = equal(total, zero());
      const Float inverse = set(1.0f) / total;
      for (std::int64_t e = 0; e < p_.value_size; ++e) {
        float* const to = sums.row(e) + c;
        store(to, select(none, zero(), load(to) * inverse));
      }
      const Float l = fma(log(total), set(log2_e), r.maximum[c / Float::width]);
      store(lse + c, select(none, set(minus_infinity), l));
    }
    pack_panel({sums.data, 1, sums.stride}, count, 0, p_.value_size, value_floats(), straight);
    for (std::int64_t i = 0; i < count; ++i) {
      std::memcpy(out_.y + rows.query_row(row + i) * p_.value_size, straight + i * value_floats(),
                  static_cast<std::size_t>(p_.value_size) * sizeof(float));
      out_.lse[rows.score_row(row + i)] = lse[i];
    }
  }

  const attention::Problem& p_;
  const attention::Results& out_;
  float rest_;
  std::int64_t blocks_;
  int slots_;
  Scratch<float> queries_, x_, sums_, straight_;
  Scratch<const float*> keys_;
};

}  // namespace lamella::LAMELLA_ISA
