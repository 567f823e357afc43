"""embedding: y[...] = table[indices[...]], rows of a table by their number."""

from __future__ import annotations

import numpy as np

from .precision import as_float64


def forward(indices, table):
    """indices (...) of any integer type, table (V,D) -> y (...,D)."""
    (table,) = as_float64(table)
    return table[indices]


def backward(dy, indices, table):
    """dy (...,D) -> None, dtable (V,D): each row sums the dy of its index, in their order."""
    d_table = np.zeros(np.shape(table))
    rows = np.asarray(dy, np.float64).reshape(-1, d_table.shape[1])
    for index, row in zip(np.ravel(indices), rows, strict=True):
        d_table[index] += row
    return None, d_table
