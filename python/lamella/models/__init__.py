"""Models: layers joined into a graph that is trained, evaluated, saved and loaded."""

from __future__ import annotations

from lamella.models.functional import Model, clone_model
from lamella.models.saving import load_model
from lamella.models.sequential import Sequential

#: Keras' name of the class behind ``Model(inputs, outputs)``.
Functional = Model

__all__ = ["Functional", "Model", "Sequential", "clone_model", "load_model"]
