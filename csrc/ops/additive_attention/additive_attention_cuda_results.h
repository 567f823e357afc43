// What backward on the device needs of forward.
#pragma once

#include "ops/additive_attention/additive_attention.h"

namespace lamella::additive_attention {

// y (N,S,Ev), lse (N,S) in units of log 2 and weights (N,S,L), in device memory; lse and weights may
// be null, lse only without weights.
void results_on_device(const Problem& problem, float* y, float* lse, float* weights);

}  // namespace lamella::additive_attention
