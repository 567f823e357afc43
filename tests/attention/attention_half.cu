// Attention of bfloat16 and float16 on tensor cores, for tests/test_attention_half.py: reads a
// problem from the standard input, and writes y, lse, dq, dk and dv as float32 numbers.
//
//   program bfloat16|float16
//   N S L A K E Ev | offset left right | drops seed   as int64
//   scale softcap rate                                as float64
//   sizes of mask, bias and slopes, and their strides as int64: 3, 4, 4
//   query key value dy (float32), dlse (float32), mask (bytes), bias, slopes (float32),
//   lengths (N int64, -1: none)
#include <cstdint>
#include <cstdio>
#include <cstring>
#include <string>
#include <vector>

#include "cuda/kernel.cuh"
#include "cuda/launch.cuh"
#include "ops/attention/attention_cuda_mma_launch.cuh"
#include "program.h"

using namespace lamella::attention;

namespace {

template <class T>
std::vector<T> read(std::int64_t count) {
  std::vector<T> values(static_cast<std::size_t>(count));
  if (std::fread(values.data(), sizeof(T), values.size(), stdin) != values.size()) std::exit(2);
  return values;
}

__nv_bfloat16 narrow(float v, __nv_bfloat16) {
  return __float2bfloat16_rn(v);
}
__half narrow(float v, __half) {
  return __float2half_rn(v);
}
float widen(__nv_bfloat16 v) {
  return __bfloat162float(v);
}
float widen(__half v) {
  return __half2float(v);
}

template <class T>
Array<T> read_typed(std::int64_t count) {
  const std::vector<float> values = read<float>(count);
  std::vector<T> typed;
  for (const float v : values) typed.push_back(narrow(v, T()));
  return Array<T>(typed);
}

template <class T>
void write(const Array<T>& array) {
  std::vector<float> values;
  for (const T v : array.host()) {
    if constexpr (std::is_same_v<T, float>) {
      values.push_back(v);
    } else {
      values.push_back(widen(v));
    }
  }
  std::fwrite(values.data(), sizeof(float), values.size(), stdout);
}

template <class T>
int run() {
  const std::vector<std::int64_t> sizes = read<std::int64_t>(12);
  const std::vector<double> reals = read<double>(3);
  const std::vector<std::int64_t> extra = read<std::int64_t>(11);
  Problem p = {};
  p.op = "attention";
  p.batch = sizes[0];
  p.queries = sizes[1];
  p.keys = sizes[2];
  p.heads = sizes[3];
  p.key_heads = sizes[4];
  p.size = sizes[5];
  p.value_size = sizes[6];
  p.offset = sizes[7];
  p.left = sizes[8] < 0 ? unbounded : sizes[8];
  p.right = sizes[9] < 0 ? unbounded : sizes[9];
  p.drops = sizes[10] != 0;
  p.dropout = {static_cast<std::uint64_t>(sizes[11]), lamella::dropout_threshold(reals[2]),
               static_cast<float>(1.0 / (1.0 - reals[2]))};
  p.scale = static_cast<float>(reals[0]);
  p.softcap = static_cast<float>(reals[1]);
  p.mask_strides = {extra[3], extra[4], extra[5], extra[6]};
  p.bias_strides = {extra[7], extra[8], extra[9], extra[10]};
  const std::int64_t query_rows = p.batch * p.queries * p.heads;
  const std::int64_t key_rows = p.batch * p.keys * p.key_heads;
  const Array<T> query = read_typed<T>(query_rows * p.size);
  const Array<T> key = read_typed<T>(key_rows * p.size);
  const Array<T> value = read_typed<T>(key_rows * p.value_size);
  const Array<T> dy = read_typed<T>(query_rows * p.value_size);
  const Array<float> dlse(read<float>(query_rows));
  const Array<std::uint8_t> mask(read<std::uint8_t>(extra[0]));
  const Array<float> bias(read<float>(extra[1]));
  const Array<float> slopes(read<float>(extra[2]));
  const std::vector<std::int64_t> given_lengths = read<std::int64_t>(p.batch);
  const Array<std::int64_t> lengths(given_lengths);
  if (extra[0] > 0) p.mask = mask.get();
  if (extra[1] > 0) p.bias = bias.get();
  if (extra[2] > 0) p.alibi_slopes = slopes.get();
  if (!given_lengths.empty() && given_lengths[0] >= 0) p.key_lengths = lengths.get();
  if (!tensor::suits_tensor_cores<T>(p)) return 3;

  const tensor::TypedProblem<T> problem = {p, query.get(), key.get(), value.get()};
  const Array<T> y(static_cast<std::size_t>(query_rows * p.value_size));
  const Array<float> lse(static_cast<std::size_t>(query_rows));
  tensor::forward<T>(problem, {y.get(), lse.get()});
  const Array<T> dq(static_cast<std::size_t>(query_rows * p.size));
  const Array<T> dk(static_cast<std::size_t>(key_rows * p.size));
  const Array<T> dv(static_cast<std::size_t>(key_rows * p.value_size));
  tensor::backward<T>(problem, y.get(), lse.get(), dy.get(), dlse.get(), dq.get(), dk.get(),
                      dv.get());
  write(y);
  write(lse);
  write(dq);
  write(dk);
  write(dv);
  return 0;
}

}  // namespace

int main(int count, char** arguments) {
  if (count != 2) return 1;
  return std::string(arguments[1]) == "float16" ? run<__half>() : run<__nv_bfloat16>();
}
