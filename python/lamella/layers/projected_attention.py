"""`ProjectedAttention`: what `MultiHeadAttention` and `GroupedQueryAttention` have in common."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import numpy as np

from lamella import initializers, ops, regularizers
from lamella.arguments import number
from lamella.arrays import expand_dims, like
from lamella.layers.arguments import flag, integer, reject
from lamella.layers.attention_inputs import (
    agree,
    as_mask,
    both,
    check_sequences,
    visibility,
)
from lamella.layers.base import Layer, Pullback
from lamella.layers.key_value_cache import KeyValueCache
from lamella.layers.shapes import Shape, Shapes
from lamella.layers.symbolic import SymbolicTensor
from lamella.layers.weight import Weight
from lamella.layers.weighted import NAMED_ERRORS, name_error
from lamella.random import SeedGenerator

_MASKS = ("query_mask", "value_mask", "key_mask")


class ProjectedAttention(Layer):
    """Base of both: they differ in arguments and in the sizes of their weights.

    A subclass sets ``num_heads`` and ``num_key_value_heads`` and calls `_make_weights` in
    ``build``.
    """

    input_axes = ("batch", "steps", "features")
    supports_masking = True
    uses_mask = True
    named_inputs = ("query", "value", "key")
    optional_inputs = (*_MASKS, "attention_mask")
    call_options: ClassVar = {"return_attention_scores": flag, "use_causal_mask": flag}
    _PROJECTIONS = ("query", "key", "value")
    # Of the query, of the key and the value.
    num_heads: int
    num_key_value_heads: int

    def __init__(
        self,
        *,
        dropout: float,
        use_bias: bool,
        sliding_window: int | None,
        flash_attention: Any,
        kernel_initializer: Any,
        bias_initializer: Any,
        kernel_regularizer: Any,
        bias_regularizer: Any,
        activity_regularizer: Any,
        kernel_constraint: Any,
        bias_constraint: Any,
        use_gate: bool,
        seed: int | None,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        reject(
            self,
            flash_attention=flash_attention,
            activity_regularizer=activity_regularizer,
            kernel_constraint=kernel_constraint,
            bias_constraint=bias_constraint,
            use_gate=use_gate,
        )
        self.dropout = number(self.label, "dropout", dropout, 0, 1, exclude=[1])
        self.use_bias = flag(self, "use_bias", use_bias)
        self.sliding_window = (
            None if sliding_window is None else integer(self, "sliding_window", sliding_window)
        )
        self.seed = seed
        try:
            self._seeds = SeedGenerator(seed)
            self.kernel_initializer = initializers.get(kernel_initializer)
            self.bias_initializer = initializers.get(bias_initializer)
            self.kernel_regularizer = regularizers.get(kernel_regularizer)
            self.bias_regularizer = regularizers.get(bias_regularizer)
        except (TypeError, ValueError) as error:
            raise self.error(str(error)) from None
        # In the op's order, None for each bias that there is not.
        self._op_weights: list[Weight | None] = []

    # -- shapes and weights -------------------------------------------------------------------

    def check_input_shape(self, input_shape: Shapes) -> None:
        query, value, key = self._shapes(input_shape)
        check_sequences(self, query, value, key)
        kernels = self._op_weights[:3]
        for name, shape, kernel in zip(
            ("query", "key", "value"), (query, key, value), kernels, strict=False
        ):
            assert kernel is not None
            if not agree(shape[2], kernel.shape[0]):
                raise self.error(
                    f"expects {kernel.shape[0]} features in the last axis of {name}, as it was "
                    f"built for, got an input of shape {shape}"
                )

    def check_optional_inputs(self, required: list[Shape], given: Mapping[str, Shape]) -> None:
        query, value, key = self._shapes(required)
        steps = dict(zip(_MASKS, (query[:2], value[:2], key[:2]), strict=True))
        for name, shape in given.items():
            if name in steps:
                fits = len(shape) == 2 and all(map(agree, shape, steps[name]))
                expected = f"shape {steps[name]}"
            else:
                whole: Shape = (query[0], self.num_heads, query[1], key[1])
                own = whole if len(shape) == 4 else (query[0], query[1], key[1])
                fits = len(shape) == len(own) and all(
                    agree(size, most) or size == 1 for size, most in zip(shape, own, strict=True)
                )
                expected = f"shape {whole}, or without heads, with 1 where an axis repeats"
            if not fits:
                raise self.error(f"{name} expects {expected}, got {shape}")

    def _shapes(self, input_shape: Shapes) -> tuple[Shape, Shape, Shape]:
        """Return the shapes of query, value and key."""
        if not isinstance(input_shape, list):
            return input_shape, input_shape, input_shape
        if len(input_shape) != 3:
            raise self.error(f"expects query, value and key, got {len(input_shape)} inputs")
        query, value, key = input_shape
        return query, value, key

    def _features(self, input_shape: Shapes) -> tuple[int, int, int]:
        """Return the known sizes of the last axes of query, value and key."""
        sizes = []
        for name, shape in zip(self.named_inputs, self._shapes(input_shape), strict=True):
            if not shape[-1]:
                raise self.error(
                    f"needs a known last axis of at least 1 of its {name} to make its weights, "
                    f"got {shape}"
                )
            sizes.append(shape[-1])
        return sizes[0], sizes[1], sizes[2]

    def _make_weights(
        self, features: tuple[int, int, int], key_size: int, value_size: int, outputs: int
    ) -> None:
        """Make kernels and biases, in Keras' order, under the paths that Keras gives them."""
        of_query, of_value, of_key = features
        heads, pairs = self.num_heads, self.num_key_value_heads
        kernels: list[Weight | None] = []
        biases: list[Weight | None] = []
        for name, kernel, bias, inputs in (
            ("query", (of_query, heads, key_size), (heads, key_size), 1),
            ("key", (of_key, pairs, key_size), (pairs, key_size), 1),
            ("value", (of_value, pairs, value_size), (pairs, value_size), 1),
            ("attention_output", (heads, value_size, outputs), (outputs,), 2),
        ):
            initializer = _with_fans(self.kernel_initializer, inputs)
            kernels.append(
                self.add_weight(f"{name}/kernel", kernel, initializer, self.kernel_regularizer)
            )
            biases.append(
                self.add_weight(f"{name}/bias", bias, self.bias_initializer, self.bias_regularizer)
                if self.use_bias
                else None
            )
        self._op_weights = kernels + biases

    @property
    def _output_size(self) -> int:
        kernel = self._op_weights[3]
        assert kernel is not None
        return kernel.shape[2]  # type: ignore[return-value]

    def compute_output_shape(
        self,
        input_shape: Any,
        return_attention_scores: bool = False,
        use_causal_mask: bool = False,
    ) -> Any:
        query, value, _ = self._shapes(input_shape)
        y = (*query[:2], self._output_size)
        weights = (query[0], self.num_heads, query[1], value[1])
        return (y, weights) if return_attention_scores else y

    # -- masks --------------------------------------------------------------------------------

    @property
    def makes_mask(self) -> bool:
        return False

    def compute_mask(self, inputs: Any, mask: Any = None) -> Any:
        """Return the query's mask."""
        return mask[0] if isinstance(mask, (list, tuple)) else mask

    def _convert_input(self, name: str, array: Any) -> np.ndarray:
        if name not in self.optional_inputs:
            return self._convert(array)
        mask = np.asarray(array)
        if mask.dtype.kind not in "biuf":
            raise TypeError(f"{name} expects an array of bools, got dtype {mask.dtype}")
        # A mask (S, L) is that of all samples.
        return as_mask(mask[np.newaxis] if name == "attention_mask" and mask.ndim == 2 else mask)

    def _op_masks(self, more: Mapping[str, np.ndarray], mask: Any) -> dict[str, Any]:
        """Join the masks that were given by name with those that came with query, value and key."""
        of = {name: as_mask(array) for name, array in more.items()}
        if mask is not None:
            arrived = mask if isinstance(mask, (list, tuple)) else [mask] * 3
            for name, one in zip(_MASKS, arrived, strict=False):
                of[name] = both(of.get(name), one)  # type: ignore[assignment]
        keys = both(of.get("value_mask"), of.get("key_mask"))
        return visibility(of.get("query_mask"), keys, of.get("attention_mask"))

    # -- computing ----------------------------------------------------------------------------

    def __call__(  # type: ignore[override]
        self,
        query: Any,
        value: Any = None,
        key: Any = None,
        query_mask: Any = None,
        value_mask: Any = None,
        key_mask: Any = None,
        attention_mask: Any = None,
        return_attention_scores: bool = False,
        training: bool | None = None,
        use_causal_mask: bool = False,
    ) -> Any:
        """Apply the layer.

        Parameters
        ----------
        query : array_like (N, S, D) or SymbolicTensor
        value : array_like (N, L, Dv) or SymbolicTensor, optional
            By default the query: self-attention.
        key : array_like (N, L, Dk) or SymbolicTensor, optional
            By default the value.
        query_mask, value_mask, key_mask : array_like (N, S), (N, L), (N, L), optional
            Steps that count: anything but 0. In a graph masks flow by themselves, too.
        attention_mask : array_like (N, S, L) or (N, heads, S, L), optional
            Where a query sees a key; an axis may be 1. On arrays also (S, L).
        return_attention_scores : bool
            Return ``(y, weights)``, weights (N, heads, S, L) after dropout.
        training : bool
            Whether dropout behaves as in training.
        use_causal_mask : bool
            Query i sees the keys j <= i.

        Returns
        -------
        np.ndarray (N, S, Dout) or SymbolicTensor, or a tuple of two
        """
        kinds = (np.ndarray, SymbolicTensor)
        if isinstance(query, (list, tuple)) and any(isinstance(part, kinds) for part in query):
            raise self.error(
                f"takes query, value and key as arguments of their own, got a list of {len(query)}"
            )
        value = query if value is None else value
        inputs = {
            "query": query,
            "value": value,
            "key": value if key is None else key,
            "query_mask": query_mask,
            "value_mask": value_mask,
            "key_mask": key_mask,
            "attention_mask": attention_mask,
        }
        return self._apply_named(
            inputs,
            training,
            return_attention_scores=return_attention_scores,
            use_causal_mask=use_causal_mask,
        )

    def _begin(
        self,
        x: Any,
        training: bool,
        mask: Any,
        given: Sequence[str],
        return_attention_scores: bool,
        use_causal_mask: bool,
    ) -> tuple[list[Any], dict[str, Any]]:
        """Return the arrays and the options of the op."""
        query, value, key, *more = x if isinstance(x, (list, tuple)) else (x, x, x)
        masks = self._op_masks(dict(zip(given, more, strict=True)), mask)
        weights = [None if weight is None else weight.value for weight in self._op_weights]
        drops = training and self.dropout > 0
        side = None if self.sliding_window is None else self.sliding_window - 1
        options = {
            "causal": use_causal_mask,
            # Counted from the first query and the first key, as in Keras.
            "query_offset": 0 if use_causal_mask or side is not None else None,
            "window": None if side is None else (side, side),
            "key_lengths": like(query, masks["key_lengths"]),
            "dropout": self.dropout if drops else 0.0,
            "seed": self._seeds.next() if drops else None,
            "return_weights": return_attention_scores,
        }
        return [query, key, value, *weights, like(query, masks["mask"]), None], options

    def call(
        self,
        x: Any,
        training: bool = False,
        mask: Any = None,
        given: Sequence[str] = (),
        return_attention_scores: bool = False,
        use_causal_mask: bool = False,
    ) -> Any:
        arrays, options = self._begin(
            x, training, mask, given, return_attention_scores, use_causal_mask
        )
        return ops.multi_head_attention(*arrays, **options)

    def forward(
        self,
        x: Any,
        training: bool,
        mask: Any = None,
        given: Sequence[str] = (),
        return_attention_scores: bool = False,
        use_causal_mask: bool = False,
    ) -> tuple[Any, Pullback]:
        arrays, options = self._begin(
            x, training, mask, given, return_attention_scores, use_causal_mask
        )
        weights, trained = self._op_weights, self._trainable
        needs = [self.needs_input_gradient] * 3 + [trained and w is not None for w in weights]
        y, pull = ops.multi_head_attention.vjp(*arrays, needs=[*needs, False, False], **options)

        def pullback(dy: Any) -> Any:
            d_results = dy if return_attention_scores else (dy,)
            out = [None if w is None or not trained else w.gradient_out() for w in weights]
            gradients: Any = pull(*d_results, out=[None, None, None, *out, None, None])
            for weight, gradient in zip(weights, gradients[3:-2], strict=True):
                if weight is not None:
                    weight.add_gradient(gradient)
            d_query, d_key, d_value = gradients[:3]
            if isinstance(x, (list, tuple)):
                return (d_query, d_value, d_key, *[None] * len(given))
            return None if d_query is None else ops.add(ops.add(d_query, d_key), d_value)

        return y, pullback

    # -- step by step -------------------------------------------------------------------------

    def make_cache(self, batch_size: int, max_length: int) -> KeyValueCache:
        """Return an empty cache for `step`, with room for so many steps.

        Raises
        ------
        ValueError
            The layer is not built, or a number is not an integer of at least 1.
        """
        if not self.built:
            raise self.error("has no cache before it is built")
        _, key_kernel, value_kernel = self._op_weights[:3]
        assert key_kernel is not None and value_kernel is not None
        return KeyValueCache(
            integer(self, "batch_size", batch_size),
            integer(self, "max_length", max_length),
            self.num_key_value_heads,
            key_kernel.value.shape[2],
            value_kernel.value.shape[2],
        )

    def step(self, x: Any, cache: KeyValueCache) -> np.ndarray:
        """Take the next step, or steps, of self-attention in which no step sees a later one.

        Equal to the rows of the whole sequence at once with ``use_causal_mask=True``.

        Parameters
        ----------
        x : array_like (N, D), or (N, steps, D) for several
        cache : KeyValueCache
            Of `make_cache`: what the steps before left there. Those of `x` are added to it.

        Returns
        -------
        np.ndarray (N, Dout) or (N, steps, Dout)

        Raises
        ------
        ValueError
            A shape does not fit, or the cache is full.
        """
        try:
            x = self._convert(x)
            if x.ndim not in (2, 3):
                raise self.error(f"step expects (batch, features) or steps of it, got {x.shape}")
            steps = expand_dims(x, 1) if x.ndim == 2 else x
            self.check_input_shape(steps.shape)
            before = cache.length
            cache.append(self.project(steps, "key"), self.project(steps, "value"))
            y = self.look_up(steps, cache, causal=True, query_offset=before)
        except NAMED_ERRORS as error:
            name_error(error, self)
            raise
        return y[:, 0] if x.ndim == 2 else y

    def project(self, x: np.ndarray, name: str) -> np.ndarray:
        """Return the query, key or value of x (N, steps, D): (N, steps, heads, size)."""
        index = self._PROJECTIONS.index(name)
        kernel, bias = self._op_weights[index], self._op_weights[index + 4]
        assert kernel is not None
        flat = kernel.value.reshape(len(kernel.value), -1)
        z = ops.dense(x, flat, None if bias is None else bias.value.reshape(-1))
        return z.reshape(*x.shape[:-1], *kernel.value.shape[1:])

    def look_up(self, x: np.ndarray, cache: KeyValueCache, **options: Any) -> np.ndarray:
        """Return what queries of x (N, steps, D) find in a cache, options as those of the op."""
        if self.sliding_window is not None:
            options["window"] = (self.sliding_window - 1, self.sliding_window - 1)
        z = ops.attention(
            self.project(x, "query"),
            cache.keys,
            cache.values,
            **{"key_lengths": cache.lengths, **options},
        )
        kernel, bias = self._op_weights[3], self._op_weights[7]
        assert kernel is not None
        flat = kernel.value.reshape(-1, kernel.value.shape[2])
        return ops.dense(z.reshape(*x.shape[:2], -1), flat, None if bias is None else bias.value)

    def get_config(self) -> dict[str, Any]:
        kernel, bias = self.kernel_regularizer, self.bias_regularizer
        return {
            **super().get_config(),
            "dropout": self.dropout,
            "use_bias": self.use_bias,
            "sliding_window": self.sliding_window,
            "use_gate": False,
            "kernel_initializer": initializers.serialize(self.kernel_initializer),
            "bias_initializer": initializers.serialize(self.bias_initializer),
            "kernel_regularizer": None if kernel is None else regularizers.serialize(kernel),
            "bias_regularizer": None if bias is None else regularizers.serialize(bias),
            "seed": self.seed,
        }


def _with_fans(initializer: Any, inputs: int) -> Any:
    """Return an initializer that takes so many first axes of a kernel (of 3) as those of inputs.

    By itself one that scales by fans takes the last two axes for channels, a convolution's.
    """
    scales = isinstance(initializer, initializers.VarianceScaling)
    if not scales or initializer.input_axes is not None:
        return initializer
    axes = {"input_axes": list(range(inputs)), "output_axes": list(range(inputs, 3))}
    return type(initializer).from_config({**initializer.get_config(), **axes})
