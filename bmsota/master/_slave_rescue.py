"""A slave in which no image can run is given one that lies in the master's image store, without a person.

Such a slave stays in its bootloader and answers a discovery with `BootReason.NOTHING`: both of its slots have rotted, or the only
one it had. Until it runs again its cells are not measured. The image store still has what was downloaded last, usually the release
that the pack runs.

Which image: genuine, for this slave, not below its security counter, not in need of a later master than the one that runs. The
one that other slaves run goes first, then that of the pack's release; any other is better than none, and makes a mixed pack,
which is told as any.

When: no order is under way, no flasher is at work, and the pack is at rest, as for the slaves of an order. A power cut on the way
is found at the next power-on. A slave is tried twice a power-on: where its spare slot does not keep the image, its bootloader takes the
other slot for the second one.
"""

from __future__ import annotations

import hashlib
from contextlib import suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING

from bmsota.boot import BootReason
from bmsota.errors import ImageError, TrustError
from bmsota.image import ImageRole, verify_image
from bmsota.node import FlashJob
from bmsota.ota import stored_images

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from bmsota.boot import Flash
    from bmsota.image import FirmwareImage, HardwareClass, ImageVersion, PublicKey
    from bmsota.node import NodeDescription
    from bmsota.ota import PackWatch


SECOND = 1_000_000_000

TRIES_MAX = 2
"""Of one slave and one power-on: a bus may be disturbed once, and one of two slots may be worn."""

# How often the conditions are looked at while a slave waits for its image: not every value tells when it changes.
LOOK_NS = 10 * SECOND


@dataclass(frozen=True, slots=True)
class RestoreSlave:
    """Flash this slave, let it boot the image, and confirm it."""

    job: FlashJob
    version: ImageVersion


class SlaveRescue:
    """Which slaves of one master need an image, from one power-on to the next."""

    def __init__(
        self,
        image_flash: Flash,
        *,
        image_keys: tuple[PublicKey, ...],
        slave_class: HardwareClass,
        master_version: ImageVersion,
        pack_watch: PackWatch,
        security_counter: Callable[[int], int],
    ) -> None:
        """Take what decides about an image.

        Args:
            image_flash: of the image store.
            image_keys: whose signature an image must carry.
            slave_class: the hardware class of the slaves.
            master_version: what the master runs.
            pack_watch: which images the pack's release has.
            security_counter: how far the master's trust has moved for the node at a position.
        """
        self._image_flash = image_flash
        self._image_keys = image_keys
        self._slave_class = slave_class
        self._master_version = master_version
        self._pack_watch = pack_watch
        self._security_counter = security_counter
        self._wanted: dict[int, NodeDescription] = {}
        self._running: set[bytes] = set()
        """Digests of what the other slaves run."""
        self._tries: dict[int, int] = {}
        self.notes: list[str] = []
        """For the log; whoever reads them takes them out."""
        self.look_ns: int | None = None
        """When `next_job` is to be asked again; None: there is nothing to do."""

    def nodes_discovered(self, slaves: Sequence[NodeDescription], now_ns: int) -> None:
        """Any discovery has found these."""
        dead = {node.position: node for node in slaves if node.boot_reason is BootReason.NOTHING}
        self._running = {node.image_sha256 for node in slaves if node.image_sha256 is not None}
        self._wanted = {at: node for at, node in dead.items() if self._tries.get(at, 0) < TRIES_MAX}
        self.look_ns = now_ns if self._wanted else None

    def postpone(self, now_ns: int) -> None:
        """It cannot be done now: not at rest, or somebody else is at work."""
        self.look_ns = now_ns + LOOK_NS

    def next_job(self) -> RestoreSlave | None:
        """What to do for the next slave; None when nothing is left to do."""
        while self._wanted:
            position = min(self._wanted)
            node = self._wanted.pop(position)
            if not self._wanted:
                self.look_ns = None
            found = self._image_for(node)
            if found is not None:
                data, image = found
                self._tries[position] = self._tries.get(position, 0) + 1
                self.notes.append(
                    f"slave {position} has no image that can run: it gets {image.version} of the image store"
                )
                return RestoreSlave(FlashJob(position, data), image.version)
            self._tries[position] = TRIES_MAX
            self.notes.append(
                f"slave {position} has no image that can run, and the image store has none for it: flash it over CAN"
            )
        self.look_ns = None
        return None

    def restored(self, position: int, problem: str) -> None:
        """What became of it; *problem* is empty if the slave runs the image now."""
        self.notes.append(
            f"slave {position} was not restored: {problem}" if problem else f"slave {position} was restored"
        )

    def _image_for(self, node: NodeDescription) -> tuple[bytes, FirmwareImage] | None:
        released = self._pack_watch.digest_of(ImageRole.SLAVE, self._slave_class.class_id)

        def rank(data: bytes) -> tuple[bool, bool]:
            digest = hashlib.sha256(data).digest()
            return digest in self._running, digest == released

        fitting = [(rank(data), data, image) for data, image in self._images() if self._fits(node, data, image)]
        if not fitting:
            return None
        _, data, image = max(fitting, key=lambda found: (found[0], found[2].version))
        return data, image

    def _images(self) -> Iterator[tuple[bytes, FirmwareImage]]:
        for data in stored_images(self._image_flash):
            with suppress(ImageError, TrustError):
                yield data, verify_image(data, public_keys=self._image_keys)

    def _fits(self, node: NodeDescription, data: bytes, image: FirmwareImage) -> bool:
        counter = max(node.security_counter, self._security_counter(node.position))
        needs_later_master = any(
            need.role is ImageRole.MASTER and need.version_min > self._master_version for need in image.dependencies
        )
        return (
            image.role is ImageRole.SLAVE
            and image.hardware_class == self._slave_class
            and node.class_id == self._slave_class.class_id
            and image.security_counter >= counter
            and node.has_room_for(len(data))
            and not needs_later_master
        )
