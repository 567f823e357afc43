// Weights of a few rows of queries with all keys: what forward and backward begin with.
#pragma once

#include "ops/additive_attention/additive_attention_scores.h"

namespace lamella::LAMELLA_ISA {

// Enough to share a panel of keys in L1, few enough for many tasks.
constexpr std::int64_t most_rows = 8;

// Some rows of queries of one sequence.
struct QueryRows {
  GroupRows all;
  std::int64_t begin, end;
  Span columns;  // keys that one of them sees, from the begin of a panel

  QueryRows(const attention::Problem& p, std::int64_t n, std::int64_t first, std::int64_t last)
      : all(p, n, 0), begin(first), end(min_i(last, p.queries)) {
    columns = columns_of(seen_of(all.visible(begin, end)), 0, p.keys, score_panel);
  }

  std::int64_t count() const { return end - begin; }
  Span whole_columns() const { return {columns.begin, whole_vectors(columns.end)}; }
  // Of the i-th row, in (N,S).
  std::int64_t at(std::int64_t i) const { return all.query_row(begin + i); }

 private:
  // From the first to the last key that the mask lets one of the rows see: the end of a sequence
  // that is shorter than others costs nothing.
  Span seen_of(const Span& keys) const {
    const attention::Problem& p = all.p;
    if (p.mask == nullptr || keys.empty()) return keys;
    const attention::Strides& s = p.mask_strides;
    Span seen = {min_i(keys.end, p.keys), keys.begin};
    for (std::int64_t row = begin; row < (s.i == 0 ? begin + 1 : end); ++row) {
      const std::uint8_t* const mask = p.mask + s.at(all.n, 0, row);
      std::int64_t first = keys.begin;
      while (first < seen.begin && mask[first * s.j] == 0) ++first;
      seen.begin = first;
      std::int64_t last = min_i(keys.end, p.keys);
      while (last > seen.end && mask[(last - 1) * s.j] == 0) --last;
      seen.end = max_i(seen.end, last);
    }
    return seen;
  }
};

class AdditiveRows {
 public:
  // For `slots` threads.
  AdditiveRows(const additive_attention::Problem& problem, int slots)
      : p_(problem.pairs),
        scales_(problem),
        scores_(p_),
        kept_keys_(philox_keys(p_.dropout.seed)),
        panels_(ceil_div(p_.keys, score_panel)),
        panel_floats_(whole_groups(p_.size) * score_panel),
        query_floats_(whole_vectors(p_.size)),
        keys_(p_.op, p_.batch * panels_ * panel_floats_),
        keys_fit_(p_.op, p_.batch * panels_),
        queries_(p_.op, slots * most_rows * query_floats_),
        raw_panels_(p_.op, slots * p_.size * score_panel) {}

  std::int64_t panels() const { return panels_; }
  // Floats of a row of weights: the odd number of lines spreads a column over the sets of L1.
  std::int64_t row_floats() const { return panels_ * score_panel + 16; }
  std::int64_t query_floats() const { return query_floats_; }
  const FeatureScales& scales() const { return scales_; }

  // The exponentials of all keys, before anything else.
  void prepare() const {
    parallel_for(p_.batch * panels_, [&](std::int64_t i) {
      float* const to = keys_.get() + i * panel_floats_;
      turn_panel(i / panels_, i % panels_, to);
      keys_fit_.get()[i] = exponentiate(p_.size * score_panel, to);
      for (std::int64_t e = p_.size * score_panel; e < panel_floats_; e += Float::width) {
        store(to + e, zero());
      }
    });
  }

  // Whether the keys of a panel have exponentials.
  bool keys_fit(std::int64_t n, std::int64_t panel) const {
    return keys_fit_.get()[n * panels_ + panel];
  }

  // Of a thread: Q of its rows, which `weigh` takes, and whether they have exponentials.
  struct Queries {
    float* q;          // (most_rows, query_floats), with zeros at a row's end
    float* raw_panel;  // memory
    bool fit[most_rows];
    bool all_fit;
  };
  Queries queries_of(int slot) const {
    Queries queries;
    queries.q = queries_.get() + slot * most_rows * query_floats_;
    queries.raw_panel = raw_panels_.get() + slot * p_.size * score_panel;
    return queries;
  }

  // p of the rows to `x`, 0 where nothing is visible, for whole_columns; with dropout also w to
  // `dropped`.
  void weigh(const QueryRows& rows, Queries& queries, const Block& x, const Block& dropped) const {
    take_queries(rows, queries);
    const Span whole = rows.whole_columns();
    for (std::int64_t c = rows.columns.begin; c < rows.columns.end; c += score_panel) {
      score(rows, queries, c, min_i(score_panel, whole.end - c) / Float::width, x);
    }
    for (std::int64_t i = 0; i < rows.count(); ++i) {
      scores_.finish(rows.all, rows.begin + i, 0, rows.columns, x.row(i), nullptr);
      softmax(whole, x.row(i));
      if (p_.drops) drop(rows, i, x.row(i), dropped.row(i));
    }
  }

  // 0 or 1 / (1 - rate) for the vectors of the i-th row: body(c, factor).
  template <class Body>
  LAMELLA_INLINE void for_each_kept(const QueryRows& rows, std::int64_t i, const Body& body) const {
    const KeptRow kept(p_, kept_keys_, rows.at(i), 0);
    for_each_vector<true>(rows.whole_columns(), &kept, body);
  }

 private:
  void turn_panel(std::int64_t n, std::int64_t panel, float* to) const {
    const std::int64_t key = panel * score_panel;
    turn_rows(p_.key + (n * p_.keys + key) * p_.size, p_.size, min_i(score_panel, p_.keys - key),
              p_.size, to);
  }

  void take_queries(const QueryRows& rows, Queries& queries) const {
    queries.all_fit = true;
    for (std::int64_t i = 0; i < rows.count(); ++i) {
      float* const to = queries.q + i * query_floats_;
      std::memcpy(to, p_.query + rows.at(i) * p_.size,
                  static_cast<std::size_t>(p_.size) * sizeof(float));
      queries.fit[i] = exponentiate(p_.size, to) && scales_.is_moderate();
      for (std::int64_t e = p_.size; e < query_floats_; ++e) to[e] = 0.0f;
      queries.all_fit = queries.all_fit && queries.fit[i];
    }
  }

  // With the panel that begins with key c.
  void score(const QueryRows& rows, const Queries& queries, std::int64_t c, std::int64_t vectors,
             const Block& x) const {
    const std::int64_t panel = c / score_panel;
    const bool fit = keys_fit(rows.all.n, panel);
    if (!fit || !queries.all_fit) turn_panel(rows.all.n, panel, queries.raw_panel);
    for (std::int64_t i = 0; i < rows.count(); ++i) {
      if (fit && queries.fit[i]) {
        score_row(scales_, queries.q + i * query_floats_,
                  keys_.get() + (rows.all.n * panels_ + panel) * panel_floats_, vectors,
                  x.row(i) + c);
      } else {
        score_row_by_tanh(scales_, p_.query + rows.at(i) * p_.size, queries.raw_panel, vectors,
                          x.row(i) + c);
      }
    }
  }

  void softmax(const Span& columns, float* x) const {
    const Float rest = set(scores_.rest());
    const float largest =
        scores_.rest() * row_maximum(x + columns.begin, columns.end - columns.begin);
    const Float minus_largest = set(largest == minus_infinity ? 0.0f : -largest);
    Float total = zero();
    for (std::int64_t c = columns.begin; c < columns.end; c += Float::width) {
      const Float e = exp2_nonpositive(fma(load(x + c), rest, minus_largest));
      total = total + e;
      store(x + c, e);
    }
    const float sum_of_exponentials = sum(total);
    if (sum_of_exponentials == 0.0f) return;  // of a row that sees nothing: all of x is 0
    const Float inverse = set(1.0f / sum_of_exponentials);
    for (std::int64_t c = columns.begin; c < columns.end; c += Float::width) {
      store(x + c, load(x + c) * inverse);
    }
  }

  void drop(const QueryRows& rows, std::int64_t i, const float* p, float* w) const {
    for_each_kept(rows, i,
                  [&](std::int64_t c, Float factor) { store(w + c, load(p + c) * factor); });
  }

  const attention::Problem& p_;
  FeatureScales scales_;
  Scores scores_;
  PhiloxKeys kept_keys_;
  std::int64_t panels_, panel_floats_, query_floats_;
  Scratch<float> keys_;
  Scratch<bool> keys_fit_;
  Scratch<float> queries_, raw_panels_;
};

}  // namespace lamella::LAMELLA_ISA
