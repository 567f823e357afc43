"""`Bidirectional`."""

from __future__ import annotations

from typing import Any

import numpy as np

from lamella import ops, registry
from lamella.arrays import contiguous, like
from lamella.layers.base import Pullback
from lamella.layers.recurrent import RNN
from lamella.layers.shapes import Shapes
from lamella.layers.symbolic import SymbolicTensor
from lamella.layers.wrapper import Wrapper, layer_from_config
from lamella.registry import register

_MODES = ("concat", "sum", "mul", "ave", None)


@register("layer")
class Bidirectional(Wrapper):
    """Run a recurrent layer forwards and another one backwards, and merge their outputs.

    With ``return_sequences`` the outputs of the one that runs backwards are put in the order of the
    steps first, and those of masked steps are 0.

    Parameters
    ----------
    layer : SimpleRNN, LSTM, GRU or RNN
        Its configuration is used, not its weights.
    merge_mode : {"concat", "sum", "mul", "ave", None}
        What becomes of the two outputs; None returns both.
    weights
        Not supported: use `set_weights`.
    backward_layer : SimpleRNN, LSTM, GRU or RNN, optional
        Used as it is; by default one like ``layer``. It runs the other way.
    **kwargs
        name, trainable, input_shape and so on: see `Layer`.

    Raises
    ------
    TypeError
        If a layer is not a recurrent one.
    ValueError
        If another argument is not what it should be, or the two layers do not fit together.

    Examples
    --------
    >>> import numpy as np
    >>> from lamella.layers import LSTM
    >>> Bidirectional(LSTM(4, return_sequences=True))(np.ones((2, 3, 5))).shape
    (2, 3, 8)
    """

    input_axes = ("batch", "steps", "features")
    supports_masking = True
    uses_mask = True

    def __init__(
        self,
        layer: Any,
        merge_mode: str | None = "concat",
        weights: Any = None,
        backward_layer: Any = None,
        **kwargs: Any,
    ) -> None:
        given = [layer] if backward_layer is None else [layer, backward_layer]
        for each in given:
            if not isinstance(each, RNN):
                raise TypeError(
                    f"Bidirectional: expects a recurrent layer (SimpleRNN, LSTM, GRU, RNN), "
                    f"got {each!r}"
                )
        forward_layer = _copy(layer, "forward_", layer.go_backwards)
        if backward_layer is None:
            backward_layer = _copy(layer, "backward_", True)
        super().__init__(forward_layer, backward_layer, **kwargs)
        self.forward_layer, self.backward_layer = forward_layer, backward_layer
        if merge_mode not in _MODES or isinstance(merge_mode, bool):
            raise self.error(f"merge_mode expects one of {_MODES}, got {merge_mode!r}")
        if weights is not None:
            raise self.error("weights is not supported: call set_weights once the layer is built")
        if forward_layer.go_backwards == backward_layer.go_backwards:
            raise self.error("its two layers must run in different directions (go_backwards)")
        for name in ("stateful", "return_sequences", "return_state"):
            if getattr(forward_layer, name) != getattr(backward_layer, name):
                raise self.error(f"its two layers differ in {name}")
        self.merge_mode = merge_mode
        self.stateful = forward_layer.stateful
        self.return_sequences = forward_layer.return_sequences
        self.return_state = forward_layer.return_state
        for each in self.parts:
            each.zero_output_for_mask = self.return_sequences  # type: ignore[attr-defined]

    @property
    def _state_count(self) -> int:
        return len(self.forward_layer.state_size)

    @property
    def makes_mask(self) -> bool:
        return False

    def compute_mask(self, inputs: Any, mask: Any = None) -> Any:
        """Return the mask of a sequence of outputs; states have none."""
        if isinstance(mask, (list, tuple)):
            mask = mask[0]
        kept = mask if self.return_sequences else None
        masks = [kept] if self.merge_mode is not None else [kept, kept]
        if self.return_state:
            masks += [None] * (self._state_count + len(self.backward_layer.state_size))
        return tuple(masks) if len(masks) > 1 else kept

    def _halves(self, x: Any) -> tuple[Any, Any]:
        """Return the inputs of both layers, from a sequence or [sequence, *states of both]."""
        if not isinstance(x, list):
            return x, x
        sequence, *states = x
        own = self._state_count
        return [sequence, *states[:own]], [sequence, *states[own:]]

    def check_input_shape(self, input_shape: Shapes) -> None:
        first, second = self._halves(input_shape)
        super().check_input_shape(first[0] if isinstance(first, list) else first)
        self.forward_layer.check_input_shape(first)
        self.backward_layer.check_input_shape(second)

    def build(self, input_shape: Any) -> None:
        first, second = self._halves(input_shape)
        self.forward_layer.build(first)
        self.backward_layer.build(second)
        self.compute_output_shape(input_shape)

    def compute_output_shape(self, input_shape: Any) -> Any:
        first, second = self._halves(input_shape)
        ahead: Any = self.forward_layer.compute_output_shape(first)
        back: Any = self.backward_layer.compute_output_shape(second)
        states = []
        if self.return_state:
            ahead, back, states = ahead[0], back[0], [*ahead[1:], *back[1:]]
        if self.merge_mode == "concat":
            merged = [(*ahead[:-1], ahead[-1] + back[-1])]
        elif self.merge_mode is None:
            merged = [ahead, back]
        elif ahead != back:
            raise self.error(f"cannot merge outputs of shapes {ahead} and {back}")
        else:
            merged = [ahead]
        outputs = (*merged, *states)
        return outputs if len(outputs) > 1 else outputs[0]

    def call(self, x: Any, training: bool = False, mask: Any = None) -> Any:
        first, second = self._halves(x)
        if self.stateful:
            self.forward_layer.save_state()
        ahead = self.forward_layer.call(first, training, mask)
        try:
            back = self.backward_layer.call(second, training, mask)
        except BaseException:
            self._undo()
            raise
        return self._joined(ahead, back, self._merged)

    def _undo(self) -> None:
        if self.stateful:
            self.forward_layer.restore_state()

    def _joined(self, ahead: Any, back: Any, merge: Any) -> Any:
        states: list[np.ndarray] = []
        if self.return_state:
            (ahead, *own), (back, *others) = ahead, back
            states = [*own, *others]
        if self.return_sequences:
            ahead, back = self._in_order(ahead, back)
        merged = merge(ahead, back)
        outputs = (*merged, *states)
        return outputs if len(outputs) > 1 else outputs[0]

    def _in_order(self, ahead: np.ndarray, back: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Reverse the second layer's sequence, as Keras does: its own inverse."""
        return ahead, contiguous(back[:, ::-1])

    def _merged(self, ahead: np.ndarray, back: np.ndarray) -> tuple[np.ndarray, ...]:
        if self.merge_mode is None:
            return ahead, back
        if self.merge_mode == "concat":
            return (ops.concatenate(ahead, back, axis=-1),)
        if self.merge_mode == "mul":
            return (ops.multiply(ahead, back),)
        total = ops.add(ahead, back)
        return (total if self.merge_mode == "sum" else ops.multiply(total, like(total, _HALF)),)

    def forward(self, x: Any, training: bool, mask: Any = None) -> tuple[Any, Pullback]:
        first, second = self._halves(x)
        takes_list = isinstance(x, list)
        if self.stateful:
            self.forward_layer.save_state()
        for each in self.parts:
            each.needs_input_gradient = self.needs_input_gradient
        try:
            ahead, pull_ahead = self.forward_layer.forward(first, training, mask)
            try:
                back, pull_back = self.backward_layer.forward(second, training, mask)
            except BaseException:
                self._undo()
                raise
        finally:
            for each in self.parts:
                each.needs_input_gradient = True
        factors: list[np.ndarray] = []

        def merge(ahead: np.ndarray, back: np.ndarray) -> tuple[np.ndarray, ...]:
            factors[:] = [ahead, back]
            return self._merged(ahead, back)

        y = self._joined(ahead, back, merge)
        width = factors[0].shape[-1]

        def pullback(dy: Any) -> Any:
            several = isinstance(dy, (list, tuple))
            d_all = list(dy) if several else [dy]
            count = 2 if self.merge_mode is None else 1
            d_ahead, d_back = self._unmerged(d_all[:count], factors, width)
            if self.return_sequences and d_back is not None:
                d_back = contiguous(d_back[:, ::-1])
            d_states = d_all[count:]
            own = self._state_count
            if self.return_state:
                left: Any = pull_ahead((d_ahead, *d_states[:own]))
                right: Any = pull_back((d_back, *d_states[own:]))
            else:
                left = None if d_ahead is None else pull_ahead(d_ahead)
                right = None if d_back is None else pull_back(d_back)
            if not takes_list:
                return _sum(left, right)
            left = left if left is not None else (None,) * (1 + own)
            right = right if right is not None else (None,) * (len(x) - own)
            return (_sum(left[0], right[0]), *left[1:], *right[1:])

        return y, pullback

    def _unmerged(
        self, dy: list[Any], factors: list[np.ndarray], width: int
    ) -> tuple[np.ndarray | None, np.ndarray | None]:
        if self.merge_mode is None:
            return dy[0], dy[1]
        (d,) = dy
        if d is None:
            return None, None
        if self.merge_mode == "concat":
            return contiguous(d[..., :width]), contiguous(d[..., width:])
        if self.merge_mode == "mul":
            return ops.multiply(d, factors[1]), ops.multiply(d, factors[0])
        if self.merge_mode == "ave":
            d = ops.multiply(d, like(d, _HALF))
        return d, d

    def __call__(  # type: ignore[override]
        self,
        sequences: Any,
        initial_state: Any = None,
        mask: Any = None,
        training: bool | None = False,
    ) -> Any:
        """Apply the layer; arguments as those of `RNN`, the states of both layers in one list."""
        if initial_state is None:
            return super().__call__(sequences, training, mask)
        states = list(initial_state)
        if not isinstance(sequences, SymbolicTensor):
            sequences = np.asarray(sequences)
            states = [np.asarray(state) for state in states]
        return super().__call__([sequences, *states], training, mask)

    def _checked_mask(self, mask: Any, shapes: Shapes) -> np.ndarray:
        return self.forward_layer._checked_mask(mask, shapes)

    @property
    def states(self) -> list[np.ndarray] | None:
        """The states of both layers, where they are stateful and have some."""
        own, others = self.forward_layer.states, self.backward_layer.states
        return None if own is None or others is None else [*own, *others]

    def reset_state(self) -> None:
        """Let the next batch of stateful layers begin with zeros."""
        for each in (self.forward_layer, self.backward_layer):
            each.reset_state()

    reset_states = reset_state

    def save_state(self) -> None:
        """Do nothing: the two layers are asked themselves."""

    def restore_state(self) -> None:
        """Do nothing: the two layers are asked themselves."""

    def get_config(self) -> dict[str, Any]:
        return {
            **super().get_config(),
            "merge_mode": self.merge_mode,
            "layer": registry.serialize(self.forward_layer),
            "backward_layer": registry.serialize(self.backward_layer),
        }

    @classmethod
    def from_config(
        cls, config: dict[str, Any], custom_objects: dict[str, Any] | None = None
    ) -> Any:
        made = {
            key: layer_from_config(config.get(key), custom_objects)
            for key in ("layer", "backward_layer")
        }
        return super().from_config({**config, **made}, custom_objects)


_HALF = np.full(1, 0.5, np.float32)


def _sum(a: np.ndarray | None, b: np.ndarray | None) -> np.ndarray | None:
    if a is None or b is None:
        return b if a is None else a
    return ops.add(a, b)


def _copy(layer: RNN, prefix: str, go_backwards: bool) -> Any:
    """Return a layer of the same configuration with weights of its own."""
    config = layer.get_config()
    config["name"] = prefix + layer.name.removeprefix(prefix)
    config["go_backwards"] = go_backwards
    config.pop("batch_input_shape", None)
    return type(layer).from_config(config)
