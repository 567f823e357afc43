// Attention forward. A task has some rows of one head of key and value and goes through the keys
// block by block: scores, weights relative to the largest score so far, and their product with the
// values, while the block lies in L2 and the scores of some rows in L1.
#include "ops/attention/attention_products.h"

namespace lamella::LAMELLA_ISA {
namespace {

using attention::Problem;
using attention::Results;

constexpr std::int64_t most_block_keys = 256;
constexpr std::int64_t most_block_rows = 36;
// Rows of a task: their sums stay in L2 beside a block of keys and values.
constexpr std::int64_t most_task_rows = 360;

struct ForwardPlan {
  std::int64_t block_keys, block_rows, task_rows, tasks_per_head, tasks;
  std::int64_t row_floats, size_floats, value_floats;  // of a score's row, of E, of Ev
  int slots;

  explicit ForwardPlan(const Problem& p) {
    const std::int64_t rows = p.queries * p.group();
    block_keys = min_i(most_block_keys, ceil_div(max_i(p.keys, 1), 32) * 32);
    const std::int64_t heads = p.batch * p.key_heads;
    // At least four tasks a thread where there are rows enough.
    const std::int64_t wanted = ceil_div(4 * num_threads(), heads);
    const std::int64_t tasks_wanted = max_i(ceil_div(rows, most_task_rows), wanted);
    const std::int64_t share = max_i(ceil_div(rows, tasks_wanted), 1);
    block_rows = ceil_div(share, ceil_div(share, most_block_rows));
    task_rows = ceil_div(share, block_rows) * block_rows;
    tasks_per_head = ceil_div(rows, task_rows);
    tasks = heads * tasks_per_head;
    // The odd number of lines between rows spreads a column over the sets of L1.
    row_floats = block_keys + 16;
    size_floats = whole_vectors(p.size);
    value_floats = whole_vectors(p.value_size);
    slots = static_cast<int>(min_i(num_threads(), tasks));
  }
  std::int64_t panel_keys() const { return ceil_div(block_keys, score_panel) * score_panel; }
};

class Forward {
 public:
  Forward(const Problem& p, const Results& out)
      : p_(p),
        out_(out),
        plan_(p),
        scores_(p),
        kept_keys_(philox_keys(p.dropout.seed)),
        queries_(p.op, plan_.slots * plan_.task_rows * plan_.size_floats),
        sums_(p.op, plan_.slots * plan_.task_rows * plan_.value_floats),
        keys_(p.op, plan_.slots * plan_.panel_keys() * p.size),
        values_(p.op, plan_.slots * plan_.block_keys * plan_.value_floats),
        x_(p.op, plan_.slots * plan_.block_rows * plan_.row_floats),
        maxima_(p.op, plan_.slots * plan_.task_rows),
        totals_(p.op, plan_.slots * plan_.task_rows),
        pointers_(p.op, plan_.slots * plan_.block_rows) {}

  void run() const {
    parallel_for_slots(plan_.tasks, plan_.slots, [&](std::int64_t task, int slot) {
      const std::int64_t head = task / plan_.tasks_per_head;
      const GroupRows rows(p_, head / p_.key_heads, head % p_.key_heads);
      const std::int64_t begin = task % plan_.tasks_per_head * plan_.task_rows;
      const Place place(*this, slot);
      attend(rows, begin, min_i(begin + plan_.task_rows, rows.count()), place);
    });
  }

 private:
  // A thread's memory.
  struct Place {
    Block queries;  // times scale / log 2
    Block sums;     // of weights times values
    float* keys;    // a block, turned
    Block values;   // a block
    Block x;        // scores, then weights, of a block of rows
    float* maxima;  // of each row's scores so far
    float* totals;  // of its weights
    float** pointers;

    Place(const Forward& f, int slot)
        : queries{f.queries_.get() + slot * f.plan_.task_rows * f.plan_.size_floats,
                  f.plan_.size_floats},
          sums{f.sums_.get() + slot * f.plan_.task_rows * f.plan_.value_floats,
               f.plan_.value_floats},
          keys(f.keys_.get() + slot * f.plan_.panel_keys() * f.p_.size),
          values{f.values_.get() + slot * f.plan_.block_keys * f.plan_.value_floats,
                 f.plan_.value_floats},
          x{f.x_.get() + slot * f.plan_.block_rows * f.plan_.row_floats, f.plan_.row_floats},
          maxima(f.maxima_.get() + slot * f.plan_.task_rows),
          totals(f.totals_.get() + slot * f.plan_.task_rows),
          pointers(f.pointers_.get() + slot * f.plan_.block_rows) {}
  };

  void attend(const GroupRows& rows, std::int64_t begin, std::int64_t end,
              const Place& place) const {
    for (std::int64_t row = begin; row < end; ++row) {
      const float* const query = p_.query + rows.query_row(row) * p_.size;
      copy_rows(query, 0, 1, p_.size, p_.scale * log2_e, {place.queries.row(row - begin), 0});
      place.maxima[row - begin] = minus_infinity;
      place.totals[row - begin] = 0.0f;
    }
    for (std::int64_t i = 0; i < (end - begin) * plan_.value_floats; i += Float::width) {
      store(place.sums.data + i, zero());
    }
    const Span seen = rows.visible(begin, end);
    for (std::int64_t key = seen.begin / plan_.block_keys * plan_.block_keys; key < seen.end;
         key += plan_.block_keys) {
      const std::int64_t count = min_i(plan_.block_keys, p_.keys - key);
      take_keys(rows, key, count, place);
      const bool finite = take_values(rows, key, count, place);
      for (std::int64_t row = begin; row < end; row += plan_.block_rows) {
        const std::int64_t last = min_i(row + plan_.block_rows, end);
        const Span columns = columns_of(rows.visible(row, last), key, count, score_panel);
        if (!columns.empty()) add_block(rows, row, last, begin, key, columns, finite, place);
      }
    }
    for (std::int64_t row = begin; row < end; ++row) put_row(rows, row, row - begin, place);
    if (out_.weights != nullptr) put_weights(rows, begin, end, place);
  }

  void take_keys(const GroupRows& rows, std::int64_t key, std::int64_t count,
                 const Place& place) const {
    const std::int64_t stride = p_.key_heads * p_.size;
    turn_rows(p_.key + (rows.n * p_.keys + key) * stride + rows.k * p_.size, stride, count, p_.size,
              place.keys);
  }

  bool take_values(const GroupRows& rows, std::int64_t key, std::int64_t count,
                   const Place& place) const {
    const std::int64_t stride = p_.key_heads * p_.value_size;
    return copy_rows(p_.value + (rows.n * p_.keys + key) * stride + rows.k * p_.value_size, stride,
                     count, p_.value_size, 1.0f, place.values);
  }

  // The keys of a block for some rows of the task, which begins with row `first`.
  void add_block(const GroupRows& rows, std::int64_t row, std::int64_t last, std::int64_t first,
                 std::int64_t key, const Span& columns, bool finite, const Place& place) const {
    const Block queries = {place.queries.row(row - first), place.queries.stride};
    multiply_turned(queries, last - row, p_.size, place.keys, columns, place.x);
    for (std::int64_t r = row; r < last; ++r) {
      float* const x = place.x.row(r - row);
      scores_.finish(rows, r, key, columns, x, nullptr);
      place.pointers[r - row] = place.sums.row(r - first);
      if (p_.drops) {
        const KeptRow kept(p_, kept_keys_, rows.score_row(r), key);
        weigh<true>(columns, r - first, &kept, x, place);
      } else {
        weigh<false>(columns, r - first, nullptr, x, place);
      }
    }
    if (finite) {
      add_product(place.x, last - row, columns, place.values, plan_.value_floats, place.pointers);
    } else {
      add_nonzero_product(place.x, last - row, columns, place.values, plan_.value_floats,
                          place.pointers);
    }
  }

  // Makes weights of a row's scores, and what was summed before relative to the new maximum.
  template <bool drops>
  void weigh(const Span& columns, std::int64_t row, const KeptRow* kept, float* x,
             const Place& place) const {
    const Span whole = {columns.begin, whole_vectors(columns.end)};
    float& maximum = place.maxima[row];
    const float before = maximum;
    maximum = max_of(before, row_maximum(x + whole.begin, whole.end - whole.begin));
    const Float m = set(maximum == minus_infinity ? 0.0f : maximum);
    Float total = zero();
    for_each_vector<drops>(whole, kept, [&](std::int64_t c, Float factor) {
      const Float e = exp2_nonpositive(load(x + c) - m);
      total = total + e;
      store(x + c, drops ? e * factor : e);
    });
    if (before == maximum) {
      place.totals[row] += sum(total);
      return;
    }
    const float shrink = first_lane(exp2_nonpositive(set(before) - m));
    place.totals[row] = place.totals[row] * shrink + sum(total);
    float* const sums = place.sums.row(row);
    for (std::int64_t e = 0; e < plan_.value_floats; e += Float::width) {
      store(sums + e, load(sums + e) * set(shrink));
    }
  }

  static float max_of(float a, float b) { return a > b ? a : b; }

  static float first_lane(Float v) {
    float lanes[Float::width];
    store(lanes, v);
    return lanes[0];
  }

  void put_row(const GroupRows& rows, std::int64_t row, std::int64_t local,
               const Place& place) const {
    const float total = place.totals[local];
    const Float inverse = set(total == 0.0f ? 0.0f : 1.0f / total);
    const float* const sums = place.sums.row(local);
    float* const y = out_.y + rows.query_row(row) * p_.value_size;
    for (std::int64_t e = 0; e < p_.value_size; e += Float::width) {
      const Float v = total == 0.0f ? zero() : load(sums + e) * inverse;
      store_n(y + e, v, min_i(Float::width, p_.value_size - e));
    }
    // -inf for a row that sees nothing: its total is 0.
    const float lse =
        total == 0.0f ? minus_infinity : place.maxima[local] + log2_e * scalar_log(total);
    place.maxima[local] = out_.lse[rows.score_row(row)] = lse;
  }

  // From the scores once more, now that lse is known. maxima holds it.
  void put_weights(const GroupRows& rows, std::int64_t begin, std::int64_t end,
                   const Place& place) const {
    for (std::int64_t row = begin; row < end; ++row) {
      std::memset(out_.weights + rows.score_row(row) * p_.keys, 0,
                  static_cast<std::size_t>(p_.keys) * sizeof(float));
    }
    const Span seen = rows.visible(begin, end);
    for (std::int64_t key = seen.begin / plan_.block_keys * plan_.block_keys; key < seen.end;
         key += plan_.block_keys) {
      const std::int64_t count = min_i(plan_.block_keys, p_.keys - key);
      take_keys(rows, key, count, place);
      for (std::int64_t row = begin; row < end; row += plan_.block_rows) {
        const std::int64_t last = min_i(row + plan_.block_rows, end);
        const Span columns = columns_of(rows.visible(row, last), key, count, score_panel);
        if (columns.empty()) continue;
        const Block queries = {place.queries.row(row - begin), place.queries.stride};
        multiply_turned(queries, last - row, p_.size, place.keys, columns, place.x);
        for (std::int64_t r = row; r < last; ++r) {
          float* const x = place.x.row(r - row);
          scores_.finish(rows, r, key, columns, x, nullptr);
          put_weights_of(rows, r, key, columns, place.maxima[r - begin], x);
        }
      }
    }
  }

  void put_weights_of(const GroupRows& rows, std::int64_t row, std::int64_t key,
                      const Span& columns, float lse, float* x) const {
    const Float m = set(lse == minus_infinity ? 0.0f : lse);
    float* const to = out_.weights + rows.score_row(row) * p_.keys + key;
    const auto put = [&](std::int64_t c, Float factor) {
      store_n(to + c, exp2_nonpositive(load(x + c) - m) * factor,
              min_i(Float::width, columns.end - c));
    };
    if (p_.drops) {
      const KeptRow kept(p_, kept_keys_, rows.score_row(row), key);
      for_each_vector<true>(columns, &kept, put);
    } else {
      for_each_vector<false>(columns, nullptr, put);
    }
  }

  const Problem& p_;
  const Results& out_;
  ForwardPlan plan_;
  Scores scores_;
  PhiloxKeys kept_keys_;
  Scratch<float> queries_, sums_, keys_, values_, x_, maxima_, totals_;
  Scratch<float*> pointers_;
};

void attention_forward(const Problem& p, const Results& out) {
  if (p.batch * p.queries == 0) return;
  Forward(p, out).run();
}

}  // namespace

void attention_backward(const Problem& p, const attention::Saved& saved,
                        const attention::Gradients& out);

}  // namespace lamella::LAMELLA_ISA

namespace lamella::attention::LAMELLA_ISA {

namespace kernel = lamella::LAMELLA_ISA;
extern const Kernels kernels = {kernel::attention_forward, kernel::attention_backward};

}  // namespace lamella::attention::LAMELLA_ISA
