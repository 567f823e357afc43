"""Exception types that are lamella's own.

Everything else is a built-in exception: see the table "Errors" of the documentation.
"""

from __future__ import annotations


class ModelFileError(ValueError):
    """A model file is damaged, hostile, or was not written by lamella.

    The message names the file and says what is wrong with it. A file that does not exist raises
    `FileNotFoundError` instead.
    """


class CudaError(RuntimeError):
    """The CUDA driver or a kernel failed; later calls may fail too. `lamella.cuda.CudaError`."""


class OutOfMemoryError(MemoryError):
    """A device has no room for an array or for an op's scratch memory.

    The message names the op and the bytes. The process goes on, and so do later calls that need
    less. `lamella.cuda.OutOfMemoryError`.
    """
