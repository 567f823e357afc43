// How the products of a Matmul are given to a device: which of them make one result, and whether
// several are one larger product. A pure function of the sizes and offsets.
#pragma once

#include <algorithm>
#include <numeric>
#include <vector>

#include "ops/dense/dense.h"

namespace lamella::dense {

// Matrix q begins at base + q * stride, or at values[q] where the beginnings are not evenly spaced
// (stride -1, base 0).
struct OffsetList {
  std::int64_t base = 0;
  std::int64_t stride = 0;
  bool even = true;  // all are multiples of 4
  std::vector<std::int64_t> values;
};

// m and k as in Matmul, or larger. Result r sums the products r * terms .. (r + 1) * terms, or
// those from first[r] to first[r + 1] where there is a list; `terms` is the largest number.
struct MatmulGroups {
  std::int64_t m, k;
  std::int64_t results, terms;
  std::vector<std::int64_t> first;
  OffsetList a, b, c;
};

namespace detail {

inline OffsetList offset_list(std::vector<std::int64_t> values) {
  OffsetList list;
  if (values.empty()) return list;
  list.even = std::all_of(values.begin(), values.end(), [](auto v) { return v % 4 == 0; });
  list.stride = values.size() > 1 ? values[1] - values[0] : 0;
  for (std::size_t q = 1; q < values.size(); ++q) {
    if (list.stride < 0 || values[q] - values[q - 1] != list.stride) {
      list.stride = -1;
      list.values = std::move(values);
      return list;
    }
  }
  list.base = values[0];
  return list;
}

// The products in the order in which they are summed, those of one result together.
inline std::vector<std::int64_t> in_groups(const Matmul& p, MatmulGroups& g,
                                           std::vector<std::int64_t>& c) {
  std::vector<std::int64_t> order(static_cast<std::size_t>(p.batch));
  std::iota(order.begin(), order.end(), std::int64_t{0});
  if (p.accumulate) {
    std::stable_sort(order.begin(), order.end(),
                     [&](auto x, auto y) { return p.c_offset[x] < p.c_offset[y]; });
  }
  g.terms = 0;
  for (std::int64_t i = 0; i < p.batch; ++i) {
    const std::int64_t at = p.c_offset[order[static_cast<std::size_t>(i)]];
    if (p.accumulate && !c.empty() && c.back() == at) continue;
    c.push_back(at);
    g.first.push_back(i);
  }
  g.results = static_cast<std::int64_t>(c.size());
  g.first.push_back(p.batch);
  bool equal = true;
  for (std::size_t r = 0; r + 1 < g.first.size(); ++r) {
    const std::int64_t terms = g.first[r + 1] - g.first[r];
    equal = equal && terms == g.first[1];
    g.terms = std::max(g.terms, terms);
  }
  if (equal) g.first.clear();
  return order;
}

// Whether the matrices of each group follow one another `step` apart.
inline bool consecutive(const std::vector<std::int64_t>& offsets, std::int64_t terms,
                        std::int64_t step) {
  for (std::size_t i = 1; i < offsets.size(); ++i) {
    const bool same_group = static_cast<std::int64_t>(i) % terms != 0;
    if (same_group && offsets[i] - offsets[i - 1] != step) return false;
  }
  return true;
}

}  // namespace detail

// batch >= 1.
inline MatmulGroups matmul_groups(const Matmul& p) {
  MatmulGroups g{p.m, p.k, 1, 1, {}, {}, {}, {}};
  if (p.batch == 1) {
    const auto single = [](std::int64_t at) { return OffsetList{at, 0, at % 4 == 0, {}}; };
    g.a = single(p.a_offset[0]);
    g.b = single(p.b_offset[0]);
    g.c = single(p.c_offset[0]);
    return g;
  }
  std::vector<std::int64_t> a, b, c;
  for (const std::int64_t q : detail::in_groups(p, g, c)) {
    a.push_back(p.a_offset[q]);
    b.push_back(p.b_offset[q]);
  }
  // Matrices that follow one another along k are one longer sum.
  if (g.first.empty() && g.terms > 1 && detail::consecutive(a, g.terms, p.k * p.a_column) &&
      detail::consecutive(b, g.terms, p.k * p.b_row)) {
    for (std::int64_t r = 0; r < g.results; ++r) {
      a[static_cast<std::size_t>(r)] = a[static_cast<std::size_t>(r * g.terms)];
      b[static_cast<std::size_t>(r)] = b[static_cast<std::size_t>(r * g.terms)];
    }
    a.resize(static_cast<std::size_t>(g.results));
    b.resize(static_cast<std::size_t>(g.results));
    g.k *= g.terms;
    g.terms = 1;
  }
  g.a = detail::offset_list(std::move(a));
  g.b = detail::offset_list(std::move(b));
  g.c = detail::offset_list(std::move(c));
  // Matrices that lie below one another and share b are one of more rows.
  if (g.results > 1 && g.terms == 1 && g.b.stride == 0 && g.a.stride == p.m * p.a_row &&
      g.c.stride == p.m * p.n) {
    g.m *= g.results;
    g.results = 1;
  }
  return g;
}

}  // namespace lamella::dense
