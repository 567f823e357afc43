// Additive attention backward. A task has some rows of queries of one sequence, and sums of its own
// for the gradients of keys, values and scale. It goes through its rows a few at a time: their
// weights with all keys, the gradients of the scores, and with these once more through all pairs,
// a vector of features at a time, for 1 - tanh^2.
#include "ops/additive_attention/additive_attention_rows.h"

namespace lamella::LAMELLA_ISA {
namespace {

using additive_attention::Gradients;
using additive_attention::Problem;
using additive_attention::ResultGradients;

// Tasks that queries are cut into where sequences are few, at most: each has gradients of all keys.
constexpr std::int64_t tasks_wanted = 16;
// Of which K and dk stay in L1 while rows meet them.
constexpr std::int64_t block_keys = 64;

class AdditiveBackward {
 public:
  AdditiveBackward(const Problem& problem, const ResultGradients& dy, const Gradients& out)
      : p_(problem.pairs),
        dy_(dy),
        out_(out),
        chunk_rows_(rows_of_chunk(p_)),
        chunks_(ceil_div(p_.queries, chunk_rows_)),
        slots_(static_cast<int>(min_i(num_threads(), p_.batch * chunks_))),
        rows_(problem, slots_),
        whole_keys_(rows_.panels() * score_panel),
        feature_floats_(whole_vectors(p_.size)),
        value_floats_(whole_vectors(p_.value_size)),
        keys_(p_.op, p_.batch * whole_keys_ * feature_floats_),
        turned_values_(p_.op, p_.batch * whole_keys_ * p_.value_size),
        dk_(p_.op, p_.batch * chunks_ * whole_keys_ * feature_floats_),
        dv_(p_.op, p_.batch * chunks_ * p_.keys * value_floats_),
        dscale_(p_.op, p_.batch * chunks_ * feature_floats_),
        dq_(p_.op, slots_ * most_rows * feature_floats_),
        dy_rows_(p_.op, slots_ * most_rows * value_floats_),
        rows_of_pairs_(p_.op, slots_ * blocks() * most_rows * rows_.row_floats()) {}

  void run() const {
    rows_.prepare();
    parallel_for(p_.batch * rows_.panels(),
                 [&](std::int64_t i) { prepare_panel(i / rows_.panels(), i % rows_.panels()); });
    parallel_for_slots(p_.batch * chunks_, slots_, [&](std::int64_t task, int slot) {
      const Place place(*this, task, slot);
      clear(whole_keys_ * feature_floats_, place.dk);
      clear(p_.keys * value_floats_, place.dv.data);
      clear(feature_floats_, place.dscale);
      const std::int64_t begin = task % chunks_ * chunk_rows_;
      const std::int64_t end = min_i(begin + chunk_rows_, p_.queries);
      for (std::int64_t row = begin; row < end; row += most_rows) {
        through_keys(QueryRows(p_, task / chunks_, row, min_i(row + most_rows, end)), place);
      }
    });
    parallel_for(p_.batch * rows_.panels(),
                 [&](std::int64_t i) { finish_panel(i / rows_.panels(), i % rows_.panels()); });
    if (out_.scale != nullptr) finish_scale();
  }

 private:
  static std::int64_t rows_of_chunk(const attention::Problem& p) {
    const std::int64_t blocks = ceil_div(p.queries, most_rows);
    const std::int64_t chunks = max_i(1, min_i(tasks_wanted / p.batch, blocks));
    return ceil_div(blocks, chunks) * most_rows;
  }

  // Of a thread: p, ds, and w where it is not p.
  std::int64_t blocks() const { return p_.drops ? 3 : 2; }

  // A task's sums and its thread's memory.
  struct Place {
    int slot;
    float* dk;      // [vector of features][key][lane], to be multiplied by 4 scale
    Block dv;       // a row for each key
    float* dscale;  // (feature_floats)
    float* dq;      // (most_rows, feature_floats), to be multiplied by 4 scale
    Block dy;
    Block p, w, ds;  // a row for each query

    Place(const AdditiveBackward& b, std::int64_t task, int thread)
        : slot(thread),
          dk(b.dk_.get() + task * b.whole_keys_ * b.feature_floats_),
          dv{b.dv_.get() + task * b.p_.keys * b.value_floats_, b.value_floats_},
          dscale(b.dscale_.get() + task * b.feature_floats_),
          dq(b.dq_.get() + thread * most_rows * b.feature_floats_),
          dy{b.dy_rows_.get() + thread * most_rows * b.value_floats_, b.value_floats_},
          p(b.pairs(thread, 0)),
          w(b.pairs(thread, b.p_.drops ? 2 : 0)),
          ds(b.pairs(thread, 1)) {}
  };

  Block pairs(int slot, std::int64_t block) const {
    return {rows_of_pairs_.get() + (slot * blocks() + block) * most_rows * rows_.row_floats(),
            rows_.row_floats()};
  }

  static void clear(std::int64_t count, float* x) {
    for (std::int64_t i = 0; i < count; i += Float::width) store(x + i, zero());
  }

  // Values turned, and K with features as lanes.
  void prepare_panel(std::int64_t n, std::int64_t panel) const {
    const std::int64_t key = panel * score_panel;
    const std::int64_t count = min_i(score_panel, p_.keys - key);
    const std::int64_t at = n * p_.keys + key;
    turn_rows(p_.value + at * p_.value_size, p_.value_size, count, p_.value_size,
              turned_values_.get() + (n * whole_keys_ + key) * p_.value_size);
    for (std::int64_t e = 0; e < p_.size; e += Float::width) {
      const std::int64_t lanes = min_i(Float::width, p_.size - e);
      float* const to = keys_of(n, e) + key * Float::width;
      for (std::int64_t j = 0; j < count; ++j) {
        const Float k = load_n(p_.key + (at + j) * p_.size + e, lanes);
        store(to + j * Float::width, exp_of_twice(k));
      }
      clear((score_panel - count) * Float::width, to + count * Float::width);
    }
  }
  // K of the features from e on, [key][lane].
  float* keys_of(std::int64_t n, std::int64_t e) const {
    return keys_.get() + n * whole_keys_ * feature_floats_ + e * whole_keys_;
  }

  void through_keys(const QueryRows& rows, const Place& place) const {
    clear(rows.count() * feature_floats_, place.dq);
    if (!rows.columns.empty()) {
      AdditiveRows::Queries queries = rows_.queries_of(place.slot);
      rows_.weigh(rows, queries, place.p, place.w);
      differentiate_weights(rows, place);
      for (std::int64_t i = 0; i < rows.count(); ++i) differentiate_softmax(rows, i, place);
      if (out_.query != nullptr || out_.key != nullptr || out_.scale != nullptr) {
        differentiate_scores(rows, queries, place);
      }
    }
    if (out_.query != nullptr) put_queries(rows, place.dq);
  }

  // dw to ds, but for the given gradients of weights; and dv.
  void differentiate_weights(const QueryRows& rows, const Place& place) const {
    if (dy_.y == nullptr) return;
    const float* reads[most_rows];
    for (std::int64_t i = 0; i < rows.count(); ++i) reads[i] = place.dy.row(i);
    const bool finite = copy_rows(dy_.y + rows.at(0) * p_.value_size, p_.value_size, rows.count(),
                                  p_.value_size, place.dy);
    multiply_turned(reads, rows.count(), p_.value_size,
                    turned_values_.get() + rows.all.n * whole_keys_ * p_.value_size, rows.columns,
                    place.ds);
    if (out_.value == nullptr) return;
    const auto add = finite ? add_transposed_product : add_nonzero_transposed_product;
    add(place.w, rows.count(), rows.columns, place.dy, value_floats_, place.dv);
  }

  // ds of the i-th row from dw.
  void differentiate_softmax(const QueryRows& rows, std::int64_t i, const Place& place) const {
    const Span columns = rows.columns;
    const float* const p = place.p.row(i);
    const float* const w = place.w.row(i);
    const float* const given =
        dy_.weights == nullptr ? nullptr : dy_.weights + rows.at(i) * p_.keys;
    float* const ds = place.ds.row(i);
    // w dw. What was left out or is hidden meets no gradient, whatever it is.
    const auto weighted = [&](auto at) {
      const Float weight = at.get(w + columns.begin);
      Float dw = dy_.y == nullptr ? zero() : at.get(ds + columns.begin);
      if (given != nullptr) dw = dw + at.get(given + columns.begin);
      return select(equal(weight, zero()), zero(), weight * dw);
    };
    const float total = row_sums<1>(columns.end - columns.begin, [&](auto at, Float(&sums)[1]) {
                          const Float v = weighted(at);
                          sums[0] = sums[0] + v;
                          at.put(ds + columns.begin, v);
                        }).sum[0];
    for (std::int64_t c = columns.begin; c < columns.end; c += Float::width) {
      const Float probability = load(p + c);
      const Float v = fnma(probability, set(total), load(ds + c));
      store(ds + c, select(equal(probability, zero()), zero(), v));
    }
  }

  // dq, and this task's dk and dscale.
  void differentiate_scores(const QueryRows& rows, const AdditiveRows::Queries& queries,
                            const Place& place) const {
    const std::int64_t end = rows.whole_columns().end;
    for (std::int64_t e = 0; e < p_.size; e += Float::width) {
      Float dscale = load(place.dscale + e);
      for (std::int64_t c = rows.columns.begin; c < end; c += block_keys) {
        for (std::int64_t i = 0; i < rows.count(); ++i) {
          float* const dq = place.dq + i * feature_floats_ + e;
          const FeatureGradients found =
              differentiate(rows, queries, i, e, {c, min_i(c + block_keys, end)}, place);
          store(dq, load(dq) + found.dq);
          dscale = dscale + found.dscale;
        }
      }
      store(place.dscale + e, dscale);
    }
  }

  // The i-th row with a block of keys, for the features from e on.
  LAMELLA_INLINE FeatureGradients differentiate(const QueryRows& rows,
                                                const AdditiveRows::Queries& queries,
                                                std::int64_t i, std::int64_t e, const Span& block,
                                                const Place& place) const {
    const float* const ds = place.ds.row(i) + block.begin;
    float* const dk = place.dk + e * whole_keys_ + block.begin * Float::width;
    bool fit = queries.fit[i];
    for (std::int64_t c = block.begin; c < block.end; c += score_panel) {
      fit = fit && rows_.keys_fit(rows.all.n, c / score_panel);
    }
    if (fit) {
      const float* const keys = keys_of(rows.all.n, e) + block.begin * Float::width;
      return differentiate_row(load(queries.q + i * rows_.query_floats() + e), keys, ds,
                               block.end - block.begin, dk);
    }
    const std::int64_t lanes = min_i(Float::width, p_.size - e);
    const std::int64_t key = rows.all.n * p_.keys + block.begin;
    return differentiate_row_by_tanh(load_n(p_.query + rows.at(i) * p_.size + e, lanes),
                                     p_.key + key * p_.size + e, p_.size, lanes, ds,
                                     min_i(block.end, p_.keys) - block.begin, dk);
  }

  void put_queries(const QueryRows& rows, const float* dq) const {
    for (std::int64_t i = 0; i < rows.count(); ++i) {
      for (std::int64_t e = 0; e < p_.size; e += Float::width) {
        store_n(out_.query + rows.at(i) * p_.size + e,
                load(dq + i * feature_floats_ + e) * four_scales(e),
                min_i(Float::width, p_.size - e));
      }
    }
  }
  Float four_scales(std::int64_t e) const { return set(4.0f) * load(rows_.scales().get() + e); }

  // Gradients of a panel's keys and values, of all chunks in their order.
  void finish_panel(std::int64_t n, std::int64_t panel) const {
    const std::int64_t begin = panel * score_panel;
    const std::int64_t end = min_i(begin + score_panel, p_.keys);
    for (std::int64_t j = begin; j < end; ++j) {
      const std::int64_t at = n * p_.keys + j;
      for (std::int64_t e = 0; out_.key != nullptr && e < p_.size; e += Float::width) {
        const Float v = sum_of_chunks(dk_.get() + n * chunks_ * whole_keys_ * feature_floats_ +
                                          e * whole_keys_ + j * Float::width,
                                      whole_keys_ * feature_floats_);
        store_n(out_.key + at * p_.size + e, v * four_scales(e), min_i(Float::width, p_.size - e));
      }
      for (std::int64_t e = 0; out_.value != nullptr && e < p_.value_size; e += Float::width) {
        const Float v = sum_of_chunks(dv_.get() + (n * chunks_ * p_.keys + j) * value_floats_ + e,
                                      p_.keys * value_floats_);
        store_n(out_.value + at * p_.value_size + e, v, min_i(Float::width, p_.value_size - e));
      }
    }
  }

  Float sum_of_chunks(const float* from, std::int64_t stride) const {
    Float v = load(from);
    for (std::int64_t chunk = 1; chunk < chunks_; ++chunk) v = v + load(from + chunk * stride);
    return v;
  }

  void finish_scale() const {
    for (std::int64_t e = 0; e < p_.size; e += Float::width) {
      Float v = zero();
      for (std::int64_t task = 0; task < p_.batch * chunks_; ++task) {
        v = v + load(dscale_.get() + task * feature_floats_ + e);
      }
      store_n(out_.scale + e, v, min_i(Float::width, p_.size - e));
    }
  }

  const attention::Problem& p_;
  const ResultGradients& dy_;
  const Gradients& out_;
  std::int64_t chunk_rows_, chunks_;
  int slots_;
  AdditiveRows rows_;
  std::int64_t whole_keys_, feature_floats_, value_floats_;
  Scratch<float> keys_, turned_values_, dk_, dv_, dscale_, dq_, dy_rows_, rows_of_pairs_;
};

}  // namespace

void additive_attention_backward(const Problem& p, const ResultGradients& dy,
                                 const Gradients& out) {
  AdditiveBackward(p, dy, out).run();
}

}  // namespace lamella::LAMELLA_ISA
