"""Checking, converting and batching what users pass as x, y and sample_weight.

Data is converted once, at this boundary: floats and integers to the dtype of the model's input,
integer labels kept as integers. Everything behind it sees C-contiguous arrays of the right shape.
"""

from __future__ import annotations

import operator
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from lamella import random
from lamella.layers.embedding import as_indices
from lamella.layers.graph import SymbolicTensor
from lamella.losses import (
    BinaryCrossentropy,
    CategoricalCrossentropy,
    Huber,
    Loss,
    MeanAbsoluteError,
    MeanSquaredError,
    SparseCategoricalCrossentropy,
)
from lamella.losses.base import fit_weights

_FLOAT32 = np.dtype(np.float32)
_INT32, _INT64 = np.dtype(np.int32), np.dtype(np.int64)
# Dtypes that need no conversion, by an input's dtype.
_READY_DTYPES = {
    "int32": (_INT32,),
    "int64": (_INT64,),
    "indices": (_INT32, _INT64),
    "bool": (np.dtype(np.bool_),),
}
# Their targets are floats in the shape of the prediction, up to a last axis of size 1.
_ELEMENTWISE_LOSSES = (
    BinaryCrossentropy,
    CategoricalCrossentropy,
    Huber,
    MeanAbsoluteError,
    MeanSquaredError,
)


class Batch(NamedTuple):
    """Arrays of `size` samples: one a model input, one a model output, one weight an output."""

    size: int
    inputs: list[np.ndarray]
    targets: list[np.ndarray | None]
    weights: list[np.ndarray | None]

    def map(self, function: Callable[[np.ndarray], np.ndarray], size: int) -> Batch:
        """Return the batch with `function` applied to every array."""
        return Batch(
            size,
            [function(array) for array in self.inputs],
            [None if array is None else function(array) for array in self.targets],
            [None if array is None else function(array) for array in self.weights],
        )


# -- one array for each input or output -----------------------------------------------------------


def is_stream(x: Any) -> bool:
    """Return whether `x` yields batches rather than being data itself."""
    if isinstance(x, (list, tuple, Mapping, str, bytes)) or hasattr(x, "__array__"):
        return False
    return hasattr(x, "__iter__")


def as_list(value: Any, names: Sequence[str], where: str) -> list[Any]:
    """Return one entry for each of `names` from an array, a list or a dict of them."""
    if isinstance(value, Mapping):
        missing = [name for name in names if name not in value]
        unknown = [key for key in value if key not in names]
        if missing or unknown:
            raise ValueError(f"{where} expects the keys {list(names)}, received {list(value)}")
        return [value[name] for name in names]
    if len(names) == 1:
        is_wrapped = isinstance(value, (list, tuple)) and len(value) == 1
        # [array] is a list of one input; [[1.0, 2.0]] is a sample written as lists.
        return [value[0] if is_wrapped and hasattr(value[0], "__array__") else value]
    if not isinstance(value, (list, tuple)) or len(value) != len(names):
        received = f"{len(value)}" if isinstance(value, (list, tuple)) else type(value).__name__
        raise ValueError(
            f"{where} expects a list or dict of {len(names)} arrays ({', '.join(names)}), "
            f"received {received}"
        )
    return list(value)


def as_inputs(
    x: Any,
    tensors: Sequence[SymbolicTensor],
    dtypes: Sequence[str],
    names: Sequence[str],
    owner: str,
) -> list[np.ndarray]:
    """Return `x` as one array for each model input, of its dtype and of a shape it takes.

    A dtype is "float32", "int32", "int64", "bool", for which 0 is False and all else True, or
    "indices": int32 or int64 as it comes, other integers and whole floats converted.

    Raises
    ------
    TypeError
        An array does not hold numbers, or floats where the input takes integers.
    ValueError
        A shape or the number of arrays does not fit, or they differ in their number of samples.
    """
    # The case that predict_on_batch must not pay for: nothing to convert.
    if len(tensors) == 1 and type(x) is np.ndarray:
        tensor, dtype = tensors[0], dtypes[0]
        if (
            (x.dtype is _FLOAT32 if dtype == "float32" else x.dtype in _READY_DTYPES[dtype])
            and x.shape[1:] == tensor.shape[1:]
            and x.flags.c_contiguous
        ):
            return [x]
    if x is None:
        raise ValueError(f"{owner}: x is missing")
    values = as_list(x, names, f"{owner}: x")
    places = [f"{owner}: x"] if len(names) == 1 else [f"{owner}: x[{name!r}]" for name in names]
    arrays = [
        _as_input(value, tensor, dtype, where)
        for value, tensor, dtype, where in zip(values, tensors, dtypes, places, strict=True)
    ]
    counts = {len(array) for array in arrays}
    if len(counts) > 1:
        shapes = ", ".join(str(array.shape) for array in arrays)
        raise ValueError(f"{owner}: the arrays of x differ in their number of samples: {shapes}")
    return arrays


def _as_input(value: Any, tensor: SymbolicTensor, dtype: str, where: str) -> np.ndarray:
    array = as_numbers(value, where)
    expected = tensor.shape
    received = array.shape
    if array.ndim == len(expected) - 1 and expected[-1] == 1:
        array = array[..., np.newaxis]  # as Keras: (N, 28, 28) is taken for (N, 28, 28, 1)
    elif array.ndim == len(expected) + 1 and array.shape[-1] == 1:
        array = array[..., 0]
    # A batch size that an Input fixes is for layers with states, which see to it; as in Keras it is
    # not that of the data, which fit and predict cut into batches.
    if array.ndim != len(expected) or any(
        known is not None and size != known
        for size, known in zip(array.shape[1:], expected[1:], strict=True)
    ):
        raise ValueError(f"{where} expects shape {expected}, received {received}")
    if dtype == "indices":
        return np.ascontiguousarray(as_indices(array, f"{where} "))
    target = np.dtype(dtype)
    if target.kind == "i":
        return _as_integers(array, target, where)
    return np.ascontiguousarray(array, dtype=target)


def as_numbers(value: Any, where: str) -> np.ndarray:
    """Return `value` as an array of real numbers."""
    try:
        array = np.asarray(value)
    except ValueError as error:
        raise ValueError(f"{where} is not an array: {error}") from None
    if array.dtype.kind not in "fiub":
        raise TypeError(f"{where} expects real numbers, received dtype {array.dtype}")
    return array


def _as_integers(array: np.ndarray, target: np.dtype, where: str) -> np.ndarray:
    if array.dtype.kind == "f":
        raise TypeError(f"{where} expects integers ({target}), received dtype {array.dtype}")
    if not np.can_cast(array.dtype, target) and array.size:
        limits = np.iinfo(target)
        if array.min() < limits.min or array.max() > limits.max:
            raise ValueError(f"{where}: values do not fit {target}")
    return np.ascontiguousarray(array, dtype=target)


def check_indices(
    arrays: Sequence[np.ndarray], limits: Sequence[int | None], names: Sequence[str], owner: str
) -> None:
    """Check indices as a whole, so that training does not stop on its way.

    Raises
    ------
    IndexError
        An index is outside [0, limit) of its input.
    """
    for array, limit, name in zip(arrays, limits, names, strict=True):
        if limit is None or not array.size or (array.min() >= 0 and array.max() < limit):
            continue
        where = f"{owner}: x" if len(names) == 1 else f"{owner}: x[{name!r}]"
        raise IndexError(
            f"{where} expects indices in [0, {limit}), received values from {array.min()} to "
            f"{array.max()}"
        )


def as_targets(
    y: Any,
    losses: Sequence[Loss | None],
    shapes: Sequence[tuple[int | None, ...]],
    names: Sequence[str],
    count: int,
    owner: str,
) -> list[np.ndarray | None]:
    """Return `y` as one array for each model output, checked against its loss.

    Parameters
    ----------
    y : array_like, or list or dict of them, or None
        An output without a loss may be None.
    losses : sequence of Loss or None
    shapes : sequence of tuple
        The outputs' shapes.
    names : sequence of str
    count : int
        The number of samples in x.
    owner : str
        What messages begin with.

    Raises
    ------
    ValueError
        A shape does not fit, or targets are missing.
    IndexError
        A class number is outside the classes there are.
    """
    if y is None:
        values: list[Any] = [None] * len(names)
    elif isinstance(y, Mapping):
        values = as_list({**dict.fromkeys(names), **y}, names, f"{owner}: y")
    else:
        values = as_list(y, names, f"{owner}: y")
    targets: list[np.ndarray | None] = []
    for value, loss, shape, name in zip(values, losses, shapes, names, strict=True):
        where = f"{owner}: y" if len(names) == 1 else f"{owner}: y[{name!r}]"
        if value is None:
            if loss is not None:
                raise ValueError(f"{where} is missing: loss {loss.name!r} needs it")
            targets.append(None)
            continue
        array = as_numbers(value, where)
        if array.ndim == 0 or len(array) != count:
            raise ValueError(
                f"{where} expects {count} samples as x has, received shape {array.shape}"
            )
        targets.append(_as_target(array, loss, (count, *shape[1:]), where))
    return targets


def _as_target(
    array: np.ndarray, loss: Loss | None, shape: tuple[int | None, ...], where: str
) -> np.ndarray:
    if isinstance(loss, SparseCategoricalCrossentropy):
        return _as_labels(array, loss, shape, where)
    if isinstance(loss, _ELEMENTWISE_LOSSES):
        fits = any(_fits(array.shape, form) for form in _forms(shape))
        if not fits:
            hint = ""
            if isinstance(loss, CategoricalCrossentropy) and _fits(array.shape, shape[:-1]):
                hint = "; for class numbers use sparse_categorical_crossentropy"
            raise ValueError(
                f"{where} expects the shape of the prediction, {shape}, "
                f"received {array.shape}{hint}"
            )
        return np.ascontiguousarray(array, dtype=_FLOAT32)
    # A loss of the user's own takes integers as they are.
    return np.ascontiguousarray(array, dtype=_FLOAT32 if array.dtype.kind == "f" else None)


def _forms(shape: tuple[int | None, ...]) -> list[tuple[int | None, ...]]:
    """The shape itself, without a last axis of 1, and with one."""
    return [shape, (*shape, 1)] + ([shape[:-1]] if shape[-1] in (1, None) else [])


def _fits(shape: tuple[int, ...], expected: tuple[int | None, ...]) -> bool:
    return len(shape) == len(expected) and all(
        known in (None, size) for size, known in zip(shape, expected, strict=True)
    )


def _as_labels(
    array: np.ndarray,
    loss: SparseCategoricalCrossentropy,
    shape: tuple[int | None, ...],
    where: str,
) -> np.ndarray:
    rows, classes = shape[:-1], shape[-1]
    if not _fits(array.shape, rows) and not _fits(array.shape, (*rows, 1)):
        hint = ""
        if _fits(array.shape, shape):
            hint = "; for one-hot targets use categorical_crossentropy, or argmax them"
        raise ValueError(
            f"{where} expects class numbers of shape {rows} for predictions of shape {shape}, "
            f"received {array.shape}{hint}"
        )
    if array.dtype.kind == "f":
        whole = np.trunc(array) == array
        if not whole.all():
            raise ValueError(f"{where} expects class numbers, received {array[~whole].flat[0]!r}")
    if array.size and classes is not None:
        counted = array if loss.ignore_class is None else array[array != loss.ignore_class]
        if counted.size and not (counted.min() >= 0 and counted.max() < classes):
            raise IndexError(
                f"{where} expects class numbers in [0, {classes}), received values from "
                f"{counted.min()} to {counted.max()}"
            )
    kept = array.dtype in (np.int32, np.int64)
    return np.ascontiguousarray(array, dtype=None if kept else np.int64)


def as_weights(
    sample_weight: Any,
    targets: Sequence[np.ndarray | None],
    shapes: Sequence[tuple[int | None, ...]],
    names: Sequence[str],
    count: int,
    owner: str,
) -> list[np.ndarray | None]:
    """Return sample weights as one float32 array for each output; one array serves them all."""
    if sample_weight is None:
        return [None] * len(names)
    where = f"{owner}: sample_weight"
    if hasattr(sample_weight, "__array__"):
        values = [sample_weight] * len(names)
    elif isinstance(sample_weight, Mapping):
        values = as_list({**dict.fromkeys(names), **sample_weight}, names, where)
    else:
        values = as_list(sample_weight, names, where)
    weights: list[np.ndarray | None] = []
    for value, target, shape in zip(values, targets, shapes, strict=True):
        if value is None or target is None:
            weights.append(None)
            continue
        array = np.ascontiguousarray(as_numbers(value, where), dtype=_FLOAT32)
        if array.ndim == 0 or len(array) != count:
            raise ValueError(
                f"{where} expects {count} samples as x has, received shape {array.shape}"
            )
        if None not in shape[1:]:
            fit_weights(where, array, (count, *shape[1:-1]))  # type: ignore[arg-type]
        weights.append(array)
    return weights


def class_weights(class_weight: Mapping[Any, float], target: np.ndarray, owner: str) -> np.ndarray:
    """Return one weight a sample: that of its class, 1 for classes not mentioned.

    Parameters
    ----------
    class_weight : mapping of int to float
    target : array (N,), (N, 1) or one-hot (N, classes)
    """
    if not isinstance(class_weight, Mapping):
        raise ValueError(
            f"{owner}: class_weight expects a dict of class number to weight, "
            f"received {type(class_weight).__name__}"
        )
    labels = target
    if labels.ndim > 1:
        labels = labels[..., 0] if labels.shape[-1] == 1 else labels.argmax(axis=-1)
    if labels.ndim > 1:
        raise ValueError(f"{owner}: class_weight expects one class a sample, y has more")
    labels = np.rint(labels).astype(np.int64)
    weights = np.ones(len(labels), np.float32)
    for number, weight in class_weight.items():
        weights[labels == number] = weight
    return weights


# -- batches --------------------------------------------------------------------------------------


class ArrayData:
    """Batches of arrays that are all there.

    Parameters
    ----------
    data : Batch
        All samples.
    batch_size : int
    shuffle : bool
        Draw a new order for every pass.
    steps_per_epoch : int, optional
        End an epoch after so many batches; the next one goes on from there.
    repeat : bool
        Begin again within an epoch of more batches than there are, rather than end it.
    """

    def __init__(
        self,
        data: Batch,
        batch_size: int,
        shuffle: bool,
        steps_per_epoch: int | None = None,
        repeat: bool = False,
    ) -> None:
        self._data = data
        self._batch_size = min(batch_size, max(1, data.size))
        self._shuffle = shuffle
        self._limit = steps_per_epoch
        self._buffers: Batch | None = None
        self._passing: Iterator[Batch] | None = None
        batches = max(1, -(-data.size // self._batch_size))
        if steps_per_epoch is None:
            self.steps: int | None = batches
        else:
            self.steps = steps_per_epoch if repeat else min(steps_per_epoch, batches)
            self._limit = self.steps
        self.exhausted = False
        # Samples of an epoch, where that is at most one pass.
        self.count = min(data.size, self.steps * self._batch_size)

    def restart(self) -> None:
        """Begin the next epoch with the first batch."""
        self._passing = None

    def epoch(self) -> Iterator[Batch]:
        """Yield the batches of one epoch; with shuffling their arrays are reused by the next."""
        if self._limit is None:
            yield from self._one_pass()
            return
        for _ in range(self._limit):
            batch = None if self._passing is None else next(self._passing, None)
            if batch is None:
                self._passing = self._one_pass()
                batch = next(self._passing)
            yield batch

    def _one_pass(self) -> Iterator[Batch]:
        count, size = self._data.size, self._batch_size
        if count <= size and not self._shuffle:
            yield self._data  # no samples at all are a batch too
            return
        if not self._shuffle:
            for start in range(0, count, size):
                rows = slice(start, min(start + size, count))
                yield self._data.map(operator.itemgetter(rows), rows.stop - start)
            return
        if self._buffers is None:
            self._buffers = self._data.map(lambda a: np.empty((size, *a.shape[1:]), a.dtype), size)
        order = random.generator().permutation(count)
        for start in range(0, count, size):
            yield self._gather(order[start : start + size])

    def _gather(self, rows: np.ndarray) -> Batch:
        data, buffers = self._data, self._buffers
        assert buffers is not None
        return Batch(
            len(rows),
            [_take(a, rows, out) for a, out in zip(data.inputs, buffers.inputs, strict=True)],
            [_take(a, rows, out) for a, out in zip(data.targets, buffers.targets, strict=True)],
            [_take(a, rows, out) for a, out in zip(data.weights, buffers.weights, strict=True)],
        )


def _take(array: Any, rows: np.ndarray, out: Any) -> Any:
    if array is None:
        return None
    # mode="clip" writes straight into `out`; the rows are in range.
    return np.take(array, rows, axis=0, out=out[: len(rows)], mode="clip")


class StreamData:
    """Batches that a generator or another iterable yields as x, (x,), (x, y) or (x, y, weight).

    Parameters
    ----------
    source : iterable
    prepare : callable
        ``prepare(x, y, sample_weight)`` returns the checked `Batch`.
    steps_per_epoch : int, optional
        End an epoch after so many batches; needed if `source` never ends.
    """

    def __init__(
        self,
        source: Iterable[Any],
        prepare: Callable[[Any, Any, Any], Batch],
        steps_per_epoch: int | None = None,
    ) -> None:
        self._source = source
        self._prepare = prepare
        self._limit = steps_per_epoch
        self._iterator: Iterator[Any] | None = None
        self.steps = steps_per_epoch
        self.exhausted = False

    def restart(self) -> None:
        """Begin the next epoch anew, where the source can: a generator goes on."""
        self._iterator = None

    def epoch(self) -> Iterator[Batch]:
        """Yield the batches of one epoch, checked one by one."""
        if self._iterator is None or self._limit is None:
            self._iterator = iter(self._source)
        number = 0
        while self._limit is None or number < self._limit:
            try:
                item = next(self._iterator)
            except StopIteration:
                break
            x, y, weight = _unpack(item)
            yield self._prepare(x, y, weight)
            number += 1
        if self._limit is None and number:
            self.steps = number
            return
        if self._limit is not None and number == self._limit:
            return
        self.exhausted = True
        wanted = "at least one batch" if self._limit is None else f"{self._limit} batches"
        warnings.warn(
            f"the data ended after {number} batches of this epoch, which expected {wanted}; "
            "training or evaluation stops here",
            stacklevel=3,
        )


def _unpack(item: Any) -> tuple[Any, Any, Any]:
    if not isinstance(item, (tuple, list)):
        return item, None, None
    if not 1 <= len(item) <= 3:
        raise ValueError(
            f"a batch is x, (x,), (x, y) or (x, y, sample_weight), received {len(item)} entries"
        )
    x, y, weight = (*item, None, None)[:3]
    return x, y, weight
