"""A pack in memory: a master and slaves behind one flasher, virtual time, a power switch and a list of what was sent."""

from __future__ import annotations

import heapq
from functools import cache, partial
from random import Random
from types import SimpleNamespace

from bmsota_sim.devices.flash import FlashModel
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from bmsota.adapters.files import packaged_dbc
from bmsota.boot import BootStore, SlotLayout, for_hardware
from bmsota.bootloader import BootloaderTarget, BootloaderTiming, BootloaderWire
from bmsota.bootloader._messages import Request
from bmsota.flashing import BootloaderProfile, FlashingEngine, FlashSource, PackFlash, PlanRequest, make_plan
from bmsota.image import HardwareClass, ImageDependency, ImageRole, ImageVersion, build_image, verify_image
from bmsota.node import NodeCommand, ResetRequested, TargetIdentity
from bmsota.ota import ReleaseManifest, describe_image
from bmsota.signals import loads

KEY = Ed25519PrivateKey.from_private_bytes(b"\x07" * 32)
CLASSES = {role: HardwareClass.named("bmsota.example", f"test-{role.name.lower()}") for role in ImageRole}
MS, SECOND = 1_000_000, 1_000_000_000
OLD, NEW = ImageVersion(2, 0), ImageVersion(2, 1)
# A dead node is given up after 0.5 s instead of 10.
TIMING = BootloaderTiming(discover_tries=5)
NOW_S = 1_790_000_000


@cache
def make_image(role=ImageRole.SLAVE, version=NEW, *, size=700, counter=None, needs=None, hardware=None, key=KEY):
    return build_image(
        Random(f"{role}/{version}").randbytes(size),
        version=version,
        security_counter=version.minor + 1 if counter is None else counter,
        hardware_class=hardware or CLASSES[role],
        role=role,
        signing_key=key,
        dependencies=() if needs is None else (ImageDependency(role=ImageRole.SLAVE, version_min=needs),),
    )


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
def wire():
    return BootloaderWire(loads(packaged_dbc("bms_bootloader")))


class Node:
    """A master (position 0) or a slave. `is_dead`: it neither hears nor answers; `is_mute`: it hears and is not heard.

    *options* go to the target; `access` makes a guard anew at each boot. *verify* is the node's own judgement of an image.
    """

    def __init__(self, position, version=OLD, hardware=None, *, role=None, counter=None, verify=None, **options):
        self.position = position
        self.role = role if role is not None else ImageRole.SLAVE if position else ImageRole.MASTER
        self.options = options
        self.verify = None
        self.hardware = hardware or CLASSES[self.role]
        self.flash = FlashModel(8 * 1024, erase_block_bytes=512, seed=position)
        self.is_dead = self.is_mute = False
        self.hwid = f"HW-{position}"
        self.restarts = -1
        self._new_store().install_factory(make_image(self.role, version, hardware=self.hardware, counter=counter))
        self.verify = verify
        self.restart()

    def _new_store(self):
        def verify(data):
            image = verify_image(data, public_keys=[KEY.public_key()])
            # The factory's image is believed: it is what refuses the others.
            if self.verify is not None and image.version != OLD:
                self.verify(image)
            return image

        layout = SlotLayout.divide(self.flash)
        return BootStore(
            self.flash, layout, verify=for_hardware(verify, class_id=self.hardware.class_id, role=self.role)
        )

    def restart(self):
        self.restarts += 1
        self.store = self._new_store()
        self.boot = self.store.boot()
        self.store.take_busy_ns()
        identity = TargetIdentity(
            position=self.position,
            role=self.role,
            hwid=self.hwid,
            serial=f"SN{self.position}",
            hardware_class=self.hardware,
        )
        self.target = self._new_target(identity)

    def _new_target(self, identity):
        options = {name: value() if name == "access" else value for name, value in self.options.items()}
        return BootloaderTarget(wire(), identity=identity, store=self.store, boot=self.boot, **options)

    @property
    def version(self):
        return self.boot.facts.version


class Pack:
    """The bus: 0.2 ms a frame, in order. `on_request` sees each request before the nodes do."""

    def __init__(self, *nodes):
        self.nodes = {node.position: node for node in nodes}
        self.now_ns = NOW_S * SECOND
        self.requests = []
        self.data_frames = 0
        self.on_request = lambda request: None
        self.machine = None
        self._free_ns = 0
        self._heap = []
        self._sequence = 0

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
        machine = SimpleNamespace(engine=engine)
        (found,) = self._run(engine, lambda: engine.is_idle)
        del machine
        return {node.position: node for node in found.nodes}

    def run(self, machine, *, decide=lambda machine, now_ns: machine.proceed(now_ns)):
        """Run it to its end, with *decide* when the plan is made; its events."""
        return self._run(machine, lambda: machine.finished, decide)

    def _run(self, machine, is_over, decide=None):
        self.machine, self.requests, self.data_frames = machine, [], 0
        events = []
        end_ns = self.now_ns + 300 * SECOND
        while True:
            machine.handle_timeout(self.now_ns)
            self._send(machine.frames_to_send(self.now_ns), machine)
            while (event := machine.next_event()) is not None:
                events.append(event)
                if type(event).__name__ == "PlanMade" and not machine.finished and decide is not None:
                    decide(machine, self.now_ns)
            if is_over():
                return events
            self._step(machine, end_ns)

    def _step(self, machine, end_ns):
        due = [machine.next_timeout()]
        for node in self.nodes.values():
            if node.is_dead:
                continue
            target = node.target
            target.handle_timeout(self.now_ns)
            frames = target.frames_to_send(self.now_ns)
            self._send([] if node.is_mute else frames, node)
            while (event := target.next_event()) is not None:
                if isinstance(event, ResetRequested):
                    node.restart()
            due.append(node.target.next_timeout())
        due += [self._heap[0][0]] if self._heap else []
        self.now_ns = max(self.now_ns, min(time for time in due if time is not None))
        assert self.now_ns < end_ns, "it hangs"
        while self._heap and self._heap[0][0] <= self.now_ns:
            _, _, sender, frame = heapq.heappop(self._heap)
            self._deliver(sender, frame)

    def _send(self, frames, sender):
        for frame in frames:
            self._free_ns = max(self._free_ns, self.now_ns) + 200_000
            self._sequence += 1
            heapq.heappush(self._heap, (self._free_ns, self._sequence, sender, frame))

    def _deliver(self, sender, frame):
        if sender is not self.machine:
            self.machine.receive_frame(frame, self.now_ns)
            return
        request = wire().parse(frame)
        if isinstance(request, Request):
            self.requests.append(request)
            self.on_request(request)
        else:
            self.data_frames += 1
        for node in self.nodes.values():
            if not node.is_dead:
                node.target.receive_frame(frame, self.now_ns)

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
