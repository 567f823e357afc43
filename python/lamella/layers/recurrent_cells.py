"""SimpleRNNCell, LSTMCell, GRUCell: the weights of a recurrence, and its run over a sequence.

A cell called by itself takes one step. `RNN` and the layers made of it hand it whole sequences, in
one call of the op.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar, NamedTuple

import numpy as np

from lamella import activations, initializers, ops, regularizers
from lamella.arguments import number
from lamella.arrays import expand_dims, like, squeeze
from lamella.layers.arguments import flag, integer, reject
from lamella.layers.base import Layer, Pullback
from lamella.layers.shapes import Shape, Shapes
from lamella.layers.weight import Weight
from lamella.layers.weighted import NAMED_ERRORS, name_error
from lamella.random import SeedGenerator
from lamella.registry import register


class Walk(NamedTuple):
    """How a sequence is run: which steps count (None: all), and in which direction."""

    mask: np.ndarray | None = None
    go_backwards: bool = False
    training: bool = False


class RecurrentCell(Layer):
    """Base of the cells: arguments, weights, and the op over a sequence.

    A subclass sets `_op_name`, `_gates` and `_state_count`, and may add weights and options.
    """

    input_axes = ("batch", "features")
    _op_name: ClassVar[str]
    _gates: ClassVar[int]
    _state_count: ClassVar[int]

    kernel: Weight
    recurrent_kernel: Weight
    bias: Weight | None

    def __init__(
        self,
        units: int,
        *,
        activation: Any,
        use_bias: bool,
        kernel_initializer: Any,
        recurrent_initializer: Any,
        bias_initializer: Any,
        kernel_regularizer: Any,
        recurrent_regularizer: Any,
        bias_regularizer: Any,
        kernel_constraint: Any,
        recurrent_constraint: Any,
        bias_constraint: Any,
        dropout: float,
        recurrent_dropout: float,
        seed: int | None,
        implementation: int = 2,
        owner: str | None = None,
        **kwargs: Any,
    ) -> None:
        # The class of the layer that this cell is the whole inside of: messages name that.
        self._owner = owner
        super().__init__(**kwargs)
        reject(
            self,
            kernel_constraint=kernel_constraint,
            recurrent_constraint=recurrent_constraint,
            bias_constraint=bias_constraint,
            activity_regularizer=self.activity_regularizer,
        )
        if implementation not in (0, 1, 2):
            raise self.error(f"implementation expects 1 or 2, got {implementation!r}")
        self.units = integer(self, "units", units)
        self.use_bias = flag(self, "use_bias", use_bias)
        self.activation = self._fused("activation", activation)
        try:
            self.kernel_initializer = initializers.get(kernel_initializer)
            self.recurrent_initializer = initializers.get(recurrent_initializer)
            self.bias_initializer = initializers.get(bias_initializer)
            self.kernel_regularizer = regularizers.get(kernel_regularizer)
            self.recurrent_regularizer = regularizers.get(recurrent_regularizer)
            self.bias_regularizer = regularizers.get(bias_regularizer)
            self._seeds = SeedGenerator(seed)
        except (ValueError, TypeError) as error:
            raise self.error(str(error)) from None
        self.dropout = number(self.label, "dropout", dropout, 0, 1, exclude=[1])
        self.recurrent_dropout = number(
            self.label, "recurrent_dropout", recurrent_dropout, 0, 1, exclude=[1]
        )
        self.seed = seed
        self._options: dict[str, Any] = {"activation": self.activation.fused}

    def _fused(self, name: str, value: Any) -> Any:
        try:
            function = activations.get(value)
        except ValueError as error:
            raise self.error(f"{name}: {error}") from None
        if getattr(function, "fused", None) is None and function is not activations.linear:
            raise self.error(
                f"{name}={value!r} is not supported inside a recurrence: use one that the ops "
                "compute, such as 'tanh', 'sigmoid', 'relu' or None"
            )
        return function

    @property
    def label(self) -> str:
        return f"{self._owner or type(self).__name__} layer {self.name!r}"

    # -- sizes --------------------------------------------------------------------------------

    @property
    def output_size(self) -> int:
        """Features of an output."""
        return self.units

    @property
    def state_sizes(self) -> list[int]:
        """Features of each state, the output's first."""
        return [self.output_size, *[self.units] * (self._state_count - 1)]

    @property
    def state_size(self) -> Any:
        """Features of the state; a list where there are several."""
        sizes = self.state_sizes
        return sizes[0] if len(sizes) == 1 else sizes

    def get_initial_state(self, batch_size: int) -> list[np.ndarray]:
        """Return zeros for each state."""
        return [np.zeros((batch_size, size), np.float32) for size in self.state_sizes]

    # -- weights ------------------------------------------------------------------------------

    def build(self, input_shape: Shape) -> None:
        width = self._gates * self.units
        features = self.known_channels(input_shape)
        self.kernel = self.add_weight(
            "kernel", (features, width), self.kernel_initializer, self.kernel_regularizer
        )
        self.recurrent_kernel = self.add_weight(
            "recurrent_kernel",
            (self.output_size, width),
            self.recurrent_initializer,
            self.recurrent_regularizer,
        )
        self.bias = None
        if self.use_bias:
            shape, initializer = self._bias()
            self.bias = self.add_weight("bias", shape, initializer, self.bias_regularizer)

    def _bias(self) -> tuple[tuple[int, ...], Any]:
        """Return the bias's shape and initializer."""
        return (self._gates * self.units,), self.bias_initializer

    def _late_weights(self) -> list[Weight | None]:
        """Return the weights that the op takes after the states."""
        return []

    # -- a sequence ---------------------------------------------------------------------------

    def _arguments(
        self, x: np.ndarray, states: Sequence[np.ndarray] | None, walk: Walk
    ) -> tuple[list[Any], dict[str, Any]]:
        given = [None] * self._state_count if states is None else list(states)
        bias = None if self.bias is None else self.bias.value
        late = [None if weight is None else weight.value for weight in self._late_weights()]
        arrays = [x, self.kernel.value, self.recurrent_kernel.value, bias, *given, *late]
        options = {**self._options, "go_backwards": walk.go_backwards}
        if walk.mask is not None:
            options["mask"] = walk.mask
        if walk.training:
            options.update(self._noise(x))
        return arrays, options

    def _noise(self, x: np.ndarray) -> dict[str, Any]:
        """Return the dropout masks of a training pass, the same for all steps."""
        noise = {}
        if self.dropout:
            noise["x_scale"] = self._kept(x, (x.shape[0], x.shape[2]), self.dropout)
        if self.recurrent_dropout:
            shape = (x.shape[0], self.output_size)
            noise["h_scale"] = self._kept(x, shape, self.recurrent_dropout)
        return noise

    def _kept(self, x: Any, shape: tuple[int, ...], rate: float) -> Any:
        ones = like(x, np.ones(shape, np.float32))
        return ops.dropout(ones, rate=rate, seed=self._seeds.next())

    def run(
        self, x: np.ndarray, states: Sequence[np.ndarray] | None, walk: Walk
    ) -> tuple[np.ndarray, ...]:
        """Compute a sequence x (N, T, D), keeping nothing.

        Returns
        -------
        tuple
            The outputs (N, T, output_size), then the states after the last step.
        """
        arrays, options = self._arguments(x, states, walk)
        results: tuple[np.ndarray, ...] = getattr(ops, self._op_name)(*arrays, **options)
        return results

    def run_with_pullback(
        self,
        x: np.ndarray,
        states: Sequence[np.ndarray] | None,
        walk: Walk,
        needs: tuple[bool, bool],
    ) -> tuple[tuple[np.ndarray, ...], Pullback]:
        """Compute a sequence and a pullback, which also gives the weights their gradients.

        Parameters
        ----------
        x, states, walk
            As `run` takes them.
        needs : (bool, bool)
            Whether gradients of x and of the states are wanted.

        Returns
        -------
        results : tuple
            As those of `run`.
        pullback : callable
            Takes a gradient, or None, of each result; returns those of x and of each state.
        """
        arrays, options = self._arguments(x, states, walk)
        op = getattr(ops, self._op_name)
        trained = self._trainable
        weights = [self.kernel, self.recurrent_kernel, self.bias]
        between: list[None] = [None] * self._state_count
        # In the order of the op's arguments; None for x and the states.
        places: list[Weight | None] = [None, *weights, *between, *self._late_weights()]
        wanted = [trained and weight is not None for weight in places]
        wanted[0] = needs[0]
        first = 1 + len(weights)
        of_states = slice(first, first + self._state_count)
        wanted[of_states] = [needs[1] and states is not None] * self._state_count
        results, pull = op.vjp(*arrays, **options, needs=wanted)

        def pullback(*dy: np.ndarray | None) -> tuple[np.ndarray | None, ...]:
            out = [
                weight.gradient_out() if weight is not None and trained else None
                for weight in places
            ]
            gradients = pull(*dy, out=out)
            if trained:
                for weight, gradient in zip(places, gradients, strict=True):
                    if weight is not None:
                        weight.add_gradient(gradient)
            return (gradients[0], *gradients[of_states])

        return results, pullback

    # -- one step -----------------------------------------------------------------------------

    def forward(self, x: Any, training: bool) -> tuple[Any, Pullback]:
        """Take one step; ``x`` is a list of the input (N, D) and the states.

        Returns ``(output, state, ...)`` and a pullback that returns as many gradients as ``x`` has
        entries.
        """
        step, *states = x
        results, pull = self.run_with_pullback(
            expand_dims(step, 1), states, Walk(training=training), (self.needs_input_gradient, True)
        )

        def pullback(dy: Sequence[np.ndarray | None]) -> tuple[Any, ...]:
            total = _sum(dy[0], dy[1])
            dx, *rest = pull(None, total, *dy[2:])
            return (None if dx is None else squeeze(dx, 1), *rest)

        return (results[1], *results[1:]), pullback

    def call(self, x: Any, training: bool = False) -> Any:
        step, *states = x
        results = self.run(expand_dims(step, 1), states, Walk(training=training))
        return (results[1], *results[1:])

    def check_input_shape(self, input_shape: Shapes) -> None:
        shape: Any = input_shape[0] if _is_list(input_shape) else input_shape
        super().check_input_shape(shape)

    def __call__(  # type: ignore[override]
        self, inputs: Any, states: Any = None, training: bool | None = False
    ) -> Any:
        """Take one step.

        Parameters
        ----------
        inputs : array_like (N, D)
        states : array_like (N, units), or a list of them, optional
            Zeros without.
        training : bool

        Returns
        -------
        output : np.ndarray (N, output_size)
        states : list of np.ndarray
        """
        try:
            x = self._convert(inputs)
            if not self.built:
                self.build((None, *x.shape[1:]))
            self.check_input_shape(x.shape)
            given = checked_states(self, states, self.state_sizes, len(x))
            output, *after = self.call([x, *given], bool(training))
        except NAMED_ERRORS as error:
            name_error(error, self)
            raise
        return output, after

    def compute_output_shape(self, input_shape: Any) -> Any:
        shape = input_shape[0] if _is_list(input_shape) else input_shape
        return (
            (shape[0], self.output_size),
            *((shape[0], size) for size in self.state_sizes),
        )

    def get_config(self) -> dict[str, Any]:
        penalties = {
            name: getattr(self, name)
            for name in ("kernel_regularizer", "recurrent_regularizer", "bias_regularizer")
        }
        serialize = initializers.serialize
        return {
            **super().get_config(),
            "units": self.units,
            "activation": activations.serialize(self.activation),
            "use_bias": self.use_bias,
            "kernel_initializer": serialize(self.kernel_initializer),
            "recurrent_initializer": serialize(self.recurrent_initializer),
            "bias_initializer": serialize(self.bias_initializer),
            **{
                name: None if penalty is None else regularizers.serialize(penalty)
                for name, penalty in penalties.items()
            },
            "dropout": self.dropout,
            "recurrent_dropout": self.recurrent_dropout,
            "seed": self.seed,
        }


def _is_list(shape: Any) -> bool:
    return bool(shape) and hasattr(shape[0], "__iter__")


def _sum(a: np.ndarray | None, b: np.ndarray | None) -> np.ndarray | None:
    if a is None or b is None:
        return b if a is None else a
    return ops.add(a, b)


def checked_states(
    layer: Layer, states: Any, sizes: Sequence[int], batch: int, name: str = "states"
) -> list[np.ndarray]:
    """Return one float32 array (batch, size) for each of ``sizes``; zeros for None.

    Raises
    ------
    ValueError
        Their number or a shape differs.
    """
    if states is None:
        return [np.zeros((batch, size), np.float32) for size in sizes]
    arrays = list(states) if isinstance(states, (list, tuple)) else [states]
    expected = [(batch, size) for size in sizes]
    found = [np.shape(array) for array in arrays]
    if found != expected:
        raise layer.error(f"{name} expects arrays of shapes {expected}, got {found}")
    return [np.ascontiguousarray(layer._convert(array)) for array in arrays]


@register("layer")
class SimpleRNNCell(RecurrentCell):
    """``h' = activation(x kernel + h recurrent_kernel + bias)``: a step of `SimpleRNN`.

    kernel (D, units), recurrent_kernel (units, units), bias (units,).

    Parameters
    ----------
    units : int
    activation : str or function, optional
        One that the ops compute.
    use_bias : bool
    kernel_initializer, recurrent_initializer, bias_initializer : str or Initializer
    kernel_regularizer, recurrent_regularizer, bias_regularizer : optional
    kernel_constraint, recurrent_constraint, bias_constraint
        Not supported.
    dropout, recurrent_dropout : float
        In training, shares in [0, 1) of the input's and the state's features that are dropped at
        every step of a sequence alike.
    seed : int, optional
        As in `Dropout`.

    Examples
    --------
    >>> import numpy as np
    >>> cell = SimpleRNNCell(2, "linear", kernel_initializer="ones", recurrent_initializer="ones")
    >>> h, states = cell(np.ones((1, 3)), np.ones((1, 2)))
    >>> h
    array([[5., 5.]], dtype=float32)
    """

    _op_name = "simple_rnn"
    _gates = 1
    _state_count = 1

    def __init__(
        self,
        units: int,
        activation: Any = "tanh",
        use_bias: bool = True,
        kernel_initializer: Any = "glorot_uniform",
        recurrent_initializer: Any = "orthogonal",
        bias_initializer: Any = "zeros",
        kernel_regularizer: Any = None,
        recurrent_regularizer: Any = None,
        bias_regularizer: Any = None,
        kernel_constraint: Any = None,
        recurrent_constraint: Any = None,
        bias_constraint: Any = None,
        dropout: float = 0.0,
        recurrent_dropout: float = 0.0,
        seed: int | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(
            units,
            activation=activation,
            use_bias=use_bias,
            kernel_initializer=kernel_initializer,
            recurrent_initializer=recurrent_initializer,
            bias_initializer=bias_initializer,
            kernel_regularizer=kernel_regularizer,
            recurrent_regularizer=recurrent_regularizer,
            bias_regularizer=bias_regularizer,
            kernel_constraint=kernel_constraint,
            recurrent_constraint=recurrent_constraint,
            bias_constraint=bias_constraint,
            dropout=dropout,
            recurrent_dropout=recurrent_dropout,
            seed=seed,
            **kwargs,
        )
