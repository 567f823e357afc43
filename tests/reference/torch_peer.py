"""The ops by PyTorch, with lamella's layouts, arguments and conventions: a second oracle.

PyTorch is optional: only tests that asked `pytest.importorskip("torch")` import this module.
"""

from __future__ import annotations

import numpy as np
import torch
from torch.nn import functional

from . import OPS as REFERENCES
from . import crossentropy, geometry, normalization, torch_attention, torch_recurrent
from .torch_activations import ACTIVATIONS


def channels_first(x):
    return x.permute(0, 3, 1, 2)


def channels_last(x):
    return x.permute(0, 2, 3, 1)


def dense(x, kernel, bias=None, *, activation=None):
    return ACTIVATIONS[activation](functional.linear(x, kernel.T, bias))


def feed_forward(
    x,
    kernel,
    output_kernel,
    bias=None,
    output_bias=None,
    gate_kernel=None,
    gate_bias=None,
    *,
    activation="relu",
):
    hidden = dense(x, kernel, bias, activation=activation)
    if gate_kernel is not None:
        hidden = hidden * dense(x, gate_kernel, gate_bias)
    return dense(hidden, output_kernel, output_bias)


def matmul(a, b, *, transpose_a=False, transpose_b=False):
    return torch.matmul(a.mT if transpose_a else a, b.mT if transpose_b else b)


def conv2d(x, kernel, bias=None, *, padding="valid", strides=1, activation=None, **options):
    strides, dilations = geometry.pair(strides), geometry.pair(options.get("dilation", 1))
    (top, bottom), (left, right) = geometry.explicit_padding(
        padding, x.shape[1:3], kernel.shape[:2], strides, dilations
    )
    x = functional.pad(channels_first(x), (left, right, top, bottom))
    y = functional.conv2d(x, kernel.permute(3, 2, 0, 1), bias, strides, **options)
    return channels_last(ACTIVATIONS[activation](y))


def conv1d(x, kernel, bias=None, *, padding="valid", strides=1, activation=None, **options):
    extent = geometry.window_extent(kernel.shape[0], options.get("dilation", 1))
    if padding == "causal":
        padding = (extent - 1, 0)
    elif padding == "same":
        dilation = options.get("dilation", 1)
        padding = geometry.same_padding(x.shape[1], kernel.shape[0], strides, dilation)
    padding = (0, 0) if padding == "valid" else geometry.pair(padding)
    x = functional.pad(x.permute(0, 2, 1), padding)
    y = functional.conv1d(x, kernel.permute(2, 1, 0), bias, strides, **options)
    return ACTIVATIONS[activation](y.permute(0, 2, 1))


def conv2d_transpose(x, kernel, bias=None, *, strides=1, activation=None, **options):
    """`padding`: an int or (ph, pw), the forms PyTorch has; output_padding below the stride."""
    y = functional.conv_transpose2d(
        channels_first(x), kernel.permute(3, 2, 0, 1), bias, strides, **options
    )
    return channels_last(ACTIVATIONS[activation](y))


def max_pool2d(x, *, pool_size=2, strides=None, **options):
    """`padding`: an int or (ph, pw), at most half the pool."""
    return channels_last(functional.max_pool2d(channels_first(x), pool_size, strides, **options))


def avg_pool2d(x, *, pool_size=2, strides=None, count_include_pad=False, **options):
    """`padding`: an int or (ph, pw), at most half the pool; no dilation."""
    options["count_include_pad"] = count_include_pad
    return channels_last(functional.avg_pool2d(channels_first(x), pool_size, strides, **options))


def batch_norm(x, gamma=None, beta=None, mean=None, variance=None, *, epsilon=1e-3):
    from_batch = mean is None
    if from_batch:
        axes = tuple(range(x.ndim - 1))
        mean, variance = x.mean(dim=axes), x.var(dim=axes, unbiased=False)
    y = (x - mean) * torch.rsqrt(variance + epsilon)
    y = y if gamma is None else y * gamma
    y = y if beta is None else y + beta
    return (y, mean, variance) if from_batch else y


def normalized_last(normalize, x, parameters, axis, **options):
    """normalize(x, shape, *parameters): PyTorch has the normalised axes at the end."""
    axes = normalization.axes_of(axis, x.ndim)
    order = (*normalization.other_axes(axes, x.ndim), *axes)
    shape = [x.shape[a] for a in axes]
    y = normalize(x.permute(order), shape, *parameters, **options)
    return y.permute([order.index(a) for a in range(x.ndim)])


def layer_norm(x, gamma=None, beta=None, *, axis=-1, epsilon=1e-3):
    return normalized_last(functional.layer_norm, x, (gamma, beta), axis, eps=epsilon)


def rms_norm(x, gamma=None, *, axis=-1, epsilon=1e-6):
    return normalized_last(functional.rms_norm, x, (gamma,), axis, eps=epsilon)


def group_norm(x, gamma=None, beta=None, *, groups, epsilon=1e-3):
    # PyTorch's backward pass raises with beta but no gamma, and gives NaN where x is empty.
    y = functional.group_norm(x.movedim(-1, 1), groups, eps=epsilon).movedim(1, -1)
    y = y if gamma is None else y * gamma
    return y if beta is None else y + beta


def sparse_categorical_crossentropy(
    y_pred, labels, *, label_smoothing=0.0, class_weights=None, ignore_index=None, **options
):
    log_p = log_probabilities(y_pred, **options)
    ignored = torch.zeros_like(labels, dtype=torch.bool)
    if ignore_index is not None:
        ignored = labels == ignore_index
        labels = labels.masked_fill(ignored, 0)
    loss = functional.nll_loss(log_p, labels, reduction="none")
    loss = (1 - label_smoothing) * loss - label_smoothing * log_p.mean(dim=1)
    loss = loss.masked_fill(ignored, 0.0)
    if class_weights is None:
        return loss
    return loss * torch.tensor(class_weights, dtype=loss.dtype)[labels]


def categorical_crossentropy(y_pred, labels, *, label_smoothing=0.0, class_weights=None, **options):
    targets = labels * (1 - label_smoothing) + label_smoothing / labels.shape[1]
    if class_weights is not None:
        targets = targets * torch.tensor(class_weights, dtype=y_pred.dtype)
    return -(targets * log_probabilities(y_pred, **options)).sum(dim=1)


def log_probabilities(y_pred, from_logits=False):
    if from_logits:
        return functional.log_softmax(y_pred, dim=1)
    normalized = y_pred / y_pred.sum(dim=1, keepdim=True)
    return torch.log(torch.clamp(normalized, crossentropy.CLIP_LOW, crossentropy.CLIP_HIGH))


def binary_crossentropy(y_pred, labels, *, from_logits=False, label_smoothing=0.0):
    targets = labels * (1 - label_smoothing) + label_smoothing / 2
    if from_logits:
        loss = functional.binary_cross_entropy_with_logits(y_pred, targets, reduction="none")
    else:
        p = torch.clamp(y_pred, crossentropy.CLIP_LOW, crossentropy.CLIP_HIGH)
        loss = functional.binary_cross_entropy(p, targets, reduction="none")
    return loss.mean(dim=1)


OPS = {
    "dense": dense,
    "feed_forward": feed_forward,
    "matmul": matmul,
    "conv2d": conv2d,
    "conv1d": conv1d,
    "conv2d_transpose": conv2d_transpose,
    "max_pool2d": max_pool2d,
    "avg_pool2d": avg_pool2d,
    "global_avg_pool2d": lambda x: x.mean(dim=(1, 2)),
    "global_max_pool2d": lambda x: x.amax(dim=(1, 2)),
    "batch_norm": batch_norm,
    "layer_norm": layer_norm,
    "rms_norm": rms_norm,
    "group_norm": group_norm,
    "softmax": lambda x, axis=-1: torch.softmax(x, axis),
    "log_softmax": lambda x, axis=-1: torch.log_softmax(x, axis),
    "sparse_categorical_crossentropy": sparse_categorical_crossentropy,
    "categorical_crossentropy": categorical_crossentropy,
    "binary_crossentropy": binary_crossentropy,
    "relu": functional.relu,
    "gelu": lambda x, approximate=True: functional.gelu(
        x, approximate="tanh" if approximate else "none"
    ),
    "silu": functional.silu,
    "sigmoid": torch.sigmoid,
    "tanh": torch.tanh,
    "elu": functional.elu,
    "leaky_relu": lambda x, negative_slope=0.2: functional.leaky_relu(x, negative_slope),
    "softplus": functional.softplus,
    "add": torch.add,
    "multiply": torch.mul,
    "concatenate": lambda *arrays, axis=-1: torch.cat(arrays, dim=axis),
    "simple_rnn": torch_recurrent.simple_rnn,
    "gru": torch_recurrent.gru,
    "lstm": torch_recurrent.lstm,
    "lstm_cell": torch_recurrent.lstm_cell,
    "embedding": functional.embedding,
    "attention": torch_attention.attention,
    "multi_head_attention": torch_attention.multi_head_attention,
    "additive_attention": torch_attention.additive_attention,
    "rotary_embedding": torch_attention.rotary_embedding,
}


def values_and_gradients(op, arrays, dy, options):
    """(outputs, gradients) as tuples of NumPy arrays, in the arrays' own dtype.

    `dy` is a tuple, one array an output. A gradient is None where the argument is no float array,
    and 0 where no result depends on it.
    """
    tensors = [None if a is None else torch.tensor(a) for a in arrays]
    inputs = [t for t in tensors if t is not None and t.is_floating_point()]
    for tensor in inputs:
        tensor.requires_grad_(True)
    outputs = OPS[op](*tensors, **options)
    outputs = outputs if isinstance(outputs, tuple) else (outputs,)
    pairs = [(y, torch.tensor(d)) for y, d in zip(outputs, dy, strict=True) if y.requires_grad]
    differentiable, given = zip(*pairs, strict=True)
    gradients = iter(torch.autograd.grad(differentiable, inputs, given, materialize_grads=True))
    return tuple(output.detach().numpy() for output in outputs), tuple(
        next(gradients).numpy() if t is not None and t.requires_grad else None for t in tensors
    )


def check_agreement(op, arrays, options, rng):
    """Assert that the reference's values and gradients, of a random dy, are PyTorch's."""
    ours = REFERENCES[op].forward(*arrays, **options)
    ours = ours if isinstance(ours, tuple) else (ours,)
    dy = tuple(rng.standard_normal(part.shape) for part in ours)
    gradients = REFERENCES[op].backward(dy if len(dy) > 1 else dy[0], *arrays, **options)
    their_values, their_gradients = values_and_gradients(op, arrays, dy, options)
    for our, their in zip(ours, their_values, strict=True):
        np.testing.assert_allclose(our, their, rtol=1e-12, atol=1e-12)
    for our, their in zip(gradients, their_gradients, strict=True):
        if our is not None:
            np.testing.assert_allclose(our, their, rtol=1e-11, atol=1e-11)
