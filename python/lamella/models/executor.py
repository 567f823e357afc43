"""Running a model's graph: forward in topological order, pullbacks in reverse.

A graph is compiled once into a flat list of steps, nested models included; each step is a bound
method and the places ("slots") of the values it reads and writes. A chain of layers, the common
case, needs no slots at all: its value is handed from one bound method to the next.

    Graph     what a model computes: steps in order, slots of inputs and outputs
    Inference runs `layer.call`: nothing is kept for a backward pass
    Training  runs `layer.forward` and keeps the pullbacks; below the lowest layer that is trained
              it runs `layer.call` too
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from lamella import ops
from lamella.layers.base import Layer, name_error
from lamella.layers.graph import Node, SymbolicTensor
from lamella.models.masks import Mask, MaskPlan, Masks

# Models nested in models multiply; a file of a few kilobytes must not describe 2**30 steps.
MAX_STEPS = 2**15

Gradients = list[np.ndarray | None]
# What a forward pass leaves for the backward pass: one pullback a differentiated step.
Tape = list[Callable[..., Any]]


class Step(NamedTuple):
    """One call of a layer; all but the slots is explained at `Node`."""

    layer: Layer
    inputs: tuple[int, ...]
    outputs: tuple[int, ...]
    takes_list: bool
    returns_tuple: bool
    options: Mapping[str, Any]

    def bound(self, function: Callable[..., Any]) -> Callable[..., Any]:
        """Return the layer's `forward` or `call` with the options of this call."""
        return functools.partial(function, **self.options) if self.options else function


class Graph:
    """The steps between symbolic inputs and outputs, in an order in which they can run.

    Parameters
    ----------
    nodes : iterable of Node
        In topological order; nodes of input layers are passed over.
    inputs, outputs : sequence of SymbolicTensor
    """

    def __init__(
        self,
        nodes: Iterable[Node],
        inputs: Sequence[SymbolicTensor],
        outputs: Sequence[SymbolicTensor],
    ) -> None:
        self.steps: list[Step] = []
        self.size = 0
        slots = {id(tensor): self._new_slot() for tensor in inputs}
        for node in nodes:
            if node.inputs:
                sources = tuple(slots[id(tensor)] for tensor in node.inputs)
                targets = self._add(node, sources)
                slots.update({id(t): slot for t, slot in zip(node.outputs, targets, strict=True)})
        self.inputs = tuple(slots[id(tensor)] for tensor in inputs)
        self.outputs = tuple(slots[id(tensor)] for tensor in outputs)
        plan = MaskPlan(self.steps, self.outputs, self.size)
        # None where no layer makes a mask, which is the common case.
        self.masks = plan if plan.has_masks else None

    def _new_slot(self) -> int:
        self.size += 1
        return self.size - 1

    def _add(self, node: Node, sources: tuple[int, ...]) -> tuple[int, ...]:
        """Append a node's step, or the steps of the model it calls; return its output slots."""
        inner = getattr(node.layer, "inlined_graph", None)
        added = 1 if inner is None else len(inner.steps)
        if len(self.steps) + added > MAX_STEPS:
            raise ValueError(f"a model of more than {MAX_STEPS} layer calls is not supported")
        if inner is None:
            targets = tuple(self._new_slot() for _ in node.outputs)
            self.steps.append(
                Step(
                    node.layer,
                    sources,
                    targets,
                    node.takes_list,
                    node.returns_tuple,
                    node.options,
                )
            )
            return targets
        slots = dict(zip(inner.inputs, sources, strict=True))
        for step in inner.steps:
            slots.update({slot: self._new_slot() for slot in step.outputs})
            self.steps.append(
                step._replace(
                    inputs=tuple(slots[slot] for slot in step.inputs),
                    outputs=tuple(slots[slot] for slot in step.outputs),
                )
            )
        return tuple(slots[slot] for slot in inner.outputs)

    def is_chain(self) -> bool:
        """Return whether each step reads just the value that the one before it wrote."""
        if len(self.inputs) != 1 or len(self.outputs) != 1:
            return False
        value = self.inputs[0]
        for step in self.steps:
            if step.inputs != (value,) or step.takes_list or step.returns_tuple:
                return False
            value = step.outputs[0]
        return self.outputs == (value,)


def _last_uses(graph: Graph) -> list[tuple[int, ...]]:
    """Return, for each step, the slots no later step and no output reads: memory to give back."""
    seen = set(graph.outputs)
    last: list[tuple[int, ...]] = []
    for step in reversed(graph.steps):
        # A list, not a set: the order memory is given back in must not vary between runs.
        unseen = [slot for slot in dict.fromkeys(step.inputs + step.outputs) if slot not in seen]
        seen.update(unseen)
        last.append(tuple(unseen))
    return last[::-1]


def all_layers(graph: Graph) -> list[Layer]:
    """Return the layers of a graph and those that they are made of, each once."""
    layers: dict[int, Layer] = {}
    waiting = [step.layer for step in reversed(graph.steps)]
    while waiting:
        layer = waiting.pop()
        if id(layer) not in layers:
            layers[id(layer)] = layer
            waiting.extend(reversed(layer.parts))
    return list(layers.values())


def penalized_layers(graph: Graph) -> list[Layer]:
    """Return the layers whose outputs are penalized, each once."""
    return [layer for layer in all_layers(graph) if layer.activity_regularizer is not None]


def stateful_layers(graph: Graph) -> list[Any]:
    """Return the layers that keep states from batch to batch, as stateful recurrent ones do."""
    return [layer for layer in all_layers(graph) if layer.stateful]


def index_inputs(graph: Graph) -> dict[int, int | None]:
    """Return the inputs' slots that only feed layers which take indices, with the least limit.

    The indices lie in [0, limit); None where it is not known. On the way there may be layers that
    leave integers as they are, such as Reshape.
    """
    takers: dict[int, int | None] = {}
    others = set(graph.outputs)
    for step in reversed(graph.steps):
        layer = step.layer
        limits = [layer.index_limit] if layer.takes_indices else []
        if layer.keeps_dtype and others.isdisjoint(step.outputs):
            limits = limits or [takers[slot] for slot in step.outputs if slot in takers]
        if not limits:
            others.update(step.inputs)
            continue
        for slot in step.inputs:
            known = [each for each in (*limits, takers.get(slot)) if each is not None]
            takers[slot] = min(known, default=None)
    return {slot: takers[slot] for slot in graph.inputs if slot in takers and slot not in others}


class Inference:
    """Forward passes that keep nothing.

    Parameters
    ----------
    graph : Graph
    """

    def __init__(self, graph: Graph) -> None:
        self._graph = graph
        self._calls = [step.bound(step.layer.call) for step in graph.steps]
        self._releases = _last_uses(graph)
        self._penalized = penalized_layers(graph)
        self._stateful = stateful_layers(graph)
        # A chain with masks goes by slots: a mask needs a place beside its tensor.
        is_plain = graph.is_chain() and graph.masks is None
        run = self._run_chain if is_plain else self._run_graph
        # Bound once: predict_on_batch calls it for a few microseconds' work.
        self.run: Callable[[Sequence[Any]], list[Any]] = run
        if self._penalized or self._stateful:
            self.run = lambda inputs: self._prepared(run, inputs)

    def _prepared(self, run: Callable[..., Any], inputs: Sequence[Any]) -> Any:
        """Run after what penalties and states need; a run that fails leaves the states alone."""
        for layer in self._penalized:
            layer.reset_losses()
        for layer in self._stateful:
            layer.save_state()
        try:
            return run(inputs)
        except BaseException:
            self.restore_states()
            raise

    def restore_states(self) -> None:
        """Undo what the last run did to the states of stateful layers."""
        for layer in self._stateful:
            layer.restore_state()

    def _run_chain(self, inputs: Sequence[Any]) -> list[Any]:
        """Return the outputs for `inputs`, both in the graph's order."""
        x = inputs[0]
        call: Any = None
        try:
            for call in self._calls:
                x = call(x)
        except Exception as error:
            name_error(error, self._graph.steps[self._calls.index(call)].layer)
            raise
        return [x]

    def _run_graph(self, inputs: Sequence[Any]) -> list[Any]:
        return self._run_with_masks(inputs)[0]

    def run_with_masks(self, inputs: Sequence[Any]) -> tuple[list[Any], list[Mask]]:
        """Return the outputs and their masks, None where there is none."""
        if self._graph.masks is None:
            return self.run(inputs), [None] * len(self._graph.outputs)
        result: tuple[list[Any], list[Mask]] = self._prepared(self._run_with_masks, inputs)
        return result

    def _run_with_masks(self, inputs: Sequence[Any]) -> tuple[list[Any], list[Mask]]:
        graph = self._graph
        masks = None if graph.masks is None else Masks(graph.masks)
        values: list[Any] = [None] * graph.size
        for slot, array in zip(graph.inputs, inputs, strict=True):
            values[slot] = array
        for position, (step, call, release) in enumerate(
            zip(graph.steps, self._calls, self._releases, strict=True)
        ):
            try:
                x = _read(values, step)
                result = call(x) if masks is None else masks.call(position, call, x)
                _write(values, step, result)
            except Exception as error:
                name_error(error, step.layer)
                raise
            for slot in release:
                values[slot] = None
            if masks is not None:
                masks.release(release)
        outputs = [values[slot] for slot in graph.outputs]
        return outputs, [None] * len(outputs) if masks is None else masks.of_outputs


def _read(values: list[Any], step: Step) -> Any:
    if step.takes_list:
        return [values[slot] for slot in step.inputs]
    return values[step.inputs[0]]


def _write(values: list[Any], step: Step, result: Any) -> None:
    if step.returns_tuple:
        for slot, value in zip(step.outputs, result, strict=True):
            values[slot] = value
    else:
        values[step.outputs[0]] = result


class Training:
    """Forward passes with pullbacks, and backward passes over them.

    Parameters
    ----------
    graph : Graph
    logits : set of int
        Positions among the outputs that give logits: the last layer's softmax is left out.
        `ends_in_softmax` says where that is possible.
    input_gradients : bool
        Whether `backward` returns the gradients to the inputs.
    """

    def __init__(
        self, graph: Graph, logits: Iterable[int] = (), input_gradients: bool = False
    ) -> None:
        self._graph = graph
        self._input_gradients = input_gradients
        logit_slots = {graph.outputs[position] for position in logits}
        needed = set(graph.inputs) if input_gradients else set()
        wanted: dict[int, bool] = {}  # layer -> whether any call of it needs an input gradient
        layers: dict[int, Layer] = {}
        self._forwards: list[Callable[..., Any]] = []
        self._differentiated: list[bool] = []
        for step in graph.steps:
            from_input = not needed.isdisjoint(step.inputs)
            differentiated = from_input or bool(step.layer.trainable_weights)
            if differentiated:
                needed.update(step.outputs)
                key = id(step.layer)
                layers[key] = step.layer
                wanted[key] = wanted.get(key, False) or from_input
            in_logits = step.outputs[0] in logit_slots
            forward: Any = step.layer.forward_logits if in_logits else step.layer.forward
            self._forwards.append(step.bound(forward if differentiated else step.layer.call))
            self._differentiated.append(differentiated)
        self._needed = needed
        # Set for the length of a forward pass only: a layer may belong to several models.
        self._without_input_gradient = [layers[key] for key, want in wanted.items() if not want]
        self._penalized = penalized_layers(graph)
        self._stateful = stateful_layers(graph)
        self._releases = _last_uses(graph)
        # The undifferentiated steps of a chain come first.
        self._first = self._differentiated.index(True) if any(self._differentiated) else None
        self._is_chain = graph.is_chain() and graph.masks is None and self._first is not None
        self._backward_steps = [
            step for step, has in zip(graph.steps, self._differentiated, strict=True) if has
        ][::-1]

    def forward(self, inputs: Sequence[Any], training: bool = True) -> tuple[list[Any], Tape]:
        """Return the outputs for `inputs`, and the tape that `backward` takes."""
        outputs, tape, _ = self.forward_with_masks(inputs, training)
        return outputs, tape

    def forward_with_masks(
        self, inputs: Sequence[Any], training: bool = True
    ) -> tuple[list[Any], Tape, list[Mask]]:
        """Return the outputs, the tape, and the masks of the outputs, None where there is none."""
        for layer in self._penalized:
            layer.reset_losses()
        for layer in self._stateful:
            layer.save_state()
        silenced = self._without_input_gradient
        for layer in silenced:
            layer.needs_input_gradient = False
        try:
            if self._is_chain:
                outputs, tape = self._forward_chain(inputs[0], training)
                return outputs, tape, [None]
            return self._forward_graph(inputs, training)
        except BaseException:
            self.restore_states()
            raise
        finally:
            for layer in silenced:
                layer.needs_input_gradient = True

    def restore_states(self) -> None:
        """Undo what the last forward pass did to the states of stateful layers."""
        for layer in self._stateful:
            layer.restore_state()

    def _forward_chain(self, x: Any, training: bool) -> tuple[list[Any], Tape]:
        tape: Tape = []
        append = tape.append
        function: Any = None
        first = self._first
        try:
            for function in self._forwards[:first]:
                x = function(x, training)
            for function in self._forwards[first:]:
                x, pullback = function(x, training)
                append(pullback)
        except Exception as error:
            name_error(error, self._graph.steps[self._forwards.index(function)].layer)
            raise
        return [x], tape

    def _forward_graph(
        self, inputs: Sequence[Any], training: bool
    ) -> tuple[list[Any], Tape, list[Mask]]:
        graph = self._graph
        masks = None if graph.masks is None else Masks(graph.masks)
        values: list[Any] = [None] * graph.size
        for slot, array in zip(graph.inputs, inputs, strict=True):
            values[slot] = array
        tape: Tape = []
        for position, (step, function, differentiated, release) in enumerate(
            zip(graph.steps, self._forwards, self._differentiated, self._releases, strict=True)
        ):
            try:
                x = _read(values, step)
                if masks is None:
                    result = function(x, training)
                else:
                    result = masks.call(position, function, x, training)
            except Exception as error:
                name_error(error, step.layer)
                raise
            if differentiated:
                result, pullback = result
                tape.append(pullback)
            _write(values, step, result)
            for slot in release:
                values[slot] = None
            if masks is not None:
                masks.release(release)
        outputs = [values[slot] for slot in graph.outputs]
        return outputs, tape, [None] * len(outputs) if masks is None else masks.of_outputs

    def backward(self, tape: Tape, gradients: Sequence[np.ndarray | None]) -> Gradients:
        """Pull the outputs' `gradients` back; the weights receive theirs on the way.

        Returns
        -------
        list of array or None
            The gradients to the inputs, None where none was asked for or nothing reaches.
        """
        if self._is_chain:
            return self._backward_chain(tape, gradients[0])
        return self._backward_graph(tape, gradients)

    def _backward_chain(self, tape: Tape, gradient: np.ndarray | None) -> Gradients:
        while tape and gradient is not None:
            # Popped, so that what a layer saved is free as soon as its pullback has run.
            gradient = tape.pop()(gradient)
        return [gradient if self._input_gradients and not tape else None]

    def _backward_graph(self, tape: Tape, gradients: Sequence[np.ndarray | None]) -> Gradients:
        graph = self._graph
        pending: Gradients = [None] * graph.size
        for slot, gradient in zip(graph.outputs, gradients, strict=True):
            _accumulate(pending, slot, gradient)
        for step in self._backward_steps:
            pullback = tape.pop()
            arriving = [pending[slot] for slot in step.outputs]
            if all(gradient is None for gradient in arriving):
                continue  # nothing that counts depends on this step
            leaving = pullback(tuple(arriving) if step.returns_tuple else arriving[0])
            for slot in step.outputs:
                pending[slot] = None
            if not step.takes_list:
                leaving = (leaving,)
            for slot, gradient in zip(step.inputs, leaving, strict=True):
                if slot in self._needed:
                    _accumulate(pending, slot, gradient)
        if not self._input_gradients:
            return [None] * len(graph.inputs)
        return [pending[slot] for slot in graph.inputs]


def _accumulate(pending: Gradients, slot: int, gradient: np.ndarray | None) -> None:
    # A sum is a new array: the summands may belong to a layer, or be one array twice.
    known = pending[slot]
    if gradient is not None:
        pending[slot] = gradient if known is None else ops.add(known, gradient)


def ends_in_softmax(graph: Graph, position: int) -> bool:
    """Return whether output `position` is a softmax's, read by nothing else in the graph."""
    slot = graph.outputs[position]
    if graph.outputs.count(slot) > 1 or any(slot in step.inputs for step in graph.steps):
        return False
    for step in graph.steps:
        if slot in step.outputs:
            layer = step.layer
            # A penalty on the output needs the output itself; options belong to `forward`.
            penalized = layer.activity_regularizer is not None
            return layer.forward_logits is not None and not penalized and not step.options
    return False
