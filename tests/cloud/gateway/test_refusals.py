"""What is refused on a link becomes a record: its cause, the VIN, what was answered."""

from dataclasses import replace

import pytest
from bmsota_cloud.domain.errors import StorageUnavailableError
from bmsota_cloud.domain.paging import PageRequest
from bmsota_cloud.domain.refusals import RefusalCause
from bmsota_cloud.gateway.refusals import CAUSE_OF
from bmsota_cloud.services import histories

from bmsota.gbt32960 import (
    Command,
    Edition,
    EmptyReply,
    Encryption,
    Frame,
    LocalUpgrade,
    LocalUpgradeOutcome,
    LocalUpgrades,
    PlatformLogin,
    RawMessage,
    RefusalKind,
    ReplyFlag,
    Report,
    SignedReport,
    VehicleData,
    VehicleLogin,
    VehicleLogin2025,
    beijing_time,
    decode,
    encode,
)

C = RefusalCause
OTHER = "TESTVEHICLE000002"
STRANGER = "NOSUCHVEHICLE0001"


@pytest.fixture
def talk(world):
    """Send frames, as bytes, on a link from 192.0.2.9; the records that are left, without the times."""

    def play(*frames, is_logged_in=True):
        vin = world.register(1)
        link = world.cloud.open_link(address="192.0.2.9")
        link.connected(world.now_ns)
        if is_logged_in:
            link.receive_data(encode(login(world, vin)), world.now_ns)
            assert link.vin == vin
        for data in frames:
            link.receive_data(data, world.now_ns)
        world.services.refusals.flush()
        page = world.services.refusals.page(PageRequest(1, 100), by=world.people["carol"])
        assert {row.refusal.address for row in page.items} <= {"192.0.2.9"}
        return [(row.refusal.cause, row.refusal.vin, row.refusal.answered) for row in page.items]

    return play


def login(world, vin, *, edition=Edition.GBT2016, command=Command.VEHICLE_LOGIN, message=None):
    kind = VehicleLogin if edition is Edition.GBT2016 else VehicleLogin2025
    if message is None:
        message = (
            VehicleLogin(beijing_time(world.now_ns), 1, "1" * 20)
            if kind is VehicleLogin
            else VehicleLogin2025(beijing_time(world.now_ns), 1, "1" * 20)
        )
    return Frame(command=command, vin=vin, message=message, edition=edition)


def report(world, vin, **fields):
    message = Report(beijing_time(world.now_ns), (VehicleData(1, 3, 1, 0.0, 1.0, 355.2, 0.0, 50, 1, 15, 5000, 0, 0),))
    return Frame(**{"command": Command.REALTIME_REPORT, "vin": vin, "message": message} | fields)


def test_a_vehicle_that_is_not_registered(world, talk):
    """2025 has a flag of its own for it (table 4)."""
    old = encode(login(world, STRANGER))
    new = encode(login(world, OTHER, edition=Edition.GBT2025))
    assert sorted(talk(old, new, is_logged_in=False)) == [
        (C.LOGIN_UNKNOWN_VIN, STRANGER, ReplyFlag.ERROR),
        (C.LOGIN_UNKNOWN_VIN, OTHER, ReplyFlag.VIN_UNKNOWN),
    ]
    rows = world.services.refusals.page(PageRequest(), by=world.people["carol"]).items
    assert {row.refusal.head for row in rows} == {old, new}


def causes(world):
    world.services.refusals.flush()
    page = world.services.refusals.page(PageRequest(1, 100), by=world.people["carol"])
    return [(row.refusal.cause, row.refusal.vin, row.refusal.answered) for row in page.items]


def test_a_login_that_cannot_be_decided(world):
    """The database is away: the vehicle is told so, and comes again."""
    vin = world.register(1)

    def submit(job, then):
        then(None, StorageUnavailableError("the database is away"), world.now_ns)

    link = world.cloud.open_link(address="192.0.2.9", submit=submit)
    link.connected(world.now_ns)
    link.receive_data(encode(login(world, vin, edition=Edition.GBT2025)), world.now_ns)
    assert decode(link.data_to_send()).reply_flag == ReplyFlag.ERROR
    assert causes(world) == [(C.LOGIN_UNAVAILABLE, vin, ReplyFlag.ERROR)]
    assert link.vin == ""


def test_a_stranger_who_has_left_before_his_login_is_decided(world):
    """He is recorded all the same, and nothing was answered."""
    jobs = []
    link = world.cloud.open_link(address="192.0.2.9", submit=lambda *job: jobs.append(job))
    link.connected(world.now_ns)
    link.receive_data(encode(login(world, STRANGER)), world.now_ns)
    link.disconnected(world.now_ns)
    ((job, then),) = jobs
    then(job(), None, world.now_ns)
    assert causes(world) == [(C.LOGIN_UNKNOWN_VIN, STRANGER, None)]


def test_local_upgrades_that_are_too_many(world, talk, monkeypatch):
    monkeypatch.setattr(histories, "UNCONFIRMED_MAX", 0)
    upgrade = LocalUpgrade(
        upgraded_at=beijing_time(world.now_ns),
        position=1,
        hwid="S1",
        version_before=(2, 0, 0, 0),
        version_after=(2, 1, 0, 0),
        outcome=LocalUpgradeOutcome.SUCCEEDED,
    )
    message = LocalUpgrades(beijing_time(world.now_ns), (upgrade,))
    frame = Frame(command=Command.LOCAL_UPGRADES, vin=world.vin(1), message=message)
    assert talk(encode(frame)) == [(C.OTHER, world.vin(1), ReplyFlag.ERROR)]


def test_a_platform(world, talk):
    message = PlatformLogin(beijing_time(world.now_ns), 1, "user", "password")
    frame = login(world, OTHER, command=Command.PLATFORM_LOGIN, message=message)
    assert talk(encode(frame), is_logged_in=False) == [(C.LOGIN_PLATFORM, OTHER, ReplyFlag.ERROR)]


def test_a_frame_before_the_login(world, talk):
    assert talk(encode(report(world, OTHER)), is_logged_in=False) == [(C.NOT_LOGGED_IN, OTHER, ReplyFlag.ERROR)]


def test_a_frame_of_another_vehicle(world, talk):
    assert talk(encode(report(world, OTHER))) == [(C.FOREIGN_VIN, OTHER, None)]


def test_an_answer_that_was_not_asked_for(world, talk):
    frame = Frame(command=0x82, vin=world.vin(1), message=EmptyReply(), reply_flag=ReplyFlag.SUCCESS)
    assert talk(encode(frame)) == [(C.REPLY_UNEXPECTED, world.vin(1), None)]


def test_an_encrypted_login_without_a_key(world, talk):
    frame = login(world, OTHER, message=RawMessage(bytes(32)))
    frame = replace(frame, encryption=Encryption.AES)
    ((cause, vin, _),) = talk(encode(frame), is_logged_in=False)
    assert (cause, vin) == (C.ENCRYPTED, OTHER)


def test_an_encrypted_report_without_a_key(world, talk):
    frame = report(world, world.vin(1), message=RawMessage(bytes(32)), encryption=Encryption.SM4)
    ((cause, vin, _),) = talk(encode(frame))
    assert (cause, vin) == (C.ENCRYPTED, world.vin(1))


@pytest.mark.parametrize(
    ("edition", "flag"), [(Edition.GBT2016, ReplyFlag.ERROR), (Edition.GBT2025, ReplyFlag.DECRYPTION_FAILED)]
)
def test_an_encryption_byte_that_there_is_not(world, talk, edition, flag):
    raw = bytearray(edition.value + encode(login(world, OTHER))[2:])
    raw[21] = 0x00
    raw[-1] ^= 0x01
    assert talk(bytes(raw), is_logged_in=False) == [(C.ENCRYPTED, OTHER, flag)]


def test_a_login_without_its_code_byte(world, talk):
    good = encode(login(world, OTHER))
    ((cause, vin, _),) = talk(with_data(good, good[24:-3] + b"\x01\x01"), is_logged_in=False)
    assert (cause, vin) == (C.LOGIN_INVALID, OTHER)


@pytest.mark.parametrize(
    ("edition", "flag"), [(Edition.GBT2016, ReplyFlag.ERROR), (Edition.GBT2025, ReplyFlag.STRUCTURE_WRONG)]
)
def test_a_report_with_a_wrong_month(world, talk, edition, flag):
    good = encode(report(world, world.vin(1)))
    data = bytearray(good[24:-1])
    data[1] = 99
    bad = edition.value + with_data(good, bytes(data))[2:]
    assert talk(bad) == [(C.STRUCTURE_WRONG, world.vin(1), flag)]


def test_a_wrong_check_byte(world, talk):
    bad = bytearray(encode(report(world, OTHER)))
    bad[-1] ^= 1
    assert talk(bytes(bad) + encode(login(world, world.vin(1)))) == [(C.CHECK_BYTE_WRONG, OTHER, None)]


def test_a_second_login_under_another_vin(world, talk):
    world.register(2)
    assert talk(encode(login(world, OTHER))) == [(C.LOGIN_OTHER_VIN, OTHER, ReplyFlag.ERROR)]


def test_every_kind_of_the_protocol_has_its_cause():
    assert set(CAUSE_OF) == set(RefusalKind)


def test_who_says_a_few_bytes_and_leaves_is_found_too(world):
    """As a terminal that is set to TLS, on a gateway without it: what never was a frame is told when the link ends."""
    for data, cause in ((bytes.fromhex("16030100a5010000a10303"), C.NOT_A_FRAME), (b"##\x01", C.UNFINISHED)):
        link = world.cloud.open_link(address="192.0.2.9")
        link.connected(world.now_ns)
        for byte in data:
            link.receive_data(bytes([byte]), world.now_ns)
        link.disconnected(world.now_ns)
        world.wait(seconds=1)
        world.services.refusals.flush()
        page = world.services.refusals.page(PageRequest(), by=world.people["carol"])
        row = page.items[0]
        assert (row.refusal.cause, row.refusal.head, row.refusal.count) == (cause, data, 1)


def test_whatever_stands_at_the_end_of_a_link_is_one_record(world):
    """One byte, the beginning of a start, a login cut off anywhere: the session tells it when the link ends."""
    whole = encode(login(world, world.vin(1)))
    for number, data in enumerate(
        [b"\0", b"\x16", b"#", b"$", b"x#", *(whole[:size] for size in range(1, len(whole)))]
    ):
        address = f"2001:db8:0:{number:x}::1"
        link = world.cloud.open_link(address=address)
        link.connected(world.now_ns)
        link.receive_data(data, world.now_ns)
        link.disconnected(world.now_ns)
        world.wait(seconds=61)
        assert world.services.refusals.flush() == 1, data


def test_who_says_nothing_leaves_no_record(world):
    link = world.cloud.open_link(address="192.0.2.9")
    link.connected(world.now_ns)
    link.disconnected(world.now_ns)
    assert world.services.refusals.flush() == 0


def test_a_report_whose_end_is_wrong_is_recorded_though_its_beginning_is_kept(world, talk):
    good = encode(report(world, world.vin(1)))
    bad = with_data(good, good[24:-1] + b"\x07\x01")
    assert talk(bad) == [(C.STRUCTURE_WRONG, world.vin(1), ReplyFlag.ERROR)]
    assert world.services.vehicles.detail(world.vin(1), by=world.people["vera"]).state.soc_pct == 50


@pytest.mark.parametrize("data", [b"GET / HTTP/1.1\r\nHost: x\r\n\r\n", bytes(range(35)), b"#" * 5000])
def test_what_is_no_frame(world, talk, data):
    found = talk(data + encode(login(world, world.vin(1))), is_logged_in=False)
    assert found == [(C.NOT_A_FRAME, "", None)]


def test_a_reserved_command_and_one_of_another_maker(world, talk):
    frame = Frame(command=0x60, vin=world.vin(1), message=RawMessage(b"123"))
    other = replace(frame, command=0xE0)
    # One record: the same address, vehicle and cause.
    assert talk(encode(frame), encode(other)) == [(C.COMMAND_UNKNOWN, world.vin(1), ReplyFlag.ERROR)]


def test_a_signed_report_that_is_none(world, talk):
    frame = Frame(
        command=Command.SIGNED_REPORT, vin=world.vin(1), message=SignedReport(beijing_time(world.now_ns), b"nonsense")
    )
    assert talk(encode(frame)) == [(C.DOCUMENT_REFUSED, world.vin(1), ReplyFlag.ERROR)]


def test_nothing_is_recorded_of_what_is_right(world, talk):
    assert talk(encode(report(world, world.vin(1)))) == []


def with_data(frame, data):
    """*frame* with another data unit, and a right length and check byte."""
    raw = frame[:22] + len(data).to_bytes(2, "big") + data
    check = 0
    for byte in raw[2:]:
        check ^= byte
    return raw + bytes([check])
