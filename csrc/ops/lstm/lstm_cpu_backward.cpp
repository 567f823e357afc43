// LSTM backward. Back through the steps with the gradients of z of all steps kept; then dx, and the
// weights' gradients as one product each over all steps.
#include "core/memory_pool.h"
#include "gemm/bias_gradient.h"
#include "ops/lstm/lstm_cell_simd.h"
#include "recurrent/finish_outputs.h"
#include "recurrent/team_share.h"
#include "recurrent/weight_gradient.h"

namespace lamella::LAMELLA_ISA {
namespace {

constexpr std::int64_t gates = 4;
// Rows of dx at a time.
constexpr std::int64_t piece_rows = 96;

class LstmBackward {
 public:
  LstmBackward(const lstm::Problem& p, const lstm::Saved& saved, const lstm::ResultGradients& dy,
               const lstm::Gradients& out)
      : p_(p),
        s_(*p.steps),
        saved_(saved),
        dy_(dy),
        out_(out),
        layout_{p.units, gates},
        padded_(layout_.padded()),
        plan_(plan_team(s_, layout_, p.inputs + p.units)),
        // A single sequence lies as it is read, unless it is read backwards.
        packs_x_(out.kernel != nullptr && !(s_.all() && s_.batch() == 1 && p.x_scale == nullptr &&
                                            (s_.time() == 1 || s_.time_of(0, 0) == 0))),
        recurrent_("lstm", unit_panels(p.units) * unit_panel * layout_.row_floats()),
        kernel_("lstm",
                out.x != nullptr ? unit_panels(p.inputs) * unit_panel * layout_.row_floats() : 0),
        dz_("lstm", s_.packed_rows() * layout_.row_floats()),
        d_packed_("lstm", dy.outputs != nullptr && !s_.all() ? s_.packed_rows() * p.units : 0),
        first_cells_("lstm", s_.batch() * padded_),
        dc_("lstm", s_.batch() * padded_),
        dh_("lstm", s_.batch() * padded_),
        dh_kept_("lstm", p.zoneout_h.on() ? s_.batch() * padded_ : 0),
        x_packed_("lstm", packs_x_ ? s_.packed_rows() * p.inputs : 0),
        most_rows_(max_i(piece_rows, s_.batch())),
        reads_("lstm", plan_.members * most_rows_),
        writes_("lstm", plan_.members * most_rows_) {}

  void run() {
    if (out_.h0 != nullptr) zero_fill(out_.h0, s_.batch() * p_.units);
    if (dy_.outputs != nullptr && !s_.all()) {
      gather_output_gradients(s_, p_.units, dy_.outputs, d_packed_.get(), out_.h0);
    }
    parallel_team(plan_.members, [&](Team& team, int member) { take_part(team, member); });
    weights();
  }

 private:
  struct Member {
    TeamShare share;
    const float** a;
    float** c;
  };

  void take_part(Team& team, int member) const {
    const Part panels = part_of(unit_panels(p_.units), member, team.size());
    pack_unit_panels(layout_, p_.recurrent_kernel, p_.units, panels.begin, panels.end,
                     recurrent_.get());
    if (out_.x != nullptr) {
      const Part more = part_of(unit_panels(p_.inputs), member, team.size());
      pack_unit_panels(layout_, p_.kernel, p_.inputs, more.begin, more.end, kernel_.get());
    }
    const Part rows = part_of(s_.batch(), member, team.size());
    for (std::int64_t row = rows.begin; row < rows.end; ++row) first_states(row);
    team.barrier();
    const Member m = {TeamShare(plan_, team, member, layout_), reads_.get() + member * most_rows_,
                      writes_.get() + member * most_rows_};
    for (std::int64_t j = s_.count() - 1; j >= 0; --j) {
      for (std::int64_t block = m.share.blocks.begin; block < m.share.blocks.end; ++block) {
        for (std::int64_t i = 0; i < m.share.count(s_.active(j)); ++i) {
          cells(j, m.share.row(i), block);
        }
      }
      if (plan_.by_units) team.barrier();
      if (j > 0 || out_.h0 != nullptr) multiply_back(j, m);
    }
    team.barrier();
    initial_states(part_of(s_.batch(), member, team.size()));
    inputs(part_of(s_.packed_rows(), member, team.size()), m);
  }

  void first_states(std::int64_t row) const {
    const std::int64_t n = s_.sequence(row);
    for (std::int64_t u = 0; u < padded_; u += Float::width) {
      const std::int64_t count = max_i(0, min_i(Float::width, p_.units - u));
      const std::int64_t at = n * p_.units + u;
      const std::int64_t to = row * padded_ + u;
      store(first_cells_.get() + to, p_.c0 == nullptr ? zero() : load_n(p_.c0 + at, count));
      store(dc_.get() + to, dy_.c == nullptr ? zero() : load_n(dy_.c + at, count));
      store(dh_.get() + to, zero());
    }
    if (out_.x != nullptr && !s_.all()) {
      zero_fill(out_.x + n * s_.time() * p_.inputs, s_.time() * p_.inputs);
    }
  }

  const float* cell_before(std::int64_t j, std::int64_t row) const {
    if (j == 0) return first_cells_.get() + row * padded_;
    const float* const after = saved_.carried != nullptr ? saved_.carried : saved_.cells;
    return after + (s_.offset(j - 1) + row) * padded_;
  }

  const float* output_gradient(std::int64_t j, std::int64_t row) const {
    if (dy_.outputs == nullptr) return nullptr;
    if (!s_.all()) return d_packed_.get() + (s_.offset(j) + row) * p_.units;
    return dy_.outputs + (row * s_.time() + j) * p_.units;
  }

  float* z_gradient(std::int64_t j, std::int64_t row) const {
    return dz_.get() + (s_.offset(j) + row) * layout_.row_floats();
  }

  void cells(std::int64_t j, std::int64_t row, std::int64_t block) const {
    if (p_.activation.kind == Kind::tanh && p_.recurrent_activation.kind == Kind::sigmoid) {
      cells(StandardGates(p_), j, row, block);
    } else {
      cells(AnyGates(p_), j, row, block);
    }
  }

  // dz of a block's cells and, in place, the gradient of c before the step.
  template <class Gates>
  LAMELLA_INLINE void cells(const Gates& f, std::int64_t j, std::int64_t row,
                            std::int64_t block) const {
    const std::int64_t n = s_.sequence(row);
    const bool last = j + 1 >= s_.length(row);
    const std::int64_t packed = s_.offset(j) + row;
    const std::int64_t at_block = block * layout_.block_floats();
    const float* const kept = saved_.gates + packed * layout_.row_floats() + at_block;
    float* const dz = z_gradient(j, row) + at_block;
    const float* const d_output = output_gradient(j, row);
    const std::int64_t zone = (n * s_.time() + s_.time_of(j, row)) * p_.units;
    for (std::int64_t w = 0; w < unit_block; w += Float::width) {
      const std::int64_t u = block * unit_block + w;
      const std::int64_t count = max_i(0, min_i(Float::width, p_.units - u));
      const std::int64_t state = n * p_.units + u;
      Float dh = d_output == nullptr ? zero() : load_n(d_output + u, count);
      if (last) {
        if (dy_.h != nullptr) dh = dh + load_n(dy_.h + state, count);
      } else {
        dh = dh + state_gradient(row, u, state, count);
      }
      if (p_.zoneout_h.on()) {
        const Zone z(p_.zoneout_h, zone + u, count);
        store(dh_kept_.get() + row * padded_ + u, z.of_before(dh));
        dh = z.of_after(dh);
      }
      float* const dc_place = dc_.get() + row * padded_ + u;
      Float dc = load(dc_place);
      Float dc_kept = zero();
      if (p_.zoneout_c.on()) {
        const Zone z(p_.zoneout_c, zone + u, count);
        dc_kept = z.of_before(dc);
        dc = z.of_after(dc);
      }
      const Float kept_i = load(kept + w);
      const Float kept_f = load(kept + unit_block + w);
      const Float kept_g = load(kept + 2 * unit_block + w);
      const Float kept_o = load(kept + 3 * unit_block + w);
      const Float c = load(saved_.cells + packed * padded_ + u);
      const Float squashed = f.squash(c);
      dc = dc + f.squash_gradient(dh * f.gate_of(kept_o), c, squashed);
      store(dz + w, f.gate_gradient(dc * f.candidate_of(kept_g), kept_i));
      store(dz + unit_block + w, f.gate_gradient(dc * load(cell_before(j, row) + u), kept_f));
      store(dz + 2 * unit_block + w, f.candidate_gradient(dc * f.gate_of(kept_i), kept_g));
      store(dz + 3 * unit_block + w, f.gate_gradient(dh * squashed, kept_o));
      store(dc_place, fma(dc, f.gate_of(kept_f), dc_kept));
    }
  }

  // Of h before the step that was last gone back through.
  LAMELLA_INLINE Float state_gradient(std::int64_t row, std::int64_t u, std::int64_t state,
                                      std::int64_t count) const {
    Float dh = load(dh_.get() + row * padded_ + u);
    if (p_.h_scale != nullptr) dh = dh * load_n(p_.h_scale + state, count);
    if (p_.zoneout_h.on()) dh = dh + load(dh_kept_.get() + row * padded_ + u);
    return dh;
  }

  // dh = dz R^T for the member's rows and units.
  void multiply_back(std::int64_t j, const Member& m) const {
    PanelProduct product = {};
    product.rows = m.share.count(s_.active(j));
    if (product.rows == 0) return;
    product.a = m.a;
    product.c = m.c;
    product.terms = layout_.row_floats();
    product.width = unit_panel;
    for (std::int64_t i = 0; i < product.rows; ++i) m.a[i] = z_gradient(j, m.share.row(i));
    const std::int64_t end = min_i(m.share.blocks.end * unit_block, p_.units);
    for (std::int64_t u = m.share.blocks.begin * unit_block; u < end; u += product.columns) {
      const std::int64_t panel = u / unit_panel;
      product.columns = min_i(end, (panel + 1) * unit_panel) - u;
      product.panel =
          recurrent_.get() + panel * unit_panel * layout_.row_floats() + u - panel * unit_panel;
      for (std::int64_t i = 0; i < product.rows; ++i) {
        m.c[i] = dh_.get() + m.share.row(i) * padded_ + u;
      }
      multiply(product);
    }
  }

  void initial_states(const Part& rows) const {
    for (std::int64_t row = rows.begin; row < rows.end; ++row) {
      const std::int64_t n = s_.sequence(row);
      for (std::int64_t u = 0; u < p_.units; u += Float::width) {
        const std::int64_t count = min_i(Float::width, p_.units - u);
        const std::int64_t state = n * p_.units + u;
        if (out_.c0 != nullptr) {
          store_n(out_.c0 + state, load(dc_.get() + row * padded_ + u), count);
        }
        if (out_.h0 == nullptr) continue;
        Float dh = load_n(out_.h0 + state, count);  // of outputs in front of the first step
        if (s_.length(row) > 0) {
          dh = dh + state_gradient(row, u, state, count);
        } else if (dy_.h != nullptr) {
          dh = dh + load_n(dy_.h + state, count);
        }
        store_n(out_.h0 + state, dh, count);
      }
    }
  }

  // For packed rows: dx, and x as the weights' gradient reads it.
  void inputs(const Part& packed, const Member& m) const {
    if (out_.x == nullptr && !packs_x_) return;
    std::int64_t j = 0;
    for (std::int64_t e = packed.begin; e < packed.end;) {
      const std::int64_t rows = min_i(piece_rows, packed.end - e);
      for (std::int64_t i = 0; i < rows; ++i, ++e) {
        while (s_.offset(j + 1) <= e) ++j;
        const std::int64_t row = e - s_.offset(j);
        const std::int64_t n = s_.sequence(row);
        const std::int64_t at = (n * s_.time() + s_.time_of(j, row)) * p_.inputs;
        const float* const scale = p_.x_scale == nullptr ? nullptr : p_.x_scale + n * p_.inputs;
        if (packs_x_) copy_scaled(p_.x + at, scale, x_packed_.get() + e * p_.inputs);
        if (out_.x == nullptr) continue;
        m.a[i] = dz_.get() + e * layout_.row_floats();
        m.c[i] = out_.x + at;
      }
      if (out_.x != nullptr) input_gradients(rows, e - rows, m);
    }
  }

  void copy_scaled(const float* from, const float* scale, float* to) const {
    if (scale == nullptr) {
      std::memcpy(to, from, static_cast<std::size_t>(p_.inputs) * sizeof(float));
      return;
    }
    for (std::int64_t d = 0; d < p_.inputs; ++d) to[d] = from[d] * scale[d];
  }

  void input_gradients(std::int64_t rows, std::int64_t first, const Member& m) const {
    PanelProduct product = {};
    product.a = m.a;
    product.c = m.c;
    product.rows = rows;
    product.terms = layout_.row_floats();
    product.width = unit_panel;
    for (std::int64_t panel = 0; panel < unit_panels(p_.inputs); ++panel) {
      product.columns = min_i(unit_panel, p_.inputs - panel * unit_panel);
      product.panel = kernel_.get() + panel * unit_panel * layout_.row_floats();
      multiply(product);
      for (std::int64_t i = 0; i < rows; ++i) m.c[i] += unit_panel;
    }
    if (p_.x_scale == nullptr) return;
    std::int64_t j = 0;
    for (std::int64_t i = 0; i < rows; ++i) {
      while (s_.offset(j + 1) <= first + i) ++j;
      const float* const scale = p_.x_scale + s_.sequence(first + i - s_.offset(j)) * p_.inputs;
      float* const dx = m.c[i] - unit_panels(p_.inputs) * unit_panel;
      for (std::int64_t d = 0; d < p_.inputs; ++d) dx[d] *= scale[d];
    }
  }

  void weights() const {
    const std::int64_t rows = s_.packed_rows();
    const std::int64_t columns = layout_.row_floats();
    if (rows == 0) {
      const std::int64_t width = gates * p_.units;
      zero_fill(out_.kernel, out_.kernel != nullptr ? p_.inputs * width : 0);
      zero_fill(out_.recurrent_kernel, out_.recurrent_kernel != nullptr ? p_.units * width : 0);
      return zero_fill(out_.bias, out_.bias != nullptr ? width : 0);
    }
    const Scratch<float> bias("lstm", out_.bias != nullptr ? columns : 0);
    if (out_.kernel != nullptr) {
      const Scratch<float> sum("lstm", p_.inputs * columns);
      weight_gradient(rows, p_.inputs, packs_x_ ? x_packed_.get() : p_.x, columns, dz_.get(),
                      sum.get(), bias.get());
      unpack_gate_rows(layout_, sum.get(), p_.inputs, out_.kernel);
    } else if (out_.bias != nullptr) {
      bias_gradient(dz_.get(), rows, columns, bias.get());
    }
    if (out_.bias != nullptr) unpack_gate_rows(layout_, bias.get(), 1, out_.bias);
    if (out_.recurrent_kernel != nullptr) {
      const Scratch<float> sum("lstm", padded_ * columns);
      weight_gradient(rows, padded_, saved_.states, columns, dz_.get(), sum.get(), nullptr);
      unpack_gate_rows(layout_, sum.get(), p_.units, out_.recurrent_kernel);
    }
  }

  const lstm::Problem& p_;
  const Steps& s_;
  lstm::Saved saved_;
  lstm::ResultGradients dy_;
  lstm::Gradients out_;
  GateLayout layout_;
  std::int64_t padded_;
  TeamPlan plan_;
  bool packs_x_;
  Scratch<float> recurrent_, kernel_, dz_, d_packed_, first_cells_, dc_, dh_, dh_kept_, x_packed_;
  std::int64_t most_rows_;
  Scratch<const float*> reads_;
  Scratch<float*> writes_;
};

}  // namespace

void lstm_backward(const lstm::Problem& p, const lstm::Saved& saved,
                   const lstm::ResultGradients& dy, const lstm::Gradients& out) {
  LstmBackward(p, saved, dy, out).run();
}

}  // namespace lamella::LAMELLA_ISA
