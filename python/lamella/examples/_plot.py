"""Draws how a training went. Needs matplotlib: ``pip install 'lamella[plot]'``."""

from __future__ import annotations

from importlib.util import find_spec
from typing import Any


def check_plotting() -> None:
    """Leave the program with a message if matplotlib is missing, before hours of training."""
    if find_spec("matplotlib") is None:
        raise SystemExit("--plot needs matplotlib, install it with: pip install 'lamella[plot]'")


def plot_history(history: dict[str, list[Any]], test_accuracy: float, path: str) -> None:
    """Draw loss and accuracy by epoch into a file; its ending chooses the format.

    Parameters
    ----------
    history : dict
        ``"loss"`` and ``"accuracy"``, one value an epoch.
    test_accuracy : float
        Drawn as a dashed line.
    path : str
        Such as ``"training.png"``.
    """
    from matplotlib.figure import Figure

    epochs = range(1, len(history["loss"]) + 1)
    figure = Figure(figsize=(9, 3.5), layout="constrained")
    loss, accuracy = figure.subplots(1, 2)
    loss.plot(epochs, history["loss"], marker=".")
    loss.set(xlabel="epoch", ylabel="loss", title="training loss", yscale="log")
    accuracy.plot(epochs, history["accuracy"], marker=".", label="training")
    accuracy.axhline(test_accuracy, color="tab:orange", linestyle="--", label="test, at the end")
    accuracy.set(xlabel="epoch", ylabel="accuracy", title="accuracy")
    accuracy.legend(loc="lower right")
    figure.savefig(path, dpi=120)
