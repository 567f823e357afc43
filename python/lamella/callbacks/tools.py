"""Callbacks that log, check and schedule: CSVLogger, TerminateOnNaN, LearningRateScheduler, ..."""

from __future__ import annotations

import inspect
import math
import os
from collections.abc import Callable
from typing import Any

from lamella.callbacks.base import HOOKS, Callback, Logs


class LearningRateScheduler(Callback):
    """Sets the learning rate at the start of every epoch.

    Parameters
    ----------
    schedule : callable
        ``schedule(epoch, learning_rate)`` or ``schedule(epoch)`` returns the new learning rate;
        epochs count from 0.
    verbose : int
        1 prints what it does.

    Notes
    -----
    Adds ``learning_rate`` to the logs.

    Examples
    --------
    >>> callback = LearningRateScheduler(lambda epoch, rate: rate * 0.9 if epoch > 5 else rate)
    """

    def __init__(self, schedule: Callable[..., float], verbose: int = 0) -> None:
        super().__init__()
        if not callable(schedule):
            raise ValueError(
                f"LearningRateScheduler: schedule expects a function, got {schedule!r}"
            )
        self.schedule = schedule
        self.verbose = verbose
        try:
            inspect.signature(schedule).bind(0, 0.0)
            self._takes_rate = True
        except TypeError:
            self._takes_rate = False
        except ValueError:  # a builtin without a signature
            self._takes_rate = True

    def on_epoch_begin(self, epoch: int, logs: Logs | None = None) -> None:
        optimizer = self.model.optimizer
        optimizer.learning_rate = (
            self.schedule(epoch, optimizer.learning_rate)
            if self._takes_rate
            else self.schedule(epoch)
        )
        if self.verbose > 0:
            print(f"Epoch {epoch + 1}: learning rate set to {optimizer.learning_rate:g}")

    def on_epoch_end(self, epoch: int, logs: Logs | None = None) -> None:
        if logs is not None:
            logs["learning_rate"] = self.model.optimizer.learning_rate


class CSVLogger(Callback):
    """Writes every epoch's logs as a row of a CSV file.

    Parameters
    ----------
    filename : str or path
        The file.
    separator : str
        One character between the values.
    append : bool
        Add to a file that exists instead of replacing it.

    Notes
    -----
    The columns are ``epoch`` and the first epoch's names, sorted, with ``val_`` names for each if
    there are none yet; a value that is missing is written as NA.
    """

    def __init__(
        self, filename: str | os.PathLike[str], separator: str = ",", append: bool = False
    ) -> None:
        super().__init__()
        self.filename = os.fspath(filename)
        self.separator = separator
        self.append = append
        self._names: list[str] = []
        self._file: Any = None
        self._writer: Any = None

    def on_train_begin(self, logs: Logs | None = None) -> None:
        self._close()
        self._names = []
        self._file = open(  # noqa: SIM115 (open for as long as training runs)
            self.filename, "a" if self.append else "w", newline="", encoding="utf-8"
        )

    def on_epoch_end(self, epoch: int, logs: Logs | None = None) -> None:
        import csv

        logs = logs or {}
        if not self._names:
            self._names = sorted(logs)
            if not any(name.startswith("val_") for name in logs):
                self._names += [f"val_{name}" for name in self._names]
            self._writer = csv.writer(self._file, delimiter=self.separator)
            if self._file.tell() == 0:
                self._writer.writerow(["epoch", *self._names])
        self._writer.writerow([epoch, *(logs.get(name, "NA") for name in self._names)])
        self._file.flush()

    def on_train_end(self, logs: Logs | None = None) -> None:
        self._close()

    def _close(self) -> None:
        if self._file is not None:
            self._file.close()
            self._file = self._writer = None


class TerminateOnNaN(Callback):
    """Stops training when the loss is NaN or infinite.

    Parameters
    ----------
    raise_error : bool
        Raise RuntimeError instead of stopping at the end of the batch.
    """

    def __init__(self, raise_error: bool = False) -> None:
        super().__init__()
        self.raise_error = raise_error

    def on_train_batch_end(self, batch: int, logs: Logs | None = None) -> None:
        loss = (logs or {}).get("loss")
        if loss is None or math.isfinite(loss):
            return
        if self.raise_error:
            raise RuntimeError(f"the loss is {loss} at batch {batch}")
        print(f"Batch {batch}: the loss is {loss}, training stops")
        self.model.stop_training = True


class LambdaCallback(Callback):
    """A callback made of functions.

    Parameters
    ----------
    **hooks
        ``on_epoch_end=f`` and so on, by the names of :class:`Callback`'s methods; each function
        takes that method's arguments.

    Raises
    ------
    ValueError
        If a name is not one of those methods.

    Examples
    --------
    >>> callback = LambdaCallback(on_epoch_end=lambda epoch, logs: print(epoch, logs["loss"]))
    """

    def __init__(self, **hooks: Callable[..., Any] | None) -> None:
        super().__init__()
        for name, function in hooks.items():
            if name not in HOOKS:
                raise ValueError(
                    f"LambdaCallback: there is no {name!r}; there are {', '.join(HOOKS)}"
                )
            if function is not None:
                setattr(self, name, function)
