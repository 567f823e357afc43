"""`Weight`: one parameter array of a layer, its gradient, and who owns their memory."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from lamella import ops
from lamella.arrays import copy_to, is_on_device, like, to_numpy

if TYPE_CHECKING:
    from lamella.layers.shapes import Shape


class Weight:
    """A float32 array that a layer computes with, and the gradient of the loss to it.

    A weight begins with memory of its own. A model moves its weights into one flat buffer with
    `bind`; from then on ``value`` and ``gradient`` are views into the model's buffers, so whoever
    computes with a weight reads ``weight.value`` at the time of the call.

    Parameters
    ----------
    name : str
        Name within the layer, such as "kernel".
    path : str
        Name within a model, such as "dense/kernel".
    value : np.ndarray
        float32, C-contiguous; kept, not copied.
    trainable : bool
    regularizer : optional
        Penalty on the value, added to the loss by the trainer.

    Attributes
    ----------
    value, gradient : np.ndarray
        ``gradient`` is None while there is none: no model owns the weight and no pullback ran.
    gradient_written : bool
        Whether this step's backward pass has written ``gradient``.

    Examples
    --------
    >>> w = Weight("kernel", "dense/kernel", np.zeros((2, 3), np.float32))
    >>> w.add_gradient(np.ones((2, 3), np.float32))
    >>> w.add_gradient(np.ones((2, 3), np.float32))
    >>> float(w.gradient[0, 0])
    2.0
    """

    dtype = np.dtype(np.float32)

    def __init__(
        self,
        name: str,
        path: str,
        value: np.ndarray,
        trainable: bool = True,
        regularizer: Any = None,
    ) -> None:
        self.name = name
        self.path = path
        self.value = value
        self.trainable = trainable
        self.regularizer = regularizer
        self.gradient: np.ndarray | None = None
        self.gradient_written = False
        self._bound = False

    @property
    def shape(self) -> Shape:
        """Shape of the value."""
        return self.value.shape

    @property
    def ndim(self) -> int:
        """Number of axes of the value."""
        return self.value.ndim

    @property
    def size(self) -> int:
        """Number of entries of the value."""
        return self.value.size

    def bind(self, value: np.ndarray, gradient: np.ndarray | None = None) -> None:
        """Move the weight into memory of its owner.

        Parameters
        ----------
        value : np.ndarray
            float32 of this weight's shape; receives the present value.
        gradient : np.ndarray, optional
            float32 of the same shape, for a weight that is trained.
        """
        copy_to(value, self.value)
        self.value = value
        self.gradient = gradient
        self.gradient_written = False
        self._bound = gradient is not None

    def move(self, value: Any) -> None:
        """Go on with `value`, the same elements on another device, and without a gradient."""
        self.value = value
        self.gradient = None
        self.gradient_written = False
        self._bound = False

    def gradient_out(self) -> np.ndarray | None:
        """Return the array a kernel may overwrite with the gradient.

        None when the weight has no memory for its gradient, or when something was written to it
        in this step: then the kernel allocates and `add_gradient` sums.
        """
        return self.gradient if self._bound and not self.gradient_written else None

    def add_gradient(self, gradient: np.ndarray | None) -> None:
        """Deliver a gradient: stored the first time in a step, added afterwards.

        Parameters
        ----------
        gradient : np.ndarray or None
            float32 of the weight's shape. Nothing is copied when it is the array `gradient_out`
            returned. None (a gradient that was not asked for) changes nothing.

        Raises
        ------
        ValueError
            If the shape differs.
        """
        if gradient is None:
            return
        if gradient is self.gradient and not self.gradient_written:
            self.gradient_written = True
            return
        if gradient.shape != self.value.shape:
            raise ValueError(
                f"weight {self.path!r} has shape {self.shape}, its gradient {gradient.shape}"
            )
        if self.gradient is None or (not self._bound and not self.gradient_written):
            # Not copied: without an owner, sums make a new array and leave this one alone.
            self.gradient = gradient
        elif not self.gradient_written:
            copy_to(self.gradient, gradient)
        elif is_on_device(self.gradient):
            ops.accumulate_(self.gradient, like(self.gradient, gradient))
        elif self._bound:
            np.add(self.gradient, gradient, out=self.gradient)
        else:
            self.gradient = self.gradient + gradient
        self.gradient_written = True

    def reset_gradient(self) -> None:
        """Begin a step: the next gradient is stored, not added."""
        self.gradient_written = False
        if not self._bound:
            self.gradient = None

    def assign(self, value: Any) -> None:
        """Copy an array of the same shape into the weight.

        Raises
        ------
        ValueError
            If the shape differs, naming the weight and both shapes.
        TypeError
            If it does not hold real numbers.
        """
        copy_to(self.value, self.convert(value))

    def convert(self, value: Any) -> np.ndarray:
        """Return ``value`` as float32 of this weight's shape, or raise as `assign` does."""
        array = np.asarray(to_numpy(value))
        if array.dtype.kind not in "fiub":
            raise TypeError(f"weight {self.path!r} expects real numbers, got dtype {array.dtype}")
        if array.shape != self.shape:
            raise ValueError(
                f"weight {self.path!r} expects shape {self.shape}, got shape {array.shape}"
            )
        return array.astype(np.float32, copy=False)

    def numpy(self) -> np.ndarray:
        """Return a copy of the value."""
        return np.array(to_numpy(self.value))

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> np.ndarray:
        if copy is False and dtype not in (None, self.dtype):
            raise ValueError(f"weight {self.path!r} is float32: {dtype} needs a copy")
        value = to_numpy(self.value)
        array = value if dtype is None else value.astype(dtype, copy=False)
        return array.copy() if copy else array

    def __repr__(self) -> str:
        return f"<Weight path={self.path}, shape={self.shape}, dtype={self.dtype}>"
