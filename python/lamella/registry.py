"""Names of the objects a configuration may mention, and how they turn into dictionaries and back.

Every class that a model file, a string identifier or a config dictionary may name registers
itself here under a kind ("layer", "loss", "optimizer", ...). A name is looked up in this table and
in the ``custom_objects`` that the caller passes, and nowhere else: nothing is imported by name.
"""

from __future__ import annotations

import difflib
import inspect
from collections.abc import Callable, Mapping
from typing import Any, TypeVar

CustomObjects = Mapping[str, Any]
_C = TypeVar("_C", bound=type)

# kind -> normalised name -> class
_TABLES: dict[str, dict[str, type]] = {}

# What a serialised object may hold beside its class name and config: Keras writes these, and they
# are read over, because the class name alone chooses the class.
_READ_OVER = frozenset({"module", "registered_name", "build_config", "compile_config"})


def _key(name: str) -> str:
    # "GlorotUniform", "glorot_uniform" and "GLOROT_UNIFORM" name one class, as they do in Keras.
    return name.replace("_", "").lower()


def register(kind: str, *aliases: str) -> Callable[[_C], _C]:
    """Return a class decorator that enters the class under its own name and the aliases.

    Parameters
    ----------
    kind : str
        The table to enter it in: ``"layer"``, ``"loss"``, ``"metric"``, ``"optimizer"``, ...
    *aliases : str
        Further names, such as ``"mse"``.

    Raises
    ------
    ValueError
        If another class already holds one of the names.

    Examples
    --------
    >>> @register("shape", "box")
    ... class Square:
    ...     pass
    >>> lookup("shape", "square") is lookup("shape", "box") is Square
    True
    """

    def enter(cls: _C) -> _C:
        table = _TABLES.setdefault(kind, {})
        for name in (cls.__name__, *aliases):
            known = table.setdefault(_key(name), cls)
            same = (known.__module__, known.__qualname__) == (cls.__module__, cls.__qualname__)
            if not same:
                raise ValueError(f"{kind} name {name!r} already belongs to {known!r}")
            table[_key(name)] = cls  # a reloaded module replaces its own class
        return cls

    return enter


def names(kind: str) -> list[str]:
    """Return the class names registered under ``kind``, sorted."""
    return sorted({cls.__name__ for cls in _TABLES.get(kind, {}).values()})


def lookup(kind: str, name: str, custom_objects: CustomObjects | None = None) -> Any:
    """Return the class that ``name`` stands for.

    Parameters
    ----------
    kind : str
        The table to look in.
    name : str
        A class name or alias; case and underscores do not matter for lamella's own.
    custom_objects : mapping of str to class, optional
        The caller's own objects, looked up first, by their exact name.

    Raises
    ------
    ValueError
        If neither knows the name; the message lists the names there are.
    """
    if not isinstance(name, str):
        raise TypeError(f"a {kind} name expects a str, got {name!r}")
    if custom_objects and name in custom_objects:
        return custom_objects[name]
    table = _TABLES.get(kind, {})
    try:
        return table[_key(name)]
    except KeyError:
        pass
    near = difflib.get_close_matches(_key(name), table, n=1)
    hint = f" Did you mean {table[near[0]].__name__!r}?" if near else ""
    raise ValueError(
        f"unknown {kind} {name!r}.{hint} Known: {', '.join(names(kind)) or 'none'}; "
        "pass classes of your own in custom_objects"
    )


def serialize(obj: Any) -> dict[str, Any]:
    """Return ``{"class_name": ..., "config": ...}`` of an object that has ``get_config()``.

    Raises
    ------
    TypeError
        If the object cannot be described by a config (a plain function, for example).
    """
    get_config = getattr(obj, "get_config", None)
    if get_config is None or isinstance(obj, type):
        raise TypeError(
            f"cannot serialize {obj!r}: it is not an object with get_config(); "
            "write it as a class with get_config() and from_config()"
        )
    return {"class_name": type(obj).__name__, "config": get_config()}


def deserialize(
    kind: str, config: Mapping[str, Any], custom_objects: CustomObjects | None = None
) -> Any:
    """Build the object that :func:`serialize` (or Keras' serialisation) described.

    Parameters
    ----------
    kind : str
        The table to look the class up in.
    config : mapping
        ``{"class_name": str, "config": dict}``; Keras' further keys ``module`` and
        ``registered_name`` are allowed and not used.
    custom_objects : mapping of str to class, optional
        The caller's own classes, by name.

    Raises
    ------
    ValueError
        If a key, the class name or an argument is not known.
    """
    if not isinstance(config, Mapping) or not isinstance(config.get("class_name"), str):
        raise ValueError(
            f"a {kind} config expects a dict with 'class_name' (str) and 'config' (dict), "
            f"got {config!r}"
        )
    unknown = set(config) - {"class_name", "config"} - _READ_OVER
    if unknown:
        raise ValueError(f"{kind} config has unknown keys {sorted(map(str, unknown))}: {config!r}")
    arguments = config.get("config")
    arguments = {} if arguments is None else arguments
    if not isinstance(arguments, Mapping):
        raise ValueError(f"the 'config' of a {kind} expects a dict, got {arguments!r}")
    cls = lookup(kind, config["class_name"], custom_objects)
    from_config = getattr(cls, "from_config", None)
    if from_config is None:
        raise ValueError(f"{kind} {config['class_name']!r} has no from_config(): {cls!r}")
    options = {}
    if custom_objects and "custom_objects" in inspect.signature(from_config).parameters:
        options["custom_objects"] = custom_objects
    try:
        # A copy, because a from_config may pop what it has used.
        return from_config(dict(arguments), **options)
    except TypeError as error:
        raise ValueError(
            f"cannot build {kind} {config['class_name']!r} from config {dict(arguments)!r}: {error}"
        ) from error


def resolve(
    kind: str, identifier: Any, base: type, custom_objects: CustomObjects | None = None
) -> Any:
    """Turn a name, a config dictionary, a class or an instance into an instance of ``base``.

    Raises
    ------
    ValueError
        If the identifier is none of these.
    """
    if isinstance(identifier, base):
        return identifier
    if isinstance(identifier, str):
        found = lookup(kind, identifier, custom_objects)
        found = found() if isinstance(found, type) else found
    elif isinstance(identifier, Mapping):
        found = deserialize(kind, identifier, custom_objects)
    elif isinstance(identifier, type) and issubclass(identifier, base):
        found = identifier()
    else:
        found = None
    if not isinstance(found, base):
        raise ValueError(
            f"a {kind} expects a name, a config dict or a {base.__name__} object, "
            f"got {identifier!r}"
        )
    return found
