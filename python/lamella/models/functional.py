"""`Model`: a graph of layers fixed at construction, itself a layer.

Data flows as follows. `fit` and its kin (see `lamella.models.trainer`) check and convert the data,
then hand lists of arrays to the compiled graph (`lamella.models.executor`), which calls the layers
directly. Calling a model on arrays takes the same way; calling it on symbolic tensors makes it a
part of another model, whose graph takes in this one's steps.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from lamella import registry
from lamella.layers.arguments import flag
from lamella.layers.base import Layer, Pullback, Weight
from lamella.layers.graph import InputLayer, Node, SymbolicTensor
from lamella.layers.naming import snake_case, unique_name
from lamella.layers.shapes import Shapes
from lamella.models import topology
from lamella.models.data import as_inputs, check_indices
from lamella.models.executor import Graph, Inference, Training, index_inputs, stateful_layers
from lamella.models.saving import Saved
from lamella.models.summary import print_summary
from lamella.models.trainer import Trainer


class Model(Trainer, Saved, Layer):
    """A graph of layers from inputs to outputs.

    Parameters
    ----------
    inputs : SymbolicTensor, or list or dict of them
        Made by `lamella.Input`. A tensor that a layer made cuts the graph there: the new model
        begins at it and shares the layers' weights.
    outputs : SymbolicTensor, or list or dict of them
        What the inputs lead to. `predict` returns arrays in the same structure.
    name : str, optional
    trainable : bool
        False freezes all layers.

    Raises
    ------
    TypeError
        An input or output is not a symbolic tensor.
    ValueError
        The outputs depend on other inputs than these, an input is given twice, or two layers
        share a name.

    Examples
    --------
    >>> import numpy as np
    >>> from lamella.layers import Add, Dense
    >>> import lamella
    >>> x = lamella.Input((4,))
    >>> y = Add()([x, Dense(4, activation="relu")(x)])
    >>> model = Model(x, y)
    >>> model.predict(np.ones((2, 4)), verbose=0).shape
    (2, 4)
    """

    def __init__(
        self,
        inputs: Any = None,
        outputs: Any = None,
        name: str | None = None,
        trainable: bool = True,
    ) -> None:
        if inputs is None or outputs is None:
            raise ValueError(
                f"{type(self).__name__} expects inputs and outputs: "
                "Model(inputs=..., outputs=...), both symbolic tensors that start at lamella.Input"
            )
        if name is None:
            kind = "Functional" if type(self) is Model else type(self).__name__
            name = unique_name(snake_case(kind))
        super().__init__(name=name)
        flat_inputs, self._input_keys = _flatten(inputs, "inputs")
        flat_outputs, self._output_keys = _flatten(outputs, "outputs")
        if len({id(tensor) for tensor in flat_inputs}) < len(flat_inputs):
            raise self.error("inputs holds a tensor twice")
        self._set_graph(*topology.cut(flat_inputs, flat_outputs))
        if not flag(self, "trainable", trainable):
            self.trainable = False

    def _set_graph(self, inputs: list[SymbolicTensor], outputs: list[SymbolicTensor]) -> None:
        try:
            nodes, layers = topology.trace(inputs, outputs)
        except ValueError as error:
            raise self.error(str(error)) from None
        self._calls: list[Node] = nodes
        self._graph_layers: list[Layer] = layers
        self._inputs = inputs
        self._outputs = outputs
        self.graph = Graph(nodes, inputs, outputs)
        self._inference = Inference(self.graph)
        fed = index_inputs(self.graph)
        # "indices" for an input that only feeds embeddings: integers stay integers.
        self._input_dtypes = [
            "indices" if slot in fed and tensor.dtype == "float32" else tensor.dtype
            for slot, tensor in zip(self.graph.inputs, inputs, strict=True)
        ]
        self._index_limits = [fed.get(slot) for slot in self.graph.inputs]
        self.built = True
        self._graph_changed()

    # -- structure ----------------------------------------------------------------------------

    @property
    def label(self) -> str:
        return f"model {self.name!r}"

    @property
    def inlined_graph(self) -> Graph | None:
        """The graph another model takes in in place of a call; None if `forward` is overridden."""
        kind = type(self)
        if kind.forward is not Model.forward or kind.call is not Model.call:
            return None
        return self.graph

    @property
    def inputs(self) -> list[SymbolicTensor]:
        """The symbolic inputs."""
        self._require_graph("inputs")
        return list(self._inputs)

    @property
    def outputs(self) -> list[SymbolicTensor]:
        """The symbolic outputs."""
        self._require_graph("outputs")
        return list(self._outputs)

    @property
    def input(self) -> Any:
        """The symbolic input; a list if there are several."""
        tensors = self.inputs
        return tensors[0] if len(tensors) == 1 else tensors

    @property
    def output(self) -> Any:
        """The symbolic output; a list if there are several."""
        tensors = self.outputs
        return tensors[0] if len(tensors) == 1 else tensors

    @property
    def input_shape(self) -> Shapes:
        """Shape of the input, with None for the batch; a list of shapes if there are several."""
        shapes = [tensor.shape for tensor in self.inputs]
        return shapes[0] if len(shapes) == 1 else shapes

    @property
    def output_shape(self) -> Shapes:
        """Shape of the output, with None for the batch; a list of shapes if there are several."""
        shapes = [tensor.shape for tensor in self.outputs]
        return shapes[0] if len(shapes) == 1 else shapes

    @property
    def input_names(self) -> list[str]:
        """Names by which a dict of inputs is matched."""
        return self._input_keys or [tensor.node.layer.name for tensor in self.inputs]

    @property
    def output_names(self) -> list[str]:
        """Names of the outputs in logs and in dicts of targets: those of the layers, or the keys.

        Two outputs of one layer are told apart by a number: "dense", "dense_1".
        """
        if self._output_keys:
            return self._output_keys
        names: list[str] = []
        for tensor in self.outputs:
            name = tensor.node.layer.name
            count = sum(known == name or known.startswith(f"{name}_#") for known in names)
            names.append(f"{name}_#{count}" if count else name)
        return [name.replace("_#", "_") for name in names]

    @property
    def takes_indices(self) -> bool:  # type: ignore[override]
        """Whether all inputs are indices that embeddings take."""
        return self.built and len(index_inputs(self.graph)) == len(self.graph.inputs)

    def _require_graph(self, what: str) -> None:
        if not self.built:
            # AttributeError, so that hasattr(model, "inputs") answers.
            raise AttributeError(
                f"{self.label} has no {what} yet: it does not know the shape of its input. "
                "Give input_shape= to its first layer, or call build(input_shape)"
            )

    @property
    def layers(self) -> list[Layer]:
        """The layers, in Keras' order: by their distance from the outputs, inputs first."""
        return list(self._graph_layers)

    def get_layer(self, name: str | None = None, index: int | None = None) -> Layer:
        """Return a layer by its name or its position in `layers`.

        Raises
        ------
        ValueError
            Neither or both are given, or there is no such layer.
        """
        layers = self.layers
        if (name is None) == (index is None):
            raise self.error("get_layer expects either name or index")
        if index is not None:
            if not 0 <= index < len(layers):
                raise self.error(f"get_layer: index {index} is outside [0, {len(layers)})")
            return layers[index]
        for layer in layers:
            if layer.name == name:
                return layer
        raise self.error(
            f"get_layer: there is no layer {name!r} among {[layer.name for layer in layers]}"
        )

    def summary(
        self,
        line_length: int | None = None,
        print_fn: Callable[[str], Any] | None = None,
        expand_nested: bool = False,
        show_trainable: bool = False,
    ) -> None:
        """Print a table of the layers, their output shapes and their parameters.

        Parameters
        ----------
        line_length : int, optional
            Width of the table in characters.
        print_fn : callable, optional
            Called once with the whole text; `print` by default.
        expand_nested : bool
            Show the layers of models inside this one too.
        show_trainable : bool
            Add a column that says whether a layer is trained.
        """
        print_summary(self, line_length, print_fn, expand_nested, show_trainable)

    # -- weights ------------------------------------------------------------------------------

    @property
    def trainable(self) -> bool:
        """Whether the layers are trained; setting it sets it in every layer."""
        return self._trainable

    @trainable.setter
    def trainable(self, value: bool) -> None:
        self._trainable = flag(self, "trainable", value)
        for layer in self.layers:
            layer.trainable = value

    @property
    def weights(self) -> list[Weight]:
        """All weights, layer by layer, each layer's trained ones first: Keras' order."""
        return _unique(weight for layer in self.layers for weight in layer.weights)

    @property
    def trainable_weights(self) -> list[Weight]:
        """The weights that training changes."""
        return _unique(w for layer in self.layers for w in layer.trainable_weights)

    @property
    def non_trainable_weights(self) -> list[Weight]:
        """The weights that training leaves alone: frozen ones and state."""
        trained = {id(weight) for weight in self.trainable_weights}
        return [weight for weight in self.weights if id(weight) not in trained]

    @property
    def losses(self) -> list[float]:
        """Penalties of all layers, those on weights and those on the last call's outputs."""
        return [loss for layer in self.layers for loss in layer.losses]

    def reset_losses(self) -> None:
        for layer in self.layers:
            layer.reset_losses()

    def reset_state(self) -> None:
        """Let the next batch of stateful recurrent layers begin with zeros."""
        self._require_graph("states")
        for layer in stateful_layers(self.graph):
            layer.reset_state()

    reset_states = reset_state

    # -- computing ----------------------------------------------------------------------------

    def check_input_shape(self, input_shape: Shapes) -> None:
        if not self.built:
            return
        shapes = input_shape if isinstance(input_shape, list) else [input_shape]
        if len(shapes) != len(self._inputs):
            raise self.error(f"expects {len(self._inputs)} inputs, got {len(shapes)}")
        for shape, tensor in zip(shapes, self._inputs, strict=True):
            if len(shape) != len(tensor.shape) or any(
                None not in (size, known) and size != known
                for size, known in zip(shape[1:], tensor.shape[1:], strict=True)
            ):
                raise self.error(
                    f"input {tensor.name!r} expects shape {tensor.shape}, got shape {shape}"
                )

    def compute_output_shape(self, input_shape: Any) -> Any:
        shapes: dict[int, Any] = dict(
            zip(
                self.graph.inputs,
                input_shape if isinstance(input_shape, list) else [input_shape],
                strict=True,
            )
        )
        for step in self.graph.steps:
            given = [shapes[slot] for slot in step.inputs]
            made = step.layer.output_shape_of_call(
                given if step.takes_list else given[0], step.options
            )
            shapes.update(zip(step.outputs, made if step.returns_tuple else [made], strict=True))
        results = [shapes[slot] for slot in self.graph.outputs]
        return results[0] if len(results) == 1 else results

    def _call_on_symbols(self, inputs: Any, options: Mapping[str, Any]) -> Any:
        if isinstance(inputs, Mapping):
            inputs = _by_name(inputs, self.input_names, f"{self.label}: inputs")
        result = super()._call_on_symbols(inputs, options)
        made = result if isinstance(result, tuple) else (result,)
        for tensor, inner in zip(made, self._outputs, strict=True):
            tensor.dtype = inner.dtype
        return self._structured(list(made)) if self._output_keys else result

    def __call__(  # type: ignore[override]
        self, inputs: Any, training: bool | None = False, mask: Any = None
    ) -> Any:
        """Apply the model to arrays, or make it part of another model.

        Parameters
        ----------
        inputs : array_like or SymbolicTensor, or a list or dict of them
            Arrays of a batch, converted to the inputs' dtypes.
        training : bool
            Whether layers such as dropout behave as in training; not True for symbolic tensors.
        mask : None
            Not supported: masks begin inside a model.

        Returns
        -------
        np.ndarray or SymbolicTensor, or a list or dict of them
        """
        if mask is not None:
            raise self.error("mask is not supported: masks begin inside a model")
        parts = inputs.values() if isinstance(inputs, Mapping) else inputs
        if isinstance(inputs, SymbolicTensor) or (
            isinstance(inputs, (list, tuple, Mapping))
            and any(isinstance(part, SymbolicTensor) for part in parts)
        ):
            self._refuse_training(training)
            return self._call_on_symbols(inputs, {})
        arrays = self._converted(inputs)
        self.reset_losses()
        if training:
            return self._structured(Training(self.graph).forward(arrays)[0])
        return self._structured(self._outputs_for(arrays))

    def _converted(self, x: Any) -> list[np.ndarray]:
        """Check and convert input data; a model without a graph yet is built for it."""
        self._build_for(x)
        return as_inputs(x, self._inputs, self._input_dtypes, self.input_names, self.label)

    def _check_indices(self, arrays: Sequence[np.ndarray]) -> None:
        """Raise IndexError if an index of the whole data is outside what embeddings have."""
        check_indices(arrays, self._index_limits, self.input_names, self.label)

    def _build_for(self, x: Any) -> None:
        """Build for data `x`, where the graph waits for it."""

    def _structured(self, outputs: list[Any]) -> Any:
        """Return outputs as the caller gave them at construction: one, a list or a dict."""
        if self._output_keys:
            return dict(zip(self._output_keys, outputs, strict=True))
        return outputs[0] if len(outputs) == 1 else outputs

    def forward(self, x: Any, training: bool) -> tuple[Any, Pullback]:
        """Compute the outputs, and a pullback to the gradients of the inputs.

        Parameters
        ----------
        x : array, or list of arrays
        training : bool

        Returns
        -------
        y : array, or tuple of arrays
        pullback : callable
            ``pullback(dy)`` gives each weight its gradient and returns the inputs'.
        """
        takes_list = isinstance(x, (list, tuple))
        run = Training(self.graph, input_gradients=self.needs_input_gradient)
        outputs, tape = run.forward(x if takes_list else [x], training)
        several = len(outputs) > 1

        def pullback(dy: Any) -> Any:
            # A copy: running the tape backward uses it up, and a pullback may be called twice.
            gradients = run.backward(list(tape), dy if several else [dy])
            return tuple(gradients) if takes_list else gradients[0]

        return (tuple(outputs) if several else outputs[0]), pullback

    def call(self, x: Any, training: bool = False) -> Any:
        if training:
            return self.forward(x, True)[0]
        outputs = self._inference.run(x if isinstance(x, (list, tuple)) else [x])
        return tuple(outputs) if len(outputs) > 1 else outputs[0]

    # -- configuration ------------------------------------------------------------------------

    def get_config(self) -> dict[str, Any]:
        """Return the layers' configurations and how they are connected, in JSON types."""
        config: dict[str, Any] = {
            "name": self.name,
            "trainable": self.trainable,
            "layers": [registry.serialize(layer) for layer in self._graph_layers],
            **topology.write_calls(self._calls, self._inputs, self._outputs),
        }
        if self._input_keys:
            config["input_keys"] = list(self._input_keys)
        if self._output_keys:
            config["output_keys"] = list(self._output_keys)
        return config

    @classmethod
    def from_config(
        cls, config: dict[str, Any], custom_objects: Mapping[str, Any] | None = None
    ) -> Any:
        """Make a model, with new weights, from `get_config`'s result.

        Parameters
        ----------
        config : dict
        custom_objects : dict of str to object, optional
            Classes of the caller's own, by name.

        Raises
        ------
        ValueError
            `config` is not such a dict, or names an unknown class.
        """
        layers = topology.layers_from_config(config, cls.__name__, custom_objects)
        return cls._connected({layer.name: layer for layer in layers}, config)

    @classmethod
    def _connected(cls, layers: Mapping[str, Layer], config: Mapping[str, Any]) -> Any:
        inputs, outputs = topology.read_calls(config, layers, cls.__name__)
        model = cls(
            inputs=_keyed(inputs, config.get("input_keys"), cls.__name__),
            outputs=_keyed(outputs, config.get("output_keys"), cls.__name__),
            name=config.get("name"),
        )
        # Not through the setter: each layer has its own from its configuration.
        model._trainable = flag(model, "trainable", config.get("trainable", True))
        return model

    def _cloned(self, clone: Callable[[Layer], Layer]) -> Any:
        """Return a model like this one, of layers that `clone` makes from this one's."""
        layers = {layer.name: clone(layer) for layer in self._graph_layers}
        return self._connected(layers, self.get_config())


registry.register("layer", "functional")(Model)


def clone_model(model: Model, clone_function: Callable[[Layer], Layer] | None = None) -> Model:
    """Make a model of the same structure with weights of its own, newly initialized.

    Parameters
    ----------
    model : Model
    clone_function : callable, optional
        ``clone_function(layer)`` returns the layer to use in place of `layer`; by default one made
        from its configuration. Layers of nested models are cloned with it too.

    Returns
    -------
    Model
        Of the class of `model`, not compiled.

    Raises
    ------
    TypeError
        `model` is not a model.

    Examples
    --------
    >>> import lamella
    >>> model = lamella.Sequential([lamella.Input((4,)), lamella.layers.Dense(2)])
    >>> clone_model(model).output_shape
    (None, 2)
    """
    if not isinstance(model, Model):
        raise TypeError(f"clone_model: model expects a Model, got {type(model).__name__}")

    def clone(layer: Layer) -> Layer:
        if isinstance(layer, Model):
            return clone_model(layer, clone_function)
        if clone_function is None or isinstance(layer, InputLayer):
            return type(layer).from_config(layer.get_config())
        return clone_function(layer)

    return model._cloned(clone)


def _unique(weights: Iterable[Weight]) -> list[Weight]:
    return list({id(weight): weight for weight in weights}.values())


def _flatten(structure: Any, name: str) -> tuple[list[SymbolicTensor], list[str] | None]:
    """Return the tensors of one, a list or a dict, and the dict's keys."""
    keys = None
    if isinstance(structure, Mapping):
        keys = list(structure)
        structure = list(structure.values())
        if not all(isinstance(key, str) for key in keys):
            raise TypeError(f"Model: {name} expects strings as keys, got {keys!r}")
    tensors = list(structure) if isinstance(structure, (list, tuple)) else [structure]
    if not tensors:
        raise ValueError(f"Model: {name} expects at least one tensor, got none")
    for tensor in tensors:
        if not isinstance(tensor, SymbolicTensor):
            raise TypeError(
                f"Model: {name} expects symbolic tensors, which start at lamella.Input, "
                f"got {type(tensor).__name__}"
            )
    return tensors, keys


def _keyed(tensors: list[SymbolicTensor], keys: Any, owner: str) -> Any:
    if keys is None:
        return tensors
    if (
        not isinstance(keys, list)
        or not all(isinstance(key, str) for key in keys)
        or len(set(keys)) != len(tensors)
    ):
        raise ValueError(f"{owner}: config names {len(tensors)} tensors by {keys!r}")
    return dict(zip(keys, tensors, strict=True))


def _by_name(values: Mapping[str, Any], names: Sequence[str], owner: str) -> list[Any]:
    if set(values) != set(names):
        raise ValueError(f"{owner} expects the keys {list(names)}, got {list(values)}")
    return [values[name] for name in names]
