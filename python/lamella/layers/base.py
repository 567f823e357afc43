"""`Layer`: what every layer shares.

A layer checks its arguments in ``__init__``, makes its weights in ``build``, and computes in
``forward``. Calling it (see `lamella.layers.called`) on symbolic tensors adds a node to a graph;
calling it on arrays converts them to float32, builds the layer if need be and computes at once. A
model skips ``__call__``: it has checked the shapes and calls ``forward`` (training) or ``call``
(inference) directly.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from lamella import initializers, ops, regularizers
from lamella.layers.arguments import is_float32
from lamella.layers.called import Called
from lamella.layers.shapes import Shape, Shapes, any_batch, as_shape, as_shapes
from lamella.layers.symbolic import Node
from lamella.layers.weight import Weight
from lamella.layers.weighted import NAMED_ERRORS, name_error

__all__ = ["Layer", "Weight", "name_error"]

Pullback = Callable[..., Any]


def _completed(build: Callable[..., None]) -> Callable[..., None]:
    """Wrap a class's ``build``: check the shape first, mark the layer as built afterwards."""

    @functools.wraps(build)
    def wrapper(self: Layer, input_shape: Any) -> None:
        if self._building:  # super().build(...) inside a build
            build(self, input_shape)
            return
        shapes = as_shapes(input_shape)
        try:
            self.check_input_shape(shapes)
            if self.built:
                return
            self._building = True
            build(self, shapes)
        except NAMED_ERRORS as error:
            if not self.built:
                self._weights.clear()
            name_error(error, self)
            raise
        finally:
            self._building = False
        self.built = True
        self.build_input_shape = any_batch(shapes)

    return wrapper


def _call_with_options(self: Layer, x: Any, training: bool = False, **options: Any) -> Any:
    return self.forward(x, training, **options)[0]


class Layer(Called):
    """Base of all layers; subclass it to write one in NumPy.

    Parameters
    ----------
    activity_regularizer : optional
        Penalty on the layer's output, divided by the batch size, in `losses`.
    trainable : bool
        Whether the weights are trained.
    dtype : optional
        Only "float32".
    name : str, optional
        Without "/"; by default the class name in snake case with a counter.
    input_shape, input_dim, input_length, batch_input_shape, batch_shape : optional
        Shape of the input, without or with the batch axis, for a model's first layer.

    Notes
    -----
    A subclass overrides

    ``build(input_shape)``
        makes weights with `add_weight`; not needed without weights.
    ``forward(x, training) -> (y, pullback)``
        ``pullback(dy)`` returns the gradient to ``x`` and gives those of the weights to
        ``weight.add_gradient``. For a layer called on a list, ``x`` is a list and ``pullback``
        returns a tuple; for one that returns a tuple of outputs, ``dy`` is a tuple.
    ``compute_output_shape(input_shape)``
        with None for unknown sizes.
    ``get_config()``
        the arguments of ``__init__``, for saving.

    A mask is a bool array of an input's leading axes, False where a step of a sequence does not
    count (see `Embedding` and `Masking`). With ``supports_masking = True`` it becomes the output's,
    or what ``compute_mask(inputs, mask)`` returns; else it ends here. In a class with
    ``uses_mask = True`` a model calls ``forward(x, training, mask=mask)``, with None where there is
    no mask.

    What a call takes beside its inputs is in ``call_options``, a function
    ``check(layer, name, value)`` by name. A graph and its file keep the values, and ``forward``,
    ``call`` and ``compute_output_shape`` take them as keyword arguments.

    Arrays given to ``forward`` belong to others: it must not write to them.

    Examples
    --------
    >>> import numpy as np
    >>> class Scale(Layer):
    ...     def build(self, input_shape):
    ...         self.scale = self.add_weight("scale", (input_shape[-1],), "ones")
    ...     def forward(self, x, training):
    ...         def pullback(dy):
    ...             self.scale.add_gradient((dy * x).sum(axis=0))
    ...             return dy * self.scale.value
    ...         return x * self.scale.value, pullback
    ...     def compute_output_shape(self, input_shape):
    ...         return input_shape
    >>> Scale()(np.ones((2, 3))).shape
    (2, 3)
    """

    # Names of the input's axes; Ellipsis stands for any number of axes. None: anything goes.
    input_axes: tuple[Any, ...] | None = None
    # Whether the mask of the input is that of the output too, or compute_mask makes that of it.
    supports_masking = False
    # Whether ``forward`` and ``call`` take a keyword argument ``mask``.
    uses_mask = False
    # Integer arrays stay integer and the output has the input's dtype.
    keeps_dtype = False
    # The input is indices, in [0, index_limit): a model leaves integers for it as they are.
    takes_indices = False
    index_limit: int | None = None
    # Keeps states from batch to batch: has save_state() and restore_state().
    stateful = False
    # Layers that this one is made of.
    parts: tuple[Layer, ...] = ()
    dtype = "float32"

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        if "build" in cls.__dict__:
            cls.build = _completed(cls.__dict__["build"])  # type: ignore[method-assign]
        takes_more = cls.uses_mask is True or cls.call_options or cls.named_inputs
        if takes_more and cls.call is Layer.call:
            cls.call = _call_with_options  # type: ignore[method-assign]

    def __init__(
        self,
        *,
        activity_regularizer: Any = None,
        trainable: bool = True,
        dtype: Any = None,
        name: str | None = None,
        input_shape: Sequence[int | None] | None = None,
        input_dim: int | None = None,
        input_length: int | None = None,
        batch_input_shape: Sequence[int | None] | None = None,
        batch_shape: Sequence[int | None] | None = None,
        **unknown: Any,
    ) -> None:
        super().__init__(name, trainable)
        # The shape the layer was built for, batch size forgotten; None before.
        self.build_input_shape: Shapes | None = None
        # Calls on symbolic tensors, in order.
        self.nodes: list[Node] = []
        # An executor clears it where nothing before this layer is trained.
        self.needs_input_gradient = True
        # Penalties on the outputs since the last `reset_losses`.
        self.activity_losses: list[float] = []
        self._building = False
        self._in_penalized = False
        # Whether a graph has said that a mask ends here.
        self.warned_of_mask = False
        # Size of the last axis that the weights were made for.
        self._input_channels: int | None = None
        if unknown:
            raise self.error(f"unknown arguments {', '.join(sorted(unknown))}")
        if not is_float32(dtype):
            raise self.error(f"dtype={dtype!r} is not supported: lamella computes in 'float32'")
        self.batch_input_shape = self._first_layer_shape(
            input_shape, input_dim, input_length, batch_input_shape, batch_shape
        )
        self.activity_regularizer = regularizers.get(activity_regularizer)
        if self.activity_regularizer is not None:
            # On the instance, so that layers without a penalty pay nothing for it.
            self.__dict__["forward"] = self._penalized_forward
            self.__dict__["call"] = self._penalized_call

    def _first_layer_shape(
        self,
        input_shape: Sequence[int | None] | None,
        input_dim: int | None,
        input_length: int | None,
        batch_input_shape: Sequence[int | None] | None,
        batch_shape: Sequence[int | None] | None,
    ) -> Shape | None:
        given = {
            "input_shape": input_shape,
            "input_dim/input_length": (input_dim, input_length),
            "batch_input_shape": batch_input_shape,
            "batch_shape": batch_shape,
        }
        given = {k: v for k, v in given.items() if v is not None and v != (None, None)}
        if len(given) > 1:
            raise self.error(f"give only one of {' and '.join(given)}")
        if not given:
            return None
        ((argument, value),) = given.items()
        if not hasattr(value, "__iter__"):
            raise self.error(f"{argument} expects a tuple of integers and None, got {value!r}")
        if argument == "input_dim/input_length":
            # input_length counts the steps of a sequence, input_dim the features of a step.
            value = [size for size in (input_length, input_dim) if size is not None]
        try:
            shape = as_shape(value)
        except ValueError as error:
            raise self.error(f"{argument}: {error}") from None
        return shape if argument.startswith("batch") else (None, *shape)

    # -- losses -------------------------------------------------------------------------------

    @property
    def losses(self) -> list[float]:
        """Penalties on the trained weights, then those on the outputs since `reset_losses`."""
        weights = [w.regularizer(w.value) for w in self.trainable_weights if w.regularizer]
        return weights + self.activity_losses

    def reset_losses(self) -> None:
        """Begin a step: forget the penalties on earlier outputs."""
        self.activity_losses = []

    def _penalized_forward(self, x: Any, training: bool, **options: Any) -> tuple[Any, Pullback]:
        y, pull = self._once(type(self).forward, x, training, **options)
        penalty = self.activity_regularizer
        if self._in_penalized or penalty is None:
            return y, pull
        self._add_penalties(y)

        def gradient(dy: np.ndarray | None, y: np.ndarray) -> np.ndarray:
            own = penalty.gradient(y) * np.float32(_share_of_batch(y))
            return own if dy is None else ops.add(dy, own)

        def pullback(dy: Any) -> Any:
            if isinstance(y, tuple):
                return pull(tuple(map(gradient, dy, y)))
            return pull(gradient(dy, y))

        return y, pullback

    def _penalized_call(self, x: Any, training: bool = False, **options: Any) -> Any:
        y = self._once(type(self).call, x, training, **options)
        if not self._in_penalized:
            self._add_penalties(y)
        return y

    def _add_penalties(self, y: Any) -> None:
        penalty = self.activity_regularizer
        assert penalty is not None
        for output in y if isinstance(y, tuple) else (y,):
            self.activity_losses.append(penalty(output) * _share_of_batch(output))

    def _once(self, function: Callable[..., Any], x: Any, training: bool, **options: Any) -> Any:
        """Run ``forward`` or ``call``; where one uses the other, the inner one adds no penalty."""
        outer, self._in_penalized = self._in_penalized, True
        try:
            return function(self, x, training, **options)
        finally:
            self._in_penalized = outer

    # -- building and computing ---------------------------------------------------------------

    def build(self, input_shape: Any) -> None:
        """Make the weights for an input shape; does nothing in a layer that has none.

        Parameters
        ----------
        input_shape : tuple, or list of tuples for a layer called on a list
            With the batch axis; None for unknown sizes.
        """

    def check_input_shape(self, input_shape: Shapes) -> None:
        """Raise ValueError unless the layer takes inputs of this shape."""
        if self.input_axes is None:
            return
        if isinstance(input_shape, list):
            raise self.error(f"takes one input, got a list of {len(input_shape)}")
        axes = self.input_axes
        least = len(axes) - (... in axes)
        if len(input_shape) < least or (len(input_shape) > least and ... not in axes):
            named = ", ".join("..." if axis is ... else axis for axis in axes)
            raise self.error(f"expects an input of shape ({named}), got shape {input_shape}")
        channels = self._input_channels
        if channels is not None and input_shape[-1] not in (channels, None):
            raise self.error(
                f"expects {channels} {axes[-1]} in the last axis, as it was built for, "
                f"got an input of shape {input_shape}"
            )

    def known_channels(self, input_shape: Shape) -> int:
        """Return the size of the last axis, and remember it as what the weights are made for."""
        channels = input_shape[-1]
        if not channels:
            raise self.error(
                f"needs a known last axis of at least 1 to make its weights, got {input_shape}"
            )
        self._input_channels = channels
        return channels

    def compute_output_shape(self, input_shape: Any) -> Any:
        """Return the output's shape for an input's, with None for unknown sizes."""
        raise NotImplementedError(
            f"{self.label}: {type(self).__name__} must define compute_output_shape(input_shape)"
        )

    @property
    def makes_mask(self) -> bool:
        """Whether the output may have a mask though no input has one: not in most layers."""
        # A class of the user's own with a compute_mask is asked each time, as in Keras.
        return self.supports_masking and type(self).compute_mask is not Layer.compute_mask

    def compute_mask(self, inputs: Any, mask: Any = None) -> Any:
        """Return the mask of the output: the input's where the layer keeps steps apart.

        Parameters
        ----------
        inputs : array, or list of arrays
        mask : bool array or None, or a list of them
            One for each input.

        Returns
        -------
        bool array or None, or a tuple of them
            One for each output.
        """
        return mask if self.supports_masking else None

    def forward(self, x: Any, training: bool) -> tuple[Any, Pullback]:
        """Compute the output and a pullback; see the class's notes."""
        raise NotImplementedError(
            f"{self.label}: {type(self).__name__} must define forward(x, training), which returns "
            "(y, pullback)"
        )

    def call(self, x: Any, training: bool = False) -> Any:
        """Compute the output for inference, saving nothing for a backward pass."""
        return self.forward(x, training)[0]

    @property
    def forward_logits(self) -> Callable[[Any, bool], tuple[Any, Pullback]] | None:
        """In a layer that ends in a softmax over its last axis: `forward` without the softmax.

        None in any other layer. A trainer uses it to compute a categorical cross-entropy and its
        gradient from the logits.
        """
        return None

    # -- configuration ------------------------------------------------------------------------

    def get_config(self) -> dict[str, Any]:
        """Return the arguments of ``__init__``, made of JSON types only."""
        config: dict[str, Any] = {
            "name": self.name,
            "trainable": self.trainable,
            "dtype": self.dtype,
        }
        if self.activity_regularizer is not None:
            config["activity_regularizer"] = regularizers.serialize(self.activity_regularizer)
        if self.batch_input_shape is not None:
            config["batch_input_shape"] = self.batch_input_shape
        return config

    @classmethod
    def from_config(
        cls, config: dict[str, Any], custom_objects: dict[str, Any] | None = None
    ) -> Any:
        """Make a layer from `get_config`'s result.

        Parameters
        ----------
        config : dict
        custom_objects : dict of str to object, optional
            Initializers, regularizers and activations of the caller's own, by name.
        """
        if custom_objects:
            config = {k: _own_object(k, v, custom_objects) for k, v in config.items()}
        return cls(**config)


Layer.build = _completed(Layer.build)  # type: ignore[method-assign]


def _share_of_batch(y: np.ndarray) -> float:
    # Keras': the penalty does not grow with the batch size.
    return 1 / max(len(y), 1)


def _own_object(key: str, value: Any, custom_objects: dict[str, Any]) -> Any:
    from lamella import activations

    if value is None or not isinstance(value, (str, dict)):
        return value
    if key.endswith("_initializer"):
        return initializers.get(value, custom_objects)
    if key.endswith("_regularizer"):
        return regularizers.get(value, custom_objects)
    return activations.get(value, custom_objects) if key.endswith("activation") else value
