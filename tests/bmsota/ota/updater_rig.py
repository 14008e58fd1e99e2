"""A rig for the updater alone: a device with its flashes and a small device API, and conversations as text.

A line `> input` gives the updater something; the lines `< action` below it are everything it asks for in return, no more
and no less. A download answers itself from the device API unless the line says otherwise.
"""

from __future__ import annotations

from difflib import unified_diff
from functools import partial
from hashlib import sha256
from textwrap import dedent

import pytest
from bmsota_sim.devices.flash import FlashModel
from described import describe

from bmsota.boot import BootStore, SlotLayout, SlotState, for_hardware
from bmsota.image import ImageRole, ImageVersion, verify_image
from bmsota.node import NodeMode, NodeResult
from bmsota.ota import (
    AbortHttp,
    ActivateSlaves,
    ConfirmSlaves,
    DeviceTrust,
    DiscoverNodes,
    DocumentReceipt,
    DownloadOptions,
    FlashSlaves,
    ImageStore,
    LogNote,
    PowerConditions,
    RaiseCounters,
    Reset,
    RevertSlaves,
    RunSelfTest,
    SendReport,
    StartHttp,
    TellState,
    Updater,
    UpdaterState,
    device_api,
    load_trust_state,
    sign_receipt,
    verify_report,
)

SECOND = 1_000_000_000
MASTER_FLASH_BYTES, JOURNAL_BYTES, SHELF_BYTES = 64 * 1024, 8 * 1024, 32 * 1024
PARKED = PowerConditions(ignition_on=True, speed_kmh=0.0, is_charging=False, soc_pct=60.0)
CONDITIONS = {
    "parked": PARKED,
    "driving": PowerConditions(ignition_on=True, speed_kmh=48.0, is_charging=False, soc_pct=60.0),
    "charging": PowerConditions(ignition_on=True, speed_kmh=0.0, is_charging=True, soc_pct=60.0),
    "empty": PowerConditions(ignition_on=True, speed_kmh=0.0, is_charging=False, soc_pct=9.9),
    "live": PowerConditions(
        ignition_on=True, speed_kmh=0.0, is_charging=False, soc_pct=60.0, contactors_closed=True, current_a=15.1
    ),
    "weak": PowerConditions(ignition_on=True, speed_kmh=0.0, is_charging=False, soc_pct=60.0, supply_v=11.4),
    "faulty": PowerConditions(ignition_on=True, speed_kmh=0.0, is_charging=False, soc_pct=60.0, fault_level=3),
    "off": PowerConditions(ignition_on=False, speed_kmh=0.0, is_charging=False, soc_pct=60.0),
}
URL = "http://a.example"


class Device:
    """A master with its flashes, the device API it talks to, and one updater from power-on to power-on."""

    def __init__(self, world, *, shelf_bytes=SHELF_BYTES, flashes=None, options=None):
        self.world = world
        self.options = options or DownloadOptions()
        self.flash = FlashModel(MASTER_FLASH_BYTES, seed="master")
        self.shelf_flash = FlashModel(shelf_bytes, erase_block_bytes=4096, seed="shelf")
        self.old = world.firmware(version="2.0.0", counter=1)
        self.documents = {"order": world.order_data, "manifest": world.manifest_data}
        self.images = {
            image.sha256: data for image, data in zip(world.manifest.images, (world.master, world.slave), strict=True)
        }
        self.now_ns = world.NOW_NS
        self.request = None
        self.reports = []
        self.refusals = []
        self.lines = []
        if flashes is None:
            self.store().install_factory(self.old)
            self.power()
        else:
            self.flash.load(*flashes["master"])
            self.shelf_flash.load(*flashes["images"])

    def store(self):
        layout = SlotLayout.divide(self.flash, journal_size_bytes=JOURNAL_BYTES)
        verify = partial(verify_image, public_keys=[self.world.IMAGE_KEY.public_key()])
        role, class_id = ImageRole.MASTER, self.world.MASTER_CLASS.class_id
        return BootStore(self.flash, layout, verify=for_hardware(verify, class_id=class_id, role=role))

    def prepare(self):
        """What a unit does at power-on before its slaves answer."""
        world = self.world
        self.request = None
        self.flash.power_on()
        self.shelf_flash.power_on()
        self.updater_store = store = self.store()
        self.boot = boot = store.boot()
        state, self.trust_problem = load_trust_state(store)
        trust = DeviceTrust(
            vin=world.VIN,
            hwid=world.HWID,
            hardware_classes={0: world.MASTER_CLASS, 1: world.SLAVE_CLASS, 2: world.SLAVE_CLASS},
            image_keys=[world.IMAGE_KEY.public_key()],
            manifest_keys=[world.MANIFEST_KEY.public_key()],
            order_keys=[world.ORDER_KEY.public_key()],
            state=state,
        )
        self.updater = Updater(
            hwid=world.HWID,
            vin=world.VIN,
            slave_positions=(1, 2),
            device_key=world.DEVICE_KEY,
            trust=trust,
            store=store,
            image_store=ImageStore(self.shelf_flash),
            master_version=lambda: (boot.facts.version, store.security_counter),
            options=self.options,
            origins=[URL, "http://b.example"],
        )

    def power(self, conditions=PARKED):
        self.prepare()
        self.updater.power_on(self.boot, self.now_ns)
        self.updater.conditions_changed(conditions, self.now_ns)

    # -- inputs

    def give(self, line):
        self.now_ns += 1_000_000
        word, *rest = line.split(maxsplit=1)
        argument = rest[0] if rest else ""
        if word in CONDITIONS:
            self.updater.conditions_changed(CONDITIONS[word], self.now_ns)
        else:
            getattr(self, f"do_{word}")(argument)

    def do_instructed(self, url):
        self.updater.instructed(url or URL, self.now_ns)

    def do_login(self, _):
        self.updater.logged_in(self.now_ns)

    def do_ack(self, _):
        self.updater.report_acknowledged(self.last_report, self.now_ns)

    def do_refused(self, _):
        self.updater.report_refused(self.last_report, self.now_ns)

    @property
    def last_report(self):
        return self.reports[-1][1] if self.reports else b""

    def do_power(self, argument):
        """A power cycle; "power NAME" spoils something meanwhile, or the vehicle does something."""
        if argument == "damaged-staged":
            self.flash.flip_bit(self.updater_store._layout.slot_offsets[self.updater_store.spare_slot] + 100, 3)
        elif argument == "damaged-active":
            self.flash.flip_bit(self.updater_store._layout.slot_offsets[self.updater_store.active_slot] + 100, 3)
        self.power(CONDITIONS.get(argument, PARKED))

    def do_boot(self, _):
        """The first half of a power-on: the link is up before the slaves are."""
        self.prepare()

    def do_on(self, _):
        self.updater.power_on(self.boot, self.now_ns)
        self.updater.conditions_changed(PARKED, self.now_ns)

    def do_wait(self, seconds):
        end_ns = self.now_ns + int(float(seconds) * SECOND)
        rounds = 0
        while (due := self.updater.next_timeout()) is not None and due <= end_ns:
            self.now_ns = max(self.now_ns, due)
            self.updater.handle_timeout(self.now_ns)
            rounds += 1
            assert rounds < 100_000, f"a time-out that nothing is done for, in {self.updater.state}"
        self.now_ns = end_ns

    def do_early(self, _):
        """Time-outs before their time must do nothing."""
        self.updater.handle_timeout(self.now_ns)

    def do_broken(self, reason):
        self.request = None
        self.updater.http_ended(reason, self.now_ns)

    def do_answer(self, argument):
        """The device API's answer to the request under way; an argument changes it."""
        request, self.request = self.request, None
        assert request is not None, "no request is under way"
        response = self.respond(request, argument)
        body = response.body
        if argument.startswith("flip "):
            at = int(argument.split()[1])
            body = body[:at] + bytes([body[at] ^ 1]) + body[at + 1 :]
        if argument.startswith("cut "):
            body = body[: int(argument.split()[1])]
        inputs = [partial(self.updater.http_head, response.status, response.headers)]
        inputs += [
            partial(self.updater.http_body, body[offset : offset + 1000]) for offset in range(0, len(body), 1000)
        ]
        inputs.append(partial(self.updater.http_ended, "connection lost" if argument.startswith("cut ") else None))
        for give in inputs:
            give(self.now_ns)
            if "abort" in self.collect():
                return

    def respond(self, request, argument):
        if argument.isdigit():
            status = int(argument)
            return device_api.HttpResponse(204) if status == 204 else device_api.error_response(status, "no", "said no")
        if argument.startswith("busy "):
            return device_api.error_response(429, "too-many", "said wait", retry_after_s=int(argument.split()[1]))
        if argument.startswith("receipt"):
            return device_api.receipt_response(self.receipt(request, *argument.split()[1:]))
        if argument == "endless":
            return device_api.HttpResponse(200, {}, bytes(100_000))
        if argument == "nonsense":
            return device_api.HttpResponse(200, {}, b"nonsense")
        route = device_api.route(request.method, request.path)
        if route.endpoint is device_api.DeviceEndpoint.CHALLENGE:
            return device_api.challenge_response(b"c" * 32, 2**40)
        if route.endpoint is device_api.DeviceEndpoint.SESSION:
            asked = device_api.parse_session_request(request.body)
            assert asked.origin == "http://a.example:80", asked.origin
            assert device_api.session_proof_is_valid(asked, self.world.DEVICE_KEY.public_key())
            return device_api.session_response("token", 2**40)
        assert device_api.bearer_token(request) == "token"
        if route.endpoint is device_api.DeviceEndpoint.ORDER:
            return device_api.order_response(self.documents.get(argument or "order"))
        if route.endpoint is device_api.DeviceEndpoint.REFUSAL:
            self.refusals.append(device_api.parse_refusal_request(request.body))
            return device_api.order_response(self.documents.get(argument))
        if route.endpoint is device_api.DeviceEndpoint.MANIFEST:
            return device_api.manifest_response(self.documents.get(argument or "manifest"))
        if route.endpoint is device_api.DeviceEndpoint.CONFIRM:
            assert device_api.parse_confirm_request(request.body).decision is device_api.Decision.ACCEPTED
            return device_api.confirmed_response(route.order_id, device_api.Decision.ACCEPTED)
        return device_api.image_response(request, sha256=route.sha256, data=self.images[route.sha256])

    def receipt(self, request, reason="", counter="0", signer="order", about=""):
        """The platform's answer to the report in *request*: "receipt unknown-order 0"; nothing more: taken."""
        world = self.world
        receipt = DocumentReceipt(
            vin=world.VIN,
            hwid=world.HWID,
            document_sha256=sha256(about.encode() or request.body).digest(),
            reason=reason,
            detail="said the platform" if reason else "",
            counter=int(counter),
            time_s=world.NOW_S,
        )
        return sign_receipt(receipt, world.ORDER_KEY if signer == "order" else world.THIEF_KEY)

    def do_nodes(self, text):
        """`1=2.0.0 2=2.0.0 trial=1 bootloader=2`"""
        options = dict(item.split("=") for item in text.split())
        in_test = options.pop("trial", "").split(",")
        in_bootloader = options.pop("bootloader", "").split(",")
        nodes = [
            describe(
                int(position),
                version=ImageVersion.parse(version),
                state=NodeMode.BOOTLOADER if position in in_bootloader else NodeMode.APPLICATION,
                slot_states=(SlotState.CONFIRMED, SlotState.TEST if position in in_test else SlotState.EMPTY),
            )
            for position, version in options.items()
        ]
        self.updater.nodes_discovered(nodes, self.now_ns)

    def _outcomes(self, text):
        """`1=ok 2=silent`"""
        pairs = [item.split("=") for item in text.split()]
        return [NodeResult(int(position), ok == "ok", "" if ok == "ok" else ok) for position, ok in pairs]

    def do_flashed(self, text):
        self.updater.slaves_flashed(self._outcomes(text), self.now_ns)

    def do_activated(self, text):
        self.updater.slaves_activated(self._outcomes(text), self.now_ns)

    def do_confirmed(self, text):
        self.updater.slaves_confirmed(self._outcomes(text), self.now_ns)

    def do_raised(self, text):
        self.updater.counters_raised(self._outcomes(text), self.now_ns)

    def do_reverted(self, text):
        self.updater.slaves_reverted(self._outcomes(text), self.now_ns)

    def do_tested(self, reason):
        self.updater.self_tested(passed=reason == "good", reason="" if reason == "good" else reason, now_ns=self.now_ns)

    def do_state(self, expected):
        assert self.updater.state == UpdaterState[expected], (expected, self.updater.state)

    # -- actions as lines

    def collect(self):
        """Carry out what the updater asks for now, as a driver does after every input; the new lines."""
        lines = []
        while (action := self.updater.next_action()) is not None:
            lines.append(self.line_of(action))
        self.lines += lines
        return lines

    def actions(self):
        self.collect()
        lines, self.lines = self.lines, []
        return lines

    def line_of(self, action):
        match action:
            case StartHttp(base_url, request):
                self.request = request
                assert base_url == URL or base_url in request.path or base_url.startswith("http://b"), base_url
                where = "" if base_url == URL else f" at {base_url}"
                path = request.path.removeprefix("/device/v1/")
                for image in self.world.manifest.images:
                    path = path.replace(image.sha256.hex(), image.role.name.lower())
                path = path.split("/")[0] if path.startswith("manifests") else path
                return f"{request.method} {path} {request.header('Range') or ''}".rstrip() + where
            case AbortHttp():
                self.request = None
                return "abort"
            case TellState(order_id, stage, progress_pct, reason):
                assert order_id in {"", "o-17", "o-18"}
                return f"tell {stage.value} {progress_pct}" + (f": {reason}" if reason else "")
            case SendReport(document):
                report = verify_report(document, [self.world.DEVICE_KEY.public_key()])
                self.reports.append((report, document))
                nodes = " ".join(f"{node.position}={node.version}" for node in report.nodes)
                return f"report {report.counter} {report.outcome.value} [{nodes}]" + (
                    f": {report.reason}" if report.reason else ""
                )
            case LogNote(text):
                return f"remark {text}"
            case FlashSlaves(jobs):
                for job in jobs:
                    assert job.image == self.world.slave
                return "flash " + ",".join(str(job.position) for job in jobs)
            case ActivateSlaves(positions):
                return "activate " + ",".join(map(str, positions))
            case ConfirmSlaves(versions):
                return "confirm " + " ".join(f"{position}={version}" for position, version in versions)
            case RaiseCounters(versions):
                return "raise " + " ".join(f"{position}={version}" for position, version in versions)
            case RevertSlaves(positions, restart):
                return f"revert [{','.join(map(str, positions))}] restart [{','.join(map(str, restart))}]"
            case Reset(reason):
                return f"reset: {reason}"
            case DiscoverNodes() | RunSelfTest():
                return {DiscoverNodes: "discover", RunSelfTest: "self-test"}[type(action)]
        raise AssertionError(action)


def play(device, script):
    """Give every `>` line and compare what comes with the `<` lines below it."""
    expected, found = [], []
    lines = [line.strip() for line in dedent(script).splitlines() if line.strip()]
    for index, line in enumerate(lines):
        if line.startswith("> "):
            device.give(line[2:])
            # A long list of equal actions may be written once: `<* action`.
            found += [line, *(f"< {action}" for action in device.actions())]
        expected.append(line)
        if (index + 1 == len(lines) or lines[index + 1].startswith("> ")) and found != expected:
            difference = "\n".join(unified_diff(expected, found, "as written", "as it went", lineterm="", n=4))
            pytest.fail(f"state {device.updater.state}\n{difference}", pytrace=False)
    return device


# -- the scripts -----------------------------------------------------------------------------------------------------------

UNTIL_ORDER = """
    > instructed
    < tell authenticating 0
    < POST challenge
    > answer
    < POST session
    > answer
    < GET order
"""
UNTIL_DOWNLOAD = (
    UNTIL_ORDER
    + """
    > answer
    < GET manifests
    > answer
    < POST orders/o-17/confirm
    > answer
    < tell downloading 0
    < GET images/master
"""
)
UNTIL_STAGED = (
    UNTIL_DOWNLOAD
    + """
    > answer
    < tell downloading 28
    < tell downloading 56
    < tell downloading 63
    < abort
    < GET images/slave
    > answer
    < tell downloading 92
    < tell downloading 100
    < abort
    < tell download complete 100
"""
)
UNTIL_SWITCHED = (
    UNTIL_STAGED
    + """
    > power
    < reset: switches to the new image
    > power
    < tell switching 100
    < discover
"""
)
UNTIL_FLASHED = (
    UNTIL_SWITCHED
    + """
    > nodes 1=2.0.0 2=2.0.0
    < tell flashing slaves 100
    < flash 1,2
    > flashed 1=ok 2=ok
    < activate 1,2
"""
)
UNTIL_TESTED = (
    UNTIL_FLASHED
    + """
    > activated 1=ok 2=ok
    < tell switching 100
    < discover
    > nodes 1=2.1.0 2=2.1.0 trial=1,2
    < tell self-test 100
    < self-test
"""
)
UNTIL_CONFIRMED = (
    UNTIL_TESTED
    + """
    > tested good
    < confirm 1=2.1.0 2=2.1.0
"""
)
UNTIL_COMMITTED = (
    UNTIL_CONFIRMED
    + """
    > confirmed 1=ok 2=ok
    < raise 1=2.1.0 2=2.1.0
"""
)
HAPPY = (
    UNTIL_COMMITTED
    + """
    > raised 1=ok 2=ok
    < discover
    > nodes 1=2.1.0 2=2.1.0
    < report 1 succeeded [0=2.1.0 1=2.1.0 2=2.1.0]
    > ack
    > state IDLE
"""
)
