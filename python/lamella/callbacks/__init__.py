"""Callbacks, by Keras 3's names: what happens besides training while a model trains."""

from __future__ import annotations

from lamella.callbacks.base import Callback, CallbackList, History
from lamella.callbacks.monitor import EarlyStopping, ModelCheckpoint, ReduceLROnPlateau
from lamella.callbacks.progress_bar import ProgressBar
from lamella.callbacks.tools import (
    CSVLogger,
    LambdaCallback,
    LearningRateScheduler,
    TerminateOnNaN,
)

#: Keras' name for it.
ProgbarLogger = ProgressBar

__all__ = [
    "CSVLogger",
    "Callback",
    "CallbackList",
    "EarlyStopping",
    "History",
    "LambdaCallback",
    "LearningRateScheduler",
    "ModelCheckpoint",
    "ProgbarLogger",
    "ProgressBar",
    "ReduceLROnPlateau",
    "TerminateOnNaN",
]
