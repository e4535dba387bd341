"""What the exit status of a bench command means."""

from __future__ import annotations

EXIT_OK = 0
EXIT_MISSED = 1
"""A regression, a missed budget, or a page that is not current."""

EXIT_USAGE = 2
"""Wrong usage, or something that is needed is missing or broke."""

EXIT_BLIND = 3
"""The run's own noise is greater than what it should detect."""

EXIT_INVALID = 4
"""Measured, but a validity check failed: nothing may be concluded."""

EXIT_INCONCLUSIVE = 5
"""Neither a regression nor its absence is shown; only with --strict, else that is 0."""

EXIT_INTERRUPTED = 130
