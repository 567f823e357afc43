// LSTM forward. A thread takes its sequences (or its units, see recurrent/team_share.h) through
// pieces of some steps: first x W + b for all steps of a piece, one product; then step by step
// h R on top of it and, while a block's gates are in L1, the cell.
#include "core/memory_pool.h"
#include "ops/lstm/lstm_cell_simd.h"
#include "recurrent/finish_outputs.h"
#include "recurrent/team_share.h"

namespace lamella::LAMELLA_ISA {
namespace {

constexpr std::int64_t gates = 4;
// Rows of a piece: enough to fill the tiles of a product, few enough for its gates to stay in L2.
constexpr std::int64_t piece_rows = 96;

class LstmForward {
 public:
  LstmForward(const lstm::Problem& p, const lstm::Results& out, const lstm::Saved& saved)
      : p_(p),
        s_(*p.steps),
        out_(out),
        saved_(saved),
        layout_{p.units, gates},
        padded_(layout_.padded()),
        plan_(plan_team(s_, layout_, p.inputs + p.units)),
        keeps_(saved.gates != nullptr),
        kernel_("lstm", p.inputs * layout_.row_floats()),
        recurrent_("lstm", p.units * layout_.row_floats()),
        bias_("lstm", p.bias != nullptr ? layout_.row_floats() : 0),
        x_scaled_("lstm", p.x_scale != nullptr ? s_.packed_rows() * p.inputs : 0),
        first_cells_("lstm", s_.batch() * padded_),
        own_states_("lstm", keeps_ ? 0 : 2 * s_.batch() * padded_),
        own_cells_("lstm", keeps_ ? 0 : s_.batch() * padded_),
        // Zoneout of h needs h itself where what enters the product is scaled or not kept.
        states_before_("lstm", p.zoneout_h.on() ? s_.batch() * padded_ : 0),
        most_rows_(max_i(piece_rows, s_.batch())),
        own_gates_("lstm", keeps_ ? 0 : plan_.members * most_rows_ * layout_.row_floats()),
        reads_("lstm", plan_.members * most_rows_),
        writes_("lstm", plan_.members * most_rows_) {}

  void run() {
    if (s_.packed_rows() > 0) {
      parallel_team(plan_.members, [&](Team& team, int member) { take_part(team, member); });
    }
    repeat_carried(s_, p_.units, p_.h0, out_.outputs);
    for (std::int64_t row = 0; row < s_.batch(); ++row) {
      if (s_.length(row) == 0) carry_through(s_.sequence(row));
    }
  }

 private:
  struct Member {
    TeamShare share;
    float* gates;     // its own rows of gates, where none are kept
    const float** a;  // pointers to rows of a product
    float** c;
  };

  // A sequence without steps.
  void carry_through(std::int64_t n) const {
    const auto bytes = static_cast<std::size_t>(p_.units) * sizeof(float);
    const auto copy = [&](const float* from, float* to) {
      if (from == nullptr) {
        std::memset(to + n * p_.units, 0, bytes);
      } else {
        std::memcpy(to + n * p_.units, from + n * p_.units, bytes);
      }
    };
    copy(p_.h0, out_.h);
    copy(p_.c0, out_.c);
  }

  void take_part(Team& team, int member) const {
    const Part blocks = part_of(layout_.blocks(), member, team.size());
    pack_gate_panels(layout_, p_.kernel, p_.inputs, blocks.begin, blocks.end, kernel_.get());
    pack_gate_panels(layout_, p_.recurrent_kernel, p_.units, blocks.begin, blocks.end,
                     recurrent_.get());
    if (p_.bias != nullptr) {
      pack_gate_panels(layout_, p_.bias, 1, blocks.begin, blocks.end, bias_.get());
    }
    const Part rows = part_of(s_.batch(), member, team.size());
    for (std::int64_t row = rows.begin; row < rows.end; ++row) first_states(row);
    if (p_.x_scale != nullptr) scale_inputs(part_of(s_.count(), member, team.size()));
    team.barrier();
    Member m = {TeamShare(plan_, team, member, layout_),
                own_gates_.get() + member * most_rows_ * layout_.row_floats(),
                reads_.get() + member * most_rows_, writes_.get() + member * most_rows_};
    for (std::int64_t j = 0; j < s_.count();) {
      const std::int64_t end = piece_end(j, m.share);
      multiply_inputs(j, end, m);
      for (std::int64_t e = 0; j < end; ++j) {
        step(j, e, m);
        e += m.share.count(s_.active(j));
        if (plan_.by_units) team.barrier();
      }
    }
  }

  // h0 and c0, or zeros, of a row, as the first step reads them.
  void first_states(std::int64_t row) const {
    const std::int64_t n = s_.sequence(row);
    float* const state = operand(0, row);
    float* const cell = first_cells_.get() + row * padded_;
    float* const before = p_.zoneout_h.on() ? states_before_.get() + row * padded_ : nullptr;
    const bool takes_part = s_.length(row) > 0;
    for (std::int64_t u = 0; u < padded_; u += Float::width) {
      const std::int64_t count = max_i(0, min_i(Float::width, p_.units - u));
      const std::int64_t at = n * p_.units + u;
      const Float h = p_.h0 == nullptr ? zero() : load_n(p_.h0 + at, count);
      store(cell + u, p_.c0 == nullptr ? zero() : load_n(p_.c0 + at, count));
      if (before != nullptr) store(before + u, h);
      if (takes_part) store(state + u, scaled(h, at, count));
    }
  }

  LAMELLA_INLINE Float scaled(Float h, std::int64_t at, std::int64_t count) const {
    return p_.h_scale == nullptr ? h : h * load_n(p_.h_scale + at, count);
  }

  void scale_inputs(const Part& steps) const {
    for (std::int64_t j = steps.begin; j < steps.end; ++j) {
      for (std::int64_t row = 0; row < s_.active(j); ++row) {
        const float* const scale = p_.x_scale + s_.sequence(row) * p_.inputs;
        const float* const x = input(j, row);
        float* const to = x_scaled_.get() + (s_.offset(j) + row) * p_.inputs;
        for (std::int64_t d = 0; d < p_.inputs; ++d) to[d] = x[d] * scale[d];
      }
    }
  }

  const float* input(std::int64_t j, std::int64_t row) const {
    return p_.x + (s_.sequence(row) * s_.time() + s_.time_of(j, row)) * p_.inputs;
  }

  // What step j multiplies with the recurrent kernel.
  float* operand(std::int64_t j, std::int64_t row) const {
    if (keeps_) return saved_.states + (s_.offset(j) + row) * padded_;
    return own_states_.get() + (j % 2 * s_.batch() + row) * padded_;
  }

  // c before step j, and c after it, before zoneout and after.
  const float* cell_before(std::int64_t j, std::int64_t row) const {
    if (j == 0) return first_cells_.get() + row * padded_;
    return saved_.carried != nullptr ? saved_.carried + (s_.offset(j - 1) + row) * padded_
                                     : cell(j - 1, row);
  }
  float* cell(std::int64_t j, std::int64_t row) const {
    return keeps_ ? saved_.cells + (s_.offset(j) + row) * padded_
                  : own_cells_.get() + row * padded_;
  }

  // Row e of the member's piece: of block `block`.
  float* gate_row(std::int64_t j, std::int64_t row, std::int64_t e, std::int64_t block,
                  const Member& m) const {
    if (keeps_) {
      return saved_.gates + (s_.offset(j) + row) * layout_.row_floats() +
             block * layout_.block_floats();
    }
    const std::int64_t blocks = m.share.blocks.end - m.share.blocks.begin;
    return m.gates + (e * blocks + block - m.share.blocks.begin) * layout_.block_floats();
  }

  std::int64_t piece_end(std::int64_t j, const TeamShare& share) const {
    std::int64_t rows = share.count(s_.active(j++));
    while (j < s_.count() && rows + share.count(s_.active(j)) <= piece_rows) {
      rows += share.count(s_.active(j++));
    }
    return j;
  }

  void multiply_inputs(std::int64_t begin, std::int64_t end, const Member& m) const {
    PanelProduct product = {};
    for (std::int64_t j = begin; j < end; ++j) {
      for (std::int64_t i = 0; i < m.share.count(s_.active(j)); ++i) {
        const std::int64_t row = m.share.row(i);
        m.a[product.rows] = p_.x_scale != nullptr
                                ? x_scaled_.get() + (s_.offset(j) + row) * p_.inputs
                                : input(j, row);
        m.c[product.rows] = gate_row(j, row, product.rows, m.share.blocks.begin, m);
        ++product.rows;
      }
    }
    product.a = m.a;
    product.c = m.c;
    product.terms = p_.inputs;
    product.width = product.columns = layout_.block_floats();
    for (std::int64_t block = m.share.blocks.begin; block < m.share.blocks.end; ++block) {
      product.panel = kernel_.get() + block * p_.inputs * layout_.block_floats();
      product.bias = p_.bias == nullptr ? nullptr : bias_.get() + block * layout_.block_floats();
      multiply(product);
      for (std::int64_t r = 0; r < product.rows; ++r) m.c[r] += layout_.block_floats();
    }
  }

  void step(std::int64_t j, std::int64_t e, const Member& m) const {
    const std::int64_t rows = m.share.count(s_.active(j));
    PanelProduct product = {};
    product.a = m.a;
    product.c = m.c;
    product.rows = rows;
    product.terms = p_.units;
    product.accumulate = true;
    product.width = product.columns = layout_.block_floats();
    for (std::int64_t i = 0; i < rows; ++i) {
      const std::int64_t row = m.share.row(i);
      m.a[i] = operand(j, row);
      m.c[i] = gate_row(j, row, e + i, m.share.blocks.begin, m);
    }
    const bool from_zero = j == 0 && p_.h0 == nullptr;
    for (std::int64_t block = m.share.blocks.begin; block < m.share.blocks.end; ++block) {
      product.panel = recurrent_.get() + block * p_.units * layout_.block_floats();
      if (!from_zero) multiply(product);
      for (std::int64_t i = 0; i < rows; ++i) {
        cells(j, m.share.row(i), block, m.c[i]);
        m.c[i] += layout_.block_floats();
      }
    }
  }

  void cells(std::int64_t j, std::int64_t row, std::int64_t block, float* z) const {
    if (p_.activation.kind == Kind::tanh && p_.recurrent_activation.kind == Kind::sigmoid) {
      cells(StandardGates(p_), j, row, block, z);
    } else {
      cells(AnyGates(p_), j, row, block, z);
    }
  }

  // The block's cells from z, [gate][16].
  template <class Gates>
  LAMELLA_INLINE void cells(const Gates& f, std::int64_t j, std::int64_t row, std::int64_t block,
                            float* z) const {
    const std::int64_t n = s_.sequence(row);
    const std::int64_t t = n * s_.time();
    const bool last = j + 1 >= s_.length(row);
    const float* const before = cell_before(j, row);
    float* const after = cell(j, row);
    float* const carried =
        saved_.carried != nullptr ? saved_.carried + (s_.offset(j) + row) * padded_ : after;
    float* const next = last ? nullptr : operand(j + 1, row);
    for (std::int64_t w = 0; w < unit_block; w += Float::width) {
      const std::int64_t u = block * unit_block + w;
      const std::int64_t count = max_i(0, min_i(Float::width, p_.units - u));
      const Float z_i = load(z + w);
      const Float z_f = load(z + unit_block + w);
      const Float z_g = load(z + 2 * unit_block + w);
      const Float z_o = load(z + 3 * unit_block + w);
      const Float i = f.gate(z_i);
      const Float forget = f.gate(z_f);
      const Float g = f.candidate(z_g);
      const Float o = f.gate(z_o);
      if (keeps_) {
        store(z + w, f.keep_gate(z_i, i));
        store(z + unit_block + w, f.keep_gate(z_f, forget));
        store(z + 2 * unit_block + w, f.keep_candidate(z_g, g));
        store(z + 3 * unit_block + w, f.keep_gate(z_o, o));
      }
      const Float c_before = load(before + u);
      Float c = fma(forget, c_before, i * g);
      Float h = o * f.squash(c);
      store(after + u, c);
      if (p_.zoneout_c.on()) {
        const std::int64_t at = (t + s_.time_of(j, row)) * p_.units + u;
        c = Zone(p_.zoneout_c, at, count).mix(c_before, c);
        store(carried + u, c);
      }
      if (p_.zoneout_h.on()) {
        const std::int64_t at = (t + s_.time_of(j, row)) * p_.units + u;
        float* const state = states_before_.get() + row * padded_ + u;
        h = Zone(p_.zoneout_h, at, count).mix(load(state), h);
        store(state, h);
      }
      const std::int64_t out = (t + s_.position(j, row)) * p_.units + u;
      const std::int64_t state = n * p_.units + u;
      store_n(out_.outputs + out, h, count);
      if (last) {
        store_n(out_.h + state, h, count);
        store_n(out_.c + state, c, count);
      } else {
        store(next + u, scaled(h, state, count));
      }
    }
  }

  const lstm::Problem& p_;
  const Steps& s_;
  lstm::Results out_;
  lstm::Saved saved_;
  GateLayout layout_;
  std::int64_t padded_;
  TeamPlan plan_;
  bool keeps_;
  Scratch<float> kernel_, recurrent_, bias_, x_scaled_, first_cells_, own_states_, own_cells_,
      states_before_;
  std::int64_t most_rows_;
  Scratch<float> own_gates_;
  Scratch<const float*> reads_;
  Scratch<float*> writes_;
};

}  // namespace

void lstm_backward(const lstm::Problem& p, const lstm::Saved& saved,
                   const lstm::ResultGradients& dy, const lstm::Gradients& out);

namespace {

void lstm_forward(const lstm::Problem& p, const lstm::Results& out, const lstm::Saved& saved) {
  LstmForward(p, out, saved).run();
}

}  // namespace
}  // namespace lamella::LAMELLA_ISA

namespace lamella::lstm::LAMELLA_ISA {

namespace kernel = lamella::LAMELLA_ISA;
extern const Kernels kernels = {kernel::lstm_forward, kernel::lstm_backward};

}  // namespace lamella::lstm::LAMELLA_ISA
