// The forward pass of a recurrent op. A thread takes its sequences (or its units, see team_share.h)
// through pieces of some steps: first x W + b for all steps of a piece, one product; then step by
// step the product of h and, while a block's gates are in L1, the cell.
//
// A Cell has
//   static constexpr std::int64_t gates
//   static constexpr bool separate        the product of h is not added to that of x
//   int phases() const                    products of h a step: a second one reads what the cell
//                                         made of the first
//   Part phase_gates(int phase) const     the gates a product is for
//   bool uses_state() const               it reads h before the step
//   void begin(engine, row, n)            before the first step
//   void carry(engine, n)                 a sequence without steps
//   void point(engine, phase, at, z, q)   a block of units of a row: z the gates [gate][16], q the
//                                         product of h where it is separate. It calls engine.emit
//                                         with each vector of h after the step.
#pragma once

#include "ops/activation/activation_simd.h"
#include "recurrent/sequence_inputs.h"
#include "recurrent/state_rows.h"

namespace lamella::LAMELLA_ISA {

template <class Cell>
class SequenceForward {
 public:
  SequenceForward(const recurrent::Sequence& q, const recurrent::Results& out, const Cell& cell)
      : q_(q),
        s_(*q.steps),
        out_(out),
        cell_(cell),
        layout_{q.units, Cell::gates},
        padded_(layout_.padded()),
        plan_(plan_team(s_, layout_, q.inputs + q.units)),
        keeps_(out.gates != nullptr),
        in_place_(multiplies_in_place(s_, q.units)),
        kernel_(q.op, in_place_ ? 0 : q.inputs * layout_.row_floats()),
        recurrent_(q.op, in_place_ ? 0 : q.units * layout_.row_floats()),
        bias_(q.op, 2 * layout_.row_floats()),
        x_scaled_(q.op, q.x_scale != nullptr ? s_.packed_rows() * q.inputs : 0),
        own_second_(q.op, keeps_ || cell.phases() == 1 ? 0 : s_.batch() * padded_),
        states_(q, out, cell.uses_state()),
        most_rows_(max_i(piece_rows, s_.batch())),
        own_gates_(q.op, keeps_ ? 0 : plan_.members * most_rows_ * layout_.row_floats()),
        in_place_products_(q.op, in_place_ ? s_.batch() * Cell::gates * q.units : 0),
        products_(q.op, Cell::separate ? plan_.members * s_.batch() * layout_.block_floats() : 0),
        reads_(q.op, plan_.members * most_rows_),
        writes_(q.op, plan_.members * most_rows_) {}

  void run() {
    if (s_.packed_rows() > 0) {
      parallel_team(plan_.members, [&](Team& team, int member) { take_part(team, member); });
    }
    states_.finish([&](std::int64_t n) { cell_.carry(*this, n); });
  }

  // For cells.
  bool keeps() const { return keeps_; }
  std::int64_t units() const { return q_.units; }
  std::int64_t padded() const { return padded_; }
  const Steps& steps() const { return s_; }
  // Units of a vector that begins at u.
  LAMELLA_INLINE std::int64_t count(std::int64_t u) const {
    return max_i(0, min_i(Float::width, q_.units - u));
  }
  LAMELLA_INLINE Float scaled(Float h, const CellPlace& at, std::int64_t u) const {
    return states_.scaled(h, at, u);
  }
  // h before the step, if the cell uses it.
  LAMELLA_INLINE Float state(const CellPlace& at, std::int64_t u) const {
    return states_.before(at, u);
  }
  LAMELLA_INLINE float* second(std::int64_t packed, std::int64_t row) const {
    return keeps_ ? out_.second + packed * padded_ : own_second_.get() + row * padded_;
  }
  // h after the step, from unit u on.
  LAMELLA_INLINE void emit(const CellPlace& at, std::int64_t u, Float h) const {
    states_.emit(at, u, h);
  }

 private:
  // Rows of a piece: enough to fill the tiles of a product, few enough for its gates to stay in L2.
  static constexpr std::int64_t piece_rows = 96;

  struct Member {
    TeamShare share;
    float* gates;     // its own rows of gates, where none are kept
    float* products;  // separate products of h for a block
    const float** a;  // pointers to rows of a product
    float** c;
  };

  void take_part(Team& team, int member) const {
    const Part blocks = part_of(layout_.blocks(), member, team.size());
    if (!in_place_) {
      pack_gate_panels(layout_, q_.kernel, q_.inputs, blocks.begin, blocks.end, kernel_.get());
      pack_gate_panels(layout_, q_.recurrent_kernel, q_.units, blocks.begin, blocks.end,
                       recurrent_.get());
    }
    if (q_.bias != nullptr) {
      pack_gate_panels(layout_, q_.bias, 1, blocks.begin, blocks.end, bias_.get());
    }
    if (q_.recurrent_bias != nullptr) {
      pack_gate_panels(layout_, q_.recurrent_bias, 1, blocks.begin, blocks.end,
                       bias_.get() + layout_.row_floats());
    }
    const Part rows = part_of(s_.batch(), member, team.size());
    for (std::int64_t row = rows.begin; row < rows.end; ++row) {
      states_.begin(row);
      cell_.begin(*this, row, s_.sequence(row));
    }
    if (q_.x_scale != nullptr) {
      scale_inputs(q_, part_of(s_.count(), member, team.size()), x_scaled_.get());
    }
    team.barrier();
    const Member m = {TeamShare(plan_, team, member, layout_, s_),
                      own_gates_.get() + member * most_rows_ * layout_.row_floats(),
                      products_.get() + member * s_.batch() * layout_.block_floats(),
                      reads_.get() + member * most_rows_, writes_.get() + member * most_rows_};
    for (std::int64_t j = 0; j < s_.count();) {
      const std::int64_t end = piece_end(s_, m.share, j, piece_rows);
      multiply_inputs(j, end, m);
      for (std::int64_t e = 0; j < end; ++j) {
        for (int phase = 0; phase < cell_.phases(); ++phase) {
          step(j, e, phase, m);
          if (plan_.by_units) team.barrier();
        }
        e += m.share.count(s_.active(j));
      }
    }
  }

  // Row e of the member's piece: its gates of a block.
  float* gate_row(std::int64_t j, std::int64_t row, std::int64_t e, std::int64_t block,
                  const Member& m) const {
    if (keeps_) {
      return out_.gates + (s_.offset(j) + row) * layout_.row_floats() +
             block * layout_.block_floats();
    }
    const std::int64_t blocks = m.share.blocks.end - m.share.blocks.begin;
    return m.gates + (e * blocks + block - m.share.blocks.begin) * layout_.block_floats();
  }

  void multiply_inputs(std::int64_t begin, std::int64_t end, const Member& m) const {
    PanelProduct product = {};
    for (std::int64_t j = begin; j < end; ++j) {
      for (std::int64_t i = 0; i < m.share.count(s_.active(j)); ++i) {
        const std::int64_t row = m.share.row(i);
        m.a[product.rows] = q_.x_scale != nullptr
                                ? x_scaled_.get() + (s_.offset(j) + row) * q_.inputs
                                : q_.x + input_at(q_, j, row);
        m.c[product.rows] = gate_row(j, row, product.rows, m.share.blocks.begin, m);
        ++product.rows;
      }
    }
    const Segment terms = {0, 0, q_.inputs};
    product.a = m.a;
    product.c = m.c;
    product.segments = &terms;
    product.segment_count = 1;
    product.width = product.columns = layout_.block_floats();
    if (in_place_) {
      multiply_in_place(product, q_.kernel, {0, Cell::gates}, q_.bias, m);
    }
    for (std::int64_t block = m.share.blocks.begin; block < m.share.blocks.end; ++block) {
      if (in_place_) {
        for (std::int64_t r = 0; r < product.rows; ++r) {
          copy_block(layout_, in_place_row(m.share.row(r)), block, 0, Cell::gates, m.c[r]);
          m.c[r] += layout_.block_floats();
        }
        continue;
      }
      product.panel = kernel_.get() + block * q_.inputs * layout_.block_floats();
      product.bias = q_.bias == nullptr ? nullptr : bias_.get() + block * layout_.block_floats();
      multiply(product);
      for (std::int64_t r = 0; r < product.rows; ++r) m.c[r] += layout_.block_floats();
    }
  }

  void step(std::int64_t j, std::int64_t e, int phase, const Member& m) const {
    const std::int64_t rows = m.share.count(s_.active(j));
    const Part which = cell_.phase_gates(phase);
    const std::int64_t first = which.begin * unit_block;
    const bool from_zero = j == 0 && q_.h0 == nullptr;
    const Segment terms = {0, 0, from_zero ? 0 : q_.units};
    PanelProduct product = {};
    product.a = m.a;
    product.c = m.c;
    product.rows = rows;
    product.segments = &terms;
    product.segment_count = 1;
    product.accumulate = !Cell::separate;
    product.width = layout_.block_floats();
    product.columns = (which.end - which.begin) * unit_block;
    for (std::int64_t i = 0; i < rows; ++i) {
      const std::int64_t row = m.share.row(i);
      m.a[i] = phase == 0 ? states_.operand(j, row) : second(s_.offset(j) + row, row);
    }
    const bool multiplies = Cell::separate || !from_zero;
    if (in_place_ && multiplies) {
      multiply_in_place(product, q_.recurrent_kernel, which, q_.recurrent_bias, m);
    }
    for (std::int64_t block = m.share.blocks.begin; block < m.share.blocks.end; ++block) {
      for (std::int64_t i = 0; i < rows; ++i) {
        m.c[i] = Cell::separate ? m.products + i * layout_.block_floats()
                                : gate_row(j, m.share.row(i), e + i, block, m) + first;
      }
      product.panel = recurrent_.get() + block * q_.units * layout_.block_floats() + first;
      if constexpr (Cell::separate) {
        product.bias = q_.recurrent_bias == nullptr
                           ? nullptr
                           : bias_.get() + layout_.row_floats() + block * layout_.block_floats();
      }
      if (multiplies && in_place_) {
        for (std::int64_t i = 0; i < rows; ++i) {
          copy_block(layout_, in_place_row(m.share.row(i)), block, which.begin, which.end,
                     m.c[i] - (Cell::separate ? 0 : first));
        }
      } else if (multiplies) {
        multiply(product);
      }
      for (std::int64_t i = 0; i < rows; ++i) {
        const CellPlace at(s_, j, m.share.row(i), block);
        cell_.point(*this, phase, at, gate_row(j, at.row, e + i, block, m),
                    Cell::separate ? m.c[i] : nullptr);
      }
    }
  }

  // A product's gates `which` of the member's blocks.
  void multiply_in_place(PanelProduct product, const float* kernel, const Part& which,
                         const float* bias, const Member& m) const {
    float* c[wide_tile_rows];
    product.c = c;
    product.width = Cell::gates * q_.units;
    product.columns = (m.share.blocks.end - m.share.blocks.begin) * unit_block;
    for (std::int64_t gate = which.begin; gate < which.end; ++gate) {
      const std::int64_t column = gate * q_.units + m.share.blocks.begin * unit_block;
      product.panel = kernel + column;
      product.bias = bias == nullptr ? nullptr : bias + column;
      for (std::int64_t r = 0; r < product.rows; ++r) {
        c[r] = in_place_row(m.share.row(r)) + column;
      }
      multiply(product);
    }
  }

  float* in_place_row(std::int64_t row) const {
    return in_place_products_.get() + row * Cell::gates * q_.units;
  }

  const recurrent::Sequence& q_;
  const Steps& s_;
  recurrent::Results out_;
  const Cell& cell_;
  GateLayout layout_;
  std::int64_t padded_;
  TeamPlan plan_;
  bool keeps_, in_place_;
  Scratch<float> kernel_, recurrent_, bias_, x_scaled_, own_second_;
  StateRows states_;
  std::int64_t most_rows_;
  Scratch<float> own_gates_, in_place_products_, products_;
  Scratch<const float*> reads_;
  Scratch<float*> writes_;
};

}  // namespace lamella::LAMELLA_ISA
