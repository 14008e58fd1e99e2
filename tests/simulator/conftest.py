"""A bench for whole units: one master with its slaves, signed releases of a few KiB, and the smallest platform there is.

The platform is made of the library's own other halves: `PlatformSession` and the server half of `bmsota.ota.device_api`.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from functools import cache
from random import Random
from typing import TYPE_CHECKING, Any

import pytest
from bmsota_sim.devices.unit import FactoryImages, FullUnit
from bmsota_sim.devices.vehicle import VirtualVehicle
from bmsota_sim.identity import unit_identity
from bmsota_sim.kernel import MS, SECOND, Kernel
from bmsota_sim.links.canbus import CanBus
from bmsota_sim.links.uplink import Modem
from bmsota_sim.physics import NMC, PackDesign, Packs
from bmsota_sim.profiles import SeriesProfile
from bmsota_sim.trace import Trace
from bmsota_sim.virtual import MemoryUplink
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from bmsota.adapters.files import packaged_database
from bmsota.boot import BootStore
from bmsota.bootloader import BootloaderWire
from bmsota.flashing import BootloaderProfile, FlashingEngine, NodesDiscovered
from bmsota.gbt32960 import (
    CloseRequested,
    Command,
    Control,
    ControlId,
    ExtensionReceived,
    LocalUpgrade,
    LocalUpgrades,
    LoginRequested,
    PlatformSession,
    RemoteUpgrade,
    ReplyFlag,
    SignedReport,
    UpgradeState,
    beijing_time,
)
from bmsota.image import HardwareClass, ImageRole, ImageVersion, build_image
from bmsota.master import UnitKeys
from bmsota.ota import (
    DocumentKind,
    HttpResponse,
    IdentityReport,
    PostBootReport,
    ReleaseManifest,
    UpdaterState,
    UpgradeOrder,
    describe_image,
    device_api,
    document_kind,
    sign_manifest,
    sign_order,
    verify_identity,
    verify_report,
)

if TYPE_CHECKING:
    from bmsota.canframe import CanFrame

START_NS = 1_790_000_000 * SECOND
DAY_S = 24 * 3600
PROFILE = SeriesProfile("T1", slave_count=2, cells_per_slave=4, probes_per_slave=1, chemistry="nmc", capacity_ah=50.0)
MASTER_CLASS = HardwareClass.named(PROFILE.vendor, PROFILE.master_class_name)
SLAVE_CLASS = HardwareClass.named(PROFILE.vendor, PROFILE.slave_class_name)

# From instruction to acknowledged report in virtual time. An undisturbed run takes 12 s, a cut costs a few more; a unit
# that is not done by then has stopped.
LIMIT_NS = 240 * SECOND


def _key(number: int) -> Ed25519PrivateKey:
    return Ed25519PrivateKey.from_private_bytes(bytes([number]) * 32)


IMAGE_KEY, MANIFEST_KEY, ORDER_KEY = _key(1), _key(2), _key(3)
KEYS = UnitKeys(
    image_keys=(IMAGE_KEY.public_key(),),
    manifest_keys=(MANIFEST_KEY.public_key(),),
    order_keys=(ORDER_KEY.public_key(),),
)


@dataclass(frozen=True)
class Release:
    """One version of both images, and the signed manifest."""

    version: str
    master: bytes
    slave: bytes
    manifest: bytes

    @property
    def images(self) -> dict[bytes, bytes]:
        return {hashlib.sha256(image).digest(): image for image in (self.master, self.slave)}


@cache
def release(version: str, counter: int, *, master_size: int = 4500, slave_size: int = 900, build: str = "") -> Release:
    """*build*: other bytes under the same version."""

    def image(role: ImageRole, hardware_class: HardwareClass, size: int) -> bytes:
        return build_image(
            Random(f"{version}/{int(role)}{build}").randbytes(size),
            version=ImageVersion.parse(version),
            security_counter=counter,
            hardware_class=hardware_class,
            role=role,
            signing_key=IMAGE_KEY,
        )

    master = image(ImageRole.MASTER, MASTER_CLASS, master_size)
    slave = image(ImageRole.SLAVE, SLAVE_CLASS, slave_size)
    manifest = ReleaseManifest(
        release=f"T1-{version}",
        software_version=version,
        series="T1",
        images=(describe_image(master), describe_image(slave)),
        created_s=START_NS // SECOND - DAY_S,
        expires_s=START_NS // SECOND + 300 * DAY_S,
    )
    return Release(version, master, slave, sign_manifest(manifest, MANIFEST_KEY))


class _Link:
    """The platform's end of one stream."""

    def __init__(self, platform: Platform, wake: Any) -> None:
        self._platform = platform
        self._session = PlatformSession()
        self.wake = wake
        self.is_closing = False
        self.vin: str | None = None

    def connected(self, now_ns: int) -> None:
        self._session.connected(now_ns)

    def receive_data(self, data: bytes, now_ns: int) -> None:
        self._session.receive_data(data, now_ns)
        self._work(now_ns)

    def data_to_send(self) -> bytes:
        return self._session.data_to_send()

    def next_timeout(self) -> int | None:
        return self._session.next_timeout()

    def handle_timeout(self, now_ns: int) -> None:
        self._session.handle_timeout(now_ns)
        self._work(now_ns)

    def disconnected(self, now_ns: int) -> None:
        self.vin = None
        self._session.disconnected(now_ns)

    def instruct(self, now_ns: int) -> None:
        if self.vin is not None and self._platform.order is not None:
            upgrade = RemoteUpgrade(url=self._platform.url + "/device/v1/order")
            message = Control(time=beijing_time(now_ns), control_id=ControlId.REMOTE_UPGRADE, parameters=upgrade)
            self._session.send_command(Command.CONTROL, message, now_ns)

    def _work(self, now_ns: int) -> None:
        while (event := self._session.next_event()) is not None:
            match event:
                case LoginRequested(vin=vin):
                    self._session.accept_login(now_ns)
                    self.vin = vin
                    self._platform.logins += 1
                    self.instruct(now_ns)
                case ExtensionReceived(frame=frame) if frame.command in self._platform.unanswered:
                    self._platform.extension(frame.message)
                case ExtensionReceived(frame=frame):
                    good = self._platform.extension(frame.message)
                    self._session.reply(frame, now_ns, flag=ReplyFlag.SUCCESS if good else ReplyFlag.ERROR)
                case CloseRequested():
                    self.is_closing = True
                case _:
                    pass


class Platform:
    """Orders one upgrade at a time for one vehicle, serves it, and takes its signed report."""

    url = "http://platform.example"

    def __init__(self, kernel: Kernel, identity: Any) -> None:
        self._kernel = kernel
        self._identity = identity
        self._links: list[_Link] = []
        self._sequence = 0
        self._counter = 0
        self._documents: dict[bytes, bytes] = {}
        self._images: dict[bytes, bytes] = {}
        self.order: UpgradeOrder | None = None
        self.order_document = b""
        self.reports: list[PostBootReport] = []
        self.identities: list[IdentityReport] = []
        self.states: list[UpgradeState] = []
        self.local_upgrades: list[LocalUpgrade] = []
        self.takes_local_upgrades = True
        self.unanswered: set[int] = set()
        """Commands that a platform which knows only the standard leaves without an answer."""
        self.logins = 0
        self.requests: list[Any] = []
        self.refused: list[str] = []

    def offer(self, what: Release) -> str:
        """Order an upgrade, and instruct the unit, now or at its next login."""
        self._sequence += 1
        now_s = self._kernel.now_ns // SECOND
        digest = hashlib.sha256(what.manifest).digest()
        self.order = UpgradeOrder(
            order_id=f"order-{self._sequence}",
            task_id="task-1",
            vin=self._identity.vin,
            hwid=self._identity.master_hwid,
            sequence=self._sequence,
            issued_s=now_s,
            expires_s=now_s + DAY_S,
            manifest_sha256=digest,
            software_version=what.version,
            approver="auditor",
            approved_s=now_s,
        )
        self.order_document = sign_order(self.order, ORDER_KEY)
        self._documents[digest] = what.manifest
        self._images |= what.images
        for link in self._links:
            link.instruct(self._kernel.now_ns)
            link.wake()
        return self.order.order_id

    def report_of(self, order_id: str) -> PostBootReport | None:
        found = [report for report in self.reports if report.order_id == order_id]
        return found[-1] if found else None

    # -- MemoryPlatform

    def open_link(self, wake: Any) -> _Link:
        link = _Link(self, wake)
        self._links.append(link)
        return link

    def extension(self, message: Any) -> bool:
        if isinstance(message, UpgradeState):
            self.states.append(message)
        if isinstance(message, LocalUpgrades):
            self.local_upgrades += message.upgrades
            return self.takes_local_upgrades
        if isinstance(message, SignedReport):
            if document_kind(message.document) is DocumentKind.IDENTITY:
                self.identities.append(verify_identity(message.document, [self._identity.device_key.public_key()]))
                return True
            return self._report(message.document)
        return True

    def _report(self, document: bytes) -> bool:
        report = verify_report(document, [self._identity.device_key.public_key()])
        if self.reports and report == self.reports[-1]:
            return True  # The unit has not heard our answer.
        if report.counter <= self._counter:
            # As the reference cloud does: another report under a number that is used up is a replay.
            self.refused.append(f"report counter {report.counter} after {self._counter}")
            return False
        self._counter = report.counter
        self.reports.append(report)
        if self.order is not None and report.order_id == self.order.order_id:
            self.order = None
        return True

    def respond(self, request: Any) -> HttpResponse:
        self.requests.append(request)
        route = device_api.route(request.method, request.path)
        if route.endpoint is device_api.DeviceEndpoint.CHALLENGE:
            return device_api.challenge_response(hashlib.sha256(bytes([len(self.requests) % 256])).digest(), 2**40)
        if route.endpoint is device_api.DeviceEndpoint.SESSION:
            asked = device_api.parse_session_request(request.body)
            if not device_api.session_proof_is_valid(asked, self._identity.device_key.public_key()):
                return device_api.error_response(401, "wrong-proof")
            return device_api.session_response("token", 2**40)
        if device_api.bearer_token(request) != "token":
            return device_api.error_response(401, "no-session")
        if route.endpoint is device_api.DeviceEndpoint.ORDER:
            return device_api.order_response(self.order_document if self.order is not None else None)
        if route.endpoint is device_api.DeviceEndpoint.MANIFEST:
            return device_api.manifest_response(self._documents.get(route.sha256))
        if route.endpoint is device_api.DeviceEndpoint.CONFIRM:
            return device_api.confirmed_response(route.order_id, device_api.Decision.ACCEPTED)
        return device_api.image_response(request, sha256=route.sha256, data=self._images.get(route.sha256))


class Flasher:
    """A field engineer's tool on a virtual bus: a flashing engine on a port, in the kernel's time."""

    def __init__(self, kernel: Kernel, bus: CanBus, wire: BootloaderWire, profile: Any = None) -> None:
        self._kernel = kernel
        self.engine = FlashingEngine(profile or BootloaderProfile(wire))
        self.port = bus.attach(self._receive, name="flasher", drained=lambda _now_ns: self._pump())
        self.events: list[Any] = []
        self.heard: list[CanFrame] = []
        self._due: Any = None

    def _receive(self, frame: CanFrame, now_ns: int) -> None:
        self.heard.append(frame)
        self.engine.receive_frame(frame, now_ns)
        self._pump()

    def _timeout(self) -> None:
        self.engine.handle_timeout(self._kernel.now_ns)
        self._pump()

    def _pump(self) -> None:
        if not self.port.pending:
            for frame in self.engine.frames_to_send(self._kernel.now_ns):
                self.port.send(frame)
        while (event := self.engine.next_event()) is not None:
            self.events.append(event)
        if self._due is not None:
            self._due.cancel()
        due = None if self.port.pending else self.engine.next_timeout()
        self._due = None if due is None else self._kernel.call_at(due, self._timeout)

    def begin(self, operation: str, *arguments: Any, **options: Any) -> None:
        self.events.clear()
        getattr(self.engine, operation)(*arguments, **options)
        self._pump()

    def do(self, operation: str, *arguments: Any, limit_s: float = 120, **options: Any) -> Any:
        """One operation to its end: the nodes of a discovery, or the results by position."""
        self.begin(operation, *arguments, **options)
        end_ns = self._kernel.now_ns + round(limit_s * SECOND)
        while not self.engine.is_idle:
            assert self._kernel.now_ns < end_ns, f"{operation}: {self.events[-5:]}"
            self._kernel.run_until(self._kernel.now_ns + 10 * MS)
        last = self.events[-1]
        if isinstance(last, NodesDiscovered):
            return {node.position: node for node in last.nodes}
        return {result.position: result for result in last.results}


class Bench:
    """One unit and its platform in virtual time."""

    def __init__(
        self,
        *,
        seed: int = 1,
        factory: Release | None = None,
        profile: SeriesProfile = PROFILE,
        has_diagnosis: bool = False,
        dbc: str = "bms_bootloader",
        fd_bitrate_bps: int | None = 2_000_000,
        platform: Any = None,
        uplink: type[MemoryUplink] | None = None,
        measure_period_s: int = 2,
        cuts_are_unstable: bool = False,
    ) -> None:
        factory = factory or release("2.0.0", 1)
        self.kernel = Kernel(START_NS)
        self.identity = unit_identity(seed, "T1", 1, profile.slave_count)
        self.platform = (platform or Platform)(self.kernel, self.identity)
        self.trace = Trace()
        self.uplink = (uplink or MemoryUplink)(self.kernel, self.platform, delay_ns=20 * MS)
        self.modem = Modem(self.kernel, self.uplink, rate_bytes_per_s=20_000)
        self.vehicle = VirtualVehicle(longitude_deg=121.0, latitude_deg=31.0, heading_rad=0.0, odometer_km=1000.0)
        self.wire = BootloaderWire(database(dbc))
        data_bitrate_bps = fd_bitrate_bps if self.wire.is_fd else None
        self.diagnosis = None
        if has_diagnosis:
            self.diagnosis = CanBus(self.kernel, data_bitrate_bps=data_bitrate_bps, name="diagnosis", seed=seed)
        self.unit = FullUnit(
            kernel=self.kernel,
            internal_dbc=database("bms_internal"),
            bootloader_dbc=database(dbc),
            data_bitrate_bps=data_bitrate_bps,
            modem=self.modem,
            vehicle=self.vehicle,
            trace=self.trace,
            identity=self.identity,
            profile=profile,
            keys=KEYS,
            factory=FactoryImages(factory.master, factory.slave),
            packs=Packs(
                PackDesign(cell_count=profile.cell_count, probe_count=profile.probe_count, chemistry=NMC),
                [self.identity.vin],
                seed=seed,
                soc=0.6,
            ),
            seed=seed,
            report_period_ns=600 * SECOND,
            measure_period_ns=measure_period_s * SECOND,
            heartbeat_period_ns=60 * SECOND,
            diagnosis_bus=self.diagnosis,
            origins=[self.platform.url],
        )
        for flash in self.flashes.values():
            flash.cuts_are_unstable = cuts_are_unstable
        self.unit.switch_on()

    def flasher(self) -> Flasher:
        """A tool, on the diagnostic bus if there is one, else on the internal bus."""
        return Flasher(self.kernel, self.diagnosis or self.unit.bus, self.wire)

    @property
    def flashes(self) -> dict[str, Any]:
        """Every flash memory of the unit by name."""
        master = self.unit.master
        found = {"master": master.node.flash, "shelf": master.image_flash}
        return found | {f"slave {slave.position}": slave.node.flash for slave in self.unit.slaves}

    def run(self, seconds: float) -> None:
        self.kernel.run_until(self.kernel.now_ns + round(seconds * SECOND))

    def versions(self) -> tuple[str, ...]:
        """What really runs: the master, then the slaves; "off" without power."""
        return tuple(str(node.version or "off") for node in (self.unit.master, *self.unit.slaves))

    def is_up(self) -> bool:
        return "off" not in self.versions() and self.unit.master.is_logged_in

    def wait(self, condition: Any, what: str) -> None:
        """Run until *condition*; the driver leaves and comes back whenever a download is complete.

        The ignition is the only thing anybody does to the unit.
        """
        end_ns = self.kernel.now_ns + LIMIT_NS
        complete_since: int | None = None
        while not condition():
            assert self.kernel.now_ns < end_ns, f"hangs: {what} not within {LIMIT_NS // SECOND} s; {self.story()}"
            self.run(0.1)
            if self.unit.master.upgrade_state is not UpdaterState.DOWNLOAD_COMPLETE:
                complete_since = None
            elif complete_since is None:
                complete_since = self.kernel.now_ns
            elif self.kernel.now_ns - complete_since >= SECOND:
                complete_since = None
                self.unit.cycle_power(SECOND)

    def settle(self) -> None:
        """Until everything is up and no upgrade is under way."""
        self.wait(lambda: self.is_up() and self.unit.master.upgrade_state is UpdaterState.IDLE, "rest")

    def upgrade(self, what: Release) -> PostBootReport:
        """One whole upgrade, from the order to the acknowledged report."""
        order_id = self.platform.offer(what)
        self.wait(lambda: self.platform.report_of(order_id) is not None, f"report of {order_id}")
        self.settle()
        report = self.platform.report_of(order_id)
        assert report is not None
        return report

    def story(self) -> str:
        """The end of the trace, for a failing case."""
        notes = [f"{(note.at_ns - START_NS) / SECOND:.2f} {note.who}: {note.what}" for note in self.trace.notes]
        return f"state {self.unit.master.upgrade_state}, versions {self.versions()}\n" + "\n".join(notes[-30:])


def database(name: str) -> Any:
    return packaged_database(name)


@pytest.fixture(scope="session")
def unit_bench() -> Any:
    """This module's names, for tests that build their own bench."""

    class Parts:
        pass

    parts = Parts()
    parts.__dict__.update(globals())
    return parts


__all__ = ["BootStore"]
