"""`Weighted`: the half of a layer that owns weights: its name, its weights, their exchange."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from lamella import initializers, regularizers
from lamella.layers.arguments import flag, is_float32
from lamella.layers.naming import snake_case, unique_name
from lamella.layers.weight import Weight

# Types that keep their meaning with a layer's name in front; others pass unchanged.
NAMED_ERRORS = (ValueError, TypeError, IndexError, MemoryError, NotImplementedError)


def name_error(error: BaseException, layer: Weighted) -> None:
    """Put the layer's class and name in front of an error's message; its type stays.

    An executor calls it where an op raised inside ``layer.forward``; doing it twice is harmless.
    """
    prefix = f"{layer.label}: "
    if error.args and isinstance(error.args[0], str) and not error.args[0].startswith(prefix):
        error.args = (prefix + error.args[0], *error.args[1:])


class Weighted:
    """A named owner of weights; `Layer` adds inputs, outputs and computing.

    Parameters
    ----------
    name : str, optional
    trainable : bool
    """

    def __init__(self, name: str | None, trainable: bool) -> None:
        if name is None:
            name = unique_name(snake_case(type(self).__name__))
        if not isinstance(name, str) or not name or "/" in name:
            raise ValueError(
                f"{type(self).__name__} layer: name expects a string without '/', got {name!r}"
            )
        self.name = name
        self.built = False
        self._weights: list[Weight] = []
        self._trainable = flag(self, "trainable", trainable)

    # -- identity and errors ------------------------------------------------------------------

    @property
    def label(self) -> str:
        """Class and name, as error messages begin: ``Conv2D layer 'conv2d_1'``."""
        return f"{type(self).__name__} layer {self.name!r}"

    def error(self, message: str) -> ValueError:
        """Return a ValueError whose message begins with `label`."""
        return ValueError(f"{self.label}: {message}")

    def __repr__(self) -> str:
        return f"<{type(self).__name__} name={self.name}, built={self.built}>"

    # -- weights ------------------------------------------------------------------------------

    @property
    def trainable(self) -> bool:
        """Whether the weights are trained; may be changed before a model is compiled."""
        return self._trainable

    @trainable.setter
    def trainable(self, value: bool) -> None:
        self._trainable = flag(self, "trainable", value)

    def add_weight(
        self,
        name: str | None = None,
        shape: Sequence[int] = (),
        initializer: Any = "glorot_uniform",
        regularizer: Any = None,
        trainable: bool = True,
        dtype: Any = None,
        constraint: Any = None,
    ) -> Weight:
        """Make a weight; for use in ``build``.

        Parameters
        ----------
        name : str
            Unique within the layer.
        shape : tuple of int
        initializer : str or callable
            ``initializer(shape)`` gives the first value.
        regularizer : optional
            Penalty on the value.
        trainable : bool
            False for state such as moving statistics.
        dtype : optional
            Only float32.
        constraint : None
            Not supported.

        Returns
        -------
        Weight
        """
        name = f"weight_{len(self._weights)}" if name is None else name
        if constraint is not None:
            raise self.error(f"weight {name!r}: constraints are not supported")
        if not is_float32(dtype):
            raise self.error(f"weight {name!r}: dtype={dtype!r} is not supported, only 'float32'")
        if any(weight.name == name for weight in self._weights):
            raise self.error(f"there is a weight {name!r} already")
        shape = tuple(shape)
        if not all(size is not None and size > 0 for size in shape):
            raise self.error(f"weight {name!r} needs a known shape, got {shape}")
        make = initializers.get("glorot_uniform" if initializer is None else initializer)
        value = make(shape, dtype="float32")
        value = np.array(value, dtype=np.float32, order="C")
        if value.shape != shape:
            raise self.error(
                f"the initializer of weight {name!r} made shape {value.shape}, expected {shape}"
            )
        weight = Weight(
            name, f"{self.name}/{name}", value, trainable, regularizers.get(regularizer)
        )
        self._weights.append(weight)
        return weight

    @property
    def weights(self) -> list[Weight]:
        """All weights: those made to be trained, then the state."""
        return [w for w in self._weights if w.trainable] + [
            w for w in self._weights if not w.trainable
        ]

    @property
    def trainable_weights(self) -> list[Weight]:
        """The weights that training changes: none in a frozen layer."""
        return [w for w in self.weights if w.trainable] if self.trainable else []

    @property
    def non_trainable_weights(self) -> list[Weight]:
        """The weights that training leaves alone."""
        return [w for w in self.weights if not (self.trainable and w.trainable)]

    @property
    def variables(self) -> list[Weight]:
        """Keras' other name of `weights`."""
        return self.weights

    @property
    def trainable_variables(self) -> list[Weight]:
        """Keras' other name of `trainable_weights`."""
        return self.trainable_weights

    @property
    def non_trainable_variables(self) -> list[Weight]:
        """Keras' other name of `non_trainable_weights`."""
        return self.non_trainable_weights

    def count_params(self) -> int:
        """Return the number of parameters.

        Raises
        ------
        ValueError
            If the layer is not built: it has no weights yet.
        """
        if not self.built:
            raise self.error("has no parameters to count before it is built")
        return sum(weight.size for weight in self.weights)

    def get_weights(self) -> list[np.ndarray]:
        """Return copies of all weights, in the order of `weights`."""
        return [weight.numpy() for weight in self.weights]

    def set_weights(self, weights: Sequence[Any]) -> None:
        """Copy arrays into the weights, in the order of `weights`; all or none are changed.

        Raises
        ------
        ValueError
            If their number or a shape differs.
        """
        own = self.weights
        if len(weights) != len(own):
            named = ", ".join(f"{w.name} {w.shape}" for w in own) or "none"
            built = "" if self.built else " (the layer is not built yet)"
            raise self.error(f"set_weights got {len(weights)} arrays, has weights: {named}{built}")
        try:
            arrays = [w.convert(array) for w, array in zip(own, weights, strict=True)]
        except NAMED_ERRORS as error:
            name_error(error, self)
            raise
        for weight, array in zip(own, arrays, strict=True):
            weight.assign(array)
