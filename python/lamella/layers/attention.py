"""`Attention`: queries take what they find in values, without weights of projection."""

from __future__ import annotations

from typing import Any, ClassVar

import numpy as np

from lamella import ops
from lamella.arguments import number
from lamella.layers.arguments import choice, flag
from lamella.layers.attention_inputs import agree, check_sequences, visibility
from lamella.layers.base import Layer, Pullback
from lamella.layers.shapes import Shape, Shapes
from lamella.layers.weight import Weight
from lamella.random import SeedGenerator
from lamella.registry import register


@register("layer")
class Attention(Layer):
    """Dot-product attention (Luong et al. 2015): ``y_i = sum_j softmax_j(scale q_i . k_j) v_j``.

    Called on ``[query, value]`` or ``[query, value, key]``, query (N, S, D), value (N, L, Dv) and
    key (N, L, D), by default the value; y (N, S, Dv). On one tensor it is self-attention: the
    tensor is query, value and key.

    Parameters
    ----------
    use_scale : bool
        Whether ``scale`` is a trained number; without it is 1, not ``1 / sqrt(D)``.
    score_mode : {"dot"}
        How queries and keys are compared.
    dropout : float
        In training, the probability of a weight of a value to be dropped, in [0, 1).
    seed : int, optional
        Starts a stream of dropout masks of the layer's own.
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
    >>> x = np.eye(2)[np.newaxis]
    >>> Attention()([x, 2 * x]).round(2)
    array([[[1.76, 0.24],
            [0.24, 1.76]]], dtype=float32)
    """

    input_axes = ("batch", "steps", "features")
    supports_masking = True
    uses_mask = True
    call_options: ClassVar = {"return_attention_scores": flag, "use_causal_mask": flag}

    def __init__(
        self,
        use_scale: bool = False,
        score_mode: str = "dot",
        dropout: float = 0.0,
        seed: int | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.use_scale = flag(self, "use_scale", use_scale)
        self.score_mode = choice(self, "score_mode", score_mode, ["dot"])
        self.dropout = number(self.label, "dropout", dropout, 0, 1, exclude=[1])
        self.seed = seed
        try:
            self._seeds = SeedGenerator(seed)
        except (TypeError, ValueError) as error:
            raise self.error(str(error)) from None
        self.scale: Weight | None = None

    # -- shapes -------------------------------------------------------------------------------

    def check_input_shape(self, input_shape: Shapes) -> None:
        query, value, key = self._shapes(input_shape)
        check_sequences(self, query, value, key)
        if not agree(query[2], key[2]) or query[2] == 0:
            raise self.error(f"expects equal features >= 1 of query {query} and key {key}")

    def _shapes(self, input_shape: Shapes) -> tuple[Shape, Shape, Shape]:
        """Return the shapes of query, value and key."""
        if not isinstance(input_shape, list):
            return input_shape, input_shape, input_shape
        if len(input_shape) not in (2, 3):
            raise self.error(
                "expects one input, [query, value] or [query, value, key], "
                f"got a list of {len(input_shape)}"
            )
        query, value, *key = input_shape
        return query, value, key[0] if key else value

    def build(self, input_shape: Any) -> None:
        if self.use_scale:
            self.scale = self.add_weight("scale", (), "ones")

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
        names = ("query_mask", "value_mask", "key_mask")
        return [
            None if one is None else self._checked_steps(*each)
            for one, *each in zip(mask, names, mask, shapes, strict=False)
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

    def _heads(self, x: Any) -> list[np.ndarray]:
        """Return query, key and value as those of one head, (N, steps, 1, features)."""
        query, value, *key = x if isinstance(x, (list, tuple)) else (x, x)
        return [np.expand_dims(a, 2) for a in (query, key[0] if key else value, value)]

    def _op_options(
        self, mask: Any, training: bool, return_attention_scores: bool, use_causal_mask: bool
    ) -> dict[str, Any]:
        drops = training and self.dropout > 0
        # A list has a key's mask too where there is a key; as in Keras it is not used.
        query_mask, value_mask = mask[:2] if isinstance(mask, (list, tuple)) else (mask, mask)
        return {
            "scale": 1.0,
            "causal": use_causal_mask,
            "query_offset": 0 if use_causal_mask else None,
            "dropout": self.dropout if drops else 0.0,
            "seed": self._seeds.next() if drops else None,
            "return_weights": return_attention_scores,
            **visibility(query_mask, value_mask),
        }

    def call(
        self,
        x: Any,
        training: bool = False,
        mask: Any = None,
        return_attention_scores: bool = False,
        use_causal_mask: bool = False,
    ) -> Any:
        query, key, value = self._heads(x)
        if self.scale is not None:
            query = ops.multiply(query, self.scale.value.reshape(1))
        options = self._op_options(mask, training, return_attention_scores, use_causal_mask)
        return _without_heads(ops.attention(query, key, value, **options))

    def forward(
        self,
        x: Any,
        training: bool,
        mask: Any = None,
        return_attention_scores: bool = False,
        use_causal_mask: bool = False,
    ) -> tuple[Any, Pullback]:
        query, key, value = self._heads(x)
        scale, needed = self.scale, self.needs_input_gradient
        trained = scale is not None and self._trainable
        if scale is not None:
            query, pull_scale = ops.multiply.vjp(
                query, scale.value.reshape(1), needs=(needed, trained)
            )
        options = self._op_options(mask, training, return_attention_scores, use_causal_mask)
        y, pull = ops.attention.vjp(
            query,
            key,
            value,
            needs=(needed or trained, needed, needed, False, False),
            **options,
        )

        def pullback(dy: Any) -> Any:
            dy, d_weights = dy if return_attention_scores else (dy, None)
            d_results = [None if dy is None else np.expand_dims(dy, 2)]
            if return_attention_scores:
                d_results.append(None if d_weights is None else np.expand_dims(d_weights, 1))
            d_query, d_key, d_value, *_ = pull(*d_results)
            if scale is not None:
                d_query, d_scale = pull_scale(d_query)
                if trained:
                    scale.add_gradient(d_scale.reshape(()))  # type: ignore[union-attr]
            return self._gradients(x, d_query, d_key, d_value)

        return _without_heads(y), pullback

    def _gradients(self, x: Any, *of_heads: Any) -> Any:
        """Return the gradients to what the layer was called on."""
        if any(gradient is None for gradient in of_heads):
            return (None,) * len(x) if isinstance(x, (list, tuple)) else None
        query, key, value = (np.squeeze(gradient, 2) for gradient in of_heads)
        if not isinstance(x, (list, tuple)):
            return ops.add(ops.add(query, key), value)
        return (query, value, key) if len(x) == 3 else (query, ops.add(key, value))

    def get_config(self) -> dict[str, Any]:
        return {
            **super().get_config(),
            "use_scale": self.use_scale,
            "score_mode": self.score_mode,
            "dropout": self.dropout,
            "seed": self.seed,
        }


def _without_heads(results: Any) -> Any:
    """Return y (N, S, Dv), or a tuple of it and the weights (N, S, L)."""
    if not isinstance(results, tuple):
        return np.squeeze(results, 2)
    y, weights = results
    return np.squeeze(y, 2), np.squeeze(weights, 1)
