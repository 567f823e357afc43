"""`TransformerBlock`: what `TransformerEncoder` and `TransformerDecoder` have in common."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from lamella import activations, initializers, ops, regularizers
from lamella.arguments import number
from lamella.layers.arguments import flag, integer
from lamella.layers.attention_inputs import as_mask
from lamella.layers.base import Layer, Pullback
from lamella.layers.core import Dense
from lamella.layers.multi_head_attention import MultiHeadAttention
from lamella.layers.regularization import Dropout
from lamella.layers.shapes import Shape
from lamella.layers.wrapper import Wrapper

# f(x, training) -> (f(x), pullback): the part of a block that a residual goes around.
_Branch = Callable[[np.ndarray, bool], tuple[np.ndarray, Pullback]]


class ResidualNorm(Layer):
    """Layer normalization of a sum: ``s = x + residual``, ``y = gamma norm(s) + beta``."""

    def __init__(self, epsilon: float, name: str) -> None:
        super().__init__(name=name)
        self.epsilon = epsilon

    def build(self, input_shape: Shape) -> None:
        channels = self.known_channels(input_shape)
        self.gamma = self.add_weight("gamma", (channels,), "ones")
        self.beta = self.add_weight("beta", (channels,), "zeros")

    def compute_output_shape(self, input_shape: Shape) -> Shape:
        return input_shape

    def forward(
        self, x: np.ndarray, training: bool, residual: np.ndarray | None = None
    ) -> tuple[Any, Pullback]:
        """Return y, or with a residual (y, s), and a pullback to the gradient of s."""
        trained = self._trainable
        result, pull = ops.layer_norm.vjp(
            x,
            self.gamma.value,
            self.beta.value,
            residual,
            epsilon=self.epsilon,
            needs=(True, trained, trained, False),
        )

        def pullback(*dy: np.ndarray | None) -> Any:
            out = [w.gradient_out() if trained else None for w in (self.gamma, self.beta)]
            ds, d_gamma, d_beta, _ = pull(*dy, out=(None, *out, None))
            self.gamma.add_gradient(d_gamma)
            self.beta.add_gradient(d_beta)
            return ds

        return result, pullback

    def call(self, x: np.ndarray, training: bool = False, residual: Any = None) -> Any:
        return ops.layer_norm(x, self.gamma.value, self.beta.value, residual, epsilon=self.epsilon)


class TransformerBlock(Wrapper):
    """Base of both: branches with residuals around them and layer normalization."""

    input_axes = ("batch", "steps", "features")
    supports_masking = True
    uses_mask = True

    def __init__(
        self,
        *,
        intermediate_dim: int,
        num_heads: int,
        dropout: float,
        activation: Any,
        layer_norm_epsilon: float,
        kernel_initializer: Any,
        bias_initializer: Any,
        kernel_regularizer: Any = None,
        bias_regularizer: Any = None,
        normalize_first: bool,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.intermediate_dim = integer(self, "intermediate_dim", intermediate_dim)
        self.num_heads = integer(self, "num_heads", num_heads)
        self.dropout = number(self.label, "dropout", dropout, 0, 1, exclude=[1])
        self.layer_norm_epsilon = number(
            self.label, "layer_norm_epsilon", layer_norm_epsilon, 0, exclude=[0]
        )
        self.normalize_first = flag(self, "normalize_first", normalize_first)
        try:
            self.activation = activations.get(activation)
            self.kernel_initializer = initializers.get(kernel_initializer)
            self.bias_initializer = initializers.get(bias_initializer)
            self.kernel_regularizer = regularizers.get(kernel_regularizer)
            self.bias_regularizer = regularizers.get(bias_regularizer)
        except ValueError as error:
            raise self.error(str(error)) from None

    # -- parts --------------------------------------------------------------------------------

    def _weighted(self) -> dict[str, Any]:
        return {
            "kernel_initializer": self.kernel_initializer,
            "bias_initializer": self.bias_initializer,
            "kernel_regularizer": self.kernel_regularizer,
            "bias_regularizer": self.bias_regularizer,
        }

    def _attention(self, name: str, shapes: list[Shape]) -> MultiHeadAttention:
        layer = MultiHeadAttention(
            self.num_heads, dropout=self.dropout, name=name, **self._weighted()
        )
        layer.build(shapes)
        return layer

    def _norm(self, name: str, shape: Shape) -> ResidualNorm:
        layer = ResidualNorm(self.layer_norm_epsilon, name)
        layer.build(shape)
        return layer

    def _make_feed_forward(self, shape: Shape) -> None:
        """Make the layers of the feed-forward network, and what follows each branch."""
        self._intermediate = Dense(
            self.intermediate_dim,
            activation=self.activation,
            name="feedforward_intermediate_dense",
            **self._weighted(),
        )
        self._intermediate.build(shape)
        self._output = Dense(shape[-1], name="feedforward_output_dense", **self._weighted())  # type: ignore[arg-type]
        self._output.build((*shape[:-1], self.intermediate_dim))
        self._dropout = Dropout(self.dropout, name="dropout")

    def _set_parts(self, *parts: Layer) -> None:
        self.parts = parts
        if not self._trainable:
            self.trainable = False

    # -- computing ----------------------------------------------------------------------------

    def _feed_forward(self, x: np.ndarray, training: bool) -> tuple[np.ndarray, Pullback]:
        hidden, pull_hidden = self._intermediate.forward(x, training)
        y, pull = self._output.forward(hidden, training)
        return y, lambda dy: pull_hidden(pull(dy))

    def _residuals(
        self, x: np.ndarray, training: bool, branches: Sequence[tuple[_Branch, ResidualNorm]]
    ) -> tuple[np.ndarray, Pullback]:
        """Go through the branches, each followed by dropout and its sum with what it began with.

        After the sum comes the branch's normalization: ``x = norm(branch(x) + x)``; or with
        normalize_first it comes before the branch: ``x = branch(norm(x)) + x``, where each sum and
        the normalization of the next branch are one op.
        """
        first = self.normalize_first
        pulls: list[tuple[Pullback, Pullback]] = []
        norms = [norm for _, norm in branches]
        if first:
            carried = x
            x, pull_first = norms.pop(0).forward(x, training)
        for position, (branch, _) in enumerate(branches):
            z, pull_branch = branch(x, training)
            z, pull_dropout = self._dropout.forward(z, training)
            pull: Pullback = _after(pull_dropout, pull_branch)
            if not first:
                (x, _), pull_norm = norms[position].forward(z, training, residual=x)
            elif norms:
                (x, carried), pull_norm = norms.pop(0).forward(z, training, residual=carried)
            else:
                x, pull_norm = ops.add(z, carried), _unchanged
            pulls.append((pull, pull_norm))

        def after(dy: np.ndarray) -> np.ndarray:
            for pull, pull_norm in reversed(pulls):
                ds = pull_norm(dy, None)
                dy = ops.add(ds, pull(ds))
            return dy

        def before(dy: np.ndarray) -> np.ndarray:
            ds: Any = None
            for pull, pull_norm in reversed(pulls):
                ds = pull_norm(dy, ds)
                dy = pull(ds)
            return ops.add(ds, pull_first(dy))

        return x, before if first else after

    def compute_mask(self, inputs: Any, mask: Any = None) -> Any:
        """Return the mask of the sequence."""
        return mask[0] if isinstance(mask, (list, tuple)) else mask

    @property
    def makes_mask(self) -> bool:
        return False

    def _convert_input(self, name: str, array: Any) -> np.ndarray:
        return as_mask(array) if name.endswith("_mask") else self._convert(array)

    def get_config(self) -> dict[str, Any]:
        return {
            **super().get_config(),
            "intermediate_dim": self.intermediate_dim,
            "num_heads": self.num_heads,
            "dropout": self.dropout,
            "activation": activations.serialize(self.activation),
            "layer_norm_epsilon": self.layer_norm_epsilon,
            "kernel_initializer": initializers.serialize(self.kernel_initializer),
            "bias_initializer": initializers.serialize(self.bias_initializer),
            "normalize_first": self.normalize_first,
        }


def _after(outer: Pullback, inner: Pullback) -> Pullback:
    return lambda dy: inner(outer(dy))


def _unchanged(dy: np.ndarray, ds: None) -> np.ndarray:
    return dy


class Attending:
    """A branch: attention of x to itself, or to another sequence, whose gradient it keeps."""

    def __init__(
        self,
        layer: MultiHeadAttention,
        source: np.ndarray | None,
        key_mask: Any,
        attention_mask: Any,
        **options: Any,
    ) -> None:
        self._layer = layer
        self._source = source
        self._mask = None if key_mask is None else [None, as_mask(key_mask), None]
        self._more = () if attention_mask is None else (attention_mask,)
        self._options = options
        self.weights: np.ndarray | None = None
        self.d_weights: np.ndarray | None = None
        self.d_source: np.ndarray | None = None

    def __call__(self, x: np.ndarray, training: bool) -> tuple[np.ndarray, Pullback]:
        source = x if self._source is None else self._source
        given = ("attention_mask",) * len(self._more)
        y, pull = self._layer.forward(
            [x, source, source, *self._more], training, self._mask, given, **self._options
        )
        scored = isinstance(y, tuple)
        if scored:
            y, self.weights = y

        def pullback(dy: np.ndarray) -> np.ndarray:
            d_query, d_value, d_key, *_ = pull((dy, self.d_weights) if scored else dy)
            d_source = ops.add(d_value, d_key)
            if self._source is None:
                return ops.add(d_query, d_source)
            self.d_source = d_source
            return d_query

        return y, pullback


def first(values: Any) -> Any:
    """Return the first of a list, anything else unchanged."""
    return values[0] if isinstance(values, list) else values


def check_masks(
    block: Layer,
    layer: MultiHeadAttention,
    shapes: list[Shape],
    given: Mapping[str, Shape],
    names: Mapping[str, str],
) -> None:
    """Check masks against those of a layer inside, where they have other names."""
    query, value, key = shapes
    for name, inner in names.items():
        if name not in given:
            continue
        try:
            layer.check_optional_inputs([query, value, key], {inner: given[name]})
        except ValueError as error:
            expected = str(error).split(f"{inner} ", 1)[1]
            raise block.error(f"{name} {expected}") from None
