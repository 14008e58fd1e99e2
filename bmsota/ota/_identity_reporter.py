"""When a unit signs and sends its identity report: at the first login after anything in it has changed, and not at each one.

One record of the boot store keeps the counter and the digest of what the platform has acknowledged. The counter is written
before a document with it exists, so no two documents share one; it is never below the time, so that a unit whose flash was
replaced goes on above its earlier numbers. A report that is not acknowledged is sent again, as the same document, after the
next login, and signed anew after a power cycle.

A unit without a clock whose flash was replaced begins at 1, which the platform refuses as a replay. Therefore one that was
refused is signed anew, once a power-on, under a thousand times its number: after four of them it is above any time. Whoever
says "refused" without being the platform makes a unit skip numbers, up to `COUNTER_SKIP_MAX`, and nothing else.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from bmsota.errors import RecordError
from bmsota.ota._identity import IdentityReport, ReportedUpgrade, content_digests, sign_identity
from bmsota.ota._records import RecordFormat, StoredRecord
from bmsota.ota._rules import DIGEST_SIZE_BYTES, expect, expect_integer

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

    from bmsota.ota._identity import IdentifiedNode
    from bmsota.ota._local_upgrades import NodeUpgrade
    from bmsota.ota._records import RecordStore


SECOND = 1_000_000_000

IDENTITY_RECORD: Final = "identity-report"
"""The application record of the boot store."""

# Beyond any time in seconds.
COUNTER_SKIP_MAX: Final = 2**40


def _check(found: Mapping[str, Any]) -> None:
    expect_integer("counter", found["counter"])
    for name in ("nodes", "upgrades"):
        is_digest = isinstance(found[name], bytes) and len(found[name]) in {0, DIGEST_SIZE_BYTES}
        expect(is_digest, name, f"{DIGEST_SIZE_BYTES} bytes or none", repr(found[name]))


IDENTITY_FORMAT: Final = RecordFormat(
    title="record of identity reports", layout=0, names=("counter", "nodes", "upgrades"), check=_check, older={}
)


class IdentityReporter:
    """Signs identity reports and remembers what the platform has. Make it at each power-on.

    After an exception of the flash driver (a power cut) the object is worthless: create a new one on a new store.
    """

    def __init__(self, store: RecordStore, *, vin: str, device_key: Ed25519PrivateKey) -> None:
        self._vin = vin
        self._device_key = device_key
        self._record = StoredRecord(store, IDENTITY_RECORD, IDENTITY_FORMAT)
        self._counter = 0
        self._acknowledged = (b"", b"")
        """Digests of the nodes and of the local upgrades that the platform has."""
        self._document = b""
        self._digests = (b"", b"")
        """Those of the document."""
        self._is_sent = False
        self._is_held = False
        self._has_told = False
        """The platform has a document of this power-on."""
        self._skip: int | None = 0
        """The next number at least, because the last one was refused; None: one was skipped since the power-on."""
        self.problem = ""
        """What the log must say: the record could not be read. Empty if nothing."""
        try:
            found = self._record.load()
        except RecordError as problem:
            self.problem = f"{problem}; the identity report is sent again"
        else:
            if found is not None:
                self._counter, self._acknowledged = found["counter"], (found["nodes"], found["upgrades"])

    def logged_in(self) -> None:
        """The cloud link is up again: what was not delivered may be tried once more."""
        self._is_held = False

    def take(
        self,
        nodes: Sequence[IdentifiedNode],
        upgrades: Sequence[NodeUpgrade],
        now_ns: int,
        *,
        mixed_pack: str = "",
        sequence: int = 0,
    ) -> bytes | None:
        """The document to send now; None if the platform has all of it, or one is under way.

        Args:
            nodes: the master and every slave that answers, by rising position.
            upgrades: local upgrades that the platform has not acknowledged.
            now_ns: by the unit's clock.
            mixed_pack: how the nodes do not belong together, if they do not; such a pack is told of at each power-on.
            sequence: of the newest order that the unit has accepted. That it has risen is no news by itself.

        Raises:
            LocalProtocolError: the journal has no room for the counter.
        """
        if self._is_sent or self._is_held:
            return None
        report = IdentityReport(
            vin=self._vin,
            hwid=nodes[0].hwid,
            counter=max(self._counter + 1, now_ns // SECOND, self._skip or 0),
            time_s=now_ns // SECOND,
            nodes=tuple(nodes),
            upgrades=tuple(_reported(upgrade) for upgrade in upgrades),
            mixed_pack=mixed_pack,
            sequence=sequence,
        )
        digests = content_digests(report)
        # That there are no local upgrades any more is no news: the platform has acknowledged them.
        is_known = digests[0] == self._acknowledged[0] and (not upgrades or digests[1] == self._acknowledged[1])
        if is_known and (not mixed_pack or self._has_told):
            return None
        if digests != self._digests:
            self._counter = report.counter
            if self._skip:
                self._skip = None
            self._save()
            self._document, self._digests = sign_identity(report, self._device_key), digests
        self._is_sent = True
        return self._document

    def acknowledged(self) -> None:
        """The platform has what `take` gave out."""
        if self._is_sent:
            self._is_sent = False
            self._has_told = True
            self._acknowledged = self._digests
            self._save()

    def undelivered(self, *, is_refused: bool = False) -> None:
        """The platform did not answer: it is sent again after the next login; signed anew, if the platform has refused it."""
        self._is_sent = False
        self._is_held = True
        if is_refused and self._skip == 0:
            self._skip = min(1000 * self._counter, COUNTER_SKIP_MAX)
            self._document, self._digests = b"", (b"", b"")

    def _save(self) -> None:
        nodes, upgrades = self._acknowledged
        self._record.save({"counter": self._counter, "nodes": nodes, "upgrades": upgrades})


def _reported(upgrade: NodeUpgrade) -> ReportedUpgrade:
    return ReportedUpgrade(
        at_s=upgrade.at_s,
        position=upgrade.position,
        hwid=upgrade.hwid,
        version_before=upgrade.version_before,
        version_after=upgrade.version_after,
        outcome=upgrade.outcome,
        sha256_before=upgrade.sha256_before,
        sha256_after=upgrade.sha256_after,
    )
