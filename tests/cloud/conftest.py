"""A platform in memory with people, keys, vehicles and a release, driven by a clock that only the test moves."""

from __future__ import annotations

import re
from base64 import b64encode
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from hashlib import sha256
from typing import TYPE_CHECKING, Any
from uuid import UUID

import pytest
from bmsota_cloud.domain.accounts import Account, Role
from bmsota_cloud.domain.device import DeviceSession
from bmsota_cloud.domain.paging import PageRequest
from bmsota_cloud.platform import Cloud, build_cloud
from bmsota_cloud.services import NodeFact, PlatformKeys, PlatformSettings
from bmsota_cloud.wiring import build_app
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from fastapi.testclient import TestClient

from bmsota.image import HardwareClass, ImageRole, ImageVersion, build_image
from bmsota.ota import (
    HttpRequest,
    IdentifiedNode,
    IdentityReport,
    NodeReport,
    Outcome,
    PostBootReport,
    ReleaseManifest,
    describe_image,
    device_api,
    sign_identity,
    sign_manifest,
    sign_report,
)

if TYPE_CHECKING:
    from bmsota_cloud.domain.ota_tasks import OtaTask, VehicleUpgrade

START = datetime(2026, 11, 22, 8, 0, tzinfo=UTC)
PASSWORD = "correct horse battery"
PROJECT = "Harbour"
FACTORY = "2.0.0"
TARGET = "2.1.0"
SLAVES = 2


class Draw:
    """Random bytes that a test can repeat: SHA-256 in counter mode."""

    def __init__(self, seed: str) -> None:
        self.seed = seed
        self.count = 0

    def __call__(self, size: int) -> bytes:
        data = b""
        while len(data) < size:
            self.count += 1
            data += sha256(f"{self.seed}:{self.count}".encode()).digest()
        return data[:size]


def key_of(name: str) -> Ed25519PrivateKey:
    return Ed25519PrivateKey.from_private_bytes(sha256(name.encode()).digest())


def raw_public(key: Ed25519PrivateKey) -> bytes:
    return key.public_key().public_bytes(Encoding.Raw, PublicFormat.Raw)


def hardware_class(series: str, kind: str) -> HardwareClass:
    return HardwareClass.named("tests.example", f"{series}-{kind}")


@dataclass
class ReleaseFiles:
    manifest: bytes
    images: list[bytes]


_RELEASES: dict[Any, ReleaseFiles] = {}


def make_release(*arguments: Any, **options: Any) -> ReleaseFiles:
    """Signed manifest and images; made once for the same arguments, because nothing changes them."""
    known = (arguments, *sorted(options.items()))
    if known not in _RELEASES:
        _RELEASES[known] = _make_release(*arguments, **options)
    return _RELEASES[known]


def _make_release(
    series: str = "F7",
    version: str = TARGET,
    *,
    manifest_key: str = "manifest",
    image_key: str = "image",
    expires: datetime = datetime(2036, 1, 1, tzinfo=UTC),
) -> ReleaseFiles:
    images = [
        build_image(
            bytes(range(256)) * size,
            version=ImageVersion.parse(version),
            security_counter=3,
            hardware_class=hardware_class(series, kind),
            role=role,
            signing_key=key_of(image_key),
        )
        for role, kind, size in ((ImageRole.MASTER, "master", 40), (ImageRole.SLAVE, "slave", 10))
    ]
    manifest = ReleaseManifest(
        release=f"{series}-{version}",
        software_version=version,
        series=series,
        images=tuple(describe_image(image) for image in images),
        created_s=int((START - timedelta(days=30)).timestamp()),
        expires_s=int(expires.timestamp()),
    )
    return ReleaseFiles(sign_manifest(manifest, key_of(manifest_key)), images)


@dataclass
class World:
    """The platform and everything around it that a test asks for."""

    cloud: Cloud
    clock: Clock
    draw: Draw
    people: dict[str, Account] = field(default_factory=dict)
    mails: list[Any] = field(default_factory=list)
    report_counters: dict[str, int] = field(default_factory=dict)
    identity_counters: dict[str, int] = field(default_factory=dict)

    @property
    def now(self) -> datetime:
        return self.clock.now

    @property
    def now_ns(self) -> int:
        return int(self.now.timestamp()) * 1_000_000_000 + self.now.microsecond * 1000

    @property
    def services(self) -> Any:
        return self.cloud.services

    def wait(self, **duration: float) -> None:
        self.clock.now += timedelta(**duration)

    # -- vehicles

    @staticmethod
    def vin(number: int) -> str:
        return f"TESTVEHICLE{number:06d}"

    @staticmethod
    def device_key(vin: str) -> Ed25519PrivateKey:
        return key_of(f"unit {vin}")

    def register(self, number: int, *, series: str = "F7", project: str = PROJECT) -> str:
        vin = self.vin(number)
        self.services.vehicles.register(
            vin=vin,
            series=series,
            project=project,
            hwid=f"M-{number:06d}",
            device_public_key=raw_public(self.device_key(vin)),
            now=self.now,
        )
        return vin

    @staticmethod
    def facts(number: int, *, version: str = FACTORY, series: str = "F7", slaves: int = SLAVES) -> list[NodeFact]:
        hwids = [f"M-{number:06d}", *(f"S-{number:06d}-{k}" for k in range(1, slaves + 1))]
        return [
            NodeFact(
                position=position,
                hwid=hwid,
                version=version,
                security_counter=2,
                hardware_class=str(hardware_class(series, "slave" if position else "master").class_id),
                serial=f"serial {hwid}",
            )
            for position, hwid in enumerate(hwids)
        ]

    def identify(self, number: int, **options: Any) -> None:
        self.services.equipment.identify(self.vin(number), self.facts(number, **options), self.now)

    def identity(self, number: int, **options: Any) -> bytes:
        """A signed identity report; by default of the pack as `facts` has it."""
        vin = self.vin(number)
        own = {
            name: options.pop(name)
            for name in ("counter", "key", "upgrades", "named_vin", "mixed_pack", "sequence")
            if name in options
        }
        counter = own.get("counter", self.identity_counters.get(vin, 0) + 1)
        self.identity_counters[vin] = counter
        facts = options.get("facts") or self.facts(number, **options)
        nodes = tuple(
            IdentifiedNode(
                position=fact.position,
                role=ImageRole.SLAVE if fact.position else ImageRole.MASTER,
                hwid=fact.hwid,
                class_id=UUID(fact.hardware_class),
                version=ImageVersion.parse(fact.version),
                security_counter=fact.security_counter,
                serial=fact.serial,
                image_sha256=bytes.fromhex(fact.image_sha256) or None,
                slot_size_kib=fact.slot_size_kib or 0,
            )
            for fact in facts
        )
        report = IdentityReport(
            vin=own.get("named_vin", vin),
            hwid=nodes[0].hwid,
            counter=counter,
            time_s=int(self.now.timestamp()),
            nodes=nodes,
            upgrades=own.get("upgrades", ()),
            mixed_pack=own.get("mixed_pack", ""),
            sequence=own.get("sequence", 0),
        )
        return sign_identity(report, own.get("key", self.device_key(vin)))

    def confirm(self, number: int, **options: Any) -> Any:
        """The unit sends its signed identity report."""
        document = self.identity(number, **options)
        return self.services.upgrades.receive_report(self.vin(number), document, self.now)

    def session_of(self, number: int, token: str) -> str:
        """A session of the device API, as if the unit had proved its key."""
        session = DeviceSession(
            token_sha256=sha256(token.encode()).digest(),
            vin=self.vin(number),
            hwid=f"M-{number:06d}",
            issued_at=self.now,
            expires_at=self.now + timedelta(hours=1),
        )
        with self.cloud.store.transaction() as work:
            work.device.add_session(session)
        return token

    def fetch(self, number: int, files: ReleaseFiles | None = None) -> None:
        """The unit downloads every image of its release from the device API."""
        token = self.session_of(number, f"fetch-{number}-{self.now.timestamp()}")
        for image in (files or make_release()).images:
            digest = sha256(image).digest()
            request = device_api.authorised(HttpRequest("GET", device_api.image_path(digest), {}), token)
            assert self.cloud.device_respond(request, self.now).body == image

    # -- releases and tasks

    def upload(self, files: ReleaseFiles | None = None) -> Any:
        files = files or make_release()
        return self.services.releases.upload(
            manifest=files.manifest, images=files.images, by=self.people["carol"], now=self.now
        )

    def create(self, *numbers: int, **options: Any) -> OtaTask:
        asked = {
            "project": PROJECT,
            "reason": "cell balancing fix",
            "software_version": TARGET,
            "vins": [self.vin(number) for number in numbers],
            "auditor": "alan",
            "by": self.people["carol"],
            "now": self.now,
        } | options
        return self.services.ota_tasks.create(**asked)

    def newest_code(self) -> str:
        self.services.outbox.drain(self.now, self.mails.append)
        codes = [match[1] for mail in self.mails if (match := re.search(r"Approval code: (\d{6})", mail.body))]
        return codes[-1]

    def approve(self, task: OtaTask, **options: Any) -> OtaTask:
        asked = {"code": self.newest_code(), "by": self.people["alan"], "now": self.now} | options
        return self.services.ota_tasks.approve(task.id, **asked)

    def approved(self, *numbers: int, **options: Any) -> OtaTask:
        """A task in the hands of its vehicles; they are registered and identified, with signature; the release is there."""
        for number in numbers:
            self.register(number)
            self.identify(number)
            self.confirm(number)
        self.upload()
        return self.approve(self.create(*numbers, **options))

    def detail(self, task: OtaTask, by: str = "vera") -> Any:
        return self.services.ota_tasks.detail(task.id, PageRequest(1, 100), by=self.people[by])

    def upgrade(self, task: OtaTask, place: int = 1) -> VehicleUpgrade:
        with self.cloud.store.reading() as work:
            upgrade = work.ota_tasks.upgrade(task.id, place)
        assert upgrade is not None
        return upgrade

    def path(self, task: OtaTask, place: int = 1) -> list[str]:
        """The statuses one vehicle went through."""
        view = self.detail(task).upgrades.items[place - 1]
        return [str(transition.status) for transition in view.transitions]

    def tell(
        self, vin: str, state: int, *, order_id: str = "", progress_pct: int | None = None, reason: str = ""
    ) -> bool:
        return self.services.upgrades.receive_state(
            vin, order_id=order_id, state=state, progress_pct=progress_pct, reason=reason, now=self.now
        )

    def report(self, number: int, order_id: str, **options: Any) -> bytes:
        """A signed post-boot report; by default a true success of the whole pack."""
        vin = self.vin(number)
        counter = options.get("counter", self.report_counters.get(vin, 0) + 1)
        self.report_counters[vin] = counter
        versions = options.get("versions", [TARGET] * (SLAVES + 1))
        facts = self.facts(number, slaves=len(versions) - 1)
        nodes = tuple(
            NodeReport(
                position=fact.position,
                role=ImageRole.SLAVE if fact.position else ImageRole.MASTER,
                hwid=fact.hwid,
                version=ImageVersion.parse(version),
                security_counter=3,
                image_sha256=digest,
            )
            for fact, version, digest in zip(facts, versions, options.get("digests", [None] * len(facts)), strict=True)
        )
        report = PostBootReport(
            order_id=order_id,
            vin=options.get("vin", vin),
            hwid=nodes[0].hwid,
            outcome=options.get("outcome", Outcome.SUCCEEDED),
            reason=options.get("reason", ""),
            counter=counter,
            time_s=int(self.now.timestamp()),
            nodes=nodes,
            mixed_pack=options.get("mixed_pack", ""),
            sequence=options.get("sequence", 0),
            manifest_sha256=options.get("manifest_sha256"),
        )
        return sign_report(report, options.get("key", self.device_key(vin)))


class Clock:
    def __init__(self) -> None:
        self.now = START

    def __call__(self) -> datetime:
        return self.now


SETTINGS = PlatformSettings(
    device_url="http://cloud.example:8080",
    pages_url="http://cloud.example:8080",
    # argon2 as cheap as it goes: what it costs in earnest is not what these tests are about.
    password_memory_kib=64,
    password_passes=1,
    password_lanes=1,
)

KEYS = PlatformKeys(
    order_signing_key=key_of("order"),
    manifest_public_keys=(key_of("manifest").public_key(),),
    image_public_keys=(key_of("image").public_key(),),
)


def make_world(seed: str = "tests", *, people: bool = True, **options: Any) -> World:
    """*people*: make the accounts; not if another world on the same data has made them."""
    clock, draw = Clock(), Draw(seed)
    settings = replace(SETTINGS, **options.pop("settings", {}))
    cloud = build_cloud(**{"keys": KEYS, "settings": settings, "draw": draw, "clock": clock} | options)
    world = World(cloud, clock, draw)
    if not people:
        return world
    for name, role in (
        ("carol", Role.OPERATOR),
        ("olaf", Role.OPERATOR),
        ("alan", Role.AUDITOR),
        ("anna", Role.AUDITOR),
        ("vera", Role.VIEWER),
        ("adam", Role.ADMINISTRATOR),
    ):
        world.people[name] = cloud.services.accounts.create(
            name=name, email=f"{name}@example.org", role=role, password=PASSWORD, now=clock.now
        )
    return world


@pytest.fixture(autouse=True, scope="session")
def new_databases():
    # Here, because programs that tests start import this file, too, without the path to the rigs.
    from new_databases import cheap_databases

    with cheap_databases():
        yield


@pytest.fixture
def world():
    """A fresh platform in memory: carol and olaf operate, alan and anna audit, vera looks, adam administrates."""
    made = make_world()
    yield made
    made.cloud.close()


@pytest.fixture
def cloud(world) -> Cloud:
    return world.cloud


@pytest.fixture
def people(world) -> dict[str, Account]:
    return world.people


@pytest.fixture
def client(world):
    """An HTTP client without a login; `headers_of(client, name)` logs somebody in."""
    from lent_apps import lent_app

    with (
        lent_app(build_app, world.cloud) as app,
        TestClient(app, base_url="http://cloud.example:8080") as made,
    ):
        yield made


def headers_of(client: TestClient, name: str) -> dict[str, str]:
    answer = client.post("/api/v1/login", json={"name": name, "password": PASSWORD})
    assert answer.status_code == 200, answer.text
    return {"Authorization": f"Bearer {answer.json()['token']}"}


@pytest.fixture
def bearer(client):
    """`bearer("carol")` are the headers of a request by carol."""
    return lambda name: headers_of(client, name)


@pytest.fixture
def open_client():
    """An HTTP client for any platform: `client, bearer = open_client(world)`."""
    from lent_apps import lent_app

    with ExitStack() as lent:

        def made(world: World):
            app = lent.enter_context(lent_app(build_app, world.cloud))
            client = TestClient(app, base_url="http://cloud.example:8080")
            return client, lambda name: headers_of(client, name)

        yield made


@pytest.fixture
def release_files():
    return make_release


@pytest.fixture
def new_world():
    """Make further platforms: `new_world(seed)`."""
    made: list[World] = []

    def make(seed: str = "tests", **options: Any) -> World:
        made.append(make_world(seed, **options))
        return made[-1]

    yield make
    for world in made:
        world.cloud.close()


@pytest.fixture
def base64_key():
    return lambda world, vin: b64encode(raw_public(world.device_key(vin))).decode()


@pytest.fixture
def sample_keys() -> PlatformKeys:
    return KEYS
