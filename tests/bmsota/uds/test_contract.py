"""UDS keeps what both flashing protocols promise (`flashing_contract`), with 11-bit and 29-bit ids and on CAN FD."""

from __future__ import annotations

from typing import ClassVar

import uds_rig
from flashing_contract import FlashingProfileContract, HostileBus, Hostility, Way
from hypothesis import strategies as st
from hypothesis.stateful import rule

from bmsota.canframe import CanFrame
from bmsota.node import FailureCause
from bmsota.uds import UDS_29BIT, IsoTpParameters, UdsDialect, UdsTiming

SHORT = {"dialect": UdsDialect(block_length_max=0x82)}
FD = IsoTpParameters(frame_bytes=64)
FRAMES = st.builds(
    CanFrame,
    can_id=st.sampled_from([0x7DF, 0x7E1, 0x7E9]),
    data=st.one_of(
        st.binary(max_size=8),
        st.builds(
            lambda head, tail: (head + tail)[:8],
            st.sampled_from(
                [
                    b"\x02\x10\x02",
                    b"\x02\x10\x03",
                    b"\x02\x27\x01",
                    b"\x02\x3e\x80",
                    b"\x10\x14\x36\x01",
                    b"\x30\x00\x00",
                    b"\x31\x00\x00",
                    b"\x32\x00\x00",
                    b"\x21",
                    b"\x22",
                    b"\x03\x7f\x36\x78",
                    b"\x03\x7f\x36\x73",
                    b"\x03\x7f\x36\x21",
                    b"\x02\x76\x01",
                    b"\x01\x77",
                    b"\x02\x11\x01",
                    b"\x04\x31\x01\xf0\x12",
                    b"\x01\x37",
                ]
            ),
            st.binary(max_size=5),
        ),
    ),
)


def way(*, timing=None, **options):
    timing = {} if timing is None else {"timing": timing}
    return Way(sizes=(700, 900, 800), client={**SHORT, **timing}, command=timing, **options)


FD_WAY = Way(
    sizes=(700, 900, 800),
    node={"transport": FD},
    bench={"addressing": UDS_29BIT},
    client={"transport": FD, **SHORT},
    command={"transport": FD},
    step=3,
)


class HostileUds(HostileBus):
    """A second tester, or a liar, in between. What is being staged is proven right by its digest at the end."""

    ways: ClassVar = {"11 bit": way(), "fd": FD_WAY}
    examples = 25
    offers_have_a_check = False

    @rule(frame=FRAMES)
    def somebody_speaks_uds_too(self, frame):
        self.put_on_the_bus(frame)


class TestUds(FlashingProfileContract):
    Node = uds_rig.Node
    Bench = uds_rig.Bench
    power_ways: ClassVar = {"11 bit": way(pairs=15)}
    cut_ways: ClassVar = {"11 bit": way(frames_min=150, resumed_min=9), "fd 29-bit": FD_WAY}
    node_cut_ways: ClassVar = {"11 bit": way(step=5), "fd 29-bit": FD_WAY}
    both_cut_ways: ClassVar = {"11 bit": way()}
    lossy_ways: ClassVar = {"11 bit": Way()}
    sleepy_ways: ClassVar = {"11 bit": way(), "fd 29-bit": FD_WAY}
    sleeps_ms = (50, 200, 1000)  # A server leaves its session after 5 s.
    hostile_ways: ClassVar = {"11 bit": way(timing=UdsTiming(interruptions_max=3))}
    any_bus_ways = hostile_ways
    hostilities = (
        *(Hostility(seed=f"bad {number}", loss=0.05, doubling=0.05, delay=0.05) for number in range(12)),
        *(
            Hostility(seed=f"corrupt {number}", loss=0.01, doubling=0.01, delay=0.01, corruption=0.02)
            for number in range(6)
        ),
    )
    machines = (HostileUds,)
    discovery_losses = (("lossy", 0.05), *((number, 0.02) for number in range(3)))
    locked: ClassVar = {}
    unlocked: ClassVar = {"access": None}
    keys: ClassVar = {
        "right": {"access_key": uds_rig.ACCESS_KEY},
        "wrong": {"access_key": lambda _seed, _serial: bytes(64)},
        "none": {"access_key": None},
        "unused": {"access_key": uds_rig.ACCESS_KEY},
    }
    command_frames_min = 21
    silence = "node 1: ReadDataByIdentifier: no answer in 100 tries"
    small_blocks = SHORT

    def first_id(self, bench):
        return bench.addressing.address(1).request_id & ~0xFF, bench.addressing.is_extended_id

    def sent_units(self, scene, frames):
        """Image bytes of the blocks that begin in these frames."""
        return sum(self._image_bytes(frame) for frame in frames)

    @staticmethod
    def _message(frame):
        """(size, beginning) of the message that begins in *frame*; (0, nothing) if none does."""
        kind, size = frame.data[0] >> 4, frame.data[0] & 15
        if kind == 1:
            return size << 8 | frame.data[1], frame.data[2:]
        if kind == 0:
            return (size, frame.data[1:]) if size else (frame.data[1], frame.data[2:])
        return 0, b""

    def _image_bytes(self, frame):
        size, data = self._message(frame)
        return size - 2 if data[:1] == b"\x36" else 0

    def rest_units(self, scene, image, offset):
        return len(image) - offset

    def is_offer(self, bench, frame):
        return self._message(frame)[1][:4] == b"\x31\x01\xff\x00"

    def is_reset_answer(self, bench, frame):
        return frame.data[:2] == b"\x02\x51"

    DETAILS: ClassVar = {
        FailureCause.WRONG_HARDWARE: "expected ",
        FailureCause.WRONG_ROLE: "expected ",
        FailureCause.WRONG_NODE: "expected hardware id HW-0002, got HW-0001",
        FailureCause.TOO_LARGE: "RoutineControl: ",
        FailureCause.COUNTER_TOO_LOW: "RoutineControl: ",
        FailureCause.TEST_PENDING: "RoutineControl: TEST_PENDING (0xF6)",
        FailureCause.FLASH_WORN: "TransferData: WORN (0xFD)",
        FailureCause.NOT_TRUSTED: "RequestTransferExit: NOT_TRUSTED (0xFA)",
        FailureCause.ACCESS_NEEDED: "SecurityAccess: the node is locked and no access key was given",
        FailureCause.ACCESS_DENIED: "SecurityAccess: INVALID_KEY (0x35)",
    }

    def check_refusal(self, bench, failed):
        assert failed.detail.startswith(self.DETAILS[failed.cause])
        if failed.detail.startswith("expected "):
            requests = [self._message(frame)[1] for frame in bench.sent]
            assert all(request[:1] in {b"", b"\x22", b"\x3e"} for request in requests), "nothing but questions"
