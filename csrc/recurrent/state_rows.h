// h on its way through the steps of a forward pass: what the products read, the rows of the
// outputs, and the state at the end.
#pragma once

#include "core/memory_pool.h"
#include "recurrent/finish_outputs.h"
#include "recurrent/gate_panels.h"
#include "recurrent/sequence.h"

namespace lamella::LAMELLA_ISA {

// A block of units of a row at a step.
struct CellPlace {
  std::int64_t j, row, n;
  std::int64_t packed;  // its packed row
  std::int64_t t;       // n * T + time in x
  std::int64_t block;
  bool last;  // step of the row

  CellPlace(const Steps& s, std::int64_t step, std::int64_t r, std::int64_t units_block)
      : j(step),
        row(r),
        n(s.sequence(r)),
        packed(s.offset(step) + r),
        t(n * s.time() + s.time_of(step, r)),
        block(units_block),
        last(step + 1 >= s.length(r)) {}
};

// Row n of a state before the first step, or zeros, becomes row n of the state after the last one.
inline void carry_state(const float* from, std::int64_t n, std::int64_t width, float* to) {
  const auto bytes = static_cast<std::size_t>(width) * sizeof(float);
  if (from == nullptr) {
    std::memset(to + n * width, 0, bytes);
  } else {
    std::memcpy(to + n * width, from + n * width, bytes);
  }
}

class StateRows {
 public:
  // With `uses_state` h before a step can be asked for.
  StateRows(const recurrent::Sequence& q, const recurrent::Results& out, bool uses_state)
      : q_(q),
        s_(*q.steps),
        out_(out),
        padded_(GateLayout{q.state_size, 1}.padded()),
        own_operands_(q.op, out.states != nullptr ? 0 : 2 * s_.batch() * padded_),
        states_(q.op, uses_state ? s_.batch() * padded_ : 0) {}

  // h0, or zeros, of a row, as the first step reads it.
  void begin(std::int64_t row) const {
    const std::int64_t n = s_.sequence(row);
    const bool takes_part = s_.length(row) > 0;
    for (std::int64_t u = 0; u < padded_; u += Float::width) {
      const std::int64_t at = n * q_.state_size + u;
      Float h = q_.h0 == nullptr ? zero() : load_n(q_.h0 + at, count(u));
      if (states_.get() != nullptr) store(states_.get() + row * padded_ + u, h);
      if (q_.h_scale != nullptr) h = h * load_n(q_.h_scale + at, count(u));
      if (takes_part) store(operand(0, row) + u, h);
    }
  }

  // What step j multiplies with the recurrent kernel.
  float* operand(std::int64_t j, std::int64_t row) const {
    if (out_.states != nullptr) return out_.states + (s_.offset(j) + row) * padded_;
    return own_operands_.get() + (j % 2 * s_.batch() + row) * padded_;
  }
  LAMELLA_INLINE Float scaled(Float h, const CellPlace& at, std::int64_t u) const {
    return q_.h_scale == nullptr ? h : h * load_n(q_.h_scale + at.n * q_.state_size + u, count(u));
  }
  // h before the step.
  LAMELLA_INLINE Float before(const CellPlace& at, std::int64_t u) const {
    return load(states_.get() + at.row * padded_ + u);
  }
  // h after the step, from unit u on.
  LAMELLA_INLINE void emit(const CellPlace& at, std::int64_t u, Float h) const {
    const std::int64_t lanes = count(u);
    const std::int64_t output = at.n * s_.time() + s_.position(at.j, at.row);
    store_n(out_.outputs + output * q_.state_size + u, h, lanes);
    if (states_.get() != nullptr) store(states_.get() + at.row * padded_ + u, h);
    if (at.last) {
      store_n(out_.h + at.n * q_.state_size + u, h, lanes);
    } else {
      store(operand(at.j + 1, at.row) + u, scaled(h, at, u));
    }
  }

  // After all steps: what masked ones leave as it was. carry(n) does as much for the other states
  // of a sequence without any steps.
  template <class Carry>
  void finish(const Carry& carry) const {
    repeat_carried(s_, q_.state_size, q_.h0, out_.outputs);
    for (std::int64_t row = 0; row < s_.batch(); ++row) {
      if (s_.length(row) > 0) continue;
      const std::int64_t n = s_.sequence(row);
      carry_state(q_.h0, n, q_.state_size, out_.h);
      carry(n);
    }
  }

 private:
  LAMELLA_INLINE std::int64_t count(std::int64_t u) const {
    return max_i(0, min_i(Float::width, q_.state_size - u));
  }

  const recurrent::Sequence& q_;
  const Steps& s_;
  recurrent::Results out_;
  std::int64_t padded_;
  Scratch<float> own_operands_, states_;
};

}  // namespace lamella::LAMELLA_ISA
