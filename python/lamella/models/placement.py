"""`Placement`: the device that a model computes on.

Weights lie on the device, and so do the tensors between layers. What comes in is moved there batch
by batch, except integers: layers that take indices move them themselves, and masks that are made
from them stay on the host. What goes out is moved back.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from lamella import devices
from lamella.arrays import like, to_numpy

if TYPE_CHECKING:
    from lamella.layers.base import Weight


class Placement:
    """The part of `lamella.models.Model` that says where it computes."""

    _device: str | None = None
    _module: Any = None
    # The weights that were moved to the device; a graph that has changed has others.
    _placed: list[Weight] | None = None

    if TYPE_CHECKING:
        built: bool

        @property
        def weights(self) -> list[Weight]: ...

    @property
    def device(self) -> str:
        """The device's name: "cpu" or "cuda".

        Until the model computes for the first time, the one that it would compute on.
        """
        return devices.default() if self._device is None else self._device

    def to(self, device: str) -> Any:
        """Move the model to a device: its weights, and what it computes from now on.

        Parameters
        ----------
        device : {"cpu", "cuda"}

        Returns
        -------
        Model
            The model itself.

        Raises
        ------
        ValueError
            There is no device of this name.
        lamella.cuda.CudaError
            It cannot be used; the message says why.
        lamella.cuda.OutOfMemoryError
            The weights do not fit; the model stays where it is.

        Examples
        --------
        >>> import lamella
        >>> model = lamella.Sequential([lamella.Input(shape=(2,)), lamella.layers.Dense(1)])
        >>> model.to("cpu").device
        'cpu'
        """
        module = devices.module_of(device)
        self._move(device, module)
        return self

    def _move(self, device: str, module: Any) -> None:
        weights = self.weights if self.built else []
        # All of them, before any is changed.
        moved = [_on(module, weight.value) for weight in weights]
        for weight, value in zip(weights, moved, strict=True):
            if value is not weight.value:
                weight.move(value)
        self._device, self._module = device, module
        self._placed = weights if self.built else None

    def _place(self) -> None:
        """Move weights that are not where the model computes: before it does."""
        if self._placed is None:
            device = self.device
            self._move(device, devices.module_of(device))

    def _on_device(self, arrays: Sequence[Any]) -> Sequence[Any]:
        """Return a batch's inputs where the layers want them."""
        module = self._module
        if module is None:
            return arrays
        return [module.asarray(array) if array.dtype == np.float32 else array for array in arrays]

    def _on_host(self, arrays: list[Any]) -> list[Any]:
        return arrays if self._module is None else [to_numpy(array) for array in arrays]

    def _like_outputs(self, gradients: list[Any], outputs: Sequence[Any]) -> list[Any]:
        """Return losses' gradients where the outputs are."""
        if self._module is None:
            return gradients
        return [
            None if gradient is None else like(output, gradient)
            for gradient, output in zip(gradients, outputs, strict=True)
        ]


def _on(module: Any, value: Any) -> Any:
    if module is None:
        return to_numpy(value)
    return value if type(value) is module.Array else module.asarray(to_numpy(value))
