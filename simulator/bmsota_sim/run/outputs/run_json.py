"""`run.json`: everything that a run was given and everything that became of it."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

from bmsota_sim.run.base import NS_PER_S
from bmsota_sim.run.judged import event_text

if TYPE_CHECKING:
    from collections.abc import Sequence

    from bmsota_sim.run.judged import JudgedRun, Result
    from bmsota_sim.run.outputs.series import Series

__all__ = ["run_document", "run_json", "unstarted_document"]


def run_document(
    run: JudgedRun,
    result: Result,
    *,
    given: dict[str, Any],
    generator: dict[str, Any],
    exit_code: int,
    series: Series,
    no_verdict: str = "",
    shards: Sequence[dict[str, Any]] = (),
) -> dict[str, Any]:
    """As a dictionary.

    Args:
        run: it has ended.
        result: its end.
        given: scenario text, seed, version and options.
        generator: lateness and CPU of the simulator itself; empty in virtual time.
        exit_code: of the command.
        series: the samples over time.
        no_verdict: why the run says nothing, if it does.
        shards: how each shard ended; none for a run in one process.
    """
    units = {
        str(unit): {
            "vin": ledger.vin,
            "hash": result.hashes.get(str(unit), ""),
            "logged_in": ledger.is_logged_in,
            "counters": {name: count for name, count in run.ledger.of_unit(unit).items() if count},
            "first": {
                name: {"at_s": first.at_ns / NS_PER_S, "bytes": first.data.hex(), "detail": first.detail}
                for name, first in ledger.firsts.items()
            },
        }
        for unit, ledger in run.ledger.units.items()
    }
    return {
        "format": 1,
        "given": given,
        "exit_code": exit_code,
        "no_verdict": no_verdict,
        "ran_s": result.ran_ns / NS_PER_S,
        "started": run.started,
        "ramp_s": None if run.ramp_ns is None else run.ramp_ns / NS_PER_S,
        "hash": result.fold,
        "generator": generator,
        "shards": list(shards),
        "counters": run.ledger.totals(),
        "reply_s": {f"p{share}": run.ledger.quantile(share / 100) for share in (50, 90, 99)},
        "series": series.document(),
        "verdicts": _verdicts(result),
        "events": [
            {
                "at_s": event.planned.at_ns / NS_PER_S,
                "do": event.planned.entry.do,
                "unit": None if event.planned.unit is None else str(event.planned.unit),
                "outcome": event.outcome,
                "text": event_text(event),
            }
            for event in result.events
        ],
        "units": units,
    }


def unstarted_document(result: Result, *, given: dict[str, Any], exit_code: int, series: Series) -> dict[str, Any]:
    """That of a run that was stopped before its first unit was switched on: nothing is judged."""
    return {
        "format": 1,
        "given": given,
        "exit_code": exit_code,
        "no_verdict": "",
        "ran_s": 0.0,
        "started": 0,
        "ramp_s": None,
        "hash": result.fold,
        "generator": {},
        "shards": [],
        "counters": {},
        "reply_s": {"p50": None, "p90": None, "p99": None},
        "series": series.document(),
        "verdicts": _verdicts(result),
        "events": [],
        "units": {},
    }


def _verdicts(result: Result) -> list[dict[str, Any]]:
    return [
        {
            "name": case.name,
            "passed": case.passed,
            "expected": case.expected,
            "got": case.got,
            "failing": list(case.failing),
        }
        for case in result.cases
    ]


def run_json(document: dict[str, Any]) -> str:
    """As text."""
    return json.dumps(document, indent=1) + "\n"
