"""What eventbus costs, beside others: `python -m benchmarks`, or `make bench`.

Every case is a ratio measured in one process, in rounds that take turns; see `measure`.
"""

from __future__ import annotations
