// The gradient of h on its way back through the steps: what comes from the outputs, from the state
// at the end, and from the step that was last gone back through.
#pragma once

#include "ops/conv2d/conv2d_taps.h"
#include "recurrent/state_rows.h"

namespace lamella::LAMELLA_ISA {

class StateGradients {
 public:
  // With `keeps_state` part of h goes past the products: put_kept has its gradient. dh0 may be
  // null: not wanted.
  StateGradients(const recurrent::Sequence& q, const recurrent::ResultGradients& dy, float* dh0,
                 bool keeps_state)
      : q_(q),
        s_(*q.steps),
        dy_(dy),
        dh0_(dh0),
        padded_(GateLayout{q.state_size, 1}.padded()),
        d_packed_(q.op, dy.outputs != nullptr && !s_.all() ? s_.packed_rows() * q.state_size : 0),
        dh_(q.op, s_.batch() * padded_),
        kept_(q.op, keeps_state ? s_.batch() * padded_ : 0) {}

  // Before all others, on all threads.
  void gather() const {
    if (dh0_ != nullptr) zero_fill(dh0_, s_.batch() * q_.state_size);
    if (dy_.outputs != nullptr && !s_.all()) {
      gather_output_gradients(s_, q_.state_size, dy_.outputs, d_packed_.get(), dh0_);
    }
  }

  // Before the last step of a row. The products write P of its columns.
  void begin(std::int64_t row) const { zero_fill(dh_.get() + row * padded_, padded_); }

  // Where the product with the recurrent kernel's transpose goes, (N, P').
  float* products() const { return dh_.get(); }

  // The gradient that goes from h after the step to h before it without passing a product.
  LAMELLA_INLINE Float kept(const CellPlace& at, std::int64_t u) const {
    return load(kept_.get() + at.row * padded_ + u);
  }
  LAMELLA_INLINE void put_kept(const CellPlace& at, std::int64_t u, Float d) const {
    store(kept_.get() + at.row * padded_ + u, d);
  }

  // Row of the outputs' gradient; null for zeros.
  const float* of_output(const CellPlace& at) const {
    if (dy_.outputs == nullptr) return nullptr;
    if (!s_.all()) return d_packed_.get() + at.packed * q_.state_size;
    return dy_.outputs + (at.row * s_.time() + at.j) * q_.state_size;
  }
  // Of h after the step.
  LAMELLA_INLINE Float after(const CellPlace& at, std::int64_t u) const {
    const float* const d_output = of_output(at);
    Float dh = d_output == nullptr ? zero() : load_n(d_output + u, count(u));
    if (at.last) {
      if (dy_.h != nullptr) dh = dh + load_n(dy_.h + at.n * q_.state_size + u, count(u));
      return dh;
    }
    return dh + before(at.row, at.n, u);
  }

  // After the first step of a row.
  void end(std::int64_t row) const {
    if (dh0_ == nullptr) return;
    const std::int64_t n = s_.sequence(row);
    for (std::int64_t u = 0; u < q_.state_size; u += Float::width) {
      float* const to = dh0_ + n * q_.state_size + u;
      Float dh = load_n(to, count(u));  // of outputs in front of the first step
      if (s_.length(row) > 0) {
        dh = dh + before(row, n, u);
      } else if (dy_.h != nullptr) {
        dh = dh + load_n(dy_.h + n * q_.state_size + u, count(u));
      }
      store_n(to, dh, count(u));
    }
  }

 private:
  LAMELLA_INLINE std::int64_t count(std::int64_t u) const {
    return max_i(0, min_i(Float::width, q_.state_size - u));
  }
  // Of h before the step that was last gone back through.
  LAMELLA_INLINE Float before(std::int64_t row, std::int64_t n, std::int64_t u) const {
    Float dh = load(dh_.get() + row * padded_ + u);
    if (q_.h_scale != nullptr) dh = dh * load_n(q_.h_scale + n * q_.state_size + u, count(u));
    if (kept_.get() != nullptr) dh = dh + load(kept_.get() + row * padded_ + u);
    return dh;
  }

  const recurrent::Sequence& q_;
  const Steps& s_;
  recurrent::ResultGradients dy_;
  float* dh0_;
  std::int64_t padded_;
  Scratch<float> d_packed_, dh_, kept_;
};

}  // namespace lamella::LAMELLA_ISA
