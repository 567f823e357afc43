"""The beginning of a graph: `Input` and `InputLayer`; `SymbolicTensor` and `Node` by one name."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from lamella.layers.arguments import integer, reject
from lamella.layers.base import Layer, Pullback
from lamella.layers.shapes import as_shape
from lamella.layers.symbolic import Node, SymbolicTensor
from lamella.registry import register

__all__ = ["Input", "InputLayer", "Node", "SymbolicTensor"]

_INPUT_DTYPES = ("float32", "int32", "int64", "bool")


@register("layer")
class InputLayer(Layer):
    """Where data enters a model.

    Parameters
    ----------
    shape : tuple of int or None, optional
        Without the batch axis.
    batch_size : int, optional
    dtype : str, optional
        "float32" (default), "int32", "int64", or "bool" for an input that is a mask.
    batch_shape : tuple of int or None, optional
        With the batch axis, instead of ``shape``.
    name : str, optional

    Raises
    ------
    ValueError
        If neither or both of ``shape`` and ``batch_shape`` are given, or they are not shapes.

    Examples
    --------
    >>> InputLayer((28, 28, 1)).output.shape
    (None, 28, 28, 1)
    """

    def __init__(
        self,
        shape: Sequence[int | None] | None = None,
        batch_size: int | None = None,
        dtype: Any = None,
        sparse: bool | None = None,
        ragged: bool | None = None,
        batch_shape: Sequence[int | None] | None = None,
        input_tensor: Any = None,
        optional: bool = False,
        name: str | None = None,
        *,
        input_shape: Sequence[int | None] | None = None,
        batch_input_shape: Sequence[int | None] | None = None,
    ) -> None:
        super().__init__(name=name)
        reject(self, sparse=sparse, ragged=ragged, input_tensor=input_tensor, optional=optional)
        shape = input_shape if shape is None else shape
        batch_shape = batch_input_shape if batch_shape is None else batch_shape
        if (shape is None) == (batch_shape is None):
            raise self.error("give one of shape (without the batch axis) and batch_shape (with it)")
        if batch_size is not None:
            if shape is None:
                raise self.error("batch_shape has the batch axis already: leave batch_size out")
            integer(self, "batch_size", batch_size)
        given = (batch_size, *self._sizes("shape", shape)) if shape is not None else None
        self.batch_shape = given or self._sizes("batch_shape", batch_shape)
        if not self.batch_shape:
            raise self.error("batch_shape needs at least the batch axis, got ()")
        self.batch_input_shape = self.batch_shape
        self.dtype = self._input_dtype(dtype)
        tensor = SymbolicTensor(self.batch_shape, self.dtype, self.name)
        Node(self, (), (tensor,))
        self.built = True
        self.build_input_shape = self.batch_shape

    def _sizes(self, argument: str, value: Any) -> tuple[int | None, ...]:
        if not hasattr(value, "__iter__"):
            raise self.error(f"{argument} expects a tuple of integers and None, got {value!r}")
        try:
            return as_shape(value)
        except ValueError as error:
            raise self.error(f"{argument}: {error}") from None

    def _input_dtype(self, dtype: Any) -> str:
        try:
            name = np.dtype("float32" if dtype is None else dtype).name
        except TypeError:
            name = ""
        if name not in _INPUT_DTYPES:
            supported = ", ".join(_INPUT_DTYPES)
            raise self.error(f"dtype={dtype!r} is not supported: use one of {supported}")
        return name

    def forward(self, x: Any, training: bool) -> tuple[Any, Pullback]:
        return x, lambda dy: dy

    def call(self, x: Any, training: bool = False) -> Any:
        return x

    def compute_output_shape(self, input_shape: Any) -> Any:
        return input_shape

    def get_config(self) -> dict[str, Any]:
        return {"batch_shape": self.batch_shape, "dtype": self.dtype, "name": self.name}


def Input(
    shape: Sequence[int | None] | None = None,
    batch_size: int | None = None,
    dtype: Any = None,
    sparse: bool | None = None,
    ragged: bool | None = None,
    batch_shape: Sequence[int | None] | None = None,
    name: str | None = None,
    tensor: Any = None,
    optional: bool = False,
) -> SymbolicTensor:
    """Return the symbolic tensor a graph begins with.

    Parameters
    ----------
    shape : tuple of int or None
        Without the batch axis.
    batch_size, dtype, batch_shape, name : optional
        See `InputLayer`.
    sparse, ragged, tensor, optional
        Not supported.

    Examples
    --------
    >>> Input(shape=(None, 8), name="steps")
    <SymbolicTensor shape=(None, None, 8), dtype=float32, name=steps>
    """
    layer = InputLayer(
        shape=shape,
        batch_size=batch_size,
        dtype=dtype,
        sparse=sparse,
        ragged=ragged,
        batch_shape=batch_shape,
        input_tensor=tensor,
        optional=optional,
        name=name,
    )
    return layer.output
