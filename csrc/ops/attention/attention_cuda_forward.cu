// Attention forward on the device: which kernel a problem gets, and the launches.
#include "core/memory_pool.h"
#include "cuda/kernel.cuh"
#include "cuda/launch.cuh"
#include "ops/attention/attention_cuda_bias.cuh"
#include "ops/attention/attention_cuda_decode.h"
#include "ops/attention/attention_cuda_forward.cuh"
#include "ops/attention/attention_cuda_launch.cuh"
#include "ops/attention/attention_cuda_small.h"

namespace lamella::attention {
namespace {

using namespace tiles;

ForwardShape shape_of(const Problem& p, const Results& out, int64_t rows, int width) {
  return {ceil_div(p.queries * p.group(), rows), static_cast<int>(ceil_div<int64_t>(p.size, width)),
          p.right != unbounded, fits_vectors(p.query, p.size) && fits_vectors(p.key, p.size),
          fits_vectors(p.value, p.value_size) && fits_vectors(out.y, p.value_size)};
}

template <int warps, int thread_rows, int columns>
void launch_tiles(const Problem& p, const Results& out) {
  using Tile = ForwardTile<warps, thread_rows, columns>;
  const ForwardShape shape = shape_of(p, out, Tile::rows, Tile::width);
  const dim3 grid(static_cast<unsigned>(shape.tiles * p.batch * p.key_heads),
                  static_cast<unsigned>(ceil_div<int64_t>(p.value_size, Tile::width)));
  const auto kernel = changes_scores(p) || p.drops ? attend<warps, thread_rows, columns, true>
                                                   : attend<warps, thread_rows, columns, false>;
  lamella::device::launch(p.op,
                          {.grid = grid, .block = dim3(Tile::threads), .shared_bytes = Tile::bytes},
                          kernel, p, out, shape);
}

// The widest tile that a block has memory for: the others go through E and Ev in pieces. Few rows
// make smaller tiles.
void attend_with_tiles(const Problem& p, const Results& out) {
  const std::size_t memory = lamella::device::properties().shared_bytes;
  const int64_t width = larger(p.size, p.value_size);
  const int64_t rows = p.queries * p.group();
  const int64_t heads = p.batch * p.key_heads;
  const bool many = rows > 64 && ceil_div<int64_t>(rows, 128) * heads >= blocks_wanted();
  if (width > 64 && ForwardTile<8, 4, 4>::bytes <= memory) {
    launch_tiles<8, 4, 4>(p, out);
  } else if (width > 32 && many && ForwardTile<4, 8, 2>::bytes <= memory) {
    launch_tiles<4, 8, 2>(p, out);
  } else if (width > 32 && ForwardTile<4, 4, 2>::bytes <= memory) {
    launch_tiles<4, 4, 2>(p, out);
  } else if (many && ForwardTile<4, 8, 1>::bytes <= memory) {
    launch_tiles<4, 8, 1>(p, out);
  } else {
    launch_tiles<4, 4, 1>(p, out);
  }
}

template <int columns>
void launch_weights(const Problem& p, const Results& out) {
  using Tile = PairTile<columns, true>;
  const BackwardShape shape = backward_shape<Tile::width>(p, p.queries);
  const int64_t blocks = p.batch * p.heads * shape.row_tiles * shape.key_tiles;
  Saved saved = {};
  saved.lse = out.lse;
  lamella::device::launch(p.op,
                          {.grid = dim3(static_cast<unsigned>(blocks)),
                           .block = dim3(backward_threads),
                           .shared_bytes = Tile::bytes},
                          put_weights<columns>, p, saved, shape, out.weights);
}

// From the scores once more, now that lse is known.
void weigh_pairs(const Problem& p, const Results& out) {
  switch (backward_columns(p)) {
    case 4:
      return launch_weights<4>(p, out);
    case 2:
      return launch_weights<2>(p, out);
    default:
      return launch_weights<1>(p, out);
  }
}

}  // namespace

namespace device {

void backward(const Problem&, const Saved&, const Gradients&);

namespace {

void forward(const Problem& p, const Results& out) {
  if (p.batch * p.queries == 0) return;
  if (suits_decoding(p)) {
    decode(p, out);
  } else if (has_small_heads(p)) {
    attend_small_heads(p, out);
  } else {
    attend_with_tiles(p, out);
  }
  if (out.weights != nullptr) weigh_pairs(p, out);
}

}  // namespace

extern const Kernels kernels = {forward, backward};

}  // namespace device
}  // namespace lamella::attention
