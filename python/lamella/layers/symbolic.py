"""Symbolic tensors and the nodes that join them: a model's graph before any data flows.

Calling a layer on a `SymbolicTensor` makes a `Node`; a model walks from its outputs back to its
inputs along ``tensor.node`` and ``node.inputs``, once, when it is constructed.
"""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, NoReturn

from lamella.layers.naming import unique_name

if TYPE_CHECKING:
    from lamella.layers.base import Layer
    from lamella.layers.shapes import Shape


class SymbolicTensor:
    """A place in a model's graph: a shape and a dtype, no values.

    Parameters
    ----------
    shape : tuple of int or None
        With the batch axis; None where the size is not known yet.
    dtype : str
        "float32", or an integer dtype for indices.
    name : str, optional

    Attributes
    ----------
    node : Node
        The call that produces this tensor.
    index : int
        Its position among ``node.outputs``.

    Examples
    --------
    >>> from lamella.layers import Dense, Input
    >>> Dense(3)(Input((4,))).shape
    (None, 3)
    """

    # NumPy must leave `array + symbolic` to the methods below instead of looping over objects.
    __array_ufunc__ = None

    node: Node
    index: int

    def __init__(self, shape: Shape, dtype: str = "float32", name: str | None = None) -> None:
        self.shape = shape
        self.dtype = dtype
        self.name = unique_name("symbolic_tensor") if name is None else name

    @property
    def ndim(self) -> int:
        """Number of axes, the batch axis included."""
        return len(self.shape)

    def __add__(self, other: Any) -> Any:
        from lamella.layers.merging import Add

        return Add()([self, other]) if isinstance(other, SymbolicTensor) else NotImplemented

    def __mul__(self, other: Any) -> Any:
        from lamella.layers.merging import Multiply

        return Multiply()([self, other]) if isinstance(other, SymbolicTensor) else NotImplemented

    def __array__(self, *args: Any, **kwargs: Any) -> NoReturn:
        raise TypeError(
            f"{self!r} has no values: it is a place in a graph. Apply layers to it, make a Model "
            "of its inputs and outputs, and call that on arrays"
        )

    def __iter__(self) -> NoReturn:
        raise TypeError(f"{self!r} cannot be iterated over: it has no values")

    def __bool__(self) -> NoReturn:
        raise TypeError(f"{self!r} is neither true nor false: it has no values")

    def __repr__(self) -> str:
        return f"<SymbolicTensor shape={self.shape}, dtype={self.dtype}, name={self.name}>"


class Node:
    """One call of a layer on symbolic tensors.

    Parameters
    ----------
    layer : Layer
        The layer called; it lists its calls in ``layer.nodes``.
    inputs : tuple of SymbolicTensor
        Empty for an `InputLayer`.
    outputs : tuple of SymbolicTensor
    takes_list : bool
        The layer was called on a list: ``forward`` is given a list of arrays and its pullback
        returns a tuple of gradients. Otherwise both are a single array.
    returns_tuple : bool
        ``forward`` returns a tuple of arrays and its pullback takes a tuple of gradients.
    options : mapping of str to object
        The call's other arguments, of JSON types, which ``forward`` takes too.
    """

    __slots__ = ("inputs", "layer", "options", "outputs", "returns_tuple", "takes_list")

    def __init__(
        self,
        layer: Layer,
        inputs: tuple[SymbolicTensor, ...],
        outputs: tuple[SymbolicTensor, ...],
        takes_list: bool = False,
        returns_tuple: bool = False,
        options: Mapping[str, Any] = MappingProxyType({}),
    ) -> None:
        self.layer = layer
        self.inputs = inputs
        self.outputs = outputs
        self.takes_list = takes_list
        self.returns_tuple = returns_tuple
        self.options = options
        for index, tensor in enumerate(outputs):
            tensor.node = self
            tensor.index = index
        layer.nodes.append(self)

    def __repr__(self) -> str:
        shapes = ", ".join(str(tensor.shape) for tensor in self.inputs)
        return f"<Node {self.layer.name}({shapes})>"
