"""`KernelLayer`: layers of the form ``activation(op(x, kernel) + bias)``.

Dense and the convolutions differ in their op, its options and their shapes; all else is here. The
op fuses the bias and most activations; a softmax (and what else the op lacks) runs after it.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, ClassVar

import numpy as np

from lamella import activations, initializers, regularizers
from lamella.layers.arguments import flag, reject
from lamella.layers.base import Layer, Pullback
from lamella.layers.weight import Weight


class KernelLayer(Layer):
    """Base of Dense and the convolutions.

    A subclass sets ``_op`` and ``_vjp``, fills ``_options`` with the op's keyword arguments, and
    calls `_make_weights` in ``build``.
    """

    # staticmethod(ops.f) and staticmethod(ops.f.vjp)
    _op: ClassVar[Callable[..., Any]]
    _vjp: ClassVar[Callable[..., Any]]
    # Prefix of the kernel's arguments: kernel_initializer, or Keras' depthwise_initializer.
    _kernel_prefix: ClassVar[str] = "kernel"

    kernel: Weight
    bias: Weight | None

    def __init__(
        self,
        *,
        activation: Any,
        use_bias: bool,
        kernel_initializer: Any,
        bias_initializer: Any,
        kernel_regularizer: Any,
        bias_regularizer: Any,
        kernel_constraint: Any,
        bias_constraint: Any,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        constraints = {f"{self._kernel_prefix}_constraint": kernel_constraint}
        reject(self, **constraints, bias_constraint=bias_constraint)
        self.use_bias = flag(self, "use_bias", use_bias)
        try:
            self.activation = activations.get(activation)
            self.kernel_initializer = initializers.get(kernel_initializer)
            self.bias_initializer = initializers.get(bias_initializer)
            self.kernel_regularizer = regularizers.get(kernel_regularizer)
            self.bias_regularizer = regularizers.get(bias_regularizer)
        except ValueError as error:
            raise self.error(str(error)) from None
        fused = getattr(self.activation, "fused", None)
        # What runs after the op, because the op does not fuse it.
        self._after = self.activation if fused is None else None
        self._options: dict[str, Any] = {"activation": fused}
        # The kernel as the op wants it, where that is not the shape Keras gives it.
        self._op_kernel_shape: tuple[int, ...] | None = None

    def _make_weights(self, kernel_shape: tuple[int, ...], outputs: int) -> None:
        self.kernel = self.add_weight(
            "kernel", kernel_shape, self.kernel_initializer, self.kernel_regularizer
        )
        self.bias = None
        if self.use_bias:
            self.bias = self.add_weight(
                "bias", (outputs,), self.bias_initializer, self.bias_regularizer
            )

    def forward(self, x: np.ndarray, training: bool) -> tuple[np.ndarray, Pullback]:
        if self._after is None:
            return self._forward_op(x, training)
        z, pull = self._forward_op(x, training)
        y, pull_after = self._after.vjp(z)
        return y, lambda dy: pull(pull_after(dy)[0])

    def call(self, x: np.ndarray, training: bool = False) -> np.ndarray:
        kernel, bias = self.kernel.value, self.bias
        if self._op_kernel_shape is not None:
            kernel = kernel.reshape(self._op_kernel_shape)
        y = self._op(x, kernel, None if bias is None else bias.value, **self._options)
        return y if self._after is None else self._after(y)

    @property
    def forward_logits(self) -> Callable[[Any, bool], tuple[Any, Pullback]] | None:
        """The layer without its softmax, if that is its activation and nothing looks at it."""
        is_last = self.activation is activations.softmax and self.activity_regularizer is None
        return self._forward_op if is_last else None

    def _forward_op(self, x: np.ndarray, training: bool) -> tuple[np.ndarray, Pullback]:
        kernel, bias, shape = self.kernel, self.bias, self._op_kernel_shape
        trained = self._trainable
        y, pull = self._vjp(
            x,
            kernel.value if shape is None else kernel.value.reshape(shape),
            None if bias is None else bias.value,
            needs=(self.needs_input_gradient, trained, trained and bias is not None),
            **self._options,
        )

        def pullback(dy: np.ndarray) -> np.ndarray | None:
            if not trained:
                return pull(dy)[0]
            kernel_out = kernel.gradient_out()
            bias_out = None if bias is None else bias.gradient_out()
            if kernel_out is None or shape is None:
                dx, dkernel, dbias = pull(dy, out=(None, kernel_out, bias_out))
                if shape is not None:
                    dkernel = dkernel.reshape(kernel.shape)
            else:
                # The op writes through a view; the weight knows the array itself.
                dx, _, dbias = pull(dy, out=(None, kernel_out.reshape(shape), bias_out))
                dkernel = kernel_out
            kernel.add_gradient(dkernel)
            if bias is not None:
                bias.add_gradient(dbias)
            return dx

        return y, pullback

    def get_config(self) -> dict[str, Any]:
        prefix, serialize = self._kernel_prefix, regularizers.serialize
        kernel, bias = self.kernel_regularizer, self.bias_regularizer
        return {
            **super().get_config(),
            "activation": activations.serialize(self.activation),
            "use_bias": self.use_bias,
            f"{prefix}_initializer": initializers.serialize(self.kernel_initializer),
            "bias_initializer": initializers.serialize(self.bias_initializer),
            f"{prefix}_regularizer": None if kernel is None else serialize(kernel),
            "bias_regularizer": None if bias is None else serialize(bias),
        }
