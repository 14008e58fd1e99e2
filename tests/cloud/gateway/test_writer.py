"""The writer: what it promises when databases are away, frames are odd, floods come and the end does."""

import asyncio
import threading
from dataclasses import replace

import pytest
from bmsota_cloud.domain.errors import StorageUnavailableError
from bmsota_cloud.domain.telemetry import StoredFrame
from bmsota_cloud.gateway import ReportWriter
from bmsota_cloud.gateway import writer as writing
from bmsota_cloud.services.counters import Counters

LIMIT_S = 120.0


def frame(number, **fields):
    raw = b"##\x02\xfe" + bytes(20) + number.to_bytes(300, "big") + b"\0"
    asked = {"vin": "V1", "frame": raw, "clear": raw, "reported_at_s": number, "arrived_at_ns": number * 10**9}
    return StoredFrame(**asked | {"is_backfill": False} | fields)


class Rig:
    """A writer, and a store of lists that does what a test says."""

    def __init__(self, **options):
        self.stored, self.derived, self.batches = [], [], []
        self.recovered = 0
        self.fails = lambda _frames: None
        self.derive_fails = None
        self.gate = threading.Event()
        self.gate.set()
        self.counters = Counters()
        self.writer = ReportWriter(self.append, self.derive, self.recover, self.counters, **options)
        self.turns = []

    def append(self, frames):
        self.gate.wait(LIMIT_S)
        if (error := self.fails(frames)) is not None:
            raise error
        is_new = [each not in self.stored for each in frames]
        self.stored += frames
        self.batches.append(len(frames))
        return is_new

    def derive(self, frames):
        if self.derive_fails is not None:
            raise self.derive_fails
        self.derived += frames

    def recover(self):
        self.recovered += 1

    def start(self):
        self.writer.start(on_full=lambda: self.turns.append("full"), on_room=lambda: self.turns.append("room"))


def run(play):
    async def main():
        async with asyncio.timeout(LIMIT_S):
            await play()

    asyncio.run(main())


async def until(condition):
    while not condition():  # noqa: ASYNC110 - it turns until the other thread is there; the limit of `run` ends it
        await asyncio.sleep(0.001)


@pytest.mark.slow
def test_every_report_is_stored_answered_and_derived_in_order():
    rig, answered = Rig(), []

    async def play():
        rig.start()
        for number in range(3000):
            rig.writer.put(frame(number), lambda number=number: answered.append((number, len(rig.stored) > number)))
        assert await rig.writer.stop(LIMIT_S)

    run(play)
    assert rig.stored == rig.derived == [frame(number) for number in range(3000)]
    # Each after it was stored, in this thread, in order.
    assert answered == [(number, True) for number in range(3000)]
    assert max(rig.batches) <= 1000
    assert rig.writer.size_bytes == 0


def test_a_repetition_is_answered_and_not_derived():
    rig, answered = Rig(), []

    async def play():
        rig.start()
        for _ in range(2):
            rig.writer.put(frame(1), lambda: answered.append(1))
            await until(lambda: not rig.writer.size_bytes)
        await rig.writer.stop(LIMIT_S)

    run(play)
    assert answered == [1, 1]
    assert rig.derived == [frame(1)]
    assert rig.counters["report_repeated"] == 1


def test_the_queue_is_bounded_in_bytes_and_says_when_there_is_room():
    rig = Rig(size_bytes_max=100_000)
    rig.gate.clear()

    async def play():
        rig.start()
        count = 0
        while not rig.turns:
            rig.writer.put(frame(count), None)
            count += 1
        # About 325 bytes and what is around them.
        assert 100 < count < 130
        assert 100_000 <= rig.writer.size_bytes < 101_000
        rig.writer.put(frame(count), None)
        assert rig.turns == ["full"]
        rig.gate.set()
        await until(lambda: rig.turns == ["full", "room"])
        await rig.writer.stop(LIMIT_S)
        assert len(rig.stored) == count + 1

    run(play)


def test_a_database_that_is_away_is_waited_for_and_nothing_is_lost(caplog):
    rig, answered = Rig(), []
    tries = []

    def fails(frames):
        tries.append(list(frames))
        return StorageUnavailableError("the database does not answer") if len(tries) < 4 else None

    rig.fails = fails

    async def play():
        rig.start()
        for number in range(5):
            rig.writer.put(frame(number), lambda number=number: answered.append(number))
        await until(lambda: len(answered) == 5)
        await rig.writer.stop(LIMIT_S)

    run(play)
    assert rig.stored == [frame(number) for number in range(5)]
    # The very same call again, and said once.
    assert tries[0] == tries[1] == tries[2]
    assert caplog.text.count("reports wait for their database: the database does not answer") == 1
    assert "reports are stored again" in caplog.text


def test_an_odd_frame_costs_no_other_and_is_kept_as_bytes(caplog):
    """Whatever goes wrong with one: it is stored as what it was, the others as they are, and it is said once a kind."""
    rig, answered = Rig(), []
    odd = replace(frame(3), reported_at_s=2**80, clear=b"clear")

    def fails(frames):
        return OverflowError("too large") if any(each.reported_at_s > 2**63 for each in frames) else None

    rig.fails = fails

    async def play():
        rig.start()
        for each in (frame(1), odd, frame(2), replace(odd, frame=b"another")):
            rig.writer.put(each, lambda: answered.append(1))
        await rig.writer.stop(LIMIT_S)

    run(play)
    assert [each.frame for each in rig.stored] == [frame(1).frame, odd.frame, frame(2).frame, b"another"]
    assert rig.stored[0] == frame(1)
    assert not rig.stored[1].is_time_plausible
    assert len(answered) == 4
    assert rig.counters["report_kept_as_bytes"] == 2
    assert caplog.text.count("storing reports: too large") == 1


def test_what_no_database_takes_is_in_the_log(caplog):
    rig = Rig()
    rig.fails = lambda frames: RuntimeError("never") if any(each.vin == "BAD" for each in frames) else None

    async def play():
        rig.start()
        rig.writer.put(frame(7, vin="BAD"), None)
        rig.writer.put(frame(8), None)
        await rig.writer.stop(LIMIT_S)

    run(play)
    assert rig.stored == [frame(8)]
    assert f"cannot store a report of 'BAD': {frame(7).frame.hex()}" in caplog.text
    assert rig.counters["report_not_stored"] == 1


def test_deriving_that_fails_stops_nothing_and_is_made_good(caplog, monkeypatch):
    monkeypatch.setattr(writing, "_DERIVE_EVERY_S", 0.01)
    rig, answered = Rig(), []
    rig.derive_fails = StorageUnavailableError("the disk is full")

    async def play():
        rig.start()
        rig.writer.put(frame(1), lambda: answered.append(1))
        await until(lambda: "deriving waits for its database: the disk is full" in caplog.text)
        rig.writer.put(frame(2), lambda: answered.append(2))
        await until(lambda: answered == [1, 2])
        await until(lambda: rig.recovered)
        rig.derive_fails = None
        await until(lambda: not rig.writer._must_recover)
        rig.writer.put(frame(3), lambda: answered.append(3))
        await until(lambda: rig.derived)
        rig.derive_fails = ZeroDivisionError("a bug")
        rig.writer.put(frame(4), lambda: answered.append(4))
        await until(lambda: rig.counters["derive_failed"])
        await rig.writer.stop(LIMIT_S)

    run(play)
    assert answered == [1, 2, 3, 4]
    # The second came from the store, by `recover`; the third in the ordinary way.
    assert rig.derived[-1] == frame(3)


def test_so_many_reports_are_derived_before_the_second_is_over(monkeypatch):
    """The commit behind them waits while they are derived: so there are never more than these."""
    monkeypatch.setattr(writing, "_DERIVE_EVERY_S", 3600.0)
    monkeypatch.setattr(writing, "_DERIVE_FRAMES_MAX", 3)
    rig = Rig()

    async def play():
        rig.start()
        for number in range(4):
            rig.writer.put(frame(number), None)
        await until(lambda: len(rig.derived) >= 3)
        await rig.writer.stop(LIMIT_S)

    run(play)
    assert rig.derived == rig.stored


def test_behind_a_gateway_that_lingers_the_writer_does_so_less(monkeypatch):
    """At a few hundred reports a second: 50 ms by itself, 10 ms if the gateway has lingered."""
    lingered = {}
    for comes_in_rounds in (False, True):
        rig, waits = Rig(), []
        # A batch of hundreds in one go is a rate of some hundreds a second at least, on any machine that ends this test in time.
        monkeypatch.setattr(writing, "_ROUNDS_FROM_HZ", 0.001)
        monkeypatch.setattr(rig.writer._is_stopping, "wait", waits.append)

        async def play(rig=rig, comes_in_rounds=comes_in_rounds):
            rig.writer.start(on_full=list, on_room=list, comes_in_rounds=comes_in_rounds)
            for number in range(3):
                rig.writer.put(frame(number), None)
                await until(lambda number=number: len(rig.stored) == number + 1)
            await rig.writer.stop(LIMIT_S)

        run(play)
        lingered[comes_in_rounds] = waits
    assert lingered[True][0] == lingered[False][0] == 0.050, "nothing is known of the rate yet"
    assert set(lingered[True][1:]) == {0.010}


def test_an_answer_that_fails_costs_the_others_nothing(caplog):
    rig, answered = Rig(), []

    async def play():
        rig.start()
        rig.writer.put(frame(1), lambda: 1 / 0)
        rig.writer.put(frame(2), lambda: answered.append(2))
        await rig.writer.stop(LIMIT_S)

    run(play)
    assert answered == [2]
    assert "answering a report: division by zero" in caplog.text


def test_the_end_comes_though_the_database_does_not(caplog):
    rig, answered = Rig(), []
    rig.fails = lambda _frames: StorageUnavailableError("the database does not answer")

    async def play():
        rig.start()
        rig.writer.put(frame(1), lambda: answered.append(1))
        assert not await rig.writer.stop(0.1)

    run(play)
    assert answered == []
    assert "1 reports could not be stored before the end" in caplog.text


@pytest.mark.parametrize("rate_hz", [0.0, 100.0])
def test_heard_vehicles_are_written_down_without_reports_too(rate_hz, monkeypatch):
    """Once a second deriving has its turn, also with nothing new: heartbeats move `last_seen`."""
    monkeypatch.setattr(writing, "_DERIVE_EVERY_S", 0.005)
    rig = Rig()
    calls = []
    rig.writer._derive = calls.append

    async def play():
        rig.start()
        if rate_hz:
            rig.writer.put(frame(1), None)
        await until(lambda: len(calls) > 3)
        await rig.writer.stop(LIMIT_S)

    run(play)
    assert sum(calls, []) == ([frame(1)] if rate_hz else [])  # noqa: RUF017
