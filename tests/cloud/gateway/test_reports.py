"""A link that never waits: jobs that come back late, reports that are answered late, faults that cost no link."""

from dataclasses import replace
from datetime import timedelta

import pytest
from bmsota_cloud.domain.errors import StorageUnavailableError
from bmsota_cloud.platform import Cloud
from bmsota_cloud.services import PlatformSettings

from bmsota.gbt32960 import Command, Frame, Position, ReplyFlag, Report, TerminalSession, beijing_time, encode


class Late:
    """Jobs that are done when the test says."""

    def __init__(self, world):
        self.world = world
        self.jobs = []

    def __call__(self, job, then):
        self.jobs.append((job, then))

    def work(self, *, error=None):
        job, then = self.jobs.pop(0)
        try:
            result = job() if error is None else None
        except Exception as caught:  # noqa: BLE001 - as the gateway's worker does
            result, error = None, caught
        then(result, error, self.world.now_ns)

    def work_all(self):
        while self.jobs:
            self.work()


@pytest.fixture
def vin(world):
    return world.register(1)


@pytest.fixture
def late(world):
    return Late(world)


def acknowledging(world) -> Cloud:
    return replace(world.cloud, settings=replace(world.cloud.settings, acknowledge_reports=True))


def opened(world, vin, *, cloud=None, submit=None, wake=None):
    """A link that has heard a login."""
    link = (cloud or world.cloud).open_link(wake, submit=submit)
    link.connected(world.now_ns)
    link.receive_data(login(world, vin), world.now_ns)
    return link


def login(world, vin):
    session = TerminalSession(vin=vin, iccid="8" * 20)
    session.handle_timeout(world.now_ns)
    session.connected(world.now_ns)
    return session.data_to_send()


def report(world, vin, *, command=Command.REALTIME_REPORT, seconds=0):
    at = beijing_time(world.now_ns) + timedelta(seconds=seconds)
    return encode(Frame(command=command, vin=vin, message=Report(at, (Position(True, 121.5, 31.2),))))


def flags(data):
    """(command, flag) of the answers in *data*."""
    found = []
    while data:
        size = 25 + int.from_bytes(data[22:24], "big")
        found.append((data[2], data[3]))
        data = data[size:]
    return found


def kept(world, vin):
    return [frame.frame for frame in world.cloud.telemetry.read(vin, 0, 2**40)]


def test_nothing_is_read_while_a_login_is_decided_and_nothing_is_lost(world, vin, late):
    woken = []
    link = opened(world, vin, submit=late, wake=lambda: woken.append(1))
    link.receive_data(report(world, vin), world.now_ns)
    assert link.data_to_send() == b""
    assert kept(world, vin) == []
    late.work()
    assert woken == [1]
    assert flags(link.data_to_send()) == [(Command.VEHICLE_LOGIN, ReplyFlag.SUCCESS)]
    assert kept(world, vin) == [report(world, vin)]
    assert link.vin == vin


def test_a_link_that_ends_before_its_login_is_decided_leaves_nobody_online(world, vin, late):
    link = opened(world, vin, submit=late)
    link.disconnected(world.now_ns)
    late.work_all()
    assert not world.services.telemetry.snapshot(vin, by=world.people["vera"]).is_online
    assert len(world.cloud.router) == 0


@pytest.mark.parametrize("is_again", [False, True])
def test_reports_behind_a_login_are_kept_when_the_link_ends_before_the_answer(world, vin, late, is_again):
    """A terminal that does not wait for the answer, on a network that goes away: what was read was delivered, for all it knows."""
    link = opened(world, vin, submit=late)
    if is_again:
        late.work_all()
        link.receive_data(login(world, vin), world.now_ns)
    link.receive_data(report(world, vin) + report(world, vin, seconds=10), world.now_ns)
    link.disconnected(world.now_ns)
    assert kept(world, vin) == []
    late.work_all()
    assert len(kept(world, vin)) == 2
    assert not world.services.presence.is_online([vin])[vin]
    assert len(world.cloud.router) == 0
    assert link.next_timeout() is None


def test_a_link_that_ended_undecided_takes_nothing_from_the_one_behind_it(world, vin, late):
    link = opened(world, vin, submit=late)
    link.receive_data(report(world, vin), world.now_ns)
    link.disconnected(world.now_ns)
    newer = opened(world, vin, submit=late)
    late.work_all()
    assert newer.vin == vin
    assert not newer.is_closing
    assert world.services.presence.is_online([vin])[vin]
    assert len(kept(world, vin)) == 1


def test_a_stranger_who_is_gone_before_the_refusal_leaves_nothing(world, late):
    link = opened(world, "NOSUCHVEHICLE0001", submit=late)
    link.receive_data(report(world, "NOSUCHVEHICLE0001"), world.now_ns)
    link.disconnected(world.now_ns)
    late.work_all()
    assert kept(world, "NOSUCHVEHICLE0001") == []
    assert link.next_timeout() is None


def test_what_a_job_cannot_do_refuses_the_login_and_keeps_the_link(world, vin, late, caplog):
    link = opened(world, vin, submit=late)
    late.work(error=StorageUnavailableError("the database does not answer"))
    assert flags(link.data_to_send()) == [(Command.VEHICLE_LOGIN, ReplyFlag.ERROR)]
    assert not link.is_closing
    assert world.services.counters["link_storage_unavailable"] == 1
    again = opened(world, vin, submit=late)
    late.work(error=ZeroDivisionError("a bug"))
    assert flags(again.data_to_send()) == [(Command.VEHICLE_LOGIN, ReplyFlag.ERROR)]
    assert not again.is_closing
    assert "a bug" in caplog.text


def test_a_report_is_answered_when_it_is_stored_and_only_if_asked_for(world, vin):
    for cloud, expected in ((world.cloud, []), (acknowledging(world), [(Command.REALTIME_REPORT, ReplyFlag.SUCCESS)])):
        link = opened(world, vin, cloud=cloud)
        link.data_to_send()
        for _ in range(2):
            # A repetition was stored before; the terminal must hear so.
            link.receive_data(report(world, vin), world.now_ns)
            assert flags(link.data_to_send()) == expected
    assert kept(world, vin) == [report(world, vin)]


def test_answers_wait_for_the_writer_and_are_sent_once_a_batch(world, vin):
    put = []

    class Writer:
        def put(self, frame, done):
            put.append((frame, done))

    world.services.ingest.attach(Writer())
    sent = []

    class Wake:
        def __call__(self):
            raise AssertionError("the answers of a batch are sent together")

        def send(self):
            sent.append(link.data_to_send())

    link = opened(world, vin, cloud=acknowledging(world), wake=Wake())
    link.data_to_send()
    first, second = report(world, vin), report(world, vin, command=Command.BACKFILL_REPORT, seconds=-9)
    link.receive_data(first + second, world.now_ns)
    assert link.data_to_send() == b""
    assert [(frame.frame, frame.is_backfill) for frame, _ in put] == [(first, False), (second, True)]
    behind = {done() for _, done in put}
    assert len(behind) == 1
    assert sent == []
    for last in behind:
        last()
    assert [flags(data) for data in sent] == [
        [(Command.REALTIME_REPORT, ReplyFlag.SUCCESS), (Command.BACKFILL_REPORT, ReplyFlag.SUCCESS)]
    ]
    # What is stored after the link's end is stored, and has nobody to be told.
    link.receive_data(report(world, vin, seconds=1), world.now_ns)
    link.disconnected(world.now_ns)
    put[-1][1]()
    assert link.data_to_send() == b""


@pytest.mark.parametrize("error", [StorageUnavailableError("the disk is full"), TypeError("a bug of ours")])
def test_what_cannot_be_kept_is_refused_and_costs_no_link(world, vin, monkeypatch, error):
    """Without a writer, as in virtual time: the terminal hears that it has to send it again."""
    link = opened(world, vin)
    link.data_to_send()

    def fails(*_):
        raise error

    with monkeypatch.context() as patch:
        patch.setattr(world.services.ingest, "accept", fails)
        link.receive_data(report(world, vin), world.now_ns)
    assert flags(link.data_to_send()) == [(Command.REALTIME_REPORT, ReplyFlag.ERROR)]
    assert not link.is_closing
    link.receive_data(report(world, vin), world.now_ns)
    assert kept(world, vin) == [report(world, vin)]


@pytest.mark.slow
def test_a_burst_of_logins_is_taken_one_after_another(world, vin):
    """Jobs that are done at once must not nest: a thousand logins in one read are no recursion."""
    link = world.cloud.open_link()
    link.connected(world.now_ns)
    session = TerminalSession(vin=vin, iccid="8" * 20)
    session.handle_timeout(world.now_ns)
    session.connected(world.now_ns)
    link.receive_data(session.data_to_send() * 1500, world.now_ns)
    assert flags(link.data_to_send()) == [(Command.VEHICLE_LOGIN, ReplyFlag.SUCCESS)] * 1500


def test_reports_are_not_answered_by_default():
    assert PlatformSettings().acknowledge_reports is False
