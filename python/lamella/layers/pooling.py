"""Pooling over windows and over all positions; the 1D layers pool a (N, T, 1, C) view."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, ClassVar

import numpy as np

from lamella import ops
from lamella.arrays import like, squeeze, with_zeros
from lamella.layers.arguments import channels_last, choice, flag, integers
from lamella.layers.base import Layer, Pullback
from lamella.layers.shapes import Shape, window_shape
from lamella.registry import register

_AXES_1D = ("batch", "steps", "channels")
_AXES_2D = ("batch", "height", "width", "channels")


class _Pooling2D(Layer):
    """Windows over (N, H, W, C)."""

    input_axes: tuple[Any, ...] | None = _AXES_2D
    _op: ClassVar[Callable[..., Any]]
    _vjp: ClassVar[Callable[..., Any]]

    def __init__(
        self,
        pool_size: Any,
        strides: Any,
        padding: str,
        data_format: str | None,
        name: str | None,
        **kwargs: Any,
    ) -> None:
        super().__init__(name=name, **kwargs)
        assert self.input_axes is not None
        spatial = len(self.input_axes) - 2
        self.pool_size = integers(self, "pool_size", pool_size, spatial)
        strides = self.pool_size if strides is None else strides
        self.strides = integers(self, "strides", strides, spatial)
        self.padding = choice(self, "padding", padding, ("valid", "same"))
        self.data_format = channels_last(self, data_format)
        one = (1,) * (2 - spatial)
        self._options = {
            "pool_size": self.pool_size + one,
            "strides": self.strides + one,
            "padding": self.padding,
        }

    def build(self, input_shape: Shape) -> None:
        self.compute_output_shape(input_shape)

    def forward(self, x: np.ndarray, training: bool) -> tuple[np.ndarray, Pullback]:
        y, pull = self._vjp(x, **self._options)
        return y, lambda dy: pull(dy)[0]

    def call(self, x: np.ndarray, training: bool = False) -> np.ndarray:
        return self._op(x, **self._options)

    def compute_output_shape(self, input_shape: Shape) -> Shape:
        self.check_input_shape(input_shape)
        size, strides, dilation = self.pool_size, self.strides, (1,) * len(self.pool_size)
        windows = window_shape(self, input_shape, size, strides, self.padding, dilation)
        return (input_shape[0], *windows, input_shape[-1])

    def get_config(self) -> dict[str, Any]:
        return {
            **super().get_config(),
            "pool_size": self.pool_size,
            "strides": self.strides,
            "padding": self.padding,
            "data_format": self.data_format,
        }


class _Pooling1D(_Pooling2D):
    """Windows over (N, T, C)."""

    input_axes = _AXES_1D

    def forward(self, x: np.ndarray, training: bool) -> tuple[np.ndarray, Pullback]:
        y, pull = self._vjp(x[:, :, None], **self._options)
        return y[:, :, 0], lambda dy: pull(dy[:, :, None])[0][:, :, 0]

    def call(self, x: np.ndarray, training: bool = False) -> np.ndarray:
        return self._op(x[:, :, None], **self._options)[:, :, 0]


@register("layer")
class MaxPooling2D(_Pooling2D):
    """``y[n,i,j,c] = max over the window at (i*stride, j*stride) of x[n,:,:,c]``.

    x (N, H, W, C), y (N, H', W', C). "same" pads with what never is the maximum.

    Parameters
    ----------
    pool_size : int or tuple of two ints
    strides : int or tuple of two ints, optional
        ``pool_size`` by default.
    padding : {"valid", "same"}
    data_format : {"channels_last"}, optional
    name : str, optional

    Raises
    ------
    ValueError
        If an argument is not what it should be, or the pool does not fit into the input.

    Examples
    --------
    >>> import numpy as np
    >>> MaxPooling2D()(np.arange(4.0).reshape(1, 2, 2, 1)).ravel()
    array([3.], dtype=float32)
    """

    _op = staticmethod(ops.max_pool2d)
    _vjp = staticmethod(ops.max_pool2d.vjp)

    def __init__(
        self,
        pool_size: Any = (2, 2),
        strides: Any = None,
        padding: str = "valid",
        data_format: str | None = None,
        name: str | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(pool_size, strides, padding, data_format, name, **kwargs)


@register("layer")
class MaxPooling1D(_Pooling1D):
    """`MaxPooling2D` along the steps of x (N, T, C), y (N, T', C).

    Parameters
    ----------
    pool_size : int
    strides : int, optional
        ``pool_size`` by default.
    padding : {"valid", "same"}
    data_format : {"channels_last"}, optional
    name : str, optional

    Examples
    --------
    >>> import numpy as np
    >>> MaxPooling1D(2)(np.arange(4.0).reshape(1, 4, 1)).ravel()
    array([1., 3.], dtype=float32)
    """

    _op = staticmethod(ops.max_pool2d)
    _vjp = staticmethod(ops.max_pool2d.vjp)

    def __init__(
        self,
        pool_size: Any = 2,
        strides: Any = None,
        padding: str = "valid",
        data_format: str | None = None,
        name: str | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(pool_size, strides, padding, data_format, name, **kwargs)


@register("layer")
class AveragePooling2D(_Pooling2D):
    """``y[n,i,j,c] = mean over the window at (i*stride, j*stride) of x[n,:,:,c]``.

    x (N, H, W, C), y (N, H', W', C). Padded positions do not count.

    Parameters
    ----------
    pool_size : int or tuple of two ints
    strides : int or tuple of two ints, optional
        ``pool_size`` by default.
    padding : {"valid", "same"}
    data_format : {"channels_last"}, optional
    name : str, optional

    Raises
    ------
    ValueError
        If an argument is not what it should be, or the pool does not fit into the input.

    Examples
    --------
    >>> import numpy as np
    >>> AveragePooling2D(2)(np.arange(4.0).reshape(1, 2, 2, 1)).ravel()
    array([1.5], dtype=float32)
    """

    _op = staticmethod(ops.avg_pool2d)
    _vjp = staticmethod(ops.avg_pool2d.vjp)

    def __init__(
        self,
        pool_size: Any,
        strides: Any = None,
        padding: str = "valid",
        data_format: str | None = None,
        name: str | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(pool_size, strides, padding, data_format, name, **kwargs)


@register("layer")
class AveragePooling1D(_Pooling1D):
    """`AveragePooling2D` along the steps of x (N, T, C), y (N, T', C).

    Parameters
    ----------
    pool_size : int
    strides : int, optional
        ``pool_size`` by default.
    padding : {"valid", "same"}
    data_format : {"channels_last"}, optional
    name : str, optional

    Examples
    --------
    >>> import numpy as np
    >>> AveragePooling1D(2)(np.arange(4.0).reshape(1, 4, 1)).ravel()
    array([0.5, 2.5], dtype=float32)
    """

    _op = staticmethod(ops.avg_pool2d)
    _vjp = staticmethod(ops.avg_pool2d.vjp)

    def __init__(
        self,
        pool_size: Any,
        strides: Any = None,
        padding: str = "valid",
        data_format: str | None = None,
        name: str | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(pool_size, strides, padding, data_format, name, **kwargs)


class _GlobalPooling(Layer):
    """All positions of (N, H, W, C) or (N, T, C) at once."""

    _op: ClassVar[Callable[..., Any]]
    _vjp: ClassVar[Callable[..., Any]]

    def __init__(
        self, data_format: str | None = None, keepdims: bool = False, **kwargs: Any
    ) -> None:
        super().__init__(**kwargs)
        self.data_format = channels_last(self, data_format)
        self.keepdims = flag(self, "keepdims", keepdims)

    def forward(self, x: np.ndarray, training: bool) -> tuple[np.ndarray, Pullback]:
        if x.ndim == 3:
            x = x[:, :, None]
        y, pull = self._vjp(x)
        rank = len(self.input_axes or ())
        shape = y.shape

        def pullback(dy: np.ndarray) -> np.ndarray:
            dx = pull(dy.reshape(shape))[0]
            return dx[:, :, 0] if rank == 3 else dx

        return self._with_positions(y), pullback

    def call(self, x: np.ndarray, training: bool = False) -> np.ndarray:
        return self._with_positions(self._op(x[:, :, None] if x.ndim == 3 else x))

    def _with_positions(self, y: np.ndarray) -> np.ndarray:
        if not self.keepdims:
            return y
        ones = (1,) * (len(self.input_axes or ()) - 2)
        return y.reshape(y.shape[0], *ones, y.shape[1])

    def compute_output_shape(self, input_shape: Shape) -> Shape:
        positions = (1,) * (len(input_shape) - 2) if self.keepdims else ()
        return (input_shape[0], *positions, input_shape[-1])

    def get_config(self) -> dict[str, Any]:
        return {
            **super().get_config(),
            "data_format": self.data_format,
            "keepdims": self.keepdims,
        }


@register("layer")
class GlobalAveragePooling2D(_GlobalPooling):
    """``y[n,c] = mean over i, j of x[n,i,j,c]``; x (N, H, W, C), y (N, C).

    Parameters
    ----------
    data_format : {"channels_last"}, optional
    keepdims : bool
        Whether y has shape (N, 1, 1, C).

    Examples
    --------
    >>> import numpy as np
    >>> GlobalAveragePooling2D()(np.arange(4.0).reshape(1, 2, 2, 1))
    array([[1.5]], dtype=float32)
    """

    input_axes = _AXES_2D
    _op = staticmethod(ops.global_avg_pool2d)
    _vjp = staticmethod(ops.global_avg_pool2d.vjp)


@register("layer")
class GlobalMaxPooling2D(_GlobalPooling):
    """``y[n,c] = max over i, j of x[n,i,j,c]``; x (N, H, W, C), y (N, C).

    Parameters
    ----------
    data_format : {"channels_last"}, optional
    keepdims : bool
        Whether y has shape (N, 1, 1, C).

    Examples
    --------
    >>> import numpy as np
    >>> GlobalMaxPooling2D()(np.arange(4.0).reshape(1, 2, 2, 1))
    array([[3.]], dtype=float32)
    """

    input_axes = _AXES_2D
    _op = staticmethod(ops.global_max_pool2d)
    _vjp = staticmethod(ops.global_max_pool2d.vjp)


@register("layer")
class GlobalAveragePooling1D(_GlobalPooling):
    """``y[n,c] = mean over t of x[n,t,c]``; x (N, T, C), y (N, C).

    With a mask (N, T) the mean is that of the steps that count, 0 where there is none.

    Parameters
    ----------
    data_format : {"channels_last"}, optional
    keepdims : bool
        Whether y has shape (N, 1, C).

    Examples
    --------
    >>> import numpy as np
    >>> GlobalAveragePooling1D()(np.arange(4.0).reshape(1, 4, 1))
    array([[1.5]], dtype=float32)
    """

    input_axes = _AXES_1D
    supports_masking = True
    uses_mask = True
    _op = staticmethod(ops.global_avg_pool2d)
    _vjp = staticmethod(ops.global_avg_pool2d.vjp)

    @property
    def makes_mask(self) -> bool:
        return False

    def compute_mask(self, inputs: Any, mask: Any = None) -> None:
        """Return None: the steps are gone."""

    def forward(
        self, x: np.ndarray, training: bool, mask: np.ndarray | None = None
    ) -> tuple[np.ndarray, Pullback]:
        if mask is None:
            return super().forward(x, training)
        # The mean as a product with each step's share (N, 1, T).
        y, pull = ops.matmul.vjp(_shares(x, mask), _counted(x, mask), needs=(False, True))
        shape = y.shape
        return self._with_positions(squeeze(y, 1)), lambda dy: pull(dy.reshape(shape))[1]

    def call(
        self, x: np.ndarray, training: bool = False, mask: np.ndarray | None = None
    ) -> np.ndarray:
        if mask is None:
            return super().call(x, training)
        y = ops.matmul(_shares(x, mask), _counted(x, mask))
        return self._with_positions(squeeze(y, 1))


def _counted(x: np.ndarray, mask: np.ndarray) -> np.ndarray:
    # NaN in a step that does not count must not reach the mean.
    return with_zeros(x, mask[..., np.newaxis])


def _shares(x: Any, mask: np.ndarray) -> Any:
    counts = np.maximum(np.count_nonzero(mask, axis=1), 1).astype(np.float32)
    return like(x, (mask / counts[:, np.newaxis])[:, np.newaxis].astype(np.float32))


@register("layer")
class GlobalMaxPooling1D(_GlobalPooling):
    """``y[n,c] = max over t of x[n,t,c]``; x (N, T, C), y (N, C).

    Parameters
    ----------
    data_format : {"channels_last"}, optional
    keepdims : bool
        Whether y has shape (N, 1, C).

    Examples
    --------
    >>> import numpy as np
    >>> GlobalMaxPooling1D()(np.arange(4.0).reshape(1, 4, 1))
    array([[3.]], dtype=float32)
    """

    input_axes = _AXES_1D
    _op = staticmethod(ops.global_max_pool2d)
    _vjp = staticmethod(ops.global_max_pool2d.vjp)
