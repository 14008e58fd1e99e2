"""An updater on a journal that wears out: the order ends by name before the switch, or is rolled back; every end is reported.

The journal's cells take nothing any more from one step of an upgrade on. What they hold stays until it is erased.
"""

from __future__ import annotations

import pytest
from long_run import LONG
from updater_rig import (
    HAPPY,
    UNTIL_COMMITTED,
    UNTIL_CONFIRMED,
    UNTIL_DOWNLOAD,
    UNTIL_FLASHED,
    UNTIL_STAGED,
    UNTIL_TESTED,
    Device,
    play,
)

from bmsota.boot import BootReason, SlotLayout
from bmsota.ota import Outcome, UpdaterState

WORN = "flash worn: journal area"
OLD, NEW = "nodes 1=2.0.0 2=2.0.0", "nodes 1=2.1.0 2=2.1.0"


@pytest.fixture
def device(world):
    return Device(world)


def wear_out(device):
    layout = SlotLayout.divide(device.flash, journal_size_bytes=8 * 1024)
    for start in layout.journal_offsets:
        for offset in range(start, start + layout.journal_size_bytes):
            for bit in range(8):
                device.flash.wear("not programmed", offset, bit)


def give(device, *lines):
    """Every input, and what came last of it all."""
    found = []
    for line in lines:
        device.give(line)
        found += list(device.actions())
    return found


def last_report(device):
    report, _ = device.reports[-1]
    return report


def rest_of(script, begun):
    """The inputs of *script* behind those of *begun*."""
    assert script.startswith(begun)
    return [line.strip()[2:] for line in script[len(begun) :].splitlines() if line.strip().startswith("> ")]


@pytest.mark.slow
@pytest.mark.parametrize("begun", [UNTIL_DOWNLOAD.rsplit("> answer", 1)[0], UNTIL_DOWNLOAD])
def test_a_journal_that_wears_out_before_the_switch_ends_the_order_by_name(device, begun):
    """At the acceptance of the manifest, or while the images come."""
    play(device, begun)
    wear_out(device)
    assert give(device, *rest_of(UNTIL_STAGED, begun))[-1] == "discover"
    assert give(device, OLD)[-1].startswith("report")
    report = last_report(device)
    assert (report.outcome, report.reason[: len(WORN)]) == (Outcome.FAILED, WORN)
    give(device, "ack", "state IDLE", "power")
    assert device.boot.reason is BootReason.NORMAL
    assert str(device.boot.facts.version) == "2.0.0"


def test_the_report_is_kept_in_ram_and_said_again_at_the_login(device):
    play(device, UNTIL_DOWNLOAD)
    wear_out(device)
    give(device, *rest_of(UNTIL_STAGED, UNTIL_DOWNLOAD), OLD)
    first = device.reports[-1]
    give(device, "login")
    assert device.reports[-1] == first
    assert len(device.reports) == 2


@pytest.mark.slow
def test_no_two_reports_of_a_worn_journal_have_one_number(device):
    play(device, UNTIL_DOWNLOAD)
    wear_out(device)
    give(device, *rest_of(UNTIL_STAGED, UNTIL_DOWNLOAD), OLD)
    first = last_report(device).counter
    device.now_ns += 1_000_000_000
    device.give("power")
    device.actions()
    while device.updater.state is not UpdaterState.DISCOVERING:
        give(device, "answer")
    device.now_ns += 1_000_000_000
    give(device, OLD)
    assert device.reports[-1][0].counter > first


@pytest.mark.slow
@pytest.mark.parametrize("begun", [UNTIL_FLASHED.rsplit("> nodes", 1)[0], UNTIL_TESTED])
def test_a_journal_that_wears_out_behind_the_switch_rolls_the_pack_back(device, begun):
    """Before the slaves are flashed, or before they are confirmed: nothing that could not go back."""
    play(device, begun)
    wear_out(device)
    found = give(device, *rest_of(UNTIL_CONFIRMED, begun)[:1])
    assert found[-1].startswith("revert [")
    assert not [line for line in found if line.startswith(("flash", "confirm"))]
    assert give(device, "reverted 1=ok 2=ok")[-1].startswith(f"reset: {WORN}")
    roll_back(device)


@pytest.mark.slow
def test_a_commit_that_cannot_be_recorded_rolls_the_pack_back(device):
    """The slaves have confirmed and go back too; the master is reverted by its next boot."""
    play(device, UNTIL_CONFIRMED)
    wear_out(device)
    device.updater_store._journal._open = []  # as behind a full area: the next record renews both
    assert give(device, "confirmed 1=ok 2=ok")[-1] == "revert [1,2] restart []"
    assert give(device, "reverted 1=ok 2=ok")[-1].startswith(f"reset: {WORN}")
    roll_back(device)


def roll_back(device):
    device.give("power")
    device.actions()
    assert device.boot.reason is BootReason.REVERTED
    assert give(device, OLD)[-1].startswith("report")
    report = last_report(device)
    assert (report.outcome, bool(report.reason)) == (Outcome.ROLLED_BACK, True)
    assert [str(node.version) for node in report.nodes] == ["2.0.0"] * 3


@pytest.mark.slow
def test_behind_the_commit_the_success_is_reported(device):
    play(device, UNTIL_COMMITTED)
    wear_out(device)
    found = give(device, *rest_of(HAPPY, UNTIL_COMMITTED)[:2])
    assert found[-1].startswith("report")
    assert last_report(device).outcome is Outcome.SUCCEEDED
    give(device, "ack", "state IDLE", "power")
    assert str(device.boot.facts.version) == "2.1.0"


def test_an_image_store_that_loses_a_block_behind_the_switch_rolls_the_pack_back(device):
    play(device, UNTIL_FLASHED.rsplit("> nodes", 1)[0])
    place = device.updater._records.image_store._places[device.world.manifest.images[1].sha256]
    device.shelf_flash.wear("unreadable", place + 100)
    assert give(device, OLD)[-1].startswith("revert [")
    assert give(device, "reverted 1=ok 2=ok")[-1].startswith("reset: flash worn: the image store has lost block 0")


@pytest.mark.parametrize("fault", ["not programmed", "unreadable"])
def test_a_slot_that_does_not_keep_the_image_ends_the_order_by_name(device, fault):
    play(device, UNTIL_DOWNLOAD)
    store = device.updater_store
    for bit in range(8):
        device.flash.wear(fault, store._layout.slot_offsets[store.spare_slot] + 900, bit)
    assert give(device, *rest_of(UNTIL_STAGED, UNTIL_DOWNLOAD))[-1] == "discover"
    give(device, OLD)
    report = last_report(device)
    assert (report.outcome, report.reason[:18]) == (Outcome.FAILED, "flash worn: slot 1")


@pytest.mark.long
def test_every_write_of_an_upgrade_may_be_the_first_that_is_not_kept(world):
    """Whatever the journal stops taking, and when: no exception, and every run ends in a report."""
    reference = play(Device(world), HAPPY)
    for operation in range(8, reference.flash.operations, 1 if LONG else 11):
        device = Device(world)
        program = device.flash.write

        def write(offset, data, device=device, program=program, operation=operation):
            if device.flash.operations == operation:
                wear_out(device)
            program(offset, data)

        device.flash.write = write
        slaves = "2.0.0"
        pending = ["instructed"]
        for _ in range(60):
            if not pending or device.reports:
                break
            for action in give(device, pending.pop(0)):
                word = action.split()[0]
                if word in {"POST", "GET"}:
                    pending = ["answer"]
                elif action == "discover":
                    pending = [f"nodes 1={slaves} 2={slaves}"]
                elif word == "flash":
                    pending = ["flashed 1=ok 2=ok"]
                elif word == "activate":
                    slaves, pending = "2.1.0", ["activated 1=ok 2=ok"]
                elif word == "self-test":
                    pending = ["tested good"]
                elif word == "confirm":
                    pending = ["confirmed 1=ok 2=ok"]
                elif word == "raise":
                    pending = ["raised 1=ok 2=ok"]
                elif word == "revert":
                    slaves, pending = "2.0.0", ["reverted 1=ok 2=ok"]
                elif word == "reset:" or action == "tell download complete 100":
                    pending = ["power"]
        report = last_report(device)
        version = "2.1.0" if report.outcome is Outcome.SUCCEEDED else "2.0.0"
        assert [str(node.version) for node in report.nodes] == [version] * 3, (operation, report)
        assert report.outcome is Outcome.SUCCEEDED or report.reason, operation
