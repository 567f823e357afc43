"""The loops over batches: fit, evaluate and predict.

Data is checked and converted once (`lamella.models.data`), then handed on batch by batch to the
steps of `lamella.models.steps`; callbacks are called around them.
"""

from __future__ import annotations

import functools
import math
import operator
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from lamella.callbacks import Callback, CallbackList, History
from lamella.models.data import ArrayData, Batch, StreamData, is_stream
from lamella.models.executor import stateful_layers
from lamella.models.steps import Steps

Data = ArrayData | StreamData


class Trainer(Steps):
    """The part of `lamella.models.Model` that trains, evaluates and predicts.

    Attributes
    ----------
    stop_training : bool
        Set by a callback, ends `fit` after the present batch.
    history : History or None
        That of the last `fit`.
    """

    stop_training = False
    history: History | None = None

    def fit(
        self,
        x: Any = None,
        y: Any = None,
        batch_size: int | None = None,
        epochs: int = 1,
        verbose: str | int = "auto",
        callbacks: Callback | Sequence[Callback] | None = None,
        validation_split: float = 0.0,
        validation_data: Any = None,
        shuffle: bool = True,
        class_weight: Mapping[int, float] | None = None,
        sample_weight: Any = None,
        initial_epoch: int = 0,
        steps_per_epoch: int | None = None,
        validation_steps: int | None = None,
        validation_batch_size: int | None = None,
        validation_freq: int | Sequence[int] = 1,
    ) -> History:
        """Train.

        Parameters
        ----------
        x : array_like, or list or dict of them; or an iterable of batches
            Batches come as (x, y) or (x, y, sample_weight); then `y`, `sample_weight` and
            `batch_size` are left out.
        y : array_like, or list or dict of them by output
        batch_size : int, optional
            32 by default.
        epochs : int
            The number of the epoch to stop at.
        verbose : "auto", 0, 1 or 2
            Silent, a progress bar, one line an epoch.
        callbacks : sequence of Callback, optional
        validation_split : float
            Share of the samples, from the end, that is not trained on but evaluated.
        validation_data : (x, y) or (x, y, sample_weight), or an iterable of batches, optional
        shuffle : bool
            Draw a new order of the samples for every epoch.
        class_weight : dict of int to float, optional
            Weights of the samples by their class.
        sample_weight : array_like (N,), optional
        initial_epoch : int
            The number of the epoch to begin at.
        steps_per_epoch, validation_steps : int, optional
            End an epoch, or an evaluation, after so many batches.
        validation_batch_size : int, optional
            `batch_size` by default.
        validation_freq : int or sequence of int
            Evaluate every so many epochs, or at the end of these epochs, counted from 1.

        Returns
        -------
        History
            ``history.history`` has a list of values for each name.

        Raises
        ------
        ValueError, TypeError, IndexError
            An argument does not fit. Arrays are checked as a whole before the first step.
        """
        self._require_compiled("fit", training=True)
        epochs = _integer("epochs", epochs, 0, self.label)
        initial_epoch = _integer("initial_epoch", initial_epoch, 0, self.label)
        is_due = _schedule(validation_freq, self.label)
        split = _share(validation_split, self.label) if validation_data is None else 0.0
        data, held_out = self._training_data(
            x, y, sample_weight, class_weight, batch_size, shuffle, steps_per_epoch, split
        )
        size = batch_size if validation_batch_size is None else validation_batch_size
        validation = self._validation_data(validation_data, held_out, size, validation_steps)
        hooks = self._hooks(callbacks, verbose, epochs, data, add_history=True)
        self.stop_training = False
        logs: dict[str, float] = {}
        hooks.on_train_begin()
        for epoch in range(initial_epoch, epochs):
            self.reset_metrics()
            hooks.on_epoch_begin(epoch)
            if not self._train_epoch(data, hooks):
                break  # a generator that has nothing more to give
            logs = self.get_metrics_result()
            if validation is not None and is_due(epoch + 1):
                results = self._evaluate(validation, hooks)
                logs.update({f"val_{name}": value for name, value in results.items()})
            hooks.on_epoch_end(epoch, logs)
            if self.stop_training or data.exhausted:
                break
        hooks.on_train_end(logs)
        assert self.history is not None
        return self.history

    def _train_epoch(self, data: Data, hooks: CallbackList) -> int:
        """Train on the batches of an epoch; return how many there were."""
        shows_batches = hooks.has("on_train_batch_end")
        number = 0
        for number, batch in enumerate(data.epoch(), start=1):
            hooks.on_train_batch_begin(number - 1)
            self._train_step(batch)
            hooks.on_train_batch_end(
                number - 1, self.get_metrics_result() if shows_batches else None
            )
            if self.stop_training:
                break
        return number

    def evaluate(
        self,
        x: Any = None,
        y: Any = None,
        batch_size: int | None = None,
        verbose: str | int = "auto",
        sample_weight: Any = None,
        steps: int | None = None,
        callbacks: Callback | Sequence[Callback] | None = None,
        return_dict: bool = False,
    ) -> Any:
        """Return the loss and the metrics on data.

        Parameters
        ----------
        x, y, sample_weight, batch_size, verbose, callbacks
            As `fit` takes them.
        steps : int, optional
            Stop after so many batches.
        return_dict : bool

        Returns
        -------
        float, list of float, or dict of str to float
            The loss, or the loss and the metrics in the order of `metrics_names`.
        """
        self._require_compiled("evaluate")
        data = self._evaluation_data(x, y, sample_weight, batch_size, steps, "evaluate")
        hooks = self._hooks(callbacks, verbose, 1, data)
        logs = self._evaluate(data, hooks)
        if return_dict:
            return logs
        values = list(logs.values())
        return values[0] if len(values) == 1 else values

    def _evaluate(self, data: Data, hooks: CallbackList) -> dict[str, float]:
        shows_batches = hooks.has("on_test_batch_end")
        data.restart()
        hooks.on_test_begin()
        self.reset_metrics()
        for number, batch in enumerate(data.epoch()):
            hooks.on_test_batch_begin(number)
            self._test_step(batch)
            hooks.on_test_batch_end(number, self.get_metrics_result() if shows_batches else None)
        logs = self.get_metrics_result()
        hooks.on_test_end(logs)
        return logs

    def predict(
        self,
        x: Any,
        batch_size: int | None = None,
        verbose: str | int = "auto",
        steps: int | None = None,
        callbacks: Callback | Sequence[Callback] | None = None,
    ) -> Any:
        """Return the outputs for data, computed batch by batch.

        Parameters
        ----------
        x, batch_size, verbose, callbacks
            As `fit` takes them.
        steps : int, optional
            Stop after so many batches.

        Returns
        -------
        np.ndarray, or list or dict of them
            One row a sample.
        """
        data = self._prediction_data(x, batch_size, steps)
        hooks = self._hooks(callbacks, verbose, 1, data)
        shows_batches = hooks.has("on_predict_batch_end")
        collector = _Collector(data.count if isinstance(data, ArrayData) else None, self.label)
        hooks.on_predict_begin()
        for number, batch in enumerate(data.epoch()):
            hooks.on_predict_batch_begin(number)
            outputs = self._outputs_for(batch.inputs)
            collector.add(batch.size, outputs)
            hooks.on_predict_batch_end(
                number, {"outputs": self._structured(outputs)} if shows_batches else None
            )
        hooks.on_predict_end()
        return self._structured(collector.result())

    # -- data ---------------------------------------------------------------------------------

    def _training_data(
        self,
        x: Any,
        y: Any,
        sample_weight: Any,
        class_weight: Mapping[int, float] | None,
        batch_size: int | None,
        shuffle: bool,
        steps: int | None,
        split: float,
    ) -> tuple[Data, Batch | None]:
        """Return the data to train on, and what `validation_split` sets aside."""
        if not isinstance(shuffle, (bool, np.bool_)):
            raise ValueError(
                f"{self.label}: fit supports shuffle=True or False, received {shuffle!r}"
            )
        steps = _optional_integer("steps_per_epoch", steps, self.label)
        if is_stream(x):
            self._reject_with_stream(
                "fit",
                y=y,
                sample_weight=sample_weight,
                batch_size=batch_size,
                validation_split=split or None,
            )
            prepare = functools.partial(self._checked, class_weight=class_weight)
            return StreamData(x, prepare, steps), None
        held_out = None
        batch = self._checked(x, y, sample_weight, None if split else class_weight)
        self._check_indices(batch.inputs)
        if split:
            batch, held_out = _split(batch, split, self.label)
            if class_weight is not None:
                weights = self._class_weights(class_weight, batch.targets, sample_weight)
                batch = batch._replace(weights=weights)
        if batch.size == 0:
            raise ValueError(f"{self.label}: fit needs at least one sample, x has none")
        size = self._batch_size(batch_size, batch.size)
        return ArrayData(batch, size, bool(shuffle), steps, repeat=True), held_out

    def _validation_data(
        self,
        validation_data: Any,
        held_out: Batch | None,
        batch_size: int | None,
        steps: int | None,
    ) -> Data | None:
        if validation_data is None:
            if held_out is None:
                return None
            limit = _optional_integer("validation_steps", steps, self.label)
            return ArrayData(held_out, self._batch_size(batch_size, held_out.size), False, limit)
        if is_stream(validation_data):
            return self._evaluation_data(validation_data, None, None, None, steps, "fit")
        if not isinstance(validation_data, (tuple, list)) or len(validation_data) not in (2, 3):
            raise ValueError(
                f"{self.label}: validation_data expects (x, y), (x, y, sample_weight) or an "
                f"iterable of batches, received {type(validation_data).__name__}"
            )
        x, y, weight = (*validation_data, None)[:3]
        return self._evaluation_data(x, y, weight, batch_size, steps, "fit")

    def _evaluation_data(
        self,
        x: Any,
        y: Any,
        sample_weight: Any,
        batch_size: int | None,
        steps: int | None,
        method: str,
    ) -> Data:
        steps = _optional_integer("steps", steps, self.label)
        if is_stream(x):
            self._reject_with_stream(
                method, y=y, sample_weight=sample_weight, batch_size=batch_size
            )
            return StreamData(x, self._checked, steps)
        batch = self._checked(x, y, sample_weight)
        self._check_indices(batch.inputs)
        if batch.size == 0:
            raise ValueError(f"{self.label}: {method} needs at least one sample, x has none")
        return ArrayData(batch, self._batch_size(batch_size, batch.size), False, steps)

    def _prediction_data(self, x: Any, batch_size: int | None, steps: int | None) -> Data:
        steps = _optional_integer("steps", steps, self.label)
        if is_stream(x):
            self._reject_with_stream("predict", batch_size=batch_size)
            return StreamData(x, self._inputs_only, steps)
        batch = self._inputs_only(x)
        return ArrayData(batch, self._batch_size(batch_size, batch.size), False, steps)

    def _batch_size(self, value: Any, count: int) -> int:
        """Return the batch size for `count` samples; by default 32.

        With stateful layers it is by default what an Input fixes, and must divide the samples.
        """
        is_stateful = bool(stateful_layers(self.graph))
        size = 32 if value is None else _integer("batch_size", value, 1, self.label)
        if value is None and is_stateful:
            size = next((t.shape[0] for t in self.inputs if t.shape[0] is not None), size)
        if is_stateful and count % max(1, min(size, count)):
            raise ValueError(
                f"{self.label}: has stateful layers, whose batches have one size: {count} samples "
                f"cannot be cut into batches of {size}"
            )
        return size

    def _inputs_only(self, x: Any, y: Any = None, sample_weight: Any = None) -> Batch:
        # Targets that come with the batches of a generator are passed over, as in Keras.
        inputs = self._converted(x)
        return Batch(len(inputs[0]), inputs, [], [])

    def _reject_with_stream(self, method: str, **arguments: Any) -> None:
        given = [name for name, value in arguments.items() if value is not None]
        if given:
            raise ValueError(
                f"{self.label}: {method} takes no {' or '.join(given)} when x yields batches: "
                "each batch brings its own"
            )

    def _hooks(
        self, callbacks: Any, verbose: str | int, epochs: int, data: Data, add_history: bool = False
    ) -> CallbackList:
        return CallbackList(
            callbacks,
            add_history=add_history,
            add_progbar=verbose != 0,
            model=self,
            verbose=verbose,
            epochs=epochs,
            steps=data.steps,
        )


class _Collector:
    """The outputs of all batches, in arrays made once where the number of samples is known."""

    def __init__(self, count: int | None, owner: str) -> None:
        self._count = count
        self._owner = owner
        self._done = 0
        self._arrays: list[np.ndarray] = []
        self._parts: list[list[np.ndarray]] = []

    def add(self, count: int, outputs: list[np.ndarray]) -> None:
        if any(len(output) != count for output in outputs):
            shapes = ", ".join(str(output.shape) for output in outputs)
            raise ValueError(
                f"{self._owner}: predict expects one row a sample, but {count} samples gave "
                f"outputs of shape {shapes}"
            )
        if self._count is None:
            self._parts.append(outputs)
        elif count == self._count:
            self._arrays = outputs
        else:
            self._arrays = self._arrays or [
                np.empty((self._count, *output.shape[1:]), output.dtype) for output in outputs
            ]
            for array, output in zip(self._arrays, outputs, strict=True):
                array[self._done : self._done + count] = output
        self._done += count

    def result(self) -> list[np.ndarray]:
        if self._count is None:
            if not self._parts:
                raise ValueError(f"{self._owner}: predict needs at least one batch, x gave none")
            return [np.concatenate(parts) for parts in zip(*self._parts, strict=True)]
        return [array[: self._done] for array in self._arrays]


def _split(batch: Batch, share: float, owner: str) -> tuple[Batch, Batch]:
    """Set the last `share` of the samples aside."""
    count = math.floor(batch.size * (1 - share))
    if count in (0, batch.size):
        raise ValueError(
            f"{owner}: validation_split={share} of {batch.size} samples leaves none on one side"
        )
    return (
        batch.map(lambda array: array[:count], count),
        batch.map(lambda array: array[count:], batch.size - count),
    )


def _integer(name: str, value: Any, minimum: int, owner: str) -> int:
    if isinstance(value, bool) or not hasattr(value, "__index__") or value < minimum:
        raise ValueError(f"{owner}: {name} expects an integer >= {minimum}, received {value!r}")
    return operator.index(value)


def _optional_integer(name: str, value: Any, owner: str) -> int | None:
    return None if value is None else _integer(name, value, 1, owner)


def _share(value: Any, owner: str) -> float:
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not 0 <= value < 1:
        raise ValueError(
            f"{owner}: validation_split expects a number in [0, 1), received {value!r}"
        )
    return float(value)


def _schedule(frequency: Any, owner: str) -> Callable[[int], bool]:
    """Return whether an epoch, counted from 1, ends in validation."""
    if isinstance(frequency, (list, tuple)):
        return lambda epoch: epoch in frequency
    every = _integer("validation_freq", frequency, 1, owner)
    return lambda epoch: epoch % every == 0
