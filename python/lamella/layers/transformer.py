"""`TransformerEncoder` and `TransformerDecoder`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import numpy as np

from lamella import ops, regularizers
from lamella.arrays import expand_dims, squeeze, zeros
from lamella.layers.arguments import flag
from lamella.layers.attention_inputs import as_mask, visibility
from lamella.layers.base import Pullback
from lamella.layers.key_value_cache import KeyValueCache
from lamella.layers.multi_head_attention import MultiHeadAttention
from lamella.layers.shapes import Shape, Shapes, any_batch
from lamella.layers.transformer_block import Attending, TransformerBlock, check_masks, first
from lamella.layers.weighted import NAMED_ERRORS, name_error
from lamella.registry import register


@register("layer")
class TransformerEncoder(TransformerBlock):
    """A block of a Transformer that reads a sequence as a whole (Vaswani et al. 2017).

    Called on x (N, T, D), with ``drop`` for dropout::

        x = norm(drop(attention(x, x, x)) + x)
        y = norm(drop(f(x W + b) V + c) + x)                       (N, T, D)

    and with `normalize_first` the normalization comes before the attention and before the
    feed-forward network.

    Parameters
    ----------
    intermediate_dim : int
        Width of the feed-forward network.
    num_heads : int
        Divides D.
    dropout : float
        Of the weights of attention and of what each half adds, in [0, 1).
    activation : str or function
        Of the feed-forward network.
    layer_norm_epsilon : float
    kernel_initializer, bias_initializer : str or Initializer
    kernel_regularizer, bias_regularizer, activity_regularizer : optional
    normalize_first : bool
    **kwargs
        name, trainable, input_shape and so on: see `Layer`.

    Raises
    ------
    ValueError
        If an argument or the shape of an input is not what it should be.

    Notes
    -----
    Names and arguments are those of keras_hub. ``padding_mask`` (N, T), or else the mask that comes
    with x, hides steps from all others; what stands at hidden steps themselves is not specified.

    Examples
    --------
    >>> import numpy as np
    >>> TransformerEncoder(intermediate_dim=16, num_heads=2)(np.ones((3, 5, 8))).shape
    (3, 5, 8)
    """

    named_inputs = ("inputs",)
    optional_inputs = ("padding_mask", "attention_mask")
    call_options: ClassVar = {"return_attention_scores": flag}

    def __init__(
        self,
        intermediate_dim: int,
        num_heads: int,
        dropout: float = 0,
        activation: Any = "relu",
        layer_norm_epsilon: float = 1e-05,
        kernel_initializer: Any = "glorot_uniform",
        bias_initializer: Any = "zeros",
        kernel_regularizer: Any = None,
        bias_regularizer: Any = None,
        activity_regularizer: Any = None,
        normalize_first: bool = False,
        **kwargs: Any,
    ) -> None:
        super().__init__(
            intermediate_dim=intermediate_dim,
            num_heads=num_heads,
            dropout=dropout,
            activation=activation,
            layer_norm_epsilon=layer_norm_epsilon,
            kernel_initializer=kernel_initializer,
            bias_initializer=bias_initializer,
            kernel_regularizer=kernel_regularizer,
            bias_regularizer=bias_regularizer,
            activity_regularizer=activity_regularizer,
            normalize_first=normalize_first,
            **kwargs,
        )

    # -- shapes and parts ---------------------------------------------------------------------

    def check_input_shape(self, input_shape: Shapes) -> None:
        super().check_input_shape(first(input_shape))

    def check_optional_inputs(self, required: list[Shape], given: Mapping[str, Shape]) -> None:
        shape = required[0]
        names = {"padding_mask": "value_mask", "attention_mask": "attention_mask"}
        check_masks(self, self._self_attention, [shape] * 3, given, names)

    def build(self, input_shape: Any) -> None:
        shape = first(input_shape)
        self.known_channels(shape)
        self._self_attention = self._attention("self_attention_layer", [shape] * 3)
        self._self_attention_norm = self._norm("self_attention_layer_norm", shape)
        self._feed_forward_norm = self._norm("feedforward_layer_norm", shape)
        self._make_feed_forward(shape)
        self._set_parts(
            self._self_attention,
            self._self_attention_norm,
            self._feed_forward_norm,
            self._intermediate,
            self._output,
            self._dropout,
        )

    def compute_output_shape(self, input_shape: Any, return_attention_scores: bool = False) -> Any:
        shape = first(input_shape)
        scores = (shape[0], self.num_heads, shape[1], shape[1])
        return (shape, scores) if return_attention_scores else shape

    # -- computing ----------------------------------------------------------------------------

    def __call__(  # type: ignore[override]
        self,
        inputs: Any,
        padding_mask: Any = None,
        attention_mask: Any = None,
        training: bool | None = None,
        return_attention_scores: bool = False,
    ) -> Any:
        """Apply the layer.

        Parameters
        ----------
        inputs : array_like (N, T, D) or SymbolicTensor
        padding_mask : array_like (N, T), optional
            Steps that others see; by default those of the mask that comes with x.
        attention_mask : array_like (N, T, T) or (N, heads, T, T), optional
            Where a step sees another.
        training : bool
            Whether dropout behaves as in training.
        return_attention_scores : bool
            Return ``(y, weights)``, weights (N, heads, T, T) after dropout.

        Returns
        -------
        np.ndarray (N, T, D) or SymbolicTensor, or a tuple of two
        """
        return self._apply_named(
            {"inputs": inputs, "padding_mask": padding_mask, "attention_mask": attention_mask},
            training,
            return_attention_scores=return_attention_scores,
        )

    def forward(
        self,
        x: Any,
        training: bool,
        mask: Any = None,
        given: Sequence[str] = (),
        return_attention_scores: bool = False,
    ) -> tuple[Any, Pullback]:
        sequence, *more = x if isinstance(x, (list, tuple)) else (x,)
        named = dict(zip(given, more, strict=True))
        needed = self.needs_input_gradient
        padding = named.get("padding_mask", first(mask))
        attention = Attending(
            self._self_attention,
            None,
            padding,
            named.get("attention_mask"),
            return_attention_scores=return_attention_scores,
        )
        y, pull = self._residuals(
            sequence,
            training,
            [
                (attention, self._self_attention_norm),
                (self._feed_forward, self._feed_forward_norm),
            ],
        )

        def pullback(dy: Any) -> Any:
            if return_attention_scores:
                dy, attention.d_weights = dy
                dy = zeros(y, y.shape) if dy is None else dy
            dx = pull(dy)
            dx = dx if needed else None
            return (dx, *[None] * len(given)) if isinstance(x, (list, tuple)) else dx

        return (y, attention.weights) if return_attention_scores else y, pullback

    def get_config(self) -> dict[str, Any]:
        kernel, bias = self.kernel_regularizer, self.bias_regularizer
        return {
            **super().get_config(),
            "kernel_regularizer": None if kernel is None else regularizers.serialize(kernel),
            "bias_regularizer": None if bias is None else regularizers.serialize(bias),
        }


@register("layer")
class TransformerDecoder(TransformerBlock):
    """A block of a Transformer that writes a sequence step by step (Vaswani et al. 2017).

    Called on x (N, T, D), where no step sees a later one; and with an encoder's sequence z
    (N, L, Dz), whose steps all do, it has a third part in between::

        x = norm(drop(attention(x, x, x)) + x)
        x = norm(drop(attention(x, z, z)) + x)        with z only
        y = norm(drop(f(x W + b) V + c) + x)                       (N, T, D)

    With `normalize_first` the normalization comes before each part.

    Parameters
    ----------
    intermediate_dim : int
        Width of the feed-forward network.
    num_heads : int
        Divides D.
    dropout : float
        Of the weights of attention and of what each part adds, in [0, 1).
    activation : str or function
        Of the feed-forward network.
    layer_norm_epsilon : float
    kernel_initializer, bias_initializer : str or Initializer
    normalize_first : bool
    **kwargs
        name, trainable, input_shape and so on: see `Layer`.

    Raises
    ------
    ValueError
        If an argument or the shape of an input is not what it should be; or if the layer is called
        with z though it was built without, or without though it was built with it.

    Notes
    -----
    Names and arguments are those of keras_hub. Masks of padding, or else those that come with x and
    z, hide steps from all others; what stands at hidden steps themselves is not specified.

    Examples
    --------
    >>> import numpy as np
    >>> x, z = np.ones((3, 5, 8)), np.ones((3, 7, 6))
    >>> TransformerDecoder(intermediate_dim=16, num_heads=2)(x).shape
    (3, 5, 8)
    >>> TransformerDecoder(intermediate_dim=16, num_heads=2)(x, z).shape
    (3, 5, 8)
    """

    named_inputs = ("decoder_sequence",)
    optional_inputs = (
        "encoder_sequence",
        "decoder_padding_mask",
        "decoder_attention_mask",
        "encoder_padding_mask",
        "encoder_attention_mask",
    )
    call_options: ClassVar = {"use_causal_mask": flag}

    def __init__(
        self,
        intermediate_dim: int,
        num_heads: int,
        dropout: float = 0,
        activation: Any = "relu",
        layer_norm_epsilon: float = 1e-05,
        kernel_initializer: Any = "glorot_uniform",
        bias_initializer: Any = "zeros",
        normalize_first: bool = False,
        **kwargs: Any,
    ) -> None:
        super().__init__(
            intermediate_dim=intermediate_dim,
            num_heads=num_heads,
            dropout=dropout,
            activation=activation,
            layer_norm_epsilon=layer_norm_epsilon,
            kernel_initializer=kernel_initializer,
            bias_initializer=bias_initializer,
            normalize_first=normalize_first,
            **kwargs,
        )
        self._cross_attention: MultiHeadAttention | None = None

    # -- shapes and parts ---------------------------------------------------------------------

    def _check_or_build(
        self, shapes: Shapes, options: Mapping[str, Any], forget_batch: bool = False
    ) -> None:
        given = options["given"]
        # The first of the optional inputs: what build is given beside the sequence itself.
        crosses = "encoder_sequence" in given
        required: list[Any] = list(shapes[: 1 + crosses])
        if not self.built:
            self.build(any_batch(required) if forget_batch else required)
        elif crosses != (self._cross_attention is not None):
            raise self.error(
                f"was built {'without' if crosses else 'with'} an encoder_sequence, and is called "
                f"{'with' if crosses else 'without'} one"
            )
        else:
            self.check_input_shape(required)
        self.check_optional_inputs(required, dict(zip(given, shapes[1:], strict=True)))  # type: ignore[arg-type]

    def check_input_shape(self, input_shape: Shapes) -> None:
        super().check_input_shape(first(input_shape))
        if isinstance(input_shape, list) and len(input_shape) > 1:
            shape, source = input_shape
            if self._cross_attention is not None:
                self._cross_attention.check_input_shape([shape, source, source])
            elif len(source) != 3:
                raise self.error(
                    f"expects an encoder_sequence of shape (batch, steps, features), got {source}"
                )

    def check_optional_inputs(self, required: list[Shape], given: Mapping[str, Shape]) -> None:
        shape, *source = required
        names = {
            "decoder_padding_mask": "value_mask",
            "decoder_attention_mask": "attention_mask",
        }
        check_masks(self, self._self_attention, [shape] * 3, given, names)
        names = {
            "encoder_padding_mask": "value_mask",
            "encoder_attention_mask": "attention_mask",
        }
        if self._cross_attention is not None:
            check_masks(self, self._cross_attention, [shape, *source * 2], given, names)
        elif not given.keys().isdisjoint(names):
            raise self.error("takes no mask of the encoder's without an encoder_sequence")

    def build(self, input_shape: Any) -> None:
        shape = first(input_shape)
        self.known_channels(shape)
        self._self_attention = self._attention("self_attention", [shape] * 3)
        self._self_attention_norm = self._norm("self_attention_layer_norm", shape)
        self._cross_attention = None
        parts: list[Any] = [self._self_attention, self._self_attention_norm]
        if isinstance(input_shape, list) and len(input_shape) > 1:
            source = input_shape[1]
            self._cross_attention = self._attention("cross_attention", [shape, source, source])
            self._cross_attention_norm = self._norm("cross_attention_layer_norm", shape)
            parts += [self._cross_attention, self._cross_attention_norm]
        self._make_feed_forward(shape)
        self._feed_forward_norm = self._norm("feedforward_layer_norm", shape)
        self._set_parts(
            *parts, self._intermediate, self._output, self._feed_forward_norm, self._dropout
        )

    def compute_output_shape(self, input_shape: Any, use_causal_mask: bool = True) -> Any:
        return first(input_shape)

    # -- computing ----------------------------------------------------------------------------

    def __call__(  # type: ignore[override]
        self,
        decoder_sequence: Any,
        encoder_sequence: Any = None,
        decoder_padding_mask: Any = None,
        decoder_attention_mask: Any = None,
        encoder_padding_mask: Any = None,
        encoder_attention_mask: Any = None,
        use_causal_mask: bool = True,
        training: bool | None = None,
    ) -> Any:
        """Apply the layer.

        Parameters
        ----------
        decoder_sequence : array_like (N, T, D) or SymbolicTensor
        encoder_sequence : array_like (N, L, Dz) or SymbolicTensor, optional
        decoder_padding_mask, encoder_padding_mask : array_like (N, T), (N, L), optional
            Steps that others see; by default those of the masks that come with the sequences.
        decoder_attention_mask : array_like (N, T, T) or (N, heads, T, T), optional
            Where a step sees another.
        encoder_attention_mask : array_like (N, T, L) or (N, heads, T, L), optional
            Where a step sees one of the encoder's.
        use_causal_mask : bool
            No step sees a later one.
        training : bool
            Whether dropout behaves as in training.

        Returns
        -------
        np.ndarray (N, T, D) or SymbolicTensor
        """
        inputs = {
            "decoder_sequence": decoder_sequence,
            "encoder_sequence": encoder_sequence,
            "decoder_padding_mask": decoder_padding_mask,
            "decoder_attention_mask": decoder_attention_mask,
            "encoder_padding_mask": encoder_padding_mask,
            "encoder_attention_mask": encoder_attention_mask,
        }
        return self._apply_named(inputs, training, use_causal_mask=use_causal_mask)

    def forward(
        self,
        x: Any,
        training: bool,
        mask: Any = None,
        given: Sequence[str] = (),
        use_causal_mask: bool = True,
    ) -> tuple[Any, Pullback]:
        sequence, *more = x if isinstance(x, (list, tuple)) else (x,)
        named = dict(zip(given, more, strict=True))
        arrived = dict(zip(given, mask[1:], strict=True)) if isinstance(mask, list) else {}
        needed = self.needs_input_gradient
        itself = Attending(
            self._self_attention,
            None,
            named.get("decoder_padding_mask", first(mask)),
            named.get("decoder_attention_mask"),
            use_causal_mask=use_causal_mask,
        )
        branches: list[Any] = [(itself, self._self_attention_norm)]
        if self._cross_attention is not None:
            other = Attending(
                self._cross_attention,
                named["encoder_sequence"],
                named.get("encoder_padding_mask", arrived.get("encoder_sequence")),
                named.get("encoder_attention_mask"),
            )
            branches.append((other, self._cross_attention_norm))
        branches.append((self._feed_forward, self._feed_forward_norm))
        y, pull = self._residuals(sequence, training, branches)

        def pullback(dy: Any) -> Any:
            dx = pull(dy)
            if not isinstance(x, (list, tuple)):
                return dx if needed else None
            crosses = self._cross_attention is not None
            return (dx, *(other.d_source if crosses and i == 0 else None for i in range(len(more))))

        return y, pullback

    # -- step by step -------------------------------------------------------------------------

    def make_cache(
        self,
        batch_size: int,
        max_length: int,
        encoder_sequence: Any = None,
        encoder_padding_mask: Any = None,
    ) -> DecoderCache:
        """Return a cache for `step`, with room for so many steps.

        Parameters
        ----------
        batch_size, max_length : int
        encoder_sequence : array_like (N, L, Dz), optional
            For a layer that was built with one: its keys and values are computed here, once.
        encoder_padding_mask : array_like (N, L), optional

        Raises
        ------
        ValueError
            The layer is not built, a number or a shape does not fit, or the encoder's sequence is
            missing or not wanted.
        """
        if not self.built:
            raise self.error("has no cache before it is built")
        cross = self._cross_attention
        if (cross is None) != (encoder_sequence is None):
            wanted = "no encoder_sequence" if cross is None else "the encoder_sequence"
            raise self.error(f"make_cache expects {wanted}, as the layer was built")
        itself = self._self_attention.make_cache(batch_size, max_length)
        if cross is None:
            return DecoderCache(itself)
        source = self._convert(encoder_sequence)
        shape: Shape = (batch_size, None, self._input_channels)
        self.check_input_shape([shape, source.shape])
        other = cross.make_cache(batch_size, max(source.shape[1], 1))
        other.append(cross.project(source, "key"), cross.project(source, "value"))
        if encoder_padding_mask is None:
            return DecoderCache(itself, other)
        mask = as_mask(encoder_padding_mask)
        names = {"encoder_padding_mask": "value_mask"}
        given = {"encoder_padding_mask": mask.shape}
        check_masks(self, cross, [shape, source.shape, source.shape], given, names)
        return DecoderCache(itself, other, mask)

    def step(self, x: Any, cache: DecoderCache) -> np.ndarray:
        """Take the next step, or steps: equal to those of the whole sequence at once.

        Parameters
        ----------
        x : array_like (N, D), or (N, steps, D) for several
        cache : DecoderCache
            Of `make_cache`: what the steps before left there. Those of `x` are added to it.

        Returns
        -------
        np.ndarray, shape of x

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
            y = self._take(steps, cache)
        except NAMED_ERRORS as error:
            name_error(error, self)
            raise
        return squeeze(y, 1) if x.ndim == 2 else y

    def _take(self, x: np.ndarray, cache: DecoderCache) -> np.ndarray:
        def itself(z: np.ndarray) -> np.ndarray:
            return self._self_attention.step(z, cache.itself)

        branches: list[Any] = [(itself, self._self_attention_norm)]
        if self._cross_attention is not None:
            cross, visible = self._cross_attention, cache.visible
            other: Any = cache.encoder
            branches.append(
                (lambda z: cross.look_up(z, other, **visible), self._cross_attention_norm)
            )
        branches.append(
            (lambda z: self._output.call(self._intermediate.call(z)), self._feed_forward_norm)
        )
        for branch, norm in branches:
            if self.normalize_first:
                x = ops.add(branch(norm.call(x)), x)
            else:
                x = norm.call(branch(x), residual=x)[0]
        return x


class DecoderCache:
    """What `TransformerDecoder.step` keeps from step to step.

    Parameters
    ----------
    itself : KeyValueCache
        Of the steps so far.
    encoder : KeyValueCache, optional
        Of the encoder's sequence.
    encoder_padding_mask : bool array (N, L), optional

    Attributes
    ----------
    visible : dict
        Options of `ops.attention`: which of the encoder's steps count.
    """

    def __init__(
        self,
        itself: KeyValueCache,
        encoder: KeyValueCache | None = None,
        encoder_padding_mask: np.ndarray | None = None,
    ) -> None:
        self.itself = itself
        self.encoder = encoder
        visible = visibility(None, encoder_padding_mask)
        self.visible = {name: value for name, value in visible.items() if value is not None}

    @property
    def length(self) -> int:
        """How many steps there have been; set it to a smaller number to take steps back."""
        return self.itself.length

    @length.setter
    def length(self, value: int) -> None:
        self.itself.length = value
