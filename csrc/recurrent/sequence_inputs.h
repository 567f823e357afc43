// x on its way into the products of a recurrent op, and its gradient on the way back.
#pragma once

#include "core/memory_pool.h"
#include "ops/conv2d/conv2d_taps.h"
#include "recurrent/gate_panels.h"
#include "recurrent/sequence.h"
#include "recurrent/team_share.h"

namespace lamella::LAMELLA_ISA {

inline std::int64_t input_at(const recurrent::Sequence& q, std::int64_t j, std::int64_t row) {
  const Steps& s = *q.steps;
  return (s.sequence(row) * s.time() + s.time_of(j, row)) * q.inputs;
}

// to = x x_scale in packed rows, for some of the steps.
inline void scale_inputs(const recurrent::Sequence& q, const Part& steps, float* to) {
  const Steps& s = *q.steps;
  for (std::int64_t j = steps.begin; j < steps.end; ++j) {
    for (std::int64_t row = 0; row < s.active(j); ++row) {
      const float* const scale = q.x_scale + s.sequence(row) * q.inputs;
      const float* const x = q.x + input_at(q, j, row);
      float* const scaled = to + (s.offset(j) + row) * q.inputs;
      for (std::int64_t d = 0; d < q.inputs; ++d) scaled[d] = x[d] * scale[d];
    }
  }
}

// dx, and x in packed rows as the kernel's gradient reads it. Each may be unwanted.
class InputGradients {
 public:
  // Rows of dx at a time.
  static constexpr std::int64_t piece_rows = 96;

  InputGradients(const recurrent::Sequence& q, const GateLayout& layout, float* dx, bool needs_rows)
      : q_(q),
        s_(*q.steps),
        layout_(layout),
        dx_(dx),
        // A single sequence lies as it is read, unless it is read backwards.
        packs_(needs_rows && !(s_.all() && s_.batch() == 1 && q.x_scale == nullptr &&
                               (s_.time() == 1 || s_.time_of(0, 0) == 0))),
        kernel_(q.op, dx != nullptr ? unit_panels(q.inputs) * unit_panel * layout.row_floats() : 0),
        packed_(q.op, packs_ ? s_.packed_rows() * q.inputs : 0) {}

  // (rows, D), after run.
  const float* rows() const { return packs_ ? packed_.get() : q_.x; }

  // A member's part of what run reads.
  void pack(std::int64_t member, std::int64_t members) const {
    if (dx_ == nullptr) return;
    const Part panels = part_of(unit_panels(q_.inputs), member, members);
    pack_unit_panels(layout_, q_.kernel, q_.inputs, panels.begin, panels.end, kernel_.get());
  }

  // Masked steps have no gradient.
  void begin(std::int64_t row) const {
    if (dx_ == nullptr || s_.all()) return;
    const std::int64_t size = s_.time() * q_.inputs;
    zero_fill(dx_ + s_.sequence(row) * size, size);
  }

  // For some packed rows, from the gradients dz of the product. a and c hold piece_rows pointers.
  void run(const Part& packed, const float* dz, const float** a, float** c) const {
    if (dx_ == nullptr && !packs_) return;
    std::int64_t j = 0;
    for (std::int64_t e = packed.begin; e < packed.end;) {
      const std::int64_t rows = min_i(piece_rows, packed.end - e);
      for (std::int64_t i = 0; i < rows; ++i, ++e) {
        while (s_.offset(j + 1) <= e) ++j;
        const std::int64_t row = e - s_.offset(j);
        const std::int64_t at = input_at(q_, j, row);
        if (packs_) copy_scaled(q_.x + at, scale(s_.sequence(row)), packed_.get() + e * q_.inputs);
        if (dx_ == nullptr) continue;
        a[i] = dz + e * layout_.row_floats();
        c[i] = dx_ + at;
      }
      if (dx_ != nullptr) multiply_back(rows, e - rows, a, c);
    }
  }

 private:
  const float* scale(std::int64_t n) const {
    return q_.x_scale == nullptr ? nullptr : q_.x_scale + n * q_.inputs;
  }

  void copy_scaled(const float* from, const float* factors, float* to) const {
    if (factors == nullptr) {
      std::memcpy(to, from, static_cast<std::size_t>(q_.inputs) * sizeof(float));
      return;
    }
    for (std::int64_t d = 0; d < q_.inputs; ++d) to[d] = from[d] * factors[d];
  }

  void multiply_back(std::int64_t rows, std::int64_t first, const float** a, float** c) const {
    const Segment whole = {0, 0, layout_.row_floats()};
    PanelProduct product = {};
    product.a = a;
    product.c = c;
    product.rows = rows;
    product.segments = &whole;
    product.segment_count = 1;
    product.width = unit_panel;
    for (std::int64_t panel = 0; panel < unit_panels(q_.inputs); ++panel) {
      product.columns = min_i(unit_panel, q_.inputs - panel * unit_panel);
      product.panel = kernel_.get() + panel * unit_panel * layout_.row_floats();
      multiply(product);
      for (std::int64_t i = 0; i < rows; ++i) c[i] += unit_panel;
    }
    if (q_.x_scale == nullptr) return;
    std::int64_t j = 0;
    for (std::int64_t i = 0; i < rows; ++i) {
      while (s_.offset(j + 1) <= first + i) ++j;
      const float* const factors = scale(s_.sequence(first + i - s_.offset(j)));
      float* const dx = c[i] - unit_panels(q_.inputs) * unit_panel;
      for (std::int64_t d = 0; d < q_.inputs; ++d) dx[d] *= factors[d];
    }
  }

  const recurrent::Sequence& q_;
  const Steps& s_;
  GateLayout layout_;
  float* dx_;
  bool packs_;
  Scratch<float> kernel_, packed_;
};

}  // namespace lamella::LAMELLA_ISA
