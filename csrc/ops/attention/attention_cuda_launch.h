// How the device kernels of attention are cut, on the host.
#pragma once

#include "cuda/runtime.h"
#include "ops/attention/attention_cuda_bias.cuh"

namespace lamella::attention::tiles {

// Thread blocks that fill the device once, two to a multiprocessor.
inline int64_t blocks_wanted() {
  return int64_t{lamella::device::properties().multiprocessors} * 2;
}

// `rows` of a head.
template <int width>
BackwardShape backward_shape(const Problem& p, int64_t rows) {
  return {ceil_div<int64_t>(rows, backward_rows),
          ceil_div<int64_t>(p.keys, tile_keys),
          static_cast<int>(ceil_div<int64_t>(p.size, width)),
          static_cast<int>(ceil_div<int64_t>(p.value_size, width)),
          fits_vectors(p.query, p.size) && fits_vectors(p.key, p.size),
          fits_vectors(p.value, p.value_size),
          1};
}

// The widest tiles that a block has memory for and use of: what is wider goes through E and Ev in
// chunks.
inline int backward_columns(const Problem& p) {
  const std::size_t memory = lamella::device::properties().shared_bytes;
  const int64_t width = larger(p.size, p.value_size);
  if (width > 64 && PairTile<4, true>::bytes <= memory) return 4;
  return width > 32 && PairTile<2, true>::bytes <= memory ? 2 : 1;
}

}  // namespace lamella::attention::tiles
