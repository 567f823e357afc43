"""`Sequential`: a model of layers in a row, built as soon as the shape of its input is known."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any

import numpy as np

from lamella import registry
from lamella.layers.arguments import flag
from lamella.layers.base import Layer
from lamella.layers.graph import InputLayer, SymbolicTensor
from lamella.layers.naming import snake_case, unique_name
from lamella.layers.shapes import Shape
from lamella.models.functional import Model
from lamella.models.topology import layers_from_config


class Sequential(Model):
    """A model of layers in a row.

    Parameters
    ----------
    layers : iterable of Layer, optional
        The first may be what `lamella.Input` returns, or have an ``input_shape=``; then the model
        is built while layers are added. Otherwise `fit`, `predict` or `build` does it.
    name : str, optional
    trainable : bool
        False freezes the layers given here.

    Raises
    ------
    TypeError
        An entry is not a layer.
    ValueError
        Two layers share a name, or a layer does not take the output of the one before it.

    Examples
    --------
    >>> import numpy as np
    >>> import lamella
    >>> model = Sequential([lamella.Input((4,)), lamella.layers.Dense(2, activation="softmax")])
    >>> model.compile(optimizer="adam", loss="sparse_categorical_crossentropy")
    >>> history = model.fit(np.ones((8, 4)), np.zeros(8, int), epochs=2, verbose=0)
    >>> len(history.history["loss"])
    2
    """

    def __init__(
        self,
        layers: Iterable[Layer | SymbolicTensor] | None = None,
        name: str | None = None,
        trainable: bool = True,
    ) -> None:
        if name is None:
            name = unique_name(snake_case(type(self).__name__))
        Layer.__init__(self, name=name)
        self._input_keys = self._output_keys = None
        self._stack: list[Layer] = []
        self._names: set[str] = set()
        # The input and then each layer's output; empty while the input's shape is not known.
        self._tensors: list[SymbolicTensor] = []
        if isinstance(layers, (Layer, SymbolicTensor)):
            raise TypeError(f"{self.label}: layers expects a list of layers, got {layers!r}")
        for layer in layers or ():
            self._append(layer)
        self._update()
        if not flag(self, "trainable", trainable):
            self.trainable = False

    # -- the stack ----------------------------------------------------------------------------

    @property
    def layers(self) -> list[Layer]:
        """The layers in order, without the one that stands for the input."""
        return list(self._stack)

    def add(self, layer: Layer | SymbolicTensor) -> None:
        """Append a layer.

        Raises
        ------
        TypeError
            It is not a layer.
        ValueError
            Its name is taken, it does not take the output of the layer before it, or this model is
            part of another one already. The model stays as it was.
        """
        self._require_own("add")
        self._append(layer)
        self._update()

    def pop(self) -> Layer:
        """Remove the last layer and return it.

        Raises
        ------
        ValueError
            There is none, or this model is part of another one already.
        """
        self._require_own("pop")
        if not self._stack:
            raise self.error("has no layers to pop")
        layer = self._stack.pop()
        self._names.discard(layer.name)
        if self._tensors:
            layer.nodes.remove(self._tensors.pop().node)
        self._update()
        return layer

    def _require_own(self, method: str) -> None:
        if self.nodes:
            raise self.error(f"is part of another model: {method} would change that too")

    def _append(self, layer: Any) -> None:
        if isinstance(layer, SymbolicTensor) and isinstance(layer.node.layer, InputLayer):
            layer = layer.node.layer
        if not isinstance(layer, Layer):
            hint = f"; did you mean {layer.__name__}()?" if isinstance(layer, type) else ""
            raise TypeError(f"{self.label}: expects layers, got {layer!r}{hint}")
        if isinstance(layer, InputLayer):
            if self._tensors or self._stack:
                raise self.error("takes an Input as its first entry only")
            self._tensors = [layer.output]
            self._names.add(layer.name)
            return
        if layer.name in self._names:
            raise self.error(
                f"has a layer called {layer.name!r} already; pass a different name= to one of them"
            )
        tensors = self._tensors or ([] if self._stack else _own_input(layer))
        if tensors:
            tensors = [*tensors, self._output_of(layer, tensors[-1])]
        self._tensors = tensors
        self._stack.append(layer)
        self._names.add(layer.name)

    def _output_of(self, layer: Layer, tensor: SymbolicTensor) -> SymbolicTensor:
        output = layer(tensor)
        if not isinstance(output, SymbolicTensor):
            layer.nodes.pop()
            raise self.error(
                f"layer {layer.name!r} has several outputs; use Model(inputs, outputs)"
            )
        return output

    def _update(self) -> None:
        """Make the graph of the present stack."""
        if self._tensors and self._stack:
            self._set_graph([self._tensors[0]], [self._tensors[-1]])
        else:
            self.built = False
            self._graph_changed()

    # -- building -----------------------------------------------------------------------------

    def build(self, input_shape: Any) -> None:
        """Make the weights for an input of this shape.

        Parameters
        ----------
        input_shape : tuple of int or None
            With the batch axis, whose size does not matter.

        Raises
        ------
        ValueError
            There are no layers, or they do not take this shape.
        """
        shapes = input_shape if isinstance(input_shape, list) else [input_shape]
        if len(shapes) != 1:
            raise self.error(f"takes one input, got {len(shapes)}")
        self._build((None, *shapes[0][1:]), _input_dtype(self._stack[0]) if self._stack else "")

    def _build(self, shape: Shape, dtype: str) -> None:
        if not self._stack:
            raise self.error("has no layers: call add()")
        tensors = [InputLayer(batch_shape=shape, dtype=dtype).output]
        for layer in self._stack:
            tensors.append(self._output_of(layer, tensors[-1]))
        self._tensors = tensors
        self._update()

    def _build_for(self, x: Any) -> None:
        if self.built:
            return
        if isinstance(x, Mapping):
            raise self.error("does not know its inputs yet: give an array, or an Input first")
        if isinstance(x, (list, tuple)) and len(x) == 1 and hasattr(x[0], "__array__"):
            x = x[0]
        shape = np.shape(x)
        if x is None or not shape:
            raise self.error(f"x expects an array with a batch axis, received {x!r}")
        self.build((None, *shape[1:]))

    def compute_output_shape(self, input_shape: Any) -> Any:
        for layer in self._stack:
            input_shape = layer.compute_output_shape(input_shape)
        return input_shape

    # -- configuration ------------------------------------------------------------------------

    def get_config(self) -> dict[str, Any]:
        """Return the layers' configurations, in JSON types."""
        return {
            "name": self.name,
            "trainable": self.trainable,
            "layers": [registry.serialize(layer) for layer in self._with_input()],
        }

    @classmethod
    def from_config(
        cls, config: dict[str, Any], custom_objects: Mapping[str, Any] | None = None
    ) -> Any:
        layers = layers_from_config(config, cls.__name__, custom_objects)
        model = cls(layers, name=config.get("name"))
        # Not through the setter: each layer has its own from its configuration.
        model._trainable = flag(model, "trainable", config.get("trainable", True))
        return model

    def _cloned(self, clone: Callable[[Layer], Layer]) -> Any:
        model = type(self)([clone(layer) for layer in self._with_input()], name=self.name)
        model._trainable = self._trainable
        return model

    def _with_input(self) -> list[Layer]:
        """Return the layers, after the one that stands for the input if its shape is known."""
        return [*(tensor.node.layer for tensor in self._tensors[:1]), *self._stack]


registry.register("layer")(Sequential)


def _own_input(layer: Layer) -> list[SymbolicTensor]:
    """Return the input that a model's first layer asks for, if it does."""
    shape = layer.batch_input_shape
    if shape is None and isinstance(layer, Model) and layer.built and len(layer.inputs) == 1:
        shape = layer.inputs[0].shape
    if shape is None:
        return []
    return [InputLayer(batch_shape=shape, dtype=_input_dtype(layer)).output]


def _input_dtype(layer: Layer) -> str:
    if isinstance(layer, Model):
        return layer.inputs[0].dtype if layer.built else "float32"
    return getattr(layer, "input_dtype", "float32")
