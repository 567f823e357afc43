// Forward pass of the LSTM with layer normalization and projection. Threads share sequences only,
// each takes its own from beginning to end: statistics need whole rows, for which threads that
// share units would wait several times a step. As in recurrent/sequence_forward.h x W is one
// product for a piece of some steps. A step is, for all rows of a thread, the product of h, the
// statistics of both products, the gates and c', the statistics of c', the output, its projection.
#include "ops/lstm/lstm_variant.h"
#include "ops/lstm/lstm_zoneout.h"
#include "recurrent/gate_activations.h"
#include "recurrent/sequence_inputs.h"
#include "recurrent/state_rows.h"

namespace lamella::LAMELLA_ISA {
namespace {

class VariantForward {
 public:
  VariantForward(const recurrent::Sequence& q, const lstm::Cell& cell, const lstm::Variant& variant,
                 const recurrent::Results& out, const lstm::CellResults& cell_out,
                 const lstm::VariantResults& kept)
      : q_(q),
        s_(*q.steps),
        cell_(cell),
        v_(variant),
        out_(out),
        cell_out_(cell_out),
        kept_(kept),
        layout_{q.units, 4},
        unit_layout_{q.units, 1},
        padded_(layout_.padded()),
        padded_state_(GateLayout{q.state_size, 1}.padded()),
        plan_(plan_team(s_, layout_, q.inputs + q.state_size, false)),
        keeps_(out.gates != nullptr),
        in_place_(multiplies_in_place(s_, q.units)),
        separate_(v_.gamma_x != nullptr || v_.gamma_h != nullptr),
        projects_(v_.projection_kernel != nullptr),
        vectors_(q, variant),
        kernel_(q.op, in_place_ ? 0 : q.inputs * layout_.row_floats()),
        recurrent_(q.op, in_place_ ? 0 : q.state_size * layout_.row_floats()),
        packs_projection_(projects_ && !(in_place_ && q.state_size % unit_block == 0)),
        projection_(q.op, packs_projection_ ? unit_panels(q.state_size) * unit_panel * q.units : 0),
        x_scaled_(q.op, q.x_scale != nullptr ? s_.packed_rows() * q.inputs : 0),
        states_(q, out, cell.zoneout_h.on()),
        first_cell_(q.op, keeps_ ? s_.batch() * padded_ : 0),
        own_cells_(q.op, keeps_ ? 0 : 2 * s_.batch() * padded_),
        own_statistics_(q.op, keeps_ ? 0 : s_.batch() * statistics_floats),
        y_(q.op, s_.batch() * padded_),
        projected_(q.op, projects_ ? s_.batch() * padded_state_ : 0),
        most_rows_(max_i(piece_rows, s_.batch())),
        in_place_products_(q.op, in_place_ ? s_.batch() * layout_.row_floats() : 0),
        own_x_(q.op, keeps_ ? 0 : plan_.members * most_rows_ * layout_.row_floats()),
        own_h_(q.op, keeps_ || !separate_ ? 0 : s_.batch() * layout_.row_floats()),
        reads_(q.op, plan_.members * most_rows_),
        writes_(q.op, plan_.members * most_rows_),
        rows_(q.op, plan_.members * s_.batch()) {}

  void run() {
    if (s_.packed_rows() > 0) {
      parallel_team(plan_.members, [&](Team& team, int member) { take_part(team, member); });
    }
    states_.finish([&](std::int64_t n) { carry_state(cell_.c0, n, q_.units, cell_out_.c); });
  }

 private:
  // Rows of a piece: enough to fill the tiles of a product, few enough for it to stay in L2.
  static constexpr std::int64_t piece_rows = 96;

  // A row at a step.
  struct Row : CellPlace {
    float* x;           // x W; where it is not kept as it is, the gates take its place
    float* h;           // (h s_h) R, if it is not added to x W
    float* statistics;  // of both and of c'; null where nothing is normalized
    float* cell;        // c' before zoneout
    float* y;           // the output, in front of its projection
  };

  struct Member {
    TeamShare share;
    float* x_rows;    // its rows of x W, where none are kept
    const float** a;  // pointers to rows of a product
    float** c;
    Row* rows;  // those of a step
  };

  void take_part(Team& team, int member) const {
    const Part blocks = part_of(layout_.blocks(), member, team.size());
    if (!in_place_) {
      pack_gate_panels(layout_, q_.kernel, q_.inputs, blocks.begin, blocks.end, kernel_.get());
      pack_gate_panels(layout_, q_.recurrent_kernel, q_.state_size, blocks.begin, blocks.end,
                       recurrent_.get());
    }
    if (packs_projection_) {
      pack_projection(part_of(unit_panels(q_.state_size), member, team.size()));
    }
    const Part rows = part_of(s_.batch(), member, team.size());
    for (std::int64_t row = rows.begin; row < rows.end; ++row) begin(row);
    if (q_.x_scale != nullptr) {
      scale_inputs(q_, part_of(s_.count(), member, team.size()), x_scaled_.get());
    }
    team.barrier();
    const Member m = {TeamShare(plan_, team, member, layout_, s_),
                      own_x_.get() + member * most_rows_ * layout_.row_floats(),
                      reads_.get() + member * most_rows_, writes_.get() + member * most_rows_,
                      rows_.get() + member * s_.batch()};
    for (std::int64_t j = 0; j < s_.count();) {
      const std::int64_t end = piece_end(s_, m.share, j, piece_rows);
      multiply_inputs(j, end, m);
      for (std::int64_t e = 0; j < end; ++j) {
        const std::int64_t count = m.share.count(s_.active(j));
        for (std::int64_t i = 0; i < count; ++i) m.rows[i] = row_at(j, m.share.row(i), e + i, m);
        step(j, count, m);
        e += count;
      }
    }
  }

  void pack_projection(const Part& panels) const {
    for (std::int64_t panel = panels.begin; panel < panels.end; ++panel) {
      const std::int64_t column = panel * unit_panel;
      pack_panel({v_.projection_kernel, q_.state_size, 1}, q_.units, column,
                 min_i(unit_panel, q_.state_size - column), unit_panel,
                 projection_.get() + column * q_.units);
    }
  }

  void begin(std::int64_t row) const {
    states_.begin(row);
    // The projection writes P of its columns.
    if (projects_) zero_fill(projected_.get() + row * padded_state_, padded_state_);
    const std::int64_t n = s_.sequence(row);
    float* const c = keeps_ ? first_cell_.get() + row * padded_ : carried_cell(row);
    for (std::int64_t u = 0; u < padded_; u += Float::width) {
      store(c + u, cell_.c0 == nullptr ? zero() : load_n(cell_.c0 + n * q_.units + u, count(u)));
    }
  }

  LAMELLA_INLINE std::int64_t count(std::int64_t u) const {
    return max_i(0, min_i(Float::width, q_.units - u));
  }

  // Row e of the member's piece. What is not kept has memory for a piece (x W) or for a step.
  float* x_row(std::int64_t packed, std::int64_t e, const Member& m) const {
    if (!keeps_) return m.x_rows + e * layout_.row_floats();
    return (v_.gamma_x != nullptr ? kept_.x_product : out_.gates) + packed * layout_.row_floats();
  }
  float* h_row(std::int64_t packed, std::int64_t row) const {
    if (!keeps_) return own_h_.get() + row * layout_.row_floats();
    return (v_.gamma_h != nullptr ? kept_.h_product : out_.gates) + packed * layout_.row_floats();
  }
  Row row_at(std::int64_t j, std::int64_t row, std::int64_t e, const Member& m) const {
    const CellPlace at(s_, j, row, 0);
    float* const x = x_row(at.packed, e, m);
    float* const h = separate_ ? h_row(at.packed, row) : x;
    float* const y = y_.get() + row * padded_;
    if (!keeps_) {
      return {at,
              x,
              h,
              own_statistics_.get() + row * statistics_floats,
              own_cells_.get() + (s_.batch() + row) * padded_,
              y};
    }
    float* const statistics =
        kept_.statistics == nullptr ? nullptr : kept_.statistics + at.packed * statistics_floats;
    return {at, x, h, statistics, cell_out_.cells + at.packed * padded_, y};
  }

  // c after zoneout, where nothing is kept.
  float* carried_cell(std::int64_t row) const { return own_cells_.get() + row * padded_; }
  const float* cell_before(const Row& at) const {
    if (!keeps_) return carried_cell(at.row);
    if (at.j == 0) return first_cell_.get() + at.row * padded_;
    return (cell_out_.carried != nullptr ? cell_out_.carried : cell_out_.cells) +
           (s_.offset(at.j - 1) + at.row) * padded_;
  }

  // m.c = (bias |) m.a times a kernel; both kernel and bias as they are and in gate panels.
  void multiply_gates(PanelProduct product, const float* kernel, const float* panels,
                      std::int64_t terms, bool adds_bias, const Member& m) const {
    const Segment whole = {0, 0, terms};
    product.a = m.a;
    product.segments = &whole;
    product.segment_count = 1;
    if (in_place_) return multiply_in_place(product, kernel, adds_bias ? q_.bias : nullptr, m);
    product.c = m.c;
    product.width = product.columns = layout_.block_floats();
    for (std::int64_t block = 0; block < layout_.blocks(); ++block) {
      product.panel = panels + block * terms * layout_.block_floats();
      product.bias = adds_bias ? vectors_.bias + block * layout_.block_floats() : nullptr;
      multiply(product);
      for (std::int64_t r = 0; r < product.rows; ++r) m.c[r] += layout_.block_floats();
    }
  }

  void multiply_in_place(PanelProduct product, const float* kernel, const float* bias,
                         const Member& m) const {
    float* c[wide_tile_rows];
    for (std::int64_t r = 0; r < product.rows; ++r) {
      c[r] = in_place_products_.get() + m.share.row(r) * layout_.row_floats();
    }
    product.c = c;
    product.width = product.columns = layout_.row_floats();
    product.panel = kernel;
    product.bias = bias;
    multiply(product);
    for (std::int64_t r = 0; r < product.rows; ++r) {
      for (std::int64_t block = 0; block < layout_.blocks(); ++block) {
        copy_block(layout_, c[r], block, 0, 4, m.c[r] + block * layout_.block_floats());
      }
    }
  }

  void multiply_inputs(std::int64_t begin, std::int64_t end, const Member& m) const {
    PanelProduct product = {};
    for (std::int64_t j = begin; j < end; ++j) {
      for (std::int64_t i = 0; i < m.share.count(s_.active(j)); ++i) {
        const std::int64_t row = m.share.row(i);
        const std::int64_t packed = s_.offset(j) + row;
        m.a[product.rows] = q_.x_scale != nullptr ? x_scaled_.get() + packed * q_.inputs
                                                  : q_.x + input_at(q_, j, row);
        m.c[product.rows] = x_row(packed, product.rows, m);
        ++product.rows;
      }
    }
    // What is normalized gets the bias afterwards.
    multiply_gates(product, q_.kernel, kernel_.get(), q_.inputs, v_.gamma_x == nullptr, m);
  }

  void step(std::int64_t j, std::int64_t rows, const Member& m) const {
    const bool from_zero = j == 0 && q_.h0 == nullptr;
    if (!from_zero || separate_) multiply_state(from_zero, rows, m);
    if (v_.gamma_x != nullptr) keep_statistics(of_x, layout_, &Row::x, rows, m);
    if (v_.gamma_h != nullptr) keep_statistics(of_h, layout_, &Row::h, rows, m);
    with_gates(cell_.activation, cell_.recurrent_activation, [&](const auto& f) {
      for (std::int64_t i = 0; i < rows; ++i) gates(f, m.rows[i]);
      if (v_.gamma_c != nullptr) keep_statistics(of_c, unit_layout_, &Row::cell, rows, m);
      for (std::int64_t i = 0; i < rows; ++i) output(f, m.rows[i]);
    });
    if (!projects_) return;
    project(rows, m);
    for (std::int64_t i = 0; i < rows; ++i) {
      const float* const h = projected_.get() + m.rows[i].row * padded_state_;
      for (std::int64_t u = 0; u < padded_state_; u += Float::width) {
        emit(m.rows[i], u, load(h + u));
      }
    }
  }

  void multiply_state(bool from_zero, std::int64_t rows, const Member& m) const {
    PanelProduct product = {};
    product.rows = rows;
    product.accumulate = !separate_;
    for (std::int64_t i = 0; i < rows; ++i) {
      m.a[i] = states_.operand(m.rows[i].j, m.rows[i].row);
      m.c[i] = m.rows[i].h;
    }
    multiply_gates(product, q_.recurrent_kernel, recurrent_.get(), from_zero ? 0 : q_.state_size,
                   false, m);
  }

  void keep_statistics(Normalized which, const GateLayout& l, float* Row::* of, std::int64_t rows,
                       const Member& m) const {
    for (std::int64_t i = 0; i < rows; ++i) {
      m.a[i] = m.rows[i].*of;
      m.c[i] = m.rows[i].statistics + 2 * which;
    }
    row_statistics(l, m.a, rows, v_.epsilon, m.c);
  }

  // From both products the gates, c', and o in the place of y.
  template <class Gates>
  LAMELLA_INLINE void gates(const Gates& f, const Row& at) const {
    const RowStatistics x_statistics(v_.gamma_x, at.statistics, of_x);
    const RowStatistics h_statistics(v_.gamma_h, at.statistics, of_h);
    const VariantVectors& vectors = vectors_;
    const bool normalizes_x = v_.gamma_x != nullptr;
    const bool normalizes_h = v_.gamma_h != nullptr;
    const bool adds_h = separate_;
    const auto preactivation = [&](std::int64_t i) {
      Float z = load(at.x + i);
      if (normalizes_x) {
        z = fma(load(vectors.gamma_x + i), x_statistics.unit(z), load(vectors.bias + i));
      }
      if (normalizes_h) return fma(load(vectors.gamma_h + i), h_statistics.unit(load(at.h + i)), z);
      return adds_h ? z + load(at.h + i) : z;
    };
    float* const kept = keeps_ ? out_.gates + at.packed * layout_.row_floats() : nullptr;
    const float* const before = cell_before(at);
    float* const carried = !keeps_                        ? carried_cell(at.row)
                           : cell_out_.carried != nullptr ? cell_out_.carried + at.packed * padded_
                                                          : nullptr;
    for_unit_vectors(layout_, [&](std::int64_t u, std::int64_t k) {
      const Float z_i = preactivation(k);
      const Float z_f = preactivation(k + unit_block);
      const Float z_g = preactivation(k + 2 * unit_block);
      const Float z_o = preactivation(k + 3 * unit_block);
      const Float i = f.gate(z_i);
      const Float forget = f.gate(z_f);
      const Float g = f.candidate(z_g);
      const Float o = f.gate(z_o);
      if (keeps_) {
        store(kept + k, f.keep_gate(z_i, i));
        store(kept + k + unit_block, f.keep_gate(z_f, forget));
        store(kept + k + 2 * unit_block, f.keep_candidate(z_g, g));
        store(kept + k + 3 * unit_block, f.keep_gate(z_o, o));
      }
      const Float c_before = load(before + u);
      Float c = fma(forget, c_before, i * g);
      store(at.cell + u, c);
      store(at.y + u, o);
      if (cell_.zoneout_c.on()) {
        c = Zone(cell_.zoneout_c, at.t * q_.units + u, count(u)).mix(c_before, c);
      }
      if (carried != nullptr) store(carried + u, c);
      if (at.last) store_n(cell_out_.c + at.n * q_.units + u, c, count(u));
    });
  }

  // y = o a(N(c')), which is h' where there is no projection.
  template <class Gates>
  LAMELLA_INLINE void output(const Gates& f, const Row& at) const {
    const RowStatistics c_statistics(v_.gamma_c, at.statistics, of_c);
    for (std::int64_t u = 0; u < padded_; u += Float::width) {
      Float c = load(at.cell + u);
      if (v_.gamma_c != nullptr) {
        c = fma(load(vectors_.gamma_c + u), c_statistics.unit(c), load(vectors_.beta_c + u));
      }
      const Float y = load(at.y + u) * f.squash(c);
      if (projects_) {
        store(at.y + u, y);
      } else {
        emit(at, u, y);
      }
    }
  }

  void project(std::int64_t rows, const Member& m) const {
    const Segment whole = {0, 0, q_.units};
    PanelProduct product = {};
    product.a = m.a;
    product.c = m.c;
    product.rows = rows;
    product.segments = &whole;
    product.segment_count = 1;
    for (std::int64_t i = 0; i < rows; ++i) {
      m.a[i] = m.rows[i].y;
      m.c[i] = projected_.get() + m.rows[i].row * padded_state_;
    }
    if (!packs_projection_) {
      product.width = product.columns = q_.state_size;
      product.panel = v_.projection_kernel;
      return multiply(product);
    }
    product.width = unit_panel;
    for (std::int64_t column = 0; column < q_.state_size; column += unit_panel) {
      product.columns = min_i(unit_panel, q_.state_size - column);
      product.panel = projection_.get() + column * q_.units;
      multiply(product);
      for (std::int64_t i = 0; i < rows; ++i) m.c[i] += unit_panel;
    }
  }

  LAMELLA_INLINE void emit(const CellPlace& at, std::int64_t u, Float h) const {
    if (cell_.zoneout_h.on()) {
      const std::int64_t lanes = max_i(0, min_i(Float::width, q_.state_size - u));
      const Zone zone(cell_.zoneout_h, at.t * q_.state_size + u, lanes);
      h = zone.mix(states_.before(at, u), h);
    }
    states_.emit(at, u, h);
  }

  const recurrent::Sequence& q_;
  const Steps& s_;
  const lstm::Cell& cell_;
  const lstm::Variant& v_;
  recurrent::Results out_;
  lstm::CellResults cell_out_;
  lstm::VariantResults kept_;
  GateLayout layout_, unit_layout_;
  std::int64_t padded_, padded_state_;
  TeamPlan plan_;
  bool keeps_, in_place_, separate_, projects_;
  VariantVectors vectors_;
  Scratch<float> kernel_, recurrent_;
  bool packs_projection_;
  Scratch<float> projection_, x_scaled_;
  StateRows states_;
  Scratch<float> first_cell_, own_cells_, own_statistics_, y_, projected_;
  std::int64_t most_rows_;
  Scratch<float> in_place_products_, own_x_, own_h_;
  Scratch<const float*> reads_;
  Scratch<float*> writes_;
  Scratch<Row> rows_;
};

}  // namespace

void lstm_variant_forward(const recurrent::Sequence& q, const lstm::Cell& cell,
                          const lstm::Variant& variant, const recurrent::Results& out,
                          const lstm::CellResults& cell_out, const lstm::VariantResults& kept) {
  VariantForward(q, cell, variant, out, cell_out, kept).run();
}

}  // namespace lamella::LAMELLA_ISA
