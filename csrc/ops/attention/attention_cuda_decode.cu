// Attention of few queries to many keys on the device: the sums of pieces, and the launches.
#include "core/memory_pool.h"
#include "cuda/kernel.cuh"
#include "cuda/launch.cuh"
#include "ops/attention/attention_cuda_decode.cuh"
#include "ops/attention/attention_cuda_decode.h"
#include "ops/attention/attention_cuda_launch.cuh"

namespace lamella::attention {
namespace {

using namespace tiles;

constexpr int64_t most_decoded_rows = 16;
// Of which put_pieces_together has a float each in shared memory.
constexpr int64_t most_pieces = 8192;

// A block for each row: y and lse from the sums of its pieces. `shrink` has a float for each.
__global__ void __launch_bounds__(decode_threads)
    put_pieces_together(const Problem p, const DecodeShape shape, const PieceTotal* totals,
                        const float* sums, const Results out) {
  float* const shrink = lamella::device::dynamic_shared<float>();
  float* const shared = shrink + shape.pieces;
  const int thread = static_cast<int>(threadIdx.x);
  const int64_t head = blockIdx.x / shape.rows;
  const int64_t row = blockIdx.x % shape.rows;
  const Rows rows = Rows::of_key_head(p, head / p.key_heads, head % p.key_heads);
  const Rows::Place place = rows.place(row);
  float maximum = minus_infinity();
  for (int i = thread; i < shape.pieces; i += decode_threads) {
    maximum = fmaxf(maximum, totals[piece_row(shape, head, i, row)].maximum);
  }
  maximum = lamella::device::block_max<decode_threads>(maximum, shared);
  const float base = maximum == minus_infinity() ? 0.0f : maximum;
  float total = 0.0f;
  for (int i = thread; i < shape.pieces; i += decode_threads) {
    const PieceTotal piece = totals[piece_row(shape, head, i, row)];
    // A piece of which nothing is seen has sums of 0.
    const float factor = piece.sum == 0.0f ? 0.0f : exp2f(piece.maximum - base);
    shrink[i] = factor;
    total += factor == 0.0f ? 0.0f : factor * piece.sum;
  }
  total = lamella::device::block_sum<decode_threads>(total, shared);
  const float inverse = total == 0.0f ? 0.0f : 1.0f / total;
  float* const y = out.y + rows.query_row(p, place) * p.value_size;
  for (int64_t e = thread; e < p.value_size; e += decode_threads) {
    float sum = 0.0f;
    for (int i = 0; i < shape.pieces; ++i) {
      const float factor = shrink[i];
      if (factor != 0.0f) {
        sum = fmaf(factor, sums[piece_row(shape, head, i, row) * p.value_size + e], sum);
      }
    }
    y[e] = sum * inverse;
  }
  if (thread == 0) {
    out.lse[rows.score_row(p, place)] =
        total == 0.0f ? minus_infinity() : maximum + log2_e * logf(total);
  }
}

template <int most_rows>
void launch_pieces(const Problem& p, const DecodeShape& shape, PieceTotal* totals, float* sums) {
  const int64_t heads = p.batch * p.key_heads;
  lamella::device::launch(
      p.op,
      {.grid = dim3(static_cast<unsigned>(heads * shape.pieces),
                    static_cast<unsigned>(ceil_div<int64_t>(shape.rows, most_rows))),
       .block = dim3(decode_threads),
       .shared_bytes = decode_bytes(shape, most_rows)},
      decode_piece<most_rows>, p, shape, totals, sums);
}

}  // namespace

bool suits_decoding(const Problem& p) {
  return p.queries * p.group() <= most_decoded_rows && p.keys >= 128 && p.size <= 512 &&
         p.keys <= most_pieces * most_piece_keys;
}

void decode(const Problem& p, const Results& out) {
  const int64_t heads = p.batch * p.key_heads;
  // Pieces short enough to fill the device several times, long enough that their sums are few.
  const int64_t keys = larger(p.keys * heads / (4 * blocks_wanted()) / 64 * 64,
                              ceil_div(p.keys, most_pieces * 64) * 64);
  const auto piece_keys =
      static_cast<int>(larger<int64_t>(64, smaller<int64_t>(most_piece_keys, keys)));
  const DecodeShape shape = {piece_keys,
                             static_cast<int>(ceil_div<int64_t>(p.keys, piece_keys)),
                             p.queries * p.group(),
                             whole_vectors(static_cast<int>(p.size)),
                             fits_vectors(p.key, p.size),
                             fits_vectors(p.value, p.value_size)};
  const int64_t piece_rows = heads * shape.pieces * shape.rows;
  const Scratch<PieceTotal> totals(p.op, piece_rows);
  const Scratch<float> sums(p.op, piece_rows * p.value_size);
  if (shape.rows == 1) {
    launch_pieces<1>(p, shape, totals.get(), sums.get());
  } else if (shape.rows <= 4) {
    launch_pieces<4>(p, shape, totals.get(), sums.get());
  } else {
    launch_pieces<8>(p, shape, totals.get(), sums.get());
  }
  lamella::device::launch(
      p.op,
      {.grid = dim3(static_cast<unsigned>(heads * shape.rows)),
       .block = dim3(decode_threads),
       .shared_bytes = (static_cast<std::size_t>(shape.pieces) + decode_warps) * sizeof(float)},
      put_pieces_together, p, shape, totals.get(), sums.get(), out);
}

}  // namespace lamella::attention
