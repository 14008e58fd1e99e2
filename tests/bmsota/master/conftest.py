"""A pack without hardware and without I/O: slaves on a list of frames, a platform's session, one clock that a test moves."""

from __future__ import annotations

import hashlib
from functools import cache, partial
from types import SimpleNamespace

import pytest
from bmsota_sim.devices.flash import FlashModel
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from bmsota.adapters.files import packaged_database
from bmsota.boot import BootStore, SlotLayout, for_hardware
from bmsota.bootloader import BootloaderTarget, BootloaderWire
from bmsota.flashing import BootloaderProfile
from bmsota.gbt32960 import (
    CloseRequested,
    Command,
    ConnectRequested,
    Control,
    ControlId,
    ExtensionReceived,
    LoginRequested,
    PlatformSession,
    RemoteUpgrade,
    ReplyFlag,
    ReportReceived,
    beijing_time,
)
from bmsota.image import HardwareClass, ImageRole, ImageVersion, build_image, verify_image
from bmsota.master import (
    Master,
    MasterConfiguration,
    MasterReadings,
    PackLayout,
    SendData,
    SlaveMessages,
    UnitKeys,
)
from bmsota.node import ResetRequested, TargetIdentity
from bmsota.ota import (
    ReleaseManifest,
    Reset,
    StartHttp,
    UpgradeOrder,
    describe_image,
    device_api,
    sign_manifest,
    sign_order,
)

MS = 1_000_000
SECOND = 1_000_000_000
START_NS = 1_790_000_000 * SECOND
VIN = "LBMF7EV08R0000001"
HWID = "M-0001"
LAYOUT = PackLayout(slave_count=2, cells_per_slave=4, probes_per_slave=1)
MASTER_CLASS = HardwareClass.named("bmsota.example", "T1-master")
SLAVE_CLASS = HardwareClass.named("bmsota.example", "T1-slave")
IMAGE_KEY, MANIFEST_KEY, ORDER_KEY, DEVICE_KEY = (
    Ed25519PrivateKey.from_private_bytes(bytes([number]) * 32) for number in range(1, 5)
)
KEYS = UnitKeys((IMAGE_KEY.public_key(),), (MANIFEST_KEY.public_key(),), (ORDER_KEY.public_key(),))
PARKED = MasterReadings(ignition_on=True, speed_kmh=0.0, is_charging=False, current_a=1.5, soc_pct=60.0)
# A step of the clock. Nothing in the pack is faster.
TICK_NS = 2 * MS


def database(name):
    return packaged_database(name)


@cache
def wire():
    return BootloaderWire(database("bms_bootloader"))


@cache
def firmware(role, version, counter=1):
    return build_image(
        hashlib.shake_256(f"{int(role)} {version}".encode()).digest(3000),
        version=ImageVersion.parse(version),
        security_counter=counter,
        hardware_class=MASTER_CLASS if role is ImageRole.MASTER else SLAVE_CLASS,
        role=role,
        signing_key=IMAGE_KEY,
    )


def store_on(flash, role):
    hardware_class = MASTER_CLASS if role is ImageRole.MASTER else SLAVE_CLASS
    verify = for_hardware(
        lambda data: verify_image(data, public_keys=KEYS.image_keys), class_id=hardware_class.class_id, role=role
    )
    return BootStore(flash, SlotLayout.divide(flash, journal_size_bytes=16 * 1024), verify=verify)


def identity(position, hwid):
    role = ImageRole.SLAVE if position else ImageRole.MASTER
    return TargetIdentity(
        position=position,
        role=role,
        hwid=hwid,
        serial=hwid,
        hardware_class=SLAVE_CLASS if position else MASTER_CLASS,
    )


def configuration(**changes):
    values = {
        "vin": VIN,
        "iccid": "89860012345678901234",
        "identity": identity(0, HWID),
        "device_key": DEVICE_KEY,
        "keys": KEYS,
        "layout": LAYOUT,
        "slave_class": SLAVE_CLASS,
        "database": database("bms_internal"),
        "profile": BootloaderProfile(wire()),
        "origins": ("http://cloud.example",),
    }
    return MasterConfiguration(**(values | changes))


class Slave:
    """A slave's node, and what it measures."""

    def __init__(self, position, version="2.0.0"):
        self.position = position
        self.hwid = f"S-{position:04d}"
        self.cells = [3.5 + 0.1 * position + 0.01 * cell for cell in range(4)]
        self.probes = [20.0 + position]
        self.is_on = True
        self.flash = FlashModel(64 * 1024, seed=position)
        store_on(self.flash, ImageRole.SLAVE).install_factory(firmware(ImageRole.SLAVE, version))
        self.messages = SlaveMessages(database("bms_internal"), position, LAYOUT)
        self.transmission = 0
        self.alive = 0
        self.boot()

    def boot(self):
        self.store = store_on(self.flash, ImageRole.SLAVE)
        self.result = self.store.boot()
        self.target = BootloaderTarget(
            wire(), identity=identity(self.position, self.hwid), store=self.store, boot=self.result
        )

    @property
    def version(self):
        return str(self.result.facts.version)

    def measurements(self):
        self.alive += 1
        return self.messages.measurements(self.cells, self.probes, alive=self.alive)

    def identity_pages(self):
        self.transmission += 1
        return self.messages.identity(
            hwid=self.hwid,
            version=self.result.facts.version,
            security_counter=self.store.security_counter,
            transmission=self.transmission,
        )

    def step(self, frames, now_ns):
        """Hear *frames*; what it answers."""
        if not self.is_on:
            return []
        target = self.target
        for frame in frames:
            target.receive_frame(frame, now_ns)
        target.handle_timeout(now_ns)
        answers = target.frames_to_send(now_ns)
        while (event := target.next_event()) is not None:
            if isinstance(event, ResetRequested):
                self.boot()
        return answers


class Pack:
    """Slaves on one bus; whoever drives it speaks the surface of `FlashingEngine`."""

    def __init__(self, count=2):
        self.now_ns = START_NS
        self.slaves = [Slave(position) for position in range(1, count + 1)]

    def tick(self, core, handle, frames=()):
        """Let *core* and the slaves hear each other once; *handle* gets what *core* says."""
        self.now_ns += TICK_NS
        core.handle_timeout(self.now_ns)
        sent = core.frames_to_send(self.now_ns)
        for frame in [*frames, *(frame for slave in self.slaves for frame in slave.step(sent, self.now_ns))]:
            core.receive_frame(frame, self.now_ns)
        while (event := core.next_event()) is not None:
            handle(event)


class MasterRig:
    """A whole master with its pack and a platform, in driven time."""

    def __init__(self, *, readings=PARKED, check=lambda _version: "", **changes):
        self.pack = Pack()
        self.flash = FlashModel(192 * 1024, seed="internal")
        self.image_flash = FlashModel(128 * 1024, erase_block_bytes=4096, seed="external")
        store_on(self.flash, ImageRole.MASTER).install_factory(firmware(ImageRole.MASTER, "2.0.0"))
        self.readings, self.check, self.configuration = readings, check, configuration(**changes)
        self.events, self.reports, self.extensions = [], [], []
        self.times = []
        """Of the reports: when they were collected, and whether they came as backfill."""
        self.platform = None
        self.has_link = True
        self.last_login = None
        self.order = None
        self.http = []
        self.power_on()

    @property
    def now_ns(self):
        return self.pack.now_ns

    def power_on(self):
        self.store = store_on(self.flash, ImageRole.MASTER)
        self.master = Master(
            self.configuration,
            store=self.store,
            boot=self.store.boot(),
            image_flash=self.image_flash,
            read=lambda: self.readings,
            check=self.check,
            last_login=self.last_login,
            now_ns=self.now_ns,
        )
        self.platform = None

    def run(self, seconds):
        for _ in range(round(seconds * SECOND / TICK_NS)):
            self.tick()

    def tick(self, frames=()):
        self.pack.tick(self.master, self.handle, frames)
        if self.http:
            self.http.pop(0)(self.now_ns)
        if self.platform is not None:
            self.platform.handle_timeout(self.now_ns)
            self.serve()

    def measure(self):
        """One round of every slave that has power."""
        self.tick([frame for slave in self.pack.slaves if slave.is_on for frame in slave.measurements()])

    def until(self, condition, seconds=30):
        end_ns = self.now_ns + seconds * SECOND
        while not condition():
            assert self.now_ns < end_ns, self.events[-20:]
            self.tick()

    def handle(self, event):
        self.events.append(event)
        match event:
            case ConnectRequested():
                if self.has_link:
                    self.platform = PlatformSession()
                    self.platform.connected(self.now_ns)
                    self.master.connected(self.now_ns)
                else:
                    self.master.disconnected(self.now_ns)
            case SendData(data):
                if self.platform is not None:
                    self.platform.receive_data(data, self.now_ns)
            case CloseRequested():
                self.platform = None
            case StartHttp(_, request) if self.order is not None:
                answer, master = self.respond(request), self.master
                self.http = [
                    partial(master.http_head, answer.status, answer.headers),
                    partial(master.http_body, answer.body),
                    partial(master.http_ended, None),
                ]
            case Reset():
                self.power_on()
            case _:
                pass

    def serve(self):
        platform = self.platform
        while (event := platform.next_event()) is not None:
            match event:
                case LoginRequested():
                    platform.accept_login(self.now_ns)
                case ReportReceived(report=report, is_backfill=is_backfill):
                    self.reports.append({type(body): body for body in report.bodies})
                    self.times.append((report.time, is_backfill))
                case ExtensionReceived(frame):
                    self.extensions.append(frame.message)
                    platform.reply(frame, self.now_ns, ReplyFlag.SUCCESS)
                case _:
                    pass
        data = platform.data_to_send()
        if data:
            self.master.receive_data(data, self.now_ns)

    def offer(self, version, counter):
        """Order an upgrade to images of *version*: the documents and answers of the device API."""
        images = [firmware(role, version, counter) for role in (ImageRole.MASTER, ImageRole.SLAVE)]
        now_s = self.now_ns // SECOND
        manifest = sign_manifest(
            ReleaseManifest(
                release=f"T1-{version}",
                software_version=version,
                series="T1",
                images=tuple(describe_image(image) for image in images),
                created_s=now_s - 1,
                expires_s=now_s + 1000,
            ),
            MANIFEST_KEY,
        )
        order = UpgradeOrder(
            order_id="o-1",
            task_id="t-1",
            vin=VIN,
            hwid=HWID,
            sequence=1,
            issued_s=now_s,
            expires_s=now_s + 1000,
            manifest_sha256=hashlib.sha256(manifest).digest(),
            software_version=version,
            approver="auditor",
            approved_s=now_s,
        )
        self.order = sign_order(order, ORDER_KEY)
        self.files = {hashlib.sha256(data).digest(): data for data in (manifest, *images)}

    def respond(self, request):
        route = device_api.route(request.method, request.path)
        match route.endpoint.name:
            case "CHALLENGE":
                return device_api.challenge_response(bytes(32), 2**40)
            case "SESSION":
                asked = device_api.parse_session_request(request.body)
                assert device_api.session_proof_is_valid(asked, DEVICE_KEY.public_key())
                return device_api.session_response("token", 2**40)
            case "ORDER":
                return device_api.order_response(self.order)
            case "MANIFEST":
                return device_api.manifest_response(self.files[route.sha256])
            case "CONFIRM":
                return device_api.confirmed_response(route.order_id, device_api.Decision.ACCEPTED)
            case _:
                return device_api.image_response(request, sha256=route.sha256, data=self.files[route.sha256])

    def instruct(self, url="http://cloud.example/device/v1/order"):
        message = Control(
            time=beijing_time(self.now_ns), control_id=ControlId.REMOTE_UPGRADE, parameters=RemoteUpgrade(url=url)
        )
        self.platform.send_command(Command.CONTROL, message, self.now_ns)
        self.run(0.05)

    def of(self, kind):
        return [event for event in self.events if isinstance(event, kind)]


@pytest.fixture(scope="session")
def world():
    """This module's names."""
    return SimpleNamespace(**globals())
