"""What every op computes, in float64 NumPy: `OPS[name].forward` and `OPS[name].backward`.

`forward(*arrays, **options)` takes the op's own arguments and returns its result. `backward(dy,
*arrays, **options)` returns one gradient for each array argument, in order, None where the argument
is None or has no gradient. Where forward returns a tuple, `dy` is the tuple of their gradients.
Arrays of any float dtype may be given; all arithmetic is float64. Arguments are taken as valid:
refusing the invalid ones is the op's work.

dropout and the attention ops take `kept`, the mask, in place of `seed`; the recurrent ops take
dropout and zoneout as arrays (`x_scale`, `h_scale`, `zoneout_h`, `zoneout_c`), which have no
gradient. The optimizer steps are in `optimizers`.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import numpy as np

from . import (
    activations,
    additive_attention,
    attention,
    avg_pool2d,
    batch_norm,
    conv1d,
    conv2d,
    conv2d_transpose,
    crossentropy,
    dense,
    dropout,
    elementwise,
    embedding,
    feed_forward,
    global_avg_pool2d,
    global_max_pool2d,
    group_norm,
    gru,
    layer_norm,
    lstm,
    lstm_cell,
    matmul,
    max_pool2d,
    multi_head_attention,
    rms_norm,
    rotary_embedding,
    simple_rnn,
    softmax,
)


class Reference(NamedTuple):
    forward: Callable
    backward: Callable


def _reference(forward, backward):
    """The pair without NumPy's warnings: NaN and infinity are legitimate inputs."""
    return Reference(np.errstate(all="ignore")(forward), np.errstate(all="ignore")(backward))


_SINGLE_OP_FILES = {
    "additive_attention": additive_attention,
    "attention": attention,
    "avg_pool2d": avg_pool2d,
    "batch_norm": batch_norm,
    "conv1d": conv1d,
    "conv2d": conv2d,
    "conv2d_transpose": conv2d_transpose,
    "dense": dense,
    "dropout": dropout,
    "embedding": embedding,
    "feed_forward": feed_forward,
    "global_avg_pool2d": global_avg_pool2d,
    "global_max_pool2d": global_max_pool2d,
    "group_norm": group_norm,
    "gru": gru,
    "layer_norm": layer_norm,
    "lstm": lstm,
    "lstm_cell": lstm_cell,
    "matmul": matmul,
    "max_pool2d": max_pool2d,
    "multi_head_attention": multi_head_attention,
    "rms_norm": rms_norm,
    "rotary_embedding": rotary_embedding,
    "simple_rnn": simple_rnn,
    "softmax": softmax,
}
_ACTIVATIONS = ("relu", "gelu", "silu", "sigmoid", "tanh", "elu", "leaky_relu", "softplus")

OPS = {
    **{name: _reference(file.forward, file.backward) for name, file in _SINGLE_OP_FILES.items()},
    **{
        name: _reference(getattr(activations, name).forward, getattr(activations, name).backward)
        for name in _ACTIVATIONS
    },
    "log_softmax": _reference(softmax.log_forward, softmax.log_backward),
    "add": _reference(elementwise.add_forward, elementwise.add_backward),
    "multiply": _reference(elementwise.multiply_forward, elementwise.multiply_backward),
    "concatenate": _reference(elementwise.concatenate_forward, elementwise.concatenate_backward),
    "categorical_crossentropy": _reference(
        crossentropy.categorical_forward, crossentropy.categorical_backward
    ),
    "sparse_categorical_crossentropy": _reference(
        crossentropy.sparse_categorical_forward, crossentropy.sparse_categorical_backward
    ),
    "binary_crossentropy": _reference(crossentropy.binary_forward, crossentropy.binary_backward),
}
