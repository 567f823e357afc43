"""The inputs of attention layers: shapes of query, value and key, and their masks for the op."""

from __future__ import annotations

from typing import Any

import numpy as np

from lamella.layers.base import Layer
from lamella.layers.shapes import Shape

Mask = np.ndarray | None


def agree(first: int | None, second: int | None) -> bool:
    """Return whether two sizes may be equal."""
    return first is None or second is None or first == second


def check_sequences(layer: Layer, query: Shape, value: Shape, key: Shape) -> None:
    """Raise ValueError unless these are sequences that fit, (N, S, D), (N, L, Dv), (N, L, Dk)."""
    for name, shape in (("query", query), ("value", value), ("key", key)):
        if len(shape) != 3:
            raise layer.error(f"expects a {name} of shape (batch, steps, features), got {shape}")
    if not agree(value[1], key[1]):
        raise layer.error(f"expects as many steps of value {value} as of key {key}")
    if not agree(query[0], value[0]) or not agree(value[0], key[0]):
        raise layer.error(f"the inputs differ in batch size: {query}, {value}, {key}")


def as_mask(values: Any) -> np.ndarray:
    """Return a bool array: anything but 0 is True."""
    values = np.asarray(values)
    return values if values.dtype == np.bool_ else values != 0


def both(first: Mask, second: Mask) -> Mask:
    """Return where both masks are True; None is True everywhere.

    Examples
    --------
    >>> both(np.array([True, False]), None).tolist()
    [True, False]
    """
    if first is None or second is None or first is second:
        return second if first is None else first
    return np.logical_and(first, second)


def leading_lengths(mask: np.ndarray) -> np.ndarray | None:
    """Return how many keys of each sequence a mask (N, L) shows, None unless these come first.

    Examples
    --------
    >>> leading_lengths(np.array([[True, True, False], [False, False, False]])).tolist()
    [2, 0]
    >>> leading_lengths(np.array([[False, True, True]])) is None
    True
    """
    lengths = np.count_nonzero(mask, axis=1)
    shown = np.arange(mask.shape[1]) < lengths[:, np.newaxis]
    return lengths if np.array_equal(mask, shown) else None


def visibility(query_mask: Mask, key_mask: Mask, attention_mask: Mask = None) -> dict[str, Any]:
    """Return ``mask`` and ``key_lengths`` for the op, each None where it can do without.

    Padding behind the keys needs no mask: the op does not even visit it. A mask of queries or keys
    alone stays a row or a column, which the op repeats.

    Parameters
    ----------
    query_mask : bool array (N, S), optional
    key_mask : bool array (N, L), optional
    attention_mask : bool array (N, S, L) or (N, A, S, L), optional
        Any axis may be 1.

    Examples
    --------
    >>> padded = np.array([[True, True, False]])
    >>> visibility(None, padded)["mask"] is None
    True
    >>> visibility(padded, padded)["mask"].shape
    (1, 1, 3, 1)
    """
    mask = attention_mask
    if mask is not None and mask.ndim == 3:
        mask = mask[:, np.newaxis]
    if query_mask is not None:
        mask = both(mask, query_mask[:, np.newaxis, :, np.newaxis])
    lengths = None if key_mask is None else leading_lengths(key_mask)
    if key_mask is not None and lengths is None:
        mask = both(mask, key_mask[:, np.newaxis, np.newaxis])
    return {"mask": mask, "key_lengths": lengths}
