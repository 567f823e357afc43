// The cells of gru, for recurrent/sequence_forward.h and sequence_backward.h: with the reset gate
// after the product of h, and before it.
#include "ops/gru/gru.h"

#include "recurrent/gate_activations.h"
#include "recurrent/sequence_backward.h"
#include "recurrent/sequence_forward.h"

namespace lamella::LAMELLA_ISA {
namespace {

// What both have in common.
class GruCell {
 public:
  static constexpr std::int64_t gates = 3;

  GruCell(const recurrent::Sequence& q, const gru::Cell& cell, const recurrent::Results& kept,
          float* before)
      : cell_(cell),
        second_(kept.second),
        before_(before),
        padded_(GateLayout{q.units, gates}.padded()) {}

  bool uses_state() const { return true; }
  bool keeps_state() const { return true; }

  template <class Engine>
  void begin(const Engine&, std::int64_t, std::int64_t) const {}
  template <class Engine>
  void carry(const Engine&, std::int64_t) const {}
  template <class Engine>
  void begin_back(const Engine&, std::int64_t, std::int64_t) const {}
  template <class Engine>
  void end_back(const Engine&, std::int64_t, std::int64_t) const {}

 protected:
  // h' of z and n.
  template <class Engine>
  LAMELLA_INLINE void finish(const Engine& e, const CellPlace& at, std::int64_t u, Float z,
                             Float n) const {
    const Float h = e.state(at, u);
    if (before_ != nullptr) store(before_ + at.packed * padded_ + u, h);
    e.emit(at, u, fma(z, h - n, n));
  }

  template <class Engine>
  LAMELLA_INLINE Float state_before(const Engine& e, const CellPlace& at, std::int64_t u) const {
    return before_ == nullptr ? e.operand(at, u) : load(before_ + at.packed * padded_ + u);
  }

  const gru::Cell& cell_;
  float* second_;
  float* before_;
  std::int64_t padded_;
};

class ResetAfter : public GruCell {
 public:
  static constexpr bool separate = true;
  using GruCell::GruCell;

  int phases() const { return 1; }
  Part phase_gates(int) const { return {0, gates}; }

  template <class Engine>
  void point(const Engine& e, int, const CellPlace& at, float* a, const float* q) const {
    with_gates(cell_.activation, cell_.recurrent_activation, [&](const auto& f) {
      for (std::int64_t w = 0; w < unit_block; w += Float::width) {
        const std::int64_t u = at.block * unit_block + w;
        const Float z_in = load(a + w) + load(q + w);
        const Float r_in = load(a + unit_block + w) + load(q + unit_block + w);
        const Float q_h = load(q + 2 * unit_block + w);
        const Float z = f.gate(z_in);
        const Float r = f.gate(r_in);
        const Float n_in = fma(r, q_h, load(a + 2 * unit_block + w));
        const Float n = f.candidate(n_in);
        if (e.keeps()) {
          store(a + w, f.keep_gate(z_in, z));
          store(a + unit_block + w, f.keep_gate(r_in, r));
          store(a + 2 * unit_block + w, f.keep_candidate(n_in, n));
          store(second_ + at.packed * padded_ + u, q_h);
        }
        finish(e, at, u, z, n);
      }
    });
  }

  template <class Engine>
  void point_back(const Engine& e, int, const CellPlace& at, std::int64_t w, Float dh) const {
    with_gates(cell_.activation, cell_.recurrent_activation, [&](const auto& f) {
      const std::int64_t u = at.block * unit_block + w;
      const Float kept_z = e.gate(at, 0, w);
      const Float kept_r = e.gate(at, 1, w);
      const Float kept_n = e.gate(at, 2, w);
      const Float z = f.gate_of(kept_z);
      const Float q_h = load(second_ + at.packed * padded_ + u);
      const Float h = state_before(e, at, u);
      const Float d_z = f.gate_gradient(dh * (h - f.candidate_of(kept_n)), kept_z);
      const Float d_n = f.candidate_gradient(dh * (set(1.0f) - z), kept_n);
      const Float d_r = f.gate_gradient(d_n * q_h, kept_r);
      e.put_dz(at, 0, w, d_z);
      e.put_dz(at, 1, w, d_r);
      e.put_dz(at, 2, w, d_n);
      e.put_dq(at, 0, w, d_z);
      e.put_dq(at, 1, w, d_r);
      e.put_dq(at, 2, w, d_n * f.gate_of(kept_r));
      e.put_kept(at, u, dh * z);
    });
  }
};

class ResetBefore : public GruCell {
 public:
  static constexpr bool separate = false;
  using GruCell::GruCell;

  int phases() const { return 2; }
  Part phase_gates(int phase) const { return phase == 0 ? Part{0, 2} : Part{2, 3}; }

  template <class Engine>
  void point(const Engine& e, int phase, const CellPlace& at, float* a, const float*) const {
    with_gates(cell_.activation, cell_.recurrent_activation, [&](const auto& f) {
      for (std::int64_t w = 0; w < unit_block; w += Float::width) {
        const std::int64_t u = at.block * unit_block + w;
        if (phase == 0) {
          const Float z_in = load(a + w);
          const Float r_in = load(a + unit_block + w);
          const Float r = f.gate(r_in);
          store(a + w, f.keep_gate(z_in, f.gate(z_in)));
          store(a + unit_block + w, f.keep_gate(r_in, r));
          store(e.second(at.packed, at.row) + u, r * e.scaled(e.state(at, u), at, u));
        } else {
          const Float n_in = load(a + 2 * unit_block + w);
          const Float n = f.candidate(n_in);
          if (e.keeps()) store(a + 2 * unit_block + w, f.keep_candidate(n_in, n));
          finish(e, at, u, f.gate_of(load(a + w)), n);
        }
      }
    });
  }

  template <class Engine>
  void point_back(const Engine& e, int phase, const CellPlace& at, std::int64_t w, Float dh) const {
    with_gates(cell_.activation, cell_.recurrent_activation, [&](const auto& f) {
      const std::int64_t u = at.block * unit_block + w;
      if (phase == 1) {
        const Float kept_z = e.gate(at, 0, w);
        const Float kept_n = e.gate(at, 2, w);
        const Float z = f.gate_of(kept_z);
        const Float h = state_before(e, at, u);
        e.put_dz(at, 0, w, f.gate_gradient(dh * (h - f.candidate_of(kept_n)), kept_z));
        e.put_dz(at, 2, w, f.candidate_gradient(dh * (set(1.0f) - z), kept_n));
        e.put_kept(at, u, dh * z);
      } else {
        const Float kept_r = e.gate(at, 1, w);
        const Float d = e.d_second(at, u);
        e.put_dz(at, 1, w, f.gate_gradient(d * e.operand(at, u), kept_r));
        e.put_kept(at, u, fma(d * e.scale(at, u), f.gate_of(kept_r), e.kept(at, u)));
      }
    });
  }
};

void gru_forward(const recurrent::Sequence& q, const gru::Cell& cell, const recurrent::Results& out,
                 float* before) {
  if (cell.reset_after) {
    SequenceForward<ResetAfter>(q, out, ResetAfter(q, cell, out, before)).run();
  } else {
    SequenceForward<ResetBefore>(q, out, ResetBefore(q, cell, out, before)).run();
  }
}

void gru_backward(const recurrent::Sequence& q, const gru::Cell& cell,
                  const recurrent::Results& saved, const float* before,
                  const recurrent::ResultGradients& dy, const recurrent::Gradients& out) {
  float* const kept = const_cast<float*>(before);
  if (cell.reset_after) {
    SequenceBackward<ResetAfter>(q, saved, dy, out, ResetAfter(q, cell, saved, kept)).run();
  } else {
    SequenceBackward<ResetBefore>(q, saved, dy, out, ResetBefore(q, cell, saved, kept)).run();
  }
}

}  // namespace
}  // namespace lamella::LAMELLA_ISA

namespace lamella::gru::LAMELLA_ISA {

namespace kernel = lamella::LAMELLA_ISA;
extern const Kernels kernels = {kernel::gru_forward, kernel::gru_backward};

}  // namespace lamella::gru::LAMELLA_ISA
