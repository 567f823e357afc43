"""`Called`: the half of a layer that is called, on arrays or on symbolic tensors.

What a call takes beside its input, a class declares:

    call_options     arguments that are no tensors, such as ``return_attention_scores``: a graph
                     keeps them with the call, a file too, and ``forward`` is given them each time
    named_inputs     the tensors of a layer that takes several, such as query, value and key; its
                     own ``__call__`` gives them names and passes them to `apply` as a list
    optional_inputs  further tensors that a call may have, such as an attention_mask: they follow in
                     the list, and ``given`` has the names of those that are there
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from lamella.layers.shapes import Shape, Shapes, any_batch, as_shape, is_shape
from lamella.layers.symbolic import Node, SymbolicTensor
from lamella.layers.weighted import NAMED_ERRORS, Weighted, name_error

# check(layer, name, value) returns the value, or raises an error that says what it expects.
OptionCheck = Callable[[Any, str, Any], Any]
_FLOAT32 = np.dtype(np.float32)


class Called(Weighted):
    """A named owner of weights that can be called; `Layer` adds building and computing."""

    call_options: ClassVar[Mapping[str, OptionCheck]] = {}
    named_inputs: tuple[str, ...] = ()
    optional_inputs: tuple[str, ...] = ()

    if TYPE_CHECKING:
        uses_mask: bool
        keeps_dtype: bool
        dtype: str
        nodes: list[Node]

        def build(self, input_shape: Any) -> None: ...
        def check_input_shape(self, input_shape: Shapes) -> None: ...
        def compute_output_shape(self, input_shape: Any) -> Any: ...
        def forward(self, x: Any, training: bool) -> Any: ...
        def call(self, x: Any, training: bool = False) -> Any: ...
        def reset_losses(self) -> None: ...

    def __call__(
        self, inputs: Any, training: bool | None = False, mask: Any = None, **options: Any
    ) -> Any:
        """Apply the layer.

        Parameters
        ----------
        inputs : array_like or SymbolicTensor, or a list of either
            Arrays are converted to float32 here. A layer that leaves values as they are (Flatten,
            Dropout outside training) may return its input or a view of it.
        training : bool
            Whether layers such as dropout behave as in training. In a graph the model's methods
            decide: `fit` trains, `predict` does not, whatever a layer was called with.
        mask : bool array of the leading axes, optional
            Steps that count, for layers that use masks. In a graph masks flow by themselves.
        **options
            What the layer's class declares in ``call_options``.

        Returns
        -------
        np.ndarray or SymbolicTensor

        Raises
        ------
        ValueError
            The input does not fit, or `training` is True on symbolic tensors.
        TypeError
            The layer takes no such option.
        """
        return self.apply(inputs, training, mask, **options)

    def apply(
        self, inputs: Any, training: bool | None = False, mask: Any = None, **options: Any
    ) -> Any:
        """Do what ``__call__`` does by default, in a class whose own has other arguments too."""
        try:
            several = isinstance(inputs, (list, tuple))
            options = self._checked_options(len(inputs) if several else None, options)
            if isinstance(inputs, SymbolicTensor) or (
                several and any(isinstance(x, SymbolicTensor) for x in inputs)
            ):
                self._refuse_training(training)
                if mask is not None:
                    raise self.error("mask is not supported on symbolic tensors: masks flow there")
                return self._call_on_symbols(inputs, options)
            if self.named_inputs:
                names = (*self.named_inputs, *options["given"])
                x: Any = [self._convert_input(*pair) for pair in zip(names, inputs, strict=True)]
            elif several and any(isinstance(x, np.ndarray) for x in inputs):
                x = [self._convert(array) for array in inputs]
            else:
                x = self._convert(inputs)
            shapes: Shapes = [array.shape for array in x] if isinstance(x, list) else x.shape
            self._check_or_build(shapes, options, forget_batch=True)
            self.reset_losses()
            if mask is not None:
                options["mask"] = self._checked_mask(mask, shapes)
            return self.forward(x, True, **options)[0] if training else self.call(x, **options)
        except NAMED_ERRORS as error:
            name_error(error, self)
            raise

    def _apply_named(
        self, inputs: Mapping[str, Any], training: bool | None = False, **options: Any
    ) -> Any:
        """`apply` to inputs by name; optional ones may be absent or None."""
        given = [name for name in self.optional_inputs if inputs.get(name) is not None]
        tensors = [inputs[name] for name in (*self.named_inputs, *given)]
        return self.apply(tensors, training, given=given, **options)

    def _checked_options(self, count: int | None, options: Mapping[str, Any]) -> dict[str, Any]:
        """Return the options of a call on a list of `count` inputs (None: not a list)."""
        known = {**self.call_options, **({"given": _names} if self.named_inputs else {})}
        unknown = [repr(name) for name in options if name not in known]
        if unknown:
            takes = ", ".join(self.call_options) or "none"
            raise TypeError(f"takes no argument {', '.join(unknown)}; its call options: {takes}")
        checked = {name: known[name](self, name, value) for name, value in options.items()}
        if self.named_inputs:
            checked.setdefault("given", ())
            names = (*self.named_inputs, *checked["given"])
            if count != len(names):
                raise self.error(f"expects a list of {', '.join(names)}, got {count or 1} inputs")
        return checked

    # -- shapes -------------------------------------------------------------------------------

    def _check_or_build(
        self, shapes: Shapes, options: Mapping[str, Any], forget_batch: bool = False
    ) -> None:
        required = self._required(shapes)
        if not self.built:
            self.build(any_batch(required) if forget_batch else required)
        self.check_input_shape(required)
        if options.get("given"):
            more = dict(zip(options["given"], shapes[len(self.named_inputs) :], strict=True))
            self.check_optional_inputs(required, more)  # type: ignore[arg-type]

    def _required(self, shapes: Shapes) -> Shapes:
        """Return the shapes without those of optional inputs: what ``build`` is given."""
        is_list = isinstance(shapes, list) and self.named_inputs
        return list(shapes[: len(self.named_inputs)]) if is_list else shapes  # type: ignore[arg-type]

    def check_optional_inputs(self, required: list[Shape], given: Mapping[str, Shape]) -> None:
        """Raise ValueError unless the optional inputs of these shapes fit the others.

        Parameters
        ----------
        required : list of tuple
            Of ``named_inputs``, which have been checked.
        given : dict of str to tuple
            Of the ``optional_inputs`` that there are.
        """

    def output_shape_of_call(self, shapes: Any, options: Mapping[str, Any]) -> Any:
        """Return `compute_output_shape` of the inputs of a call with these options."""
        options = {name: value for name, value in options.items() if name != "given"}
        return self.compute_output_shape(self._required(shapes), **options)

    # -- arrays -------------------------------------------------------------------------------

    def _checked_mask(self, mask: Any, shapes: Shapes) -> np.ndarray:
        if not self.uses_mask:
            raise self.error("takes no mask")
        mask = np.asarray(mask)
        leading = (shapes[0] if isinstance(shapes, list) else shapes)[: mask.ndim]
        if mask.dtype != np.bool_ or not mask.ndim or mask.shape != leading:
            raise self.error(
                f"mask expects a bool array of the input's leading axes, {shapes}, "
                f"got {mask.dtype} of shape {mask.shape}"
            )
        return mask

    def _convert(self, array: Any) -> np.ndarray:
        array = np.asarray(array)
        if array.dtype == _FLOAT32 or (self.keeps_dtype and array.dtype.kind in "iu"):
            return array
        if array.dtype.kind not in "fiub":
            raise TypeError(f"expects an array of real numbers, got dtype {array.dtype}")
        return array.astype(np.float32)

    def _convert_input(self, name: str, array: Any) -> np.ndarray:
        """Convert one of the inputs that have names."""
        return self._convert(array)

    # -- symbolic tensors ---------------------------------------------------------------------

    def _refuse_training(self, training: bool | None) -> None:
        # Keras 3 keeps the argument, but fit, evaluate and predict override it: there False changes
        # nothing, and True is obeyed only where a model is called like a function.
        if training:
            raise self.error(
                f"training={training!r} is not supported on symbolic tensors: a model's fit trains "
                "and its predict does not, whatever a layer was called with. For dropout in "
                "inference call the model on arrays with training=True"
            )

    def _call_on_symbols(self, inputs: Any, options: Mapping[str, Any]) -> Any:
        takes_list = isinstance(inputs, (list, tuple))
        tensors = tuple(inputs) if takes_list else (inputs,)
        for tensor in tensors:
            if not isinstance(tensor, SymbolicTensor):
                raise TypeError(f"cannot mix symbolic tensors with {type(tensor).__name__}")
        shapes: Shapes = [t.shape for t in tensors] if takes_list else inputs.shape
        self._check_or_build(shapes, options)
        result = self.output_shape_of_call(shapes, options)
        single = is_shape(result)
        dtype = tensors[0].dtype if self.keeps_dtype else self.dtype
        outputs = tuple(
            SymbolicTensor(as_shape(shape), dtype) for shape in ([result] if single else result)
        )
        Node(self, tensors, outputs, takes_list, returns_tuple=not single, options=options)  # type: ignore[arg-type]
        return outputs[0] if single else outputs

    @property
    def input(self) -> Any:
        """The symbolic input of the layer's first call: a tensor, or a list of them."""
        node = self._first_node("input")
        return list(node.inputs) if node.takes_list else node.inputs[0]

    @property
    def output(self) -> Any:
        """The symbolic output of the layer's first call: a tensor, or a tuple of them."""
        node = self._first_node("output")
        return node.outputs if node.returns_tuple else node.outputs[0]

    def _first_node(self, what: str) -> Node:
        if not self.nodes:
            # AttributeError, so that hasattr(layer, "output") answers.
            raise AttributeError(f"{self.label}: has no {what} before it is called on a tensor")
        return self.nodes[0]


def _names(layer: Called, argument: str, value: Any) -> tuple[str, ...]:
    """Return the names of the optional inputs of a call, which come in the class's order."""
    names = tuple(value) if isinstance(value, (list, tuple)) else None
    if names is None or names != tuple(n for n in layer.optional_inputs if n in names):
        listed = ", ".join(layer.optional_inputs)
        raise layer.error(f"{argument} expects names of {listed}, in this order, got {value!r}")
    return names
