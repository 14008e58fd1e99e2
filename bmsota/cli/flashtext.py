"""Plans, nodes and results in words and tables, for the commands that flash."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from bmsota.flashing import Action, TargetStatus, Verdict, node_words
from bmsota.node import Capability

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from bmsota.flashing import Finding, FlashPlan, NodeFlashReport, NodePlan
    from bmsota.node import NodeDescription

__all__ = [
    "columns",
    "counted",
    "findings_text",
    "node_lines",
    "nodes_text",
    "plan_lines",
    "question",
    "rate_sentence",
    "report_line",
    "status_sentence",
]

_PLAN_HEADS = ("node", "role", "hwid", "from", "to", "action", "bytes", "about")
_KILO = 1000
_QUESTIONS = (Action.FLASH, Action.CONFIRM, Action.RAISE_COUNTER)
_PLACE = re.compile(r"node \d+(?: \([^)]*\))?(?:: | )")
"""Which node a detail says it is about; the table above has its hardware id."""


def columns(rows: Sequence[Sequence[str]]) -> list[str]:
    """Rows as lines with aligned columns, however wide the screen is."""
    widths = [max(len(row[index]) for row in rows) for index in range(len(rows[0]))]
    return ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows]


def counted(count: int, noun: str) -> str:
    """As "1 node" or "3 nodes"."""
    return f"{count} {noun}{'' if count == 1 else 's'}"


def nodes_text(details: Iterable[tuple[int, str]]) -> str:
    """What is said of several nodes, the same thing once: "nodes 1-8: expected ..."."""
    said: dict[str, list[int]] = {}
    for position, detail in details:
        place = _PLACE.match(detail)
        said.setdefault(detail[place.end() :] if place else detail, []).append(position)
    return "; ".join(f"{node_words(positions)}: {detail}" for detail, positions in said.items())


def findings_text(findings: Iterable[Finding]) -> str:
    """What one check has found, the same thing of several nodes once."""
    findings = list(findings)
    whole = [each.detail for each in findings if each.position is None]
    nodes = nodes_text((each.position, each.detail) for each in findings if each.position is not None)
    return "; ".join([*whole, *([nodes] if nodes else [])])


def word(name: str) -> str:
    """The name of an enumeration's member as people read it."""
    return name.lower().replace("_", " ")


def capabilities(node: NodeDescription) -> str:
    """What a node can do beside the basic protocol."""
    return ", ".join(word(str(each.name)) for each in Capability if each in node.capabilities and each) or "-"


def node_lines(nodes: Sequence[NodeDescription]) -> list[str]:
    """The table of `bmsota nodes`. What is the same everywhere is said once below it: the table fits more screens."""
    has_serial = any(node.serial != node.hwid for node in nodes)
    abilities = {(capabilities(node), str(node.protocol_version)) for node in nodes}
    heads = [
        "node",
        "role",
        "hwid",
        *(["serial"] if has_serial else []),
        "version",
        "state",
        "slot A",
        "slot B",
        "counter",
    ]
    if len(abilities) > 1:
        heads += ["can", "protocol"]
    rows = [heads]
    for node in nodes:
        slots = [word(state.name) for state in node.slot_states]
        if node.running_slot is not None:
            slots[node.running_slot] += " *"
        row = [str(node.position), node.role.name.lower(), node.hwid]
        row += [node.serial] if has_serial else []
        row += ["-" if node.running_slot is None else str(node.version), word(node.state.name), *slots]
        row += [str(node.security_counter)]
        row += [capabilities(node), str(node.protocol_version)] if len(abilities) > 1 else []
        rows.append(row)
    lines = columns(rows)
    if not has_serial:
        lines.append("serial numbers are the hardware ids")
    if len(abilities) == 1:
        ((can, version),) = abilities
        lines.append(f"{node_words(node.position for node in nodes)}: can {can}; protocol {version}")
    return lines


def plan_lines(plan: FlashPlan, rate_bytes_per_s: float | None) -> list[str]:
    """What would happen, node by node, and what was looked at."""
    source = plan.source
    kind = "image" if source.manifest is None else "release"
    lines = [f"{kind} {source.name}"]
    if plan.nodes:
        rows = [_PLAN_HEADS, *(_plan_row(node) for node in plan.nodes)]
        lines += columns(rows)
    size = sum(node.size_bytes for node in plan.nodes)
    if size and plan.expected_s is not None and rate_bytes_per_s:
        lines.append(
            f"in all {size} bytes, about {plan.expected_s:.1f} s: the wire carries {rate_bytes_per_s / _KILO:.1f} kB/s at most"
        )
    elif size:
        lines.append(f"in all {size} bytes; without a bit rate nobody can say how long it takes (-b)")
    passed = {each.check for each in plan.all_findings if each.verdict is Verdict.PASSED}
    others = {each.check for each in plan.all_findings if each.verdict is not Verdict.PASSED}
    if passed - others:
        lines.append(f"checked: {', '.join(sorted(passed - others))}")
    lines += [f"not checked: {each}" for each in plan.all_findings if each.verdict is Verdict.UNKNOWN]
    for check in dict.fromkeys(each.check for each in plan.forced):
        lines.append(f"forced: {check.value}: {findings_text(each for each in plan.forced if each.check is check)}")
    return lines


def question(plan: FlashPlan) -> str:
    """What is asked before it is done: "flash 3 nodes, confirm 1 node?"."""
    counts = [(action.value, len(plan.with_action(action))) for action in _QUESTIONS]
    return ", ".join(f"{verb} {counted(count, 'node')}" for verb, count in counts if count) + "?"


def _plan_row(node: NodePlan) -> tuple[str, ...]:
    action = node.action.value
    if node.must_revert:
        action = "take back, flash"
    if node.refusals:
        action = "refused"
    return (
        str(node.position),
        node.node.role.name.lower(),
        node.node.hwid,
        str(node.from_version or "-"),
        str(node.to_version or "-"),
        action,
        str(node.size_bytes) if node.action is Action.FLASH else "-",
        "-" if node.expected_s is None else f"{node.expected_s:.1f} s",
    )


def rate_sentence(sent_bytes: int, seconds: float, ceiling_bytes_per_s: float | None) -> str:
    """As "34.1 of 35.2 kB/s, 97 %"; empty if there is nothing to say."""
    if not sent_bytes or seconds <= 0:
        return ""
    rate = sent_bytes / seconds
    if ceiling_bytes_per_s is None:
        return f"{rate / _KILO:.1f} kB/s"
    if rate > ceiling_bytes_per_s:
        # Bytes of an image that went compressed, or a bus without a pace.
        return f"{rate / _KILO:.1f} kB/s, unpacked"
    return f"{rate / _KILO:.1f} of {ceiling_bytes_per_s / _KILO:.1f} kB/s, {100 * rate / ceiling_bytes_per_s:.0f} %"


def status_sentence(status: TargetStatus, plan: NodePlan) -> str:
    """Which state a node is in, in words."""
    old, new = plan.from_version or "no image", plan.to_version
    return {
        TargetStatus.NOT_ASKED: "was not asked any more; what it runs is not known",
        TargetStatus.SILENT: "does not answer; what it runs is not known",
        TargetStatus.NO_IMAGE: "waits in its bootloader, no image runs",
        TargetStatus.OLD: f"runs {old}",
        TargetStatus.OLD_PARTLY_STAGED: f"runs {old}; a part of {new} is stored, the next run sends the rest",
        TargetStatus.OLD_STAGED: f"runs {old}; {new} is stored and verified, the next run does not send it again",
        TargetStatus.OLD_PENDING: f"runs {old}; its next restart tries {new}",
        TargetStatus.NEW_TEST: f"runs {new} on trial; its next restart takes it back unless it is confirmed",
        TargetStatus.NEW_REVERTED: f"runs {new}, which has been taken back; its next restart runs another image",
        TargetStatus.NEW_CONFIRMED: f"runs {new}, confirmed; its security counter has not been raised",
        TargetStatus.NEW: f"runs {new}, confirmed",
    }[status]


def report_line(report: NodeFlashReport, ceiling_bytes_per_s: float | None) -> str:
    """One node at the end."""
    plan = report.plan
    head = f"node {plan.position} ({plan.node.role.name.lower()}): {status_sentence(report.status, plan)}"
    rate = rate_sentence(report.sent_bytes, report.transfer_ns / 1e9, ceiling_bytes_per_s)
    said = [f"{report.sent_bytes} bytes in {report.transfer_ns / 1e9:.1f} s ({rate})"] if rate else []
    if report.resumed_from:
        said.append(f"{report.resumed_from} bytes were there")
    if report.frames_repeated:
        said.append(f"{counted(report.frames_repeated, 'frame')} repeated")
    if report.interruptions:
        said.append(f"broke off {counted(report.interruptions, 'time')}")
    return "; ".join([head, *([", ".join(said)] if said else [])])
