"""What training shows while it runs: a bar on a terminal or in a notebook, lines elsewhere.

Every epoch ends in one line like ``Epoch 3/10 - 45/45 - 0s 3ms/step - accuracy: 0.9 - loss: 0.3``.
A bar is drawn at most ten times a second, so it costs nothing per batch.
"""

from __future__ import annotations

import os
import shutil
import sys
import time
from collections.abc import Mapping
from typing import Any, TextIO

# Seconds between two drawings of the bar: faster than an eye reads numbers is wasted work.
REDRAW_SECONDS = 0.1


def format_value(value: Any) -> str:
    """Return a number as logs show it: four decimals, or a power of ten where those show none.

    Examples
    --------
    >>> format_value(0.91234), format_value(0.00001234), format_value(0.0)
    ('0.9123', '1.2340e-05', '0.0000')
    """
    try:
        number = float(value)
    except (TypeError, ValueError):
        return str(value)
    return f"{number:.4f}" if number == 0 or abs(number) > 1e-3 else f"{number:.4e}"


def format_duration(seconds: float) -> str:
    """Return a duration as ``7s``, ``2:05`` (minutes) or ``1:02:05`` (hours).

    Examples
    --------
    >>> format_duration(7.2), format_duration(125), format_duration(3725)
    ('7s', '2:05', '1:02:05')
    """
    whole = round(seconds)
    if whole < 60:
        return f"{whole}s"
    minutes, second = divmod(whole, 60)
    hour, minute = divmod(minutes, 60)
    return f"{hour}:{minute:02d}:{second:02d}" if hour else f"{minute}:{second:02d}"


def format_step_time(seconds: float) -> str:
    """Return the time of a step in the unit that suits it.

    Examples
    --------
    >>> format_step_time(0.0032), format_step_time(0.00004), format_step_time(2)
    ('3ms/step', '40us/step', '2s/step')
    """
    if seconds >= 1:
        return f"{seconds:.0f}s/step"
    return f"{seconds * 1e3:.0f}ms/step" if seconds >= 1e-3 else f"{seconds * 1e6:.0f}us/step"


def format_logs(logs: Mapping[str, Any] | None) -> str:
    """Return logs as `` - accuracy: 0.9000 - loss: 0.3000``, by name; empty for none."""
    return "".join(f" - {name}: {format_value((logs or {})[name])}" for name in sorted(logs or {}))


class Display:
    """Shows the stages of a run (an epoch, an evaluation): this one, only their last lines.

    Parameters
    ----------
    stream : text file
        Where to write.

    Examples
    --------
    >>> display = Display(sys.stdout)
    >>> display.start("Epoch 1/2", steps=45)
    >>> display.update(45, {"loss": 0.3})
    >>> display.finish({"loss": 0.3})  # doctest: +ELLIPSIS
    Epoch 1/2 - 45/45 - 0s ...us/step - loss: 0.3000
    """

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream
        self._title = ""
        self._steps: int | None = None
        self._done = 0
        self._began = self._stepped = 0.0

    def start(self, title: str, steps: int | None) -> None:
        """Begin a stage of ``steps`` steps, or of an unknown number of them."""
        self._title, self._steps, self._done = title, steps, 0
        self._began = self._stepped = time.perf_counter()

    def update(self, done: int, logs: Mapping[str, Any] | None = None) -> None:
        """Take note that ``done`` steps are done, and of the values so far."""
        self._done = done
        self._stepped = time.perf_counter()

    def clear(self) -> None:
        """Leave the line to others, who may print now."""

    def finish(self, logs: Mapping[str, Any] | None = None) -> None:
        """End the stage: write its line."""
        self.clear()
        elapsed = time.perf_counter() - self._began
        # Steps are timed up to the last one: validation, which follows, is not theirs.
        step = (self._stepped - self._began) / max(1, self._done)
        title = f"{self._title} - " if self._title else ""
        total = self._done if self._steps is None else self._steps
        self.write(
            f"{title}{self._done}/{total} - {format_duration(elapsed)} {format_step_time(step)}"
            f"{format_logs(logs)}"
        )

    def write(self, line: str) -> None:
        """Write a line at once, so that a log being followed shows it."""
        self._stream.write(line + "\n")
        self._stream.flush()


class BarDisplay(Display):
    """Draws a bar with the values and the time left while a stage runs, then its line.

    Parameters
    ----------
    stream : text file
        Where to write.
    bar : class
        ``tqdm.std.tqdm`` or ``tqdm.notebook.tqdm``.
    width : int, optional
        Of the bar itself, in characters; without one the bar is a notebook's own.
    """

    def __init__(self, stream: TextIO, bar: type, width: int | None = None) -> None:
        super().__init__(stream)
        place = "{bar}" if width is None else f"{{bar:{width}}}"
        self._share = "{n_fmt}/{total_fmt} |" + place + "| {remaining} left"
        # Without tqdm's monitor, a thread that would outlive the bar.
        self._make_bar = type("Bar", (bar,), {"monitor_interval": 0})
        self._bar: Any = None
        self._redraw_at = 0.0

    def start(self, title: str, steps: int | None) -> None:
        self.clear()
        super().start(title, steps)
        self._bar = self._make_bar(
            total=steps,
            desc=title or None,
            file=self._stream,
            leave=False,
            dynamic_ncols=True,
            bar_format=("{desc} - " if title else "")
            + (self._share if steps else "{n_fmt} steps, {elapsed}")
            + "{postfix}",
            # Drawn when told to: tqdm's own clock would be a second one.
            mininterval=0,
            miniters=None,
        )
        self._redraw_at = self._began + REDRAW_SECONDS

    def update(self, done: int, logs: Mapping[str, Any] | None = None) -> None:
        self._done = done
        self._stepped = now = time.perf_counter()
        if now < self._redraw_at or self._bar is None:
            return
        self._redraw_at = now + REDRAW_SECONDS
        bar = self._bar
        # Through the attribute, because tqdm's setter sorts and formats in its own way.
        bar.postfix = format_logs(logs).removeprefix(" - ")
        bar.update(done - bar.n)

    def clear(self) -> None:
        if self._bar is not None:
            self._bar.close()
            self._bar = None


def make_display(verbose: Any) -> Display | None:
    """Choose the display for ``verbose`` and for where the output goes.

    Parameters
    ----------
    verbose : {"auto", 0, 1, 2}
        0 is silent (None is returned), 2 one line an epoch; 1 and ``"auto"`` draw a bar on a
        terminal, and in a notebook that has ipywidgets, and are as 2 elsewhere.

    Raises
    ------
    ValueError
        If it is none of these.
    """
    if verbose not in ("auto", 0, 1, 2):
        raise ValueError(f"verbose expects 0, 1, 2 or 'auto', got {verbose!r}")
    stream = sys.stdout
    if verbose == 0 or stream is None:
        return None
    if verbose == 2:
        return Display(stream)
    if _in_notebook():
        if _has_widgets():
            from tqdm.notebook import tqdm as notebook_tqdm  # type: ignore[import-untyped]

            return BarDisplay(stream, notebook_tqdm)
    elif stream.isatty() and os.environ.get("TERM") != "dumb":
        from tqdm.std import tqdm as terminal_tqdm  # type: ignore[import-untyped]

        width = 24 if shutil.get_terminal_size().columns >= 100 else 10
        return BarDisplay(stream, terminal_tqdm, width)
    return Display(stream)


def _in_notebook() -> bool:
    """Return whether this process is a notebook's kernel, without importing IPython."""
    ipython = sys.modules.get("IPython")
    shell = ipython.get_ipython() if ipython is not None else None
    return type(shell).__name__ in ("ZMQInteractiveShell", "Shell")  # Jupyter, Colab


def _has_widgets() -> bool:
    from importlib.util import find_spec

    return find_spec("ipywidgets") is not None
