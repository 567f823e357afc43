// The backward pass of a recurrent op: back through the steps, with the gradients of the gates of
// all steps kept; then dx, and the weights' gradients as one product each over all steps.
//
// A Cell has what sequence_forward.h names, and
//   bool keeps_state() const                part of h goes past the gates
//   void begin_back(engine, row, n)         before the last step
//   void point_back(engine, phase, at, dh)  for a vector of units from at.u on: the gradients of
//   the
//                                           phase's gates. Phase 0 gets dh = 0 where there is a
//                                           phase 1, which got the gradient of h.
//   void end_back(engine, row, n)           after the first step
#pragma once

#include "gemm/bias_gradient.h"
#include "recurrent/sequence_inputs.h"
#include "recurrent/state_gradients.h"
#include "recurrent/weight_gradient.h"

namespace lamella::LAMELLA_ISA {

template <class Cell>
class SequenceBackward {
 public:
  SequenceBackward(const recurrent::Sequence& q, const recurrent::Results& saved,
                   const recurrent::ResultGradients& dy, const recurrent::Gradients& out,
                   const Cell& cell)
      : q_(q),
        s_(*q.steps),
        saved_(saved),
        out_(out),
        cell_(cell),
        layout_{q.units, Cell::gates},
        padded_(layout_.padded()),
        plan_(plan_team(s_, layout_, q.inputs + q.units)),
        recurrent_(q.op, unit_panels(q.units) * unit_panel * layout_.row_floats()),
        dz_(q.op, s_.packed_rows() * layout_.row_floats()),
        dq_(q.op, Cell::separate ? s_.packed_rows() * layout_.row_floats() : 0),
        states_(q, dy, out.h0, cell.keeps_state()),
        inputs_(q, layout_, out.x, out.kernel != nullptr),
        d_second_(q.op, cell.phases() > 1 ? s_.batch() * padded_ : 0),
        most_rows_(max_i(InputGradients::piece_rows, s_.batch())),
        segments_(q.op, 2 * layout_.blocks()),
        reads_(q.op, plan_.members * most_rows_),
        writes_(q.op, plan_.members * most_rows_) {}

  void run() {
    states_.gather();
    for (int phase = 0; phase < cell_.phases(); ++phase) {
      const Part which = cell_.phase_gates(phase);
      for (std::int64_t block = 0; block < layout_.blocks(); ++block) {
        const std::int64_t at = block * layout_.block_floats() + which.begin * unit_block;
        segments_.get()[phase * layout_.blocks() + block] = {
            at, at * unit_panel, (which.end - which.begin) * unit_block};
      }
    }
    parallel_team(plan_.members, [&](Team& team, int member) { take_part(team, member); });
    weights();
  }

  // For cells.
  std::int64_t units() const { return q_.units; }
  std::int64_t padded() const { return padded_; }
  const Steps& steps() const { return s_; }
  LAMELLA_INLINE std::int64_t count(std::int64_t u) const {
    return max_i(0, min_i(Float::width, q_.units - u));
  }
  LAMELLA_INLINE Float scale(const CellPlace& at, std::int64_t u) const {
    return q_.h_scale == nullptr ? set(1.0f) : load_n(q_.h_scale + at.n * q_.units + u, count(u));
  }
  // What forward kept of a gate, from the vector of units at w of the block on.
  LAMELLA_INLINE Float gate(const CellPlace& at, std::int64_t g, std::int64_t w) const {
    return load(saved_.gates + gate_at(at, g, w));
  }
  LAMELLA_INLINE void put_dz(const CellPlace& at, std::int64_t g, std::int64_t w, Float d) const {
    store(dz_.get() + gate_at(at, g, w), d);
  }
  // Of the product of h, where it is separate.
  LAMELLA_INLINE void put_dq(const CellPlace& at, std::int64_t g, std::int64_t w, Float d) const {
    store(dq_.get() + gate_at(at, g, w), d);
  }
  // The gradient that goes from h after the step to h before it without passing a product.
  LAMELLA_INLINE Float kept(const CellPlace& at, std::int64_t u) const {
    return states_.kept(at, u);
  }
  LAMELLA_INLINE void put_kept(const CellPlace& at, std::int64_t u, Float d) const {
    states_.put_kept(at, u, d);
  }
  // The gradient of what entered the second product.
  LAMELLA_INLINE Float d_second(const CellPlace& at, std::int64_t u) const {
    return load(d_second_.get() + at.row * padded_ + u);
  }
  // h as it entered the product.
  LAMELLA_INLINE Float operand(const CellPlace& at, std::int64_t u) const {
    return load(saved_.states + at.packed * padded_ + u);
  }

 private:
  struct Member {
    TeamShare share;
    const float** a;
    float** c;
  };

  LAMELLA_INLINE std::int64_t gate_at(const CellPlace& at, std::int64_t g, std::int64_t w) const {
    return at.packed * layout_.row_floats() + at.block * layout_.block_floats() + g * unit_block +
           w;
  }

  // The gradients that the product of h meets.
  const float* product_gradients() const { return Cell::separate ? dq_.get() : dz_.get(); }

  void take_part(Team& team, int member) const {
    const Part panels = part_of(unit_panels(q_.units), member, team.size());
    pack_unit_panels(layout_, q_.recurrent_kernel, q_.units, panels.begin, panels.end,
                     recurrent_.get());
    inputs_.pack(member, team.size());
    const Part rows = part_of(s_.batch(), member, team.size());
    for (std::int64_t row = rows.begin; row < rows.end; ++row) begin(row);
    team.barrier();
    const Member m = {TeamShare(plan_, team, member, layout_, s_),
                      reads_.get() + member * most_rows_, writes_.get() + member * most_rows_};
    for (std::int64_t j = s_.count() - 1; j >= 0; --j) {
      for (int phase = cell_.phases() - 1; phase >= 0; --phase) {
        step(j, phase, m);
        if (plan_.by_units) team.barrier();
        if (phase > 0) {
          multiply_back(j, phase, d_second_.get(), m);
        } else if (j > 0 || out_.h0 != nullptr) {
          multiply_back(j, phase, states_.products(), m);
        }
      }
    }
    team.barrier();
    for (std::int64_t row = rows.begin; row < rows.end; ++row) {
      states_.end(row);
      cell_.end_back(*this, row, s_.sequence(row));
    }
    inputs_.run(part_of(s_.packed_rows(), member, team.size()), dz_.get(), m.a, m.c);
  }

  void begin(std::int64_t row) const {
    states_.begin(row);
    if (d_second_.get() != nullptr) zero_fill(d_second_.get() + row * padded_, padded_);
    inputs_.begin(row);
    cell_.begin_back(*this, row, s_.sequence(row));
  }

  void step(std::int64_t j, int phase, const Member& m) const {
    const std::int64_t rows = m.share.count(s_.active(j));
    const bool receives = phase == cell_.phases() - 1;
    for (std::int64_t block = m.share.blocks.begin; block < m.share.blocks.end; ++block) {
      for (std::int64_t i = 0; i < rows; ++i) {
        const CellPlace at(s_, j, m.share.row(i), block);
        if (rows > 1) prefetch_next_block(at);
        for (std::int64_t w = 0; w < unit_block; w += Float::width) {
          const std::int64_t u = block * unit_block + w;
          cell_.point_back(*this, phase, at, w, receives ? states_.after(at, u) : zero());
        }
      }
    }
  }

  // Rows of dy lie T * U floats apart: the hardware does not see the next one coming.
  LAMELLA_INLINE void prefetch_next_block(const CellPlace& at) const {
    const float* const d_output = states_.of_output(at);
    const std::int64_t u = (at.block + 1) * unit_block;
    if (d_output != nullptr) __builtin_prefetch(d_output + u);
    const float* const gate = saved_.gates + gate_at(at, 0, 0) + layout_.block_floats();
    for (std::int64_t i = 0; i < layout_.block_floats(); i += 16) __builtin_prefetch(gate + i);
  }

  // to = (the phase's gradients of step j) R^T for the member's rows and units.
  void multiply_back(std::int64_t j, int phase, float* to, const Member& m) const {
    PanelProduct product = {};
    product.rows = m.share.count(s_.active(j));
    product.a = m.a;
    product.c = m.c;
    product.segments = segments_.get() + phase * layout_.blocks();
    product.segment_count = layout_.blocks();
    const Segment whole = {0, 0, layout_.row_floats()};
    if (cell_.phases() == 1) {
      product.segments = &whole;
      product.segment_count = 1;
    }
    product.width = unit_panel;
    for (std::int64_t i = 0; i < product.rows; ++i) {
      m.a[i] = product_gradients() + (s_.offset(j) + m.share.row(i)) * layout_.row_floats();
    }
    const std::int64_t last = min_i(m.share.blocks.end * unit_block, q_.units);
    for (std::int64_t u = m.share.blocks.begin * unit_block; u < last; u += product.columns) {
      const std::int64_t panel = u / unit_panel;
      product.columns = min_i(last, (panel + 1) * unit_panel) - u;
      product.panel =
          recurrent_.get() + panel * unit_panel * layout_.row_floats() + u - panel * unit_panel;
      for (std::int64_t i = 0; i < product.rows; ++i) m.c[i] = to + m.share.row(i) * padded_ + u;
      multiply(product);
    }
  }

  void weights() const {
    const std::int64_t rows = s_.packed_rows();
    const std::int64_t columns = layout_.row_floats();
    const std::int64_t width = Cell::gates * q_.units;
    if (rows == 0) {
      zero_fill(out_.kernel, out_.kernel != nullptr ? q_.inputs * width : 0);
      zero_fill(out_.recurrent_kernel, out_.recurrent_kernel != nullptr ? q_.units * width : 0);
      zero_fill(out_.recurrent_bias, out_.recurrent_bias != nullptr ? width : 0);
      return zero_fill(out_.bias, out_.bias != nullptr ? width : 0);
    }
    const Scratch<float> bias(q_.op, columns);
    if (out_.kernel != nullptr) {
      const Scratch<float> sum(q_.op, q_.inputs * columns);
      weight_gradient(rows, q_.inputs, inputs_.rows(), columns, dz_.get(), sum.get(),
                      out_.bias != nullptr ? bias.get() : nullptr);
      unpack_gate_rows(layout_, sum.get(), q_.inputs, out_.kernel);
    } else if (out_.bias != nullptr) {
      bias_gradient(dz_.get(), rows, columns, bias.get());
    }
    if (out_.bias != nullptr) unpack_gate_rows(layout_, bias.get(), 1, out_.bias);
    if (out_.recurrent_bias != nullptr) {
      bias_gradient(dq_.get(), rows, columns, bias.get());
      unpack_gate_rows(layout_, bias.get(), 1, out_.recurrent_bias);
    }
    if (out_.recurrent_kernel == nullptr) return;
    const Scratch<float> sum(q_.op, padded_ * columns);
    weight_gradient(rows, padded_, saved_.states, columns, product_gradients(), sum.get(), nullptr);
    if (cell_.phases() > 1) {
      // The gates of the second product met another operand.
      const Scratch<float> second(q_.op, padded_ * columns);
      weight_gradient(rows, padded_, saved_.second, columns, product_gradients(), second.get(),
                      nullptr);
      const Part which = cell_.phase_gates(1);
      const auto bytes =
          static_cast<std::size_t>((which.end - which.begin) * unit_block) * sizeof(float);
      for (std::int64_t b = 0; b < padded_ * layout_.blocks(); ++b) {
        const std::int64_t at = b * layout_.block_floats() + which.begin * unit_block;
        std::memcpy(sum.get() + at, second.get() + at, bytes);
      }
    }
    unpack_gate_rows(layout_, sum.get(), q_.units, out_.recurrent_kernel);
  }

  const recurrent::Sequence& q_;
  const Steps& s_;
  recurrent::Results saved_;
  recurrent::Gradients out_;
  const Cell& cell_;
  GateLayout layout_;
  std::int64_t padded_;
  TeamPlan plan_;
  Scratch<float> recurrent_, dz_, dq_;
  StateGradients states_;
  InputGradients inputs_;
  Scratch<float> d_second_;
  std::int64_t most_rows_;
  Scratch<Segment> segments_;
  Scratch<const float*> reads_;
  Scratch<float*> writes_;
};

}  // namespace lamella::LAMELLA_ISA
