// Attention backward. A task has some blocks of keys of one head and goes through all rows: their
// weights come again from the scores and lse, and five products go to the gradients while a block
// of keys and of rows lies in L2.
#include "ops/attention/attention_products.h"

namespace lamella::LAMELLA_ISA {
namespace {

using attention::Gradients;
using attention::Problem;
using attention::Saved;

constexpr std::int64_t most_block_keys = 128;
constexpr std::int64_t most_block_rows = 120;
// Tasks that keys are cut into where heads are few, at most: each has gradients of all queries.
constexpr std::int64_t tasks_wanted = 16;

// Which part of the problem is a task's own. Where the bias has a gradient and repeats along an
// axis, one task has the whole axis, so that it can add up.
struct BackwardPlan {
  std::int64_t block_keys, block_rows, chunks, chunk_keys;
  std::int64_t batch_tasks, head_tasks;  // N and K, or 1
  std::int64_t row_floats, size_floats, value_floats, panel_keys;
  int slots;

  BackwardPlan(const Problem& p, bool bias) {
    const std::int64_t rows = p.queries * p.group();
    block_keys = min_i(most_block_keys, ceil_div(p.keys, 32) * 32);
    block_rows = ceil_div(rows, ceil_div(rows, most_block_rows));
    const attention::Strides& s = p.bias_strides;
    batch_tasks = bias && s.n == 0 ? 1 : p.batch;
    head_tasks = bias && s.a == 0 ? 1 : p.key_heads;
    const std::int64_t blocks = ceil_div(p.keys, block_keys);
    chunks =
        bias && s.j == 0 ? 1 : max_i(1, min_i(tasks_wanted / (batch_tasks * head_tasks), blocks));
    chunk_keys = ceil_div(blocks, chunks) * block_keys;
    chunks = ceil_div(p.keys, chunk_keys);
    row_floats = block_keys + 16;
    size_floats = whole_vectors(p.size);
    value_floats = whole_vectors(p.value_size);
    panel_keys = ceil_div(block_keys, score_panel) * score_panel;
    slots = static_cast<int>(min_i(num_threads(), tasks()));
  }
  std::int64_t tasks() const { return batch_tasks * head_tasks * chunks; }
};

class Backward {
 public:
  Backward(const Problem& p, const Saved& saved, const Gradients& out)
      : p_(p),
        saved_(saved),
        out_(out),
        plan_(p, out.bias != nullptr),
        scores_(p),
        kept_keys_(philox_keys(p.dropout.seed)),
        turned_keys_(p.op, plan_.slots * plan_.panel_keys * p.size),
        turned_values_(p.op, plan_.slots * plan_.panel_keys * p.value_size),
        keys_(p.op, plan_.slots * plan_.block_keys * plan_.size_floats),
        dk_(p.op, plan_.slots * KeySums::floats(plan_.block_keys, p.size)),
        dv_(p.op, plan_.slots * KeySums::floats(plan_.block_keys, p.value_size)),
        queries_(p.op, plan_.slots * plan_.block_rows * plan_.size_floats),
        dy_(p.op, plan_.slots * plan_.block_rows * plan_.value_floats),
        w_(p.op, plan_.slots * plan_.block_rows * plan_.row_floats),
        ds_(p.op, plan_.slots * plan_.block_rows * plan_.row_floats),
        slopes_(p.op, p.softcap == 0.0f ? 0 : plan_.slots * plan_.block_rows * plan_.row_floats),
        row_terms_(p.op, p.batch * p.heads * p.queries),
        reads_(p.op, plan_.slots * plan_.block_rows),
        pointers_(p.op, plan_.slots * plan_.block_rows),
        partial_dq_(p.op,
                    out.query != nullptr && plan_.chunks > 1 ? plan_.chunks * query_floats() : 0) {}

  void run() const {
    if (out_.bias != nullptr) std::memset(out_.bias, 0, bias_bytes());
    parallel_for(p_.batch * p_.heads, [&](std::int64_t i) { take_row_terms(i); });
    if (out_.query != nullptr) {
      float* const dq = plan_.chunks > 1 ? partial_dq_.get() : out_.query;
      parallel_chunks(
          plan_.chunks * query_floats(), 1 << 16, [&](std::int64_t begin, std::int64_t end) {
            std::memset(dq + begin, 0, static_cast<std::size_t>(end - begin) * sizeof(float));
          });
    }
    parallel_for_slots(plan_.tasks(), plan_.slots, [&](std::int64_t task, int slot) {
      const std::int64_t chunk = task % plan_.chunks;
      const std::int64_t k = task / plan_.chunks % plan_.head_tasks;
      const std::int64_t n = task / plan_.chunks / plan_.head_tasks;
      const Place place(*this, slot);
      const std::int64_t batch_end = plan_.batch_tasks == p_.batch ? n + 1 : p_.batch;
      const std::int64_t head_end = plan_.head_tasks == p_.key_heads ? k + 1 : p_.key_heads;
      for (std::int64_t sequence = n; sequence < batch_end; ++sequence) {
        for (std::int64_t head = k; head < head_end; ++head) {
          through_keys(GroupRows(p_, sequence, head), chunk, place);
        }
      }
    });
    if (out_.query != nullptr) finish_queries();
  }

 private:
  struct Place {
    float* turned_keys;
    float* turned_values;
    Block keys;
    KeySums dk, dv;
    Block queries;
    Block dy;
    Block w;   // scores, then weights
    Block ds;  // gradients of weights, then of scores
    Block slopes;
    const float** reads;
    float** pointers;

    Place(const Backward& b, int slot)
        : turned_keys(b.turned_keys_.get() + slot * b.plan_.panel_keys * b.p_.size),
          turned_values(b.turned_values_.get() + slot * b.plan_.panel_keys * b.p_.value_size),
          keys(part(b.keys_, slot, b.plan_.block_keys, b.plan_.size_floats)),
          dk(b.dk_.get() + slot * KeySums::floats(b.plan_.block_keys, b.p_.size),
             b.plan_.block_keys, b.p_.size),
          dv(b.dv_.get() + slot * KeySums::floats(b.plan_.block_keys, b.p_.value_size),
             b.plan_.block_keys, b.p_.value_size),
          queries(part(b.queries_, slot, b.plan_.block_rows, b.plan_.size_floats)),
          dy(part(b.dy_, slot, b.plan_.block_rows, b.plan_.value_floats)),
          w(part(b.w_, slot, b.plan_.block_rows, b.plan_.row_floats)),
          ds(part(b.ds_, slot, b.plan_.block_rows, b.plan_.row_floats)),
          slopes(part(b.slopes_, slot, b.plan_.block_rows, b.plan_.row_floats)),
          reads(b.reads_.get() + slot * b.plan_.block_rows),
          pointers(b.pointers_.get() + slot * b.plan_.block_rows) {}

    static Block part(const Scratch<float>& all, int slot, std::int64_t rows, std::int64_t stride) {
      return {all.get() == nullptr ? nullptr : all.get() + slot * rows * stride, stride};
    }
  };

  std::size_t bias_bytes() const {
    const attention::Strides& s = p_.bias_strides;
    std::int64_t last = (p_.batch - 1) * s.n + (p_.heads - 1) * s.a + (p_.queries - 1) * s.i;
    last += (p_.keys - 1) * s.j;
    return static_cast<std::size_t>(last + 1) * sizeof(float);
  }

  std::int64_t query_floats() const { return p_.batch * p_.queries * p_.heads * p_.size; }

  // D of the rows of head i of (N,A).
  void take_row_terms(std::int64_t i) const {
    const std::int64_t n = i / p_.heads;
    const std::int64_t head = i % p_.heads;
    for (std::int64_t query = 0; query < p_.queries; ++query) {
      const std::int64_t row = i * p_.queries + query;
      const std::int64_t at = ((n * p_.queries + query) * p_.heads + head) * p_.value_size;
      float d = 0.0f;
      if (saved_.dy != nullptr) d = dot(saved_.dy + at, saved_.y + at, p_.value_size);
      if (saved_.dweights != nullptr) {
        d += dot(saved_.dweights + row * p_.keys, saved_.weights + row * p_.keys, p_.keys);
      }
      if (saved_.dlse != nullptr) d -= saved_.dlse[row];
      row_terms_.get()[row] = d;
    }
  }

  // Where b is 0 it counts for nothing.
  static float dot(const float* a, const float* b, std::int64_t size) {
    return row_sums<1>(size,
                       [&](auto at, Float(&sums)[1]) {
                         const Float weight = at.get(b);
                         const Float product = at.get(a) * weight;
                         sums[0] = sums[0] + select(equal(weight, zero()), zero(), product);
                       })
        .sum[0];
  }

  void through_keys(const GroupRows& rows, std::int64_t chunk, const Place& place) const {
    const std::int64_t end = min_i((chunk + 1) * plan_.chunk_keys, p_.keys);
    for (std::int64_t key = chunk * plan_.chunk_keys; key < end; key += plan_.block_keys) {
      through_rows(rows, key, min_i(plan_.block_keys, end - key), chunk, place);
    }
  }

  void through_rows(const GroupRows& rows, std::int64_t key, std::int64_t count, std::int64_t chunk,
                    const Place& place) const {
    const std::int64_t stride = p_.key_heads * p_.size;
    const std::int64_t key_at = (rows.n * p_.keys + key) * stride + rows.k * p_.size;
    const std::int64_t value_stride = p_.key_heads * p_.value_size;
    const std::int64_t value_at = (rows.n * p_.keys + key) * value_stride + rows.k * p_.value_size;
    place.dk.clear();
    place.dv.clear();
    bool taken = false;
    bool keys_finite = true;
    for (std::int64_t row = 0; row < rows.count(); row += plan_.block_rows) {
      const std::int64_t last = min_i(row + plan_.block_rows, rows.count());
      const Span columns = columns_of(rows.visible(row, last), key, count, score_panel);
      if (columns.empty()) continue;
      if (!taken) {
        turn_rows(p_.key + key_at, stride, count, p_.size, place.turned_keys);
        turn_rows(p_.value + value_at, value_stride, count, p_.value_size, place.turned_values);
        keys_finite = copy_rows(p_.key + key_at, stride, count, p_.size, place.keys);
        taken = true;
      }
      block(rows, row, last, key, columns, keys_finite, chunk, place);
    }
    if (out_.key != nullptr) {
      place.dk.put(count, p_.scale, out_.key + key_at, stride);
    }
    if (out_.value != nullptr) {
      place.dv.put(count, 1.0f, out_.value + value_at, value_stride);
    }
  }

  // A block of rows with a block of keys.
  void block(const GroupRows& rows, std::int64_t row, std::int64_t last, std::int64_t key,
             const Span& columns, bool keys_finite, std::int64_t chunk, const Place& place) const {
    const std::int64_t count = last - row;
    bool queries_finite = true;
    bool dy_finite = true;
    for (std::int64_t r = row; r < last; ++r) {
      const std::int64_t at = rows.query_row(r);
      queries_finite &=
          copy_rows(p_.query + at * p_.size, 0, 1, p_.size, {place.queries.row(r - row), 0});
      if (saved_.dy == nullptr) continue;
      dy_finite &= copy_rows(saved_.dy + at * p_.value_size, 0, 1, p_.value_size,
                             {place.dy.row(r - row), 0});
    }
    for (std::int64_t i = 0; i < count; ++i) place.reads[i] = place.queries.row(i);
    multiply_turned(place.reads, count, p_.size, place.turned_keys, columns, place.w);
    if (saved_.dy != nullptr) {
      for (std::int64_t i = 0; i < count; ++i) place.reads[i] = place.dy.row(i);
      multiply_turned(place.reads, count, p_.value_size, place.turned_values, columns, place.ds);
    }
    for (std::int64_t r = row; r < last; ++r) {
      float* const slope = p_.softcap == 0.0f ? nullptr : place.slopes.row(r - row);
      scores_.finish(rows, r, key, columns, place.w.row(r - row), slope);
      if (p_.drops) {
        const KeptRow kept(p_, kept_keys_, rows.score_row(r), key);
        differentiate<true>(rows, r, key, columns, &kept, slope, r - row, place);
      } else {
        differentiate<false>(rows, r, key, columns, nullptr, slope, r - row, place);
      }
    }
    if (out_.value != nullptr && saved_.dy != nullptr) {
      place.dv.add(place.w, count, columns, place.dy, dy_finite);
    }
    if (out_.key != nullptr) {
      place.dk.add(place.ds, count, columns, place.queries, queries_finite);
    }
    if (out_.query == nullptr) return;
    float* const dq = plan_.chunks > 1 ? partial_dq_.get() + chunk * query_floats() : out_.query;
    for (std::int64_t r = row; r < last; ++r) {
      place.pointers[r - row] = dq + rows.query_row(r) * p_.size;
    }
    if (keys_finite) {
      add_product(place.ds, count, columns, place.keys, p_.size, true, place.pointers);
    } else {
      add_nonzero_product(place.ds, count, columns, place.keys, p_.size, place.pointers);
    }
  }

  // w and ds of a row from its scores and the gradients of its weights, in place.
  template <bool drops>
  void differentiate(const GroupRows& rows, std::int64_t row, std::int64_t key, const Span& columns,
                     const KeptRow* kept, const float* slope, std::int64_t local,
                     const Place& place) const {
    const std::int64_t score_row = rows.score_row(row);
    const float lse = saved_.lse[score_row];
    const Float minus_lse = set(lse == minus_infinity ? 0.0f : -lse);
    const Float rest = set(scores_.rest());
    const Float d = set(row_terms_.get()[score_row]);
    const float* const dweights =
        saved_.dweights == nullptr ? nullptr : saved_.dweights + score_row * p_.keys + key;
    float* const w = place.w.row(local);
    float* const ds = place.ds.row(local);
    for_each_vector<drops>(columns, kept, [&](std::int64_t c, Float factor) {
      const Float p = exp2_nonpositive(fma(load(w + c), rest, minus_lse));
      Float dw = saved_.dy == nullptr ? zero() : load(ds + c);
      if (dweights != nullptr) {
        dw = dw + load_n(dweights + c, max_i(0, min_i(Float::width, columns.end - c)));
      }
      const Mask unseen = equal(p, zero());
      if constexpr (drops) {
        const Float weight = p * factor;
        dw = select(equal(factor, zero()), zero(), dw);
        store(w + c, weight);
        store(ds + c, select(unseen, zero(), fma(weight, dw, zero() - p * d)));
      } else {
        store(w + c, p);
        store(ds + c, select(unseen, zero(), p * (dw - d)));
      }
    });
    if (out_.bias != nullptr) add_bias_gradient(rows, row, key, columns, ds);
    if (slope == nullptr) return;
    for (std::int64_t c = columns.begin; c < columns.end; c += Float::width) {
      store(ds + c, load(ds + c) * load(slope + c));
    }
  }

  void add_bias_gradient(const GroupRows& rows, std::int64_t row, std::int64_t key,
                         const Span& columns, const float* ds) const {
    const attention::Strides& s = p_.bias_strides;
    float* const to = out_.bias + s.at(rows.n, rows.head(row), rows.query(row));
    if (s.j == 0) {
      const float total = row_sums<1>(columns.end - columns.begin, [&](auto at, Float(&sums)[1]) {
                            sums[0] = sums[0] + at.get(ds + columns.begin);
                          }).sum[0];
      to[0] += total;
      return;
    }
    for (std::int64_t c = columns.begin; c < columns.end; c += Float::width) {
      const std::int64_t n = min_i(Float::width, columns.end - c);
      store_n(to + key + c, load_n(to + key + c, n) + load_n(ds + c, n), n);
    }
  }

  // Times scale, and of all chunks in their order.
  void finish_queries() const {
    parallel_chunks(query_floats(), 1 << 14, [&](std::int64_t begin, std::int64_t end) {
      for (std::int64_t i = begin; i < end; i += Float::width) {
        const std::int64_t n = min_i(Float::width, end - i);
        Float v = load_n((plan_.chunks > 1 ? partial_dq_.get() : out_.query) + i, n);
        for (std::int64_t chunk = 1; chunk < plan_.chunks; ++chunk) {
          v = v + load_n(partial_dq_.get() + chunk * query_floats() + i, n);
        }
        store_n(out_.query + i, v * set(p_.scale), n);
      }
    });
  }

  const Problem& p_;
  const Saved& saved_;
  const Gradients& out_;
  BackwardPlan plan_;
  Scores scores_;
  PhiloxKeys kept_keys_;
  Scratch<float> turned_keys_, turned_values_, keys_, dk_, dv_, queries_, dy_, w_, ds_, slopes_,
      row_terms_;
  Scratch<const float*> reads_;
  Scratch<float*> pointers_;
  Scratch<float> partial_dq_;
};

}  // namespace

void attention_backward(const Problem& p, const Saved& saved, const Gradients& out) {
  Backward(p, saved, out).run();
}

}  // namespace lamella::LAMELLA_ISA
