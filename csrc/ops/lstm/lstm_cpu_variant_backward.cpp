// Backward pass of the LSTM with layer normalization and projection: each thread takes its
// sequences back through their steps, without waiting for others (see the forward pass). The
// gradients of the two products of all steps are kept; then dx, and the kernels' gradients as one
// product each over all steps. Gradients of vectors are summed for each sequence on the way, and
// over the sequences at the end, so no sum depends on the number of threads.
#include "gemm/bias_gradient.h"
#include "ops/lstm/lstm_variant.h"
#include "ops/lstm/lstm_zoneout.h"
#include "recurrent/gate_activations.h"
#include "recurrent/sequence_inputs.h"
#include "recurrent/state_gradients.h"
#include "recurrent/weight_gradient.h"

namespace lamella::LAMELLA_ISA {
namespace {

// Sums of a vector's gradient, a row for each sequence; none where it is not wanted.
class VectorSums {
 public:
  VectorSums(const char* op, const GateLayout& layout, std::int64_t rows, float* out)
      : op_(op),
        layout_(layout),
        rows_(rows),
        out_(out),
        sums_(op, out != nullptr ? rows * layout.row_floats() : 0) {}

  void begin(std::int64_t row) const {
    if (out_ != nullptr) zero_fill(this->row(row), layout_.row_floats());
  }
  float* row(std::int64_t row) const {
    return out_ == nullptr ? nullptr : sums_.get() + row * layout_.row_floats();
  }
  void end() const {
    if (out_ == nullptr) return;
    if (rows_ == 0) return zero_fill(out_, layout_.gates * layout_.units);
    const Scratch<float> total(op_, layout_.row_floats());
    bias_gradient(sums_.get(), rows_, layout_.row_floats(), total.get());
    unpack_gate_rows(layout_, total.get(), 1, out_);
  }

 private:
  const char* op_;
  GateLayout layout_;
  std::int64_t rows_;
  float* out_;
  Scratch<float> sums_;
};

// sum += d, unless it is null: not wanted.
LAMELLA_INLINE void add_to(float* sum, std::int64_t i, Float d) {
  if (sum != nullptr) store(sum + i, load(sum + i) + d);
}

class VariantBackward {
 public:
  VariantBackward(const recurrent::Sequence& q, const lstm::Cell& cell,
                  const lstm::Variant& variant, const recurrent::Results& saved,
                  const lstm::CellResults& cell_saved, const lstm::VariantResults& variant_saved,
                  const recurrent::ResultGradients& dy, const recurrent::Gradients& out,
                  const lstm::CellGradients& cell_out, const lstm::VariantGradients& variant_out)
      : q_(q),
        s_(*q.steps),
        cell_(cell),
        v_(variant),
        saved_(saved),
        cell_saved_(cell_saved),
        variant_saved_(variant_saved),
        out_(out),
        cell_out_(cell_out),
        variant_out_(variant_out),
        layout_{q.units, 4},
        unit_layout_{q.units, 1},
        state_layout_{q.state_size, 1},
        padded_(layout_.padded()),
        padded_state_(state_layout_.padded()),
        plan_(plan_team(s_, layout_, q.inputs + q.state_size, false)),
        projects_(v_.projection_kernel != nullptr),
        vectors_(q, variant),
        recurrent_(q.op, unit_panels(q.state_size) * unit_panel * layout_.row_floats()),
        projection_(q.op, projects_ ? unit_panels(q.units) * unit_panel * padded_state_ : 0),
        d_x_product_(q.op, s_.packed_rows() * layout_.row_floats()),
        d_h_product_(q.op, v_.gamma_x != nullptr || v_.gamma_h != nullptr
                               ? s_.packed_rows() * layout_.row_floats()
                               : 0),
        d_projected_(q.op, projects_ ? s_.packed_rows() * padded_state_ : 0),
        y_(q.op, variant_out.projection_kernel != nullptr ? s_.packed_rows() * padded_ : 0),
        states_(q, dy, out.h0, cell.zoneout_h.on()),
        inputs_(q, layout_, out.x, out.kernel != nullptr),
        first_cell_(q.op, s_.batch() * padded_),
        dc_(q.op, s_.batch() * padded_),
        dy_(q.op, s_.batch() * padded_),
        bias_(q.op, layout_, s_.batch(), out.bias),
        gamma_x_(q.op, layout_, s_.batch(), variant_out.gamma_x),
        gamma_h_(q.op, layout_, s_.batch(), variant_out.gamma_h),
        gamma_c_(q.op, unit_layout_, s_.batch(), variant_out.gamma_c),
        beta_c_(q.op, unit_layout_, s_.batch(), variant_out.beta_c),
        most_rows_(max_i(InputGradients::piece_rows, s_.batch())),
        dz_(q.op, v_.gamma_x != nullptr && v_.gamma_h != nullptr
                      ? plan_.members * layout_.row_floats()
                      : 0),
        reads_(q.op, plan_.members * most_rows_),
        writes_(q.op, plan_.members * most_rows_) {}

  void run() {
    states_.gather();
    parallel_team(plan_.members, [&](Team& team, int member) { take_part(team, member); });
    each_sum([](const VectorSums& sums) { sums.end(); });
    kernels();
  }

 private:
  struct Member {
    TeamShare share;
    float* dz;  // of a row, where both products are normalized
    const float** a;
    float** c;
  };

  void take_part(Team& team, int member) const {
    const Part panels = part_of(unit_panels(q_.state_size), member, team.size());
    pack_unit_panels(layout_, q_.recurrent_kernel, q_.state_size, panels.begin, panels.end,
                     recurrent_.get());
    if (projects_) {
      const Part more = part_of(unit_panels(q_.units), member, team.size());
      pack_unit_panels(state_layout_, v_.projection_kernel, q_.units, more.begin, more.end,
                       projection_.get());
    }
    inputs_.pack(member, team.size());
    const Part rows = part_of(s_.batch(), member, team.size());
    for (std::int64_t row = rows.begin; row < rows.end; ++row) begin(row);
    team.barrier();
    const Member m = {TeamShare(plan_, team, member, layout_, s_),
                      dz_.get() + member * layout_.row_floats(), reads_.get() + member * most_rows_,
                      writes_.get() + member * most_rows_};
    for (std::int64_t j = s_.count() - 1; j >= 0; --j) step(j, m);
    team.barrier();
    for (std::int64_t row = rows.begin; row < rows.end; ++row) end(row);
    inputs_.run(part_of(s_.packed_rows(), member, team.size()), d_x_product_.get(), m.a, m.c);
  }

  template <class Body>
  void each_sum(const Body& body) const {
    body(bias_);
    body(gamma_x_);
    body(gamma_h_);
    body(gamma_c_);
    body(beta_c_);
  }

  void begin(std::int64_t row) const {
    states_.begin(row);
    inputs_.begin(row);
    // The products write U of its columns.
    zero_fill(dy_.get() + row * padded_, padded_);
    const std::int64_t n = s_.sequence(row);
    for (std::int64_t u = 0; u < padded_; u += Float::width) {
      const std::int64_t at = n * q_.units + u;
      store(first_cell_.get() + row * padded_ + u,
            cell_.c0 == nullptr ? zero() : load_n(cell_.c0 + at, count(u)));
      store(dc_.get() + row * padded_ + u,
            cell_out_.dc == nullptr ? zero() : load_n(cell_out_.dc + at, count(u)));
    }
    each_sum([&](const VectorSums& sums) { sums.begin(row); });
  }

  void end(std::int64_t row) const {
    states_.end(row);
    if (cell_out_.dc0 == nullptr) return;
    float* const dc0 = cell_out_.dc0 + s_.sequence(row) * q_.units;
    for (std::int64_t u = 0; u < q_.units; u += Float::width) {
      store_n(dc0 + u, load(dc_.get() + row * padded_ + u), count(u));
    }
  }

  LAMELLA_INLINE std::int64_t count(std::int64_t u) const {
    return max_i(0, min_i(Float::width, q_.units - u));
  }
  const float* statistics(const CellPlace& at) const {
    if (variant_saved_.statistics == nullptr) return nullptr;
    return variant_saved_.statistics + at.packed * statistics_floats;
  }
  const float* cell_before(const CellPlace& at) const {
    if (at.j == 0) return first_cell_.get() + at.row * padded_;
    return (cell_saved_.carried != nullptr ? cell_saved_.carried : cell_saved_.cells) +
           (s_.offset(at.j - 1) + at.row) * padded_;
  }
  // The gradient that the recurrent kernel meets: dz itself where neither product is normalized.
  float* d_h_product() const {
    return d_h_product_.get() != nullptr ? d_h_product_.get() : d_x_product_.get();
  }
  // dz of a row lies where the gradient of a product that is not normalized is kept.
  float* dz_row(const CellPlace& at, const Member& m) const {
    if (v_.gamma_x == nullptr) return d_x_product_.get() + at.packed * layout_.row_floats();
    if (v_.gamma_h == nullptr) return d_h_product() + at.packed * layout_.row_floats();
    return m.dz;
  }

  void step(std::int64_t j, const Member& m) const {
    const std::int64_t rows = m.share.count(s_.active(j));
    for (std::int64_t i = 0; i < rows; ++i) leave_state(CellPlace(s_, j, m.share.row(i), 0));
    if (projects_) {
      multiply_back(d_projected_.get() + s_.offset(j) * padded_state_, state_layout_,
                    projection_.get(), q_.units, dy_.get(), padded_, rows, m);
    }
    with_gates(cell_.activation, cell_.recurrent_activation, [&](const auto& f) {
      for (std::int64_t i = 0; i < rows; ++i) {
        const CellPlace at(s_, j, m.share.row(i), 0);
        if (i + 1 < rows) {
          prefetch(s_.offset(j) + m.share.row(i + 1));
        } else if (j > 0) {
          prefetch(s_.offset(j - 1) + m.share.row(0));
        }
        float* const dz = dz_row(at, m);
        output_back(f, at, dz);
        gates_back(f, at, dz);
        products_back(at, dz);
      }
    });
    if (j == 0 && out_.h0 == nullptr) return;
    multiply_back(d_h_product() + s_.offset(j) * layout_.row_floats(), layout_, recurrent_.get(),
                  q_.state_size, states_.products(), padded_state_, rows, m);
  }

  // What the next row reads: several arrays side by side are more than the hardware sees coming.
  void prefetch(std::int64_t packed) const {
    const std::int64_t row_floats = layout_.row_floats();
    prefetch_row(saved_.gates + packed * row_floats, row_floats);
    prefetch_row(cell_saved_.cells + packed * padded_, padded_);
    if (v_.gamma_x != nullptr) {
      prefetch_row(variant_saved_.x_product + packed * row_floats, row_floats);
    }
    if (v_.gamma_h != nullptr) {
      prefetch_row(variant_saved_.h_product + packed * row_floats, row_floats);
    }
  }
  static void prefetch_row(const float* row, std::int64_t floats) {
    for (std::int64_t i = 0; i < floats; i += 16) __builtin_prefetch(row + i);
  }

  // The gradient of h' in front of zoneout.
  void leave_state(const CellPlace& at) const {
    if (at.j > 0) {
      const float* const next = states_.of_output(CellPlace(s_, at.j - 1, at.row, 0));
      if (next != nullptr) prefetch_row(next, q_.state_size);
    }
    float* const to =
        projects_ ? d_projected_.get() + at.packed * padded_state_ : dy_.get() + at.row * padded_;
    for (std::int64_t u = 0; u < padded_state_; u += Float::width) {
      Float dh = states_.after(at, u);
      if (cell_.zoneout_h.on()) {
        const std::int64_t lanes = max_i(0, min_i(Float::width, q_.state_size - u));
        const Zone zone(cell_.zoneout_h, at.t * q_.state_size + u, lanes);
        states_.put_kept(at, u, zone.of_before(dh));
        dh = zone.of_after(dh);
      }
      store(to + u, dh);
    }
  }

  // to (N, to_width) = from K^T for the member's rows of a step, `from` in packed rows.
  void multiply_back(const float* from, const GateLayout& l, const float* panels,
                     std::int64_t columns, float* to, std::int64_t to_width, std::int64_t rows,
                     const Member& m) const {
    const Segment whole = {0, 0, l.row_floats()};
    PanelProduct product = {};
    product.a = m.a;
    product.c = m.c;
    product.rows = rows;
    product.segments = &whole;
    product.segment_count = 1;
    product.width = unit_panel;
    for (std::int64_t i = 0; i < rows; ++i) {
      m.a[i] = from + m.share.row(i) * l.row_floats();
      m.c[i] = to + m.share.row(i) * to_width;
    }
    for (std::int64_t column = 0; column < columns; column += unit_panel) {
      product.columns = min_i(unit_panel, columns - column);
      product.panel = panels + column * l.row_floats();
      multiply(product);
      for (std::int64_t i = 0; i < rows; ++i) m.c[i] += unit_panel;
    }
  }

  // From the gradient of y that of o, and in its place that of c' as far as it comes from y.
  template <class Gates>
  void output_back(const Gates& f, const CellPlace& at, float* dz) const {
    const RowStatistics statistics_of_c(v_.gamma_c, statistics(at), of_c);
    const float* const gates = saved_.gates + at.packed * layout_.row_floats();
    const float* const cells = cell_saved_.cells + at.packed * padded_;
    float* const y = y_.get() == nullptr ? nullptr : y_.get() + at.packed * padded_;
    float* const d_gamma = gamma_c_.row(at.row);
    float* const d_beta = beta_c_.row(at.row);
    float* const dy = dy_.get() + at.row * padded_;
    Float d_sum = zero();
    Float du_sum = zero();
    for_unit_vectors(layout_, [&](std::int64_t u, std::int64_t k) {
      const Float d = load(dy + u);
      const Float kept_o = load(gates + k + 3 * unit_block);
      const Float o = f.gate_of(kept_o);
      const Float gamma = load(vectors_.gamma_c + u);
      Float c = load(cells + u);
      const Float unit = statistics_of_c.unit(c);
      if (v_.gamma_c != nullptr) c = fma(gamma, unit, load(vectors_.beta_c + u));
      const Float squashed = f.squash(c);
      if (y != nullptr) store(y + u, o * squashed);
      store(dz + k + 3 * unit_block, f.gate_gradient(d * squashed, kept_o));
      Float dc = f.squash_gradient(d * o, c, squashed);
      if (v_.gamma_c != nullptr) {
        add_to(d_gamma, u, dc * unit);
        add_to(d_beta, u, dc);
        dc = dc * gamma;
        d_sum = d_sum + dc;
        du_sum = fma(dc, unit, du_sum);
      }
      store(dy + u, dc);
    });
    if (v_.gamma_c == nullptr) return;
    // The mean and the variance take their part of every gradient back.
    const Float share = set(1.0f / static_cast<float>(q_.units));
    const Float d_mean = set(sum(d_sum)) * share;
    const Float du_mean = set(sum(du_sum)) * share;
    for (std::int64_t u = 0; u < padded_; u += Float::width) {
      const Float unit = statistics_of_c.unit(load(cells + u));
      const Float d = fnma(unit, du_mean, load(dy + u) - d_mean);
      const Float dc = d * statistics_of_c.inverse_deviation;
      // Units that are none would hand their gradient on from step to step.
      store(dy + u, first_lanes_or(dc, count(u), zero()));
    }
  }

  // The gradients of i, f and g, and in place that of c before the step.
  template <class Gates>
  void gates_back(const Gates& f, const CellPlace& at, float* dz) const {
    const float* const gates = saved_.gates + at.packed * layout_.row_floats();
    const float* const before = cell_before(at);
    const float* const from_y = dy_.get() + at.row * padded_;
    float* const dc_row = dc_.get() + at.row * padded_;
    for_unit_vectors(layout_, [&](std::int64_t u, std::int64_t k) {
      Float dc = load(dc_row + u);
      Float dc_kept = zero();
      if (cell_.zoneout_c.on()) {
        const Zone zone(cell_.zoneout_c, at.t * q_.units + u, count(u));
        dc_kept = zone.of_before(dc);
        dc = zone.of_after(dc);
      }
      dc = dc + load(from_y + u);
      const Float i = load(gates + k);
      const Float forget = load(gates + k + unit_block);
      const Float g = load(gates + k + 2 * unit_block);
      store(dz + k, f.gate_gradient(dc * f.candidate_of(g), i));
      store(dz + k + unit_block, f.gate_gradient(dc * load(before + u), forget));
      store(dz + k + 2 * unit_block, f.candidate_gradient(dc * f.gate_of(i), g));
      store(dc_row + u, fma(dc, f.gate_of(forget), dc_kept));
    });
  }

  // A row of gates that was normalized.
  struct NormalizedRow {
    RowStatistics statistics;
    const float* v;
    const float* gamma;
    float* d_gamma;
    float* dv;
  };

  NormalizedRow x_row(const CellPlace& at) const {
    const std::int64_t row = at.packed * layout_.row_floats();
    return {{v_.gamma_x, statistics(at), of_x},
            variant_saved_.x_product + row,
            vectors_.gamma_x,
            gamma_x_.row(at.row),
            d_x_product_.get() + row};
  }
  NormalizedRow h_row(const CellPlace& at) const {
    const std::int64_t row = at.packed * layout_.row_floats();
    return {{v_.gamma_h, statistics(at), of_h},
            variant_saved_.h_product + row,
            vectors_.gamma_h,
            gamma_h_.row(at.row),
            d_h_product() + row};
  }

  // From dz the gradients of both products, and of the vectors.
  void products_back(const CellPlace& at, const float* dz) const {
    float* const d_bias = bias_.row(at.row);
    if (v_.gamma_x != nullptr && v_.gamma_h != nullptr) {
      normalized_back<2>({x_row(at), h_row(at)}, dz, d_bias);
    } else if (v_.gamma_x != nullptr) {
      normalized_back<1>({x_row(at)}, dz, d_bias);
    } else if (v_.gamma_h != nullptr) {
      normalized_back<1>({h_row(at)}, dz, d_bias);
    } else if (d_bias != nullptr) {
      const std::int64_t size = layout_.row_floats();
      for (std::int64_t k = 0; k < size; k += Float::width) add_to(d_bias, k, load(dz + k));
    }
  }

  // gamma is 0 behind the last unit, so what stands there enters no sum; what comes out there meets
  // zeros of the kernels.
  template <int count>
  void normalized_back(const NormalizedRow (&rows)[count], const float* dz, float* d_bias) const {
    const std::int64_t size = layout_.row_floats();
    Float d_sums[count], du_sums[count];
#pragma GCC unroll 2
    for (int r = 0; r < count; ++r) d_sums[r] = du_sums[r] = zero();
    for (std::int64_t k = 0; k < size; k += Float::width) {
      const Float dz_k = load(dz + k);
      add_to(d_bias, k, dz_k);
#pragma GCC unroll 2
      for (int r = 0; r < count; ++r) {
        const Float unit = rows[r].statistics.unit(load(rows[r].v + k));
        const Float d = dz_k * load(rows[r].gamma + k);
        add_to(rows[r].d_gamma, k, dz_k * unit);
        d_sums[r] = d_sums[r] + d;
        du_sums[r] = fma(d, unit, du_sums[r]);
      }
    }
    const Float share = set(1.0f / static_cast<float>(4 * q_.units));
#pragma GCC unroll 2
    for (int r = 0; r < count; ++r) {
      d_sums[r] = set(sum(d_sums[r])) * share;
      du_sums[r] = set(sum(du_sums[r])) * share;
    }
    for (std::int64_t k = 0; k < size; k += Float::width) {
      const Float dz_k = load(dz + k);
#pragma GCC unroll 2
      for (int r = 0; r < count; ++r) {
        const Float unit = rows[r].statistics.unit(load(rows[r].v + k));
        const Float d = fnma(unit, du_sums[r], dz_k * load(rows[r].gamma + k) - d_sums[r]);
        store(rows[r].dv + k, d * rows[r].statistics.inverse_deviation);
      }
    }
  }

  void kernels() const {
    const std::int64_t rows = s_.packed_rows();
    const std::int64_t width = 4 * q_.units;
    if (rows == 0) {
      zero_fill(out_.kernel, out_.kernel != nullptr ? q_.inputs * width : 0);
      zero_fill(out_.recurrent_kernel,
                out_.recurrent_kernel != nullptr ? q_.state_size * width : 0);
      return zero_fill(variant_out_.projection_kernel,
                       variant_out_.projection_kernel != nullptr ? q_.units * q_.state_size : 0);
    }
    kernel_gradient_of(layout_, q_.inputs, q_.inputs, inputs_.rows(), d_x_product_.get(),
                       out_.kernel);
    kernel_gradient_of(layout_, padded_state_, q_.state_size, saved_.states, d_h_product(),
                       out_.recurrent_kernel);
    kernel_gradient_of(state_layout_, padded_, q_.units, y_.get(), d_projected_.get(),
                       variant_out_.projection_kernel);
  }

  // out (terms, columns) = the product over all rows of what met the kernel, x (rows, x_width), and
  // the gradient of what came out of it.
  void kernel_gradient_of(const GateLayout& l, std::int64_t x_width, std::int64_t terms,
                          const float* x, const float* d, float* out) const {
    if (out == nullptr) return;
    const Scratch<float> rows(q_.op, x_width * l.row_floats());
    weight_gradient(s_.packed_rows(), x_width, x, l.row_floats(), d, rows.get(), nullptr);
    unpack_gate_rows(l, rows.get(), terms, out);
  }

  const recurrent::Sequence& q_;
  const Steps& s_;
  const lstm::Cell& cell_;
  const lstm::Variant& v_;
  recurrent::Results saved_;
  lstm::CellResults cell_saved_;
  lstm::VariantResults variant_saved_;
  recurrent::Gradients out_;
  lstm::CellGradients cell_out_;
  lstm::VariantGradients variant_out_;
  GateLayout layout_, unit_layout_, state_layout_;
  std::int64_t padded_, padded_state_;
  TeamPlan plan_;
  bool projects_;
  VariantVectors vectors_;
  Scratch<float> recurrent_, projection_, d_x_product_, d_h_product_, d_projected_, y_;
  StateGradients states_;
  InputGradients inputs_;
  Scratch<float> first_cell_, dc_, dy_;
  VectorSums bias_, gamma_x_, gamma_h_, gamma_c_, beta_c_;
  std::int64_t most_rows_;
  Scratch<float> dz_;
  Scratch<const float*> reads_;
  Scratch<float*> writes_;
};

}  // namespace

void lstm_variant_backward(const recurrent::Sequence& q, const lstm::Cell& cell,
                           const lstm::Variant& variant, const recurrent::Results& saved,
                           const lstm::CellResults& cell_saved,
                           const lstm::VariantResults& variant_saved,
                           const recurrent::ResultGradients& dy, const recurrent::Gradients& out,
                           const lstm::CellGradients& cell_out,
                           const lstm::VariantGradients& variant_out) {
  VariantBackward(q, cell, variant, saved, cell_saved, variant_saved, dy, out, cell_out,
                  variant_out)
      .run();
}

}  // namespace lamella::LAMELLA_ISA
