"""The exit codes of `bmsota-sim`."""

from __future__ import annotations

FAILED = 1
"""The run failed; one line says why."""
WRONG_USAGE = 2
"""Usage error, or a package is missing."""
NOT_AS_PLANNED = 3
"""A vehicle did not end as the scenario says."""
NO_VERDICT = 4
"""The generator was the bottleneck: what it saw says nothing of the platform."""
INTERRUPTED = 130
"""By Ctrl-C, as a shell says it."""
TERMINATED = 143
"""By SIGTERM, as a shell says it."""
