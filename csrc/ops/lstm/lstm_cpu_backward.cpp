// LSTM backward: the cell of recurrent/sequence_backward.h.
#include "ops/lstm/lstm.h"
#include "ops/lstm/lstm_zoneout.h"
#include "recurrent/gate_activations.h"
#include "recurrent/sequence_backward.h"

namespace lamella::LAMELLA_ISA {
namespace {

class LstmCellBack {
 public:
  static constexpr std::int64_t gates = 4;
  static constexpr bool separate = false;

  LstmCellBack(const recurrent::Sequence& q, const lstm::Cell& cell, const lstm::CellResults& saved,
               const lstm::CellGradients& out)
      : cell_(cell),
        saved_(saved),
        out_(out),
        padded_(GateLayout{q.units, gates}.padded()),
        first_(q.op, q.steps->batch() * padded_),
        dc_(q.op, q.steps->batch() * padded_) {}

  int phases() const { return 1; }
  Part phase_gates(int) const { return {0, gates}; }
  bool keeps_state() const { return cell_.zoneout_h.on(); }

  template <class Engine>
  void begin_back(const Engine& e, std::int64_t row, std::int64_t n) const {
    for (std::int64_t u = 0; u < padded_; u += Float::width) {
      const std::int64_t at = n * e.units() + u;
      store(first_.get() + row * padded_ + u,
            cell_.c0 == nullptr ? zero() : load_n(cell_.c0 + at, e.count(u)));
      store(dc_.get() + row * padded_ + u,
            out_.dc == nullptr ? zero() : load_n(out_.dc + at, e.count(u)));
    }
  }

  template <class Engine>
  void point_back(const Engine& e, int, const CellPlace& at, std::int64_t w, Float dh) const {
    with_gates(cell_.activation, cell_.recurrent_activation,
               [&](const auto& f) { units(e, f, at, w, dh); });
  }

  template <class Engine>
  void end_back(const Engine& e, std::int64_t row, std::int64_t n) const {
    if (out_.dc0 == nullptr) return;
    for (std::int64_t u = 0; u < e.units(); u += Float::width) {
      store_n(out_.dc0 + n * e.units() + u, load(dc_.get() + row * padded_ + u), e.count(u));
    }
  }

 private:
  // dz of the units, and in place the gradient of c before the step.
  template <class Engine, class Gates>
  LAMELLA_INLINE void units(const Engine& e, const Gates& f, const CellPlace& at, std::int64_t w,
                            Float dh) const {
    const std::int64_t u = at.block * unit_block + w;
    const std::int64_t zone = at.t * e.units() + u;
    if (cell_.zoneout_h.on()) {
      const Zone z(cell_.zoneout_h, zone, e.count(u));
      e.put_kept(at, u, z.of_before(dh));
      dh = z.of_after(dh);
    }
    float* const dc_place = dc_.get() + at.row * padded_ + u;
    Float dc = load(dc_place);
    Float dc_kept = zero();
    if (cell_.zoneout_c.on()) {
      const Zone z(cell_.zoneout_c, zone, e.count(u));
      dc_kept = z.of_before(dc);
      dc = z.of_after(dc);
    }
    const Float i = e.gate(at, 0, w);
    const Float forget = e.gate(at, 1, w);
    const Float g = e.gate(at, 2, w);
    const Float o = e.gate(at, 3, w);
    const Float c = load(saved_.cells + at.packed * padded_ + u);
    const Float squashed = f.squash(c);
    dc = dc + f.squash_gradient(dh * f.gate_of(o), c, squashed);
    e.put_dz(at, 0, w, f.gate_gradient(dc * f.candidate_of(g), i));
    e.put_dz(at, 1, w, f.gate_gradient(dc * load(cell_before(e, at) + u), forget));
    e.put_dz(at, 2, w, f.candidate_gradient(dc * f.gate_of(i), g));
    e.put_dz(at, 3, w, f.gate_gradient(dh * squashed, o));
    store(dc_place, fma(dc, f.gate_of(forget), dc_kept));
  }

  template <class Engine>
  LAMELLA_INLINE const float* cell_before(const Engine& e, const CellPlace& at) const {
    if (at.j == 0) return first_.get() + at.row * padded_;
    return (saved_.carried != nullptr ? saved_.carried : saved_.cells) +
           (e.steps().offset(at.j - 1) + at.row) * padded_;
  }

  const lstm::Cell& cell_;
  lstm::CellResults saved_;
  lstm::CellGradients out_;
  std::int64_t padded_;
  Scratch<float> first_, dc_;
};

}  // namespace

void lstm_backward(const recurrent::Sequence& q, const lstm::Cell& cell,
                   const recurrent::Results& saved, const lstm::CellResults& cell_saved,
                   const recurrent::ResultGradients& dy, const recurrent::Gradients& out,
                   const lstm::CellGradients& cell_out) {
  SequenceBackward<LstmCellBack>(q, saved, dy, out, LstmCellBack(q, cell, cell_saved, cell_out))
      .run();
}

}  // namespace lamella::LAMELLA_ISA
