// Attention backward on the device: the launches.
#include "core/memory_pool.h"
#include "cuda/kernel.cuh"
#include "cuda/launch.cuh"
#include "ops/attention/attention_cuda_bias.cuh"
#include "ops/attention/attention_cuda_launch.cuh"
#include "ops/attention/attention_cuda_small.h"

namespace lamella::attention {
namespace {

using namespace tiles;

template <int columns>
void differentiate_arrays(const Problem& p, const Saved& saved, const Gradients& out,
                          BackwardShape shape, const float* terms) {
  using Plain = PairTile<columns, false>;
  const bool general = changes_scores(p) || p.drops || saved.dweights != nullptr;
  const auto heads = static_cast<unsigned>(p.batch * p.key_heads);
  const auto chunks = static_cast<unsigned>(larger(shape.depth_chunks, shape.value_chunks));
  if (out.key != nullptr || out.value != nullptr) {
    const auto blocks = static_cast<unsigned>(shape.key_tiles * heads);
    shape.splits = splits_for(blocks, shape.row_tiles);
    const int64_t keys = p.batch * p.keys * p.key_heads;
    const SplitSum dk(p, out.key, keys * p.size, shape.splits);
    const SplitSum dv(p, out.value, keys * p.value_size, shape.splits);
    lamella::device::launch(
        p.op,
        {.grid = dim3(blocks, chunks, static_cast<unsigned>(shape.splits)),
         .block = dim3(backward_threads),
         .shared_bytes = Plain::bytes},
        general ? differentiate_keys<columns, true> : differentiate_keys<columns, false>, p, saved,
        shape, terms, dk.get(), dv.get());
    dk.finish();
    dv.finish();
  }
  if (out.query != nullptr) {
    const auto blocks = static_cast<unsigned>(shape.row_tiles * heads);
    shape.splits = splits_for(blocks, shape.key_tiles);
    const SplitSum dq(p, out.query, p.batch * p.queries * p.heads * p.size, shape.splits);
    lamella::device::launch(
        p.op,
        {.grid = dim3(blocks, static_cast<unsigned>(shape.depth_chunks),
                      static_cast<unsigned>(shape.splits)),
         .block = dim3(backward_threads),
         .shared_bytes = Plain::bytes},
        general ? differentiate_queries<columns, true> : differentiate_queries<columns, false>, p,
        saved, shape, terms, dq.get());
    dq.finish();
  }
}

template <int columns>
void differentiate(const Problem& p, const Saved& saved, const Gradients& out, const float* terms) {
  using Plain = PairTile<columns, false>;
  BackwardShape shape = backward_shape<Plain::width>(p, p.queries * p.group());
  shape.value_vectors = shape.value_vectors && fits_vectors(saved.dy, p.value_size);
  shape.size_vectors =
      shape.size_vectors && fits_vectors(out.query, p.size) && fits_vectors(out.key, p.size);
  shape.value_vectors = shape.value_vectors && fits_vectors(out.value, p.value_size);
  if (has_small_heads(p)) {
    differentiate_small_heads(p, saved, out, terms);
  } else {
    differentiate_arrays<columns>(p, saved, out, shape, terms);
  }
  if (out.bias == nullptr) return;
  const BackwardShape of_heads = backward_shape<Plain::width>(p, p.queries);
  const Strides& s = p.bias_strides;
  shape.row_tiles = of_heads.row_tiles;
  BiasShape bias = {s.n == 0 ? 1 : p.batch,
                    s.a == 0 ? 1 : p.heads,
                    s.i == 0 ? 1 : shape.row_tiles,
                    s.j == 0 ? 1 : shape.key_tiles,
                    s.n == 0 ? p.batch : 1,
                    s.a == 0 ? p.heads : 1,
                    s.i == 0 ? shape.row_tiles : 1,
                    s.j == 0 ? shape.key_tiles : 1,
                    0,
                    s.i == 0,
                    s.j == 0};
  bias.size = bias.batch * bias.heads * (s.i == 0 ? 1 : p.queries) * (s.j == 0 ? 1 : p.keys);
  const int64_t places = bias.batch * bias.heads * bias.row_tiles * bias.key_tiles;
  shape.splits =
      splits_for(places, bias.sum_batch * bias.sum_heads * bias.sum_rows * bias.sum_keys);
  const SplitSum db(p, out.bias, bias.size, shape.splits);
  lamella::device::launch(
      p.op,
      {.grid = dim3(static_cast<unsigned>(places), static_cast<unsigned>(shape.splits)),
       .block = dim3(backward_threads),
       .shared_bytes = Plain::bytes},
      differentiate_bias<columns>, p, saved, shape, terms, bias, db.get());
  db.finish();
}

void clear(float* gradient, int64_t size) {
  if (gradient == nullptr) return;
  lamella::device::fill_bytes(gradient, 0, static_cast<std::size_t>(size) * sizeof(float));
}

}  // namespace

namespace device {

void backward(const Problem& p, const Saved& saved, const Gradients& out) {
  const int64_t query_rows = p.batch * p.queries * p.heads;
  if (query_rows * p.keys == 0) {
    const int64_t key_rows = p.batch * p.keys * p.key_heads;
    clear(out.query, query_rows * p.size);
    clear(out.key, key_rows * p.size);
    clear(out.value, key_rows * p.value_size);
    const Strides& s = p.bias_strides;
    clear(out.bias, (s.n == 0 ? 1 : p.batch) * (s.a == 0 ? 1 : p.heads) *
                        (s.i == 0 ? 1 : p.queries) * (s.j == 0 ? 1 : p.keys));
    return;
  }
  const Scratch<float> terms(p.op, query_rows);
  find_row_terms(p, saved, terms.get());
  switch (backward_columns(p)) {
    case 4:
      return differentiate<4>(p, saved, out, terms.get());
    case 2:
      return differentiate<2>(p, saved, out, terms.get());
    default:
      return differentiate<1>(p, saved, out, terms.get());
  }
}

}  // namespace device
}  // namespace lamella::attention
