"""What a flash would do, before it does anything: which node gets what, and what prevents it.

Pure: nodes (as discovered) and images in, a `FlashPlan` out. Nothing is sent. A node checks class, role, signature and
security counter again before it erases or boots anything; the plan's checks are there to refuse early, all at once, in words.

Strategy. A node needs one of five things (`Action`). Which one follows from what it runs and from the state of its slots,
so that a plan made after an interrupted run asks for the rest only: an image in test is confirmed, a counter that was
not raised is raised, what is staged is not sent again.

Left out: whether the vehicle is at rest. Nothing on the bus tells it in a way that could be trusted; the plan says so.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import Enum
from typing import TYPE_CHECKING

from bmsota.errors import BmsotaError, TrustError
from bmsota.flashing._checks import NOT_OVERRIDABLE, OVERRIDABLE, Check, Finding, Verdict
from bmsota.image import Attack, ImageRole, verify_image
from bmsota.node import SLOT_SIZE_KIB_MAX, Capability, ImageStatus, image_status

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence
    from uuid import UUID

    from bmsota.flashing._source import FlashSource, SourceImage
    from bmsota.image import ImageVersion, PublicKey
    from bmsota.node import NodeDescription


# What a node needs beside the transfer: verifying the image, one restart, a dozen commands. Of the virtual nodes and of a
# Cortex-M4 with a small image; an estimate for people.
_NODE_OVERHEAD_S = 1.0


class Action(Enum):
    """What a node needs."""

    FLASH = "flash"
    CONFIRM = "confirm"
    """It runs the image in test: an earlier run stopped before the confirmation."""
    RAISE_COUNTER = "raise counter"
    """It runs the image, confirmed; an earlier run stopped before its counter was raised."""
    NONE = "up to date"
    LEFT_OUT = "left out"
    """It is not among the targets."""


class Targets(Enum):
    """Which nodes are meant, if not by position."""

    DEFAULT = "default"
    """Of a release every node, of one image every node of its role."""
    ALL = "all"
    MASTER = "master"
    SLAVES = "slaves"


@dataclass(frozen=True, slots=True, kw_only=True)
class PlanRequest:
    """What is to be flashed where, and which checks are overridden."""

    now_s: int
    """Seconds since the Unix epoch, for the release's expiry."""
    targets: Targets = Targets.DEFAULT
    positions: tuple[int, ...] = ()
    """Nodes by position, instead of *targets*. Each must answer."""
    expected: tuple[int, ...] = ()
    """Further positions that must answer."""
    hwids: Mapping[int, str] = field(default_factory=dict)
    """Position -> the hardware id that must be there."""
    forced: frozenset[Check] = frozenset()
    has_access_key: bool | None = None
    """Whether there is a key for locked nodes; None: not checked."""
    image_keys: tuple[PublicKey, ...] = ()
    """Keys one of which must have signed each image; without any, the nodes alone decide."""
    rate_bytes_per_s: float | None = None
    """What the wire can carry; None if it is not known."""
    class_names: Mapping[UUID, str] = field(default_factory=dict)
    """Names of hardware classes, beside those of the release, for people."""

    @property
    def named_positions(self) -> tuple[int, ...]:
        """Every position that was named, rising: these are requested one by one when they do not answer the general request."""
        return tuple(sorted({*self.positions, *self.expected, *self.hwids}))


@dataclass(frozen=True, slots=True, kw_only=True)
class NodePlan:
    """What would happen to one node."""

    node: NodeDescription
    action: Action
    to_version: ImageVersion | None
    """None for a node that is left out."""
    image: bytes | None
    """What to flash; None if there is nothing to send."""
    security_counter: int
    """Of the image, and of the node when all is done; 0 without an image."""
    expected_s: float | None
    """Of its own transfer and restart; None if the wire's rate is not known, or nothing is sent."""
    must_revert: bool
    """Before the flash the node reverts to its active image: from one in test (forced), or because an earlier run was
    interrupted between the revert and the restart."""
    findings: tuple[Finding, ...]

    @property
    def position(self) -> int:
        return self.node.position

    @property
    def from_version(self) -> ImageVersion | None:
        """What runs; None if nothing does."""
        return None if self.node.running_slot is None else self.node.version

    @property
    def size_bytes(self) -> int:
        return 0 if self.image is None else len(self.image)

    @property
    def passed(self) -> tuple[Check, ...]:
        return tuple(each.check for each in self.findings if each.verdict is Verdict.PASSED)

    @property
    def refusals(self) -> tuple[Finding, ...]:
        return tuple(each for each in self.findings if each.verdict is Verdict.REFUSED)


@dataclass(frozen=True, slots=True, kw_only=True)
class FlashPlan:
    """What would happen."""

    source: FlashSource
    nodes: tuple[NodePlan, ...]
    """Every node that answered, by rising position."""
    findings: tuple[Finding, ...]
    """About the whole: what is not about one node that answered."""
    expected_s: float | None
    """Of everything; None if the wire's rate is not known. An upper bound: what is staged already is not sent again."""

    @property
    def all_findings(self) -> tuple[Finding, ...]:
        return (*self.findings, *(each for node in self.nodes for each in node.findings))

    @property
    def refusals(self) -> tuple[Finding, ...]:
        """What prevents it. Empty: it may be done."""
        return tuple(each for each in self.all_findings if each.verdict is Verdict.REFUSED)

    @property
    def forced(self) -> tuple[Finding, ...]:
        """What the user overrides."""
        return tuple(each for each in self.all_findings if each.verdict is Verdict.FORCED)

    @property
    def is_nothing_to_do(self) -> bool:
        """Whether every target has what it should have."""
        return all(node.action in {Action.NONE, Action.LEFT_OUT} for node in self.nodes)

    @property
    def targets(self) -> tuple[NodePlan, ...]:
        """The nodes that take part, leaves first, the master last: in this order they are changed and confirmed."""
        taking = [node for node in self.nodes if node.action is not Action.LEFT_OUT]
        return tuple(sorted(taking, key=lambda each: (each.node.role is ImageRole.MASTER, each.position)))

    def with_action(self, *actions: Action) -> tuple[NodePlan, ...]:
        """The targets that need one of *actions*, in order."""
        return tuple(node for node in self.targets if node.action in actions)


def class_text(class_id: UUID, names: Mapping[UUID, str]) -> str:
    """A hardware class as people know it, "F7-master (2d81ee92-...)"; one without a name by its UUID."""
    name = names.get(class_id)
    return str(class_id) if name is None else f"{name} ({class_id})"


def node_words(positions: Iterable[int]) -> str:
    """Positions as text: "node 3", or "nodes 1, 3, 5-8"."""
    runs: list[list[int]] = []
    for position in sorted(set(positions)):
        if runs and runs[-1][-1] == position - 1:
            runs[-1].append(position)
        else:
            runs.append([position])
    # Two neighbours are written as two.
    texts = [f"{run[0]}-{run[-1]}" if len(run) > 2 else ", ".join(map(str, run)) for run in runs]
    return f"node{'s' if sum(map(len, runs)) > 1 else ''} {', '.join(texts)}"


def make_plan(nodes: Sequence[NodeDescription], source: FlashSource, request: PlanRequest) -> FlashPlan:
    """Decide what every node needs, and what prevents it. Sends nothing and cannot fail."""
    checker = _PlanChecker(source, request)
    plans = tuple(checker.node(node) for node in sorted(nodes, key=lambda each: each.position))
    findings = (
        *checker.source_findings(),
        *checker.absent(plans),
        *checker.mixed(plans),
        Finding(
            Check.VEHICLE_STATE,
            Verdict.UNKNOWN,
            None,
            "the bus does not tell whether the vehicle drives or charges; make sure it is at rest and no charger is connected",
        ),
    )
    expected_s = _expected_s(plans, request.rate_bytes_per_s)
    return FlashPlan(source=source, nodes=plans, findings=findings, expected_s=expected_s)


class _PlanChecker:
    """The checks of one plan."""

    def __init__(self, source: FlashSource, request: PlanRequest) -> None:
        self._source = source
        self._request = request

    def _finding(self, check: Check, problem: str | None, position: int | None = None) -> Finding:
        if problem is None:
            return Finding(check, Verdict.PASSED, position)
        if check in self._request.forced:
            if check in OVERRIDABLE:
                return Finding(check, Verdict.FORCED, position, problem)
            problem = f"{problem} (cannot be forced: {NOT_OVERRIDABLE[check]})"
        return Finding(check, Verdict.REFUSED, position, problem)

    # ---- the source

    def source_findings(self) -> list[Finding]:
        source, request = self._source, self._request
        findings: list[Finding] = []
        if source.manifest is not None:
            if source.is_manifest_verified:
                findings.append(Finding(Check.MANIFEST_SIGNATURE, Verdict.PASSED))
            else:
                findings.append(Finding(Check.MANIFEST_SIGNATURE, Verdict.UNKNOWN, None, "no key was given"))
            expires_s = source.manifest.expires_s
            problem = None
            if request.now_s >= expires_s:
                problem = f"the release expired {request.now_s - expires_s} s ago"
            findings.append(self._finding(Check.MANIFEST_EXPIRY, problem))
        if not request.image_keys:
            detail = "no key was given; each node verifies with its own keys"
            findings.append(Finding(Check.IMAGE_SIGNATURE, Verdict.UNKNOWN, None, detail))
        else:
            problems = [problem for image in source.images if (problem := self._bad_signature(image)) is not None]
            findings.append(self._finding(Check.IMAGE_SIGNATURE, "; ".join(problems) or None))
        return findings

    def _bad_signature(self, image: SourceImage) -> str | None:
        try:
            verify_image(image.data, public_keys=self._request.image_keys)
        except BmsotaError as error:
            facts = image.facts
            is_unsigned = isinstance(error, TrustError) and error.attack == Attack.ARBITRARY_SOFTWARE
            reason = "not signed with one of the given keys" if is_unsigned else str(error)
            return f"{facts.role.name.lower()} image {facts.version}: {reason}"
        return None

    # ---- one node

    def node(self, node: NodeDescription) -> NodePlan:
        if not self._is_chosen(node):
            return NodePlan(
                node=node,
                action=Action.LEFT_OUT,
                to_version=None,
                image=None,
                security_counter=0,
                expected_s=None,
                must_revert=False,
                findings=(),
            )
        image = self._source.image_for(node)
        findings = [*self._kind(node, image), *self._hwid(node)]
        action, must_revert = Action.FLASH, False
        if image is not None:
            action = self._action(node, image)
            if action is Action.FLASH:
                findings += self._steps(node, image)
            if action is not Action.NONE:
                findings += self._access(node)
            must_revert = action is Action.FLASH and node.is_spare_running
        sends = action is Action.FLASH and image is not None
        rate = self._request.rate_bytes_per_s
        return NodePlan(
            node=node,
            action=action,
            to_version=None if image is None else image.facts.version,
            image=image.data if sends and image is not None else None,
            security_counter=0 if image is None else image.facts.security_counter,
            expected_s=len(image.data) / rate + _NODE_OVERHEAD_S if sends and image is not None and rate else None,
            must_revert=must_revert,
            findings=tuple(findings),
        )

    def _is_chosen(self, node: NodeDescription) -> bool:
        request = self._request
        if request.positions:
            return node.position in request.positions
        if request.targets is Targets.MASTER:
            return node.role is ImageRole.MASTER
        if request.targets is Targets.SLAVES:
            return node.role is ImageRole.SLAVE
        if self._source.manifest is None:
            # One image, "all": all it can be meant for. A master's image does not stop at every slave.
            return node.role is self._source.images[0].facts.role
        return True

    def _kind(self, node: NodeDescription, image: SourceImage | None) -> list[Finding]:
        """Role and hardware class."""
        position = node.position
        if image is not None:
            return [self._finding(Check.ROLE, None, position), self._finding(Check.HARDWARE_CLASS, None, position)]
        role = node.role.name.lower()
        of_role = [each for each in self._source.images if each.facts.role is node.role]
        if not of_role:
            others = ", ".join(sorted({each.facts.role.name.lower() for each in self._source.images}))
            return [self._finding(Check.ROLE, f"the node is a {role}, the image is for a {others}", position)]
        names = {**self._source.class_names, **self._request.class_names}
        classes = ", ".join(sorted(class_text(each.facts.hardware_class.class_id, names) for each in of_role))
        problem = f"expected an image for hardware class {class_text(node.class_id, names)}, got {classes}"
        return [self._finding(Check.ROLE, None, position), self._finding(Check.HARDWARE_CLASS, problem, position)]

    def _hwid(self, node: NodeDescription) -> list[Finding]:
        wanted = self._request.hwids.get(node.position)
        if wanted is None:
            return []
        problem = None if node.hwid == wanted else f"expected {wanted}, got {node.hwid}"
        return [self._finding(Check.HWID, problem, node.position)]

    def _access(self, node: NodeDescription) -> list[Finding]:
        has_key = self._request.has_access_key
        if has_key is None or Capability.SECURITY_ACCESS not in node.capabilities or node.is_unlocked:
            return []
        problem = None if has_key else "the node is locked and no access key was given"
        return [self._finding(Check.ACCESS_KEY, problem, node.position)]

    def _action(self, node: NodeDescription, image: SourceImage) -> Action:
        status = image_status(node)
        if status in {ImageStatus.ABSENT, ImageStatus.REVERTED} or not node.runs(
            image.facts.version, image.facts.digest
        ):
            return Action.FLASH
        if status is ImageStatus.TEST:
            return Action.CONFIRM
        if node.security_counter < image.facts.security_counter:
            return Action.RAISE_COUNTER
        return Action.FLASH if Check.SAME_VERSION in self._request.forced else Action.NONE

    def _steps(self, node: NodeDescription, image: SourceImage) -> list[Finding]:
        """What prevents this image from being put on this node, although it is of its kind."""
        position, facts = node.position, image.facts
        findings: list[Finding] = []
        runs = node.running_slot is not None
        if runs and node.runs(facts.version, facts.digest) and image_status(node) is not ImageStatus.REVERTED:
            # Otherwise nothing would be flashed: see `_action`.
            findings.append(self._finding(Check.SAME_VERSION, f"already runs {facts.version}", position))
        older = runs and facts.version < node.version
        problem = f"expected a version of at least {node.version}, got {facts.version}" if older else None
        findings.append(self._finding(Check.VERSION_DOWNGRADE, problem, position))
        low = facts.security_counter < node.security_counter
        problem = (
            f"expected a counter of at least {node.security_counter}, got {facts.security_counter}" if low else None
        )
        findings.append(self._finding(Check.SECURITY_COUNTER, problem, position))
        if node.slot_size_kib and node.slot_size_kib < SLOT_SIZE_KIB_MAX:
            # The node rounds down, so it may have room for up to a KiB more than it reports: then the node decides.
            room = (node.slot_size_kib + 1) * 1024
            large = len(image.data) >= room
            problem = f"expected less than {room} bytes, got {len(image.data)}" if large else None
            findings.append(self._finding(Check.IMAGE_SIZE, problem, position))
        problem = f"runs {node.version} in test, not confirmed" if image_status(node) is ImageStatus.TEST else None
        findings.append(self._finding(Check.TEST_PENDING, problem, position))
        return findings

    # ---- the pack

    def absent(self, plans: Sequence[NodePlan]) -> list[Finding]:
        """Nodes that must be there."""
        request, source = self._request, self._source
        there = {plan.position for plan in plans}
        findings = [
            self._finding(Check.NODE_PRESENT, None if position in there else "did not answer", position)
            for position in request.named_positions
        ]
        if not plans:
            # Nothing to force: there is no node.
            return [*findings, Finding(Check.NODE_PRESENT, Verdict.REFUSED, None, "no node answered")]
        if request.positions:
            return findings
        if request.targets in {Targets.MASTER, Targets.SLAVES}:
            wanted = {ImageRole.MASTER if request.targets is Targets.MASTER else ImageRole.SLAVE}
        else:
            wanted = {image.facts.role for image in source.images}
        missing = [role for role in sorted(wanted) if not any(plan.node.role is role for plan in plans)]
        findings += [self._finding(Check.NODE_PRESENT, f"no {role.name.lower()} answered") for role in missing]
        if not findings:
            findings.append(self._finding(Check.NODE_PRESENT, None))
        return findings

    def mixed(self, plans: Sequence[NodePlan]) -> list[Finding]:
        """Whether the pack would run versions that belong together."""
        taking = [plan for plan in plans if plan.action not in {Action.NONE, Action.LEFT_OUT} and plan.to_version]
        if not taking:
            return []
        after = {plan.position: plan.to_version or plan.from_version for plan in plans}
        left_out: dict[tuple[str, str], list[int]] = {}
        for plan in plans:
            image = self._source.image_for(plan.node)
            if plan.action is not Action.LEFT_OUT or image is None:
                continue
            if not plan.node.runs(image.facts.version, image.facts.digest):
                runs = str(plan.from_version or "nothing")
                if plan.from_version == image.facts.version:
                    runs = f"another build of {runs}"
                key = (runs, str(image.facts.version))
                left_out.setdefault(key, []).append(plan.position)
        problems = [
            f"{node_words(where)} {'are left out and run' if len(where) > 1 else 'is left out and runs'} {runs}, not {new}"
            for (runs, new), where in left_out.items()
        ]
        used = {id(image): image for plan in plans if (image := self._source.image_for(plan.node)) is not None}
        for image in used.values():
            for need in image.facts.dependencies:
                for plan in plans:
                    version = after[plan.position]
                    if plan.node.role is need.role and (version is None or version < need.version_min):
                        kind = image.facts.role.name.lower()
                        problems.append(
                            f"the {kind} image {image.facts.version} requires {need.role.name.lower()}s at {need.version_min} or "
                            f"newer, node {plan.position} would run {version or 'nothing'}"
                        )
        return [self._finding(Check.MIXED_PACK, "; ".join(problems) or None)]


def _expected_s(plans: Sequence[NodePlan], rate_bytes_per_s: float | None) -> float | None:
    """Nodes that take a broadcast share one transfer of the same image, the others get it one after another."""
    if not rate_bytes_per_s:
        return None
    total_s = 0.0
    shared: set[bytes] = set()
    for plan in plans:
        if plan.image is None:
            continue
        total_s += _NODE_OVERHEAD_S
        if Capability.BROADCAST in plan.node.capabilities:
            if plan.image in shared:
                continue
            shared.add(plan.image)
        total_s += len(plan.image) / rate_bytes_per_s
    return total_s
