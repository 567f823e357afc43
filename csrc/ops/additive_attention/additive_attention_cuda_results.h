// What backward on the device needs of forward.
#pragma once

#include "ops/additive_attention/additive_attention.h"

namespace lamella::additive_attention {

// Of each row (N,S) the maximum of its scores, in units of log 2, and the inverse of the sum of its
// exponentials, 0 where it sees nothing: its lse would lose the sum where scores are large.
struct RowTotals {
  float* maximum;
  float* inverse;
};

// y (N,S,Ev) and weights (N,S,L), in device memory; totals and weights may be null, totals only
// without weights.
void results_on_device(const Problem& problem, float* y, const RowTotals& totals, float* weights);

}  // namespace lamella::additive_attention
