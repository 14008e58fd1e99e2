"""Whether the nodes of a pack run images that belong together: a mixed pack is noticed at every boot, whatever made it one.

A unit does not keep the manifest of the release that it runs. It keeps which images it brought: of each kind of node (role
and hardware class) version and digest. They are written when an order confirms the whole pack; before the first order, and
after a whole pack was flashed locally, they are what all nodes are found with. A pack is mixed when

* two nodes of one kind run different images, or
* some nodes run the image of that set and some do not.

It is over when all nodes run their images of the set again, or none does and equal nodes run equal images: then the whole
pack has moved, and what it runs is the new set.

Left out: the dependencies of images. The master does not read the images of its slaves; who builds a release has checked them.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final, NamedTuple, Protocol
from uuid import UUID

from bmsota.errors import RecordError
from bmsota.image import ImageRole, ImageVersion
from bmsota.ota._records import RecordFormat, StoredRecord
from bmsota.ota._rules import DIGEST_SIZE_BYTES, expect, expect_count, expect_integer, expect_octets

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from bmsota.boot import BootStore
    from bmsota.ota._manifest import ReleaseImage


PACK_RECORD: Final = "pack"
"""The application record of the boot store."""

# Kinds of nodes in one pack: as many as a release has images.
_KINDS_MAX: Final = 64

MIXED_PACK_LENGTH_MAX: Final = 200


class RunningNode(Protocol):
    """What is asked of a node here; `bmsota.node.NodeDescription` and `IdentifiedNode` say it."""

    @property
    def position(self) -> int: ...
    @property
    def role(self) -> int: ...
    @property
    def class_id(self) -> UUID: ...
    @property
    def version(self) -> ImageVersion: ...
    @property
    def image_sha256(self) -> bytes | None: ...


class PackMaster(NamedTuple):
    """The master among the nodes of its own pack."""

    class_id: UUID
    version: ImageVersion
    image_sha256: bytes | None
    position: int = 0
    role: ImageRole = ImageRole.MASTER


class _Kind(NamedTuple):
    role: int
    class_id: UUID


class _Image(NamedTuple):
    version: ImageVersion
    sha256: bytes | None

    def is_same(self, other: _Image) -> bool:
        """As far as both digests are known; else the version decides."""
        return self.version == other.version and (None in {self.sha256, other.sha256} or self.sha256 == other.sha256)


def _check(found: Mapping[str, Any]) -> None:
    expect_count("images", found["images"], maximum=_KINDS_MAX)
    for role, class_id, version, sha256 in found["images"]:
        expect_integer("role", role)
        expect_octets("class_id", class_id, size_bytes=16)
        ImageVersion(*version)
        expect(isinstance(sha256, bytes) and len(sha256) in {0, DIGEST_SIZE_BYTES}, "sha256", "a digest", repr(sha256))


PACK_FORMAT: Final = RecordFormat(title="record of the pack", layout=0, names=("images",), check=_check, older={})


class PackWatch:
    """One master's. Make it at each power-on.

    After an exception of the flash driver (a power cut) the object is worthless: create a new one on a new store.
    """

    def __init__(self, store: BootStore) -> None:
        self._record = StoredRecord(store, PACK_RECORD, PACK_FORMAT)
        self._images: dict[_Kind, _Image] = {}
        self.problem = ""
        """What the log must say: the record could not be read. Empty if nothing."""
        try:
            found = self._record.load()
        except RecordError as problem:
            self.problem = f"{problem}; starts again from what the nodes run now"
        else:
            for role, class_id, version, sha256 in () if found is None else found["images"]:
                self._images[_Kind(role, UUID(bytes=class_id))] = _Image(ImageVersion(*version), sha256 or None)

    def released(self, images: Iterable[ReleaseImage]) -> None:
        """An order has confirmed these images on the whole pack.

        Raises:
            LocalProtocolError: the journal has no room for the record.
        """
        self._keep(
            {
                _Kind(int(image.role), image.hardware_class.class_id): _Image(image.version, image.sha256)
                for image in images
            }
        )

    def digest_of(self, role: ImageRole, class_id: UUID) -> bytes | None:
        """The digest of the image that nodes of this kind have in the pack's release; None if it is not known."""
        image = self._images.get(_Kind(int(role), class_id))
        return None if image is None else image.sha256

    def seen(self, nodes: Sequence[RunningNode], *, is_complete: bool) -> str:
        """Judge what a discovery has found while no order is under way, and take the whole pack's move over.

        Args:
            nodes: the master and every slave that answered.
            is_complete: every node of the pack is among them.

        Returns:
            How the pack is mixed; empty if it is not.

        Raises:
            LocalProtocolError: the journal has no room for the record.
        """
        reason = self.judge(nodes)
        if not reason and is_complete:
            self._keep({_kind(node): _image(node) for node in nodes})
        return reason

    def judge(self, nodes: Sequence[RunningNode]) -> str:
        """How the pack is mixed, "slave 2 runs 2.0.0, slaves 1, 3 run 2.1.0"; empty if it is not. Nothing is changed."""
        groups: list[tuple[_Kind, _Image, list[int]]] = []
        for node in nodes:
            kind, image = _kind(node), _image(node)
            for other_kind, other, positions in groups:
                if other_kind == kind and other.is_same(image):
                    positions.append(node.position)
                    break
            else:
                groups.append((kind, image, [node.position]))
        in_set = [kind in self._images and self._images[kind].is_same(image) for kind, image, _ in groups]
        equal_kinds = len({kind for kind, _, _ in groups}) == len(groups)
        if equal_kinds and (not self._images or all(in_set) or not any(in_set)):
            return ""
        said = [f"{_names(positions)} {self._what(kind, image, groups)}" for kind, image, positions in groups]
        return ", ".join(said)[:MIXED_PACK_LENGTH_MAX]

    def _what(self, kind: _Kind, image: _Image, groups: list[tuple[_Kind, _Image, list[int]]]) -> str:
        """The version, and the digest where the version does not tell it from another image of this kind."""
        others = [other for other_kind, other, _ in groups if other_kind == kind]
        others += [self._images[kind]] if kind in self._images else []
        is_ambiguous = any(other.version == image.version and not other.is_same(image) for other in others)
        return f"{image.version} ({image.sha256.hex()[:16]})" if is_ambiguous and image.sha256 else str(image.version)

    def _keep(self, images: dict[_Kind, _Image]) -> None:
        if images == self._images:
            return
        self._record.save(
            {
                "images": [
                    [role, class_id.bytes, [image.version.major, image.version.minor, image.version.revision, image.version.build],
                     image.sha256 or b""]
                    for (role, class_id), image in sorted(images.items(), key=lambda item: (item[0].role, item[0].class_id.bytes))
                ]
            }
        )  # fmt: skip
        self._images = images


def _kind(node: RunningNode) -> _Kind:
    return _Kind(int(node.role), node.class_id)


def _image(node: RunningNode) -> _Image:
    return _Image(node.version, node.image_sha256)


def _names(positions: list[int]) -> str:
    if positions == [0]:
        return "master runs"
    return f"slave {positions[0]} runs" if len(positions) == 1 else f"slaves {', '.join(map(str, positions))} run"
