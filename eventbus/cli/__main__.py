"""`python -m eventbus.cli` is the command `eventbus`."""

from __future__ import annotations

import sys

from eventbus.cli import main

if __name__ == "__main__":
    sys.exit(main())
