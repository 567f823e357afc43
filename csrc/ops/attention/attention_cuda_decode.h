// Attention of few queries to many keys on the device.
#pragma once

#include "ops/attention/attention.h"

namespace lamella::attention {

bool suits_decoding(const Problem& p);
// y and lse.
void decode(const Problem& p, const Results& out);

}  // namespace lamella::attention
