"""`Wrapper`: a layer made of other layers, whose weights are theirs."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from lamella import registry
from lamella.layers.arguments import flag
from lamella.layers.base import Layer
from lamella.layers.weight import Weight


class Wrapper(Layer):
    """Base of TimeDistributed and its like; a subclass passes its parts to ``__init__``.

    Parameters
    ----------
    *parts : Layer
        The layers inside, in the order of their weights.
    **kwargs
        See `Layer`.
    """

    def __init__(self, *parts: Layer, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.parts = parts
        if not self._trainable:
            self.trainable = False

    @property
    def trainable(self) -> bool:
        """Whether the layers inside are trained; setting it sets it in each of them."""
        return self._trainable

    @trainable.setter
    def trainable(self, value: bool) -> None:
        self._trainable = flag(self, "trainable", value)
        for part in self.parts:
            part.trainable = value

    @property
    def weights(self) -> list[Weight]:
        return list({id(w): w for part in self.parts for w in part.weights}.values())

    @property
    def trainable_weights(self) -> list[Weight]:
        if not self._trainable:
            return []
        return list({id(w): w for part in self.parts for w in part.trainable_weights}.values())

    @property
    def non_trainable_weights(self) -> list[Weight]:
        trained = {id(weight) for weight in self.trainable_weights}
        return [weight for weight in self.weights if id(weight) not in trained]

    @property
    def losses(self) -> list[float]:
        return super().losses + [loss for part in self.parts for loss in part.activity_losses]

    def reset_losses(self) -> None:
        super().reset_losses()
        for part in self.parts:
            part.reset_losses()


def layer_argument(owner: Layer, name: str, value: Any) -> Layer:
    """Return ``value``, a layer.

    Raises
    ------
    TypeError
        It is none.
    """
    if not isinstance(value, Layer):
        hint = f"; did you mean {value.__name__}(...)?" if isinstance(value, type) else ""
        raise TypeError(f"{owner.label}: {name} expects a layer, got {value!r}{hint}")
    return value


def layer_from_config(value: Any, custom_objects: Mapping[str, Any] | None) -> Any:
    """Return the layer that a configuration describes; anything else unchanged."""
    if isinstance(value, Mapping):
        return registry.deserialize("layer", value, custom_objects)
    return value
