"""Cross-entropies, one loss a row: sparse, categorical and binary."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from lamella.ops._backend import backend_of, zeros
from lamella.ops._op import Array, Gradients, Pullback, check_gradients, needed, op, outputs


def _vjp(
    name: str,
    forward: Callable[..., Array],
    backward: Callable[..., Array],
    arguments: tuple[Any, ...],
    needs: Sequence[bool] | None,
) -> tuple[Array, Pullback]:
    """Forward pass; the pullback keeps the arguments, of which the labels have no gradient."""
    wanted, _ = needed(name, needs, 2)
    backend = backend_of(arguments[0])
    loss = forward(*arguments)
    rows = loss.shape

    def pullback(*dy: Array | None, out: Sequence[Array | None] | None = None) -> Gradients:
        check_gradients(name, dy, 1)
        into, _ = outputs(name, out, 2)
        if not wanted:
            return None, None
        gradient = zeros(backend, rows) if dy[0] is None else dy[0]
        return backward(gradient, *arguments, into), None

    return loss, pullback


def _sparse_categorical_crossentropy_vjp(
    y_pred: Array,
    labels: Array,
    *,
    from_logits: bool = False,
    label_smoothing: float = 0.0,
    class_weights: Array | None = None,
    ignore_index: int | None = None,
    needs: Sequence[bool] | None = None,
) -> tuple[Array, Pullback]:
    backend = backend_of(y_pred)
    return _vjp(
        "sparse_categorical_crossentropy",
        backend.sparse_categorical_crossentropy_forward,
        backend.sparse_categorical_crossentropy_backward,
        (y_pred, labels, from_logits, label_smoothing, class_weights, ignore_index),
        needs,
    )


@op(_sparse_categorical_crossentropy_vjp)
def sparse_categorical_crossentropy(
    y_pred: Array,
    labels: Array,
    *,
    from_logits: bool = False,
    label_smoothing: float = 0.0,
    class_weights: Array | None = None,
    ignore_index: int | None = None,
) -> Array:
    """Cross-entropy of each row's class index.

    ``loss_n = -w_n ((1 - s) log p[n, label_n] + s / classes sum_c log p[n, c])`` with
    ``s = label_smoothing``, ``w_n = class_weights[label_n]`` and ``p`` the softmax of the row
    (`from_logits`; computed without forming it) or the row divided by its sum and clipped to
    ``[1e-7, 1 - 1e-7]``, as Keras does. Where clipping changes a value its gradient is 0.

    The pullback returns ``(d_y_pred, None)``. It computes from `y_pred` and `labels` again, so a
    change of theirs gives the gradient at the new values.

    Parameters
    ----------
    y_pred : np.ndarray, shape (N, classes)
        float32 logits or probabilities; at least one class.
    labels : np.ndarray, shape (N,)
        int32 or int64, each in [0, classes) or `ignore_index`.
    from_logits : bool
        Whether `y_pred` holds logits.
    label_smoothing : float
        In [0, 1].
    class_weights : np.ndarray, shape (classes,), optional
        float32; multiplies the whole row by the weight of its label.
    ignore_index : int, optional
        Rows with this label have loss 0 and gradient 0, whatever they hold.

    Returns
    -------
    np.ndarray, shape (N,)
        float32.

    Raises
    ------
    TypeError
        An array of another type or dtype.
    ValueError
        Shapes that do not fit, no classes, an option out of its range.
    IndexError
        A label outside [0, classes) that is not `ignore_index`.

    Notes
    -----
    What is not C-contiguous is copied first, int32 labels are widened to int64; so in all functions
    of this module.

    Examples
    --------
    >>> import numpy as np
    >>> from lamella import ops
    >>> logits = np.float32([[2, 0, 0], [0, 0, 0]])
    >>> loss, pullback = ops.sparse_categorical_crossentropy.vjp(
    ...     logits, np.array([0, 2]), from_logits=True
    ... )
    >>> loss.round(4)
    array([0.2395, 1.0986], dtype=float32)
    >>> d_logits, _ = pullback(np.float32([1, 1]))
    >>> d_logits.round(4)
    array([[-0.213 ,  0.1065,  0.1065],
           [ 0.3333,  0.3333, -0.6667]], dtype=float32)
    """
    return backend_of(y_pred).sparse_categorical_crossentropy_forward(
        y_pred, labels, from_logits, label_smoothing, class_weights, ignore_index
    )


def _categorical_crossentropy_vjp(
    y_pred: Array,
    labels: Array,
    *,
    from_logits: bool = False,
    label_smoothing: float = 0.0,
    class_weights: Array | None = None,
    needs: Sequence[bool] | None = None,
) -> tuple[Array, Pullback]:
    backend = backend_of(y_pred)
    return _vjp(
        "categorical_crossentropy",
        backend.categorical_crossentropy_forward,
        backend.categorical_crossentropy_backward,
        (y_pred, labels, from_logits, label_smoothing, class_weights),
        needs,
    )


@op(_categorical_crossentropy_vjp)
def categorical_crossentropy(
    y_pred: Array,
    labels: Array,
    *,
    from_logits: bool = False,
    label_smoothing: float = 0.0,
    class_weights: Array | None = None,
) -> Array:
    """Cross-entropy of each row's distribution over the classes.

    ``loss_n = -sum_c w_c ((1 - s) labels[n, c] + s / classes) log p[n, c]`` with
    ``s = label_smoothing``, ``w = class_weights`` and ``p`` as in
    `sparse_categorical_crossentropy`. The labels need not sum to 1. The pullback returns
    ``(d_y_pred, None)``, at the values its arguments have when it is called.

    Parameters
    ----------
    y_pred : np.ndarray, shape (N, classes)
        float32 logits or probabilities; at least one class.
    labels : np.ndarray, shape (N, classes)
        float32.
    from_logits, label_smoothing
        As in `sparse_categorical_crossentropy`.
    class_weights : np.ndarray, shape (classes,), optional
        float32; multiplies each class's term of the sum.

    Returns
    -------
    np.ndarray, shape (N,)
        float32.

    Raises
    ------
    TypeError
        An array of another type or dtype.
    ValueError
        Shapes that do not fit, no classes, an option out of its range.

    Examples
    --------
    >>> import numpy as np
    >>> from lamella import ops
    >>> p = np.float32([[0.7, 0.2, 0.1]])
    >>> ops.categorical_crossentropy(p, np.float32([[1, 0, 0]])).round(4)
    array([0.3567], dtype=float32)
    """
    return backend_of(y_pred).categorical_crossentropy_forward(
        y_pred, labels, from_logits, label_smoothing, class_weights
    )


def _binary_crossentropy_vjp(
    y_pred: Array,
    labels: Array,
    *,
    from_logits: bool = False,
    label_smoothing: float = 0.0,
    needs: Sequence[bool] | None = None,
) -> tuple[Array, Pullback]:
    backend = backend_of(y_pred)
    return _vjp(
        "binary_crossentropy",
        backend.binary_crossentropy_forward,
        backend.binary_crossentropy_backward,
        (y_pred, labels, from_logits, label_smoothing),
        needs,
    )


@op(_binary_crossentropy_vjp)
def binary_crossentropy(
    y_pred: Array,
    labels: Array,
    *,
    from_logits: bool = False,
    label_smoothing: float = 0.0,
) -> Array:
    """Mean over each row's classes of the binary cross-entropy.

    ``loss_n = -mean_c (t log p + (1 - t) log(1 - p))`` with
    ``t = (1 - s) labels[n, c] + s / 2``, ``s = label_smoothing``, and ``p`` the sigmoid of `y_pred`
    (`from_logits`; computed without forming it) or `y_pred` clipped to ``[1e-7, 1 - 1e-7]``, as
    Keras does. Where clipping changes a value its gradient is 0. The pullback returns
    ``(d_y_pred, None)``, at the values its arguments have when it is called.

    Parameters
    ----------
    y_pred : np.ndarray, shape (N, classes)
        float32 logits or probabilities; at least one class.
    labels : np.ndarray, shape (N, classes)
        float32.
    from_logits, label_smoothing
        As in `sparse_categorical_crossentropy`.

    Returns
    -------
    np.ndarray, shape (N,)
        float32.

    Raises
    ------
    TypeError
        An array of another type or dtype.
    ValueError
        Shapes that do not fit, no classes, an option out of its range.

    Examples
    --------
    >>> import numpy as np
    >>> from lamella import ops
    >>> p = np.float32([[0.9, 0.2]])
    >>> ops.binary_crossentropy(p, np.float32([[1, 0]])).round(4)
    array([0.1643], dtype=float32)
    """
    return backend_of(y_pred).binary_crossentropy_forward(
        y_pred, labels, from_logits, label_smoothing
    )
