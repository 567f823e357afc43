"""The three cross-entropies: one loss a row, from logits or from probabilities.

Probabilities are treated as Keras treats them: the categorical losses first divide them by their
row sum; then they are clipped to [1e-7, 1 - 1e-7], bounds rounded to float32 as the kernels have
them. Where clipping changed a value its gradient is 0. The row sum is part of the gradient.

label_smoothing s replaces labels t by (1 - s) t + s / classes (binary: + s / 2).

class_weights: in the sparse loss they multiply the whole row by the weight of its label (Keras'
class_weight); in the categorical loss, whose labels may be soft, they stand inside the sum over
classes. The two agree on one-hot labels without smoothing.

A row labelled `ignore_index` has loss 0 and gradient 0 whatever it contains.
"""

from __future__ import annotations

import numpy as np

from . import softmax
from .activations import sigmoid, softplus
from .precision import as_float64

CLIP_LOW = float(np.float32(1e-7))
CLIP_HIGH = float(np.float32(1.0 - 1e-7))


def _clip(p):
    """(p clipped, True where it was not changed)."""
    return np.clip(p, CLIP_LOW, CLIP_HIGH), (p >= CLIP_LOW) & (p <= CLIP_HIGH)


def _log_probabilities(y_pred, from_logits):
    """(N, classes) predictions -> (N, classes) logarithms of probabilities."""
    if from_logits:
        return softmax.log_forward(y_pred)
    clipped, _ = _clip(y_pred / y_pred.sum(axis=-1, keepdims=True))
    return np.log(clipped)


def _log_probabilities_backward(d_log, y_pred, from_logits):
    if from_logits:
        (d_logits,) = softmax.log_backward(d_log, y_pred)
        return d_logits
    row_sum = y_pred.sum(axis=-1, keepdims=True)
    normalized = y_pred / row_sum
    clipped, unchanged = _clip(normalized)
    d_normalized = np.where(unchanged, d_log / clipped, 0.0)
    # normalized = y_pred / row_sum, and every y_pred of the row is in row_sum
    return (d_normalized - (d_normalized * normalized).sum(axis=-1, keepdims=True)) / row_sum


def _categorical_targets(labels, label_smoothing, class_weights):
    classes = labels.shape[-1]
    targets = (1.0 - label_smoothing) * labels + label_smoothing / classes
    return targets if class_weights is None else targets * np.asarray(class_weights, np.float64)


def categorical_forward(
    y_pred, labels, *, from_logits=False, label_smoothing=0.0, class_weights=None
):
    """loss_n = -sum_c weight_c t_nc log p_nc: y_pred, labels (N, classes) -> (N,)."""
    y_pred, labels = as_float64(y_pred, labels)
    targets = _categorical_targets(labels, label_smoothing, class_weights)
    return -(targets * _log_probabilities(y_pred, from_logits)).sum(axis=-1)


def categorical_backward(
    dy, y_pred, labels, *, from_logits=False, label_smoothing=0.0, class_weights=None
):
    """dy (N,) -> d_y_pred (N, classes); labels get no gradient."""
    dy, y_pred, labels = as_float64(dy, y_pred, labels)
    targets = _categorical_targets(labels, label_smoothing, class_weights)
    return _log_probabilities_backward(-targets * dy[:, None], y_pred, from_logits), None


def _sparse_targets(y_pred, labels, label_smoothing, class_weights, ignore_index):
    """(targets with the rows' weights multiplied in, rows that count (N, 1))."""
    classes = y_pred.shape[-1]
    counted = np.ones(labels.shape, bool) if ignore_index is None else labels != ignore_index
    safe_labels = np.where(counted, labels, 0)
    one_hot = np.eye(classes)[safe_labels]
    targets = (1.0 - label_smoothing) * one_hot + label_smoothing / classes
    if class_weights is not None:
        targets *= np.asarray(class_weights, np.float64)[safe_labels][:, None]
    return targets, counted[:, None]


def sparse_categorical_forward(
    y_pred,
    labels,
    *,
    from_logits=False,
    label_smoothing=0.0,
    class_weights=None,
    ignore_index=None,
):
    """loss_n = -weight[label_n] sum_c t_nc log p_nc: y_pred (N, classes), labels (N,) -> (N,)."""
    (y_pred,) = as_float64(y_pred)
    targets, counted = _sparse_targets(y_pred, labels, label_smoothing, class_weights, ignore_index)
    log_p = _log_probabilities(np.where(counted, y_pred, 1.0), from_logits)
    # A class that is not the label takes no part: its log p may be -inf.
    terms = np.zeros_like(log_p)
    np.multiply(targets, log_p, out=terms, where=counted & (targets != 0))
    return -terms.sum(axis=-1)


def sparse_categorical_backward(
    dy,
    y_pred,
    labels,
    *,
    from_logits=False,
    label_smoothing=0.0,
    class_weights=None,
    ignore_index=None,
):
    """dy (N,) -> d_y_pred (N, classes); labels get no gradient."""
    dy, y_pred = as_float64(dy, y_pred)
    targets, counted = _sparse_targets(y_pred, labels, label_smoothing, class_weights, ignore_index)
    d_log = -targets * dy[:, None]
    gradient = _log_probabilities_backward(d_log, np.where(counted, y_pred, 1.0), from_logits)
    return np.where(counted, gradient, 0.0), None


def binary_forward(y_pred, labels, *, from_logits=False, label_smoothing=0.0):
    """loss_n = -mean_c (t log p + (1 - t) log(1 - p)): y_pred, labels (N, classes) -> (N,)."""
    y_pred, labels = as_float64(y_pred, labels)
    targets = (1.0 - label_smoothing) * labels + 0.5 * label_smoothing
    if from_logits:
        # log p = z - softplus(z), log(1 - p) = -softplus(z)
        return (softplus.forward(y_pred) - targets * y_pred).mean(axis=-1)
    p, _ = _clip(y_pred)
    return -(targets * np.log(p) + (1.0 - targets) * np.log(1.0 - p)).mean(axis=-1)


def binary_backward(dy, y_pred, labels, *, from_logits=False, label_smoothing=0.0):
    """dy (N,) -> d_y_pred (N, classes); labels get no gradient."""
    dy, y_pred, labels = as_float64(dy, y_pred, labels)
    targets = (1.0 - label_smoothing) * labels + 0.5 * label_smoothing
    d_element = dy[:, None] / y_pred.shape[-1]
    if from_logits:
        return (sigmoid.forward(y_pred) - targets) * d_element, None
    p, unchanged = _clip(y_pred)
    return np.where(unchanged, (p - targets) / (p * (1.0 - p)) * d_element, 0.0), None
