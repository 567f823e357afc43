// Additive attention forward. First the exponentials of all keys. Then a task has a few rows of
// queries and all keys: weights, and their product with the values.
#include "ops/additive_attention/additive_attention_rows.h"

namespace lamella::LAMELLA_ISA {
namespace {

using additive_attention::Problem;
using additive_attention::Results;

class AdditiveForward {
 public:
  AdditiveForward(const Problem& problem, const Results& out)
      : p_(problem.pairs),
        out_(out),
        tasks_per_sequence_(ceil_div(p_.queries, most_rows)),
        slots_(static_cast<int>(min_i(num_threads(), p_.batch * tasks_per_sequence_))),
        rows_(problem, slots_),
        value_floats_(whole_vectors(p_.value_size)),
        values_(p_.op, values_in_place() ? 0 : p_.batch * p_.keys * value_floats_),
        values_finite_(p_.op, p_.batch * rows_.panels()),
        weights_(p_.op, slots_ * blocks() * most_rows * rows_.row_floats()) {}

  void run() const {
    rows_.prepare();
    parallel_for(p_.batch * rows_.panels(),
                 [&](std::int64_t i) { take_values(i / rows_.panels(), i % rows_.panels()); });
    parallel_for_slots(p_.batch * tasks_per_sequence_, slots_, [&](std::int64_t task, int slot) {
      const std::int64_t begin = task % tasks_per_sequence_ * most_rows;
      attend(QueryRows(p_, task / tasks_per_sequence_, begin, begin + most_rows), slot);
    });
  }

 private:
  // Of a thread's weights: before and after dropout.
  std::int64_t blocks() const { return p_.drops ? 2 : 1; }
  Block weights_of(int slot, std::int64_t block) const {
    return {weights_.get() + (slot * blocks() + block) * most_rows * rows_.row_floats(),
            rows_.row_floats()};
  }

  bool values_in_place() const { return value_floats_ == p_.value_size; }
  Block values_of(std::int64_t n) const {
    const float* const given = p_.value + n * p_.keys * p_.value_size;
    return {
        values_in_place() ? const_cast<float*>(given) : values_.get() + n * p_.keys * value_floats_,
        value_floats_};
  }

  // Whether a panel's values are finite, and a copy where rows are no whole vectors.
  void take_values(std::int64_t n, std::int64_t panel) const {
    const std::int64_t key = panel * score_panel;
    const std::int64_t count = min_i(score_panel, p_.keys - key);
    const float* const values = p_.value + (n * p_.keys + key) * p_.value_size;
    bool& finite = values_finite_.get()[n * rows_.panels() + panel];
    if (!values_in_place()) {
      finite = copy_rows(values, p_.value_size, count, p_.value_size,
                         {values_of(n).row(key), value_floats_});
      return;
    }
    Float test = zero();
    for (std::int64_t i = 0; i < count * p_.value_size; i += Float::width) {
      test = fma(load(values + i), zero(), test);
    }
    finite = sum(test) == 0.0f;
  }

  bool are_finite(const QueryRows& rows) const {
    const bool* const finite = values_finite_.get() + rows.all.n * rows_.panels();
    for (std::int64_t c = rows.columns.begin; c < rows.columns.end; c += score_panel) {
      if (!finite[c / score_panel]) return false;
    }
    return true;
  }

  void attend(const QueryRows& rows, int slot) const {
    AdditiveRows::Queries queries = rows_.queries_of(slot);
    const Block weights = weights_of(slot, blocks() - 1);
    if (!rows.columns.empty()) rows_.weigh(rows, queries, weights_of(slot, 0), weights);
    float* y[most_rows];
    for (std::int64_t i = 0; i < rows.count(); ++i) {
      y[i] = out_.y + rows.at(i) * p_.value_size;
      if (out_.weights != nullptr) put_weights(rows, i, weights.row(i));
    }
    if (!rows.columns.empty() && are_finite(rows)) {
      return add_product(weights, rows.count(), rows.columns, values_of(rows.all.n), p_.value_size,
                         false, y);
    }
    for (std::int64_t i = 0; i < rows.count(); ++i) {
      std::memset(y[i], 0, static_cast<std::size_t>(p_.value_size) * sizeof(float));
    }
    add_nonzero_product(weights, rows.count(), rows.columns, values_of(rows.all.n), p_.value_size,
                        y);
  }

  void put_weights(const QueryRows& rows, std::int64_t i, const float* weights) const {
    float* const to = out_.weights + rows.at(i) * p_.keys;
    std::memset(to, 0, static_cast<std::size_t>(p_.keys) * sizeof(float));
    if (rows.columns.empty()) return;
    std::memcpy(to + rows.columns.begin, weights + rows.columns.begin,
                static_cast<std::size_t>(rows.columns.end - rows.columns.begin) * sizeof(float));
  }

  const attention::Problem& p_;
  const Results& out_;
  std::int64_t tasks_per_sequence_;
  int slots_;
  AdditiveRows rows_;
  std::int64_t value_floats_;
  Scratch<float> values_;
  Scratch<bool> values_finite_;
  Scratch<float> weights_;
};

void additive_attention_forward(const Problem& p, const Results& out) {
  if (p.pairs.batch * p.pairs.queries == 0) return;
  AdditiveForward(p, out).run();
}

}  // namespace

void additive_attention_backward(const Problem& p, const additive_attention::ResultGradients& dy,
                                 const additive_attention::Gradients& out);

}  // namespace lamella::LAMELLA_ISA

namespace lamella::additive_attention::LAMELLA_ISA {

namespace kernel = lamella::LAMELLA_ISA;
extern const Kernels kernels = {kernel::additive_attention_forward,
                                kernel::additive_attention_backward};

}  // namespace lamella::additive_attention::LAMELLA_ISA
