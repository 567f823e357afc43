"""`RNN`: one cell or several over a sequence, with masks, states and directions."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from lamella import ops, registry
from lamella.arrays import copy_to, expand_dims, squeeze, with_zeros
from lamella.layers.arguments import flag
from lamella.layers.base import Pullback
from lamella.layers.recurrent_cells import RecurrentCell, Walk, checked_states
from lamella.layers.shapes import Shape, Shapes, any_batch
from lamella.layers.symbolic import SymbolicTensor
from lamella.layers.weighted import NAMED_ERRORS, name_error
from lamella.layers.wrapper import Wrapper, layer_from_config
from lamella.registry import register


@register("layer")
class RNN(Wrapper):
    """Run a cell over the steps of x (N, T, D).

    y is the last output (N, units), or with ``return_sequences`` all of them (N, T, units). Steps
    that a mask (N, T) excludes carry the states through, and their outputs repeat the last one
    before them.

    Parameters
    ----------
    cell : SimpleRNNCell, LSTMCell or GRUCell, or a list of them
        Of several, each runs over the outputs of the one before it.
    return_sequences : bool
    return_state : bool
        Return ``(y, state, ...)`` with the states after the last step.
    go_backwards : bool
        Run from the last step to the first; outputs come in the order they are computed.
    stateful : bool
        Each batch begins with the states in which the one before ended, sample by sample. All
        batches then have one size; `reset_state` begins anew.
    unroll : bool
        Accepted and without effect.
    zero_output_for_mask : bool
        The outputs of masked steps are 0, with ``return_sequences``.
    **kwargs
        name, trainable, input_shape and so on: see `Layer`.

    Raises
    ------
    TypeError
        If ``cell`` is something else.
    ValueError
        If an argument or the shape of an input or a state is not what it should be, there are no
        steps, or the batch size of a stateful layer changes.

    Notes
    -----
    ``layer(x, initial_state=[...])`` begins with these states, arrays or symbolic tensors; `step`
    takes one step.

    Examples
    --------
    >>> import numpy as np
    >>> from lamella.layers import LSTMCell
    >>> RNN([LSTMCell(4), LSTMCell(5)], return_sequences=True)(np.ones((2, 3, 6))).shape
    (2, 3, 5)
    """

    input_axes = ("batch", "steps", "features")
    supports_masking = True
    uses_mask = True

    def __init__(
        self,
        cell: Any,
        return_sequences: bool = False,
        return_state: bool = False,
        go_backwards: bool = False,
        stateful: bool = False,
        unroll: bool = False,
        zero_output_for_mask: bool = False,
        **kwargs: Any,
    ) -> None:
        cells = list(cell) if isinstance(cell, (list, tuple)) else [cell]
        for each in cells:
            if not isinstance(each, RecurrentCell):
                raise TypeError(
                    f"{type(self).__name__}: cell expects SimpleRNNCell, LSTMCell or GRUCell, or a "
                    f"list of them, got {each!r}; another recurrence is a Layer of its own"
                )
        if not cells:
            raise ValueError(f"{type(self).__name__}: cell expects at least one cell, got none")
        super().__init__(*cells, **kwargs)
        self.cell = cell
        self._cells = cells
        self.return_sequences = flag(self, "return_sequences", return_sequences)
        self.return_state = flag(self, "return_state", return_state)
        self.go_backwards = flag(self, "go_backwards", go_backwards)
        self.stateful = flag(self, "stateful", stateful)
        self.unroll = flag(self, "unroll", unroll)
        self.zero_output_for_mask = flag(self, "zero_output_for_mask", zero_output_for_mask)
        if self.activity_regularizer is not None and self.return_state:
            raise self.error("activity_regularizer is not supported together with return_state")
        self._sizes = [size for each in cells for size in each.state_sizes]
        # Of a stateful layer, after its first batch: the states that the next one begins with.
        self.states: list[np.ndarray] | None = None
        self._saved_states: list[np.ndarray] | None = None
        # The batch size of a stateful layer, where its Input fixes one.
        self._fixed_batch: int | None = None

    @property
    def state_size(self) -> list[int]:
        """Features of each state."""
        return list(self._sizes)

    @property
    def makes_mask(self) -> bool:
        return False

    def compute_mask(self, inputs: Any, mask: Any = None) -> Any:
        """Return the mask of a sequence of outputs; states have none."""
        if isinstance(mask, (list, tuple)):
            mask = mask[0]
        kept = mask if self.return_sequences else None
        return (kept, *(None for _ in self._sizes)) if self.return_state else kept

    # -- shapes -------------------------------------------------------------------------------

    def check_input_shape(self, input_shape: Shapes) -> None:
        states: list[Shape] = []
        shape: Any = input_shape
        if isinstance(input_shape, list):
            shape, *states = input_shape
            expected = [(shape[0], size) for size in self._sizes]
            fits = len(states) == len(expected) and all(
                len(state) == 2
                and state[1] == wanted[1]
                and (None in (state[0], wanted[0]) or state[0] == wanted[0])
                for state, wanted in zip(states, expected, strict=True)
            )
            if not fits:
                raise self.error(f"initial_state expects shapes {expected}, got {states}")
        super().check_input_shape(shape)
        if shape[1] == 0:
            raise self.error(f"expects at least one step, got an input of shape {shape}")
        if self._cells[0].built:
            self._cells[0].check_input_shape((shape[0], *shape[2:]))
        self._check_batch(shape[0])

    def _check_batch(self, size: int | None) -> None:
        if not self.stateful or size is None:
            return
        if self.states is not None and size != len(self.states[0]):
            raise self.error(
                f"is stateful and has states for batches of {len(self.states[0])}, got one of "
                f"{size}: call reset_state() first, or keep the batch size"
            )
        if self._fixed_batch not in (None, size):
            raise self.error(
                f"is stateful and made for batches of {self._fixed_batch}, got one of {size}"
            )

    def build(self, input_shape: Any) -> None:
        shape = input_shape[0] if isinstance(input_shape, list) else input_shape
        self._fixed_batch = shape[0]
        features = shape[-1]
        for each in self._cells:
            if not each.built:
                each.build((None, features))
            features = each.output_size

    def compute_output_shape(self, input_shape: Any) -> Any:
        shape = input_shape[0] if isinstance(input_shape, list) else input_shape
        size = self._cells[-1].output_size
        y = (*shape[:2], size) if self.return_sequences else (shape[0], size)
        return (y, *((shape[0], size) for size in self._sizes)) if self.return_state else y

    # -- computing ----------------------------------------------------------------------------

    def _walks(self, mask: Any, training: bool) -> list[Walk]:
        """Return each cell's way: the first may go backwards, the others follow its order."""
        if isinstance(mask, (list, tuple)):
            mask = mask[0]
        walks = [Walk(mask, self.go_backwards, training)]
        if len(self._cells) > 1:
            turned = mask
            if mask is not None and self.go_backwards:
                turned = np.ascontiguousarray(mask[:, ::-1])
            walks += [Walk(turned, False, training)] * (len(self._cells) - 1)
        return walks

    def _split(self, states: Sequence[Any] | None) -> list[Any]:
        """Return the states of each cell, None for each without any."""
        if states is None:
            return [None] * len(self._cells)
        parts, first = [], 0
        for each in self._cells:
            count = len(each.state_sizes)
            parts.append(states[first : first + count])
            first += count
        return parts

    def _begin(self, x: Any) -> tuple[np.ndarray, list[np.ndarray] | None]:
        """Return the sequence and the states that were given with it, or kept."""
        x, given = (x[0], list(x[1:])) if isinstance(x, (list, tuple)) else (x, None)
        if self.stateful:
            self._check_batch(len(x))
            given = self.states if given is None else given
        return x, given

    def _remember(self, states: Sequence[np.ndarray]) -> None:
        if not self.stateful:
            return
        if self.states is None:
            self.states = [state.copy() for state in states]
        else:
            for kept, state in zip(self.states, states, strict=True):
                copy_to(kept, state)

    def _result(self, outputs: np.ndarray, states: list[np.ndarray], mask: Any) -> Any:
        y = states[-len(self._cells[-1].state_sizes)]
        if self.return_sequences:
            zeros = self._zeros(mask)
            y = outputs if zeros is None else with_zeros(outputs, zeros)
        return (y, *states) if self.return_state else y

    def _zeros(self, mask: Any) -> np.ndarray | None:
        """Return (N, T, 1), False where an output is to be 0, in the outputs' order."""
        if isinstance(mask, (list, tuple)):
            mask = mask[0]
        if mask is None or not self.zero_output_for_mask:
            return None
        return (mask[:, ::-1] if self.go_backwards else mask)[..., np.newaxis]

    def call(self, x: Any, training: bool = False, mask: Any = None) -> Any:
        x, given = self._begin(x)
        outputs, states = x, []
        for each, parts, walk in zip(
            self._cells, self._split(given), self._walks(mask, training), strict=True
        ):
            outputs, *after = each.run(outputs, parts, walk)
            states += after
        self._remember(states)
        return self._result(outputs, states, mask)

    def forward(self, x: Any, training: bool, mask: Any = None) -> tuple[Any, Pullback]:
        takes_list = isinstance(x, (list, tuple))
        x, given = self._begin(x)
        if given is not None and not takes_list:
            given = [state.copy() for state in given]  # a pullback reads them later
        outputs, states, pulls = x, [], []
        for position, (each, parts, walk) in enumerate(
            zip(self._cells, self._split(given), self._walks(mask, training), strict=True)
        ):
            needs = (self.needs_input_gradient or position > 0, takes_list)
            (outputs, *after), pull = each.run_with_pullback(outputs, parts, walk, needs)
            states += after
            pulls.append(pull)
        self._remember(states)
        zeros = self._zeros(mask) if self.return_sequences else None

        def pullback(dy: Any) -> Any:
            dy, *d_states = dy if self.return_state else (dy, *[None] * len(states))
            d_outputs = dy if self.return_sequences else None
            if zeros is not None and d_outputs is not None:
                d_outputs = with_zeros(d_outputs, zeros)
            if not self.return_sequences and dy is not None:
                last = len(states) - len(self._cells[-1].state_sizes)
                known = d_states[last]
                d_states[last] = dy if known is None else ops.add(known, dy)
            d_given: list[Any] = []
            for pull, parts in zip(pulls[::-1], self._split(d_states)[::-1], strict=True):
                d_outputs, *before = pull(d_outputs, *parts)
                d_given = before + d_given
            return (d_outputs, *d_given) if takes_list else d_outputs

        return self._result(outputs, states, mask), pullback

    def __call__(  # type: ignore[override]
        self,
        sequences: Any,
        initial_state: Any = None,
        mask: Any = None,
        training: bool | None = False,
    ) -> Any:
        """Apply the layer.

        Parameters
        ----------
        sequences : array_like (N, T, D) or SymbolicTensor
        initial_state : array_like or SymbolicTensor (N, units), or a list of them, optional
            The states before the first step.
        mask : bool array (N, T), optional
            Steps that count. In a graph masks flow by themselves.
        training : bool
            Whether dropout and zoneout behave as in training.

        Returns
        -------
        np.ndarray or SymbolicTensor, or with ``return_state`` a tuple of them
        """
        if isinstance(sequences, (list, tuple)) and initial_state is None and len(sequences) > 1:
            kinds = (np.ndarray, SymbolicTensor)
            if all(isinstance(part, kinds) for part in sequences):
                sequences, *initial_state = sequences
        if initial_state is None:
            return super().__call__(sequences, training, mask)
        given = initial_state if isinstance(initial_state, (list, tuple)) else [initial_state]
        if isinstance(sequences, SymbolicTensor):
            return super().__call__([sequences, *given], training, mask)
        try:
            x = self._convert(sequences)
            self.check_input_shape(x.shape)
            states = checked_states(self, list(given), self._sizes, len(x), "initial_state")
        except NAMED_ERRORS as error:
            name_error(error, self)
            raise
        return super().__call__([x, *states], training, mask)

    def _checked_mask(self, mask: Any, shapes: Shapes) -> np.ndarray:
        mask = super()._checked_mask(mask, shapes)
        if mask.ndim != 2:
            raise self.error(f"mask expects shape (batch, steps), got {mask.shape}")
        return mask

    def step(self, x: Any, state: Any = None) -> tuple[np.ndarray, list[np.ndarray]]:
        """Take one step, whatever direction or state the layer has.

        Parameters
        ----------
        x : array_like (N, D)
        state : list of array_like, optional
            As the last call returned it; zeros without.

        Returns
        -------
        y : np.ndarray (N, units)
        state : list of np.ndarray
            For the next call.

        Raises
        ------
        ValueError
            A shape does not fit.
        """
        try:
            x = self._convert(x)
            if x.ndim != 2:
                raise self.error(f"step expects an input of shape (batch, features), got {x.shape}")
            if not self.built:
                self.build(any_batch((*x.shape[:1], 1, *x.shape[1:])))
            self._cells[0].check_input_shape(x.shape)
            given = checked_states(self, state, self._sizes, len(x), "state")
            outputs, states = expand_dims(x, 1), []
            for each, parts in zip(self._cells, self._split(given), strict=True):
                outputs, *after = each.run(outputs, parts, Walk())
                states += after
        except NAMED_ERRORS as error:
            name_error(error, self)
            raise
        return squeeze(outputs, 1), states

    # -- states -------------------------------------------------------------------------------

    def get_initial_state(self, batch_size: int) -> list[np.ndarray]:
        """Return zeros for each state."""
        return [state for each in self._cells for state in each.get_initial_state(batch_size)]

    def reset_state(self, states: Any = None) -> None:
        """Let the next batch of a stateful layer begin with zeros, or with these states.

        Raises
        ------
        ValueError
            The layer is not stateful, or a shape does not fit.
        """
        if not self.stateful:
            raise self.error("has no state to reset: it is not stateful")
        if states is not None:
            arrays = states if isinstance(states, (list, tuple)) else [states]
            batch = len(arrays[0]) if len(arrays) and np.ndim(arrays[0]) else 0
            given = checked_states(self, list(arrays), self._sizes, batch, "states")
            states = [state.copy() for state in given]
        self.states = states

    reset_states = reset_state

    def save_state(self) -> None:
        """Keep a copy of the states, for `restore_state`."""
        if self.states is None:
            self._saved_states = None
            return
        saved = self._saved_states
        if saved is None or saved[0].shape != self.states[0].shape:
            self._saved_states = [state.copy() for state in self.states]
        else:
            for kept, state in zip(saved, self.states, strict=True):
                copy_to(kept, state)

    def restore_state(self) -> None:
        """Undo what happened to the states since `save_state`: a model does where a call fails."""
        saved = self._saved_states
        self.states = None if saved is None else [state.copy() for state in saved]

    # -- configuration ------------------------------------------------------------------------

    def _flags(self) -> dict[str, Any]:
        return {
            "return_sequences": self.return_sequences,
            "return_state": self.return_state,
            "go_backwards": self.go_backwards,
            "stateful": self.stateful,
            "unroll": self.unroll,
            "zero_output_for_mask": self.zero_output_for_mask,
        }

    def get_config(self) -> dict[str, Any]:
        described: Any = [registry.serialize(each) for each in self._cells]
        if not isinstance(self.cell, (list, tuple)):
            (described,) = described
        return {**super().get_config(), **self._flags(), "cell": described}

    @classmethod
    def from_config(
        cls, config: dict[str, Any], custom_objects: dict[str, Any] | None = None
    ) -> Any:
        cell = config.get("cell")
        if cell is not None:
            parts = cell if isinstance(cell, (list, tuple)) else [cell]
            made = [layer_from_config(part, custom_objects) for part in parts]
            config = {**config, "cell": made if isinstance(cell, (list, tuple)) else made[0]}
        return super().from_config(config, custom_objects)
