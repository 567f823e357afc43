// What the recurrent ops of the device have in common around their steps: rows of x in the order
// of what is kept, and back; masked steps; products and sums over all rows (sequence_cuda.cu).
#pragma once

#include "core/memory_pool.h"
#include "recurrent/sequence.h"
#include "recurrent/steps.cuh"

namespace lamella::recurrent {

constexpr std::int64_t ceil_units(std::int64_t units) {
  return (units + 15) / 16 * 16;
}

// Of device memory: element (i, j) at data[i * row_step + j * column_step].
struct Matrix {
  const float* data;
  std::int64_t row_step, column_step;
  Matrix transposed() const { return {data, column_step, row_step}; }
};

// c (m, n), rows c_step apart, = a (m, k) b (k, n) + bias (n), which may be null.
void multiply(const char* op, std::int64_t m, std::int64_t n, std::int64_t k, const Matrix& a,
              const Matrix& b, const float* bias, float* c, std::int64_t c_step);

// to (n) = sums of the columns of a (rows, n).
void sum_rows(const char* op, std::int64_t rows, std::int64_t n, const float* a, float* to);

// x as the kernel's product reads it, in kept rows: x itself, or a copy with x_scale.
class InputRows {
 public:
  InputRows(const Sequence& q, const StepsView& steps);
  const float* get() const { return rows_; }

 private:
  Scratch<float> own_;
  const float* rows_;
};

// to (rows, width) = x W + bias.
void multiply_inputs(const Sequence& q, const StepsView& steps, std::int64_t width,
                     const float* bias, float* to);

// dx (N,T,D) of the gradients dz (rows, width) of that product.
void input_gradients(const Sequence& q, const StepsView& steps, std::int64_t width, const float* dz,
                     float* dx);

// outputs (N,T,P): rows of masked steps repeat what was there before them.
void repeat_carried(const Sequence& q, const StepsView& steps, std::int64_t width, float* outputs);

// The outputs' gradient d_outputs (N,T,P) in packed rows, with that of the masked ones behind each,
// unless every step is computed. Those in front of the first go into dh0 (N,P), which is zeroed
// otherwise; it may be null.
class OutputGradients {
 public:
  OutputGradients(const Sequence& q, const StepsView& steps, std::int64_t width,
                  const float* d_outputs, float* dh0);
  // The row of Place::output where every step is computed, else of Place::kept; null: zeros.
  const float* get() const { return rows_; }

 private:
  Scratch<float> own_;
  const float* rows_;
};

}  // namespace lamella::recurrent
