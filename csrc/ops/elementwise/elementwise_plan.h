// From shapes to what the elementwise kernels walk: pure functions of the shapes.
#pragma once

#include <cstdint>
#include <vector>

#include "core/arguments.h"
#include "ops/elementwise/elementwise.h"

namespace lamella::elementwise {

// NumPy's rule: shapes are aligned at their last axes; a size of 1, or an absent axis, repeats.
inline Shape broadcast_shape(const char* op, const Shape& a, const Shape& b) {
  const std::size_t ndim = a.size() > b.size() ? a.size() : b.size();
  Shape result(ndim);
  for (std::size_t i = 0; i < ndim; ++i) {
    const std::int64_t m = i < a.size() ? a[a.size() - 1 - i] : 1;
    const std::int64_t n = i < b.size() ? b[b.size() - 1 - i] : 1;
    if (m != n && m != 1 && n != 1) {
      throw ValueError(message(op, ": a and b must have shapes that broadcast, got ", shape_text(a),
                               " and ", shape_text(b)));
    }
    result[ndim - 1 - i] = m == 1 ? n : m;
  }
  return result;
}

namespace detail {

// The stride of each axis of `result` in a C-contiguous array of `shape`; 0 where it is repeated.
inline std::vector<std::int64_t> strides_under(const Shape& result, const Shape& shape) {
  std::vector<std::int64_t> strides(result.size(), 0);
  std::int64_t stride = 1;
  for (std::size_t i = 0; i < shape.size(); ++i) {
    const std::int64_t size = shape[shape.size() - 1 - i];
    if (size != 1) strides[result.size() - 1 - i] = stride;
    stride *= size;
  }
  return strides;
}

}  // namespace detail

// `result` is the broadcast shape of a and b, and not empty.
inline Broadcast plan_broadcast(const Shape& result, const Shape& a, const Shape& b) {
  const std::vector<std::int64_t> a_strides = detail::strides_under(result, a);
  const std::vector<std::int64_t> b_strides = detail::strides_under(result, b);
  Broadcast plan;
  plan.ndim = 0;
  for (std::size_t i = 0; i < result.size(); ++i) {
    if (result[i] == 1) continue;
    if (plan.ndim > 0) {
      const int outer = plan.ndim - 1;
      if (plan.a_stride[outer] == a_strides[i] * result[i] &&
          plan.b_stride[outer] == b_strides[i] * result[i]) {
        plan.size[outer] *= result[i];
        plan.a_stride[outer] = a_strides[i];
        plan.b_stride[outer] = b_strides[i];
        continue;
      }
    }
    plan.size[plan.ndim] = result[i];
    plan.a_stride[plan.ndim] = a_strides[i];
    plan.b_stride[plan.ndim] = b_strides[i];
    ++plan.ndim;
  }
  if (plan.ndim == 0) {
    plan.ndim = 1;
    plan.size[0] = plan.a_stride[0] = plan.b_stride[0] = 1;
  }
  return plan;
}

// One axis to sum over: (outer, summed, inner) -> (outer, inner).
struct SumPass {
  std::int64_t outer;
  std::int64_t summed;
  std::int64_t inner;
};

// The passes that sum an array of shape `result` to `shape`, from which it was broadcast: the
// largest axis first, so that little is left for the others. Empty when there is nothing to sum.
inline std::vector<SumPass> plan_sum(const Shape& result, const Shape& shape) {
  // Neighbouring axes that are both summed or both kept are one.
  struct Axis {
    std::int64_t size;
    bool summed;
  };
  std::vector<Axis> axes;
  const std::size_t added = result.size() - shape.size();
  for (std::size_t i = 0; i < result.size(); ++i) {
    if (result[i] == 1) continue;
    const bool summed = i < added || shape[i - added] == 1;
    if (!axes.empty() && axes.back().summed == summed) {
      axes.back().size *= result[i];
    } else {
      axes.push_back({result[i], summed});
    }
  }
  std::vector<SumPass> passes;
  for (;;) {
    std::size_t largest = axes.size();
    for (std::size_t i = 0; i < axes.size(); ++i) {
      if (axes[i].summed && (largest == axes.size() || axes[i].size > axes[largest].size)) {
        largest = i;
      }
    }
    if (largest == axes.size()) return passes;
    SumPass pass{1, axes[largest].size, 1};
    for (std::size_t i = 0; i < largest; ++i) pass.outer *= axes[i].size;
    for (std::size_t i = largest + 1; i < axes.size(); ++i) pass.inner *= axes[i].size;
    passes.push_back(pass);
    axes.erase(axes.begin() + static_cast<std::ptrdiff_t>(largest));
  }
}

}  // namespace lamella::elementwise
