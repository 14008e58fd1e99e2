"""Records and documents of another version: read, migrated, refused by name; and the unit always boots and can be upgraded.

The older bytes are those of commit 231c49c, see tests/data/records/README.md.
"""

from __future__ import annotations

import json
import lzma
import re
from dataclasses import replace
from pathlib import Path

import cbor2
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from updater_rig import HAPPY, PARKED, UNTIL_COMMITTED, UNTIL_DOWNLOAD, UNTIL_STAGED, Device, play

from bmsota.image import ImageVersion
from bmsota.ota import (
    LocalUpgradeDetector,
    NodeSnapshot,
    NodeUpgradeOutcome,
    TrustState,
    UpdaterState,
    load_trust_state,
    sign_manifest,
    sign_order,
    sign_report,
    verify_manifest,
    verify_order,
    verify_report,
)
from bmsota.ota._local_upgrades import LOCAL_UPGRADES_FORMAT

DATA = Path(__file__).parents[2] / "data" / "records"
KEPT = cbor2.loads(lzma.decompress((DATA / "flashes.cbor.xz").read_bytes()))
RECORDS = {
    phase: {name: bytes.fromhex(data) for name, data in records.items()}
    for phase, records in json.loads((DATA / "records.json").read_text()).items()
}
LOCAL = "field-upgrades"
OLD, NEW = ImageVersion(2, 0), ImageVersion(2, 1)


class Pack:
    """Slaves that do what they are asked, and a device whose every action is answered, power cycles included."""

    def __init__(self, device, *, version="2.0.0", in_test=()):
        self.device = device
        self.versions = dict.fromkeys((1, 2), version)
        self.in_test = set(in_test)
        self.said = []

    def run(self):
        """Until nothing more happens; what was reported."""
        lines = self.device.actions()
        while lines:
            self.said += lines
            for line in lines:
                self.answer(line)
            lines = self.device.actions()
        return [line for line in self.said if line.startswith("report")]

    def answer(self, line):
        word, _, rest = line.partition(" ")
        numbers = [int(number) for number in re.findall(r"\d+", rest.split("restart")[0])] if word in VERBS else []
        if word in {"GET", "POST"}:
            self.device.give("answer")
        elif line == "tell download complete 100" or word == "reset:":
            self.device.power()
        elif word == "discover":
            nodes = " ".join(f"{position}={version}" for position, version in self.versions.items())
            trial = ",".join(map(str, sorted(self.in_test)))
            self.device.give(f"nodes {nodes} trial={trial}")
        elif word == "activate":
            self.versions |= dict.fromkeys(numbers, "2.1.0")
            self.in_test |= set(numbers)
        elif word == "revert":
            self.versions |= dict.fromkeys(numbers, "2.0.0")
            self.in_test -= set(numbers)
        elif word == "confirm":
            self.in_test.clear()
        if word in VERBS:
            self.device.give(VERBS[word])
        elif word == "report":
            self.device.give("ack")


VERBS = {
    "flash": "flashed 1=ok 2=ok",
    "activate": "activated 1=ok 2=ok",
    "self-test": "tested good",
    "confirm": "confirmed 1=ok 2=ok",
    "raise": "raised 1=ok 2=ok",
    "revert": "reverted 1=ok 2=ok",
}


def unit(world, phase):
    return Device(world, flashes=KEPT["units"][phase])


def upgrade_again(world, device, pack):
    """A new order, from the instruction to the signed report of success."""
    order = world.order_for(world.manifest_data, order_id="o-18", sequence=6)
    device.documents["order"] = sign_order(order, world.ORDER_KEY)
    device.now_ns += 600_000_000_000
    pack.said.clear()
    device.give("instructed")
    reports = pack.run()
    assert [line.split()[2] for line in reports] == ["succeeded"]
    assert device.updater.state is UpdaterState.IDLE
    assert str(device.boot.facts.version) == "2.1.0"


def record(device, name):
    return device.updater_store.get_record(name)


# -- what 231c49c wrote ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("phase", "version", "in_test", "outcome"),
    [
        ("idle", "2.0.0", (), None),
        ("accepted", "2.0.0", (), "succeeded"),
        ("staged", "2.0.0", (), "succeeded"),
        ("testing", "2.0.0", (), "rolled-back"),
        ("committing", "2.1.0", (1, 2), "rolled-back"),
        ("confirmed", "2.1.0", (), "succeeded"),
        ("reverting", "2.1.0", (1, 2), "rolled-back"),
        ("report", "2.1.0", (), "succeeded"),
        ("ended", "2.1.0", (), None),
    ],
)
def test_an_order_begun_by_an_older_version_is_brought_to_its_end(world, phase, version, in_test, outcome):
    """The update goes on where the older version was switched off; then the next one works too."""
    device = unit(world, phase)
    assert record_names(device) == set(RECORDS[phase])
    device.power()
    assert device.trust_problem == ""
    pack = Pack(device, version=version, in_test=in_test)
    reports = pack.run()
    assert [line.split()[2] for line in reports] == ([outcome] if outcome else [])
    assert not [line for line in pack.said if line.startswith("remark") and "layout" in line + "damaged"]
    assert device.updater.state is UpdaterState.IDLE
    upgrade_again(world, device, pack)
    assert cbor2.loads(record(device, "trust"))["layout"] == 1
    assert cbor2.loads(record(device, "report-counter"))["layout"] == 1


def record_names(device):
    return set(device.store().record_names())


def test_the_local_upgrades_of_an_older_version_are_still_delivered(world):
    device = unit(world, "accepted")
    device.prepare()
    detector = LocalUpgradeDetector(device.updater_store)
    assert detector.problem == ""
    (upgrade,) = detector.take()
    assert (upgrade.position, upgrade.hwid, upgrade.outcome) == (1, "S-1", NodeUpgradeOutcome.SUCCEEDED)
    assert (upgrade.version_before, upgrade.version_after) == (ImageVersion(1, 9), OLD)
    detector.acknowledged()
    assert cbor2.loads(record(device, LOCAL))["layout"] == 3
    assert LocalUpgradeDetector(device.updater_store).take() == ()


@pytest.mark.parametrize("kind", ["manifest", "order", "report"])
def test_documents_of_an_older_version_are_read_and_written_alike(world, kind):
    """A writer writes the lowest layout that says what it has to say: units of that version read today's documents."""
    data = (DATA / f"{kind}.cose").read_bytes()
    read, write, value, key = {
        "manifest": (verify_manifest, sign_manifest, world.manifest, world.MANIFEST_KEY),
        "order": (verify_order, sign_order, world.order, world.ORDER_KEY),
        "report": (verify_report, sign_report, world.report_of(), world.DEVICE_KEY),
    }[kind]
    assert read(data, [key.public_key()]) == value
    assert write(value, key) == data


# -- the way back ------------------------------------------------------------------------------------------------------


def test_an_image_in_test_writes_what_the_one_before_can_read(world):
    """From the switch to the self-test every record stays in the layout in which it was found; only then it is raised."""
    device = unit(world, "staged")
    device.power()
    play(
        device,
        """
        > early
        < tell switching 100
        < discover
        > nodes 1=2.0.0 2=2.0.0
        < tell flashing slaves 100
        < flash 1,2
        """,
    )
    LocalUpgradeDetector(device.updater_store).nodes_seen(
        [NodeSnapshot(position=1, hwid="S-1", version=NEW)], device.now_ns
    )
    phase, _, outcome, reason, slot, changed = cbor2.loads(record(device, "upgrade"))
    assert (phase, outcome, reason, slot, changed) == ("testing", "", "", 1, [1, 2])
    assert set(cbor2.loads(record(device, "trust"))) == FIVE
    number, _, _, _, upgrades = cbor2.loads(record(device, LOCAL))
    assert (number, len(upgrades)) == (1, 2)
    play(
        device,
        """
        > flashed 1=ok 2=broken
        < flash 2
        > flashed 2=broken
        < tell switching 100: slave 2: broken
        < revert [] restart [1,2]
        > reverted 1=ok 2=ok
        < reset: slave 2: broken
        """,
    )
    assert cbor2.loads(record(device, "upgrade"))[0] == "reverting"
    # The older version boots again, and finds all it needs.
    device.power()
    assert str(device.boot.facts.version) == "2.0.0"
    pack = Pack(device)
    assert pack.run() == ["report 1 rolled-back [0=2.0.0 1=2.0.0 2=2.0.0]: slave 2: broken"]
    upgrade_again(world, device, pack)


FIVE = {"sequence", "order_sha256", "order_is_open", "security_counters", "time_s"}


def test_records_are_raised_once_the_image_is_confirmed(world):
    """From the master's confirm on no power cut leads back."""
    device = play(Device(world), UNTIL_COMMITTED)
    assert cbor2.loads(record(device, "trust"))["layout"] == 1
    play(device, HAPPY.removeprefix(UNTIL_COMMITTED).split("> ack")[0])
    assert cbor2.loads(record(device, "upgrade"))["layout"] == 1
    assert cbor2.loads(record(device, "report-counter")) == {"layout": 1, "counter": 1}


# -- one field more, one field less, a newer layout, no record at all -------------------------------------------------------


def today(device):
    """The unit's journal as a map of today's layout."""
    found = cbor2.loads(record(device, "upgrade"))
    assert found["layout"] == 1
    return found


def boot_with(device, name, value):
    """Power on with another record in its place; the unit must start, whatever it is."""
    device.prepare()
    data = value if isinstance(value, bytes) else cbor2.dumps(value, canonical=True)
    device.updater_store.put_record(name, data)
    device.power()
    return Pack(device)


def test_a_journal_of_layout_0_with_a_field_more_is_read(world):
    device = unit(world, "accepted")
    pack = boot_with(device, "upgrade", [*cbor2.loads(RECORDS["accepted"]["upgrade"]), "later"])
    assert [line.split()[2] for line in pack.run()] == ["succeeded"]


def test_a_field_that_a_later_version_has_added_is_kept(world):
    device = play(Device(world), UNTIL_DOWNLOAD)
    boot_with(device, "upgrade", {**today(device), "later": [1, {"x": 2}]})
    play(
        device,
        "> instructed http://b.example\n> early\n" if False else "> early\n< tell authenticating 0\n< POST challenge",
    )
    device.updater._records.save(reason="changed")
    assert today(device)["later"] == [1, {"x": 2}]
    assert today(device)["reason"] == "changed"


def lacking(fields, name):
    return {key: value for key, value in fields.items() if key != name}


BAD_JOURNALS = {
    "one field less, layout 0": (lambda fields: list(fields.values())[:5], "damaged"),
    "one field less": (lambda fields: lacking(fields, "changed"), "damaged"),
    "a newer layout": (lambda fields: {**fields, "layout": 2}, "layout 2 is newer than this version reads \\(1\\)"),
    "a newer image store": (lambda fields: {**fields, "image_store": 7}, "image store: layout 7"),
    "an unknown phase": (lambda fields: {**fields, "phase": "dancing"}, "damaged"),
    "a layout that is no number": (lambda fields: {**fields, "layout": "x"}, "damaged"),
    "a layout below all": (lambda fields: {**fields, "layout": -1}, "damaged"),
    "an impossible slave": (lambda fields: {**fields, "changed": [64]}, "damaged"),
    "no map": (lambda fields: 7, "damaged"),
    "no CBOR": (lambda fields: b"\xff\xff", "damaged"),
}


@pytest.mark.slow
@pytest.mark.parametrize("bad", BAD_JOURNALS)
@pytest.mark.parametrize("until", [UNTIL_DOWNLOAD, UNTIL_COMMITTED])
def test_a_journal_that_cannot_be_read_ends_the_order_with_a_report(world, bad, until):
    """How far it was is not known; what the nodes run is, and the report says both. Then the unit is upgraded again."""
    change, said = BAD_JOURNALS[bad]
    device = play(Device(world), until)
    fields = cbor2.loads(record(device, "upgrade"))
    if isinstance(fields, list):
        pytest.fail("the unit is of today")
    version = "2.0.0" if until is UNTIL_DOWNLOAD else "2.1.0"
    pack = boot_with(device, "upgrade", change(fields))
    pack.versions = dict.fromkeys((1, 2), version)
    (report,) = pack.run()
    assert re.match(rf"report 1 failed \[0={version} 1={version} 2={version}\]: .*{said}", report)
    assert re.search(said, "\n".join(line for line in pack.said if line.startswith("remark")))
    assert device.updater.state is UpdaterState.IDLE
    upgrade_again(world, device, pack)


def test_a_newer_journal_without_an_open_order_is_only_noted(world):
    device = play(Device(world), HAPPY)
    pack = boot_with(device, "upgrade", {"layout": 9})
    assert pack.run() == []
    assert pack.said == ["remark upgrade journal: layout 9 is newer than this version reads (1)"]
    upgrade_again(world, device, pack)


def test_an_unreadable_journal_of_an_image_in_test_leads_back(world):
    """The image that cannot say why it is in test does not stay."""
    device = play(Device(world), UNTIL_STAGED)
    device.prepare()
    assert device.updater_store.is_test_pending
    device.updater_store.put_record("upgrade", cbor2.dumps({"layout": 2}))
    device.updater.power_on(device.boot, device.now_ns)
    device.updater.conditions_changed(PARKED, device.now_ns)
    pack = Pack(device)
    (report,) = pack.run()
    assert report.startswith("report 1 rolled-back [0=2.0.0 1=2.0.0 2=2.0.0]: upgrade journal: layout 2 is newer")
    assert "reset: upgrade journal: layout 2 is newer than this version reads (1)" in pack.said
    upgrade_again(world, device, pack)


def test_a_trust_state_with_a_field_more_keeps_it(world):
    device = play(Device(world), UNTIL_DOWNLOAD)
    fields = cbor2.loads(record(device, "trust"))
    pack = boot_with(device, "trust", {**fields, "revoked": [b"key"]})
    assert device.trust_problem == ""
    pack.run()
    kept = cbor2.loads(record(device, "trust"))
    assert (kept["revoked"], kept["layout"], kept["security_counters"]) == ([b"key"], 1, [[0, 2], [1, 2], [2, 2]])


def test_of_a_newer_trust_state_the_lasting_fields_are_used_and_all_of_it_is_kept(world):
    """What may only move forward is never forgotten: an old order stays refused."""
    device = play(Device(world), HAPPY)
    fields = cbor2.loads(record(device, "trust"))
    pack = boot_with(device, "trust", {**fields, "layout": 3, "later": 1})
    assert "layout 3 is newer than this version knows (1)" in device.trust_problem
    device.give("instructed")
    pack.run()
    assert any("replay: expected an order after 5, got 5" in line for line in pack.said)
    upgrade_again(world, device, pack)
    kept = cbor2.loads(record(device, "trust"))
    assert (kept["layout"], kept["later"], kept["sequence"]) == (3, 1, 6)


@pytest.mark.parametrize(
    "bad",
    [
        lambda fields: lacking(fields, "time_s"),
        lambda fields: {**lacking(fields, "sequence"), "layout": 2},
        lambda fields: {**fields, "layout": "new"},
        lambda fields: {**fields, "sequence": -1},
        lambda fields: b"garbage",
    ],
)
def test_a_trust_state_that_cannot_be_read_is_begun_anew_and_said(world, bad):
    """The counters of the boot store still stand; the order under way is over, the next one is accepted."""
    device = play(Device(world), UNTIL_DOWNLOAD)
    pack = boot_with(device, "trust", bad(cbor2.loads(record(device, "trust"))))
    assert device.trust_problem.startswith("the trust state was reset: malformed-document: trust state")
    state, _ = load_trust_state(device.updater_store)
    assert state == TrustState(security_counters=((0, 1),))
    assert pack.run() == []
    upgrade_again(world, device, pack)
    assert device.trust_problem == ""


@pytest.mark.parametrize(
    ("bad", "counter"),
    [
        ((41).to_bytes(8, "big"), 42),
        ({"layout": 1, "counter": 41, "later": 1}, 42),
        ({"layout": 2, "counter": 41}, None),
        ({"layout": 1}, None),
        (b"", None),
        (b"\x00", None),
    ],
)
def test_no_report_number_is_used_twice(world, bad, counter):
    """A counter that cannot be read goes on from the time, which is beyond any number of reports."""
    device = play(Device(world), UNTIL_DOWNLOAD)
    pack = boot_with(device, "report-counter", bad)
    (report,) = pack.run()
    number = int(report.split()[1])
    assert number == counter if counter else number > world.NOW_S
    assert bool(counter) != any("report counter" in line for line in pack.said if line.startswith("remark"))
    if isinstance(bad, dict) and "later" in bad:
        assert cbor2.loads(record(device, "report-counter"))["later"] == 1


@pytest.mark.parametrize(
    ("bad", "said"),
    [
        ([4, "", 0, [], []], "layout 4 is newer than this version reads (3)"),
        ({"layout": 4}, "layout 4 is newer than this version reads (3)"),
        ([1, "", 0, []], "damaged"),
        ([], "damaged"),
        ({}, "damaged"),
        ([1, "", 0, [[1, "S-1"]], []], "damaged"),
        (b"", "damaged"),
        ({"layout": 2, "concluded": "", "forgotten": -1, "nodes": [], "upgrades": []}, "damaged"),
    ],
)
def test_local_upgrades_that_cannot_be_read_are_begun_anew_and_said(world, bad, said):
    device = Device(world)
    boot_with(device, LOCAL, bad)
    detector = LocalUpgradeDetector(device.updater_store)
    assert said in detector.problem
    assert detector.take() == ()
    for version in (OLD, NEW):
        detector.nodes_seen([NodeSnapshot(position=1, hwid="S-1", version=version)], device.now_ns)
    again = LocalUpgradeDetector(device.updater_store)
    assert (again.problem, len(again.take())) == ("", 1)


def test_local_upgrades_keep_what_a_later_version_has_added(world):
    device = Device(world)
    boot_with(
        device,
        LOCAL,
        {"layout": 2, "concluded": "", "forgotten": 0, "nodes": [], "upgrades": [], "later": True},
    )
    detector = LocalUpgradeDetector(device.updater_store)
    detector.nodes_seen([NodeSnapshot(position=1, hwid="S-1", version=OLD)], device.now_ns)
    assert (detector.problem, cbor2.loads(record(device, LOCAL))["later"]) == ("", True)


def test_a_record_without_digests_is_read_and_written_back_without_them_in_test(world):
    """Layout 2, from before nodes said their digests: what they ran by digest is not known, so nothing is news."""
    device = Device(world)
    upgrade = [7, 1, "S-1", [1, 9, 0, 0], [2, 0, 0, 0], "succeeded", "", ""]
    layout_2 = {"layout": 2, "concluded": "", "forgotten": 0, "upgrades": [upgrade]}
    layout_2["nodes"] = [[1, "S-1", [2, 0, 0, 0], None, [], []]]
    boot_with(device, LOCAL, layout_2)
    detector = LocalUpgradeDetector(device.updater_store)
    (pending,) = detector.pending
    assert (detector.problem, pending.sha256_before, pending.sha256_after) == ("", None, None)
    seen = NodeSnapshot(position=1, hwid="S-1", version=OLD, image_sha256=b"a" * 32)
    assert detector.nodes_seen([seen], device.now_ns) == ()
    kept = cbor2.loads(record(device, LOCAL))
    assert (kept["layout"], kept["nodes"][0][-2:]) == (3, [b"a" * 32, None])
    assert (
        LOCAL_UPGRADES_FORMAT.older[2].build(LOCAL_UPGRADES_FORMAT.loads(cbor2.dumps(layout_2, canonical=True))[0])
        == layout_2
    )
    (found,) = LocalUpgradeDetector(device.updater_store).nodes_seen(
        [replace(seen, image_sha256=b"b" * 32)], device.now_ns
    )
    assert (found.outcome, found.version_before, found.version_after) == (NodeUpgradeOutcome.SUCCEEDED, OLD, OLD)
    assert (found.sha256_before, found.sha256_after) == (b"a" * 32, b"b" * 32)


ANY = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**63), 2**63 - 1) | st.binary(max_size=40) | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=7) | st.dictionaries(st.text(max_size=10), inner, max_size=7),
    max_leaves=12,
)


@pytest.mark.slow
@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    name=st.sampled_from(["upgrade", "trust", "report-counter", LOCAL, "order", "manifest"]),
    phase=st.sampled_from(sorted(KEPT["units"])),
    value=ANY.map(lambda value: cbor2.dumps(value, canonical=True)) | st.binary(max_size=60),
)
def test_a_unit_starts_whatever_one_record_holds(world, name, phase, value):
    """No record can keep a unit from power-on, from a discovery, or from finding local upgrades."""
    device = unit(world, phase)
    boot_with(device, name, value)
    detector = LocalUpgradeDetector(device.updater_store)
    detector.nodes_seen([NodeSnapshot(position=1, hwid="S-1", version=OLD)], device.now_ns)
    pack = Pack(device, version="2.1.0" if device.boot.slot else "2.0.0")
    for line in device.actions():
        pack.answer(line)
