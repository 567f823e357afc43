"""SimpleRNN, LSTM and GRU: `RNN` of one cell, with Keras' arguments."""

from __future__ import annotations

from typing import Any

from lamella.layers.naming import snake_case, unique_name
from lamella.layers.recurrent import RNN
from lamella.layers.recurrent_cells import RecurrentCell, SimpleRNNCell
from lamella.layers.recurrent_gated import GRUCell, LSTMCell
from lamella.registry import register


class _OfOneCell(RNN):
    """Makes its cell, which bears the layer's name."""

    cell: RecurrentCell
    _cell_class: type[RecurrentCell]

    def __init__(
        self,
        cell_arguments: dict[str, Any],
        use_cudnn: Any = "auto",
        name: str | None = None,
        implementation: int = 2,
        **kwargs: Any,
    ) -> None:
        kind = type(self).__name__
        name = unique_name(snake_case(kind)) if name is None else name
        if not isinstance(name, str) or not name or "/" in name:
            raise ValueError(f"{kind} layer: name expects a string without '/', got {name!r}")
        cell = self._cell_class(
            **cell_arguments, name=name, implementation=implementation, owner=kind
        )
        super().__init__(cell, name=name, **kwargs)
        if use_cudnn not in ("auto", False, None):
            raise self.error(f"use_cudnn={use_cudnn!r} is not supported: leave it at 'auto'")
        self.units = cell.units
        self.activation = cell.activation

    def get_config(self) -> dict[str, Any]:
        config = super().get_config()
        del config["cell"]
        own = self.cell.get_config()
        for key in ("name", "trainable", "dtype"):
            del own[key]
        return {**config, **own}


@register("layer")
class SimpleRNN(_OfOneCell):
    """``h' = activation(x_t kernel + h recurrent_kernel + bias)`` at every step of x (N, T, D).

    y is the last h (N, units), or with ``return_sequences`` every h (N, T, units). kernel (D,
    units), recurrent_kernel (units, units), bias (units,). Masks: see `RNN`.

    Parameters
    ----------
    units : int
    activation : str or function, optional
        One that the op computes, such as "tanh", "sigmoid", "relu" or None.
    use_bias : bool
    kernel_initializer, recurrent_initializer, bias_initializer : str or Initializer
    kernel_regularizer, recurrent_regularizer, bias_regularizer, activity_regularizer : optional
    kernel_constraint, recurrent_constraint, bias_constraint
        Not supported.
    dropout, recurrent_dropout : float
        In training, shares in [0, 1) of the features of x_t and h that are dropped before their
        products, at all steps alike.
    seed : int, optional
        As in `Dropout`.
    return_sequences, return_state, go_backwards, stateful, unroll, zero_output_for_mask
        See `RNN`.
    **kwargs
        name, trainable, input_shape and so on: see `Layer`.

    Raises
    ------
    ValueError
        If an argument is not what it should be; calls: see `RNN`.

    Examples
    --------
    >>> import numpy as np
    >>> SimpleRNN(4)(np.ones((2, 3, 5))).shape
    (2, 4)
    """

    _cell_class = SimpleRNNCell

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
        activity_regularizer: Any = None,
        kernel_constraint: Any = None,
        recurrent_constraint: Any = None,
        bias_constraint: Any = None,
        dropout: float = 0.0,
        recurrent_dropout: float = 0.0,
        return_sequences: bool = False,
        return_state: bool = False,
        go_backwards: bool = False,
        stateful: bool = False,
        unroll: bool = False,
        seed: int | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(
            {
                "units": units,
                "activation": activation,
                "use_bias": use_bias,
                "kernel_initializer": kernel_initializer,
                "recurrent_initializer": recurrent_initializer,
                "bias_initializer": bias_initializer,
                "kernel_regularizer": kernel_regularizer,
                "recurrent_regularizer": recurrent_regularizer,
                "bias_regularizer": bias_regularizer,
                "kernel_constraint": kernel_constraint,
                "recurrent_constraint": recurrent_constraint,
                "bias_constraint": bias_constraint,
                "dropout": dropout,
                "recurrent_dropout": recurrent_dropout,
                "seed": seed,
            },
            activity_regularizer=activity_regularizer,
            return_sequences=return_sequences,
            return_state=return_state,
            go_backwards=go_backwards,
            stateful=stateful,
            unroll=unroll,
            **kwargs,
        )


@register("layer")
class LSTM(_OfOneCell):
    """Long short-term memory over x (N, T, D) (Hochreiter and Schmidhuber 1997)::

        z = x_t kernel + h recurrent_kernel + bias                    blocks z_i, z_f, z_c, z_o
        c' = recurrent_activation(z_f) c + recurrent_activation(z_i) activation(z_c)
        h' = recurrent_activation(z_o) activation(c')

    y is the last h (N, units), or with ``return_sequences`` every h (N, T, units); the states are h
    and c. kernel (D, 4 units), recurrent_kernel (units, 4 units), bias (4 units,). Masks: see
    `RNN`. With ``projection`` h has that many features, in y and in the state.

    Parameters
    ----------
    units : int
    activation, recurrent_activation : str or function, optional
        Ones that the ops compute, such as "tanh", "sigmoid", "relu" or None.
    use_bias : bool
    kernel_initializer, recurrent_initializer, bias_initializer : str or Initializer
    unit_forget_bias : bool
        The forget gate's bias begins at 1.
    kernel_regularizer, recurrent_regularizer, bias_regularizer, activity_regularizer : optional
    kernel_constraint, recurrent_constraint, bias_constraint
        Not supported.
    dropout, recurrent_dropout : float
        In training, shares in [0, 1) of the features of x_t and h that are dropped before their
        products, at all steps alike.
    seed : int, optional
        As in `Dropout`.
    return_sequences, return_state, go_backwards, stateful, unroll, zero_output_for_mask
        See `RNN`.
    use_cudnn
        Accepted unless True.
    zoneout, layer_norm, layer_norm_epsilon, projection
        Beyond Keras: see `LSTMCell`.
    **kwargs
        name, trainable, input_shape and so on: see `Layer`.

    Raises
    ------
    ValueError
        If an argument is not what it should be; calls: see `RNN`.

    Examples
    --------
    >>> import numpy as np
    >>> layer = LSTM(4, return_sequences=True, return_state=True)
    >>> [part.shape for part in layer(np.ones((2, 3, 5)))]
    [(2, 3, 4), (2, 4), (2, 4)]
    >>> y, state = layer.step(np.ones((2, 5)))
    >>> y, state = layer.step(np.ones((2, 5)), state)
    >>> y.shape
    (2, 4)
    >>> y, state = LSTM(4, layer_norm=True, projection=3).step(np.ones((2, 5)))
    >>> [part.shape for part in state]
    [(2, 3), (2, 4)]
    """

    _cell_class = LSTMCell

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
        activity_regularizer: Any = None,
        kernel_constraint: Any = None,
        recurrent_constraint: Any = None,
        bias_constraint: Any = None,
        dropout: float = 0.0,
        recurrent_dropout: float = 0.0,
        seed: int | None = None,
        return_sequences: bool = False,
        return_state: bool = False,
        go_backwards: bool = False,
        stateful: bool = False,
        unroll: bool = False,
        use_cudnn: Any = "auto",
        zoneout: Any = 0.0,
        layer_norm: bool = False,
        layer_norm_epsilon: float = 1e-3,
        projection: int | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(
            {
                "units": units,
                "activation": activation,
                "recurrent_activation": recurrent_activation,
                "use_bias": use_bias,
                "kernel_initializer": kernel_initializer,
                "recurrent_initializer": recurrent_initializer,
                "bias_initializer": bias_initializer,
                "unit_forget_bias": unit_forget_bias,
                "kernel_regularizer": kernel_regularizer,
                "recurrent_regularizer": recurrent_regularizer,
                "bias_regularizer": bias_regularizer,
                "kernel_constraint": kernel_constraint,
                "recurrent_constraint": recurrent_constraint,
                "bias_constraint": bias_constraint,
                "dropout": dropout,
                "recurrent_dropout": recurrent_dropout,
                "seed": seed,
                "zoneout": zoneout,
                "layer_norm": layer_norm,
                "layer_norm_epsilon": layer_norm_epsilon,
                "projection": projection,
            },
            activity_regularizer=activity_regularizer,
            return_sequences=return_sequences,
            return_state=return_state,
            go_backwards=go_backwards,
            stateful=stateful,
            unroll=unroll,
            use_cudnn=use_cudnn,
            **kwargs,
        )


@register("layer")
class GRU(_OfOneCell):
    """Gated recurrent unit over x (N, T, D) (Cho et al. 2014)::

        z = recurrent_activation(x_t kernel_z + h recurrent_kernel_z + bias_z)
        r = recurrent_activation(x_t kernel_r + h recurrent_kernel_r + bias_r)
        h' = z h + (1 - z) activation(x_t kernel_h + bias_h + r (h recurrent_kernel_h + bias_q))

    or with ``reset_after=False`` ``(r h) recurrent_kernel_h`` in the last. y is the last h (N,
    units), or with ``return_sequences`` every h (N, T, units). kernel (D, 3 units),
    recurrent_kernel (units, 3 units), bias (2, 3 units), or (3 units,) with ``reset_after=False``;
    gates in the order z, r, h. Masks: see `RNN`.

    Parameters
    ----------
    units : int
    activation, recurrent_activation : str or function, optional
        Ones that the ops compute, such as "tanh", "sigmoid", "relu" or None.
    use_bias : bool
    kernel_initializer, recurrent_initializer, bias_initializer : str or Initializer
    kernel_regularizer, recurrent_regularizer, bias_regularizer, activity_regularizer : optional
    kernel_constraint, recurrent_constraint, bias_constraint
        Not supported.
    dropout, recurrent_dropout : float
        In training, shares in [0, 1) of the features of x_t and h that are dropped before their
        products, at all steps alike.
    reset_after : bool
        Whether the reset gate comes after the product with recurrent_kernel.
    seed : int, optional
        As in `Dropout`.
    return_sequences, return_state, go_backwards, stateful, unroll, zero_output_for_mask
        See `RNN`.
    use_cudnn
        Accepted unless True.
    **kwargs
        name, trainable, input_shape and so on: see `Layer`.

    Raises
    ------
    ValueError
        If an argument is not what it should be; calls: see `RNN`.

    Examples
    --------
    >>> import numpy as np
    >>> GRU(4, go_backwards=True)(np.ones((2, 3, 5))).shape
    (2, 4)
    """

    _cell_class = GRUCell

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
        activity_regularizer: Any = None,
        kernel_constraint: Any = None,
        recurrent_constraint: Any = None,
        bias_constraint: Any = None,
        dropout: float = 0.0,
        recurrent_dropout: float = 0.0,
        seed: int | None = None,
        return_sequences: bool = False,
        return_state: bool = False,
        go_backwards: bool = False,
        stateful: bool = False,
        unroll: bool = False,
        reset_after: bool = True,
        use_cudnn: Any = "auto",
        **kwargs: Any,
    ) -> None:
        super().__init__(
            {
                "units": units,
                "activation": activation,
                "recurrent_activation": recurrent_activation,
                "use_bias": use_bias,
                "kernel_initializer": kernel_initializer,
                "recurrent_initializer": recurrent_initializer,
                "bias_initializer": bias_initializer,
                "kernel_regularizer": kernel_regularizer,
                "recurrent_regularizer": recurrent_regularizer,
                "bias_regularizer": bias_regularizer,
                "kernel_constraint": kernel_constraint,
                "recurrent_constraint": recurrent_constraint,
                "bias_constraint": bias_constraint,
                "dropout": dropout,
                "recurrent_dropout": recurrent_dropout,
                "seed": seed,
                "reset_after": reset_after,
            },
            activity_regularizer=activity_regularizer,
            return_sequences=return_sequences,
            return_state=return_state,
            go_backwards=go_backwards,
            stateful=stateful,
            unroll=unroll,
            use_cudnn=use_cudnn,
            **kwargs,
        )
