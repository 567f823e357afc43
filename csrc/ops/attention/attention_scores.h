// What happens to a row of scores between the product of queries and keys and the exponential, and
// which keys a query sees. Scores are in units of log 2, so that the exponential is a power of two.
#pragma once

#include "ops/attention/attention.h"
#include "simd/integer.h"
#include "simd/philox.h"
#include "simd/softmax_row.h"
#include "simd/task.h"

namespace lamella::LAMELLA_ISA {

constexpr float log2_e = 1.44269504f;
constexpr float ln_2 = 0.693147181f;

// [begin, end) of keys, or of a block's columns.
struct Span {
  std::int64_t begin, end;
  bool empty() const { return begin >= end; }
};

// The rows that meet the keys of one head: the queries of its group of heads, query by query.
struct GroupRows {
  const attention::Problem& p;
  std::int64_t n;  // sequence
  std::int64_t k;  // head of key and value
  std::int64_t group;

  GroupRows(const attention::Problem& problem, std::int64_t sequence, std::int64_t key_head)
      : p(problem), n(sequence), k(key_head), group(problem.group()) {}

  std::int64_t count() const { return p.queries * group; }
  // Without a division where heads are not grouped.
  std::int64_t query(std::int64_t row) const { return group == 1 ? row : row / group; }
  std::int64_t head(std::int64_t row) const { return group == 1 ? k : k * group + row % group; }
  // Row of (N,S,A), and of (N,A,S).
  std::int64_t query_row(std::int64_t row) const {
    return (n * p.queries + query(row)) * p.heads + head(row);
  }
  std::int64_t score_row(std::int64_t row) const {
    return (n * p.heads + head(row)) * p.queries + query(row);
  }
  std::int64_t length() const { return p.key_lengths == nullptr ? p.keys : p.key_lengths[n]; }
  std::int64_t offset() const { return p.query_offsets == nullptr ? p.offset : p.query_offsets[n]; }
  // The keys that position and length let the row see.
  Span visible(std::int64_t row) const {
    const std::int64_t at = query(row) + offset();
    return {max_i(0, at - p.left), min_i(length(), at + p.right + 1)};
  }
  // What one of the rows [begin, end) sees: spans move on with the rows.
  Span visible(std::int64_t begin, std::int64_t end) const {
    return {visible(begin).begin, visible(end - 1).end};
  }
};

// The part of a span that lies in the block of `count` keys from `first` on, from there; the begin
// moved down to a multiple of `unit`.
inline Span columns_of(const Span& keys, std::int64_t first, std::int64_t count,
                       std::int64_t unit) {
  const std::int64_t begin = max_i(keys.begin - first, 0);
  return {begin - begin % unit, min_i(keys.end - first, count)};
}

LAMELLA_INLINE std::int64_t whole_vectors(std::int64_t columns) {
  return (columns + Float::width - 1) / Float::width * Float::width;
}

// Turns products into scores: x[c] belongs to key first + c, for the columns of whole vectors from
// XX
class Scores {
 public:
  explicit Scores(const attention::Problem& p)
      : p_(p),
        factor_(p.scale * log2_e),
        plain_(p.mask == nullptr && p.bias == nullptr && p.alibi_slopes == nullptr &&
               p.softcap == 0.0f && factor_ > 0.0f),
        shows_all_(p.mask == nullptr && p.bias == nullptr && p.key_lengths == nullptr &&
                   p.left == attention::unbounded && p.right == attention::unbounded) {}

  void finish(const GroupRows& rows, std::int64_t row, std::int64_t first, const Span& columns,
              float* x, float* softcap_slope) const {
    const Span whole = {columns.begin, whole_vectors(columns.end)};
    if (!plain_) change(rows, row, first, whole, x, softcap_slope);
    if (shows_all_ && columns.end == whole.end) return;
    const Span keys = rows.visible(row);
    hide({keys.begin - first, keys.end - first}, whole, x);
  }

  // Whether scores are the products times a positive factor, until something is hidden.
  bool plain() const { return plain_; }
  // Positive.
  float rest() const { return plain_ ? factor_ : 1.0f; }
  // Whether all rows see all keys: no weight is 0 but by underflow.
  bool shows_all() const { return shows_all_; }

 private:
  void change(const GroupRows& rows, std::int64_t row, std::int64_t first, const Span& whole,
              float* x, float* softcap_slope) const {
    const std::int64_t head = rows.head(row);
    const std::int64_t query = rows.query(row);
    for (std::int64_t c = whole.begin; c < whole.end; c += Float::width) {
      store(x + c, load(x + c) * set(factor_));
    }
    if (p_.softcap != 0.0f) cap(whole, x, softcap_slope);
    if (p_.bias != nullptr) {
      add_bias(p_.bias + p_.bias_strides.at(rows.n, head, query), first, whole, x);
    }
    if (p_.alibi_slopes != nullptr) {
      const std::int64_t distance = query + rows.offset() - first;
      subtract_distance(p_.alibi_slopes[head], distance, whole, x);
    }
    if (p_.mask != nullptr) {
      hide_masked(p_.mask + p_.mask_strides.at(rows.n, head, query), first, whole, x);
    }
  }

  void cap(const Span& whole, float* x, float* slope) const {
    const Float limit = set(p_.softcap * log2_e);
    const Float inverse = set(ln_2 / p_.softcap);
    for (std::int64_t c = whole.begin; c < whole.end; c += Float::width) {
      const Float t = tanh(load(x + c) * inverse);
      store(x + c, limit * t);
      if (slope != nullptr) store(slope + c, fnma(t, t, set(1.0f)));
    }
  }

  // Lanes of a vector that are keys.
  std::int64_t lanes(std::int64_t key) const { return min_i(Float::width, p_.keys - key); }

  void add_bias(const float* bias, std::int64_t first, const Span& whole, float* x) const {
    const Float unit = set(log2_e);
    for (std::int64_t c = whole.begin; c < whole.end; c += Float::width) {
      const std::int64_t key = first + c;
      const Float b = p_.bias_strides.j == 0 ? set(bias[0]) : load_n(bias + key, lanes(key));
      store(x + c, fma(b, unit, load(x + c)));
    }
  }

  void subtract_distance(float slope, std::int64_t distance, const Span& whole, float* x) const {
    const Float factor = set(slope * log2_e);
    for (std::int64_t c = whole.begin; c < whole.end; c += Float::width) {
      const Float d = set(static_cast<float>(distance - c)) - lane_numbers();
      store(x + c, fnma(factor, abs(d), load(x + c)));
    }
  }

  void hide_masked(const std::uint8_t* mask, std::int64_t first, const Span& whole,
                   float* x) const {
    const Float hidden = set(minus_infinity);
    if (p_.mask_strides.j == 0) {
      if (mask[0] != 0) return;
      for (std::int64_t c = whole.begin; c < whole.end; c += Float::width) store(x + c, hidden);
      return;
    }
    for (std::int64_t c = whole.begin; c < whole.end; c += Float::width) {
      const std::int64_t n = lanes(first + c);
      const Bytes seen =
          n == Float::width ? load_bytes(mask + first + c) : load_bytes_n(mask + first + c, n);
      store(x + c, select(equal(seen, 0), hidden, load(x + c)));
    }
  }

  // -inf in the columns outside of `seen`.
  static void hide(const Span& seen, const Span& whole, float* x) {
    const Float hidden = set(minus_infinity);
    const std::int64_t begin = min_i(max_i(seen.begin, whole.begin), whole.end);
    const std::int64_t end = max_i(min_i(seen.end, whole.end), begin);
    std::int64_t c = whole.begin;
    for (; c + Float::width <= begin; c += Float::width) store(x + c, hidden);
    if (c < begin) store(x + c, first_lanes_or(hidden, begin - c, load(x + c)));
    c = whole.begin + (end - whole.begin) / Float::width * Float::width;
    if (c < end) {
      store(x + c, first_lanes_or(load(x + c), end - c, hidden));
      c += Float::width;
    }
    for (; c < whole.end; c += Float::width) store(x + c, hidden);
  }

  const attention::Problem& p_;
  float factor_;
  bool plain_;
  bool shows_all_;
};

// The factors of dropout for a row, 0 or 1 / (1 - rate), a vector at a time.
class KeptRow {
 public:
  KeptRow(const attention::Problem& p, const PhiloxKeys& keys, std::int64_t score_row,
          std::int64_t first)
      : keys_(keys),
        counter_(static_cast<std::uint64_t>(score_row * p.dropout_row() + first) / 4),
        threshold_(set_int(static_cast<std::int32_t>(p.dropout.threshold))),
        scale_(set(p.dropout.scale)) {}

  struct Pair {
    Float first, second;
  };
  // Of the columns [c, c + 2 * width); c is a multiple of 2 * width.
  LAMELLA_INLINE Pair factors(std::int64_t c) const {
    const PhiloxWords words = philox(keys_, counter_ + static_cast<std::uint64_t>(c) / 4);
    return {select(less_unsigned(words.first, threshold_), scale_, zero()),
            select(less_unsigned(words.second, threshold_), scale_, zero())};
  }

 private:
  const PhiloxKeys& keys_;
  std::uint64_t counter_;
  Int threshold_;
  Float scale_;
};

// body(c, factor) for the vectors of a row from columns.begin on; factor is 1 without dropout.
template <bool drops, class Body>
LAMELLA_INLINE void for_each_vector(const Span& columns, const KeptRow* kept, const Body& body) {
  constexpr std::int64_t width = Float::width;
  if constexpr (drops) {
    for (std::int64_t c = columns.begin; c < columns.end; c += 2 * width) {
      const KeptRow::Pair factors = kept->factors(c);
      body(c, factors.first);
      if (c + width < columns.end) body(c + width, factors.second);
    }
  } else {
    for (std::int64_t c = columns.begin; c < columns.end; c += width) body(c, set(1.0f));
  }
}

}  // namespace lamella::LAMELLA_ISA
