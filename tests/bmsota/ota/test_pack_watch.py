"""Whether the nodes of a pack run images that belong together: what makes a pack mixed, and what ends it."""

from __future__ import annotations

from dataclasses import dataclass
from uuid import UUID

import cbor2
import pytest
from updater_rig import Device

from bmsota.image import ImageRole, ImageVersion
from bmsota.ota import PACK_RECORD, PackWatch

MASTER, SLAVE, OTHER = UUID(int=1), UUID(int=2), UUID(int=3)


@dataclass(frozen=True)
class Node:
    position: int
    version: ImageVersion
    image_sha256: bytes | None
    class_id: UUID

    @property
    def role(self):
        return ImageRole.SLAVE if self.position else ImageRole.MASTER


def pack(text):
    """Nodes by position: "2.0a" is the build a of 2.0, "2.0" one whose digest is not known."""
    nodes = []
    for position, word in enumerate(text.split()):
        build = word[-1] if word[-1].isalpha() else ""
        major, minor = map(int, word.removesuffix(build).split("."))
        digest = build.encode() * 32 if build else None
        nodes.append(Node(position, ImageVersion(major, minor), digest, SLAVE if position else MASTER))
    return nodes


@pytest.fixture
def store(world):
    return Device(world).updater_store


@pytest.mark.parametrize(
    ("before", "now", "said"),
    [
        pytest.param("2.0a 2.0b 2.0b", "2.0a 2.0b 2.0b", "", id="nothing has changed"),
        pytest.param("2.1a 2.1b 2.1b", "2.0x 2.1b 2.1b", "master runs 2.0.0, slaves 1, 2 run 2.1.0", id="the master fell back alone"),
        pytest.param("2.0a 2.0b 2.0b", "2.0a 2.1c 2.1c", "master runs 2.0.0, slaves 1, 2 run 2.1.0", id="no slave could be reverted"),
        pytest.param("2.0a 2.0b 2.0b", "2.0a 2.1c 2.0b", "master runs 2.0.0, slave 1 runs 2.1.0, slave 2 runs 2.0.0", id="one slave was flashed"),
        pytest.param("2.0a 2.0b", "2.0a 1.9z", "master runs 2.0.0, slave 1 runs 1.9.0", id="the only slave was exchanged"),
        pytest.param("2.0a 2.0b", "2.1c 2.0b", "master runs 2.1.0, slave 1 runs 2.0.0", id="the master was flashed"),
        pytest.param(
            "2.0a 2.0b 2.0b", "2.0a 2.0c 2.0b",
            "master runs 2.0.0, slave 1 runs 2.0.0 (6363636363636363), slave 2 runs 2.0.0 (6262626262626262)",
            id="another build on one slave",
        ),
        pytest.param("2.0a 2.0b 2.0b", "2.1c 2.1d 2.1d", "", id="the whole pack was flashed"),
        pytest.param("2.0a 2.0b 2.0b", "2.0a 2.0 2.0b", "", id="a node that cannot say its digest, of the same version"),
        pytest.param("2.0a 1.4b 1.4b", "2.0a 1.4b 1.4b", "", id="a release of images with different versions"),
        pytest.param("2.0a 2.0b 2.0b", "2.0a 2.0b", "", id="a slave that does not answer is not mixed"),
        pytest.param("", "2.0a 2.0b 2.1c", "master runs 2.0.0, slave 1 runs 2.0.0, slave 2 runs 2.1.0", id="mixed when first seen"),
    ],
)  # fmt: skip
def test_what_makes_a_pack_mixed(store, before, now, said):
    watch = PackWatch(store)
    if before:
        assert watch.seen(pack(before), is_complete=True) == ""
    for _ in range(3):  # at every power-on
        watch = PackWatch(store)
        assert watch.seen(pack(now), is_complete=True) == said
        assert watch.judge(pack(now)) == said


def test_it_is_over_when_all_are_back_or_all_have_moved(store):
    watch = PackWatch(store)
    watch.seen(pack("2.0a 2.0b 2.0b"), is_complete=True)
    assert watch.seen(pack("2.0a 2.1d 2.0b"), is_complete=True)
    assert watch.seen(pack("2.0a 2.1d 2.1d"), is_complete=True)
    assert watch.seen(pack("2.1c 2.1d 2.1d"), is_complete=True) == "", "all have moved"
    assert watch.seen(pack("2.1c 2.0b 2.1d"), is_complete=True), "2.1 is what belongs together now"
    assert watch.seen(pack("2.1c 2.1d 2.1d"), is_complete=True) == ""


def test_a_pack_of_which_a_node_is_silent_is_no_new_set(store):
    watch = PackWatch(store)
    watch.seen(pack("2.0a 2.0b 2.0b"), is_complete=True)
    assert watch.seen(pack("2.1c 2.1d"), is_complete=False) == ""
    assert watch.seen(pack("2.1c 2.1d 2.0b"), is_complete=True), "the silent one is still on the old set"


def test_what_an_order_has_confirmed_is_the_set(store, world):
    """Also over a power cycle; the release's own digests, not what is found."""
    release = world.manifest
    PackWatch(store).released(release.images)
    watch = PackWatch(store)
    nodes = [
        Node(position, image.version, image.sha256, image.hardware_class.class_id)
        for position, image in enumerate(sorted(release.images, key=lambda image: image.role))
    ]
    assert watch.judge(nodes) == ""
    other = Node(1, nodes[1].version, b"x" * 32, nodes[1].class_id)
    assert watch.judge([nodes[0], other])


@pytest.mark.parametrize(
    ("value", "said"),
    [
        ({"layout": 1, "images": []}, "record of the pack: layout 1 is newer than this version reads (0)"),
        ({"images": [[0]]}, "record of the pack: damaged"),
        ({"images": [[0, b"x" * 16, [2, 0, 0, 0], b"short"]]}, "record of the pack: damaged"),
        ([], "record of the pack: damaged"),
    ],
)
def test_a_record_that_cannot_be_read_is_said_and_begun_anew(store, value, said):
    store.put_record(PACK_RECORD, cbor2.dumps(value, canonical=True))
    watch = PackWatch(store)
    assert watch.problem.startswith(said)
    assert watch.seen(pack("2.0a 2.0b"), is_complete=True) == ""
    assert PackWatch(store).problem == ""
