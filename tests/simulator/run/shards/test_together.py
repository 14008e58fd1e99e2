"""A run over shards is the run of one process: the same bytes, events, figures and verdicts, however many shards there are."""

from __future__ import annotations

import io
import json
import re
import threading

import pytest
from bmsota_sim.run.driving import Hooks, carry_out_virtual
from bmsota_sim.run.given import prepare
from bmsota_sim.run.judged import JudgedRun
from bmsota_sim.run.outputs.watch import RunWatch
from bmsota_sim.run.scenario import parse_scenario
from bmsota_sim.run.shards.part import shard_units
from bmsota_sim.run.steering import SteeringSocket, ask_run
from rich.console import Console

from bmsota.errors import ConfigurationError

from .threads import Sharded, document_of, given

SCENARIO = """
name: sharded
duration: 30s
platform: { acknowledges_reports: "yes" }
groups:
  a: { profile: E7, count: 8 }
  b: { profile: F7, count: 3 }
  c: { profile: E7, count: 2, fidelity: full }
life: { report: 3s, heartbeat: 7s }
timeline:
  - { at: 10s, do: offline, who: 40%, for: 9s, name: away }
  - { at: 22s, do: storm, who: 30% of a }
  - { at: 12s, do: slave_silent, who: 20% of a, slave: 1, for: 5s }
  - { at: 23s, do: platform_outage, for: 4s }
expect:
  - { what: sent, above: 40, by: 20s }
  - { what: acknowledged / sent, at_least: 100%, since: 5s after away, who: 50% of a }
  - { what: logged_in, by: 15s, at_least: 100% }
  - { what: reply_p99, below: 2s }
  - { what: garbage, is: 3 }
"""


def in_one_process(text, **values):
    prepared, results = prepare(given(text, **values)), []
    watch = RunWatch(Console(file=io.StringIO()), prepared.end_ns, is_virtual=True)
    hooks = Hooks(
        is_stopped=lambda: False,
        look=watch.update,
        ended=lambda run: results.append(run.end()),
        planned=watch.sampler.plan,
    )
    run = carry_out_virtual(prepared, hooks)
    watch.end(run)
    return document_of(run, results[0], watch.series)


@pytest.fixture(scope="module")
def whole():
    return in_one_process(SCENARIO)


@pytest.mark.parametrize(
    "count", [pytest.param(1, marks=pytest.mark.slow), 2, 3, pytest.param(5, marks=pytest.mark.slow)]
)
def test_any_number_of_shards_gives_the_same_report(whole, count):
    """Traces, counters, latencies, first faults, events, verdicts, samples over time: every value of the report."""
    sharded = Sharded(SCENARIO, count)
    assert json.loads(json.dumps(sharded.document())) == json.loads(json.dumps(whole))
    assert {case.passed for case in sharded.result.cases} == {True, False}
    assert sharded.coordinator.losses == []


@pytest.mark.slow
def test_a_shard_that_is_lost_begins_again_and_nothing_is_missing(whole):
    """In virtual time; however far it was, and though it is lost again."""
    sharded = Sharded(SCENARIO, 3, loses={1: [3, 1], 2: [0]})
    assert sharded.document() == whole
    assert sorted(sharded.host.starts) == [0, 1, 1, 1, 2, 2]
    assert [(loss.shard, loss.is_back) for loss in sorted(sharded.coordinator.losses)] == [
        (1, True),
        (1, True),
        (2, True),
    ]
    assert re.search(
        r"^shard 2 of 3 was lost at [\d.]+ s: it was lost; it begins again$", sharded.output.getvalue(), re.MULTILINE
    )
    told = sharded.coordinator.shards()
    assert [len(shard["lost"]) for shard in told] == [0, 2, 1]


@pytest.mark.slow
def test_a_shard_that_is_lost_again_and_again_is_given_up_and_what_it_had_to_do_has_failed(whole):
    sharded = Sharded(SCENARIO, 3, loses={0: [2, 2, 2, 2, 2]})
    assert [loss.is_back for loss in sharded.coordinator.losses] == [True, True, True, False]
    assert sharded.coordinator.ends[0].hashes == {}
    its = {str(unit) for unit in sharded.coordinator.run.units[0]}
    other = {unit: digest["hash"] for unit, digest in whole["units"].items() if unit not in its}
    assert sharded.result.hashes == other
    failed = [event for event in sharded.result.events if event.outcome == "failed"]
    assert failed
    assert {event.reason for event in failed} == {"shard 1 of 3 was lost then"}
    assert not sharded.result.ok


class PlannedRun(JudgedRun):
    """Its plan alone."""

    at_ns = 0
    not_started = ()


@pytest.mark.parametrize("count", [1, 2, 3, 5])
def test_who_is_meant_does_not_depend_on_the_shard(count):
    """Shares and outcomes are drawn for the whole run: the events of all shards together are those of the run, each once."""
    text = SCENARIO + "ota: { release: 2.0.0, at: 5s, outcomes: { succeeds: 60%, rejects: 40% } }\n"
    scenario = parse_scenario(text)
    run = PlannedRun(scenario, 7)
    parts = [PlannedRun(scenario, 7, only=shard_units(scenario, index, count)) for index in range(count)]
    of_units = [event.planned for part in parts for event in part.events if event.planned.unit is not None]
    assert sorted(of_units, key=lambda planned: planned.order) == [
        event.planned for event in run.events if event.planned.unit is not None
    ]
    for part in parts:
        assert {event.planned for event in part.events if event.planned.unit is None} == {
            event.planned for event in run.events if event.planned.unit is None
        }
        assert {unit: part.outcomes[unit] for unit in run.outcomes} == run.outcomes
    assert sorted(unit for part in parts for unit in part.identities) == sorted(run.ids)
    assert {unit: who for part in parts for unit, who in part.identities.items()}.keys() == run.identities.keys()
    assert all(part.identities[unit].vin == run.identities[unit].vin for part in parts for unit in part.identities)


@pytest.mark.slow
def test_another_unit_or_group_changes_nobody_elses_trace(whole):
    more = SCENARIO.replace("count: 8", "count: 9").replace("groups:\n", "groups:\n  z: { profile: E7, count: 2 }\n")
    # The moment at which a unit is switched on is its place in the run, so the ramp-up is said.
    hashes = Sharded(more + "start: { over: 0s }\n", 2).result.hashes
    before = Sharded(SCENARIO + "start: { over: 0s }\n", 3).result.hashes
    named = {unit: digest for unit, digest in hashes.items() if unit in before}
    assert named == before


@pytest.mark.slow
def test_a_run_that_is_stopped_says_how_far_each_shard_came():
    """What all shards have passed is judged, the rest is not; each unit's trace is up to where its shard was."""
    long = SCENARIO.replace("duration: 30s", "duration: 10h")

    def is_over():
        return stop

    stop = False

    def look(coordinator):
        nonlocal stop
        stop = stop or coordinator.run.at_ns > 21_000_000_000

    sharded = Sharded(long, 2, is_stopped=is_over, look=look)
    ran = [shard["ran_s"] for shard in sharded.coordinator.shards()]
    assert sharded.result.ran_ns == round(min(ran) * 1e9)
    assert all(21 < each < 36_000 for each in ran)
    passed = {case.name: case.passed for case in sharded.result.cases}
    assert passed["sent of all: above 40, by 20s"] is True
    assert passed["garbage of all: exactly 3, at the end"] is None
    assert len(sharded.result.hashes) == 13


@pytest.mark.slow
def test_a_run_in_virtual_time_over_shards_cannot_be_steered(tmp_path):
    """Each shard has its own clock. The run can be asked for its status."""
    steering, answers = SteeringSocket(tmp_path / "s"), []

    def ask(do):
        try:
            answers.append(ask_run(tmp_path / "s", {"do": do}))
        except ConfigurationError as error:
            answers.append(str(error))

    def look(coordinator):
        for do in ["storm", "status"][len(answers) :]:
            asker = threading.Thread(target=ask, args=(do,))
            asker.start()
            while asker.is_alive():
                steering.poll(coordinator.run, lambda: "as it is")
            asker.join()

    Sharded(SCENARIO, 2, look=look)
    steering.close()
    assert answers == [
        "a run in virtual time over several workers cannot be steered; it can be asked for its status, and stopped",
        "as it is",
    ]


def test_more_shards_than_units_are_refused():
    with pytest.raises(ConfigurationError, match="expected at most 13 shards, one for each unit, got 14"):
        Sharded(SCENARIO, 14)


def test_a_mistake_that_a_shard_finds_is_told_as_in_one_process():
    with pytest.raises(ConfigurationError, match=r"expected bmsota 0\.0\.0, as where the run was started, got"):
        Sharded(SCENARIO, 2, version="0.0.0")
