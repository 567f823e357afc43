"""From symbolic tensors to an ordered graph, and between a graph and its written form.

The order of layers is Keras': by their distance from the outputs, then by the order in which a
walk from the outputs meets them. So the weights of a branching model come in the same order too.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextvars import ContextVar
from typing import Any

from lamella import registry
from lamella.layers.base import Layer
from lamella.layers.graph import Input, Node, SymbolicTensor

# [layer name, which of its calls in this model, which of that call's outputs]
Reference = list[Any]

# Called with each layer made from a configuration, before it is built. Loading a file uses it to
# bound what the layers may allocate.
on_layer_made: ContextVar[Callable[[Layer], None] | None] = ContextVar(
    "on_layer_made", default=None
)


def trace(
    inputs: Sequence[SymbolicTensor], outputs: Sequence[SymbolicTensor]
) -> tuple[list[Node], list[Layer]]:
    """Return the nodes between `inputs` and `outputs` in topological order, and their layers.

    Raises
    ------
    ValueError
        The outputs depend on an input that is not given, or two layers share a name.
    """
    given = {id(tensor) for tensor in inputs}
    nodes: list[Node] = []
    met: dict[int, int] = {}  # layer -> when the walk met it
    finished: set[int] = set()
    for output in outputs:
        if id(output) in given and output.node.inputs:
            continue  # an input that another layer made, handed through
        for node, is_entry in _walk(output.node, given, finished):
            if is_entry:
                met.setdefault(id(node.layer), len(met))
            else:
                nodes.append(node)
    for node in nodes:
        if not node.inputs and id(node.outputs[0]) not in given:
            raise ValueError(
                f"the outputs depend on input {node.layer.name!r}, which is not among the inputs "
                f"{[tensor.name for tensor in inputs]}"
            )
    for tensor in inputs:  # one that no output depends on sorts just before the output layers
        if not tensor.node.inputs and id(tensor.node) not in finished:
            nodes.append(tensor.node)
            met[id(tensor.node.layer)] = -1
    layers = _sorted_layers(nodes, met)
    _check_names(layers)
    return nodes, layers


def _walk(root: Node, given: set[int], finished: set[int]) -> Iterator[tuple[Node, bool]]:
    """Depth first from `root` to the inputs: (node, True) on the way in, (node, False) out.

    An explicit stack: a deep model must not meet Python's recursion limit.
    """
    if id(root) in finished:
        return
    yield root, True
    stack = [(root, iter(root.inputs))]
    entered = {id(root)}
    while stack:
        node, remaining = stack[-1]
        for tensor in remaining:
            source = tensor.node
            is_cut = id(tensor) in given and bool(source.inputs)
            if not is_cut and id(source) not in finished and id(source) not in entered:
                entered.add(id(source))
                yield source, True
                stack.append((source, iter(source.inputs)))
                break
        else:
            stack.pop()
            finished.add(id(node))
            yield node, False


def _sorted_layers(nodes: Sequence[Node], met: Mapping[int, int]) -> list[Layer]:
    """Sort layers by the longest way from them to an output, longest first; then as met."""
    node_depths: dict[int, int] = {}
    layer_depths: dict[int, int] = {}
    layers: dict[int, Layer] = {}
    own = {id(node) for node in nodes}
    for node in reversed(nodes):
        key = id(node.layer)
        depth = max(node_depths.get(id(node), 0), layer_depths.get(key, 0))
        layer_depths[key] = depth
        layers[key] = node.layer
        for tensor in node.inputs:
            source = id(tensor.node)
            if source in own:
                node_depths[source] = max(depth + 1, node_depths.get(source, 0))
    return [layers[key] for key in sorted(layers, key=lambda key: (-layer_depths[key], met[key]))]


def _check_names(layers: Sequence[Layer]) -> None:
    seen: set[str] = set()
    for layer in layers:
        if layer.name in seen:
            raise ValueError(
                f"two layers are called {layer.name!r}; pass a different name= to one of them"
            )
        seen.add(layer.name)


def cut(
    inputs: Sequence[SymbolicTensor], outputs: Sequence[SymbolicTensor]
) -> tuple[list[SymbolicTensor], list[SymbolicTensor]]:
    """Make inputs that other layers produce into inputs of their own.

    The layers between `inputs` and `outputs` are called once more, on new `Input` tensors; their
    weights are shared. Returns the new inputs and outputs.
    """
    if not any(tensor.node.inputs for tensor in inputs):
        return list(inputs), list(outputs)
    nodes, _ = trace(inputs, outputs)
    tensors = {
        id(tensor): Input(batch_shape=tensor.shape, dtype=tensor.dtype, name=tensor.name)
        if tensor.node.inputs
        else tensor
        for tensor in inputs
    }
    given = set(tensors)
    for node in nodes:
        if node.inputs and not given.issuperset(id(tensor) for tensor in node.outputs):
            sources = [tensors[id(tensor)] for tensor in node.inputs]
            made = _call(node.layer, sources, node.takes_list, node.options)
            for old, new in zip(node.outputs, made, strict=True):
                tensors.setdefault(id(old), new)
    return [tensors[id(t)] for t in inputs], [tensors[id(t)] for t in outputs]


def _call(
    layer: Layer, sources: list[SymbolicTensor], takes_list: bool, options: Mapping[str, Any]
) -> list[SymbolicTensor]:
    # Not layer(...), whose arguments a class may name and order as it likes.
    result = layer.apply(sources if takes_list else sources[0], **options)
    return list(result) if isinstance(result, (list, tuple)) else [result]


# -- the written form -----------------------------------------------------------------------------


def write_calls(
    nodes: Sequence[Node], inputs: Sequence[SymbolicTensor], outputs: Sequence[SymbolicTensor]
) -> dict[str, Any]:
    """Return the calls of layers in order, and references to the inputs and outputs.

    ``calls`` has one ``{"layer", "inputs", "takes_list"}`` a node that is not an input, with
    "options" where the call has any.
    """
    counts: dict[str, int] = {}
    places: dict[int, Reference] = {}
    calls = []
    for node in nodes:
        name = node.layer.name
        number = counts.get(name, 0)
        counts[name] = number + 1
        for index, tensor in enumerate(node.outputs):
            places[id(tensor)] = [name, number, index]
        if node.inputs:
            sources = [places[id(tensor)] for tensor in node.inputs]
            call = {"layer": name, "inputs": sources, "takes_list": node.takes_list}
            calls.append({**call, "options": dict(node.options)} if node.options else call)
    return {
        "calls": calls,
        "input_layers": [places[id(tensor)] for tensor in inputs],
        "output_layers": [places[id(tensor)] for tensor in outputs],
    }


def read_calls(
    config: Mapping[str, Any], layers: Mapping[str, Layer], owner: str
) -> tuple[list[SymbolicTensor], list[SymbolicTensor]]:
    """Call new `layers`, by name, as `write_calls` wrote it down; return inputs and outputs.

    Raises
    ------
    ValueError
        The written form is not one, or names what is not there.
    """
    tensors: dict[tuple[str, int, int], SymbolicTensor] = {}
    counts: dict[str, int] = {}
    for name, layer in layers.items():
        for node in layer.nodes:  # an input layer's own
            tensors[name, 0, 0] = node.outputs[0]

    def find(reference: Any) -> SymbolicTensor:
        is_list = isinstance(reference, (list, tuple)) and len(reference) == 3
        types = [type(part) for part in reference] if is_list else []
        if types != [str, int, int] or tuple(reference) not in tensors:
            raise ValueError(
                f"{owner}: config refers to {reference!r}, which no call before it made"
            )
        return tensors[tuple(reference)]

    for call in _list_of(config, "calls", owner):
        if not _is_call(call):
            raise ValueError(f"{owner}: config has a call that is not one: {call!r}")
        name = call["layer"]
        if not isinstance(name, str) or name not in layers:
            raise ValueError(f"{owner}: config calls layer {name!r}, which is not among its layers")
        sources = [find(reference) for reference in _list_of(call, "inputs", owner)]
        if not sources or (len(sources) > 1 and call["takes_list"] is not True):
            raise ValueError(f"{owner}: config calls layer {name!r} on {len(sources)} inputs")
        number = counts.get(name, 0)
        counts[name] = number + 1
        options = call.get("options", {})
        try:
            made = _call(layers[name], sources, call["takes_list"] is True, options)
        except TypeError as error:
            raise ValueError(f"{owner}: config calls layer {name!r} wrongly: {error}") from error
        for index, tensor in enumerate(made):
            tensors[name, number, index] = tensor
    return (
        [find(reference) for reference in _list_of(config, "input_layers", owner)],
        [find(reference) for reference in _list_of(config, "output_layers", owner)],
    )


def _is_call(value: Any) -> bool:
    if not isinstance(value, Mapping) or set(value) - {"options"} != {
        "layer",
        "inputs",
        "takes_list",
    }:
        return False
    # What `apply` takes beside the options is not for a file to say.
    options = value.get("options", {})
    return isinstance(options, Mapping) and {"inputs", "training", "mask"}.isdisjoint(options)


def _list_of(config: Mapping[str, Any], key: str, owner: str) -> list[Any]:
    value = config.get(key)
    if not isinstance(value, list):
        raise ValueError(f"{owner}: config needs a list under {key!r}, got {value!r}")
    return value


def layers_from_config(
    config: Any, owner: str, custom_objects: Mapping[str, Any] | None
) -> list[Layer]:
    """Make the layers that ``config["layers"]`` describes.

    Raises
    ------
    ValueError
        It does not describe layers, or two have one name.
    """
    if not isinstance(config, Mapping) or not isinstance(config.get("layers"), list):
        raise ValueError(f"{owner}: config needs a list of layers under 'layers', got {config!r}")
    made = on_layer_made.get()
    layers: dict[str, Layer] = {}
    for entry in config["layers"]:
        layer = registry.deserialize("layer", entry, custom_objects)
        if not isinstance(layer, Layer):
            raise ValueError(f"{owner}: {entry.get('class_name')!r} is not a layer")
        if layer.name in layers:
            raise ValueError(f"{owner}: config has two layers called {layer.name!r}")
        if made is not None:
            made(layer)
        layers[layer.name] = layer
    return list(layers.values())
