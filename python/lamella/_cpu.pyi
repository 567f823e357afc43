# The functions of the compiled module. What they mean is documented in lamella.ops, which calls
# them. They check their arguments themselves: a wrong type raises TypeError.

from collections.abc import Sequence
from typing import Any, TypeAlias

import numpy as np

Array: TypeAlias = np.ndarray[Any, Any]
Gradients: TypeAlias = tuple[Array | None, ...]
IntOrInts: TypeAlias = int | Sequence[int]
Padding: TypeAlias = str | int | Sequence[int] | Sequence[Sequence[int]]

def accumulate_(target: Array, source: Array) -> None: ...
def activation_backward(
    kind: str, dy: Array, x: Array, parameter: float | None = None, out: Array | None = None
) -> Array: ...
def activation_forward(kind: str, x: Array, parameter: float | None = None) -> Array: ...
def adam_(
    param: Array,
    grad: Array,
    m: Array,
    v: Array,
    vhat: Array | None,
    step: int,
    learning_rate: float,
    beta_1: float,
    beta_2: float,
    epsilon: float,
    weight_decay: float,
) -> None: ...
def add_backward(
    dy: Array,
    a_shape: Sequence[int],
    b_shape: Sequence[int],
    needs: Sequence[bool],
    out: Sequence[Array | None],
) -> Gradients: ...
def add_forward(a: Array, b: Array) -> Array: ...
def additive_attention_backward(
    dy: tuple[Array | None, ...],
    arrays: tuple[Array | None, ...],
    options: tuple[Any, ...],
    needs: tuple[bool, ...],
    out: tuple[Array | None, ...],
) -> Gradients: ...
def additive_attention_forward(
    arrays: tuple[Array | None, ...], options: tuple[Any, ...], return_weights: bool
) -> tuple[Array, Array | None]: ...
def attention_backward(
    dy: tuple[Array | None, ...],
    arrays: tuple[Array | None, ...],
    saved: tuple[Array | None, ...],
    options: tuple[Any, ...],
    needs: tuple[bool, ...],
    out: tuple[Array | None, ...],
) -> Gradients: ...
def attention_forward(
    arrays: tuple[Array | None, ...],
    options: tuple[Any, ...],
    return_lse: bool,
    return_weights: bool,
) -> tuple[Array, Array | None, Array | None, tuple[Array | None, ...]]: ...
def avg_pool2d_backward(
    dy: Array,
    x_shape: Sequence[int],
    pool_size: IntOrInts,
    strides: IntOrInts | None,
    padding: Padding,
    dilation: IntOrInts,
    ceil_mode: bool,
    count_include_pad: bool,
    out: Array | None = None,
) -> Array: ...
def avg_pool2d_forward(
    x: Array,
    pool_size: IntOrInts,
    strides: IntOrInts | None,
    padding: Padding,
    dilation: IntOrInts,
    ceil_mode: bool,
    count_include_pad: bool,
) -> Array: ...
def batch_norm_backward(
    dy: Array,
    dmean: Array | None,
    dvariance: Array | None,
    x: Array,
    gamma: Array | None,
    beta: Array | None,
    mean: Array | None,
    variance: Array | None,
    saved: Array | None,
    epsilon: float,
    needs: Sequence[bool],
    out: Sequence[Array | None],
) -> Array: ...
def batch_norm_forward(
    x: Array,
    gamma: Array | None,
    beta: Array | None,
    mean: Array | None,
    variance: Array | None,
    epsilon: float,
) -> Array | tuple[Array, Array, Array, Array]: ...
def binary_crossentropy_backward(
    dy: Array,
    y_pred: Array,
    labels: Array,
    from_logits: bool,
    label_smoothing: float,
    out: Array | None = None,
) -> Array: ...
def binary_crossentropy_forward(
    y_pred: Array, labels: Array, from_logits: bool, label_smoothing: float
) -> Array: ...
def categorical_crossentropy_backward(
    dy: Array,
    y_pred: Array,
    labels: Array,
    from_logits: bool,
    label_smoothing: float,
    class_weights: Array | None,
    out: Array | None = None,
) -> Array: ...
def categorical_crossentropy_forward(
    y_pred: Array,
    labels: Array,
    from_logits: bool,
    label_smoothing: float,
    class_weights: Array | None,
) -> Array: ...
def clip_(x: Array, low: float, high: float) -> None: ...
def concatenate_backward(
    dy: Array,
    shapes: Sequence[Sequence[int]],
    axis: int,
    needs: Sequence[bool],
    out: Sequence[Array | None],
) -> Gradients: ...
def concatenate_forward(arrays: Sequence[Array], axis: int) -> Array: ...
def conv1d_backward(
    dy: Array,
    x: Array,
    kernel: Array,
    saved: Array | None,
    strides: IntOrInts,
    padding: Padding,
    dilation: IntOrInts,
    groups: int,
    activation: str | None,
    need_x: bool,
    need_kernel: bool,
    need_bias: bool,
    dx_out: Array | None,
    dkernel_out: Array | None,
    dbias_out: Array | None,
) -> Gradients: ...
def conv1d_forward(
    x: Array,
    kernel: Array,
    bias: Array | None,
    strides: IntOrInts,
    padding: Padding,
    dilation: IntOrInts,
    groups: int,
    activation: str | None,
    save: bool,
) -> tuple[Array, Array | None]: ...
def conv2d_backward(
    dy: Array,
    x: Array,
    kernel: Array,
    saved: Array | None,
    strides: IntOrInts,
    padding: Padding,
    dilation: IntOrInts,
    groups: int,
    activation: str | None,
    need_x: bool,
    need_kernel: bool,
    need_bias: bool,
    dx_out: Array | None,
    dkernel_out: Array | None,
    dbias_out: Array | None,
) -> Gradients: ...
def conv2d_forward(
    x: Array,
    kernel: Array,
    bias: Array | None,
    strides: IntOrInts,
    padding: Padding,
    dilation: IntOrInts,
    groups: int,
    activation: str | None,
    save: bool,
) -> tuple[Array, Array | None]: ...
def conv2d_transpose_backward(
    dy: Array,
    x: Array,
    kernel: Array,
    saved: Array | None,
    strides: IntOrInts,
    padding: Padding,
    output_padding: IntOrInts | None,
    dilation: IntOrInts,
    groups: int,
    activation: str | None,
    need_x: bool,
    need_kernel: bool,
    need_bias: bool,
    dx_out: Array | None,
    dkernel_out: Array | None,
    dbias_out: Array | None,
) -> Gradients: ...
def conv2d_transpose_forward(
    x: Array,
    kernel: Array,
    bias: Array | None,
    strides: IntOrInts,
    padding: Padding,
    output_padding: IntOrInts | None,
    dilation: IntOrInts,
    groups: int,
    activation: str | None,
    save: bool,
) -> tuple[Array, Array | None]: ...
def cpu_isa() -> str: ...
def dense_backward(
    dy: Array,
    x: Array,
    kernel: Array,
    saved: Array | None,
    activation: str | None,
    need_x: bool,
    need_kernel: bool,
    need_bias: bool,
    dx_out: Array | None,
    dkernel_out: Array | None,
    dbias_out: Array | None,
) -> Gradients: ...
def dense_forward(
    x: Array, kernel: Array, bias: Array | None, activation: str | None, save: bool
) -> tuple[Array, Array | None]: ...
def dropout_backward(
    dy: Array, shape: Sequence[int], rate: float, seed: int, out: Array | None = None
) -> Array: ...
def dropout_forward(x: Array, rate: float, seed: int) -> Array: ...
def embedding_backward(
    dy: Array, indices: Array, table_shape: Sequence[int], out: Array | None = None
) -> Array: ...
def embedding_forward(indices: Array, table: Array) -> Array: ...
def empty_cache() -> None: ...
def feed_forward_backward(
    dy: Array,
    arrays: tuple[Array | None, ...],
    saved: tuple[Array | None, ...],
    activation: str | None,
    needs: tuple[bool, ...],
    out: tuple[Array | None, ...],
) -> Gradients: ...
def feed_forward_forward(
    arrays: tuple[Array | None, ...], activation: str | None, save: bool
) -> tuple[Array, tuple[Array | None, ...] | None]: ...
def global_avg_pool2d_backward(
    dy: Array, x_shape: Sequence[int], out: Array | None = None
) -> Array: ...
def global_avg_pool2d_forward(x: Array) -> Array: ...
def global_max_pool2d_backward(
    dy: Array, winner: Array, x_shape: Sequence[int], out: Array | None = None
) -> Array: ...
def global_max_pool2d_forward(x: Array, save: bool) -> Array | tuple[Array, Array]: ...
def group_norm_backward(
    dy: Array,
    x: Array,
    gamma: Array | None,
    beta: Array | None,
    saved: Array,
    groups: int,
    needs: Sequence[bool],
    out: Sequence[Array | None],
) -> Gradients: ...
def group_norm_forward(
    x: Array,
    gamma: Array | None,
    beta: Array | None,
    groups: int,
    epsilon: float,
    saves: bool,
) -> tuple[Array, Array | None]: ...
def gru_backward(
    dy: tuple[Array | None, ...],
    arrays: tuple[Array | None, ...],
    saved: tuple[Array | None, ...],
    options: tuple[Any, ...],
    needs: tuple[bool, ...],
    out: tuple[Array | None, ...],
) -> Gradients: ...
def gru_forward(
    arrays: tuple[Array | None, ...],
    mask: Array | None,
    lengths: Array | None,
    options: tuple[Any, ...],
    save: bool,
) -> tuple[Array, Array, tuple[Array | None, ...] | None]: ...
def layer_norm_backward(
    dy: Array,
    ds: Array | None,
    x: Array,
    gamma: Array | None,
    beta: Array | None,
    has_residual: bool,
    saved: Array,
    axis: IntOrInts,
    needs: Sequence[bool],
    out: Sequence[Array | None],
) -> Gradients: ...
def layer_norm_forward(
    x: Array,
    gamma: Array | None,
    beta: Array | None,
    residual: Array | None,
    axis: IntOrInts,
    epsilon: float,
    saves: bool,
) -> tuple[Array, Array | None, Array | None]: ...
def lstm_backward(
    dy: tuple[Array | None, ...],
    arrays: tuple[Array | None, ...],
    saved: tuple[Array | None, ...],
    options: tuple[Any, ...],
    needs: tuple[bool, ...],
    out: tuple[Array | None, ...],
) -> Gradients: ...
def lstm_forward(
    arrays: tuple[Array | None, ...],
    mask: Array | None,
    lengths: Array | None,
    options: tuple[Any, ...],
    save: bool,
) -> tuple[Array, Array, Array, tuple[Array | None, ...] | None]: ...
def matmul_backward(
    dy: Array,
    a: Array,
    b: Array,
    transpose_a: bool,
    transpose_b: bool,
    need_a: bool,
    need_b: bool,
    a_out: Array | None,
    b_out: Array | None,
) -> Gradients: ...
def matmul_forward(a: Array, b: Array, transpose_a: bool, transpose_b: bool) -> Array: ...
def max_pool2d_backward(
    dy: Array,
    winner: Array,
    x_shape: Sequence[int],
    pool_size: IntOrInts,
    strides: IntOrInts | None,
    padding: Padding,
    dilation: IntOrInts,
    ceil_mode: bool,
    out: Array | None = None,
) -> Array: ...
def max_pool2d_forward(
    x: Array,
    pool_size: IntOrInts,
    strides: IntOrInts | None,
    padding: Padding,
    dilation: IntOrInts,
    ceil_mode: bool,
    save: bool,
) -> Array | tuple[Array, Array]: ...
def measure_copy_bandwidth(bytes: int, seconds: float) -> float: ...
def measure_fma_ceiling(seconds: float) -> float: ...
def measure_read_bandwidth(bytes: int, seconds: float) -> float: ...
def memory_stats() -> dict[str, int]: ...
def multi_head_attention_backward(
    dy: tuple[Array | None, ...],
    arrays: tuple[Array | None, ...],
    saved: tuple[Array | None, ...],
    options: tuple[Any, ...],
    needs: tuple[bool, ...],
    out: tuple[Array | None, ...],
) -> Gradients: ...
def multi_head_attention_forward(
    arrays: tuple[Array | None, ...],
    options: tuple[Any, ...],
    return_lse: bool,
    return_weights: bool,
) -> tuple[Array, Array | None, Array | None, tuple[Array | None, ...]]: ...
def multiply_backward(
    dy: Array, a: Array, b: Array, needs: Sequence[bool], out: Sequence[Array | None]
) -> Gradients: ...
def multiply_forward(a: Array, b: Array) -> Array: ...
def num_threads() -> int: ...
def rms_norm_backward(
    dy: Array,
    ds: Array | None,
    x: Array,
    gamma: Array | None,
    has_residual: bool,
    saved: Array,
    axis: IntOrInts,
    needs: Sequence[bool],
    out: Sequence[Array | None],
) -> Gradients: ...
def rms_norm_forward(
    x: Array,
    gamma: Array | None,
    residual: Array | None,
    axis: IntOrInts,
    epsilon: float,
    saves: bool,
) -> tuple[Array, Array | None, Array | None]: ...
def rmsprop_(
    param: Array,
    grad: Array,
    square: Array,
    mean: Array | None,
    momentum_slot: Array | None,
    learning_rate: float,
    rho: float,
    momentum: float,
    epsilon: float,
    weight_decay: float,
) -> None: ...
def rotary_embedding_backward(
    dy: Array,
    shape: Sequence[int],
    cos: Array,
    sin: Array,
    interleaved: bool,
    out: Array | None,
) -> Array: ...
def rotary_embedding_forward(x: Array, cos: Array, sin: Array, interleaved: bool) -> Array: ...
def scale_(x: Array, factor: float) -> None: ...
def set_cpu_isa(name: str) -> None: ...
def set_num_threads(n: int) -> None: ...
def sgd_(
    param: Array,
    grad: Array,
    velocity: Array | None,
    learning_rate: float,
    momentum: float,
    nesterov: bool,
    weight_decay: float,
) -> None: ...
def simple_rnn_backward(
    dy: tuple[Array | None, ...],
    arrays: tuple[Array | None, ...],
    saved: tuple[Array | None, ...],
    options: tuple[Any, ...],
    needs: tuple[bool, ...],
    out: tuple[Array | None, ...],
) -> Gradients: ...
def simple_rnn_forward(
    arrays: tuple[Array | None, ...],
    mask: Array | None,
    lengths: Array | None,
    options: tuple[Any, ...],
    save: bool,
) -> tuple[Array, Array, tuple[Array | None, ...] | None]: ...
def softmax_backward(
    dy: Array, y: Array, axis: int, logarithm: bool, out: Array | None = None
) -> Array: ...
def softmax_forward(x: Array, axis: int, logarithm: bool) -> Array: ...
def sparse_categorical_crossentropy_backward(
    dy: Array,
    y_pred: Array,
    labels: Array,
    from_logits: bool,
    label_smoothing: float,
    class_weights: Array | None,
    ignore_index: int | None,
    out: Array | None = None,
) -> Array: ...
def sparse_categorical_crossentropy_forward(
    y_pred: Array,
    labels: Array,
    from_logits: bool,
    label_smoothing: float,
    class_weights: Array | None,
    ignore_index: int | None,
) -> Array: ...
def squared_norm(x: Array) -> float: ...
def supported_cpu_isas() -> list[str]: ...
