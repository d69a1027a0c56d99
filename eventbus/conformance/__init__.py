"""Whether a loop keeps the rules of the vocabulary. Used through `eventbus.testing`.

A `Watch` hears every emission on a bus and gives each run rules of its own, by span: `run_rules`,
`epoch_rules`, `step_rules`, `validation_rules`; `field_rules` and `metric_rules` are for what an
emission carries. They share one `Place`: where the run is by what it has said. What they find goes
into a `Report`. `check` runs a loop under a watch; `trials` runs it again, with handlers that
answer.
"""

from __future__ import annotations

from eventbus.conformance.check import check_loop, watch_loop
from eventbus.conformance.report import Report, Violation

__all__ = ["Report", "Violation", "check_loop", "watch_loop"]
