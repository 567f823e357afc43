"""Saving models: one .safetensors file of weights, optimizer state and configuration.

Tensors are named by the model's structure, not by the layers' names, so that a second model made
by the same code can take the weights::

    layers/<layer class>[_<number>]/<weight>     and for a model within the model
    layers/<model class>[_<number>]/<layer class>.../<weight>
    optimizer/<variable>                         flat, in the layout of `FlatBuffer`

Metadata: "format" and "format_version"; "config", JSON of the model and of `compile`; "sha256" of
the tensors' bytes in file order. Reading builds only classes of lamella's registry or of the
caller's `custom_objects`; nothing is imported, evaluated or unpickled.
"""

from __future__ import annotations

import json
import math
import os
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from lamella import registry
from lamella.arrays import to_numpy
from lamella.errors import ModelFileError
from lamella.layers.base import Layer, Weight
from lamella.layers.graph import InputLayer
from lamella.layers.naming import snake_case
from lamella.models.flat_buffer import flat_size
from lamella.models.model_file import ModelFile, parse_json, read_model_file, write_model_file
from lamella.models.topology import on_layer_made
from lamella.models.trainer import Trainer

if TYPE_CHECKING:
    from lamella.models.functional import Model

FORMAT = "lamella"
FORMAT_VERSION = "1"
_LAYERS = "layers/"
_OPTIMIZER = "optimizer/"
_FOREIGN_ENDINGS = (".keras", ".h5", ".hdf5")

Path = str | os.PathLike[str]


class Saved:
    """The part of `lamella.models.Model` that writes and reads files."""

    if TYPE_CHECKING:
        built: bool
        compiled: bool
        optimizer: Any
        get_compile_config: Callable[[], dict[str, Any]]

        @property
        def label(self) -> str: ...

    def save(self, path: Path, overwrite: bool = True, include_optimizer: bool = True) -> None:
        """Write the model to one file, which `lamella.models.load_model` reads.

        The file appears at once, complete, or not at all. A symbolic link at `path` is replaced,
        not followed.

        Parameters
        ----------
        path : str or path
            Ends in ".safetensors".
        overwrite : bool
            False: raise if there is such a file.
        include_optimizer : bool
            Keep the optimizer's state, so that training can go on as if never interrupted. How the
            model was compiled is kept in any case.

        Raises
        ------
        ValueError
            The path has another ending, or the model is not built.
        TypeError
            A layer, loss or metric has no configuration that JSON can hold.
        FileExistsError
            The file exists and `overwrite` is False.
        """
        model: Any = self
        target = _checked_path(path, writing=True)
        _require_built(model, "save")
        tensors = {name: to_numpy(weight.value) for name, weight in named_weights(model).items()}
        if include_optimizer and self.compiled:
            for name, value in self.optimizer.variables().items():
                tensors[_OPTIMIZER + name] = value
        config = registry.serialize(self)
        config["compile"] = self.get_compile_config() or None
        metadata = {**_METADATA, "config": _as_json(config, self.label)}
        write_model_file(target, tensors, metadata, overwrite)

    def save_weights(self, path: Path, overwrite: bool = True) -> None:
        """Write the weights alone, for `load_weights`; arguments and errors as those of `save`."""
        model: Any = self
        target = _checked_path(path, writing=True)
        _require_built(model, "save_weights")
        tensors = {name: to_numpy(weight.value) for name, weight in named_weights(model).items()}
        write_model_file(target, tensors, _METADATA, overwrite)

    def load_weights(self, path: Path) -> None:
        """Take the weights of a file that `save` or `save_weights` of a like model wrote.

        Raises
        ------
        FileNotFoundError
            There is no such file.
        lamella.ModelFileError
            The file is damaged or not lamella's.
        ValueError
            The file's weights are not those of this model, or it is not built. Nothing has changed
            then.
        """
        model: Any = self
        source = _checked_path(path, writing=False)
        _require_built(model, "load_weights")
        tensors = _of_layers(_read(source))
        weights = named_weights(model)
        difference = _difference(weights, tensors)
        if difference:
            raise ValueError(f"{self.label}: {source} holds other weights: {difference}")
        for name, weight in weights.items():
            weight.assign(tensors[name])


_METADATA = {"format": FORMAT, "format_version": FORMAT_VERSION}


def load_model(
    path: Path, custom_objects: Mapping[str, Any] | None = None, compile: bool = True
) -> Model:
    """Read a model that `Model.save` wrote.

    Parameters
    ----------
    path : str or path
    custom_objects : dict of str to object, optional
        Classes of the caller's own that the file names, by name: layers, losses, metrics, ...
    compile : bool
        Compile the model as it was, with the optimizer's state.

    Returns
    -------
    Model

    Raises
    ------
    FileNotFoundError
        There is no such file.
    lamella.ModelFileError
        The file is damaged, not lamella's, or names classes that neither lamella nor
        `custom_objects` has.
    ValueError
        The path has the ending of another format.

    Examples
    --------
    >>> import os, tempfile, lamella
    >>> model = lamella.Sequential([lamella.Input((4,)), lamella.layers.Dense(2)])
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     path = os.path.join(folder, "model.safetensors")
    ...     model.save(path)
    ...     copy = load_model(path)
    >>> bool((copy.get_weights()[0] == model.get_weights()[0]).all())
    True
    """
    source = _checked_path(path, writing=False)
    file = _read(source)
    config = _read_config(file, source)
    tensors = _of_layers(file)
    compile_config = config.pop("compile")
    try:
        model = _build(config, custom_objects, sum(array.size for array in tensors.values()))
        if compile and compile_config is not None:
            model.compile_from_config(compile_config, custom_objects)
    except Exception as error:
        # Whatever a hostile configuration makes a constructor raise, the file is at fault.
        raise ModelFileError(f"{source}: its configuration cannot be built: {error}") from error
    weights = named_weights(model)
    difference = _difference(weights, tensors)
    if difference:
        raise ModelFileError(f"{source}: tensors and configuration disagree: {difference}")
    if model.compiled:
        _load_optimizer(model, file, source)
    for name, weight in weights.items():
        weight.assign(tensors[name])
    return model


# -- names ----------------------------------------------------------------------------------------


def named_weights(model: Model) -> dict[str, Weight]:
    """Return a model's weights by their names in a file, each weight once."""
    named: dict[str, Weight] = {}
    _collect(model, _LAYERS, named, set())
    return named


def _collect(model: Model, prefix: str, named: dict[str, Weight], seen: set[int]) -> None:
    counts: dict[str, int] = {}
    for layer in model.layers:
        if isinstance(layer, InputLayer):
            continue
        kind = snake_case(type(layer).__name__)
        number = counts.get(kind, 0)
        counts[kind] = number + 1
        place = f"{prefix}{kind}_{number}/" if number else f"{prefix}{kind}/"
        if isinstance(layer, Trainer):
            _collect(layer, place, named, seen)  # type: ignore[arg-type]
            continue
        for weight in layer.weights:
            if id(weight) in seen:
                continue
            seen.add(id(weight))
            name, copies = place + weight.name, 0
            while name in named:
                copies += 1
                name = f"{place}{weight.name}_{copies}"
            named[name] = weight


def _of_layers(file: ModelFile) -> dict[str, np.ndarray]:
    return {name: array for name, array in file.tensors.items() if name.startswith(_LAYERS)}


def _difference(weights: Mapping[str, Weight], tensors: Mapping[str, np.ndarray]) -> str:
    """Return what keeps `tensors` from being the values of `weights`; empty if nothing does."""
    missing = [name for name in weights if name not in tensors]
    unknown = [name for name in tensors if name not in weights]
    if missing or unknown:
        parts = [f"{_some(missing)} not in the file"] if missing else []
        parts += [f"{_some(unknown)} not in the model"] if unknown else []
        return ", ".join(parts)
    for name, weight in weights.items():
        array = tensors[name]
        if array.shape != weight.shape or array.dtype != np.float32:
            return (
                f"{name} expects float32 of shape {weight.shape}, "
                f"the file has {array.dtype} of shape {array.shape}"
            )
    return ""


def _some(names: list[str]) -> str:
    more = f" and {len(names) - 3} more" if len(names) > 3 else ""
    return ", ".join(names[:3]) + more


# -- reading --------------------------------------------------------------------------------------


def _read(source: str) -> ModelFile:
    """Read a container and check that it is lamella's and unharmed."""
    file = read_model_file(source)
    if file.metadata.get("format") != FORMAT:
        raise ModelFileError(
            f"{source}: a safetensors file, but not written by lamella: "
            f"its format is {file.metadata.get('format')!r}"
        )
    if file.metadata.get("format_version") != FORMAT_VERSION:
        raise ModelFileError(
            f"{source}: format version {file.metadata.get('format_version')!r} is not known; "
            f"this lamella reads version {FORMAT_VERSION}"
        )
    if file.metadata.get("sha256") != file.digest:
        raise ModelFileError(f"{source}: the tensors do not have the SHA-256 of the metadata")
    strange = [name for name in file.tensors if not name.startswith((_LAYERS, _OPTIMIZER))]
    if strange:
        raise ModelFileError(f"{source}: tensor {strange[0]!r} belongs to no part of a model")
    return file


def _read_config(file: ModelFile, source: str) -> dict[str, Any]:
    if "config" not in file.metadata:
        raise ModelFileError(
            f"{source}: holds weights only; make the model and call its load_weights"
        )
    config = parse_json(file.metadata["config"], f"{source}: config")
    if not isinstance(config, dict) or set(config) != {"class_name", "config", "compile"}:
        raise ModelFileError(f"{source}: config expects class_name, config and compile")
    if config["compile"] is not None and not isinstance(config["compile"], dict):
        raise ModelFileError(f"{source}: config: compile is not an object")
    return config


def _build(
    config: Mapping[str, Any], custom_objects: Mapping[str, Any] | None, allowance: int
) -> Any:
    """Make the model; its layers may allocate `allowance` floats, as many as the file holds."""
    guard = _Guard(allowance)
    token = on_layer_made.set(guard.watch)
    try:
        model = registry.deserialize("layer", config, custom_objects)
    finally:
        on_layer_made.reset(token)
        guard.release()
    if not isinstance(model, Trainer):
        raise ValueError(f"it describes a layer of class {config['class_name']!r}, not a model")
    if not model.built:
        raise ValueError("it describes a model without an input shape")
    return model


class _Guard:
    """Lets layers make weights, as zeros, up to a number of floats.

    A configuration of a few bytes can ask for a kernel of terabytes; the file that it comes from
    must hold as many.
    """

    def __init__(self, allowance: int) -> None:
        self._left = allowance
        self._watched: list[Layer] = []

    def watch(self, layer: Any) -> None:
        """Count what `layer`, and layers it consists of, make from now on."""
        if isinstance(layer, (list, tuple)):
            for part in layer:
                self.watch(part)
        if not isinstance(layer, Layer) or isinstance(layer, Trainer):
            return
        if "add_weight" in vars(layer):
            return
        make = layer.add_weight

        def add_weight(
            name: Any = None, shape: Any = (), initializer: Any = None, *rest: Any, **options: Any
        ) -> Weight:
            self._left -= math.prod(shape)
            if self._left < 0:
                raise layer.error(
                    f"weight {name!r} of shape {tuple(shape)} is larger than the file has room for"
                )
            return make(name, shape, "zeros", *rest, **options)

        layer.__dict__["add_weight"] = add_weight
        self._watched.append(layer)
        for part in list(vars(layer).values()):
            self.watch(part)

    def release(self) -> None:
        """Give the layers their own method back."""
        for layer in self._watched:
            del layer.__dict__["add_weight"]


def _load_optimizer(model: Any, file: ModelFile, source: str) -> None:
    state = {
        name.removeprefix(_OPTIMIZER): array
        for name, array in file.tensors.items()
        if name.startswith(_OPTIMIZER)
    }
    if not state:
        return  # saved with include_optimizer=False
    size = flat_size(model.weights)
    for name, array in state.items():
        if name != "iterations" and array.shape != (size,):
            raise ModelFileError(
                f"{source}: optimizer state {name!r} expects shape {(size,)}, has {array.shape}"
            )
    try:
        model.optimizer.load_variables(state)
    except (ValueError, TypeError) as error:
        raise ModelFileError(f"{source}: {error}") from error


# -- writing --------------------------------------------------------------------------------------


def _as_json(config: Mapping[str, Any], owner: str) -> str:
    try:
        return json.dumps(config, allow_nan=False, default=_plain)
    except (TypeError, ValueError) as error:
        raise TypeError(f"{owner}: its configuration cannot be written as JSON: {error}") from error


def _plain(value: Any) -> Any:
    if isinstance(value, np.generic):
        return value.item()
    raise TypeError(f"{value!r} of type {type(value).__name__} is not JSON")


def _require_built(model: Model, method: str) -> None:
    if not model.built:
        raise ValueError(
            f"{model.label}: {method} needs a built model: give its first layer an input_shape, "
            "or call build(input_shape)"
        )


def _checked_path(path: Path, writing: bool) -> str:
    name = os.fspath(path)
    if not isinstance(name, str):
        raise TypeError(f"path expects a string, got {type(name).__name__}")
    if name.lower().endswith(_FOREIGN_ENDINGS):
        raise ValueError(
            f"{name}: Keras' file formats are not supported; a lamella model is one "
            ".safetensors file"
        )
    if writing and not name.endswith(".safetensors"):
        raise ValueError(f"{name}: a model file's name ends in .safetensors")
    return name
