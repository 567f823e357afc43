// Cross-entropies, one loss a row: y_pred (rows, classes) -> loss (rows).
//
//   categorical   loss_n = -sum_c t_nc log p_nc
//   binary        loss_n = -1/classes sum_c (t_nc log p_nc + (1 - t_nc) log(1 - p_nc))
//
// Targets, with s = smoothing:
//   sparse        t_nc = weight[label_n] ((1 - s) [c == label_n] + s / classes)
//   categorical   t_nc = weight[c] ((1 - s) labels_nc + s / classes)
//   binary        t_nc = (1 - s) labels_nc + s / 2
//
// Probabilities, with from_logits: p = softmax(y_pred) along the row, binary sigmoid(y_pred); log p
// is never formed from p. Else p = y_pred, the categorical ones divided by their row's sum, clipped
// to [1e-7, 1 - 1e-7] as Keras does; where clipping changed a value it has gradient 0.
//
// Backward, d_pred = d loss / d y_pred * dy_n:
//   from logits         dy_n (p_c sum_j t_j - t_c);   binary dy_n / classes (p_c - t_c)
//   from probabilities  dy_n / S (U - [c unchanged] t_c / p_c),  S the row's sum, U the sum of t
//                       over the unchanged;  binary dy_n / classes (p_c - t_c) / (p_c (1 - p_c))
// It computes p from y_pred again, in the same pass over memory that writes d_pred: nothing is
// saved, and a changed y_pred gives the gradient there.
//
// In the sparse loss a class with t = 0 takes no part (its log p may be -inf), and a row labelled
// ignore_index has loss and gradient 0 whatever it holds. No array may overlap another.
#pragma once

#include <cstdint>

#include "core/isa.h"

namespace lamella::crossentropy {

struct Problem {
  std::int64_t rows;
  std::int64_t classes;
  bool from_logits;
  float smoothing;
  const float* y_pred;         // (rows, classes)
  const float* class_weights;  // (classes), or null; unused in binary
};

struct SparseLabels {
  const std::int64_t* labels;  // (rows), each in [0, classes) or ignore_index
  bool has_ignore_index;
  std::int64_t ignore_index;
};

// float labels: (rows, classes).
struct Kernels {
  void (*sparse_forward)(const Problem& p, const SparseLabels& labels, float* loss);
  void (*sparse_backward)(const Problem& p, const SparseLabels& labels, const float* dy,
                          float* d_pred);
  void (*categorical_forward)(const Problem& p, const float* labels, float* loss);
  void (*categorical_backward)(const Problem& p, const float* labels, const float* dy,
                               float* d_pred);
};

LAMELLA_DECLARE_KERNELS()

namespace binary {

struct Kernels {
  void (*forward)(const Problem& p, const float* labels, float* loss);
  void (*backward)(const Problem& p, const float* labels, const float* dy, float* d_pred);
};

LAMELLA_DECLARE_KERNELS()

}  // namespace binary
}  // namespace lamella::crossentropy
