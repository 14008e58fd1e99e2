"""Plans, nodes and results in words and tables, for the commands that flash."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from bmsota._words import counted
from bmsota.cli.fault_table import OPTION_OF_CHECK
from bmsota.flashing import Action, TargetStatus, Verdict, class_text, node_words
from bmsota.node import FAILURES, Capability

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence
    from uuid import UUID

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
    "stream_lines",
]

_PLAN_HEADS = ("node", "role", "hwid", "from", "to", "action", "bytes", "about")
_KILO = 1000
_QUESTIONS = (Action.FLASH, Action.CONFIRM, Action.RAISE_COUNTER)
_PLACE = re.compile(r"node \d+(?: \([^)]*\))?(?:: | )")
"""Which node a detail is about; the table above has its hardware id."""


def columns(rows: Sequence[Sequence[str]], *, width: int | None = None) -> list[str]:
    """Rows, their heads first, as lines with aligned columns; where a line would not fit *width* columns, each row as words instead."""
    widths = [max(len(row[index]) for row in rows) for index in range(len(rows[0]))]
    lines = ["  ".join(cell.ljust(size) for cell, size in zip(row, widths, strict=True)).rstrip() for row in rows]
    if width is None or max(map(len, lines)) <= width:
        return lines
    heads, *others = rows
    return [
        f"{heads[0]} {row[0]}: " + ", ".join(f"{head} {cell}" for head, cell in zip(heads[1:], row[1:], strict=True))
        for row in others
    ]


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


def node_lines(
    nodes: Sequence[NodeDescription], names: Mapping[UUID, str] | None = None, *, width: int | None = None
) -> list[str]:
    """The table of `bmsota nodes`. What is the same for all nodes is printed once below it, so that the table fits more screens.

    *names* are those of hardware classes.
    """
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
    lines = columns(rows, width=width)
    if not has_serial:
        lines.append("serial numbers equal the hardware ids")
    classes: dict[UUID, list[int]] = {}
    for node in nodes:
        classes.setdefault(node.class_id, []).append(node.position)
    lines += [
        f"hardware class {class_text(class_id, names or {})}: {node_words(at)}" for class_id, at in classes.items()
    ]
    images: dict[str, list[int]] = {}
    for node in nodes:
        if node.image_sha256 is not None:
            images.setdefault(node.image_sha256.hex()[:IMAGE_DIGITS], []).append(node.position)
    if images:
        lines.append("images (SHA-256): " + "; ".join(f"{node_words(at)} {digits}" for digits, at in images.items()))
    locked = [
        node.position for node in nodes if Capability.SECURITY_ACCESS in node.capabilities and not node.is_unlocked
    ]
    if locked:
        lines.append(f"locked: {node_words(locked)}; flashing needs the access key of the series (--access-key)")
    if len(abilities) == 1:
        ((features, version),) = abilities
        lines.append(f"{node_words(node.position for node in nodes)}: supports {features}; protocol {version}")
    return lines


def plan_lines(plan: FlashPlan, rate_bytes_per_s: float | None, *, width: int | None = None) -> list[str]:
    """What would happen, node by node, and what was checked."""
    source = plan.source
    kind = "image" if source.manifest is None else "release"
    lines = [f"{kind} {source.name}"]
    if plan.nodes:
        rows = [_PLAN_HEADS, *(_plan_row(node) for node in plan.nodes)]
        lines += columns(rows, width=width)
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


def rate_sentence(
    sent_bytes: int, seconds: float, ceiling_bytes_per_s: float | None, *, is_compressed: bool = False
) -> str:
    """As "34.1 of 35.2 kB/s, 97 %"; empty if there is nothing to say.

    Of a compressed transfer the image's bytes are counted, which may be more than the wire can carry: there is no share.
    """
    if not sent_bytes or seconds <= 0:
        return ""
    rate = sent_bytes / seconds
    if is_compressed:
        return f"{rate / _KILO:.1f} kB/s, compressed"
    if ceiling_bytes_per_s is None or rate > ceiling_bytes_per_s:  # A bus without a real bit rate.
        return f"{rate / _KILO:.1f} kB/s"
    return f"{rate / _KILO:.1f} of {ceiling_bytes_per_s / _KILO:.1f} kB/s, {100 * rate / ceiling_bytes_per_s:.0f} %"


def stream_lines(reports: Sequence[NodeFlashReport], ceiling_bytes_per_s: float | None) -> list[str]:
    """How fast each transfer was that several nodes shared: one rate for all of them."""
    shared: dict[tuple[int, ...], list[NodeFlashReport]] = {}
    for report in reports:
        if len(report.stream) > 1:
            shared.setdefault(report.stream, []).append(report)
    lines = []
    for stream, members in shared.items():
        sent, seconds = max(each.sent_bytes for each in members), members[0].stream_ns / 1e9
        is_compressed = any(each.is_compressed for each in members)
        if rate := rate_sentence(sent, seconds, ceiling_bytes_per_s, is_compressed=is_compressed):
            lines.append(f"{node_words(stream)} together: {sent} bytes in {seconds:.1f} s ({rate})")
    return lines


def status_sentence(status: TargetStatus, plan: NodePlan, *, may_continue: bool = True) -> str:
    """The state of a node, in words; unless it *may_continue*, without what the next run would do."""
    old, new = plan.from_version or "no image", plan.to_version
    if status is TargetStatus.OLD_PARTLY_STAGED and not may_continue:
        return f"runs {old}; a part of {new} is stored"
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
    cause = None if report.failure is None else report.failure.cause
    may_continue = cause is None or not FAILURES[cause].permanent
    sentence = status_sentence(report.status, plan, may_continue=may_continue)
    head = f"node {plan.position} ({plan.node.role.name.lower()}): {sentence}"
    rate = rate_sentence(
        report.sent_bytes, report.transfer_ns / 1e9, ceiling_bytes_per_s, is_compressed=report.is_compressed
    )
    if len(report.stream) > 1:
        rate = ""  # The line of the shared transfer has it.
    notes = [f"{report.sent_bytes} bytes in {report.transfer_ns / 1e9:.1f} s ({rate})"] if rate else []
    if report.resumed_from:
        notes.append(f"{report.resumed_from} bytes were already stored")
    if report.frames_repeated:
        notes.append(f"{counted(report.frames_repeated, 'frame')} resent")
    if report.interruptions:
        notes.append(counted(report.interruptions, "interruption"))
    return "; ".join([head, *([", ".join(notes)] if notes else [])])
