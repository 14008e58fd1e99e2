"""What the updater asks of the slaves is done on the bus, and answered in its words."""

from __future__ import annotations

import pytest

from bmsota.flashing import BootloaderProfile
from bmsota.image import ImageRole, ImageVersion
from bmsota.master import MeasurementTable, RestoreSlave, SlaveOperations
from bmsota.node import FlashJob, NodeMode
from bmsota.ota import ActivateSlaves, ConfirmSlaves, DiscoverNodes, FlashSlaves, RaiseCounters, RevertSlaves

NEW = ImageVersion(2, 1)


class Updater:
    """What an updater hears of its slaves."""

    def __init__(self):
        self.heard = []
        self.must_rest = True

    def slave_staged(self, position):
        self.heard.append(("staged", position))

    def nodes_seen(self, nodes):
        self.seen = nodes

    def nodes_discovered(self, nodes, _now_ns, *, refused):
        assert refused == ()
        in_test = [node.position for node in nodes if node.has_unconfirmed_image]
        in_bootloader = [node.position for node in nodes if node.state is not NodeMode.APPLICATION]
        self.heard.append(
            ("discovered", [(node.position, str(node.version)) for node in nodes], in_test, in_bootloader)
        )

    def slaves_flashed(self, outcomes, _now_ns):
        self.answered("flashed", outcomes)

    def slaves_activated(self, outcomes, _now_ns):
        self.answered("activated", outcomes)

    def slaves_confirmed(self, outcomes, _now_ns):
        self.answered("confirmed", outcomes)

    def counters_raised(self, outcomes, _now_ns):
        self.answered("raised", outcomes)

    def slaves_reverted(self, outcomes, _now_ns):
        self.answered("reverted", outcomes)

    def answered(self, name, outcomes):
        self.heard.append((name, [(outcome.position, outcome.ok) for outcome in outcomes]))


class Desk:
    """The operations, on a bus with two slaves."""

    def __init__(self, world):
        self.pack = world.Pack()
        self.updater = Updater()
        self.image = world.firmware(ImageRole.SLAVE, "2.1.0", 2)
        self.operations = SlaveOperations(BootloaderProfile(world.wire()), (1, 2), self.updater)

    def run(self, seconds=120, *, may_discover=True):
        operations = self.operations
        for _ in range(round(seconds * 500)):
            has_begun = operations.begin_next(may_discover=may_discover)
            if not has_begun and operations.engine.is_idle:
                return
            self.pack.tick(operations.engine, lambda event: operations.handle(event, self.pack.now_ns))

    def ask(self, *requests):
        self.updater.heard.clear()
        for request in requests:
            self.operations.request(request)
        self.run()
        return self.updater.heard

    def flash(self):
        return FlashSlaves(tuple(FlashJob(position, self.image) for position in (1, 2)))


@pytest.fixture
def desk(world):
    return Desk(world)


def versions(desk):
    return [slave.version for slave in desk.pack.slaves]


BOTH = [(1, True), (2, True)]


def test_an_upgrade_from_discovery_to_raised_counters(desk):
    """The requests wait for each other, and each has its answer."""
    new = ((1, NEW), (2, NEW))
    heard = desk.ask(DiscoverNodes(), desk.flash(), ActivateSlaves((1, 2)), DiscoverNodes(), ConfirmSlaves(new))
    assert heard == [
        ("discovered", [(1, "2.0.0"), (2, "2.0.0")], [], []),
        ("staged", 1),
        ("staged", 2),
        ("flashed", BOTH),
        ("activated", BOTH),
        ("discovered", [(1, "2.1.0"), (2, "2.1.0")], [1, 2], []),
        ("confirmed", BOTH),
    ]
    assert [slave.store.security_counter for slave in desk.pack.slaves] == [1, 1]
    assert desk.ask(RaiseCounters(new)) == [("raised", BOTH)]
    assert [slave.store.security_counter for slave in desk.pack.slaves] == [2, 2]
    assert [str(node.version) for node in desk.operations.slaves] == ["2.1.0", "2.1.0"]


def test_a_confirmation_is_never_taken_for_raised_counters(desk):
    """Both are one command on the bus; what was asked for says which answer it is."""
    old = ImageVersion(2, 0)
    heard = desk.ask(RaiseCounters(((1, old),)), ConfirmSlaves(((2, old),)))
    assert [name for name, _ in heard] == ["raised", "confirmed"]


def test_a_slave_that_does_not_answer_is_in_the_outcome_and_the_others_are_served(desk):
    desk.pack.slaves[0].is_on = False
    heard = desk.ask(ActivateSlaves((1,)), desk.flash())
    assert heard[0] == ("activated", [(1, False)])
    assert heard[-1] == ("flashed", [(1, False), (2, True)])


@pytest.mark.parametrize(
    ("request_", "expected"),
    [
        (RevertSlaves((1,), restart=(2,)), [(1, True), (2, True)]),
        (RevertSlaves((1, 2), restart=()), [(1, True), (2, True)]),
        (RevertSlaves((), restart=(2,)), [(2, True)]),
        (RevertSlaves((), restart=()), []),
    ],
)
def test_reverting_and_restarting_is_one_request_with_one_answer(desk, request_, expected):
    desk.ask(desk.flash(), ActivateSlaves((1, 2)))
    assert versions(desk) == ["2.1.0", "2.1.0"]
    assert desk.ask(request_) == [("reverted", expected)]
    for position in {*request_.positions, *request_.restart}:
        assert versions(desk)[position - 1] == "2.0.0", "a test boot ends with the next boot"


def test_a_discovery_of_its_own_comes_behind_the_requests_and_is_no_answer(desk):
    desk.operations.wants_discovery = True
    assert desk.ask(RaiseCounters(())) == [("raised", [])]
    desk.run()
    assert desk.updater.heard == [("raised", [])]
    assert [node.position for node in desk.operations.nodes] == [1, 2]
    assert not desk.operations.wants_discovery


def test_it_does_not_look_around_while_a_flasher_is_at_work(desk):
    desk.operations.wants_discovery = True
    desk.run(1, may_discover=False)
    assert desk.operations.nodes == ()
    assert desk.operations.wants_discovery


def test_what_is_cancelled_is_not_answered_and_the_bus_is_free(desk):
    desk.operations.request(RevertSlaves((1,), restart=(2,)))
    assert desk.operations.begin_next(may_discover=True)
    desk.operations.cancel()
    desk.run()
    assert desk.updater.heard == []
    assert desk.ask(DiscoverNodes())[0][0] == "discovered"


def restore(desk, image):
    ended = []
    job = RestoreSlave(FlashJob(1, image), NEW)
    desk.operations.restore(job, lambda position, problem: ended.append((position, problem)))
    return ended


def test_a_slave_is_restored_and_the_updater_hears_nothing_of_it(desk):
    """Flashed, booted and confirmed; then it is asked who is there."""
    ended = restore(desk, desk.image)
    assert (desk.operations.is_restoring, desk.operations.is_free) == (True, False)
    desk.run()
    assert ended == [(1, "")]
    assert (desk.operations.is_restoring, desk.operations.is_free) == (False, True)
    assert versions(desk) == ["2.1.0", "2.0.0"]
    assert not desk.pack.slaves[0].store.is_test_pending
    assert desk.updater.heard == [("staged", 1)], "which it takes for no order's"
    assert [str(node.version) for node in desk.operations.slaves] == ["2.1.0", "2.0.0"]


def test_a_slave_that_cannot_be_restored_is_said_with_the_reason(desk):
    desk.pack.slaves[0].is_on = False
    ended = restore(desk, desk.image)
    desk.run()
    [(position, problem)] = ended
    assert position == 1
    assert "did not answer" in problem
    assert not desk.operations.is_restoring


@pytest.mark.parametrize("has_begun", [False, True])
def test_a_flasher_that_takes_the_bus_ends_the_restoring(desk, has_begun):
    ended = restore(desk, desk.image)
    if has_begun:
        assert desk.operations.begin_next(may_discover=True)
    desk.operations.cancel()
    assert not desk.operations.is_restoring
    desk.run()
    assert (ended, versions(desk)) == ([], ["2.0.0", "2.0.0"])


@pytest.fixture
def known(desk, world):
    desk.operations.wants_discovery = True
    desk.run()
    table = MeasurementTable(world.database("bms_internal"), world.LAYOUT)

    def hear(*slaves):
        for slave in slaves:
            for frame in slave.identity_pages():
                table.receive(frame, desk.pack.now_ns)
        return desk.operations.find_change(table)

    return hear


def test_slaves_that_say_what_is_known_have_not_changed(desk, known):
    assert known(*desk.pack.slaves) is None


def test_a_replaced_slave_is_found_even_during_an_upgrade(desk, known):
    desk.pack.slaves[1].hwid = "S-9999"
    assert known(*desk.pack.slaves) == (2, "slave 2 is S-9999 now, was S-0002")


def test_another_version_is_found_unless_the_updater_is_about_to_change_it(desk, known, world):
    desk.pack.slaves[0] = world.Slave(1, "2.1.0")
    assert known(*desk.pack.slaves) is None
    desk.updater.must_rest = False
    assert known(*desk.pack.slaves) == (1, "slave 1 runs 2.1.0 now, ran 2.0.0")


def test_a_slave_that_was_never_discovered_is_no_change(desk, known, world):
    desk.operations.nodes = desk.operations.nodes[:1]
    desk.pack.slaves[1].hwid = "S-9999"
    assert known(*desk.pack.slaves) is None
