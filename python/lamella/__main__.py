"""``python -m lamella``: the command line."""

from __future__ import annotations

import sys

from lamella.cli import main

sys.exit(main())
