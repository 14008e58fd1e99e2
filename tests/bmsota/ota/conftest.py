"""Keys, documents and images for the tests of `bmsota.ota`."""

import dataclasses
import hashlib
import sys
from pathlib import Path
from types import SimpleNamespace

import cbor2
import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from bmsota.image import HardwareClass, ImageDependency, ImageRole, ImageVersion, build_image
from bmsota.ota import (
    IdentifiedNode,
    IdentityReport,
    NodeReport,
    NodeUpgradeOutcome,
    Outcome,
    PostBootReport,
    ReleaseManifest,
    ReportedUpgrade,
    UpgradeOrder,
    describe_image,
    sign_manifest,
    sign_order,
)

# The rigs of this folder are modules beside the tests.
sys.path.insert(0, str(Path(__file__).parent))

DAY_S = 24 * 3600
NOW_S = 1_790_000_000
VIN = "LBMSOTA0000000001"
HWID = "M-0001"


def key(number: int) -> Ed25519PrivateKey:
    return Ed25519PrivateKey.from_private_bytes(bytes([number]) * 32)


IMAGE_KEY, MANIFEST_KEY, ORDER_KEY, DEVICE_KEY, THIEF_KEY = (key(number) for number in range(1, 6))
MASTER_CLASS = HardwareClass.named("bmsota.example", "F7-master")
SLAVE_CLASS = HardwareClass.named("bmsota.example", "F7-slave")
OTHER_CLASS = HardwareClass.named("bmsota.example", "E7-slave")


def firmware(role=ImageRole.MASTER, *, hardware_class=None, version="2.1.0", counter=2, size_bytes=9000, needs=None):
    """An image of about *size_bytes*."""
    return build_image(
        hashlib.shake_256(f"{int(role)} {version}".encode()).digest(size_bytes),
        version=ImageVersion.parse(version),
        security_counter=counter,
        hardware_class=hardware_class or (MASTER_CLASS if role is ImageRole.MASTER else SLAVE_CLASS),
        role=role,
        signing_key=IMAGE_KEY,
        dependencies=()
        if needs is None
        else (ImageDependency(role=ImageRole.SLAVE, version_min=ImageVersion.parse(needs)),),
    )


def slave_image(**changes):
    """A slave's image of 2.1.0 with other makings than the release's."""
    values = {
        "version": ImageVersion(2, 1),
        "security_counter": 2,
        "hardware_class": SLAVE_CLASS,
        "role": ImageRole.SLAVE,
        "signing_key": IMAGE_KEY,
    }
    return build_image(hashlib.shake_256(b"another build").digest(9000), **{**values, **changes})


def manifest_of(*images: bytes, **changes) -> ReleaseManifest:
    values = {
        "release": "F7-2.1.0",
        "software_version": "2.1.0",
        "series": "F7",
        "images": tuple(describe_image(image) for image in images),
        "created_s": NOW_S - 10 * DAY_S,
        "expires_s": NOW_S + 100 * DAY_S,
    }
    return ReleaseManifest(**{**values, **changes})


def order_for(manifest_data: bytes, **changes) -> UpgradeOrder:
    values = {
        "order_id": "o-17",
        "task_id": "t-3",
        "vin": VIN,
        "hwid": HWID,
        "sequence": 5,
        "issued_s": NOW_S - 60,
        "expires_s": NOW_S + 30 * DAY_S,
        "manifest_sha256": hashlib.sha256(manifest_data).digest(),
        "software_version": "2.1.0",
        "approver": "auditor",
        "approved_s": NOW_S - 120,
    }
    return UpgradeOrder(**{**values, **changes})


def report_of(**changes) -> PostBootReport:
    version = ImageVersion(2, 1)
    values = {
        "order_id": "o-17",
        "vin": VIN,
        "hwid": HWID,
        "outcome": Outcome.SUCCEEDED,
        "reason": "",
        "counter": 4,
        "time_s": NOW_S,
        "nodes": (
            NodeReport(position=0, role=ImageRole.MASTER, hwid=HWID, version=version, security_counter=2),
            NodeReport(position=1, role=ImageRole.SLAVE, hwid="S-0001", version=version, security_counter=2),
            NodeReport(position=3, role=ImageRole.SLAVE, hwid="S-0003", version=version, security_counter=2),
        ),
    }
    return PostBootReport(**{**values, **changes})


def identity_of(**changes) -> IdentityReport:
    version = ImageVersion(2, 1)
    values = {
        "vin": VIN,
        "hwid": HWID,
        "counter": 3,
        "time_s": NOW_S,
        "nodes": tuple(
            IdentifiedNode(
                position=position,
                role=ImageRole.SLAVE if position else ImageRole.MASTER,
                hwid=hwid,
                class_id=(SLAVE_CLASS if position else MASTER_CLASS).class_id,
                version=version,
                security_counter=2,
                serial=f"SN-{hwid}",
            )
            for position, hwid in ((0, HWID), (1, "S-0001"), (3, "S-0003"))
        ),
        "upgrades": (
            ReportedUpgrade(
                at_s=NOW_S - 3600,
                position=3,
                hwid="S-0003",
                version_before=ImageVersion(2, 0),
                version_after=version,
                outcome=NodeUpgradeOutcome.SUCCEEDED,
            ),
        ),
    }
    return IdentityReport(**{**values, **changes})


def sign1(payload: bytes, *, signer=ORDER_KEY, protected=None, content_type="", unprotected=None, tag=18) -> bytes:
    """COSE_Sign1 written from RFC 9052 alone, with cbor2 and an Ed25519 signature: any header, any payload."""
    der = signer.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    if protected is None:
        protected = {1: -8, 3: content_type, 4: hashlib.sha256(der).digest()[:8]}
    header = protected if isinstance(protected, bytes) else cbor2.dumps(protected, canonical=True)
    signature = signer.sign(cbor2.dumps(["Signature1", header, b"", payload]))
    return cbor2.dumps(cbor2.CBORTag(tag, [header, unprotected or {}, payload, signature]))


@pytest.fixture(scope="session")
def world() -> SimpleNamespace:
    """One release for one vehicle: a master and slaves at positions 1 to 3, with every document signed."""
    master, slave = firmware(needs="2.0.0"), firmware(ImageRole.SLAVE, size_bytes=5000)
    manifest = manifest_of(master, slave)
    manifest_data = sign_manifest(manifest, MANIFEST_KEY)
    order = order_for(manifest_data)
    return SimpleNamespace(
        NOW_S=NOW_S,
        NOW_NS=NOW_S * 1_000_000_000,
        DAY_S=DAY_S,
        DAY_NS=DAY_S * 1_000_000_000,
        VIN=VIN,
        HWID=HWID,
        IMAGE_KEY=IMAGE_KEY,
        MANIFEST_KEY=MANIFEST_KEY,
        ORDER_KEY=ORDER_KEY,
        DEVICE_KEY=DEVICE_KEY,
        THIEF_KEY=THIEF_KEY,
        MASTER_CLASS=MASTER_CLASS,
        SLAVE_CLASS=SLAVE_CLASS,
        OTHER_CLASS=OTHER_CLASS,
        firmware=firmware,
        slave_image=slave_image,
        manifest_of=manifest_of,
        order_for=order_for,
        report_of=report_of,
        identity_of=identity_of,
        sign1=sign1,
        replace=dataclasses.replace,
        master=master,
        slave=slave,
        manifest=manifest,
        manifest_data=manifest_data,
        order=order,
        order_data=sign_order(order, ORDER_KEY),
    )
