// The simple recurrent cell, for recurrent/sequence_forward.h and sequence_backward.h.
#include "ops/simple_rnn/simple_rnn.h"

#include "recurrent/gate_activations.h"
#include "recurrent/sequence_backward.h"
#include "recurrent/sequence_forward.h"

namespace lamella::LAMELLA_ISA {
namespace {

class SimpleCell {
 public:
  static constexpr std::int64_t gates = 1;
  static constexpr bool separate = false;

  explicit SimpleCell(Activation activation) : activation_(activation) {}

  int phases() const { return 1; }
  Part phase_gates(int) const { return {0, 1}; }
  bool uses_state() const { return false; }
  bool keeps_state() const { return false; }

  template <class Engine>
  void begin(const Engine&, std::int64_t, std::int64_t) const {}
  template <class Engine>
  void carry(const Engine&, std::int64_t) const {}
  template <class Engine>
  void begin_back(const Engine&, std::int64_t, std::int64_t) const {}
  template <class Engine>
  void end_back(const Engine&, std::int64_t, std::int64_t) const {}

  template <class Engine>
  void point(const Engine& e, int, const CellPlace& at, float* z, const float*) const {
    with_gates(activation_, {Kind::sigmoid, 0.0f}, [&](const auto& f) {
      for (std::int64_t w = 0; w < unit_block; w += Float::width) {
        const Float z_in = load(z + w);
        const Float h = f.candidate(z_in);
        if (e.keeps()) store(z + w, f.keep_candidate(z_in, h));
        e.emit(at, at.block * unit_block + w, h);
      }
    });
  }

  template <class Engine>
  void point_back(const Engine& e, int, const CellPlace& at, std::int64_t w, Float dh) const {
    with_gates(activation_, {Kind::sigmoid, 0.0f}, [&](const auto& f) {
      e.put_dz(at, 0, w, f.candidate_gradient(dh, e.gate(at, 0, w)));
    });
  }

 private:
  Activation activation_;
};

void simple_rnn_forward(const recurrent::Sequence& q, Activation activation,
                        const recurrent::Results& out) {
  SequenceForward<SimpleCell>(q, out, SimpleCell(activation)).run();
}

void simple_rnn_backward(const recurrent::Sequence& q, Activation activation,
                         const recurrent::Results& saved, const recurrent::ResultGradients& dy,
                         const recurrent::Gradients& out) {
  SequenceBackward<SimpleCell>(q, saved, dy, out, SimpleCell(activation)).run();
}

}  // namespace
}  // namespace lamella::LAMELLA_ISA

namespace lamella::simple_rnn::LAMELLA_ISA {

namespace kernel = lamella::LAMELLA_ISA;
extern const Kernels kernels = {kernel::simple_rnn_forward, kernel::simple_rnn_backward};

}  // namespace lamella::simple_rnn::LAMELLA_ISA
