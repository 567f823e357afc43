"""The kernels as functions of float32 NumPy arrays.

``f(*arrays, **options)`` computes ``f`` forward. ``f.vjp(*arrays, needs=None, **options)`` returns
``(y, pullback)``: the same result, and a function that takes the gradient of ``y`` and returns a
tuple with the gradient of each array argument. Functions whose name ends in ``_`` change their
first argument in place and have no ``vjp``.

A pullback keeps arrays of the caller's, without a copy, and reads them when it is called: array
arguments and, where the derivative follows from the result, ``y`` itself. The latter are `softmax`,
`log_softmax`, `attention`, `layer_norm` and `rms_norm` with a residual (their second result), and
`dense` and the convolutions with a fused activation of "relu", "leaky_relu", "elu", "sigmoid",
"tanh" or "softplus". To change one of these arrays first changes the gradients: work on a copy, or
call the pullback before.

>>> import numpy as np
>>> from lamella import ops
>>> y, pullback = ops.tanh.vjp(np.float32([0, 1]))
>>> (dx,) = pullback(np.float32([1, 1]))
>>> dx.round(4)
array([1.  , 0.42], dtype=float32)
"""

from __future__ import annotations

from lamella.ops.activation import (
    elu,
    gelu,
    leaky_relu,
    relu,
    sigmoid,
    silu,
    softplus,
    tanh,
)
from lamella.ops.additive_attention import additive_attention
from lamella.ops.attention import attention
from lamella.ops.batch_norm import batch_norm
from lamella.ops.conv1d import conv1d
from lamella.ops.conv2d import conv2d
from lamella.ops.conv2d_transpose import conv2d_transpose
from lamella.ops.crossentropy import (
    binary_crossentropy,
    categorical_crossentropy,
    sparse_categorical_crossentropy,
)
from lamella.ops.dense import dense, matmul
from lamella.ops.dropout import dropout
from lamella.ops.elementwise import accumulate_, add, concatenate, multiply
from lamella.ops.embedding import embedding
from lamella.ops.feed_forward import feed_forward
from lamella.ops.group_norm import group_norm
from lamella.ops.gru import gru
from lamella.ops.layer_norm import layer_norm, rms_norm
from lamella.ops.lstm import lstm
from lamella.ops.lstm_cell import lstm_cell
from lamella.ops.multi_head_attention import multi_head_attention
from lamella.ops.optimizer import adam_, clip_, rmsprop_, scale_, sgd_, squared_norm
from lamella.ops.pool2d import avg_pool2d, global_avg_pool2d, global_max_pool2d, max_pool2d
from lamella.ops.rotary_embedding import rotary_embedding
from lamella.ops.simple_rnn import simple_rnn
from lamella.ops.softmax import log_softmax, softmax

__all__ = [
    "accumulate_",
    "adam_",
    "add",
    "additive_attention",
    "attention",
    "avg_pool2d",
    "batch_norm",
    "binary_crossentropy",
    "categorical_crossentropy",
    "clip_",
    "concatenate",
    "conv1d",
    "conv2d",
    "conv2d_transpose",
    "dense",
    "dropout",
    "elu",
    "embedding",
    "feed_forward",
    "gelu",
    "global_avg_pool2d",
    "global_max_pool2d",
    "group_norm",
    "gru",
    "layer_norm",
    "leaky_relu",
    "log_softmax",
    "lstm",
    "lstm_cell",
    "matmul",
    "max_pool2d",
    "multi_head_attention",
    "multiply",
    "relu",
    "rms_norm",
    "rmsprop_",
    "rotary_embedding",
    "scale_",
    "sgd_",
    "sigmoid",
    "silu",
    "simple_rnn",
    "softmax",
    "softplus",
    "sparse_categorical_crossentropy",
    "squared_norm",
    "tanh",
]
