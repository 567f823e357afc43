"""`Attention`: queries take what they find in values, without weights of projection."""

from __future__ import annotations

from typing import Any, ClassVar

import numpy as np

from lamella import ops
from lamella.arguments import number
from lamella.arrays import expand_dims, like, squeeze, to_numpy
from lamella.layers.arguments import choice, flag
from lamella.layers.attention_inputs import agree, both, check_sequences, visibility
from lamella.layers.base import Layer, Pullback
from lamella.layers.shapes import Shape, Shapes
from lamella.layers.weight import Weight
from lamella.random import SeedGenerator
from lamella.registry import register


@register("layer")
class Attention(Layer):
    """Attention without projections: ``y_i = sum_j softmax_j(s_ij) v_j``.

    ``s_ij = scale q_i . k_j`` (Luong et al. 2015), or with ``score_mode="concat"``
    ``s_ij = weight sum_d tanh(scale (q_id + k_jd))``.

    Called on ``[query, value]`` or ``[query, value, key]``, query (N, S, D), value (N, L, Dv) and
    key (N, L, D), by default the value; y (N, S, Dv). On one tensor it is self-attention: the
    tensor is query, value and key.

    Parameters
    ----------
    use_scale : bool
        Whether ``scale`` is a trained number; without it is 1, not ``1 / sqrt(D)``.
    score_mode : {"dot", "concat"}
        How queries and keys are compared. With "concat" ``weight`` is a trained number.
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
        sees nothing gives 0; in Keras it sees what is masked. What a mask hides may be NaN, but
        then so is the gradient of ``scale``.
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
        self.score_mode = choice(self, "score_mode", score_mode, ["dot", "concat"])
        self.dropout = number(self.label, "dropout", dropout, 0, 1, exclude=[1])
        self.seed = seed
        try:
            self._seeds = SeedGenerator(seed)
        except (TypeError, ValueError) as error:
            raise self.error(str(error)) from None
        self.scale: Weight | None = None
        self.concat_score_weight: Weight | None = None

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
        if self.score_mode == "concat":
            self.concat_score_weight = self.add_weight("concat_score_weight", (), "ones")

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

    def _op_options(
        self,
        query: Any,
        mask: Any,
        training: bool,
        return_attention_scores: bool,
        use_causal_mask: bool,
    ) -> dict[str, Any]:
        drops = training and self.dropout > 0
        # A list has a key's mask too where there is a key; as in Keras it is not used.
        query_mask, value_mask = mask[:2] if isinstance(mask, (list, tuple)) else (mask, mask)
        options = {
            "causal": use_causal_mask,
            "query_offset": 0 if use_causal_mask else None,
            "dropout": self.dropout if drops else 0.0,
            "seed": self._seeds.next() if drops else None,
            "return_weights": return_attention_scores,
        }
        if self.score_mode == "dot":
            seen = visibility(query_mask, value_mask)
            seen = {name: like(query, array) for name, array in seen.items()}
            return {**options, "scale": 1.0, **seen}
        rows = None if query_mask is None else query_mask[:, :, np.newaxis]
        columns = None if value_mask is None else value_mask[:, np.newaxis]
        return {**options, "mask": like(query, both(rows, columns))}

    def call(
        self,
        x: Any,
        training: bool = False,
        mask: Any = None,
        return_attention_scores: bool = False,
        use_causal_mask: bool = False,
    ) -> Any:
        query, key, value = _inputs(x)
        options = self._op_options(query, mask, training, return_attention_scores, use_causal_mask)
        concat = self.concat_score_weight
        if self.scale is not None:
            scale = self.scale.value.reshape(1)
            query = ops.multiply(query, scale)
            key = key if concat is None else ops.multiply(key, scale)
        if concat is not None:
            weights = _repeated(concat, query.shape[2])
            return ops.additive_attention(query, value, key, weights, **options)
        heads = (expand_dims(array, 2) for array in (query, key, value))
        return _without_heads(ops.attention(*heads, **options))

    def forward(
        self,
        x: Any,
        training: bool,
        mask: Any = None,
        return_attention_scores: bool = False,
        use_causal_mask: bool = False,
    ) -> tuple[Any, Pullback]:
        query, key, value = _inputs(x)
        options = self._op_options(query, mask, training, return_attention_scores, use_causal_mask)
        needed = self.needs_input_gradient
        concat = self.concat_score_weight is not None
        pull_query = pull_key = None
        if self.scale is not None:
            query, pull_query = self._scaled(query)
            if concat:
                key, pull_key = self._scaled(key)
        needs = (
            needed or (pull_query is not None and self._trainable),
            needed or (pull_key is not None and self._trainable),
            needed,
        )
        attend = self._concat_vjp if concat else self._dot_vjp
        results, pull = attend(query, key, value, needs, options)

        def pullback(dy: Any) -> Any:
            d_query, d_key, d_value = pull(*(dy if return_attention_scores else (dy,)))
            if pull_query is not None:
                d_query = pull_query(d_query)
            if pull_key is not None:
                d_key = pull_key(d_key)
            return _gradients(x, d_query, d_key, d_value, needed)

        return results, pullback

    def _scaled(self, array: np.ndarray) -> tuple[np.ndarray, Pullback]:
        """Return scale * array, and a pullback that gives the scale its gradient."""
        scale, trained = self.scale, self._trainable
        assert scale is not None
        y, pull = ops.multiply.vjp(
            array, scale.value.reshape(1), needs=(self.needs_input_gradient, trained)
        )

        def pullback(dy: np.ndarray | None) -> np.ndarray | None:
            if dy is None:
                return None
            dx, d_scale = pull(dy)
            if d_scale is not None:
                scale.add_gradient(d_scale.reshape(()))
            return dx

        return y, pullback

    def _dot_vjp(
        self,
        query: np.ndarray,
        key: np.ndarray,
        value: np.ndarray,
        needs: tuple[bool, bool, bool],
        options: dict[str, Any],
    ) -> tuple[Any, Pullback]:
        heads = (expand_dims(array, 2) for array in (query, key, value))
        results, pull = ops.attention.vjp(*heads, needs=(*needs, False, False), **options)

        def pullback(dy: np.ndarray | None, *d_weights: np.ndarray | None) -> Any:
            of_heads = [None if dy is None else expand_dims(dy, 2)]
            of_heads += [None if d is None else expand_dims(d, 1) for d in d_weights]
            return [None if d is None else squeeze(d, 2) for d in pull(*of_heads)[:3]]

        return _without_heads(results), pullback

    def _concat_vjp(
        self,
        query: np.ndarray,
        key: np.ndarray,
        value: np.ndarray,
        needs: tuple[bool, bool, bool],
        options: dict[str, Any],
    ) -> tuple[Any, Pullback]:
        weight, trained = self.concat_score_weight, self._trainable
        assert weight is not None
        of_query, of_key, of_value = needs
        results, pull = ops.additive_attention.vjp(
            query,
            value,
            key,
            _repeated(weight, query.shape[2]),
            needs=(of_query, of_value, of_key, trained, False),
            **options,
        )

        def pullback(*dy: np.ndarray | None) -> Any:
            d_query, d_value, d_key, d_weights, _ = pull(*dy)
            if d_weights is not None:
                total = to_numpy(d_weights).sum(dtype=np.float32, keepdims=True)
                weight.add_gradient(like(d_weights, total.reshape(())))
            return d_query, d_key, d_value

        return results, pullback

    def get_config(self) -> dict[str, Any]:
        return {
            **super().get_config(),
            "use_scale": self.use_scale,
            "score_mode": self.score_mode,
            "dropout": self.dropout,
            "seed": self.seed,
        }


def _repeated(weight: Weight, size: int) -> Any:
    """Return a vector of `size` times the weight's number."""
    return like(weight.value, np.full(size, to_numpy(weight.value)))


def _inputs(x: Any) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return query, key and value."""
    query, value, *key = x if isinstance(x, (list, tuple)) else (x, x)
    return query, key[0] if key else value, value


def _gradients(x: Any, query: Any, key: Any, value: Any, needed: bool) -> Any:
    """Return the gradients to what the layer was called on."""
    if not needed:
        return (None,) * len(x) if isinstance(x, (list, tuple)) else None
    if not isinstance(x, (list, tuple)):
        return ops.add(ops.add(query, key), value)
    return (query, value, key) if len(x) == 3 else (query, ops.add(key, value))


def _without_heads(results: Any) -> Any:
    """Return y (N, S, Dv), or a tuple of it and the weights (N, S, L)."""
    if not isinstance(results, tuple):
        return squeeze(results, 2)
    y, weights = results
    return squeeze(y, 2), squeeze(weights, 1)
