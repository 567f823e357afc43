"""`AdditiveAttention`: queries take what they find in values, by a score of one hidden layer."""

from __future__ import annotations

from typing import Any, ClassVar

import numpy as np

from lamella import ops
from lamella.arguments import number
from lamella.layers.arguments import flag
from lamella.layers.base import Layer, Pullback
from lamella.layers.shapes import Shape, Shapes, common_batch
from lamella.layers.weight import Weight
from lamella.random import SeedGenerator
from lamella.registry import register


@register("layer")
class AdditiveAttention(Layer):
    """Additive attention (Bahdanau et al. 2015): ``y_i = sum_j softmax_j(s_ij) v_j``.

    With the scores ``s_ij = sum_e scale_e tanh(q_ie + k_je)``. Called on ``[query, value]`` or
    ``[query, value, key]``, query (N, S, D), value (N, L, Dv) and key (N, L, D), by default the
    value; y (N, S, Dv). On one tensor it is self-attention: the tensor is query, value and key.

    Parameters
    ----------
    use_scale : bool
        Whether ``scale`` (D) is trained; else it is 1.
    dropout : float
        In training, the probability of a weight of a value to be dropped, in [0, 1).
    seed : int, optional
        Starts a stream of dropout masks of the layer's own; by default they come from the global
        seed (`lamella.utils.set_random_seed`).
    **kwargs
        name, trainable, input_shape and so on: see `Layer`.

    Raises
    ------
    ValueError
        If an argument or the shape of an input is not what it should be.

    Notes
    -----
    A call may have

    ``mask`` : [query_mask, value_mask] of bool arrays (N, S) and (N, L), each or None
        Where the query's is False, y is 0; where the value's is, no query looks. (One array (N, T)
        where the layer is called on one tensor. In a graph masks flow by themselves.) A query that
        sees nothing gives 0; in Keras it sees what is masked.
    ``return_attention_scores`` : bool
        Return ``(y, weights)``, weights (N, S, L) after dropout.
    ``use_causal_mask`` : bool
        Query i sees the keys j <= i.

    Examples
    --------
    >>> import numpy as np
    >>> layer = AdditiveAttention(use_scale=False)
    >>> query, value = np.zeros((1, 1, 2)), np.array([[[5.0, 5.0], [-5.0, -5.0]]])
    >>> y, weights = layer([query, value], return_attention_scores=True)
    >>> weights.round(3)
    array([[[0.982, 0.018]]], dtype=float32)
    >>> layer([query, value], mask=[None, np.array([[False, True]])])
    array([[[-5., -5.]]], dtype=float32)
    """

    input_axes = ("batch", "steps", "features")
    supports_masking = True
    uses_mask = True
    call_options: ClassVar = {"return_attention_scores": flag, "use_causal_mask": flag}

    def __init__(
        self,
        use_scale: bool = True,
        dropout: float = 0.0,
        seed: int | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.use_scale = flag(self, "use_scale", use_scale)
        self.dropout = number(self.label, "dropout", dropout, 0, 1, exclude=[1])
        self.seed = seed
        try:
            self._seeds = SeedGenerator(seed)
        except (TypeError, ValueError) as error:
            raise self.error(str(error)) from None
        self.scale: Weight | None = None

    # -- shapes -------------------------------------------------------------------------------

    def check_input_shape(self, input_shape: Shapes) -> None:
        query, value, key = shapes = self._shapes(input_shape)
        for name, shape in zip(("query", "value", "key"), shapes, strict=True):
            if len(shape) != 3 or shape[2] == 0:
                raise self.error(
                    f"expects a {name} of shape (batch, steps, features), with at least one "
                    f"feature, got {shape}"
                )
        if _differ(query[2], key[2]):
            raise self.error(f"expects equal features of query {query} and key {key}")
        if _differ(value[1], key[1]):
            raise self.error(f"expects as many steps of value {value} as of key {key}")
        try:
            common_batch(shapes)
        except ValueError as error:
            raise self.error(str(error)) from None
        super().check_input_shape(query)

    def _shapes(self, input_shape: Shapes) -> list[Shape]:
        """Return the shapes of query, value and key."""
        if not isinstance(input_shape, list):
            return [input_shape] * 3
        if len(input_shape) not in (2, 3):
            raise self.error(
                "expects one input, [query, value] or [query, value, key], "
                f"got a list of {len(input_shape)}"
            )
        return [*input_shape, input_shape[1]][:3]

    def build(self, input_shape: Any) -> None:
        if self.use_scale:
            features = self.known_channels(self._shapes(input_shape)[0])
            self.scale = self.add_weight("scale", (features,), "glorot_uniform")

    def compute_output_shape(
        self,
        input_shape: Any,
        return_attention_scores: bool = False,
        use_causal_mask: bool = False,
    ) -> Any:
        query, value, _ = self._shapes(input_shape)
        y = (*query[:2], value[2])
        return (y, (*query[:2], value[1])) if return_attention_scores else y

    # -- masks --------------------------------------------------------------------------------

    @property
    def makes_mask(self) -> bool:
        return False

    def compute_mask(self, inputs: Any, mask: Any = None) -> Any:
        """Return the query's mask."""
        return mask[0] if isinstance(mask, (list, tuple)) else mask

    def _checked_mask(self, mask: Any, shapes: Shapes) -> Any:
        if not isinstance(shapes, list):
            return self._checked_steps("mask", mask, shapes)
        if not isinstance(mask, (list, tuple)) or len(mask) not in (2, 3):
            raise self.error(f"mask expects a list [query_mask, value_mask], got {mask!r}")
        return [
            None if one is None else self._checked_steps(name, one, shape)
            for name, one, shape in zip(("query_mask", "value_mask"), mask, shapes, strict=False)
        ]

    def _checked_steps(self, name: str, mask: Any, shape: Shape) -> np.ndarray:
        mask = np.asarray(mask)
        if mask.dtype != np.bool_ or mask.shape != shape[:2]:
            raise self.error(
                f"{name} expects a bool array of shape {shape[:2]}, "
                f"got {mask.dtype} of shape {mask.shape}"
            )
        return mask

    # -- computing ----------------------------------------------------------------------------

    def _op_options(
        self, training: bool, return_attention_scores: bool, use_causal_mask: bool
    ) -> dict[str, Any]:
        drops = training and self.dropout > 0
        return {
            "causal": use_causal_mask,
            "query_offset": 0 if use_causal_mask else None,
            "dropout": self.dropout if drops else 0.0,
            "seed": self._seeds.next() if drops else None,
            "return_weights": return_attention_scores,
        }

    def _op_arrays(self, x: Any, mask: Any) -> tuple[np.ndarray | None, ...]:
        query, value, *key = x if isinstance(x, (list, tuple)) else (x, x)
        scale = None if self.scale is None else self.scale.value
        # A list has a key's mask too where there is a key; as in Keras it is not used.
        masks = mask[:2] if isinstance(mask, (list, tuple)) else (mask, mask)
        return query, value, key[0] if key else value, scale, _pairs(*masks)

    def call(
        self,
        x: Any,
        training: bool = False,
        mask: Any = None,
        return_attention_scores: bool = False,
        use_causal_mask: bool = False,
    ) -> Any:
        options = self._op_options(training, return_attention_scores, use_causal_mask)
        return ops.additive_attention(*self._op_arrays(x, mask), **options)  # type: ignore[arg-type]

    def forward(
        self,
        x: Any,
        training: bool,
        mask: Any = None,
        return_attention_scores: bool = False,
        use_causal_mask: bool = False,
    ) -> tuple[Any, Pullback]:
        options = self._op_options(training, return_attention_scores, use_causal_mask)
        scale = self.scale if self._trainable else None
        needs = (*[self.needs_input_gradient] * 3, scale is not None, False)
        y, pull = ops.additive_attention.vjp(*self._op_arrays(x, mask), needs=needs, **options)

        def pullback(dy: Any) -> Any:
            into = None if scale is None else scale.gradient_out()
            d_results = dy if return_attention_scores else (dy,)
            *of_inputs, d_scale, _ = pull(*d_results, out=(None, None, None, into, None))
            if scale is not None:
                scale.add_gradient(d_scale)
            return self._gradients(x, *of_inputs)

        return y, pullback

    def _gradients(self, x: Any, query: Any, value: Any, key: Any) -> Any:
        """Return the gradients to what the layer was called on."""
        if query is None:
            return (None,) * len(x) if isinstance(x, (list, tuple)) else None
        if not isinstance(x, (list, tuple)):
            return ops.add(ops.add(query, key), value)
        return (query, value, key) if len(x) == 3 else (query, ops.add(key, value))

    def get_config(self) -> dict[str, Any]:
        return {
            **super().get_config(),
            "use_scale": self.use_scale,
            "dropout": self.dropout,
            "seed": self.seed,
        }


def _differ(size: int | None, other: int | None) -> bool:
    return None not in (size, other) and size != other


def _pairs(query_mask: np.ndarray | None, value_mask: np.ndarray | None) -> np.ndarray | None:
    """Return which of the pairs (N, S, L) count; one mask alone stays a column or a row."""
    column = None if query_mask is None else query_mask[:, :, np.newaxis]
    row = None if value_mask is None else value_mask[:, np.newaxis]
    if column is None or row is None:
        return row if column is None else column
    return np.logical_and(column, row)
