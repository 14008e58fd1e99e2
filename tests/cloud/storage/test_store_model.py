"""Random lives of a store against a dictionary: what was told as new is there, every byte of it, once."""

import os
import random
from collections import defaultdict
from dataclasses import replace
from datetime import UTC, datetime

import pytest
from bmsota_cloud.domain.errors import StorageUnavailableError
from bmsota_cloud.domain.paging import PageRequest
from bmsota_cloud.domain.telemetry import StateRow, is_plausible_time
from bmsota_cloud.storage.sql import SqlTelemetryStore
from long_run import LONG
from postgresql import some_database
from stored_frames import DAY_S, NOON_S, everything, stored, wire_frame

VINS = ["LTESTVEHICLE00001", "LTESTVEHICLE00002", "SHORT"]
SEEDS = int(os.environ.get("STORE_MODEL_SEEDS", "4" if LONG else "1"))
FIRST_SEED = int(os.environ.get("STORE_MODEL_FIRST_SEED", "0"))
STEPS = 100
RETENTION_S = 20 * DAY_S
TRIES = 50


@pytest.fixture(params=["sqlite", "postgresql"])
def url(request, tmp_path):
    if request.param == "sqlite":
        yield f"sqlite:///{tmp_path / 'telemetry.sqlite'}"
        return
    with some_database() as url:
        yield url


class Life:
    """Two processes on one store, and the dictionary beside them: (VIN, report time, bodies) -> frame."""

    def __init__(self, url, seed):
        self.url = url
        self.rng = random.Random(seed)
        self.now_s = NOON_S
        self.opened = [0, 0]
        self.stores = [self.open(0), self.open(1)]
        self.kept = {}
        self.seen = []
        """Everything that was ever sent, to send it again."""
        self.states = {}
        self.arrivals = 0

    def open(self, number):
        self.opened[number] += 1
        # Who comes back may have another setting.
        return SqlTelemetryStore(self.url, writer=f"gateway-{number}", is_hourly=self.rng.random() < 0.5)

    def live(self, steps):
        acts = {
            self.send: 10,
            self.go_on: 5,
            self.derive: 4,
            self.compact: 4,
            self.check_one: 2,
            self.reopen: 1,
            self.prune: 1,
            self.set_clock_back: 1,
        }
        for _ in range(steps):
            act = self.rng.choices(list(acts), acts.values())[0]
            act(self.rng.randrange(2))
        self.check()

    # --- what happens -----------------------------------------------------------------------------------------------------

    def go_on(self, _number):
        self.now_s += self.rng.choice([30, 600, 3600, 7 * 3600, DAY_S, 3 * DAY_S])

    def set_clock_back(self, _number):
        self.now_s -= self.rng.choice([5, 3600, 5 * 3600, DAY_S])

    def new_frame(self):
        rng = self.rng
        vin = rng.choice(VINS)
        ago = rng.choice([0, 0, 0, 1, 60, 1800, 5 * 3600, DAY_S, 3 * DAY_S, 9 * DAY_S, 45 * DAY_S])
        at_s = self.now_s - ago - rng.randrange(3)
        if rng.random() < 0.1:
            # No time; another century; a clock ahead, so that its reports are plausible when they come again.
            ahead = rng.choice([400, 1800, 5 * 3600, DAY_S, 3 * DAY_S])
            at_s = rng.choice([946_684_800 + rng.randrange(9), 4_070_908_800, self.now_s + ahead, self.now_s + ahead])
        bodies = bytes([rng.randrange(4)]) * rng.randrange(1, 30)
        fields = {"vin": vin, "bodies": bodies, "command": 3 if ago > 60 else 2, "arrived_s": self.now_s}
        if rng.random() < 0.1:
            fields["frame"] = wire_frame(vin, at_s, b"secret", encryption=3)
        if rng.random() < 0.1:
            fields["fault"] = "body 0x42: expected 3 more bytes, got 1"
        if rng.random() < 0.1:
            fields["start"] = b"$$"
        frame = stored(at_s, is_time_plausible=is_plausible_time(at_s, self.now_s * 10**9), **fields)
        return replace(frame, arrived_at_ns=self.arrival())

    def arrival(self):
        """No two are the same: what has the same is in no order."""
        self.arrivals += 1
        return self.now_s * 10**9 + self.arrivals

    def send(self, number):
        rng = self.rng
        batch = [self.new_frame() for _ in range(rng.choice([1, 3, 20, 60]))]
        for frame in rng.sample(self.seen, min(len(self.seen), rng.choice([0, 1, 10]))):
            # As it was, later; or as a backfill of the same time and bodies.
            arrived_at_ns = self.arrival()
            again = replace(
                frame,
                arrived_at_ns=arrived_at_ns,
                is_time_plausible=is_plausible_time(frame.reported_at_s, arrived_at_ns),
            )
            if rng.random() < 0.5 and frame.frame is frame.clear:
                raw = wire_frame(frame.vin, frame.reported_at_s, body_of(frame), command=3, start=frame.clear[:2])
                again = replace(again, frame=raw, clear=raw, is_backfill=True)
            batch.append(again)
        rng.shuffle(batch)
        told = self.retried(lambda: self.stores[number].append(batch))
        for frame, is_new in zip(batch, told, strict=True):
            assert is_new == (key(frame) not in self.kept), (frame, self.kept.get(key(frame)))
            self.kept.setdefault(key(frame), frame)
        self.seen += batch

    def derive(self, number):
        store = self.stores[number]
        states = [
            StateRow(vin=vin, last_seen_at_ns=self.now_s * 10**9, soc_pct=self.rng.random(), frames=b"f", memory=b"m")
            for vin in self.rng.sample(VINS, self.rng.randrange(3))
        ]
        self.retried(lambda: store.save_derived(states, [], store.mark()))
        self.states |= {state.vin: state for state in states}
        assert store.newest(VINS) == self.states

    def compact(self, number):
        store = self.stores[number]
        for partition in store.hot():
            # Also what is still written to, which the service leaves alone.
            for _ in range(self.rng.choice([1, 5, 200])):
                try:
                    if store.compact(partition.name, self.rng.choice([1, 3, 40])).is_done:
                        break
                except StorageUnavailableError:
                    break

    def reopen(self, number):
        self.stores[number].close()
        self.stores[number] = self.open(number)
        self.take_unread(number)

    def take_unread(self, number):
        """Each process finds what it has written and not derived; and what is found is in the store."""
        store = self.stores[number]
        while (unread := store.unread(self.rng.choice([5, 1000]))).frames:
            assert all(self.kept[key(frame)] == frame for frame in unread.frames)
            self.retried(lambda mark=unread.mark: store.save_derived([], [], mark))

    def prune(self, number):
        cut_ns = (self.now_s - RETENTION_S) * 10**9
        self.retried(lambda: self.stores[number].prune(cut_ns))
        there = {key(frame) for vin in VINS for frame in everything(self.stores[number], vin)}
        assert there <= self.kept.keys()
        gone = [self.kept.pop(each) for each in self.kept.keys() - there]
        assert all(frame.arrived_at_ns < cut_ns for frame in gone)

    def retried(self, call):
        for _ in range(TRIES):
            try:
                return call()
            except StorageUnavailableError as error:
                last = error
        raise last

    # --- what is there ----------------------------------------------------------------------------------------------------

    def check_one(self, number):
        store, vin = self.stores[number], self.rng.choice(VINS)
        expected = self.expected()[vin]
        assert everything(store, vin) == expected
        size = self.rng.choice([1, 7, 100])
        pages = -(-len(expected) // size)
        at = self.rng.randrange(pages) if pages else 0
        page = store.frames(vin, PageRequest(at + 1, size))
        assert (page.total, page.unreadable) == (len(expected), 0)
        assert list(page.items) == expected[::-1][at * size : (at + 1) * size]
        if expected:
            since, until = sorted(where(self.rng.choice(expected)) for _ in range(2))
            found = list(store.read(vin, since, until))
            assert found == [frame for frame in expected if since <= where(frame) < until]
            cut = {"since": datetime.fromtimestamp(since, UTC), "until": datetime.fromtimestamp(until, UTC)}
            assert store.frames(vin, PageRequest(1, 5), **cut).items == tuple(found[::-1][:5])
            assert store.frames(vin, PageRequest(1, 5), **cut).total == len(found)

    def expected(self):
        found = defaultdict(list)
        for frame in sorted(self.kept.values(), key=lambda frame: (where(frame), frame.arrived_at_ns)):
            found[frame.vin].append(frame)
        return found

    def check(self):
        for number in range(2):
            for vin in VINS:
                assert everything(self.stores[number], vin) == self.expected()[vin]
            assert self.stores[number].newest(VINS) == self.states
            self.take_unread(number)
            self.compact(number)
            for vin in VINS:
                assert everything(self.stores[number], vin) == self.expected()[vin]


def body_of(frame):
    return frame.clear[30:-1]


def where(frame):
    """Where it stands in a history."""
    return frame.reported_at_s if frame.is_time_plausible else frame.arrived_at_ns // 10**9


def key(frame):
    return frame.vin, frame.reported_at_s, body_of(frame)


@pytest.mark.long
@pytest.mark.parametrize("seed", range(FIRST_SEED, FIRST_SEED + SEEDS))
def test_a_store_is_a_dictionary(url, seed):
    life = Life(url, seed)
    try:
        life.live(STEPS)
    finally:
        for store in life.stores:
            store.close()
