"""`junit.xml`: a case for each expectation, each fault that no expectation names, and each group."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING
from xml.etree import ElementTree as ET

from bmsota_sim.run.base import NS_PER_S

if TYPE_CHECKING:
    from bmsota_sim.run.judged import Result

__all__ = ["junit_xml"]

# What XML 1.0 cannot carry, escaped or not.
_FORBIDDEN = re.compile("[^\t\n\r\u0020-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")


def junit_xml(result: Result, *, name: str, replay: str, no_verdict: str = "") -> str:
    """As text. *replay*: the command that runs it again; *no_verdict*: why the run says nothing, if it does."""
    failed = sum(case.passed is False for case in result.cases)
    skipped = sum(case.passed is None for case in result.cases)
    suite = ET.Element(
        "testsuite",
        name=_text(name),
        tests=str(len(result.cases) + bool(no_verdict)),
        failures=str(failed),
        errors=str(int(bool(no_verdict))),
        skipped=str(skipped),
        time=f"{result.ran_ns / NS_PER_S:.3f}",
    )
    for case in result.cases:
        element = ET.SubElement(suite, "testcase", classname=_text(name), name=_text(case.name))
        if case.passed is None:
            ET.SubElement(element, "skipped", message=_text(case.got))
        elif not case.passed:
            message = f"expected {case.expected}, got {case.got}"
            failure = ET.SubElement(element, "failure", message=_text(message))
            failure.text = _text("\n".join([message, *case.failing, f"replay: {replay}"]))
    if no_verdict:
        element = ET.SubElement(suite, "testcase", classname=_text(name), name="a verdict")
        ET.SubElement(element, "error", message=_text(no_verdict))
    ET.indent(suite)
    return '<?xml version="1.0" encoding="utf-8"?>\n' + ET.tostring(suite, encoding="unicode") + "\n"


def _text(text: str) -> str:
    return _FORBIDDEN.sub("?", text)
