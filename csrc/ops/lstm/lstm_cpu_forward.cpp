// LSTM forward: the cell of recurrent/sequence_forward.h.
#include "ops/lstm/lstm.h"
#include "ops/lstm/lstm_zoneout.h"
#include "recurrent/gate_activations.h"
#include "recurrent/sequence_forward.h"

namespace lamella::LAMELLA_ISA {
namespace {

class LstmCell {
 public:
  static constexpr std::int64_t gates = 4;
  static constexpr bool separate = false;

  LstmCell(const recurrent::Sequence& q, const lstm::Cell& cell, const lstm::CellResults& out)
      : cell_(cell),
        out_(out),
        padded_(GateLayout{q.units, gates}.padded()),
        first_(q.op, q.steps->batch() * padded_),
        own_(q.op, out.cells == nullptr ? q.steps->batch() * padded_ : 0) {}

  int phases() const { return 1; }
  Part phase_gates(int) const { return {0, gates}; }
  bool uses_state() const { return cell_.zoneout_h.on(); }

  template <class Engine>
  void begin(const Engine& e, std::int64_t row, std::int64_t n) const {
    for (std::int64_t u = 0; u < padded_; u += Float::width) {
      store(first_.get() + row * padded_ + u,
            cell_.c0 == nullptr ? zero() : load_n(cell_.c0 + n * e.units() + u, e.count(u)));
    }
  }

  template <class Engine>
  void carry(const Engine& e, std::int64_t n) const {
    carry_state(cell_.c0, n, e.units(), out_.c);
  }

  template <class Engine>
  void point(const Engine& e, int, const CellPlace& at, float* z, const float*) const {
    with_gates(cell_.activation, cell_.recurrent_activation, [&](const auto& f) {
      for (std::int64_t w = 0; w < unit_block; w += Float::width) units(e, f, at, z + w, w);
    });
  }

 private:
  template <class Engine, class Gates>
  LAMELLA_INLINE void units(const Engine& e, const Gates& f, const CellPlace& at, float* z,
                            std::int64_t w) const {
    const std::int64_t u = at.block * unit_block + w;
    const Float z_i = load(z);
    const Float z_f = load(z + unit_block);
    const Float z_g = load(z + 2 * unit_block);
    const Float z_o = load(z + 3 * unit_block);
    const Float i = f.gate(z_i);
    const Float forget = f.gate(z_f);
    const Float g = f.candidate(z_g);
    const Float o = f.gate(z_o);
    if (e.keeps()) {
      store(z, f.keep_gate(z_i, i));
      store(z + unit_block, f.keep_gate(z_f, forget));
      store(z + 2 * unit_block, f.keep_candidate(z_g, g));
      store(z + 3 * unit_block, f.keep_gate(z_o, o));
    }
    const Float before = load(cell_before(e, at) + u);
    Float c = fma(forget, before, i * g);
    Float h = o * f.squash(c);
    store(cell_after(at) + u, c);
    if (cell_.zoneout_c.on()) {
      c = Zone(cell_.zoneout_c, at.t * e.units() + u, e.count(u)).mix(before, c);
      store((out_.carried != nullptr ? out_.carried + at.packed * padded_ : cell_after(at)) + u, c);
    }
    if (at.last) store_n(out_.c + at.n * e.units() + u, c, e.count(u));
    if (cell_.zoneout_h.on()) {
      h = Zone(cell_.zoneout_h, at.t * e.units() + u, e.count(u)).mix(e.state(at, u), h);
    }
    e.emit(at, u, h);
  }

  template <class Engine>
  LAMELLA_INLINE const float* cell_before(const Engine& e, const CellPlace& at) const {
    if (at.j == 0) return first_.get() + at.row * padded_;
    if (out_.cells == nullptr) return own_.get() + at.row * padded_;
    return (out_.carried != nullptr ? out_.carried : out_.cells) +
           (e.steps().offset(at.j - 1) + at.row) * padded_;
  }
  LAMELLA_INLINE float* cell_after(const CellPlace& at) const {
    return out_.cells == nullptr ? own_.get() + at.row * padded_ : out_.cells + at.packed * padded_;
  }

  const lstm::Cell& cell_;
  lstm::CellResults out_;
  std::int64_t padded_;
  Scratch<float> first_, own_;
};

void lstm_forward(const recurrent::Sequence& q, const lstm::Cell& cell,
                  const recurrent::Results& out, const lstm::CellResults& cell_out) {
  SequenceForward<LstmCell>(q, out, LstmCell(q, cell, cell_out)).run();
}

}  // namespace

void lstm_backward(const recurrent::Sequence& q, const lstm::Cell& cell,
                   const recurrent::Results& saved, const lstm::CellResults& cell_saved,
                   const recurrent::ResultGradients& dy, const recurrent::Gradients& out,
                   const lstm::CellGradients& cell_out);
void lstm_variant_forward(const recurrent::Sequence& q, const lstm::Cell& cell,
                          const lstm::Variant& variant, const recurrent::Results& out,
                          const lstm::CellResults& cell_out, const lstm::VariantResults& kept);
void lstm_variant_backward(const recurrent::Sequence& q, const lstm::Cell& cell,
                           const lstm::Variant& variant, const recurrent::Results& saved,
                           const lstm::CellResults& cell_saved,
                           const lstm::VariantResults& variant_saved,
                           const recurrent::ResultGradients& dy, const recurrent::Gradients& out,
                           const lstm::CellGradients& cell_out,
                           const lstm::VariantGradients& variant_out);

}  // namespace lamella::LAMELLA_ISA

namespace lamella::lstm::LAMELLA_ISA {

namespace kernel = lamella::LAMELLA_ISA;
extern const Kernels kernels = {kernel::lstm_forward, kernel::lstm_backward,
                                kernel::lstm_variant_forward, kernel::lstm_variant_backward};

}  // namespace lamella::lstm::LAMELLA_ISA
