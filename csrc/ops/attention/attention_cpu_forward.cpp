// Attention forward. A task has some rows of one head of key and value and goes through the keys
// block by block: scores, weights relative to the largest score so far, and their product with the
// values, while the block lies in L2 and the scores of some rows in L1.
#include "ops/attention/attention_decode.h"
#include "ops/attention/attention_products.h"
#include "ops/attention/attention_small_heads.h"

namespace lamella::LAMELLA_ISA {
namespace {

using attention::Problem;
using attention::Results;

constexpr std::int64_t most_block_keys = 512;
constexpr std::int64_t most_block_rows = 24;
// Of a task's sums, which stay in L2 beside a block of keys and values.
constexpr std::int64_t task_floats = 40 << 10;

struct ForwardPlan {
  std::int64_t block_keys, block_rows, task_rows, tasks_per_head, tasks;
  std::int64_t row_floats, value_floats;  // of a row's scores, of Ev
  bool values_in_place;
  int slots;

  ForwardPlan(const Problem& p, bool shows_all) {
    const std::int64_t rows = p.queries * p.group();
    block_keys = min_i(most_block_keys, ceil_div(max_i(p.keys, 1), 32) * 32);
    const std::int64_t heads = p.batch * p.key_heads;
    // At least four tasks a thread where there are rows enough.
    const std::int64_t wanted = ceil_div(4 * num_threads(), heads);
    value_floats = whole_vectors(p.value_size);
    // Rows of one head lie side by side, and no weight of 0 could meet what is not finite.
    values_in_place = shows_all && p.key_heads == 1 && value_floats == p.value_size;
    const std::int64_t most_rows = max_i(1, task_floats / value_floats);
    const std::int64_t tasks_wanted = max_i(ceil_div(rows, most_rows), wanted);
    const std::int64_t share = max_i(ceil_div(rows, tasks_wanted), 1);
    block_rows = min_i(share, most_block_rows);
    task_rows = ceil_div(share, block_rows) * block_rows;
    tasks_per_head = ceil_div(rows, task_rows);
    tasks = heads * tasks_per_head;
    // The odd number of lines between rows spreads a column over the sets of L1.
    row_floats = block_keys + 16;
    slots = static_cast<int>(min_i(num_threads(), tasks));
  }
  std::int64_t panel_keys() const { return ceil_div(block_keys, score_panel) * score_panel; }
};

class Forward {
 public:
  Forward(const Problem& p, const Results& out)
      : p_(p),
        out_(out),
        scores_(p),
        plan_(p, scores_.shows_all()),
        kept_keys_(philox_keys(p.dropout.seed)),
        sums_(p.op, plan_.slots * plan_.task_rows * plan_.value_floats),
        keys_(p.op, plan_.slots * plan_.panel_keys() * p.size),
        values_(p.op,
                plan_.values_in_place ? 0 : plan_.slots * plan_.block_keys * plan_.value_floats),
        x_(p.op, plan_.slots * plan_.block_rows * plan_.row_floats),
        maxima_(p.op, plan_.slots * plan_.task_rows),
        totals_(p.op, plan_.slots * plan_.task_rows),
        queries_(p.op, plan_.slots * plan_.block_rows),
        pointers_(p.op, plan_.slots * plan_.block_rows) {}

  void run() const {
    parallel_for_slots(plan_.tasks, plan_.slots, [&](std::int64_t task, int slot) {
      const std::int64_t head = task / plan_.tasks_per_head;
      const GroupRows rows(p_, head / p_.key_heads, head % p_.key_heads);
      const std::int64_t begin = task % plan_.tasks_per_head * plan_.task_rows;
      Place place(*this, slot);
      attend(rows, begin, min_i(begin + plan_.task_rows, rows.count()), place);
    });
  }

 private:
  // A thread's memory.
  struct Place {
    Block sums;     // of weights times values
    float* keys;    // a block, turned
    Block values;   // a block
    Block x;        // scores, then weights, of a block of rows
    float* maxima;  // of each row's scores so far
    float* totals;  // of its weights
    const float** queries;
    float** pointers;

    Place(const Forward& f, int slot)
        : sums{f.sums_.get() + slot * f.plan_.task_rows * f.plan_.value_floats,
               f.plan_.value_floats},
          keys(f.keys_.get() + slot * f.plan_.panel_keys() * f.p_.size),
          values{f.values_.get() + slot * f.plan_.block_keys * f.plan_.value_floats,
                 f.plan_.value_floats},
          x{f.x_.get() + slot * f.plan_.block_rows * f.plan_.row_floats, f.plan_.row_floats},
          maxima(f.maxima_.get() + slot * f.plan_.task_rows),
          totals(f.totals_.get() + slot * f.plan_.task_rows),
          queries(f.queries_.get() + slot * f.plan_.block_rows),
          pointers(f.pointers_.get() + slot * f.plan_.block_rows) {}
  };

  void attend(const GroupRows& rows, std::int64_t begin, std::int64_t end, Place& place) const {
    for (std::int64_t row = 0; row < whole_vectors(end - begin); row += Float::width) {
      const std::int64_t n = min_i(Float::width, end - begin - row);
      store_n(place.maxima + row, set(minus_infinity), n);
      store_n(place.totals + row, zero(), n);
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
    put_results(rows, begin, end, place);
    if (out_.weights != nullptr) put_weights(rows, begin, end, place);
  }

  void take_keys(const GroupRows& rows, std::int64_t key, std::int64_t count,
                 const Place& place) const {
    const std::int64_t stride = p_.key_heads * p_.size;
    turn_rows(p_.key + (rows.n * p_.keys + key) * stride + rows.k * p_.size, stride, count, p_.size,
              place.keys);
  }

  // Whether products can be made without looking at the weights.
  bool take_values(const GroupRows& rows, std::int64_t key, std::int64_t count,
                   Place& place) const {
    const std::int64_t stride = p_.key_heads * p_.value_size;
    const float* const values =
        p_.value + (rows.n * p_.keys + key) * stride + rows.k * p_.value_size;
    if (!plan_.values_in_place) {
      return copy_rows(values, stride, count, p_.value_size, place.values);
    }
    place.values.data = const_cast<float*>(values);
    return true;
  }

  // Scores of rows [row, last) with a block of keys, to place.x.
  void multiply_keys(const GroupRows& rows, std::int64_t row, std::int64_t last,
                     const Span& columns, const Place& place) const {
    for (std::int64_t r = row; r < last; ++r) {
      place.queries[r - row] = p_.query + rows.query_row(r) * p_.size;
    }
    multiply_turned(place.queries, last - row, p_.size, place.keys, columns, place.x);
  }

  // The keys of a block for some rows of the task, which begins with row `first`.
  void add_block(const GroupRows& rows, std::int64_t row, std::int64_t last, std::int64_t first,
                 std::int64_t key, const Span& columns, bool finite, const Place& place) const {
    multiply_keys(rows, row, last, columns, place);
    // The first block that one of the rows sees.
    const bool fresh = key <= rows.visible(row, last).begin;
    // One loop after the other: rows wait for their maxima side by side.
    const Span whole = {columns.begin, whole_vectors(columns.end)};
    float largest[most_block_rows];
    for (std::int64_t r = row; r < last; ++r) {
      float* const x = place.x.row(r - row);
      scores_.finish(rows, r, key, columns, x, nullptr);
      largest[r - row] = scores_.rest() * row_maximum(x + whole.begin, whole.end - whole.begin);
    }
    for (std::int64_t r = row; r < last; ++r) {
      float* const x = place.x.row(r - row);
      place.pointers[r - row] = place.sums.row(r - first);
      if (p_.drops) {
        const KeptRow kept(p_, kept_keys_, rows.score_row(r), key);
        weigh<true>(whole, r - first, largest[r - row], fresh, &kept, x, place);
      } else {
        weigh<false>(whole, r - first, largest[r - row], fresh, nullptr, x, place);
      }
    }
    if (finite) {
      add_product(place.x, last - row, columns, place.values, plan_.value_floats, !fresh,
                  place.pointers);
      return;
    }
    if (fresh) {
      for (std::int64_t r = row; r < last; ++r) scale_row(place.sums.row(r - first), zero());
    }
    add_nonzero_product(place.x, last - row, columns, place.values, plan_.value_floats,
                        place.pointers);
  }

  // Makes weights of a row's scores, and what was summed before relative to the new maximum.
  template <bool drops>
  LAMELLA_INLINE void weigh(const Span& columns, std::int64_t row, float largest, bool fresh,
                            const KeptRow* kept, float* x, const Place& place) const {
    const float before = place.maxima[row];
    const float maximum = largest > before ? largest : before;
    const Float rest = set(scores_.rest());
    const Float minus_maximum = set(maximum == minus_infinity ? 0.0f : -maximum);
    Float total = zero();
    for_each_vector<drops>(columns, kept, [&](std::int64_t c, Float factor) {
      const Float e = exp2_nonpositive(fma(load(x + c), rest, minus_maximum));
      total = total + e;
      store(x + c, drops ? e * factor : e);
    });
    place.maxima[row] = maximum;
    if (fresh || before == maximum) {
      place.totals[row] += sum(total);
      return;
    }
    const Float shrink = exp2_nonpositive(set(before) + minus_maximum);
    float lanes[Float::width];
    store(lanes, shrink);
    place.totals[row] = place.totals[row] * lanes[0] + sum(total);
    scale_row(place.sums.row(row), shrink);
  }

  void scale_row(float* sums, Float factor) const {
    const bool clears = any(equal(factor, zero()));
    for (std::int64_t e = 0; e < plan_.value_floats; e += Float::width) {
      store(sums + e, clears ? zero() : load(sums + e) * factor);
    }
  }

  // y, and lse in place of maxima.
  void put_results(const GroupRows& rows, std::int64_t begin, std::int64_t end,
                   const Place& place) const {
    for (std::int64_t row = 0; row < end - begin; row += Float::width) {
      const std::int64_t n = min_i(Float::width, end - begin - row);
      const Float total = load_n(place.totals + row, n);
      const Float lse = fma(log(total), set(log2_e), load_n(place.maxima + row, n));
      // Of a row that sees nothing, whose maximum may be anything small.
      const Mask none = equal(total, zero());
      store_n(place.maxima + row, select(none, set(minus_infinity), lse), n);
      store_n(place.totals + row, select(none, zero(), set(1.0f) / total), n);
    }
    for (std::int64_t row = begin; row < end; ++row) {
      const float inverse = place.totals[row - begin];
      const float* const sums = place.sums.row(row - begin);
      float* const y = out_.y + rows.query_row(row) * p_.value_size;
      for (std::int64_t e = 0; e < p_.value_size; e += Float::width) {
        const Float v = inverse == 0.0f ? zero() : load(sums + e) * set(inverse);
        const std::int64_t n = p_.value_size - e;
        if (n >= Float::width) {
          store(y + e, v);
        } else {
          store_n(y + e, v, n);
        }
      }
      out_.lse[rows.score_row(row)] = place.maxima[row - begin];
    }
  }

  // From the scores once more, now that lse is known; maxima holds it.
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
        multiply_keys(rows, row, last, columns, place);
        for (std::int64_t r = row; r < last; ++r) {
          float* const x = place.x.row(r - row);
          scores_.finish(rows, r, key, columns, x, nullptr);
          put_weights_of(rows, r, key, columns, place.maxima[r - begin], x);
        }
      }
    }
  }

  void put_weights_of(const GroupRows& rows, std::int64_t row, std::int64_t key,
                      const Span& columns, float lse, const float* x) const {
    const Float rest = set(scores_.rest());
    const Float minus_lse = set(lse == minus_infinity ? 0.0f : -lse);
    float* const to = out_.weights + rows.score_row(row) * p_.keys + key;
    const auto put = [&](std::int64_t c, Float factor) {
      store_n(to + c, exp2_nonpositive(fma(load(x + c), rest, minus_lse)) * factor,
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
  Scores scores_;
  ForwardPlan plan_;
  PhiloxKeys kept_keys_;
  Scratch<float> sums_, keys_, values_, x_, maxima_, totals_;
  Scratch<const float*> queries_;
  Scratch<float*> pointers_;
};

void attention_forward(const Problem& p, const Results& out) {
  if (p.batch * p.queries == 0) return;
  if (out.weights == nullptr && Decode::suits(p)) return Decode(p, out).run();
  if (SmallHeads::suits(p, out)) return SmallHeads(p, out).run();
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
