// Attention of small heads on the device.
#pragma once

#include "ops/attention/attention.h"

namespace lamella::attention {

// Heads of up to 16 elements.
bool has_small_heads(const Problem& p);
// y and lse.
void attend_small_heads(const Problem& p, const Results& out);
// The gradients of queries, keys and values; `terms` is D of each row of (N,A,S).
void differentiate_small_heads(const Problem& p, const Saved& saved, const Gradients& out,
                               const float* terms);

}  // namespace lamella::attention
