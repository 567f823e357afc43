"""Callbacks that watch a metric: stop early, keep the best model, lower the learning rate."""

from __future__ import annotations

import math
import os
import warnings
from typing import Any

from lamella import arguments
from lamella.callbacks.base import Callback, Logs
from lamella.progress import format_value


class MonitorCallback(Callback):
    """What the watching callbacks share: which value, and what counts as better.

    Parameters
    ----------
    monitor : str
        The name in the logs, such as ``"val_loss"``.
    mode : {"auto", "min", "max"}
        Whether smaller or larger is better; ``"auto"`` asks the metric of that name.
    min_delta : float
        How much better it must be to count.
    """

    def __init__(self, monitor: str, mode: str, min_delta: float = 0.0) -> None:
        super().__init__()
        owner = type(self).__name__
        self.monitor = monitor
        self.mode = arguments.choice(owner, "mode", mode, ("auto", "min", "max"))
        self.min_delta = abs(arguments.number(owner, "min_delta", min_delta))
        self.best: float | None = None

    def _smaller_is_better(self) -> bool:
        if self.mode != "auto":
            return self.mode == "min"
        name = self.monitor.removeprefix("val_")
        if name == "loss" or name.endswith("_loss"):
            return True
        # With several outputs a metric's name in the logs begins with its output's.
        directions = {
            metric.direction
            for metric in getattr(self.model, "metrics", ())
            if name == metric.name or name.endswith(f"_{metric.name}")
        }
        if directions in ({"up"}, {"down"}):
            return directions == {"down"}
        raise ValueError(
            f"{type(self).__name__}: cannot tell whether a larger or a smaller "
            f"{self.monitor!r} is better; pass mode='max' or mode='min'"
        )

    def _improves(self, value: float, than: float | None) -> bool:
        """Return whether ``value`` beats ``than``, if there is one; NaN beats nothing."""
        smaller = self._smaller_is_better()
        if math.isnan(value):
            return False
        if than is None:
            return True
        return value + self.min_delta < than if smaller else value - self.min_delta > than

    def _value(self, logs: Logs | None) -> float | None:
        value = (logs or {}).get(self.monitor)
        if value is None:
            warnings.warn(
                f"{type(self).__name__} watches {self.monitor!r}, which is not among "
                f"{', '.join(logs or {}) or 'the logs (there are none)'}",
                stacklevel=2,
            )
            return None
        return float(value)


class EarlyStopping(MonitorCallback):
    """Stops training when a metric has stopped improving.

    Parameters
    ----------
    monitor, min_delta, mode
        See :class:`MonitorCallback`.
    patience : int
        How many epochs without improvement to wait.
    verbose : int
        1 prints what it does.
    baseline : float, optional
        An improvement resets the patience only if it beats this too.
    restore_best_weights : bool
        Give the model the weights of its best epoch at the end.
    start_from_epoch : int
        Watch from this epoch on.

    Examples
    --------
    >>> callback = EarlyStopping(monitor="val_loss", patience=3, restore_best_weights=True)
    """

    def __init__(
        self,
        monitor: str = "val_loss",
        min_delta: float = 0,
        patience: int = 0,
        verbose: int = 0,
        mode: str = "auto",
        baseline: float | None = None,
        restore_best_weights: bool = False,
        start_from_epoch: int = 0,
    ) -> None:
        super().__init__(monitor, mode, min_delta)
        self.patience = patience
        self.verbose = verbose
        self.baseline = baseline
        self.restore_best_weights = restore_best_weights
        self.start_from_epoch = start_from_epoch
        self.on_train_begin()

    def on_train_begin(self, logs: Logs | None = None) -> None:
        self.wait = 0
        self.stopped_epoch = 0
        self.best = None
        self.best_epoch = 0
        self.best_weights: Any = None

    def on_epoch_end(self, epoch: int, logs: Logs | None = None) -> None:
        value = self._value(logs)
        if value is None or epoch < self.start_from_epoch:
            return
        if self.restore_best_weights and self.best_weights is None:
            self._keep(epoch)
        self.wait += 1
        if self._improves(value, self.best):
            self.best = value
            self._keep(epoch)
            if self.baseline is None or self._improves(value, self.baseline):
                self.wait = 0
        elif self.wait >= self.patience and epoch > 0:
            self.stopped_epoch = epoch
            self.model.stop_training = True

    def _keep(self, epoch: int) -> None:
        self.best_epoch = epoch
        if self.restore_best_weights:
            # Copied: the model's own arrays go on changing.
            self.best_weights = [weight.copy() for weight in self.model.get_weights()]

    def on_train_end(self, logs: Logs | None = None) -> None:
        if self.stopped_epoch > 0 and self.verbose > 0:
            print(f"Epoch {self.stopped_epoch + 1}: early stopping")
        if self.restore_best_weights and self.best_weights is not None:
            if self.verbose > 0:
                print(f"Restoring the weights of the best epoch: {self.best_epoch + 1}")
            self.model.set_weights(self.best_weights)


class ModelCheckpoint(MonitorCallback):
    """Saves the model, or its weights, as training goes.

    Parameters
    ----------
    filepath : str or path
        Where to; may hold ``{epoch}``, ``{batch}`` and names of the logs, formatted as
        ``str.format`` does: ``"model-{epoch:02d}-{val_loss:.2f}.safetensors"``. The folder is
        made if need be.
    monitor, mode
        See :class:`MonitorCallback`.
    verbose : int
        1 prints what it does.
    save_best_only : bool
        Save only when the watched value is the best so far.
    save_weights_only : bool
        Call ``model.save_weights`` instead of ``model.save``.
    save_freq : "epoch" or int
        Save every epoch, or every so many batches.
    initial_value_threshold : float, optional
        The best so far before training.

    Raises
    ------
    ValueError
        If an argument is none of these, or a name in ``filepath`` is not in the logs.
    """

    def __init__(
        self,
        filepath: str | os.PathLike[str],
        monitor: str = "val_loss",
        verbose: int = 0,
        save_best_only: bool = False,
        save_weights_only: bool = False,
        mode: str = "auto",
        save_freq: str | int = "epoch",
        initial_value_threshold: float | None = None,
    ) -> None:
        super().__init__(monitor, mode)
        if save_freq != "epoch" and (not isinstance(save_freq, int) or save_freq < 1):
            raise ValueError(
                f"ModelCheckpoint: save_freq expects 'epoch' or an integer >= 1, got {save_freq!r}"
            )
        self.filepath = os.fspath(filepath)
        self.verbose = verbose
        self.save_best_only = save_best_only
        self.save_weights_only = save_weights_only
        self.save_freq = save_freq
        self.best = initial_value_threshold
        self._epoch = 0
        self._batches = 0
        if save_freq != "epoch":
            # Set on the object, so that a run that saves by epoch pays nothing per batch.
            self.on_train_batch_end = self._count_batch  # type: ignore[method-assign]

    def on_epoch_begin(self, epoch: int, logs: Logs | None = None) -> None:
        self._epoch = epoch

    def on_epoch_end(self, epoch: int, logs: Logs | None = None) -> None:
        if self.save_freq == "epoch":
            self._save(epoch, {"epoch": epoch + 1, **(logs or {})}, logs)

    def _count_batch(self, batch: int, logs: Logs | None = None) -> None:
        self._batches += 1
        if self._batches == self.save_freq:
            self._batches = 0
            names = {"epoch": self._epoch + 1, "batch": batch + 1, **(logs or {})}
            self._save(self._epoch, names, logs)

    def _save(self, epoch: int, names: dict[str, Any], logs: Logs | None) -> None:
        try:
            path = self.filepath.format(**names)
        except KeyError as error:
            raise ValueError(
                f"ModelCheckpoint: filepath {self.filepath!r} names {error}, which is not among "
                f"{', '.join(names)}"
            ) from None
        if self.save_best_only and not self._is_best(epoch, logs):
            return
        folder = os.path.dirname(path)
        if folder:
            os.makedirs(folder, exist_ok=True)
        if self.save_weights_only:
            self.model.save_weights(path)
        else:
            self.model.save(path)
        if self.verbose > 0:
            print(f"Epoch {epoch + 1}: saved to {path}")

    def _is_best(self, epoch: int, logs: Logs | None) -> bool:
        value = self._value(logs)
        if value is None:
            return True  # warned of; losing the model would be worse than saving it
        improved = self._improves(value, self.best)
        if self.verbose > 0:
            verdict = "improved on" if improved else "did not improve on"
            known = "nothing yet" if self.best is None else format_value(self.best)
            print(f"Epoch {epoch + 1}: {self.monitor} {format_value(value)} {verdict} {known}")
        if improved:
            self.best = value
        return improved


class ReduceLROnPlateau(MonitorCallback):
    """Lowers the learning rate when a metric has stopped improving.

    Parameters
    ----------
    monitor, mode, min_delta
        See :class:`MonitorCallback`.
    factor : float
        What the learning rate is multiplied by, below 1.
    patience : int
        How many epochs without improvement to wait.
    verbose : int
        1 prints what it does.
    cooldown : int
        How many epochs to rest after lowering.
    min_lr : float
        The rate is not lowered below this.

    Notes
    -----
    Adds ``learning_rate`` to the logs.
    """

    def __init__(
        self,
        monitor: str = "val_loss",
        factor: float = 0.1,
        patience: int = 10,
        verbose: int = 0,
        mode: str = "auto",
        min_delta: float = 1e-4,
        cooldown: int = 0,
        min_lr: float = 0.0,
    ) -> None:
        super().__init__(monitor, mode, min_delta)
        self.factor = arguments.number("ReduceLROnPlateau", "factor", factor, 0, 1, exclude=[1])
        self.patience = patience
        self.verbose = verbose
        self.cooldown = cooldown
        self.min_lr = arguments.number("ReduceLROnPlateau", "min_lr", min_lr, 0)
        self.on_train_begin()

    def on_train_begin(self, logs: Logs | None = None) -> None:
        self.best = None
        self.wait = 0
        self.cooldown_counter = 0

    def on_epoch_end(self, epoch: int, logs: Logs | None = None) -> None:
        if logs is not None:
            logs["learning_rate"] = self.model.optimizer.learning_rate
        value = self._value(logs)
        if value is None:
            return
        if self.cooldown_counter > 0:
            self.cooldown_counter -= 1
            self.wait = 0
        if self._improves(value, self.best):
            self.best = value
            self.wait = 0
        elif self.cooldown_counter == 0:
            self.wait += 1
            if self.wait >= self.patience:
                self._reduce(epoch)

    def _reduce(self, epoch: int) -> None:
        optimizer = self.model.optimizer
        if optimizer.learning_rate <= self.min_lr:
            return
        optimizer.learning_rate = max(optimizer.learning_rate * self.factor, self.min_lr)
        self.cooldown_counter = self.cooldown
        self.wait = 0
        if self.verbose > 0:
            print(f"Epoch {epoch + 1}: learning rate lowered to {optimizer.learning_rate:g}")
