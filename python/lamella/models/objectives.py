"""What a model is trained for: the loss, its weight and the metrics of each output.

`compile` takes these in many forms: one for all outputs, a list, a dict by the outputs' names. Here
they become one `Objective` an output, and JSON and back for saving.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from lamella import losses, metrics, registry
from lamella.losses import Loss
from lamella.losses.base import fit_weights
from lamella.metrics import Mean, Metric

Shape = tuple[int | None, ...]


class Objective:
    """The loss and the metrics of one output.

    Parameters
    ----------
    name : str
        The output's name.
    shape : tuple or None
        The output's shape, None while it is not known.
    loss : Loss or None
    loss_weight : float
        Factor of this loss in the total.
    prefix : str
        What the names of the metrics begin with in logs: the output's name if there are several.
    metrics, weighted_metrics : sequence
        What `lamella.metrics.get` takes; the latter see the sample weights.
    """

    def __init__(
        self,
        name: str,
        shape: Shape | None,
        loss: Loss | None,
        loss_weight: float,
        prefix: str,
        metric_list: Sequence[Any],
        weighted_list: Sequence[Any],
    ) -> None:
        self.name = name
        self.loss = loss
        self.loss_weight = loss_weight
        self.prefix = prefix
        self.metrics = [metrics.get(item, loss, shape) for item in metric_list]
        self.weighted_metrics = [metrics.get(item, loss, shape) for item in weighted_list]
        # The loss of this output alone, where it is not the total.
        self.tracker = Mean(name=f"{name}_loss") if prefix and loss is not None else None

    @property
    def has_metrics(self) -> bool:
        """Whether metrics read the predictions."""
        return bool(self.metrics or self.weighted_metrics)

    def update(
        self,
        count: int,
        value: float | None,
        target: np.ndarray | None,
        prediction: np.ndarray,
        weight: np.ndarray | None,
        mask: np.ndarray | None = None,
    ) -> None:
        """Take a batch of `count` samples, of loss `value`, into the tracker and the metrics."""
        if target is not None:
            for metric in self.metrics:
                metric.update_state(target, prediction, *_masked(metric, None, mask))
            for metric in self.weighted_metrics:
                metric.update_state(target, prediction, *_masked(metric, weight, mask, True))
        if self.tracker is not None and value is not None:
            self.tracker.update_state(value, count)


class Objectives:
    """The objectives of all outputs, the running mean of the total loss, and their logs.

    Parameters
    ----------
    names, shapes
        Of the outputs; a shape is None while it is not known.
    loss, loss_weights, metric_spec, weighted_spec
        As `compile` takes them.

    Raises
    ------
    ValueError
        One of them has a form that does not fit the outputs, or names what there is not.
    """

    def __init__(
        self,
        names: Sequence[str],
        shapes: Sequence[Shape | None],
        loss: Any,
        loss_weights: Any,
        metric_spec: Any,
        weighted_spec: Any,
    ) -> None:
        found = [losses.get(item) for item in _spread(loss, names, "loss")]
        for item in found:
            if item is not None and item.reduction in ("none", None):
                raise ValueError(
                    f"compile: loss {item.name!r} has reduction {item.reduction!r}, which gives no "
                    "single number to train on; use 'sum_over_batch_size' or 'sum'"
                )
        factors = [_factor(item) for item in _spread(loss_weights, names, "loss_weights")]
        plain = _spread_metrics(metric_spec, names, "metrics")
        weighted = _spread_metrics(weighted_spec, names, "weighted_metrics")
        self.each = [
            Objective(name, shape, item, factor, f"{name}_" if len(names) > 1 else "", own, own_w)
            for name, shape, item, factor, own, own_w in zip(
                names, shapes, found, factors, plain, weighted, strict=True
            )
        ]
        self.losses = found
        self.tracker = Mean(name="loss")
        self._named = self._name_metrics()
        self._trackers = [o.tracker for o in self.each if o.tracker is not None]

    def _name_metrics(self) -> list[tuple[str, Metric]]:
        """Give every metric a name of its own in the logs, as Keras does."""
        named: dict[str, Metric] = {}
        pairs = [(o.prefix, m, False) for o in self.each for m in o.metrics]
        pairs += [(o.prefix, m, True) for o in self.each for m in o.weighted_metrics]
        for prefix, metric, is_weighted in pairs:
            name = prefix + metric.name
            if name in named and is_weighted:
                name = f"{prefix}weighted_{metric.name}"
            base, number = name, 0
            while name in named:
                number += 1
                name = f"{base}_{number}"
            named[name] = metric
        return list(named.items())

    @property
    def metrics(self) -> list[Metric]:
        """All of them: the total loss, those of the outputs, then the metrics."""
        return [self.tracker, *self._trackers, *(metric for _, metric in self._named)]

    def reset(self) -> None:
        """Forget all batches."""
        for metric in self.metrics:
            metric.reset_state()

    def logs(self) -> dict[str, float]:
        """Return the results so far by name, the total loss first."""
        logs = {"loss": self.tracker.result()}
        for tracker in self._trackers:
            logs[tracker.name] = tracker.result()
        for name, metric in self._named:
            logs[name] = metric.result()
        return logs


def _masked(
    metric: Metric, weight: np.ndarray | None, mask: np.ndarray | None, is_weighted: bool = False
) -> tuple[np.ndarray | None, ...]:
    """Return the sample weights a metric is given: none, the caller's, or those of the mask too."""
    if mask is None or not metric.leaves_out_masked:
        return (weight,) if is_weighted else ()
    weights = mask.astype(np.float32)
    if weight is not None:
        weights = weights * fit_weights(metric.name, weight, mask.shape)
    return (weights,)


def _spread(value: Any, names: Sequence[str], argument: str) -> list[Any]:
    """Return one entry an output from one for all, a list or a dict."""
    if isinstance(value, Mapping) and "class_name" not in value:
        unknown = [key for key in value if key not in names]
        if unknown:
            raise ValueError(
                f"compile: {argument} names outputs {unknown}, the model has {list(names)}"
            )
        return [value.get(name) for name in names]
    if isinstance(value, (list, tuple)):
        if len(value) != len(names):
            raise ValueError(
                f"compile: {argument} expects {len(names)} entries, one for each of "
                f"{list(names)}, received {len(value)}"
            )
        return list(value)
    return [value] * len(names)


def _factor(value: Any) -> float:
    if value is None:
        return 1.0
    if isinstance(value, bool) or not isinstance(value, (int, float, np.integer, np.floating)):
        raise ValueError(f"compile: loss_weights expects numbers, received {value!r}")
    return float(value)


def _spread_metrics(value: Any, names: Sequence[str], argument: str) -> list[list[Any]]:
    """Return a list of metrics an output."""
    if value is None:
        return [[] for _ in names]
    is_named = isinstance(value, Mapping) and "class_name" not in value
    if len(names) == 1 and not is_named:
        items = list(value) if isinstance(value, (list, tuple)) else [value]
        # [["accuracy"]]: a list for each output, of which there is one.
        nested = len(items) == 1 and isinstance(items[0], (list, tuple))
        return [list(items[0]) if nested else items]
    if not is_named and not isinstance(value, (list, tuple)):
        raise ValueError(
            f"compile: {argument} expects a list or dict with an entry for each of "
            f"{list(names)}, received {value!r}"
        )
    spread = _spread(value, names, argument)
    return [
        [] if item is None else list(item) if isinstance(item, (list, tuple)) else [item]
        for item in spread
    ]


# -- the written form -----------------------------------------------------------------------------


def encode(value: Any, get: Callable[[Any], Any] | None = None) -> Any:
    """Return a loss or metrics, as `compile` takes them, in JSON types.

    A plain function becomes its name; reading it back needs it in custom_objects.

    Parameters
    ----------
    value
        One, a list or a dict of them.
    get : callable, optional
        Turns a function of lamella's own into an object that has a configuration.
    """
    if value is None or isinstance(value, (str, int, float)):
        return value
    if isinstance(value, np.generic):
        return value.item()
    if isinstance(value, Mapping):
        return {key: encode(item, get) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [encode(item, get) for item in value]
    if isinstance(value, type):
        value = value()
    if not hasattr(value, "get_config"):
        if get is None:
            return {"class_name": "function", "config": {"name": value.__name__}}
        value = get(value)
    return registry.serialize(value)


def decode(value: Any, kind: str, custom_objects: Mapping[str, Any] | None) -> Any:
    """Return what `encode` was given, objects made anew.

    Parameters
    ----------
    value
        The result of `encode`.
    kind : str
        "loss" or "metric".
    custom_objects : dict of str to object, optional

    Raises
    ------
    ValueError
        A name is neither lamella's nor in `custom_objects`.
    """
    if isinstance(value, str):
        if custom_objects and value in custom_objects:
            return custom_objects[value]
        return value
    if isinstance(value, list):
        return [decode(item, kind, custom_objects) for item in value]
    if not isinstance(value, Mapping):
        return value
    if "class_name" not in value:
        return {key: decode(item, kind, custom_objects) for key, item in value.items()}
    if value["class_name"] == "function":
        config = value.get("config")
        name = config.get("name") if isinstance(config, Mapping) else None
        if not isinstance(name, str) or not custom_objects or name not in custom_objects:
            raise ValueError(f"{kind} {name!r} is a function; pass it in custom_objects")
        return custom_objects[name]
    return registry.deserialize(kind, value, custom_objects)
