"""Plans, nodes and results in words and tables, for the commands that flash."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from bmsota.cli.fault_table import OPTION_OF_CHECK
from bmsota.cli.terminal import counted
from bmsota.flashing import Action, TargetStatus, Verdict, node_words
from bmsota.node import Capability

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from bmsota.flashing import Check, Finding, FlashPlan, NodeFlashReport, NodePlan
    from bmsota.node import NodeDescription

__all__ = [
    "columns",
    "findings_text",
    "node_lines",
    "nodes_text",
    "plan_lines",
    "question",
    "rate_sentence",
    "refusal_texts",
    "report_line",
    "status_sentence",
]

_PLAN_HEADS = ("node", "role", "hwid", "from", "to", "action", "bytes", "about")
_KILO = 1000
_QUESTIONS = (Action.FLASH, Action.CONFIRM, Action.RAISE_COUNTER)
_PLACE = re.compile(r"node \d+(?: \([^)]*\))?(?:: | )")
"""Which node a detail is about; the table above has its hardware id."""


def columns(rows: Sequence[Sequence[str]]) -> list[str]:
    """Rows as lines with aligned columns, whatever the width of the screen."""
    widths = [max(len(row[index]) for row in rows) for index in range(len(rows[0]))]
    return ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows]


def nodes_text(details: Iterable[tuple[int, str]]) -> str:
    """Details of several nodes, equal ones once: "nodes 1-8: did not answer"."""
    merged: dict[str, list[int]] = {}
    for position, detail in details:
        place = _PLACE.match(detail)
        merged.setdefault(detail[place.end() :] if place else detail, []).append(position)
    return "; ".join(f"{node_words(positions)}: {detail}" for detail, positions in merged.items())


def findings_text(findings: Iterable[Finding]) -> str:
    """What one check found, equal findings of several nodes once."""
    findings = list(findings)
    whole = [each.detail for each in findings if each.position is None]
    nodes = nodes_text((each.position, each.detail) for each in findings if each.position is not None)
    return "; ".join([*whole, *([nodes] if nodes else [])])


def refusal_texts(plan: FlashPlan) -> dict[Check, str]:
    """Each check that refuses, with what it found."""
    return _by_check(plan.refusals)


def _by_check(findings: Sequence[Finding]) -> dict[Check, str]:
    checks = dict.fromkeys(each.check for each in findings)
    return {check: findings_text(each for each in findings if each.check is check) for check in checks}


IMAGE_DIGITS = 16
"""Hexadecimal digits of an image's digest that people compare."""


def word(name: str) -> str:
    """The name of an enumeration's member in plain words."""
    return name.lower().replace("_", " ")


def capabilities(node: NodeDescription) -> str:
    """What a node supports beside the basic protocol."""
    return ", ".join(word(str(each.name)) for each in Capability if each in node.capabilities and each) or "-"


def node_lines(nodes: Sequence[NodeDescription]) -> list[str]:
    """The table of `bmsota nodes`. What is the same for all nodes is printed once below it, so that the table fits more screens."""
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
        heads += ["supports", "protocol"]
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
        lines.append("serial numbers equal the hardware ids")
    images: dict[str, list[int]] = {}
    for node in nodes:
        if node.image_sha256 is not None:
            images.setdefault(node.image_sha256.hex()[:IMAGE_DIGITS], []).append(node.position)
    if images:
        lines.append("images (SHA-256): " + "; ".join(f"{node_words(at)} {digits}" for digits, at in images.items()))
    if len(abilities) == 1:
        ((features, version),) = abilities
        lines.append(f"{node_words(node.position for node in nodes)}: supports {features}; protocol {version}")
    return lines


def plan_lines(plan: FlashPlan, rate_bytes_per_s: float | None) -> list[str]:
    """What would happen, node by node, and what was checked."""
    source = plan.source
    kind = "image" if source.manifest is None else "release"
    lines = [f"{kind} {source.name}"]
    if plan.nodes:
        rows = [_PLAN_HEADS, *(_plan_row(node) for node in plan.nodes)]
        lines += columns(rows)
    size = sum(node.size_bytes for node in plan.nodes)
    if size and plan.expected_s is not None and rate_bytes_per_s:
        lines.append(
            f"total {size} bytes, at most about {plan.expected_s:.1f} s at the wire's {rate_bytes_per_s / _KILO:.1f} kB/s"
        )
    elif size:
        lines.append(f"total {size} bytes; give the bit rate (-b) for an estimate")
    passed = {each.check for each in plan.all_findings if each.verdict is Verdict.PASSED}
    others = {each.check for each in plan.all_findings if each.verdict is not Verdict.PASSED}
    if passed - others:
        lines.append(f"checked: {', '.join(sorted(passed - others))}")
    for each in plan.all_findings:
        if each.verdict is Verdict.UNKNOWN:
            option = f" ({OPTION_OF_CHECK[each.check]})" if each.check in OPTION_OF_CHECK else ""
            lines.append(f"not checked: {each}{option}")
    lines += [f"forced: {check.value}: {text}" for check, text in _by_check(plan.forced).items()]
    return lines


def question(plan: FlashPlan) -> str:
    """The question before anything is written: "flash 3 nodes, confirm 1 node?"."""
    counts = [(action.value, len(plan.with_action(action))) for action in _QUESTIONS]
    return ", ".join(f"{verb} {counted(count, 'node')}" for verb, count in counts if count) + "?"


def _plan_row(node: NodePlan) -> tuple[str, ...]:
    action = node.action.value
    if node.must_revert:
        action = "revert, flash"
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
        # An image that was sent compressed, or a bus without a real bit rate.
        return f"{rate / _KILO:.1f} kB/s, unpacked"
    return f"{rate / _KILO:.1f} of {ceiling_bytes_per_s / _KILO:.1f} kB/s, {100 * rate / ceiling_bytes_per_s:.0f} %"


def status_sentence(status: TargetStatus, plan: NodePlan) -> str:
    """The state of a node, in words."""
    old, new = plan.from_version or "no image", plan.to_version
    return {
        TargetStatus.NOT_ASKED: "was not queried at the end; its state is unknown",
        TargetStatus.SILENT: "does not answer; its state is unknown",
        TargetStatus.NO_IMAGE: "is in its bootloader, without a running image",
        TargetStatus.OLD: f"runs {old}",
        TargetStatus.OLD_PARTLY_STAGED: f"runs {old}; a part of {new} is stored, and the next run sends the rest",
        TargetStatus.OLD_STAGED: f"runs {old}; {new} is stored and verified, and the next run does not send it again",
        TargetStatus.OLD_PENDING: f"runs {old}; {new} is pending and starts at the next restart",
        TargetStatus.NEW_TEST: f"runs {new} in test; the next restart reverts it unless it is confirmed",
        TargetStatus.NEW_REVERTED: f"runs {new}, which is reverted; the next restart runs another image",
        TargetStatus.NEW_CONFIRMED: f"runs {new}, confirmed; its security counter is not raised yet",
        TargetStatus.NEW: f"runs {new}, confirmed",
    }[status]


def report_line(report: NodeFlashReport, ceiling_bytes_per_s: float | None) -> str:
    """One node at the end."""
    plan = report.plan
    head = f"node {plan.position} ({plan.node.role.name.lower()}): {status_sentence(report.status, plan)}"
    rate = rate_sentence(report.sent_bytes, report.transfer_ns / 1e9, ceiling_bytes_per_s)
    notes = [f"{report.sent_bytes} bytes in {report.transfer_ns / 1e9:.1f} s ({rate})"] if rate else []
    if report.resumed_from:
        notes.append(f"{report.resumed_from} bytes were already stored")
    if report.frames_repeated:
        notes.append(f"{counted(report.frames_repeated, 'frame')} resent")
    if report.interruptions:
        notes.append(counted(report.interruptions, "interruption"))
    return "; ".join([head, *([", ".join(notes)] if notes else [])])
