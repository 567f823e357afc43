"""`Embedding`."""

from __future__ import annotations

from typing import Any

import numpy as np

from lamella import initializers, ops, regularizers
from lamella.arrays import like
from lamella.layers.arguments import flag, integer, reject
from lamella.layers.base import Layer, Pullback
from lamella.layers.shapes import Shape
from lamella.layers.weight import Weight
from lamella.registry import register

_INDEX_DTYPES = (np.dtype(np.int32), np.dtype(np.int64))


def as_indices(array: np.ndarray, where: str = "") -> np.ndarray:
    """Return indices as int32 or int64: such arrays as they are, whole numbers converted.

    Raises
    ------
    TypeError
        They are not real numbers.
    ValueError
        They are not whole, or too large.
    """
    if array.dtype in _INDEX_DTYPES:
        return array
    if array.dtype.kind not in "fiub":
        raise TypeError(f"{where}expects whole numbers, received dtype {array.dtype}")
    if array.dtype.kind == "f":
        # NaN is unequal to itself, infinity outside.
        strange = (np.trunc(array) != array) | (np.abs(array) >= 2.0**63)
        if strange.any():
            raise ValueError(f"{where}expects whole numbers, received {array[strange].flat[0]!r}")
    elif array.dtype == np.uint64 and array.size and array.max() >= 2**63:
        raise ValueError(f"{where}expects indices below 2**63, received {array.max()}")
    return array.astype(np.int64)


@register("layer")
class Embedding(Layer):
    """Rows of a trained table by their number: ``y[n, t] = embeddings[x[n, t]]``.

    x (N, ...) of indices in [0, input_dim), embeddings (input_dim, output_dim), y (N, ...,
    output_dim). Indices may be integers or, as in Keras, floats that are whole numbers; a model
    whose input only feeds layers like this one keeps integers as they are.

    Parameters
    ----------
    input_dim : int
        Number of rows: the largest index + 1.
    output_dim : int
    embeddings_initializer : str or Initializer
    embeddings_regularizer, activity_regularizer : optional
    mask_zero : bool
        Index 0 is padding: steps that have it are masked for the layers that follow in a model.
        (Between layers called on arrays, pass ``mask=layer.compute_mask(x)``.)
    weights : array or list of one, optional
        First value of the table.
    embeddings_constraint, lora_rank, lora_alpha, quantization_config
        Not supported.
    **kwargs
        name, trainable, input_length and so on: see `Layer`.

    Raises
    ------
    ValueError
        If an argument is not what it should be.
    IndexError
        In a call, if an index is outside [0, input_dim).

    Examples
    --------
    >>> import numpy as np
    >>> layer = Embedding(4, 2, weights=np.arange(8.0).reshape(4, 2))
    >>> layer(np.array([[3, 0]]))
    array([[[6., 7.],
            [0., 1.]]], dtype=float32)
    """

    input_axes = ("batch", ...)
    takes_indices = True

    def __init__(
        self,
        input_dim: int,
        output_dim: int,
        embeddings_initializer: Any = "uniform",
        embeddings_regularizer: Any = None,
        embeddings_constraint: Any = None,
        mask_zero: bool = False,
        weights: Any = None,
        lora_rank: Any = None,
        lora_alpha: Any = None,
        quantization_config: Any = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        reject(
            self,
            embeddings_constraint=embeddings_constraint,
            lora_rank=lora_rank,
            lora_alpha=lora_alpha,
            quantization_config=quantization_config,
        )
        self.input_dim = self.index_limit = integer(self, "input_dim", input_dim)
        self.output_dim = integer(self, "output_dim", output_dim)
        self.mask_zero = self.supports_masking = flag(self, "mask_zero", mask_zero)
        try:
            self.embeddings_initializer = initializers.get(embeddings_initializer)
            self.embeddings_regularizer = regularizers.get(embeddings_regularizer)
        except ValueError as error:
            raise self.error(str(error)) from None
        self._first_value = self._checked_table(weights)

    def _checked_table(self, weights: Any) -> np.ndarray | None:
        if weights is None:
            return None
        if isinstance(weights, (list, tuple)) and len(weights) == 1:
            (weights,) = weights
        table = np.asarray(weights)
        shape = (self.input_dim, self.output_dim)
        if table.shape != shape or table.dtype.kind not in "fiu":
            raise self.error(
                f"weights expects numbers of shape {shape}, got {table.dtype} of {table.shape}"
            )
        return table

    def build(self, input_shape: Shape) -> None:
        self.embeddings: Weight = self.add_weight(
            "embeddings",
            (self.input_dim, self.output_dim),
            self.embeddings_initializer,
            self.embeddings_regularizer,
        )
        if self._first_value is not None:
            self.embeddings.assign(self._first_value)
            self._first_value = None

    def forward(self, x: np.ndarray, training: bool) -> tuple[np.ndarray, Pullback]:
        table, trained = self.embeddings, self._trainable
        y, pull = ops.embedding.vjp(
            like(table.value, as_indices(x)), table.value, needs=(False, trained)
        )

        def pullback(dy: np.ndarray) -> None:
            if trained:
                table.add_gradient(pull(dy, out=(None, table.gradient_out()))[1])

        return y, pullback

    def call(self, x: np.ndarray, training: bool = False) -> np.ndarray:
        return ops.embedding(like(self.embeddings.value, as_indices(x)), self.embeddings.value)

    @property
    def makes_mask(self) -> bool:
        return self.mask_zero

    def compute_mask(self, inputs: Any, mask: Any = None) -> Any:
        return inputs != 0 if self.mask_zero else None

    def _convert(self, array: Any) -> np.ndarray:
        return as_indices(np.asarray(array))

    def compute_output_shape(self, input_shape: Shape) -> Shape:
        return (*input_shape, self.output_dim)

    def get_config(self) -> dict[str, Any]:
        penalty = self.embeddings_regularizer
        return {
            **super().get_config(),
            "input_dim": self.input_dim,
            "output_dim": self.output_dim,
            "embeddings_initializer": initializers.serialize(self.embeddings_initializer),
            "embeddings_regularizer": None if penalty is None else regularizers.serialize(penalty),
            "mask_zero": self.mask_zero,
        }
