"""A pack in memory: a master and slaves behind one flasher, and a list of what was sent."""

from __future__ import annotations

from functools import cache, partial

import bootloader_rig
from bmsota_sim.devices.flash import FlashModel
from node import CLASSES, KEY, SECOND, EngineClient
from node import make_image as make_any_image

from bmsota.adapters.files import packaged_database
from bmsota.bootloader import BootloaderTiming, BootloaderWire
from bmsota.bootloader._messages import Request
from bmsota.flashing import BootloaderProfile, FlashingEngine, FlashSource, PackFlash, PlanRequest, make_plan
from bmsota.image import ImageRole, ImageVersion
from bmsota.node import NodeCommand
from bmsota.ota import ReleaseManifest, describe_image

__all__ = [
    "CLASSES",
    "KEY",
    "NEW",
    "NOW_S",
    "OLD",
    "FlashSource",
    "ImageRole",
    "ImageVersion",
    "Node",
    "Pack",
    "make_image",
    "release",
    "wire",
]

OLD, NEW = ImageVersion(2, 0), ImageVersion(2, 1)
# A dead node is given up after 0.5 s instead of 10.
TIMING = BootloaderTiming(discover_tries=5)
NOW_S = 1_790_000_000


def make_image(role=ImageRole.SLAVE, version=NEW, *, size=700, hardware=None, **options):
    return make_any_image(str(version), role=role, size=size, hardware=hardware or CLASSES[role], **options)


def release(version=NEW, *, expires_s=NOW_S + 1, is_verified=True, **options):
    images = [make_image(role, version, **options) for role in ImageRole]
    manifest = ReleaseManifest(
        release=f"T-{version}",
        software_version=str(version),
        series="T",
        images=tuple(describe_image(image) for image in images),
        created_s=NOW_S - 1000,
        expires_s=expires_s,
    )
    return FlashSource.of_release(manifest, images, is_verified=is_verified)


@cache
def wire(name="bms_bootloader"):
    return BootloaderWire(packaged_database(name))


class Node(bootloader_rig.Node):
    """A master (position 0) or a slave, powered. `is_dead`: it neither hears nor answers; `is_mute`: it hears and is not heard.

    *options* go to the target. *verify* is the node's own judgement of an image.
    """

    _judgement = None

    def __init__(self, position, version=OLD, hardware=None, *, role=None, counter=None, verify=None, **options):
        role = role if role is not None else ImageRole.SLAVE if position else ImageRole.MASTER
        hardware = hardware or CLASSES[role]
        super().__init__(
            position,
            factory=make_image(role, version, hardware=hardware, counter=counter),
            flash=FlashModel(8 * 1024, erase_block_bytes=512, seed=position),
            role=role,
            hardware=hardware,
            **options,
        )
        self.restart_ns = 0
        self.hwid, self.serial = f"HW-{position}", f"SN{position}"
        self.is_dead = self.is_mute = False
        self._judgement = verify
        self.restart()

    def judge(self, data):
        image = super().judge(data)
        # The factory's image is believed: it is what refuses the others.
        if self._judgement is not None and image.version != OLD:
            self._judgement(image)
        return image

    def restart(self):
        self.power_on(wire())

    @property
    def restarts(self):
        return len(self.boots) - 1


class Pack(bootloader_rig.Bench):
    """The bus: 0.2 ms a frame, in order. `on_request` sees each request before the nodes do."""

    LIMIT_S = 300
    frame_ns = 200_000

    def __init__(self, *nodes):
        super().__init__(now_ns=NOW_S * SECOND)
        self.nodes = {node.position: node for node in nodes}
        self.requests = []
        self.data_frames = 0
        self.on_request = lambda request: None
        self._decide = None

    def live(self):
        return [node for node in self.nodes.values() if node.target is not None and not node.is_dead]

    def _start(self, node):
        node.restart()

    def upgrade(self, source=None, **request):
        """A field upgrade of this pack."""
        wanted = PlanRequest(**{"now_s": NOW_S, "rate_bytes_per_s": 35_000.0, **request})
        engine = FlashingEngine(BootloaderProfile(wire(), timing=TIMING))
        planner = partial(make_plan, source=source or release(), request=wanted)
        return PackFlash(engine, planner, expected=wanted.named_positions)

    def describe(self):
        """What everybody says of itself, by position."""
        engine = FlashingEngine(BootloaderProfile(wire(), timing=TIMING))
        engine.discover()
        (found,) = self.run(EngineClient(engine))
        return {node.position: node for node in found.nodes}

    def run(self, client=None, *, decide=lambda machine, now_ns: machine.proceed(now_ns), **options):
        """Run it to its end, with *decide* when the plan is made; its events."""
        self.requests, self.data_frames, self._decide = [], 0, decide
        return super().run(client, **options)

    def heard_event(self, event):
        if type(event).__name__ == "PlanMade" and not self.client.finished and self._decide is not None:
            self._decide(self.client, self.now_ns)

    def _transmit(self, frames, sender):
        super()._transmit([] if getattr(sender, "is_mute", False) else frames, sender)

    def _deliver(self, sender, frame):
        if sender is self.client:
            request = self.wire.parse(frame)
            if isinstance(request, Request):
                self.requests.append(request)
                self.on_request(request)
            else:
                self.data_frames += 1
        super()._deliver(sender, frame)

    def commands(self):
        """(command, position) in the order in which they were first given, questions left out."""
        given = [
            (request.command, request.node)
            for request in self.requests
            if request.command not in {NodeCommand.DISCOVER, NodeCommand.CHECK_BLOCK}
        ]
        return [pair for index, pair in enumerate(given) if index == 0 or given[index - 1] != pair]

    @property
    def versions(self):
        return {position: node.version for position, node in self.nodes.items()}
