"""The callback that shows progress; how it looks is :mod:`lamella.progress`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from lamella.callbacks.base import Callback, Logs
from lamella.progress import Display, make_display


class ProgressBar(Callback):
    """Shows a bar, the time left and the metrics, then a line for each epoch.

    ``fit``, ``evaluate`` and ``predict`` add it themselves, with their ``verbose``. Validation
    within ``fit`` shows in the epoch's line.
    """

    def __init__(self) -> None:
        super().__init__()
        self._display: Display | None = None
        self._fitting = False

    def set_params(self, params: Mapping[str, Any]) -> None:
        super().set_params(params)
        self._display = make_display(self.params.get("verbose", "auto"))

    def _start(self, title: str = "") -> None:
        if self._display is not None:
            self._display.start(title, self.params.get("steps"))

    def _finish(self, logs: Logs | None) -> None:
        if self._display is not None:
            self._display.finish(logs)

    def clear(self, epoch: int, logs: Logs | None = None) -> None:
        """Take the bar away before other callbacks speak at the end of an epoch."""
        if self._display is not None:
            self._display.clear()

    def on_train_begin(self, logs: Logs | None = None) -> None:
        self._fitting = True

    def on_train_end(self, logs: Logs | None = None) -> None:
        self._fitting = False

    def on_epoch_begin(self, epoch: int, logs: Logs | None = None) -> None:
        epochs = self.params.get("epochs") or 1
        title = f"Epoch {epoch + 1:{len(str(epochs))}d}/{epochs}" if epochs > 1 else ""
        self._start(title)

    def on_epoch_end(self, epoch: int, logs: Logs | None = None) -> None:
        self._finish(logs)

    def on_train_batch_end(self, batch: int, logs: Logs | None = None) -> None:
        if self._display is not None:
            self._display.update(batch + 1, logs)

    def on_test_begin(self, logs: Logs | None = None) -> None:
        if not self._fitting:
            self._start()

    def on_test_batch_end(self, batch: int, logs: Logs | None = None) -> None:
        if not self._fitting and self._display is not None:
            self._display.update(batch + 1, logs)

    def on_test_end(self, logs: Logs | None = None) -> None:
        if not self._fitting:
            self._finish(logs)

    def on_predict_begin(self, logs: Logs | None = None) -> None:
        self._start()

    def on_predict_batch_end(self, batch: int, logs: Logs | None = None) -> None:
        if self._display is not None:
            self._display.update(batch + 1)  # a batch's predictions are nothing to show

    def on_predict_end(self, logs: Logs | None = None) -> None:
        self._finish(None)
