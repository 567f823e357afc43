"""LSTMCell and GRUCell: recurrences with gates."""

from __future__ import annotations

from typing import Any

import numpy as np

from lamella import activations, initializers
from lamella.arguments import number
from lamella.arrays import like, to_numpy
from lamella.layers.arguments import flag, integer
from lamella.layers.recurrent_cells import RecurrentCell, Walk
from lamella.layers.shapes import Shape
from lamella.layers.weight import Weight
from lamella.registry import register


@register("layer")
class LSTMCell(RecurrentCell):
    """A step of `LSTM`; there are the equations.

    Weights: kernel (D, 4 units), recurrent_kernel (units, 4 units), bias (4 units,), with the gates
    in the order i, f, c, o; then those of ``projection`` and ``layer_norm``.

    Parameters
    ----------
    units : int
    activation, recurrent_activation : str or function, optional
        Ones that the ops compute.
    use_bias : bool
    kernel_initializer, recurrent_initializer, bias_initializer : str or Initializer
    unit_forget_bias : bool
        The forget gate's bias begins at 1.
    kernel_regularizer, recurrent_regularizer, bias_regularizer : optional
    kernel_constraint, recurrent_constraint, bias_constraint
        Not supported.
    dropout, recurrent_dropout : float
        As in `SimpleRNNCell`.
    seed : int, optional
        As in `Dropout`.
    zoneout : float or (float, float)
        Beyond Keras: the probability, in [0, 1), that a feature of h and c, or of each, keeps its
        value of the step before; outside training the expectation of that (Krueger et al. 2017).
    layer_norm : bool
        Beyond Keras: normalize both products and, for the output, c (Ba et al. 2016; equations in
        `lamella.ops.lstm`), with weights gamma_x, gamma_h (4 units,), gamma_c, beta_c (units,).
    layer_norm_epsilon : float
        Positive; added to the variances of ``layer_norm``.
    projection : int, optional
        Beyond Keras: ``h`` has so many features, the cell's output times projection_kernel (units,
        projection) (Sak et al. 2014); recurrent_kernel is (projection, 4 units).

    Examples
    --------
    >>> import numpy as np
    >>> h, states = LSTMCell(4)(np.ones((2, 3)))
    >>> h.shape, [state.shape for state in states]
    ((2, 4), [(2, 4), (2, 4)])
    """

    _op_name = "lstm"
    _gates = 4
    _state_count = 2

    def __init__(
        self,
        units: int,
        activation: Any = "tanh",
        recurrent_activation: Any = "sigmoid",
        use_bias: bool = True,
        kernel_initializer: Any = "glorot_uniform",
        recurrent_initializer: Any = "orthogonal",
        bias_initializer: Any = "zeros",
        unit_forget_bias: bool = True,
        kernel_regularizer: Any = None,
        recurrent_regularizer: Any = None,
        bias_regularizer: Any = None,
        kernel_constraint: Any = None,
        recurrent_constraint: Any = None,
        bias_constraint: Any = None,
        dropout: float = 0.0,
        recurrent_dropout: float = 0.0,
        seed: int | None = None,
        zoneout: Any = 0.0,
        layer_norm: bool = False,
        layer_norm_epsilon: float = 1e-3,
        projection: int | None = None,
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
        self.recurrent_activation = self._fused("recurrent_activation", recurrent_activation)
        self._options["recurrent_activation"] = self.recurrent_activation.fused
        self.unit_forget_bias = flag(self, "unit_forget_bias", unit_forget_bias)
        self.layer_norm = flag(self, "layer_norm", layer_norm)
        self.layer_norm_epsilon = number(
            self.label, "layer_norm_epsilon", layer_norm_epsilon, 0, exclude=[0]
        )
        self._options["epsilon"] = self.layer_norm_epsilon
        self.projection = None if projection is None else integer(self, "projection", projection)
        pair = zoneout if isinstance(zoneout, (tuple, list)) else (zoneout, zoneout)
        if len(pair) != 2:
            raise self.error(f"zoneout expects one number or two, for h and c, got {zoneout!r}")
        self.zoneout = tuple(
            number(self.label, "zoneout", rate, 0, 1, exclude=[1]) for rate in pair
        )

    @property
    def output_size(self) -> int:
        return self.units if self.projection is None else self.projection

    def _bias(self) -> tuple[tuple[int, ...], Any]:
        shape, plain = super()._bias()
        if not self.unit_forget_bias:
            return shape, plain

        def initializer(shape: tuple[int, ...], dtype: Any = None) -> np.ndarray:
            bias = np.array(plain(shape), np.float32)
            bias[self.units : 2 * self.units] = 1
            return bias

        return shape, initializer

    def build(self, input_shape: Shape) -> None:
        super().build(input_shape)
        self.projection_kernel: Weight | None = None
        self.gamma_x = self.gamma_h = self.gamma_c = self.beta_c = None
        if self.projection is not None:
            self.projection_kernel = self.add_weight(
                "projection_kernel",
                (self.units, self.projection),
                self.kernel_initializer,
                self.kernel_regularizer,
            )
        if self.layer_norm:
            ones = initializers.get("ones")
            self.gamma_x = self.add_weight("gamma_x", (4 * self.units,), ones)
            self.gamma_h = self.add_weight("gamma_h", (4 * self.units,), ones)
            self.gamma_c = self.add_weight("gamma_c", (self.units,), ones)
            self.beta_c = self.add_weight("beta_c", (self.units,), "zeros")

    def _late_weights(self) -> list[Weight | None]:
        return [self.projection_kernel, self.gamma_x, self.gamma_h, self.gamma_c, self.beta_c]

    def _arguments(
        self, x: np.ndarray, states: Any, walk: Walk
    ) -> tuple[list[Any], dict[str, Any]]:
        arrays, options = super()._arguments(x, states, walk)
        sizes = self.state_sizes
        for name, rate, size in zip(("zoneout_h", "zoneout_c"), self.zoneout, sizes, strict=True):
            if rate and walk.training:
                # What dropout would drop keeps its value of the step before.
                kept = to_numpy(self._kept(x, (*x.shape[:2], size), rate))
                options[name] = like(x, kept == 0)
            elif rate:
                options[name] = rate
        return arrays, options

    def get_config(self) -> dict[str, Any]:
        config = {
            **super().get_config(),
            "recurrent_activation": activations.serialize(self.recurrent_activation),
            "unit_forget_bias": self.unit_forget_bias,
        }
        if any(self.zoneout):
            config["zoneout"] = self.zoneout
        if self.layer_norm:
            config["layer_norm"] = True
            config["layer_norm_epsilon"] = self.layer_norm_epsilon
        if self.projection is not None:
            config["projection"] = self.projection
        return config


@register("layer")
class GRUCell(RecurrentCell):
    """A step of `GRU`; there are the equations.

    Weights: kernel (D, 3 units), recurrent_kernel (units, 3 units), bias (2, 3 units) with
    ``reset_after`` and (3 units,) without, with the gates in the order z, r, h.

    Parameters
    ----------
    units : int
    activation, recurrent_activation : str or function, optional
        Ones that the ops compute.
    use_bias : bool
    kernel_initializer, recurrent_initializer, bias_initializer : str or Initializer
    kernel_regularizer, recurrent_regularizer, bias_regularizer : optional
    kernel_constraint, recurrent_constraint, bias_constraint
        Not supported.
    dropout, recurrent_dropout : float
        As in `SimpleRNNCell`.
    reset_after : bool
        Whether the reset gate comes after the product with recurrent_kernel.
    seed : int, optional
        As in `Dropout`.

    Examples
    --------
    >>> GRUCell(4).state_size
    4
    """

    _op_name = "gru"
    _gates = 3
    _state_count = 1

    def __init__(
        self,
        units: int,
        activation: Any = "tanh",
        recurrent_activation: Any = "sigmoid",
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
        reset_after: bool = True,
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
        self.recurrent_activation = self._fused("recurrent_activation", recurrent_activation)
        self.reset_after = flag(self, "reset_after", reset_after)
        self._options["recurrent_activation"] = self.recurrent_activation.fused
        self._options["reset_after"] = self.reset_after

    def _bias(self) -> tuple[tuple[int, ...], Any]:
        shape = (2, 3 * self.units) if self.reset_after else (3 * self.units,)
        return shape, self.bias_initializer

    def get_config(self) -> dict[str, Any]:
        return {
            **super().get_config(),
            "recurrent_activation": activations.serialize(self.recurrent_activation),
            "reset_after": self.reset_after,
        }
