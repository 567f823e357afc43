"""The callback interface, and the list that calls only what is overridden."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

Logs = dict[str, Any]


class Callback:
    """Base class of the callbacks: what happens at the stages of fit, evaluate and predict.

    Override what you need. ``epoch`` and ``batch`` count from 0; ``logs`` maps names of metrics to
    their values so far.

    Attributes
    ----------
    model : Model
        The model that runs.
    params : dict
        ``verbose``, ``epochs`` and ``steps`` (an epoch's batches, None if unknown).

    Examples
    --------
    >>> class Announce(Callback):
    ...     def on_epoch_end(self, epoch, logs=None):
    ...         print(epoch, logs)
    >>> CallbackList([Announce()]).on_epoch_end(0, {"loss": 0.5})
    0 {'loss': 0.5}
    """

    def __init__(self) -> None:
        self.model: Any = None
        self.params: dict[str, Any] = {}

    def set_model(self, model: Any) -> None:
        """Take the model that will run."""
        self.model = model

    def set_params(self, params: Mapping[str, Any]) -> None:
        """Take ``verbose``, ``epochs`` and ``steps``."""
        self.params = dict(params)

    def on_train_begin(self, logs: Logs | None = None) -> None:
        """At the start of fit."""

    def on_train_end(self, logs: Logs | None = None) -> None:
        """At the end of fit, with the last epoch's logs."""

    def on_epoch_begin(self, epoch: int, logs: Logs | None = None) -> None:
        """At the start of an epoch."""

    def on_epoch_end(self, epoch: int, logs: Logs | None = None) -> None:
        """At the end of an epoch, after validation; ``logs`` has the ``val_`` values too."""

    def on_batch_begin(self, batch: int, logs: Logs | None = None) -> None:
        """Another name for :meth:`on_train_batch_begin`."""

    def on_batch_end(self, batch: int, logs: Logs | None = None) -> None:
        """Another name for :meth:`on_train_batch_end`."""

    def on_train_batch_begin(self, batch: int, logs: Logs | None = None) -> None:
        """Before a training step."""
        self.on_batch_begin(batch, logs)

    def on_train_batch_end(self, batch: int, logs: Logs | None = None) -> None:
        """After a training step; ``logs`` has the epoch's values so far."""
        self.on_batch_end(batch, logs)

    def on_test_begin(self, logs: Logs | None = None) -> None:
        """At the start of evaluate, or of fit's validation."""

    def on_test_end(self, logs: Logs | None = None) -> None:
        """At the end of evaluate, or of fit's validation."""

    def on_test_batch_begin(self, batch: int, logs: Logs | None = None) -> None:
        """Before a batch of evaluate."""

    def on_test_batch_end(self, batch: int, logs: Logs | None = None) -> None:
        """After a batch of evaluate."""

    def on_predict_begin(self, logs: Logs | None = None) -> None:
        """At the start of predict."""

    def on_predict_end(self, logs: Logs | None = None) -> None:
        """At the end of predict."""

    def on_predict_batch_begin(self, batch: int, logs: Logs | None = None) -> None:
        """Before a batch of predict."""

    def on_predict_batch_end(self, batch: int, logs: Logs | None = None) -> None:
        """After a batch of predict."""


HOOKS = tuple(name for name in vars(Callback) if name.startswith("on_"))

# A callback that overrides the second means the first.
_ALIASES = {
    "on_train_batch_begin": "on_batch_begin",
    "on_train_batch_end": "on_batch_end",
}


def _overrides(callback: Callback, hook: str) -> bool:
    if hook in vars(callback) or getattr(type(callback), hook) is not getattr(Callback, hook):
        return True
    return hook in _ALIASES and _overrides(callback, _ALIASES[hook])


class History(Callback):
    """Keeps every epoch's logs; what ``fit`` returns.

    Attributes
    ----------
    history : dict of str to list
        One value an epoch for each name.
    epoch : list of int
        The epochs run.
    """

    def __init__(self) -> None:
        super().__init__()
        self.history: dict[str, list[Any]] = {}
        self.epoch: list[int] = []

    def on_train_begin(self, logs: Logs | None = None) -> None:
        self.epoch = []

    def on_epoch_end(self, epoch: int, logs: Logs | None = None) -> None:
        self.epoch.append(epoch)
        for name, value in (logs or {}).items():
            self.history.setdefault(name, []).append(value)


class CallbackList:
    """Calls a list of callbacks in order, and costs nothing for hooks that none overrides.

    Parameters
    ----------
    callbacks : sequence of Callback, or one, optional
    add_history, add_progbar : bool
        Append a :class:`History` or a :class:`ProgressBar` unless the list has one.
    model : Model, optional
        Handed to every callback, and gets the history as ``model.history``.
    **params
        ``verbose``, ``epochs``, ``steps``: handed to every callback.

    Attributes
    ----------
    callbacks : list of Callback
    history : History or None

    Raises
    ------
    TypeError
        If an entry is not a callback.
    """

    def __init__(
        self,
        callbacks: Callback | Sequence[Callback] | None = None,
        add_history: bool = False,
        add_progbar: bool = False,
        model: Any = None,
        **params: Any,
    ) -> None:
        from lamella.callbacks.progress_bar import ProgressBar

        given: list[Any] = [callbacks]
        if callbacks is None or isinstance(callbacks, (list, tuple)):
            given = list(callbacks or [])
        self.callbacks: list[Callback] = given
        for callback in self.callbacks:
            if not isinstance(callback, Callback):
                hint = " (an instance, not the class)" if isinstance(callback, type) else ""
                raise TypeError(f"callbacks expects Callback objects{hint}, got {callback!r}")
        if add_history and not any(isinstance(c, History) for c in self.callbacks):
            self.callbacks.append(History())
        if add_progbar and not any(isinstance(c, ProgressBar) for c in self.callbacks):
            self.callbacks.append(ProgressBar())
        self.history = next((c for c in self.callbacks if isinstance(c, History)), None)
        self.model = model
        self.params = params
        for callback in self.callbacks:
            if model is not None:
                callback.set_model(model)
            if params:
                callback.set_params(params)
        if model is not None and self.history is not None:
            model.history = self.history
        self._hooks: dict[str, list[Callable[..., None]]] = {
            hook: [getattr(c, hook) for c in self.callbacks if _overrides(c, hook)]
            for hook in HOOKS
        }
        # What the callbacks print at the end of an epoch must not land in the middle of a bar.
        bars = [c.clear for c in self.callbacks if isinstance(c, ProgressBar)]
        self._hooks["on_epoch_end"][:0] = bars

    def has(self, hook: str) -> bool:
        """Return whether any callback overrides ``hook``; if not, its logs need not be made."""
        return bool(self._hooks[hook])

    def on_train_begin(self, logs: Logs | None = None) -> None:
        for call in self._hooks["on_train_begin"]:
            call(logs)

    def on_train_end(self, logs: Logs | None = None) -> None:
        for call in self._hooks["on_train_end"]:
            call(logs)

    def on_epoch_begin(self, epoch: int, logs: Logs | None = None) -> None:
        for call in self._hooks["on_epoch_begin"]:
            call(epoch, logs)

    def on_epoch_end(self, epoch: int, logs: Logs | None = None) -> None:
        # One dictionary for all: a callback may add to what those after it see.
        logs = {} if logs is None else logs
        for call in self._hooks["on_epoch_end"]:
            call(epoch, logs)

    def on_train_batch_begin(self, batch: int, logs: Logs | None = None) -> None:
        for call in self._hooks["on_train_batch_begin"]:
            call(batch, logs)

    def on_train_batch_end(self, batch: int, logs: Logs | None = None) -> None:
        for call in self._hooks["on_train_batch_end"]:
            call(batch, logs)

    def on_test_begin(self, logs: Logs | None = None) -> None:
        for call in self._hooks["on_test_begin"]:
            call(logs)

    def on_test_end(self, logs: Logs | None = None) -> None:
        for call in self._hooks["on_test_end"]:
            call(logs)

    def on_test_batch_begin(self, batch: int, logs: Logs | None = None) -> None:
        for call in self._hooks["on_test_batch_begin"]:
            call(batch, logs)

    def on_test_batch_end(self, batch: int, logs: Logs | None = None) -> None:
        for call in self._hooks["on_test_batch_end"]:
            call(batch, logs)

    def on_predict_begin(self, logs: Logs | None = None) -> None:
        for call in self._hooks["on_predict_begin"]:
            call(logs)

    def on_predict_end(self, logs: Logs | None = None) -> None:
        for call in self._hooks["on_predict_end"]:
            call(logs)

    def on_predict_batch_begin(self, batch: int, logs: Logs | None = None) -> None:
        for call in self._hooks["on_predict_batch_begin"]:
            call(batch, logs)

    def on_predict_batch_end(self, batch: int, logs: Logs | None = None) -> None:
        for call in self._hooks["on_predict_batch_end"]:
            call(batch, logs)
