"""What the platform is told beside reports: identity, upgrade state, the signed report, local upgrades."""

from __future__ import annotations

from dataclasses import replace

import pytest

from bmsota.boot import BootReason, SlotState
from bmsota.gbt32960 import (
    ExtensionReceived,
    LocalUpgradeOutcome,
    LocalUpgrades,
    LoginRequested,
    NodeRole,
    PlatformSession,
    ReplyFlag,
    SignedReport,
    TerminalSession,
    UnitIdentity,
    UpgradeState,
    UpgradeStateCode,
)
from bmsota.image import ImageRole, ImageVersion
from bmsota.master import (
    CloudReporter,
    IdentityAcknowledged,
    IdentityReported,
    LocalUpgradeDetected,
    LocalUpgradesAcknowledged,
    LocalUpgradesDropped,
    LocalUpgradesReported,
    ReportAcknowledged,
    ReportRefused,
)
from bmsota.node import Capability, NodeDescription, NodeMode
from bmsota.ota import (
    IDENTITY_RECORD,
    LOCAL_UPGRADES_MAX,
    DocumentKind,
    LogNote,
    NodeUpgradeOutcome,
    OrderScope,
    PackWatch,
    Stage,
    TellState,
    document_kind,
    verify_identity,
)

SECOND = 1_000_000_000


class Desk:
    """A reporter on a session, and the platform at the other end of its link."""

    def __init__(self, world):
        self.world = world
        self.now_ns = world.START_NS
        self.flash = world.FlashModel(192 * 1024)
        self.store = world.store_on(self.flash, ImageRole.MASTER)
        self.store.install_factory(world.firmware(ImageRole.MASTER, "2.0.0"))
        self.boot = self.store.boot()
        self.events, self.heard, self.identities = [], [], []
        self.flag = ReplyFlag.SUCCESS
        self.session = TerminalSession(vin=world.VIN, iccid="89860012345678901234")
        self.platform = PlatformSession()
        self.reporter = self.new_reporter()

    def new_reporter(self, **options):
        return CloudReporter(
            self.session,
            identity=self.world.identity(0, "M-0001"),
            store=self.store,
            boot=self.boot,
            device_key=self.world.DEVICE_KEY,
            emit=self.events.append,
            pack_watch=PackWatch(self.store),
            slave_positions=(1,),
            **options,
        )

    def log_in(self):
        self.session.handle_timeout(self.now_ns)
        self.session.connected(self.now_ns)
        self.platform.connected(self.now_ns)
        self.exchange()

    def log_out(self):
        self.session.disconnected(self.now_ns)
        self.platform = PlatformSession()
        self.now_ns += 10 * SECOND

    def exchange(self):
        """Let both ends speak until they have said everything."""
        self.now_ns += SECOND
        while True:
            up = self.session.data_to_send()
            self.platform.receive_data(up, self.now_ns)
            while (event := self.platform.next_event()) is not None:
                match event:
                    case LoginRequested():
                        self.platform.accept_login(self.now_ns)
                    case ExtensionReceived(frame):
                        self.hear(frame.message)
                        self.platform.reply(frame, self.now_ns, self.flag)
                    case _:
                        pass
            down = self.platform.data_to_send()
            self.session.receive_data(down, self.now_ns)
            while (event := self.session.next_event()) is not None:
                self.reporter.session_event(event, self.now_ns)
            if not up and not down:
                return

    def hear(self, message):
        """Identity reports apart from the rest."""
        document = message.document if isinstance(message, SignedReport) else b""
        if document and document != b"document" and document_kind(document) is DocumentKind.IDENTITY:
            self.identities.append(verify_identity(document, [self.world.DEVICE_KEY.public_key()]))
        else:
            self.heard.append(message)

    def discover(self, *nodes, order=None):
        self.reporter.nodes_discovered(nodes, order, self.now_ns)
        self.exchange()

    def of(self, kind):
        return [event for event in self.events if isinstance(event, kind)]


@pytest.fixture
def desk(world):
    return Desk(world)


@pytest.fixture
def slave(world):
    return NodeDescription(
        position=1,
        role=ImageRole.SLAVE,
        hwid="S-0001",
        serial="SN-1",
        class_id=world.SLAVE_CLASS.class_id,
        version=ImageVersion(2, 0),
        security_counter=1,
        state=NodeMode.APPLICATION,
        boot_reason=BootReason.NORMAL,
        slot_states=(SlotState.CONFIRMED, SlotState.EMPTY),
        active_slot=0,
        running_slot=0,
        protocol_version=2,
        protocol_version_min=2,
        capabilities=Capability(0),
        boot_id=1,
    )


def test_identity_names_master_and_slaves(desk, slave, world):
    desk.log_in()
    desk.reporter.send_identity([slave], desk.now_ns)
    desk.exchange()
    (message,) = desk.heard
    assert isinstance(message, UnitIdentity)
    master, first = message.nodes
    assert (master.role, master.position, master.hwid) == (NodeRole.MASTER, 0, "M-0001")
    assert (master.version, master.security_counter) == ((2, 0, 0, 0), 1)
    assert master.hardware_class == world.MASTER_CLASS.class_id
    assert (first.role, first.position, first.hwid, first.serial) == (NodeRole.SLAVE, 1, "S-0001", "SN-1")
    assert first.hardware_class == world.SLAVE_CLASS.class_id


def test_a_reason_is_cut_to_what_the_frame_carries_and_stays_text(desk):
    desk.log_in()
    desk.reporter.send_state(TellState("o-17", Stage.SELF_TEST, 100, "ä" * 200), desk.now_ns)
    desk.exchange()
    (message,) = desk.heard
    assert isinstance(message, UpgradeState)
    assert (message.order_id, message.state, message.progress_pct) == ("o-17", UpgradeStateCode.SELF_TEST, 100)
    assert message.reason == "ä" * 127


def test_every_stage_has_its_code():
    assert {stage.name for stage in Stage} <= {code.name for code in UpgradeStateCode}


def test_states_and_reports_are_not_kept_for_a_later_link(desk):
    """The updater says them again at the next login; kept ones would be stale."""
    desk.reporter.send_state(TellState("o-17", Stage.SELF_TEST, 100), desk.now_ns)
    desk.reporter.send_report(b"document", desk.now_ns)
    desk.log_in()
    assert desk.heard == []
    desk.reporter.send_report(b"document", desk.now_ns)
    desk.exchange()
    (message,) = desk.heard
    assert isinstance(message, SignedReport)
    assert message.document == b"document"


def test_a_local_upgrade_is_told_once_and_forgotten_when_the_platform_has_it(desk, slave):
    desk.log_in()
    desk.discover(slave)
    assert desk.heard == []
    desk.discover(replace(slave, version=ImageVersion(2, 1)))
    (message,) = desk.heard
    assert isinstance(message, LocalUpgrades)
    (told,) = message.upgrades
    assert (told.position, told.hwid, told.version_before, told.version_after) == (
        1,
        "S-0001",
        (2, 0, 0, 0),
        (2, 1, 0, 0),
    )
    assert told.outcome == LocalUpgradeOutcome.SUCCEEDED
    (detected,) = desk.of(LocalUpgradeDetected)
    assert detected.upgrade.position == 1
    assert desk.of(LocalUpgradesReported) == [LocalUpgradesReported(1)]
    assert len(desk.of(LocalUpgradesAcknowledged)) == 1
    desk.log_out()
    desk.log_in()
    assert len(desk.heard) == 1


def test_a_local_upgrade_without_a_link_waits_for_the_login_and_a_power_cycle(desk, slave):
    """And for the first discovery, after which the signature that names it goes first."""
    desk.discover(slave)
    desk.discover(replace(slave, version=ImageVersion(2, 1)))
    desk.reporter = desk.new_reporter()
    desk.log_in()
    assert desk.heard == desk.identities == []
    desk.discover(replace(slave, version=ImageVersion(2, 1)))
    assert [len(report.upgrades) for report in desk.identities] == [1]
    assert [message.upgrades[0].version_after for message in desk.heard] == [(2, 1, 0, 0)]


def test_a_platform_that_refuses_is_asked_again_after_the_next_login(desk, slave):
    desk.flag = ReplyFlag.ERROR
    desk.log_in()
    desk.discover(slave)
    desk.discover(replace(slave, version=ImageVersion(2, 1)))
    tries = len(desk.heard)
    desk.discover(replace(slave, version=ImageVersion(2, 1)))
    assert len(desk.heard) == tries, "not before"
    assert desk.of(LocalUpgradesAcknowledged) == []
    desk.flag = ReplyFlag.SUCCESS
    desk.log_out()
    desk.log_in()
    assert len(desk.of(LocalUpgradesAcknowledged)) == 1


def test_the_oldest_of_too_many_are_dropped_and_that_is_said(desk, slave):
    for number in range(LOCAL_UPGRADES_MAX + 2):
        desk.discover(replace(slave, version=ImageVersion(3, 0, number)))
    assert desk.of(LocalUpgradesDropped) == [LocalUpgradesDropped(1)]


def test_a_node_in_its_test_boot_is_to_be_asked_again(desk, slave):
    desk.discover(slave)
    assert not desk.reporter.awaits_confirmation
    in_test = replace(
        slave, version=ImageVersion(2, 1), slot_states=(SlotState.CONFIRMED, SlotState.TEST), running_slot=1
    )
    desk.discover(in_test)
    assert desk.reporter.awaits_confirmation
    assert desk.of(LocalUpgradeDetected) == []


def test_other_replies_are_none_of_its_business(desk, slave):
    desk.log_in()
    desk.reporter.send_identity([slave], desk.now_ns)
    desk.exchange()
    assert len(desk.heard) == 1
    assert desk.events == []


# -- the identity report


def test_the_identity_report_is_sent_when_something_has_changed_and_not_at_each_login(desk, slave, world):
    """First start, version, replaced hardware; over logins and power cycles."""
    desk.log_in()
    desk.discover(slave)
    (first,) = desk.identities
    assert (first.vin, first.hwid, first.upgrades) == (world.VIN, "M-0001", ())
    assert first.time_s == first.counter == desk.now_ns // SECOND - 1
    assert [(n.position, n.hwid, str(n.version), n.security_counter, n.serial) for n in first.nodes] == [
        (0, "M-0001", "2.0.0", 1, world.identity(0, "M-0001").serial),
        (1, "S-0001", "2.0.0", 1, "SN-1"),
    ]
    assert [n.class_id for n in first.nodes] == [world.MASTER_CLASS.class_id, world.SLAVE_CLASS.class_id]
    assert (len(desk.of(IdentityReported)), len(desk.of(IdentityAcknowledged))) == (1, 1)
    for _ in range(3):
        desk.log_out()
        desk.reporter = desk.new_reporter()
        desk.log_in()
        desk.discover(slave)
    assert len(desk.identities) == 1
    desk.log_out()
    desk.discover(replace(slave, hwid="S-0002"))
    desk.log_in()
    assert [report.nodes[1].hwid for report in desk.identities] == ["S-0001", "S-0002"]
    assert desk.identities[1].counter > desk.identities[0].counter


def test_a_local_upgrade_is_signed_before_it_is_forgotten(desk, slave):
    """Also one that left the versions as they were; and its end is no news."""
    desk.log_in()
    desk.discover(slave)
    desk.discover(replace(slave, slot_states=(SlotState.CONFIRMED, SlotState.BAD)))
    assert [len(report.upgrades) for report in desk.identities] == [0, 1]
    (upgrade,) = desk.identities[1].upgrades
    assert (upgrade.position, upgrade.hwid, upgrade.outcome) == (1, "S-0001", NodeUpgradeOutcome.FAILED)
    assert [type(message) for message in desk.heard] == [LocalUpgrades]
    assert len(desk.of(LocalUpgradesAcknowledged)) == 1
    desk.log_out()
    desk.log_in()
    assert len(desk.identities) == 2


def test_a_refused_identity_report_is_sent_again_after_the_next_login(desk, slave):
    """A platform of before: it costs one frame a login and two writes a power-on, and nothing else is held up."""
    desk.flag = ReplyFlag.ERROR
    desk.log_in()
    desk.discover(slave)
    desk.discover(slave)
    assert len(desk.identities) == 1
    desk.log_out()
    desk.log_in()
    desk.log_out()
    desk.log_in()
    assert desk.identities[1:] == [desk.identities[1]] * 2
    assert desk.identities[1].counter == 2**40
    assert desk.of(IdentityAcknowledged) == []
    desk.flag = ReplyFlag.SUCCESS
    desk.log_out()
    desk.reporter = desk.new_reporter()
    desk.log_in()
    desk.discover(slave)
    assert len(desk.of(IdentityAcknowledged)) == 1
    assert desk.identities[3].counter == desk.identities[2].counter + 1


def test_s32_an_erased_unit_without_a_clock_soon_is_above_its_old_numbers(desk, slave):
    """The platform has taken numbers near the time; the unit begins anew in the year 2000."""
    taken = desk.now_ns // SECOND
    desk.now_ns = 946_800_000 * SECOND
    desk.flag = ReplyFlag.ERROR
    desk.log_in()
    desk.discover(slave)
    assert desk.identities[-1].counter < taken
    desk.log_out()
    desk.log_in()
    assert desk.identities[-1].counter > taken
    # And nobody who says "refused" brings the numbers to their end.
    for _ in range(10):
        desk.log_out()
        desk.reporter = desk.new_reporter()
        desk.log_in()
        desk.discover(slave)
        desk.log_out()
        desk.log_in()
    assert desk.identities[-1].counter < 2**41


def test_a_refused_report_is_told_apart_from_a_taken_one_and_names_the_document(desk):
    desk.log_in()
    desk.flag = ReplyFlag.ERROR
    desk.reporter.send_report(b"document", desk.now_ns)
    desk.exchange()
    assert desk.of(ReportRefused) == [ReportRefused(b"document")]
    desk.flag = ReplyFlag.SUCCESS
    desk.reporter.send_report(b"document", desk.now_ns)
    desk.exchange()
    assert desk.of(ReportAcknowledged) == [ReportAcknowledged(b"document")]


def test_p24_the_identity_report_says_which_sequence_the_unit_has_seen(desk, slave):
    """It has risen by itself: that is no news. With other news, it is told."""
    sequence = [7]
    desk.reporter = desk.new_reporter(order_sequence=lambda: sequence[0])
    desk.log_in()
    desk.discover(slave)
    sequence[0] = 8
    desk.discover(slave)
    assert [report.sequence for report in desk.identities] == [7]
    desk.discover(replace(slave, version=ImageVersion(2, 1)))
    assert [report.sequence for report in desk.identities] == [7, 8]


def test_while_an_order_is_under_way_or_a_node_in_test_nothing_is_signed(desk, slave):
    """The post-boot report tells what the order has done; what runs in test may not stay."""
    order = OrderScope(order_id="o-17", runs=frozenset({0, 1}), stages=frozenset({0, 1}), is_concluded=False)
    desk.log_in()
    desk.discover(slave, order=order)
    in_test = replace(
        slave, version=ImageVersion(2, 1), slot_states=(SlotState.CONFIRMED, SlotState.TEST), running_slot=1
    )
    desk.discover(slave)
    desk.discover(in_test)
    assert [str(report.nodes[1].version) for report in desk.identities] == ["2.0.0"]
    desk.discover()
    assert len(desk.identities) == 1, "a dead bus is no pack without slaves"


def test_answers_to_the_two_signed_documents_are_told_apart(desk, slave):
    """Both are on the way: the first answer is the first one's."""
    desk.log_in()
    desk.reporter.nodes_discovered([slave], None, desk.now_ns)
    desk.reporter.send_report(b"document", desk.now_ns)
    assert desk.of(ReportAcknowledged) == []
    desk.exchange()
    kinds = [type(event) for event in desk.events if isinstance(event, IdentityAcknowledged | ReportAcknowledged)]
    assert kinds == [IdentityAcknowledged, ReportAcknowledged]


def test_a_damaged_record_of_identity_reports_is_said_and_the_report_is_sent_again(desk, slave):
    desk.log_in()
    desk.discover(slave)
    desk.store.put_record(IDENTITY_RECORD, b"\xff")
    desk.log_out()
    desk.reporter = desk.new_reporter()
    (note,) = desk.of(LogNote)
    assert note.text.startswith("record of identity reports: damaged")
    desk.log_in()
    desk.discover(slave)
    assert len(desk.identities) == 2
    assert desk.identities[1].counter > desk.identities[0].counter


def test_a_slave_that_no_document_can_carry_is_said_and_stops_nothing(desk, slave):
    desk.log_in()
    odd = replace(slave)
    object.__setattr__(odd, "serial", "a\nb")
    desk.discover(odd)
    assert desk.identities == []
    (note,) = desk.of(LogNote)
    assert note.text.startswith("no identity report: serial: expected")


def test_a_mixed_pack_is_told_at_each_power_on_until_it_is_over(desk, slave):
    """Signed: how it is mixed. At each power-on, not at each login; and that it is over."""
    desk.log_in()
    desk.discover(slave)
    newer = replace(slave, version=ImageVersion(2, 1), image_sha256=b"n" * 32)
    desk.discover(newer)
    desk.discover(newer)
    words = "master runs 2.0.0, slave 1 runs 2.1.0"
    assert [report.mixed_pack for report in desk.identities] == ["", words]
    for _ in range(2):
        desk.log_out()
        desk.reporter = desk.new_reporter()
        desk.log_in()
        desk.discover(newer)
        desk.log_out()
        desk.log_in()
        desk.discover(newer)
    assert [report.mixed_pack for report in desk.identities] == ["", words, words, words]
    desk.discover(slave)
    assert desk.identities[-1].mixed_pack == ""
    notes = [note.text for note in desk.of(LogNote)]
    assert notes == [f"mixed pack: {words}"] * 3 + ["the pack is no longer mixed"]
    assert desk.reporter.mixed_pack == ""


def test_another_build_of_the_same_version_is_news_and_a_mixed_pack(desk, slave):
    """Same version, other bytes: told as a local upgrade with both digests, and as what it makes of the pack."""
    slave = replace(slave, image_sha256=b"o" * 32)
    desk.log_in()
    desk.discover(slave)
    desk.discover(replace(slave, image_sha256=b"n" * 32))
    first, second = desk.identities
    assert first.nodes[0].image_sha256 == desk.store.slots[0].sha256
    assert first.nodes[0].slot_size_kib == desk.store.slot_size_bytes // 1024
    assert [report.nodes[1].image_sha256 for report in (first, second)] == [b"o" * 32, b"n" * 32]
    (upgrade,) = second.upgrades
    assert (upgrade.version_before, upgrade.version_after) == (slave.version, slave.version)
    assert (upgrade.sha256_before, upgrade.sha256_after) == (b"o" * 32, b"n" * 32)
    assert second.mixed_pack == f"master runs 2.0.0, slave 1 runs 2.0.0 ({'6e' * 8})"
