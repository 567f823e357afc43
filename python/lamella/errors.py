"""Exception types that are lamella's own.

Everything else is a built-in exception: see the table "Errors" of the documentation.
"""

from __future__ import annotations


class ModelFileError(ValueError):
    """A model file is damaged, hostile, or was not written by lamella.

    The message names the file and says what is wrong with it. A file that does not exist raises
    `FileNotFoundError` instead.
    """
