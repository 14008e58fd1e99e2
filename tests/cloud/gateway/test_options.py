"""The platform's settings on a link: windows, answers, keys, signatures."""

import pytest
from bmsota_cloud.domain.refusals import RefusalCause
from bmsota_cloud.gateway.options import VinFinder
from bmsota_cloud.services import LinkKeys
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.hashes import SHA256

from bmsota.checksums import bcc_xor
from bmsota.gbt32960 import (
    CipherMode,
    CipherPadding,
    Command,
    CommandReceived,
    ConnectRequested,
    EcdsaSigner,
    EcdsaVerifier,
    Edition,
    Encryption,
    Frame,
    Heartbeat,
    LoggedIn,
    RawMessage,
    ReplyFlag,
    Report,
    SignedReport,
    SymmetricCipher,
    TerminalOptions,
    TerminalSession,
    VehicleData,
    VehicleData2025,
    beijing_time,
    decode,
    encode,
)

SECOND = 1_000_000_000
BODY = VehicleData(1, 3, 1, 0.0, 1.0, 355.2, 0.0, 50, 1, 15, 5000, 0, 0)
BODY_2025 = VehicleData2025(1, 3, 1, 48.0, 12345.6, 355.2, 20.1, 73, 1, 15, 5000)


def cipher(number, encryption=Encryption.AES):
    return SymmetricCipher(encryption, key=bytes([number] * 16), mode=CipherMode.ECB, padding=CipherPadding.PKCS7)


class Vehicle:
    """A terminal and its link, joined; every byte is given over by itself if *piece* is 1."""

    def __init__(self, world, number, *, piece=1 << 20, before=b"", **options):
        self.world, self.piece = world, piece
        vin = world.vin(number)
        self.terminal = TerminalSession(vin=vin, iccid="1" * 20, options=TerminalOptions(**options))
        self.link = world.cloud.open_link()
        self.events = []
        if before:
            self.link.connected(world.now_ns)
            for start in range(0, len(before), piece):
                self.link.receive_data(before[start : start + piece], world.now_ns)
            self.link.data_to_send()
        self.pump()

    def pump(self):
        now_ns = self.world.now_ns
        while True:
            self.terminal.handle_timeout(now_ns)
            self.link.handle_timeout(now_ns)
            while (event := self.terminal.next_event()) is not None:
                self.events.append(event)
                if isinstance(event, ConnectRequested):
                    self.link.connected(now_ns)
                    self.terminal.connected(now_ns)
                if isinstance(event, CommandReceived):
                    self.terminal.reply_to(event.frame, now_ns, flag=ReplyFlag.SUCCESS)
            up, down = self.terminal.data_to_send(), self.link.data_to_send()
            if not up and not down:
                return
            for start in range(0, len(up), self.piece):
                self.link.receive_data(up[start : start + self.piece], now_ns)
            self.terminal.receive_data(down, now_ns)

    @property
    def is_logged_in(self):
        return any(isinstance(event, LoggedIn) for event in self.events)

    def report(self, body=BODY):
        self.terminal.send_report((body,), self.world.now_ns)
        self.pump()

    def soc(self):
        return self.world.services.vehicles.detail(self.link.vin, by=self.world.people["vera"]).state.soc_pct


def test_heartbeats_240_s_apart_keep_a_link_and_one_may_be_lost(world):
    """The largest period of the standard (parameter 0x09)."""
    vin = world.register(1)
    vehicle = Vehicle(world, 1)
    assert vehicle.is_logged_in
    heartbeat = encode(Frame(command=Command.HEARTBEAT, vin=vin, message=Heartbeat()))
    for wait_s in (240, 240, 480):
        world.wait(seconds=wait_s)
        vehicle.link.handle_timeout(world.now_ns)
        assert not vehicle.link.is_closing
        vehicle.link.receive_data(heartbeat, world.now_ns)
    world.wait(seconds=541)
    vehicle.link.handle_timeout(world.now_ns)
    assert vehicle.link.is_closing


def test_the_windows_are_settings(new_world):
    world = new_world(settings={"heartbeat_window_s": 60, "login_timeout_s": 30})
    world.register(1)
    silent = world.cloud.open_link()
    silent.connected(world.now_ns)
    assert silent.next_timeout() == world.now_ns + 30 * SECOND
    assert Vehicle(world, 1).link.next_timeout() == world.now_ns + 60 * SECOND


@pytest.mark.parametrize(("acknowledges", "flags"), [(False, []), (True, [ReplyFlag.SUCCESS])])
def test_correct_reports_are_answered_if_that_is_wanted(new_world, acknowledges, flags):
    world = new_world(settings={"acknowledge_reports": acknowledges})
    vin = world.register(1)
    vehicle = Vehicle(world, 1)
    report = Frame(command=Command.REALTIME_REPORT, vin=vin, message=Report(beijing_time(world.now_ns), (BODY,)))
    vehicle.link.receive_data(encode(report), world.now_ns)
    answer = vehicle.link.data_to_send()
    assert ([decode(answer).reply_flag] if answer else []) == flags
    assert vehicle.soc() == 50


@pytest.mark.parametrize("piece", [1 << 20, 1])
def test_each_vehicle_is_deciphered_with_its_own_key(new_world, piece):
    """Login and all: the VIN stands in the clear before the data unit."""
    keys = LinkKeys(default=cipher(1), by_vin={"TESTVEHICLE000002": cipher(2, Encryption.SM4)})
    world = new_world(settings={"link_keys": keys})
    for number, own in ((1, cipher(1)), (2, cipher(2, Encryption.SM4))):
        world.register(number)
        vehicle = Vehicle(world, number, piece=piece, cipher=own)
        assert vehicle.is_logged_in
        vehicle.report()
        assert vehicle.soc() == 50
    world.register(3)
    assert Vehicle(world, 3, piece=piece).is_logged_in, "in the clear as before"


@pytest.mark.parametrize("own", [None, cipher(1)])
@pytest.mark.parametrize("end", [b"", b"\x09\x01"])
def test_the_check_byte_of_what_is_kept_in_the_clear_is_right(new_world, monkeypatch, own, end):
    """Said by the link, and so not looked at again; also of a report whose tail is wrong."""
    world = new_world(settings={"link_keys": LinkKeys(default=cipher(1))})
    vin = world.register(1)
    vehicle = Vehicle(world, 1, cipher=own)
    found = []
    monkeypatch.setattr(world.services.ingest, "accept", lambda frame, done: found.append(frame))
    unit = encode(Frame(command=Command.REALTIME_REPORT, vin=vin, message=Report(beijing_time(world.now_ns), (BODY,))))
    plain = RawMessage(unit[24:-1] + end, is_plain=True)
    encryption = Encryption.NONE if own is None else Encryption.AES
    raw = encode(Frame(command=Command.REALTIME_REPORT, vin=vin, message=plain, encryption=encryption), cipher=own)
    vehicle.link.receive_data(raw, world.now_ns)
    (frame,) = found
    assert (frame.frame, frame.clear[24:-1], bool(frame.fault)) == (raw, plain.data, bool(end))
    assert frame.is_check_right
    assert bcc_xor(frame.clear[2:]) == 0


@pytest.mark.parametrize("piece", [1 << 20, 1])
def test_what_stands_before_an_enciphered_login_costs_it_nothing(new_world, piece):
    """A modem's word, or a heartbeat under another VIN on the way of a gateway that shares its line."""
    keys = LinkKeys(default=cipher(1), by_vin={"TESTVEHICLE000002": cipher(2, Encryption.SM4)})
    heartbeat = encode(Frame(command=Command.HEARTBEAT, vin="TESTVEHICLE000003", message=Heartbeat()))
    for before in (b"\r\nCONNECT\r\n", heartbeat):
        world = new_world(settings={"link_keys": keys})
        world.register(2)
        vehicle = Vehicle(world, 2, piece=piece, before=before, cipher=cipher(2, Encryption.SM4))
        assert vehicle.is_logged_in
        vehicle.report()
        assert vehicle.soc() == 50


def test_another_vehicle_s_key_opens_nothing(new_world):
    keys = LinkKeys(by_vin={"TESTVEHICLE000001": cipher(1), "TESTVEHICLE000002": cipher(2)})
    world = new_world(settings={"link_keys": keys})
    for number in (1, 2):
        world.register(number)
    assert not Vehicle(world, 1, cipher=cipher(2)).is_logged_in


def test_what_an_enciphered_link_is_refused_is_recorded_and_the_link_lives(new_world):
    world = new_world(settings={"link_keys": LinkKeys(default=cipher(1))})
    vin = world.register(1)
    vehicle = Vehicle(world, 1, cipher=cipher(1))
    for message, command in (
        (SignedReport(beijing_time(world.now_ns), b"nonsense"), Command.SIGNED_REPORT),
        (RawMessage(b"of another maker", is_plain=True), 0xE0),
    ):
        frame = Frame(command=command, vin=vin, message=message, encryption=Encryption.AES)
        vehicle.link.receive_data(encode(frame, cipher=cipher(1)), world.now_ns)
    assert not vehicle.link.is_closing
    world.services.refusals.flush()
    causes = {refusal.cause for refusal in world.services.refusals.of_vehicle(vin, by=world.people["vera"])}
    assert causes == {RefusalCause.DOCUMENT_REFUSED, RefusalCause.COMMAND_UNKNOWN}


def test_reports_of_2025_must_be_signed_if_a_key_is_set(new_world):
    key = ec.generate_private_key(ec.SECP256R1())
    verifier = EcdsaVerifier(key.public_key(), hash_algorithm=SHA256())
    world = new_world(settings={"report_verifier": verifier})
    world.register(1)
    world.register(2)
    signed = Vehicle(world, 1, edition=Edition.GBT2025, signer=EcdsaSigner(key, hash_algorithm=SHA256()))
    signed.report(BODY_2025)
    assert signed.soc() == 73
    plain = Vehicle(world, 2, edition=Edition.GBT2025)
    plain.report(BODY_2025)
    assert plain.soc() is None


@pytest.mark.parametrize(
    ("pieces", "found"),
    [
        ([b"##\x01\xfeTESTVEHICLE000001\x01"], "TESTVEHICLE000001"),
        ([b"$$\x01\xfeSHORT" + bytes(12)], "SHORT"),
        ([b"#", b"#\x01\xfeTESTVEHICLE00000", b"1"], "TESTVEHICLE000001"),
        ([b"GE"], None),
        ([b"\r\nCONNECT\r\n##\x01\xfeTESTVEHICLE000001\x01"], "TESTVEHICLE000001"),
        ([b"\0##", b"\x01\xfeTESTVEHICLE000001"], "TESTVEHICLE000001"),
        ([b"##\x01\x01TESTVEHICLE000001\x01"], None),
        ([b"##" + b"\xff" * 18], None),
    ],
)
def test_the_vin_is_found_in_front_of_the_first_data_unit(pieces, found):
    first = VinFinder()
    results = [first.take(piece) for piece in pieces]
    assert results == [None] * (len(pieces) - 1) + [found]
