// The arguments of attention, checked; for its binding and that of multi_head_attention.
#pragma once

#include "core/arguments.h"
#include "ops/attention/attention.h"

namespace lamella {

struct AttentionArguments {
  attention::Problem problem;
  FloatInput query, key, value, bias, alibi_slopes;
  Input<std::uint8_t> mask;
  Input<std::int64_t> query_offsets, key_lengths;

  Shape result_shape() const {
    return {problem.batch, problem.queries, problem.heads, problem.value_size};
  }
  Shape lse_shape() const { return {problem.batch, problem.heads, problem.queries}; }
  Shape score_shape() const {
    return {problem.batch, problem.heads, problem.queries, problem.keys};
  }
  // Without queries or keys there is nothing to compute in backward.
  bool empty() const { return problem.batch * problem.queries * problem.keys == 0; }

  // The pointers of `problem`, when all arguments are checked.
  void read();
};

// `offset` of the problem, or an array of one a sequence.
Input<std::int64_t> read_query_offset(const char* op, attention::Problem& p, py::handle offset);
void read_dropout(const char* op, attention::Problem& p, py::handle dropout, py::handle seed);

// options: scale, causal, query_offset, key_lengths, window, softcap, alibi_slopes, dropout, seed.
AttentionArguments attention_arguments(const char* op, FloatInput query, FloatInput key,
                                       FloatInput value, py::handle mask, py::handle bias,
                                       const py::tuple& options);

// What forward gives: natural_lse and weights are None unless they are wanted.
struct AttentionResults {
  FloatArray y;
  FloatArray lse;  // in units of log 2
  py::object natural_lse;
  py::object weights;
  attention::Results data;
  float* natural;
};

AttentionResults attention_results(const AttentionArguments& a, py::handle return_lse,
                                   py::handle return_weights);
// Without the interpreter's lock.
void compute_attention(const AttentionArguments& a, const AttentionResults& results);

// The gradients of y, lse and weights, each or none, and what forward saved.
struct AttentionGradients {
  FloatInput lse, weights, d_lse, d_weights;
};
AttentionGradients attention_gradients(const AttentionArguments& a, py::handle lse,
                                       py::handle weights, py::handle d_lse, py::handle d_weights);

}  // namespace lamella
