// Attention of few queries to many keys, as a decoder makes it token by token: bounded by how fast
// keys and values come from memory. A task has a piece of the keys with all their heads, which lie
// side by side, and the pieces' sums are put together in the order of the keys.
#pragma once

#include "core/memory_pool.h"
#include "ops/attention/attention_products.h"

namespace lamella::LAMELLA_ISA {

class Decode {
 public:
  // Whether products of vectors are better than those of blocks: turning a block of keys costs
  // about as much as multiplying it with so many rows.
  static bool suits(const attention::Problem& p) {
    return p.queries * p.group() <= 8 && p.keys >= piece_keys;
  }

  Decode(const attention::Problem& p, const attention::Results& out)
      : p_(p),
        out_(out),
        scores_(p),
        kept_keys_(philox_keys(p.dropout.seed)),
        pieces_(ceil_div(p.keys, piece_keys)),
        rows_(p.heads * p.queries),
        value_floats_(whole_vectors(p.value_size)),
        slots_(static_cast<int>(min_i(num_threads(), p.batch * pieces_))),
        x_(p.op, slots_ * rows_ * row_floats),
        sums_(p.op, p.batch * pieces_ * rows_ * value_floats_),
        maxima_(p.op, p.batch * pieces_ * rows_),
        totals_(p.op, p.batch * pieces_ * rows_) {}

  void run() const {
    parallel_for_slots(p_.batch * pieces_, slots_, [&](std::int64_t task, int slot) {
      take_piece(task, x_.get() + slot * rows_ * row_floats);
    });
    parallel_for(p_.batch * p_.key_heads, [&](std::int64_t i) {
      const GroupRows rows(p_, i / p_.key_heads, i % p_.key_heads);
      for (std::int64_t r = 0; r < rows.count(); ++r) put_together(rows, r);
    });
  }

 private:
  static constexpr std::int64_t piece_keys = 64;
  static constexpr std::int64_t row_floats = piece_keys + 16;

  // Piece `task` of (N, pieces): scores, weights and sums of all rows, head by head.
  void take_piece(std::int64_t task, float* x) const {
    const std::int64_t n = task / pieces_;
    const std::int64_t first = task % pieces_ * piece_keys;
    const std::int64_t group_rows = p_.queries * p_.group();
    const Span seen = GroupRows(p_, n, 0).visible(0, group_rows);
    const Span keys = {max_i(seen.begin, first),
                       min_i(min_i(seen.end, p_.keys), first + piece_keys)};
    for (std::int64_t j = keys.begin; j < keys.end; ++j) {
      const float* key = p_.key + (n * p_.keys + j) * p_.key_heads * p_.size;
      for (std::int64_t k = 0; k < p_.key_heads; ++k, key += p_.size) {
        const GroupRows rows(p_, n, k);
        for (std::int64_t r = 0; r < group_rows; ++r) {
          x[(k * group_rows + r) * row_floats + j - first] =
              dot(p_.query + rows.query_row(r) * p_.size, key);
        }
      }
    }
    const std::int64_t at = task * rows_;
    for (std::int64_t k = 0; k < p_.key_heads; ++k) {
      const GroupRows rows(p_, n, k);
      for (std::int64_t r = 0; r < group_rows; ++r) {
        const std::int64_t row = k * group_rows + r;
        weigh(rows, r, first, keys.end - first, x + row * row_floats, at + row);
      }
    }
    const std::int64_t stride = p_.key_heads * p_.value_size;
    for (std::int64_t j = keys.begin; j < keys.end; j += 4) {
      const std::int64_t count = min_i(4, keys.end - j);
      const float* const value = p_.value + (n * p_.keys + j) * stride;
      for (std::int64_t row = 0; row < rows_; ++row) {
        const float* const weights = x + row * row_floats + j - first;
        add(weights, count, value + row / group_rows * p_.value_size, stride, at + row);
      }
    }
  }

  float dot(const float* query, const float* key) const {
    Float a = zero();
    Float b = zero();
    std::int64_t e = 0;
    const std::int64_t next = p_.key_heads * p_.size;
    for (; e + 2 * Float::width <= p_.size; e += 2 * Float::width) {
      __builtin_prefetch(key + next + e);
      __builtin_prefetch(key + next + e + Float::width);
      a = fma(load(query + e), load(key + e), a);
      b = fma(load(query + e + Float::width), load(key + e + Float::width), b);
    }
    for (; e < p_.size; e += Float::width) {
      const std::int64_t n = min_i(Float::width, p_.size - e);
      a = fma(load_n(query + e, n), load_n(key + e, n), a);
    }
    return sum(a + b);
  }

  // Weights of a row in place of `count` scores, its maximum and total, and no sums yet.
  void weigh(const GroupRows& rows, std::int64_t row, std::int64_t first, std::int64_t count,
             float* x, std::int64_t at) const {
    float* const sums = sums_.get() + at * value_floats_;
    for (std::int64_t e = 0; e < value_floats_; e += Float::width) store(sums + e, zero());
    maxima_.get()[at] = minus_infinity;
    totals_.get()[at] = 0.0f;
    if (count <= 0) return;
    const Span columns = {0, whole_vectors(count)};
    scores_.finish(rows, row, first, {0, count}, x, nullptr);
    const float maximum = scores_.rest() * row_maximum(x, columns.end);
    const Float rest = set(scores_.rest());
    const Float minus_maximum = set(maximum == minus_infinity ? 0.0f : -maximum);
    Float total = zero();
    const auto exponential = [&](std::int64_t c, Float factor) {
      const Float e = exp2_nonpositive(fma(load(x + c), rest, minus_maximum));
      total = total + e;
      store(x + c, e * factor);
    };
    if (p_.drops) {
      const KeptRow kept(p_, kept_keys_, rows.score_row(row), first);
      for_each_vector<true>(columns, &kept, exponential);
    } else {
      for_each_vector<false>(columns, nullptr, exponential);
    }
    maxima_.get()[at] = maximum;
    totals_.get()[at] = sum(total);
  }

  // Sums of a row += weights of `count` <= 4 keys times their values, of which those of the keys
  // after them are on their way.
  LAMELLA_INLINE void add(const float* weights, std::int64_t count, const float* values,
                          std::int64_t stride, std::int64_t at) const {
    float* const sums = sums_.get() + at * value_floats_;
    const bool all = count == 4 && weights[0] != 0.0f && weights[1] != 0.0f && weights[2] != 0.0f &&
                     weights[3] != 0.0f;
    if (!all) {
      // A weight of 0 meets no value.
      for (std::int64_t i = 0; i < count; ++i) {
        add_unless_zero(weights[i], values + i * stride, p_.value_size, sums);
      }
      return;
    }
    std::int64_t e = 0;
    for (; e + Float::width <= p_.value_size; e += Float::width) {
      Float total = load(sums + e);
#pragma GCC unroll 4
      for (std::int64_t i = 0; i < 4; ++i) {
        const float* const value = values + i * stride + e;
        __builtin_prefetch(value + 4 * stride);
        total = fma(set(weights[i]), load(value), total);
      }
      store(sums + e, total);
    }
    if (e == p_.value_size) return;
    Float total = load(sums + e);
    for (std::int64_t i = 0; i < 4; ++i) {
      total = fma(set(weights[i]), load_n(values + i * stride + e, p_.value_size - e), total);
    }
    store(sums + e, total);
  }

  void put_together(const GroupRows& rows, std::int64_t r) const {
    const std::int64_t at = rows.n * pieces_ * rows_ + rows.k * rows.count() + r;
    float maximum = minus_infinity;
    for (std::int64_t piece = 0; piece < pieces_; ++piece) {
      const float m = maxima_.get()[at + piece * rows_];
      if (m > maximum) maximum = m;
    }
    float* const y = out_.y + rows.query_row(r) * p_.value_size;
    float total = 0.0f;
    for (std::int64_t piece = 0; piece < pieces_; ++piece) {
      total += shrink(at + piece * rows_, maximum) * totals_.get()[at + piece * rows_];
    }
    const Float inverse = set(total == 0.0f ? 0.0f : 1.0f / total);
    for (std::int64_t e = 0; e < p_.value_size; e += Float::width) {
      Float v = zero();
      for (std::int64_t piece = 0; piece < pieces_; ++piece) {
        const std::int64_t i = at + piece * rows_;
        if (totals_.get()[i] == 0.0f) continue;
        v = fma(load(sums_.get() + i * value_floats_ + e), set(shrink(i, maximum)), v);
      }
      store_n(y + e, v * inverse, min_i(Float::width, p_.value_size - e));
    }
    out_.lse[rows.score_row(r)] =
        total == 0.0f ? minus_infinity : maximum + log2_e * scalar_log(total);
  }

  // What a piece's sums are multiplied with to be relative to the maximum of all.
  float shrink(std::int64_t i, float maximum) const {
    if (totals_.get()[i] == 0.0f) return 0.0f;
    float lanes[Float::width];
    store(lanes, exp2_nonpositive(set(maxima_.get()[i] - maximum)));
    return lanes[0];
  }

  const attention::Problem& p_;
  const attention::Results& out_;
  Scores scores_;
  PhiloxKeys kept_keys_;
  std::int64_t pieces_, rows_, value_floats_;
  int slots_;
  Scratch<float> x_, sums_, maxima_, totals_;
};

}  // namespace lamella::LAMELLA_ISA
