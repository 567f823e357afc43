"""Data to train on: handwritten digits that come with the package, and readers of files on disk.

Nothing here downloads anything.
"""

from __future__ import annotations

from lamella.datasets.digits import load_digits
from lamella.datasets.documentation import Documentation, load_documentation
from lamella.datasets.mnist import load_mnist

__all__ = ["Documentation", "load_digits", "load_documentation", "load_mnist"]
