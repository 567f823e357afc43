"""Compiling a model, and its single steps: train, test and predict on one batch.

One training step: a batch is gathered -> `Training.forward` -> each output's loss and its gradient
-> `Training.backward` into the flat gradient buffer -> penalties on weights -> metrics -> the
optimizer, one kernel call. Everything that can fail comes before the optimizer; what the forward
pass changed (moving statistics) is put back if a step fails.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from lamella import losses, metrics, ops, optimizers
from lamella.arrays import to_numpy
from lamella.models import data as batching
from lamella.models.data import Batch
from lamella.models.executor import (
    Gradients,
    Graph,
    Inference,
    Training,
    ends_in_softmax,
    penalized_layers,
)
from lamella.models.flat_buffer import FlatBuffer
from lamella.models.masks import Mask
from lamella.models.objectives import Objectives, decode, encode
from lamella.models.placement import Placement

if TYPE_CHECKING:
    from lamella.layers.base import Layer, Weight
    from lamella.layers.graph import SymbolicTensor
    from lamella.optimizers import Optimizer


class TrainingState:
    """What a model's training steps need, prepared once after `compile`.

    Parameters
    ----------
    model : Model
    objectives : Objectives
    optimizer : Optimizer
    """

    def __init__(self, model: Any, objectives: Objectives, optimizer: Optimizer) -> None:
        graph: Graph = model.graph
        self.logits = frozenset(
            position
            for position, objective in enumerate(objectives.each)
            if objective.loss is not None
            and objective.loss.accepts_softmax_logits
            and ends_in_softmax(graph, position)
        )
        self.plan = Training(graph, self.logits)
        self.weights: list[Weight] = model.weights
        self.trained: list[Weight] = [w for w in model.trainable_weights if w.trainable]
        self.penalties = Penalties(model)
        self._decayed = [optimizer.uses_weight_decay(weight) for weight in self.trained]
        self.adopt()

    def adopt(self) -> None:
        """Move the weights into a buffer of this model."""
        self.buffer = FlatBuffer(self.weights)
        self.segments = self.buffer.segments(self.trained, self._decayed)

    def begin_gradients(self) -> None:
        """Begin a step: what is written next to a gradient is stored, not added."""
        for weight in self.trained:
            weight.gradient_written = False

    def finish_gradients(self) -> None:
        """Zero the gradients that nothing reached, then add those of the penalties."""
        for weight in self.trained:
            if not weight.gradient_written:
                assert weight.gradient is not None
                weight.gradient.fill(0)
        for weight in self.penalties.weights:
            weight.add_gradient(weight.regularizer.gradient(to_numpy(weight.value)))


class Penalties:
    """What is added to the loss: penalties on trained weights and on outputs of layers.

    Parameters
    ----------
    model : Model
    """

    def __init__(self, model: Any) -> None:
        self.weights = [w for w in model.trainable_weights if w.regularizer is not None]
        self.layers = penalized_layers(model.graph)

    def total(self) -> float:
        """Return the sum for the weights as they are and the outputs since the last reset."""
        total = 0.0
        for weight in self.weights:
            total += weight.regularizer(to_numpy(weight.value))
        for layer in self.layers:
            total += sum(layer.activity_losses)
        return total


class Steps(Placement):
    """The part of `lamella.models.Model` that is compiled and works on single batches.

    The other part provides the graph: `graph`, `built`, `weights`, `_inference`, `_converted` and
    the names and shapes of the outputs.
    """

    optimizer: Optimizer | None = None
    loss: Any = None
    compiled = False
    _objectives: Objectives | None = None
    _state: TrainingState | None = None
    _penalties: Penalties | None = None

    if TYPE_CHECKING:
        name: str
        built: bool
        graph: Graph
        _inference: Inference
        _converted: Callable[[Any], list[np.ndarray]]
        _check_indices: Callable[[Sequence[np.ndarray]], None]
        _structured: Callable[[list[Any]], Any]

        @property
        def label(self) -> str: ...
        @property
        def inputs(self) -> list[SymbolicTensor]: ...
        @property
        def outputs(self) -> list[SymbolicTensor]: ...
        @property
        def output_names(self) -> list[str]: ...
        @property
        def layers(self) -> list[Layer]: ...

    # -- compiling ----------------------------------------------------------------------------

    def compile(
        self,
        optimizer: Any = "rmsprop",
        loss: Any = None,
        metrics: Any = None,
        loss_weights: Any = None,
        weighted_metrics: Any = None,
        run_eagerly: bool = False,
        steps_per_execution: int = 1,
        jit_compile: bool | str | None = "auto",
        auto_scale_loss: bool = True,
    ) -> None:
        """Say how the model is trained. Which layers are trained is settled here too.

        Parameters
        ----------
        optimizer : str or Optimizer
        loss : str or Loss, or list or dict of them by output
        metrics : list of str or Metric, or list or dict of such lists by output
            "accuracy" stands for the accuracy that fits the loss and the output.
        loss_weights : float, or list or dict of them by output
            Factors of the losses in the total.
        weighted_metrics : as `metrics`
            These see the sample weights.
        run_eagerly, jit_compile, auto_scale_loss
            Accepted for the sake of Keras programs and without effect: the layers are compiled
            kernels that run directly, in float32.
        steps_per_execution : int
            Only 1.

        Raises
        ------
        ValueError
            An argument is not one of these.
        """
        if steps_per_execution != 1:
            raise ValueError(
                f"{self.label}: compile supports steps_per_execution=1 only, "
                f"received {steps_per_execution!r}"
            )
        arguments = (loss, loss_weights, metrics, weighted_metrics)
        found = optimizers.get(optimizer)
        objectives = self._resolve(arguments)
        self.optimizer = found
        self.loss = loss
        self._compile_arguments = arguments
        self._objectives = objectives if self.built else None
        self._state = None
        self._penalties = None
        self.compiled = True

    def _resolve(self, arguments: tuple[Any, ...]) -> Objectives:
        if self.built:
            shapes: list[Any] = [tensor.shape for tensor in self.outputs]
            return Objectives(self.output_names, shapes, *arguments)
        # Not the last word, but bad arguments are found out here.
        layers = self.layers
        return Objectives([layers[-1].name if layers else self.name], [None], *arguments)

    def _graph_changed(self) -> None:
        """Forget what was prepared for an earlier graph."""
        self._placed = None
        self._objectives = None
        self._state = None
        self._penalties = None

    def _ready_objectives(self) -> Objectives:
        if self._objectives is None:
            self._objectives = self._resolve(self._compile_arguments)
        return self._objectives

    def _ready_state(self) -> TrainingState:
        self._place()
        state = self._state
        if state is None:
            assert self.optimizer is not None
            state = self._state = TrainingState(self, self._ready_objectives(), self.optimizer)
        elif not state.buffer.owns(state.weights):
            state.adopt()
        return state

    def _require_compiled(self, method: str, training: bool = False) -> None:
        if not self.compiled:
            raise ValueError(f"{self.label}: call compile() before {method}()")
        if training and self.loss is None:
            raise ValueError(f"{self.label}: {method}() needs a loss: compile(loss=...)")

    def get_compile_config(self) -> dict[str, Any]:
        """Return the arguments of `compile` in JSON types; empty if it was not called."""
        if not self.compiled:
            return {}
        assert self.optimizer is not None
        loss, loss_weights, metric_spec, weighted_spec = self._compile_arguments
        return {
            "optimizer": optimizers.serialize(self.optimizer),
            "loss": encode(loss, losses.get),
            "loss_weights": encode(loss_weights),
            "metrics": encode(metric_spec),
            "weighted_metrics": encode(weighted_spec),
        }

    def compile_from_config(
        self, config: Mapping[str, Any], custom_objects: Mapping[str, Any] | None = None
    ) -> None:
        """Compile with what `get_compile_config` returned.

        Raises
        ------
        ValueError
            `config` is not such a dict, or names an unknown class.
        """
        keys = {"optimizer", "loss", "loss_weights", "metrics", "weighted_metrics"}
        if set(config) != keys:
            raise ValueError(
                f"{self.label}: compile config expects the keys {sorted(keys)}, "
                f"got {sorted(map(str, config))}"
            )
        self.compile(
            optimizer=optimizers.get(config["optimizer"], custom_objects),
            loss=decode(config["loss"], "loss", custom_objects),
            loss_weights=config["loss_weights"],
            metrics=decode(config["metrics"], "metric", custom_objects),
            weighted_metrics=decode(config["weighted_metrics"], "metric", custom_objects),
        )

    # -- metrics ------------------------------------------------------------------------------

    @property
    def metrics(self) -> list[metrics.Metric]:
        """The mean of the loss, those of the outputs if there are several, then the metrics."""
        return self._ready_objectives().metrics if self.compiled else []

    @property
    def metrics_names(self) -> list[str]:
        """Names of what `evaluate` returns, in its order."""
        return list(self._ready_objectives().logs()) if self.compiled else []

    def reset_metrics(self) -> None:
        """Begin to count anew; `fit` and `evaluate` do so by themselves."""
        if self.compiled:
            self._ready_objectives().reset()

    def get_metrics_result(self) -> dict[str, float]:
        """Return the metrics' values so far by name."""
        return self._ready_objectives().logs() if self.compiled else {}

    # -- one batch ----------------------------------------------------------------------------

    def _checked(self, x: Any, y: Any, sample_weight: Any, class_weight: Any = None) -> Batch:
        """Check and convert data before anything is computed or changed."""
        inputs = self._converted(x)
        each = self._ready_objectives().each
        names = [objective.name for objective in each]
        shapes = [tensor.shape for tensor in self.outputs]
        count = len(inputs[0])
        targets = batching.as_targets(
            y, [objective.loss for objective in each], shapes, names, count, self.label
        )
        if class_weight is None:
            weights = batching.as_weights(sample_weight, targets, shapes, names, count, self.label)
        else:
            weights = self._class_weights(class_weight, targets, sample_weight)
        return Batch(count, inputs, targets, weights)

    def _class_weights(
        self, class_weight: Any, targets: Sequence[Any], sample_weight: Any
    ) -> list[np.ndarray | None]:
        if sample_weight is not None:
            raise ValueError(f"{self.label}: give class_weight or sample_weight, not both")
        if len(targets) != 1 or targets[0] is None:
            raise ValueError(f"{self.label}: class_weight needs a model with one output and y")
        return [batching.class_weights(class_weight, targets[0], self.label)]

    def _train_step(self, batch: Batch, alone: bool = False) -> None:
        """Take a training step; metrics count this batch `alone`, or add it to those before."""
        state = self._ready_state()
        objectives = self._objectives
        assert objectives is not None and self.optimizer is not None
        buffer = state.buffer
        buffer.save_state()
        try:
            on_device, tape, masks = state.plan.forward_with_masks(self._on_device(batch.inputs))
            outputs = self._on_host(on_device)
            total, values, gradients = self._losses_and_gradients(batch, outputs, masks, state)
            state.begin_gradients()
            state.plan.backward(tape, self._like_outputs(gradients, on_device))
            state.finish_gradients()
            total += state.penalties.total()
            for position in state.logits:
                if objectives.each[position].has_metrics:
                    outputs[position] = ops.softmax(outputs[position])
            self._count(batch, total, values, outputs, masks, alone)
        except BaseException:
            buffer.restore_state()
            state.plan.restore_states()
            raise
        self.optimizer.apply(buffer.values, buffer.gradients, state.segments)

    def _losses_and_gradients(
        self, batch: Batch, outputs: list[Any], masks: Sequence[Mask], state: TrainingState
    ) -> tuple[float, list[float | None], Gradients]:
        assert self._objectives is not None
        total = 0.0
        values: list[float | None] = []
        gradients: Gradients = []
        for position, objective in enumerate(self._objectives.each):
            loss = objective.loss
            if loss is None:
                values.append(None)
                gradients.append(None)
                continue
            evaluate = (
                loss.value_and_gradient_from_logits
                if position in state.logits
                else loss.value_and_gradient
            )
            value, gradient = evaluate(
                batch.targets[position],
                outputs[position],
                batch.weights[position],
                **_mask_option(masks[position]),
            )
            factor = objective.loss_weight
            total += value * factor
            values.append(value)
            gradients.append(gradient if factor == 1.0 else gradient * np.float32(factor))
        return total, values, gradients

    def _test_step(self, batch: Batch, alone: bool = False) -> None:
        objectives = self._ready_objectives()
        if self._penalties is None:
            self._penalties = Penalties(self)
        self._place()
        outputs, masks = self._inference.run_with_masks(self._on_device(batch.inputs))
        outputs = self._on_host(outputs)
        total = self._penalties.total()
        values: list[float | None] = []
        for objective, target, output, weight, mask in zip(
            objectives.each, batch.targets, outputs, batch.weights, masks, strict=True
        ):
            value = None
            if objective.loss is not None:
                value = objective.loss(target, output, weight, **_mask_option(mask))
                total += value * objective.loss_weight
            values.append(value)
        self._count(batch, total, values, outputs, masks, alone)

    def _count(
        self,
        batch: Batch,
        total: float,
        values: Sequence[float | None],
        outputs: Sequence[Any],
        masks: Sequence[Mask],
        alone: bool,
    ) -> None:
        assert self._objectives is not None
        if alone:
            self._objectives.reset()
        for objective, value, target, output, weight, mask in zip(
            self._objectives.each, values, batch.targets, outputs, batch.weights, masks, strict=True
        ):
            objective.update(batch.size, value, target, output, weight, mask)
        self._objectives.tracker.update_state(float(total), batch.size)

    def _returned(self, return_dict: bool) -> Any:
        logs = self._ready_objectives().logs()
        if return_dict:
            return logs
        values = list(logs.values())
        return values[0] if len(values) == 1 else values

    def train_on_batch(
        self,
        x: Any,
        y: Any = None,
        sample_weight: Any = None,
        class_weight: Mapping[int, float] | None = None,
        return_dict: bool = False,
    ) -> Any:
        """Take one training step.

        Parameters
        ----------
        x, y, sample_weight, class_weight
            As `fit` takes them; one batch.
        return_dict : bool

        Returns
        -------
        float, list of float, or dict of str to float
            The loss, or the loss and the metrics in the order of `metrics_names`, of this batch.

        Raises
        ------
        ValueError, TypeError, IndexError
            The data does not fit; nothing has changed then.
        """
        self._require_compiled("train_on_batch", training=True)
        self._train_step(self._checked(x, y, sample_weight, class_weight), alone=True)
        return self._returned(return_dict)

    def test_on_batch(
        self, x: Any, y: Any = None, sample_weight: Any = None, return_dict: bool = False
    ) -> Any:
        """Evaluate one batch; arguments and result as those of `train_on_batch`."""
        self._require_compiled("test_on_batch")
        self._test_step(self._checked(x, y, sample_weight), alone=True)
        return self._returned(return_dict)

    def predict_on_batch(self, x: Any) -> Any:
        """Return the outputs for one batch, computed at once.

        Parameters
        ----------
        x : array_like, or list or dict of them

        Returns
        -------
        np.ndarray, or list or dict of them
        """
        return self._structured(self._outputs_for(self._converted(x)))

    def _outputs_for(self, inputs: list[np.ndarray]) -> list[np.ndarray]:
        """Compute the outputs of a batch, in memory of their own."""
        self._place()
        outputs = self._inference.run(self._on_device(inputs))
        if self._module is not None:
            return self._on_host(outputs)
        for position, output in enumerate(outputs):
            # A model of layers like Flatten and Dropout hands its input through, or a view of it;
            # what a kernel made is no view of an array, which is cheap to see.
            is_view = type(output.base) is np.ndarray
            if any(
                output is array or (is_view and np.may_share_memory(output, array))
                for array in inputs
            ):
                outputs[position] = output.copy()
        return outputs


def _mask_option(mask: Mask) -> dict[str, Any]:
    """Return how a mask is passed to a loss: not at all where there is none.

    A loss of the user's own may not know the argument.
    """
    return {} if mask is None else {"mask": mask}
