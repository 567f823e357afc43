// Attention of small heads on the device: the launches.
#include "cuda/kernel.cuh"
#include "cuda/launch.cuh"
#include "ops/attention/attention_cuda_small.cuh"
#include "ops/attention/attention_cuda_small.h"

namespace lamella::attention {
namespace {

using tiles::ceil_div;
using tiles::fits_vectors;

small::SmallShape shape_of(const Problem& p, std::int64_t rows) {
  return {ceil_div<std::int64_t>(rows, small::threads), p.right != unbounded,
          fits_vectors(p.query, p.size) && fits_vectors(p.key, p.size),
          fits_vectors(p.value, p.value_size)};
}

lamella::device::Launch launch_of(const Problem& p, const small::SmallShape& shape) {
  return {.grid = dim3(static_cast<unsigned>(shape.tiles * p.batch * p.key_heads)),
          .block = dim3(small::threads)};
}

template <int width>
void differentiate(const Problem& p, const Saved& saved, const Gradients& out, const float* terms) {
  const bool general = tiles::changes_scores(p) || p.drops || saved.dweights != nullptr;
  small::SmallShape shape = shape_of(p, p.keys);
  shape.size_vectors =
      shape.size_vectors && fits_vectors(out.query, p.size) && fits_vectors(out.key, p.size);
  shape.value_vectors = shape.value_vectors && fits_vectors(saved.dy, p.value_size) &&
                        fits_vectors(out.value, p.value_size);
  if (out.key != nullptr || out.value != nullptr) {
    shape.last_first = false;  // early keys are seen by most rows
    lamella::device::launch(
        p.op, launch_of(p, shape),
        general ? small::differentiate_keys<width, true> : small::differentiate_keys<width, false>,
        p, saved, shape, terms, out.key, out.value);
  }
  if (out.query == nullptr) return;
  const small::SmallShape of_queries = shape_of(p, p.queries * p.group());
  shape.tiles = of_queries.tiles;
  shape.last_first = of_queries.last_first;
  lamella::device::launch(p.op, launch_of(p, shape),
                          general ? small::differentiate_queries<width, true>
                                  : small::differentiate_queries<width, false>,
                          p, saved, shape, terms, out.query);
}

template <int width>
void attend(const Problem& p, const Results& out) {
  small::SmallShape shape = shape_of(p, p.queries * p.group());
  shape.value_vectors = shape.value_vectors && fits_vectors(out.y, p.value_size);
  const bool general = tiles::changes_scores(p) || p.drops;
  lamella::device::launch(p.op, launch_of(p, shape),
                          general ? small::attend<width, true> : small::attend<width, false>, p,
                          out, shape);
}

bool fits_8(const Problem& p) {
  return p.size <= 8 && p.value_size <= 8;
}

}  // namespace

bool has_small_heads(const Problem& p) {
  return p.size <= 16 && p.value_size <= 16;
}

void attend_small_heads(const Problem& p, const Results& out) {
  return fits_8(p) ? attend<8>(p, out) : attend<16>(p, out);
}

void differentiate_small_heads(const Problem& p, const Saved& saved, const Gradients& out,
                               const float* terms) {
  return fits_8(p) ? differentiate<8>(p, saved, out, terms)
                   : differentiate<16>(p, saved, out, terms);
}

}  // namespace lamella::attention
