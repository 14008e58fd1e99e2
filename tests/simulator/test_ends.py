"""Whole units whose report the platform will not take: none is locked, and nothing is lost."""

import pytest

from bmsota.ota import UpdaterState


@pytest.fixture
def bench(unit_bench):
    """A unit on 2.0.0, whose platform refuses every signed report until told otherwise."""
    made = unit_bench.Bench()
    made.settle()
    made.platform.takes_reports = True
    take = made.platform._report
    made.platform._report = lambda document: made.platform.takes_reports and take(document)
    return made


def is_reporting(bench):
    return bench.unit.master.upgrade_state is UpdaterState.REPORTING


@pytest.mark.slow
def test_p8_a_unit_whose_report_is_refused_takes_the_next_order_over_power_cycles(bench, unit_bench):
    """A platform that was restored from a backup refuses it at every login; then it orders something newer."""
    bench.platform.takes_reports = False
    first = bench.platform.offer(unit_bench.release("2.1.0", 2))
    bench.wait(lambda: is_reporting(bench), "the first report")
    assert bench.versions() == ("2.1.0",) * len(bench.versions())
    for _ in range(3):
        bench.unit.cycle_power(unit_bench.SECOND)
        bench.wait(lambda: bench.is_up() and is_reporting(bench), "reporting again")
    bench.platform.order = None
    second = bench.platform.offer(unit_bench.release("2.2.0", 2))
    bench.platform.takes_reports = True
    # The unit asks for the order behind its report; taken is what it is told of either.
    bench.wait(lambda: bench.platform.report_of(second) is not None, "the second report")
    bench.settle()
    assert bench.versions() == ("2.2.0",) * len(bench.versions())
    assert bench.platform.report_of(second).outcome.value == "succeeded"
    assert bench.platform.report_of(second).sequence == 2
    assert bench.platform.report_of(first) is None or bench.platform.report_of(first).outcome.value == "succeeded"


@pytest.mark.slow
def test_p8_the_next_order_is_taken_while_the_report_is_still_refused(bench, unit_bench):
    bench.platform.takes_reports = False
    bench.platform.offer(unit_bench.release("2.1.0", 2))
    bench.wait(lambda: is_reporting(bench), "the first report")
    second = bench.platform.offer(unit_bench.release("2.2.0", 2))
    bench.wait(lambda: is_reporting(bench) and bench.versions()[0] == "2.2.0", "the second report")
    assert set(bench.versions()) == {"2.2.0"}
    assert bench.platform.reports == []
    bench.platform.takes_reports = True
    bench.unit.cycle_power(unit_bench.SECOND)
    bench.wait(lambda: bench.platform.reports, "the second report")
    bench.settle()
    assert [(report.order_id, report.outcome.value) for report in bench.platform.reports] == [(second, "succeeded")]


@pytest.mark.slow
def test_an_acknowledgement_that_the_platform_never_gave_loses_no_report(bench, unit_bench):
    """A stranger between the two said "taken". The platform still offers the order, and gets the report."""
    stolen = []
    bench.platform._report = lambda document: stolen.append(document) or True
    order_id = bench.platform.offer(unit_bench.release("2.1.0", 2))
    bench.wait(lambda: stolen and bench.unit.master.upgrade_state is UpdaterState.IDLE, "the stolen report")
    del bench.platform._report
    bench.unit.cycle_power(unit_bench.SECOND)
    bench.wait(lambda: bench.platform.report_of(order_id) is not None, "the report")
    bench.settle()
    assert bench.platform.report_of(order_id).outcome.value == "succeeded"
    assert bench.platform.order is None
