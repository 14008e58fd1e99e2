"""The four signed documents: what they say survives, and nothing else is believed."""

import hashlib
import random

import cbor2
import pytest
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from cwt import COSE, COSEKey
from cwt.exceptions import VerifyError
from hypothesis import given, settings
from hypothesis import strategies as st

from bmsota.errors import ImageError, LocalProtocolError, TrustError
from bmsota.image import Attack, ImageRole, ImageVersion
from bmsota.ota import (
    IDENTITY_REPORT_SIZE_BYTES_MAX,
    MANIFEST_SIZE_BYTES_MAX,
    ORDER_SIZE_BYTES_MAX,
    RECEIPT_SIZE_BYTES_MAX,
    REPORT_SIZE_BYTES_MAX,
    DocumentKind,
    DocumentReceipt,
    NodeReport,
    Outcome,
    describe_image,
    document_kind,
    sign_identity,
    sign_manifest,
    sign_order,
    sign_receipt,
    sign_report,
    verify_identity,
    verify_manifest,
    verify_order,
    verify_receipt,
    verify_report,
)

pytestmark = pytest.mark.slow

KINDS = ("manifest", "order", "report", "identity", "receipt")
VERIFY = {
    "manifest": verify_manifest,
    "order": verify_order,
    "report": verify_report,
    "identity": verify_identity,
    "receipt": verify_receipt,
}
SIGN = {
    "manifest": sign_manifest,
    "order": sign_order,
    "report": sign_report,
    "identity": sign_identity,
    "receipt": sign_receipt,
}


def values_of(world):
    return {
        "manifest": world.manifest,
        "order": world.order,
        "report": world.report_of(),
        "identity": world.identity_of(),
        "receipt": receipt_of(world),
    }


def receipt_of(world, **changes):
    values = {
        "vin": world.VIN,
        "hwid": world.HWID,
        "document_sha256": bytes(range(32)),
        "reason": "replay",
        "detail": "expected a counter above 57, got 1",
        "counter": 57,
        "time_s": world.NOW_S,
    }
    return DocumentReceipt(**{**values, **changes})


@pytest.fixture(scope="session")
def document(world):
    """Kind -> (value, bytes). All signed by one key on purpose: then only the content type keeps the kinds apart."""
    return {kind: (value, SIGN[kind](value, world.ORDER_KEY)) for kind, value in values_of(world).items()}


def attack_of(kind, data, keys):
    with pytest.raises(TrustError) as caught:
        VERIFY[kind](data, keys)
    return caught.value.attack


def payload_of(data):
    return cbor2.loads(cbor2.loads(data).value[2])


def resigned(world, kind, change):
    """The document with its payload's map changed, well signed."""
    fields = payload_of(SIGN[kind](values_of(world)[kind], world.ORDER_KEY))
    change(fields)
    content_type = f"application/vnd.bmsota.{kind}+cbor"
    return world.sign1(cbor2.dumps(fields, canonical=True), content_type=content_type)


@pytest.mark.parametrize("kind", KINDS)
def test_a_document_says_what_was_signed(world, document, kind):
    """And signing again gives the same bytes."""
    value, data = document[kind]
    assert VERIFY[kind](data, [world.THIEF_KEY.public_key(), world.ORDER_KEY.public_key()]) == value
    assert SIGN[kind](value, world.ORDER_KEY) == data


@pytest.mark.parametrize("kind", KINDS)
def test_another_cose_library_reads_our_documents(world, document, kind):
    """cwt, a peer: it accepts the signature and finds the payload; with another key it does not."""
    data = document[kind][1]
    assert COSE.new().decode(data, peer_key(world.ORDER_KEY)) == cbor2.loads(data).value[2]
    with pytest.raises(VerifyError):
        COSE.new().decode(data, peer_key(world.THIEF_KEY, named_as=world.ORDER_KEY))


def peer_key(key, named_as=None):
    """The public half of *key* as a COSE_Key (RFC 9053, section 7.2)."""
    der = (named_as or key).public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    x = key.public_key().public_bytes(Encoding.Raw, PublicFormat.Raw)
    return COSEKey.new({1: 1, 2: hashlib.sha256(der).digest()[:8], 3: -8, -1: 6, -2: x})


@pytest.mark.parametrize("kind", KINDS)
def test_the_bytes_are_those_of_rfc_9052(world, document, kind):
    """An independent writer, cbor2 and a bare signature, makes the same document of the same payload."""
    data = document[kind][1]
    parts = cbor2.loads(data)
    assert parts.tag == 18
    content_type = f"application/vnd.bmsota.{kind}+cbor"
    assert data == world.sign1(parts.value[2], content_type=content_type)
    der = world.ORDER_KEY.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    assert cbor2.loads(parts.value[0]) == {1: -8, 3: content_type, 4: hashlib.sha256(der).digest()[:8]}


@pytest.mark.parametrize(
    ("kind", "digest"),
    [
        ("order", "0e991fb893612b4e47175db71fad815f8f217fbd5308f2c51d043dce59ece70c"),
        ("report", "b22403adb4c6f9f555b02c205f6ce24c51a184b4e44f52f40c40e8cebd6879d9"),
        ("identity", "19ecefa2c6f1648d95686f38e7a5157aa0759110d7504dd0a7d9343c8d509507"),
        ("manifest", "96a9bb9ba3946043418ffce7eda800c5d5d07f3fcfb50001aa8fc2a3f011504a"),
        ("receipt", "ca8c95379b2b594c69e306477077446ca670bea92de6c5f2685aa7457d229e1c"),
    ],
)
def test_the_bytes_are_locked(document, kind, digest):
    """Units in the field read these bytes; a change of them is a change of the protocol."""
    assert hashlib.sha256(document[kind][1]).hexdigest() == digest


def test_the_fields_are_those_of_the_document_page(document):
    """docs/trust.md lists them; the order of keys is CBOR's."""
    order = payload_of(document["order"][1])
    assert set(order) == {
        "order_id", "task_id", "vin", "hwid", "sequence", "issued_s", "expires_s", "manifest_sha256",
        "software_version", "approver", "approved_s",
    }  # fmt: skip
    report = payload_of(document["report"][1])
    assert report["outcome"] == "succeeded"
    assert report["nodes"][2] == {
        "position": 3, "role": 1, "hwid": "S-0003", "version": [2, 1, 0, 0], "security_counter": 2,
    }  # fmt: skip
    image = payload_of(document["manifest"][1])["images"][0]
    assert len(image["block_sha256"]) == 32 * 3
    assert image["version"] == [2, 1, 0, 0]


# -- nothing else is believed --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", KINDS)
def test_no_flipped_bit_is_believed(world, document, kind):
    """Every bit of every byte."""
    data, keys = document[kind][1], [world.ORDER_KEY.public_key()]
    for place in range(len(data)):
        for bit in range(8):
            mutant = bytearray(data)
            mutant[place] ^= 1 << bit
            with pytest.raises(TrustError):
                VERIFY[kind](bytes(mutant), keys)


@pytest.mark.parametrize("kind", KINDS)
def test_no_truncated_or_lengthened_document_is_believed(world, document, kind):
    """Cut anywhere, a byte more anywhere."""
    data, keys = document[kind][1], [world.ORDER_KEY.public_key()]
    for place in range(len(data)):
        for mutant in (data[:place], data[:place] + b"\0" + data[place:]):
            with pytest.raises(TrustError):
                VERIFY[kind](mutant, keys)
    assert attack_of(kind, data + b"\0", keys) == Attack.MALFORMED_DOCUMENT


@pytest.mark.parametrize("kind", KINDS)
@settings(max_examples=200)
@given(data=st.binary(max_size=200))
def test_arbitrary_bytes_are_not_believed(world, kind, data):
    """Nothing but `TrustError`, whatever the bytes."""
    with pytest.raises(TrustError):
        VERIFY[kind](data, [world.ORDER_KEY.public_key()])


@pytest.mark.parametrize("kind", KINDS)
@settings(max_examples=200, deadline=None)
@given(value=st.recursive(
    st.none() | st.booleans() | st.integers(-1, 2**64 - 1) | st.text(max_size=8) | st.binary(max_size=33),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=3), max_leaves=6),
    choice=st.integers(0, 100))  # fmt: skip
def test_a_well_signed_document_with_a_strange_field_is_refused_or_equal(world, kind, value, choice):
    """Any field replaced by any value: `TrustError`, or a document that is written the same way again."""

    def change(fields):
        fields[sorted(fields)[choice % len(fields)]] = value

    data = resigned(world, kind, change)
    try:
        parsed = VERIFY[kind](data, [world.ORDER_KEY.public_key()])
    except TrustError:
        return
    assert SIGN[kind](parsed, world.ORDER_KEY) == data


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("other", KINDS)
def test_one_kind_is_never_taken_for_another(world, document, kind, other):
    """Even when the same key signs all of them."""
    keys = [world.ORDER_KEY.public_key()]
    if kind == other:
        assert VERIFY[kind](document[other][1], keys) == document[other][0]
    else:
        assert attack_of(kind, document[other][1], keys) in {Attack.WRONG_DOCUMENT, Attack.ENDLESS_DATA}
    # The content type is under the signature: relabelling does not help.
    parts = cbor2.loads(document[other][1]).value
    header = cbor2.loads(parts[0])
    header[3] = f"application/vnd.bmsota.{kind}+cbor"
    parts[0] = cbor2.dumps(header, canonical=True)
    if kind != other:
        expected = {Attack.ARBITRARY_SOFTWARE, Attack.ENDLESS_DATA}
        assert attack_of(kind, cbor2.dumps(cbor2.CBORTag(18, parts)), keys) in expected


@pytest.mark.parametrize("kind", KINDS)
def test_a_document_says_what_it_is(document, kind):
    """For a message that carries several kinds; also when the signature or the payload is damaged."""
    data = document[kind][1]
    assert document_kind(data) is DocumentKind(kind)
    assert document_kind(data[:-1] + bytes([data[-1] ^ 1])) is DocumentKind(kind)


@pytest.mark.parametrize(
    "change",
    [
        {"vin": "short"}, {"hwid": ""}, {"document_sha256": bytes(31)}, {"reason": "x" * 65}, {"reason": 1},
        {"detail": "a\nb"}, {"detail": "x" * 257}, {"counter": -1}, {"counter": True}, {"time_s": "now"},
    ],
)  # fmt: skip
def test_a_wrong_receipt_is_not_believed(world, change):
    data = resigned(world, "receipt", lambda fields: fields.update(change))
    assert attack_of("receipt", data, [world.ORDER_KEY.public_key()]) == Attack.MALFORMED_DOCUMENT
    with pytest.raises(LocalProtocolError, match="expected"):
        receipt_of(world, **change)


def test_the_largest_receipt_fits_its_limit(world):
    receipt = receipt_of(
        world, hwid="x" * 24, reason="\U0001f50b" * 64, detail="\U0001f50b" * 256, counter=2**63 - 1, time_s=2**63 - 1
    )
    assert verify_receipt(sign_receipt(receipt, world.ORDER_KEY), [world.ORDER_KEY.public_key()]) == receipt


@pytest.mark.parametrize("kind", ["report", "identity"])
def test_a_unit_says_its_sequence_only_if_it_has_one(world, kind):
    """A field that came later: without it a document has the bytes that it had before, and older ones are read."""
    keys = [world.ORDER_KEY.public_key()]
    without = values_of(world)[kind]
    assert "sequence" not in payload_of(SIGN[kind](without, world.ORDER_KEY))
    value = world.replace(without, sequence=7)
    data = SIGN[kind](value, world.ORDER_KEY)
    assert payload_of(data)["sequence"] == 7
    assert VERIFY[kind](data, keys) == value
    for wrong in (-1, "7", None, True, 2**63):
        data = resigned(world, kind, lambda fields, wrong=wrong: fields.update(sequence=wrong))
        assert attack_of(kind, data, keys) == Attack.MALFORMED_DOCUMENT


def test_what_is_no_document_has_no_kind(world, document):
    for data in (b"", b"x" * 200, document["order"][1][:-1]):
        with pytest.raises(TrustError) as caught:
            document_kind(data)
        assert caught.value.attack == Attack.MALFORMED_DOCUMENT
    for content_type in ("application/cbor", 60):
        data = world.sign1(b"\xa0", content_type=content_type)
        with pytest.raises(TrustError, match=f"unknown content type {content_type}"):
            document_kind(data)
    with pytest.raises(TrustError) as caught:
        document_kind(bytes(70_000))
    assert caught.value.attack == Attack.ENDLESS_DATA


@pytest.mark.parametrize("kind", KINDS)
def test_an_unknown_key_is_arbitrary_software(world, document, kind):
    """No key, another key, and a foreign signature under a known key's id."""
    data = document[kind][1]
    assert attack_of(kind, data, []) == Attack.ARBITRARY_SOFTWARE
    assert attack_of(kind, data, [world.THIEF_KEY.public_key()]) == Attack.ARBITRARY_SOFTWARE
    parts = cbor2.loads(data).value
    forged = world.sign1(parts[2], signer=world.THIEF_KEY, protected=parts[0])
    assert attack_of(kind, forged, [world.ORDER_KEY.public_key()]) == Attack.ARBITRARY_SOFTWARE


@pytest.mark.parametrize(
    ("kind", "size"),
    [
        ("manifest", MANIFEST_SIZE_BYTES_MAX),
        ("order", ORDER_SIZE_BYTES_MAX),
        ("report", REPORT_SIZE_BYTES_MAX),
        ("identity", IDENTITY_REPORT_SIZE_BYTES_MAX),
        ("receipt", RECEIPT_SIZE_BYTES_MAX),
    ],
)
def test_a_document_has_a_largest_size(world, kind, size):
    """Beyond it nothing is looked at; below it the bytes are judged."""
    assert attack_of(kind, bytes(size + 1), [world.ORDER_KEY.public_key()]) == Attack.ENDLESS_DATA
    assert attack_of(kind, bytes(size), [world.ORDER_KEY.public_key()]) == Attack.MALFORMED_DOCUMENT


ENVELOPES = {
    "tag of COSE_Sign": {"tag": 98},
    "something in the unprotected header": {"unprotected": {4: b"12345678"}},
    "no content type": {"protected": {1: -8, 4: bytes(8)}},
    "a header parameter more": {"protected": {1: -8, 2: [3], 3: "application/vnd.bmsota.order+cbor", 4: bytes(8)}},
    "algorithm ES256": {"protected": {1: -7, 3: "application/vnd.bmsota.order+cbor", 4: bytes(8)}},
    "algorithm by name": {"protected": {1: "EdDSA", 3: "application/vnd.bmsota.order+cbor", 4: bytes(8)}},
    "key id of 7 bytes": {"protected": {1: -8, 3: "application/vnd.bmsota.order+cbor", 4: bytes(7)}},
    "content type of another project": {"content_type": "application/cbor"},
    "content type as a number": {"protected": {1: -8, 3: 60, 4: bytes(8)}},
    "empty protected header": {"protected": b""},
    "protected header that is no map": {"protected": b"\x80"},
    "protected header in another encoding": {"protected": cbor2.dumps({3: "application/vnd.bmsota.order+cbor", 1: -8})},
}


@pytest.mark.parametrize("name", ENVELOPES)
def test_other_envelopes_are_malformed(world, name):
    """One algorithm, one content type, a key id, and nothing outside the signature."""
    options = {"content_type": "application/vnd.bmsota.order+cbor", **ENVELOPES[name]}
    data = world.sign1(cbor2.loads(world.order_data).value[2], **options)
    assert attack_of("order", data, [world.ORDER_KEY.public_key()]) == Attack.MALFORMED_DOCUMENT


@pytest.mark.parametrize(
    "parts", [[], [b"", {}, b""], [b"", {}, None, bytes(64)], [b"", {}, b"", bytes(63)], [{}, {}, b"", bytes(64)], 7]
)
def test_other_shapes_are_malformed(world, parts):
    """A detached payload, a short signature, a header that is no byte string."""
    data = cbor2.dumps(cbor2.CBORTag(18, parts))
    assert attack_of("order", data, [world.ORDER_KEY.public_key()]) == Attack.MALFORMED_DOCUMENT


@pytest.mark.parametrize("payload", [b"", b"\x80", b"\xff", cbor2.dumps({"b": 1, "a": 2})])
def test_a_signed_payload_must_be_a_map_in_our_encoding(world, payload):
    """A signature does not make another encoding ours."""
    data = world.sign1(payload, content_type="application/vnd.bmsota.order+cbor")
    assert attack_of("order", data, [world.ORDER_KEY.public_key()]) == Attack.MALFORMED_DOCUMENT


@pytest.mark.parametrize("kind", KINDS)
def test_a_missing_field_is_malformed(world, kind):
    """Every field of layout 0 must be there."""
    keys = [world.ORDER_KEY.public_key()]
    for name in payload_of(resigned(world, kind, lambda _fields: None)):
        data = resigned(world, kind, lambda fields, name=name: fields.pop(name))
        assert attack_of(kind, data, keys) == Attack.MALFORMED_DOCUMENT


@pytest.mark.parametrize("kind", KINDS)
def test_an_unknown_field_is_passed_over_unless_it_is_critical(world, kind):
    """A later version may say more; it says itself what must not be passed over."""
    keys = [world.ORDER_KEY.public_key()]
    plain = VERIFY[kind](resigned(world, kind, lambda _fields: None), keys)
    known = {"manifest": "release", "order": "vin", "report": "counter", "identity": "nodes", "receipt": "reason"}[kind]
    for change in ({"x": 1}, {"x": {"deep": [1, 2]}}, {"x": 1, "critical": []}, {"critical": [known]}):
        data = resigned(world, kind, lambda fields, change=change: fields.update(change))
        assert VERIFY[kind](data, keys) == plain, change
    data = resigned(world, kind, lambda fields: fields.update(x=1, critical=["x"]))
    assert attack_of(kind, data, keys) == Attack.NEWER_DOCUMENT
    for wrong in ("x", ["absent"], [1], {"x": 1}, [["x"]]):
        data = resigned(world, kind, lambda fields, wrong=wrong: fields.update(x=1, critical=wrong))
        assert attack_of(kind, data, keys) == Attack.MALFORMED_DOCUMENT, wrong


@pytest.mark.parametrize(
    ("kind", "part"), [("manifest", "images"), ("report", "nodes"), ("identity", "nodes"), ("identity", "upgrades")]
)
def test_the_rule_holds_in_the_inner_maps_too(world, kind, part):
    """Such as an image of a release that can only be had as a delta."""
    keys = [world.ORDER_KEY.public_key()]
    data = resigned(world, kind, lambda fields: fields[part][0].update(delta=b"d"))
    assert VERIFY[kind](data, keys) == VERIFY[kind](resigned(world, kind, lambda _fields: None), keys)
    data = resigned(world, kind, lambda fields: fields[part][0].update(delta=b"d", critical=["delta"]))
    assert attack_of(kind, data, keys) == Attack.NEWER_DOCUMENT


@pytest.mark.parametrize("kind", KINDS)
def test_a_newer_layout_is_refused_by_name(world, kind):
    """Layout 0 is what a document without a number is of; its number may be written too."""
    keys = [world.ORDER_KEY.public_key()]
    data = resigned(world, kind, lambda fields: fields.update(layout=0))
    assert VERIFY[kind](data, keys) == VERIFY[kind](resigned(world, kind, lambda _fields: None), keys)
    data = resigned(world, kind, lambda fields: fields.update(layout=1))
    with pytest.raises(TrustError, match=r"newer-document: .*layout 1 is newer than this version reads \(0\)"):
        VERIFY[kind](data, keys)
    for wrong in (-1, "1", True, None):
        data = resigned(world, kind, lambda fields, wrong=wrong: fields.update(layout=wrong))
        assert attack_of(kind, data, keys) == Attack.MALFORMED_DOCUMENT, wrong


# -- values that cannot be ------------------------------------------------------------------------------------------------


WRONG_ORDERS = [
    {"order_id": ""},
    {"order_id": "../x"},
    {"order_id": "a" * 65},
    {"task_id": "a b"},
    {"vin": "LBMSOTA000000001"},
    {"vin": "lbmsota0000000001"},
    {"hwid": ""},
    {"hwid": "x" * 25},
    {"hwid": "ä"},
    {"sequence": 0},
    {"sequence": True},
    {"sequence": 2**63},
    {"issued_s": -1},
    {"expires_s": 1_790_000_000 - 60},
    {"expires_s": 1_790_000_000 - 60 + 90 * 24 * 3600 + 1},
    {"manifest_sha256": bytes(31)},
    {"software_version": ""},
    {"software_version": "2.1\n"},
    {"approver": ""},
    {"approved_s": 1_790_000_000},
]


@pytest.mark.parametrize("change", WRONG_ORDERS, ids=str)
def test_a_wrong_order_is_neither_made_nor_believed(world, change):
    """The maker has a bug, and says so; the reader sees a malformed document."""
    with pytest.raises(LocalProtocolError, match=f"{next(iter(change))}: expected"):
        world.replace(world.order, **change)
    data = resigned(world, "order", lambda fields: fields.update(change))
    assert attack_of("order", data, [world.ORDER_KEY.public_key()]) == Attack.MALFORMED_DOCUMENT


WRONG_REPORTS = [
    {"outcome": "fine"},
    {"reason": "x" * 257},
    {"counter": 0},
    {"time_s": -1},
    {"nodes": []},
    {"nodes": "none"},
    {"nodes": [{}]},
    {"hwid": "M-0002"},
]


@pytest.mark.parametrize("change", WRONG_REPORTS, ids=str)
def test_a_wrong_report_is_not_believed(world, change):
    """As an order."""
    data = resigned(world, "report", lambda fields: fields.update(change))
    assert attack_of("report", data, [world.ORDER_KEY.public_key()]) == Attack.MALFORMED_DOCUMENT


def test_a_report_lists_the_master_first_and_each_node_once(world):
    """Positions rise; only position 0 is a master."""
    nodes = world.report_of().nodes
    for wrong in (nodes[1:], nodes[::-1], (nodes[0], nodes[1], nodes[1])):
        with pytest.raises(LocalProtocolError, match="nodes: expected"):
            world.report_of(nodes=wrong)
    version = ImageVersion(1)
    for position, role in ((0, ImageRole.SLAVE), (1, ImageRole.MASTER)):
        with pytest.raises(LocalProtocolError, match="role: expected"):
            NodeReport(position=position, role=role, hwid="x", version=version, security_counter=0)
    for position in (-1, 64):
        with pytest.raises(LocalProtocolError, match="position: expected"):
            NodeReport(position=position, role=ImageRole.SLAVE, hwid="x", version=version, security_counter=0)


WRONG_IDENTITIES = [
    {"vin": "lbmsota0000000001"},
    {"hwid": "M-0002"},
    {"counter": 0},
    {"time_s": -1},
    {"nodes": []},
    {"nodes": [{}]},
    {"nodes": "none"},
    {"upgrades": [{}]},
    {"upgrades": None},
]

WRONG_PARTS = [
    ("nodes", {"position": 64}),
    ("nodes", {"role": 1}),
    ("nodes", {"class_id": bytes(15)}),
    ("nodes", {"class_id": "F7"}),
    ("nodes", {"version": [2, 1, 0]}),
    ("nodes", {"security_counter": 2**32}),
    ("nodes", {"serial": "x" * 33}),
    ("nodes", {"serial": "a\nb"}),
    ("upgrades", {"at_s": -1}),
    ("upgrades", {"position": 64}),
    ("upgrades", {"hwid": ""}),
    ("upgrades", {"version_before": 7}),
    ("upgrades", {"outcome": "fine"}),
    ("upgrades", {"outcome": []}),
]


@pytest.mark.parametrize("change", WRONG_IDENTITIES, ids=str)
def test_a_wrong_identity_report_is_not_believed(world, change):
    data = resigned(world, "identity", lambda fields: fields.update(change))
    assert attack_of("identity", data, [world.ORDER_KEY.public_key()]) == Attack.MALFORMED_DOCUMENT


@pytest.mark.parametrize(("part", "change"), WRONG_PARTS, ids=str)
def test_a_wrong_node_or_upgrade_is_not_believed(world, part, change):
    data = resigned(world, "identity", lambda fields: fields[part][0].update(change))
    assert attack_of("identity", data, [world.ORDER_KEY.public_key()]) == Attack.MALFORMED_DOCUMENT


def test_an_identity_report_lists_the_master_first_and_each_node_once(world):
    nodes = world.identity_of().nodes
    for wrong in (nodes[1:], nodes[::-1], (nodes[0], nodes[1], nodes[1])):
        with pytest.raises(LocalProtocolError, match="nodes: expected"):
            world.identity_of(nodes=wrong)


def test_the_largest_identity_report_fits_its_limit(world):
    """64 nodes and 64 local upgrades with the longest values; and it fits into the cloud link's message."""
    report = world.identity_of()
    largest = {"version": ImageVersion(255, 255, 65535, 2**32 - 1), "security_counter": 2**32 - 1, "serial": "𝄞" * 32}
    nodes = tuple(
        world.replace(
            report.nodes[min(position, 1)],
            position=position,
            hwid=f"{position:024d}" if position else world.HWID,
            **largest,
        )
        for position in range(64)
    )
    upgrade = world.replace(
        report.upgrades[0],
        at_s=2**63 - 1,
        position=63,
        hwid="h" * 24,
        version_before=largest["version"],
        version_after=largest["version"],
    )
    report = world.identity_of(counter=2**63 - 1, nodes=nodes, upgrades=(upgrade,) * 64)
    data = sign_identity(report, world.DEVICE_KEY)
    assert verify_identity(data, [world.DEVICE_KEY.public_key()]) == report
    assert len(data) <= IDENTITY_REPORT_SIZE_BYTES_MAX


@pytest.mark.parametrize("outcome", Outcome)
def test_every_outcome_travels(world, outcome):
    """With its reason, in any script."""
    report = world.report_of(outcome=outcome, reason="自检失败: cell 7")
    data = sign_report(report, world.DEVICE_KEY)
    assert verify_report(data, [world.DEVICE_KEY.public_key()]) == report


def with_digests(world):
    """Both signed reports, with every optional field."""
    report = world.report_of()
    nodes = tuple(world.replace(node, image_sha256=bytes([node.position]) * 32) for node in report.nodes)
    identity = world.identity_of()
    named = tuple(
        world.replace(node, image_sha256=bytes([node.position]) * 32, slot_size_kib=512) for node in identity.nodes
    )
    upgrades = tuple(world.replace(each, sha256_before=b"a" * 32, sha256_after=b"b" * 32) for each in identity.upgrades)
    return (
        (
            world.replace(report, nodes=nodes, mixed_pack="slave 1 runs 2.0.0", manifest_sha256=b"m" * 32),
            report,
            sign_report,
            verify_report,
        ),
        (
            world.replace(identity, nodes=named, upgrades=upgrades, mixed_pack="slave 1 runs 2.0.0"),
            identity,
            sign_identity,
            verify_identity,
        ),
    )


def test_digests_slot_sizes_and_a_mixed_pack_travel_and_are_left_out_where_not_known(world):
    """A reader that does not know them passes over them; without them the document is as it has always been."""
    keys = [world.DEVICE_KEY.public_key()]
    optional = {"image_sha256", "slot_size_kib", "sha256_before", "sha256_after", "mixed_pack", "manifest_sha256"}

    def names(value):
        if isinstance(value, dict):
            return set(value).union(*map(names, value.values()))
        return set().union(*map(names, value)) if isinstance(value, list) else set()

    for full, plain, sign, verify in with_digests(world):
        assert verify(sign(full, world.DEVICE_KEY), keys) == full
        assert verify(sign(plain, world.DEVICE_KEY), keys) == plain
        payloads = [cbor2.loads(cbor2.loads(sign(each, world.DEVICE_KEY)).value[2]) for each in (full, plain)]
        assert names(payloads[0]) & optional
        assert not names(payloads[1]) & optional
        assert names(payloads[0]) - optional == names(payloads[1])


@pytest.mark.parametrize("digest", [b"", b"x" * 31, "x" * 32, 7])
def test_a_digest_that_is_none_is_malformed(world, digest):
    report = world.report_of()
    node = world.replace(report.nodes[0])
    object.__setattr__(node, "image_sha256", digest)
    object.__setattr__(report, "nodes", (node, *report.nodes[1:]))
    with pytest.raises(TrustError) as caught:
        verify_report(sign_report(report, world.DEVICE_KEY), [world.DEVICE_KEY.public_key()])
    assert caught.value.attack == "malformed-document"


def test_the_largest_report_fits_its_limit(world):
    """64 nodes with the longest values."""
    nodes = tuple(
        NodeReport(
            position=position,
            role=ImageRole.SLAVE if position else ImageRole.MASTER,
            hwid=world.HWID if not position else f"{position:024d}",
            version=ImageVersion(255, 255, 65535, 2**32 - 1),
            security_counter=2**32 - 1,
            image_sha256=bytes(range(32)),
        )
        for position in range(64)
    )
    report = world.report_of(order_id="o" * 64, reason="𝄞" * 256, nodes=nodes, mixed_pack="𝄞" * 256)
    data = sign_report(report, world.DEVICE_KEY)
    assert verify_report(data, [world.DEVICE_KEY.public_key()]) == report
    assert len(data) <= REPORT_SIZE_BYTES_MAX


def test_the_largest_order_fits_its_limit(world):
    """The longest values."""
    order = world.replace(
        world.order, order_id="o" * 64, task_id="t" * 64, hwid="h" * 24, software_version="𝄞" * 64, approver="𝄞" * 64,
        sequence=2**63 - 1,
    )  # fmt: skip
    data = sign_order(order, world.ORDER_KEY)
    assert verify_order(data, [world.ORDER_KEY.public_key()]) == order


WRONG_IMAGES = [
    {"role": 2},
    {"role": -1},
    {"vendor_id": bytes(15)},
    {"class_id": "F7"},
    {"version": [2, 1, 0]},
    {"version": [256, 0, 0, 0]},
    {"version": [2, 1, 0, True]},
    {"security_counter": 2**32},
    {"size_bytes": 0},
    {"size_bytes": 2**40},
    {"size_bytes": 4096},
    {"sha256": bytes(33)},
    {"block_size_bytes": 0},
    {"block_size_bytes": 255},
    {"block_size_bytes": 65537},
    {"block_sha256": b""},
    {"block_sha256": bytes(33)},
    {"block_sha256": bytes(64)},
]


@pytest.mark.parametrize("change", WRONG_IMAGES, ids=str)
def test_a_manifest_with_a_wrong_image_is_not_believed(world, change):
    """Every field of the entry has its rule."""
    data = resigned(world, "manifest", lambda fields: fields["images"][0].update(change))
    assert attack_of("manifest", data, [world.ORDER_KEY.public_key()]) == Attack.MALFORMED_DOCUMENT


@pytest.mark.parametrize(
    "change",
    [{"release": "a/b"}, {"software_version": ""}, {"series": ""}, {"images": []}, {"created_s": -1}, {"expires_s": 0}],
    ids=str,
)
def test_a_wrong_manifest_is_neither_made_nor_believed(world, change):
    """The maker has a bug; the reader sees a malformed document."""
    with pytest.raises(LocalProtocolError, match=f"{next(iter(change))}: expected"):
        world.manifest_of(world.master, **change)
    data = resigned(world, "manifest", lambda fields: fields.update(change))
    assert attack_of("manifest", data, [world.ORDER_KEY.public_key()]) == Attack.MALFORMED_DOCUMENT


def test_a_release_has_one_image_for_a_node(world):
    """Two for the same role and class would leave the choice to chance."""
    with pytest.raises(LocalProtocolError, match="one image for a role and hardware class"):
        world.manifest_of(world.master, world.firmware(version="2.2.0"))
    assert world.manifest.image_for(ImageRole.SLAVE, world.SLAVE_CLASS) == describe_image(world.slave)
    assert world.manifest.image_for(ImageRole.SLAVE, world.MASTER_CLASS) is None


def test_an_image_describes_itself(world):
    """Every field comes from the image; the blocks join to its bytes."""
    entry = describe_image(world.master, block_size_bytes=1024)
    assert entry.sha256 == hashlib.sha256(world.master).digest()
    assert entry.size_bytes == len(world.master)
    assert (entry.role, entry.hardware_class) == (ImageRole.MASTER, world.MASTER_CLASS)
    assert (entry.version, entry.security_counter) == (ImageVersion(2, 1), 2)
    offset = 0
    for index, digest in enumerate(entry.block_sha256):
        block = world.master[offset : offset + entry.block_size(index)]
        assert hashlib.sha256(block).digest() == digest
        offset += len(block)
    assert offset == len(world.master)
    with pytest.raises(ImageError):
        describe_image(world.master[:-1])
    with pytest.raises(LocalProtocolError, match="block_size_bytes"):
        describe_image(world.master, block_size_bytes=100)


def test_a_manifest_larger_than_a_unit_reads_is_not_made(world):
    """Many blocks in many images: the maker is told to take larger blocks."""
    big = world.firmware(size_bytes=500_000)
    entries = tuple(
        world.replace(describe_image(big, 256), hardware_class=world.replace(world.MASTER_CLASS, class_id=other))
        for other in (world.MASTER_CLASS.class_id, world.OTHER_CLASS.class_id)
    )
    with pytest.raises(LocalProtocolError, match="manifest: expected at most 65536 bytes"):
        sign_manifest(world.manifest_of(world.master, images=entries), world.MANIFEST_KEY)


def test_random_manifests_survive(world):
    """Forty seeded releases of random shape."""
    draw = random.Random(7)
    for _ in range(40):
        entry = describe_image(world.firmware(size_bytes=draw.randrange(300, 9000)), draw.randrange(256, 5000))
        manifest = world.manifest_of(images=(entry,), created_s=draw.randrange(2**40), expires_s=2**41)
        data = sign_manifest(manifest, world.MANIFEST_KEY)
        assert verify_manifest(data, [world.MANIFEST_KEY.public_key()]) == manifest
