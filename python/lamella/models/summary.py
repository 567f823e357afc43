"""The table that `model.summary()` prints."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from lamella.models.trainer import Trainer

if TYPE_CHECKING:
    from lamella.layers.base import Layer, Weight
    from lamella.models.functional import Model

_MIN_COLUMN = 6


def print_summary(
    model: Model,
    line_length: int | None = None,
    print_fn: Callable[[str], Any] | None = None,
    expand_nested: bool = False,
    show_trainable: bool = False,
) -> None:
    """Print a model's layers, output shapes and parameters; see `Model.summary`.

    Raises
    ------
    ValueError
        `line_length` leaves no room for the columns.
    """
    is_row = not model.built or model.graph.is_chain()
    header = ["Layer (type)", "Output Shape", "Param #"]
    shares = [0.45, 0.35, 0.20] if is_row else [0.30, 0.26, 0.16, 0.28]
    if not is_row:
        header.append("Connected to")
    if show_trainable:
        header.append("Trainable")
        shares = [share * 0.88 for share in shares] + [0.12]
    if line_length is None:
        wanted = (88 if is_row else 108) + (12 if show_trainable else 0)
        line_length = min(wanted, max(60, shutil.get_terminal_size((120, 24)).columns - 4))
    # Of each column 3 characters are its border and the spaces beside the text.
    widths = [int(share * (line_length - 1)) - 3 for share in shares]
    widths[0] += line_length - 1 - sum(widths) - 3 * len(widths)
    if min(widths) < _MIN_COLUMN:
        raise ValueError(
            f"summary: line_length={line_length} is too short for {len(header)} columns"
        )
    rows = []
    for layer, depth in _layers(model, expand_nested):
        row = [_title(layer, depth), _shape(layer, model), _parameters(layer)]
        if not is_row:
            row.append(_connections(layer, model) if depth == 0 else "-")
        if show_trainable:
            row.append(("Y" if layer.trainable else "N") if layer.weights else "-")
        rows.append(row)
    lines = [f'Model: "{model.name}"', *_table(header, rows, widths), *_totals(model)]
    (print if print_fn is None else print_fn)("\n".join(lines))


def _layers(model: Model, expand_nested: bool, depth: int = 0) -> list[tuple[Layer, int]]:
    found: list[tuple[Layer, int]] = []
    for layer in model.layers:
        found.append((layer, depth))
        if expand_nested and isinstance(layer, Trainer):
            found += _layers(layer, True, depth + 1)  # type: ignore[arg-type]
    return found


def _title(layer: Layer, depth: int) -> str:
    lead = "   " * depth + "\u2514 " if depth else ""
    return f"{lead}{layer.name} ({type(layer).__name__})"


def _shape(layer: Layer, model: Model) -> str:
    own = {id(node) for node in model._calls} if model.built else set()
    calls = [node for node in layer.nodes if id(node) in own] or layer.nodes
    if not calls:
        return "?"
    shapes = [str(tensor.shape) for tensor in calls[0].outputs]
    return shapes[0] if len(shapes) == 1 else f"[{', '.join(shapes)}]"


def _parameters(layer: Layer) -> str:
    return f"{layer.count_params():,}" if layer.built else "0 (unbuilt)"


def _connections(layer: Layer, model: Model) -> str:
    sources = [
        f"{tensor.node.layer.name}[{_number(tensor.node)}][{tensor.index}]"
        for node in model._calls
        if node.layer is layer
        for tensor in node.inputs
    ]
    return ", ".join(sources) or "-"


def _number(node: Any) -> int:
    return node.layer.nodes.index(node)


def _table(
    header: Sequence[str], rows: Sequence[Sequence[str]], widths: Sequence[int]
) -> list[str]:
    def rule(left: str, line: str, middle: str, right: str) -> str:
        return left + middle.join(line * (width + 2) for width in widths) + right

    def cells(row: Sequence[str], bar: str) -> list[str]:
        wrapped = [_wrap(text, width) for text, width in zip(row, widths, strict=True)]
        height = max(len(part) for part in wrapped)
        lines = []
        for number in range(height):
            texts = [part[number] if number < len(part) else "" for part in wrapped]
            padded = [
                text.rjust(width) if column == 2 else text.ljust(width)
                for column, (text, width) in enumerate(zip(texts, widths, strict=True))
            ]
            lines.append(f"{bar} " + f" {bar} ".join(padded) + f" {bar}")
        return lines

    lines = [rule("\u250f", "\u2501", "\u2533", "\u2513"), *cells(header, "\u2503")]
    lines.append(rule("\u2521", "\u2501", "\u2547", "\u2529"))
    for number, row in enumerate(rows):
        if number:
            lines.append(rule("\u251c", "\u2500", "\u253c", "\u2524"))
        lines += cells(row, "\u2502")
    lines.append(rule("\u2514", "\u2500", "\u2534", "\u2518"))
    return lines


def _wrap(text: str, width: int) -> list[str]:
    """Break at spaces where there are any, else anywhere."""
    lines = []
    while len(text) > width:
        end = text.rfind(" ", 1, width + 1)
        # Not within the spaces that a nested layer's title begins with.
        end = end if end > 0 and text[:end].strip() else width
        lines.append(text[:end].rstrip())
        text = text[end:].lstrip()
    return [*lines, text]


def _totals(model: Model) -> list[str]:
    trained = _size(model.trainable_weights)
    fixed = _size(model.non_trainable_weights)
    state = 0
    if model.optimizer is not None:
        arrays = model.optimizer.variables().values()
        state = sum(array.size for array in arrays if array.dtype == np.float32)
    lines = [
        f" Total params: {_count(trained + fixed + state)}",
        f" Trainable params: {_count(trained)}",
        f" Non-trainable params: {_count(fixed)}",
    ]
    if state:
        lines.append(f" Optimizer params: {_count(state)}")
    return lines


def _size(weights: Sequence[Weight]) -> int:
    return sum(weight.size for weight in weights)


def _count(number: int) -> str:
    return f"{number:,} ({_memory(4 * number)})"


def _memory(count: float) -> str:
    for unit in ("B", "KB", "MB", "GB"):
        if count < 1024:
            return f"{count:.2f} {unit}"
        count /= 1024
    return f"{count:.2f} TB"
