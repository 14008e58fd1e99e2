"""Templates and the headers of every page.

Live parts are blocks of the page's own template: the page shows them when it is loaded, and the WebSocket sends the
same block again when it has changed. So there is one text for both.
"""

from __future__ import annotations

from functools import cache
from typing import TYPE_CHECKING, Any

from jinja2 import Environment, PackageLoader, StrictUndefined
from starlette.responses import HTMLResponse

from bmsota_cloud.domain.ota_tasks import OPEN_STATUSES, task_key
from bmsota_cloud.domain.refusals import CAUSES
from bmsota_cloud.domain.vehicles import node_name
from bmsota_cloud.pages.history_view import fault_name, node_changes
from bmsota_cloud.pages.times import clock, duration, iso, offset, since, span, to_field, when
from bmsota_cloud.pages.vehicle_sections import vehicle_sections

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

__all__ = ["HEADERS", "Pages"]

HEADERS = {
    "Content-Security-Policy": (
        "default-src 'self'; base-uri 'none'; form-action 'self'; frame-ancestors 'none'; object-src 'none'"
    ),
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "same-origin",
    # A page shows what only this person may see; "back" after logging out must not show it again.
    "Cache-Control": "no-store",
}


@cache
def _environment() -> Environment:
    """The templates of this package; compiled once for all the platforms of a process."""
    environment = Environment(
        loader=PackageLoader("bmsota_cloud.pages"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.globals.update(
        causes=CAUSES,
        fault_name=fault_name,
        node_changes=node_changes,
        node_name=node_name,
        offset=offset,
        open_statuses=OPEN_STATUSES,
        task_key=task_key,
        reply_word=_reply_word,
        options=_options,
        vehicle_sections=vehicle_sections,
    )
    environment.filters.update(
        clock=clock,
        duration=duration,
        iso=iso,
        masked=_masked,
        since=since,
        span=span,
        to_field=to_field,
        when=when,
    )
    # Reachable in blocks that are rendered alone, where a template's own imports are not.
    environment.globals["ui"] = environment.get_template("_macros.html").module
    return environment


class Pages:
    """The templates of this package."""

    def __init__(self, *, image_source: str = "") -> None:
        """*image_source*: from where images may come beside our own: the host of the map's tiles."""
        self._environment = _environment()
        more = {}
        if image_source:
            more["Content-Security-Policy"] = (
                f"{HEADERS['Content-Security-Policy']}; img-src 'self' data: {image_source}"
            )
        self._headers = {**HEADERS, **more}

    def page(self, name: str, context: Mapping[str, Any], *, status_code: int = 200) -> HTMLResponse:
        """A whole document."""
        text = self._environment.get_template(name).render(context)
        return HTMLResponse(text, status_code=status_code, headers=self._headers)

    def part(self, name: str, block: str, context: Mapping[str, Any]) -> HTMLResponse:
        """One block of a document, for a script that puts it into the page."""
        # The same address answers with the whole document to others.
        return HTMLResponse(self.parts(name, [block], context)[block], headers={**self._headers, "Vary": "X-Partial"})

    def several(self, name: str, blocks: Iterable[str], context: Mapping[str, Any]) -> HTMLResponse:
        """Several blocks, one behind the other."""
        parts = self.parts(name, blocks, context)
        return HTMLResponse("\n".join(parts.values()), headers={**self._headers, "Vary": "X-Partial"})

    def parts(self, name: str, blocks: Iterable[str], context: Mapping[str, Any]) -> dict[str, str]:
        """Blocks by name."""
        template = self._environment.get_template(name)
        return {block: "".join(template.blocks[block](template.new_context(dict(context)))).strip() for block in blocks}


def _options(words: Iterable[str]) -> list[tuple[str, str]]:
    """For a select whose values are their own texts."""
    return [(word, word) for word in words]


# Table 4; 0x04 to 0x07 are of 2025.
_REPLY_WORDS = {
    0x01: "success",
    0x02: "error",
    0x03: "VIN repeated",
    0x04: "VIN unknown",
    0x05: "signature wrong",
    0x06: "structure wrong",
    0x07: "decryption failed",
}


def _reply_word(flag: int) -> str:
    return _REPLY_WORDS.get(flag, "reply flag")


def _masked(address: str) -> str:
    """Enough of a mail address to recognise one's own, too little to collect."""
    name, _, host = address.partition("@")
    return f"{name[:1]}…@{host}"
