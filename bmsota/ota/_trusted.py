"""What one unit believes, and why it refuses.

The device's own judgement over documents that are already known to be well signed: is the order for us, fresh and new;
is the manifest the one the order names, not expired, for our hardware, not older than what we have confirmed; is the
image the one the manifest names. Order of the checks and names of the attacks: docs/trust.md.

Strategy: trust can only move forward. `TrustState` holds the highest sequence, the highest confirmed security counter of
every node and the latest time that was ever signed. It is replaced as a whole, by a state that is nowhere behind the old
one, and only after every check has passed; a refusal leaves it as it was, so a good document is accepted after any number
of bad ones. The caller stores the state power-safely (`TrustState.dumps`) before it acts on what was accepted.

Time: a unit's clock may stand at 1970 or jump twenty years. Expiry is therefore judged by the later of the clock and the
latest *signed* time; the clock itself is never stored, so a wrong jump forward is forgotten when the clock is right again.

Fast-forward: the order key is online, and one stolen signature must not lock a unit. A sequence may be at most
`SEQUENCE_AHEAD_MAX` above the last, and the platform learns from the unit how far it is. The signed time moves only when an
order and its release are accepted, to the order's issue time, but to at most `ORDER_TIME_AHEAD_S_MAX` after the release was
made, which the offline key says. So both keys together move it, and the online one alone by a week.

Ends: an order that was carried out or refused is worth nothing any more. One that was withdrawn may be given again: that the
platform had no order to give was an answer without a signature.

Left out so far: rotation of the keys in the field.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, Final

from bmsota.errors import TrustError
from bmsota.image import Attack, ImageRole, verify_image
from bmsota.ota import _cbor
from bmsota.ota._fields import LAYOUT, malformed_as_trust_error, take_fields
from bmsota.ota._manifest import verify_manifest
from bmsota.ota._order import verify_order
from bmsota.ota._rules import (
    DIGEST_SIZE_BYTES,
    expect,
    expect_count,
    expect_hwid,
    expect_integer,
    expect_octets,
    expect_vin,
)

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

    from bmsota.image import FirmwareImage, HardwareClass, PublicKey
    from bmsota.ota._manifest import ReleaseImage, ReleaseManifest
    from bmsota.ota._order import UpgradeOrder


_S: Final = 1_000_000_000

# A platform counts one for every order that it signs for a vehicle, most of which the unit fetches. A million is beyond any
# number of them, and reaching the end of the numbers takes 2**43 steps of that size.
SEQUENCE_AHEAD_MAX: Final = 1_000_000

# A release is ordered within days after it was made, or later; then the signed time lags behind, which only keeps orders
# alive that are older than it.
ORDER_TIME_AHEAD_S_MAX: Final = 7 * 24 * 3600

# The clocks of those who sign may differ by this much.
CLOCKS_APART_S_MAX: Final = 24 * 3600

# A master at position 0 and up to 63 slaves, as in the post-boot report.
POSITION_MAX: Final = 63

# Five fields and 64 counters of at most 7 bytes make about 550; the rest is for fields to come.
STATE_SIZE_BYTES_MAX: Final = 4096

# These keep their names and their meaning in every layout to come: a layout may add to them, and never take away. So a unit
# that must go on with an older firmware forgets nothing of what may only move forward.
_STATE_NAMES: Final = ("sequence", "order_sha256", "order_is_open", "security_counters", "time_s")

# A field that came later. It names its order, so a version that does not know it, and keeps it, cannot make it wrong.
_WITHDRAWN: Final = "withdrawn_sha256"

# Layout 0 had the five fields and no number.
STATE_LAYOUT: Final = 1


@dataclass(frozen=True, slots=True, kw_only=True)
class TrustState:
    """What a unit must remember to be led astray by nothing old. A new unit starts with the defaults."""

    sequence: int = 0
    """Of the newest order accepted."""
    order_sha256: bytes = bytes(DIGEST_SIZE_BYTES)
    """Of that order's document: the same document may be read again while it is open."""
    order_is_open: bool = False
    """Whether that order is still to be carried out."""
    security_counters: tuple[tuple[int, int], ...] = ()
    """(position, counter confirmed there), positions rising."""
    time_s: int = 0
    """The latest time that was signed by a key we trust: it is at least this late."""
    withdrawn_sha256: bytes = b""
    """Of the order that was withdrawn last: it may be accepted once more, unlike one that was carried out or refused."""
    layout: int = field(default=0, compare=False)
    """The layout it was read in."""
    unknown: Mapping[str, Any] = field(default_factory=dict, hash=False)
    """Fields that a later version has added: written back as they were found."""

    def __post_init__(self) -> None:
        expect_integer("sequence", self.sequence)
        expect_octets("order_sha256", self.order_sha256, size_bytes=DIGEST_SIZE_BYTES)
        expect(isinstance(self.order_is_open, bool), "order_is_open", "a truth value", repr(self.order_is_open))
        expect_count("security_counters", self.security_counters, maximum=POSITION_MAX + 1)
        for position, counter in self.security_counters:
            expect_integer("position", position, maximum=POSITION_MAX)
            expect_integer("security counter", counter, maximum=0xFFFF_FFFF)
        positions = [position for position, _ in self.security_counters]
        expect(positions == sorted(set(positions)), "security_counters", "rising positions", positions)
        expect_integer("time_s", self.time_s)
        if self.withdrawn_sha256:
            expect_octets("withdrawn_sha256", self.withdrawn_sha256, size_bytes=DIGEST_SIZE_BYTES)

    def security_counter(self, position: int) -> int:
        """The counter confirmed at *position*; 0 when none ever was."""
        return dict(self.security_counters).get(position, 0)

    @property
    def newer_layout_note(self) -> str:
        """What to write to the log about a state of a newer layout; "" for one we know."""
        if self.layout <= STATE_LAYOUT:
            return ""
        return f"trust state: layout {self.layout} is newer than this version knows ({STATE_LAYOUT}); its lasting fields are used"

    def dumps(self, *, as_found: bool = False) -> bytes:
        """Serialise for storage.

        Args:
            as_found: in the layout it was read in (0 for a new unit), for an image that may still be reverted. A newer
                layout than today's is kept in any case.
        """
        layout = self.layout if as_found else max(self.layout, STATE_LAYOUT)
        values: dict[str, Any] = {**self.unknown, **{name: getattr(self, name) for name in _STATE_NAMES}}
        values["security_counters"] = [list(pair) for pair in self.security_counters]
        if not layout:
            # Its readers know these five fields and refuse any other.
            return _cbor.encode(values)
        if self.withdrawn_sha256:
            values[_WITHDRAWN] = self.withdrawn_sha256
        return _cbor.encode({**values, LAYOUT: layout})

    @classmethod
    def loads(cls, data: bytes) -> TrustState:
        """Parse what `dumps` made, in this version or another. Of a newer layout the lasting fields are read.

        Raises:
            TrustError: `malformed-document`; the storage does not hold such a state. Starting from the defaults would
                forget what must not be forgotten, so that is left to the caller to decide (`load_trust_state`).
        """
        if len(data) > STATE_SIZE_BYTES_MAX:
            raise TrustError(
                Attack.MALFORMED_DOCUMENT, f"trust state: expected <= {STATE_SIZE_BYTES_MAX} bytes, got {len(data)}"
            )
        try:
            value = _cbor.decode(data)
        except _cbor.CborError as error:
            raise TrustError(Attack.MALFORMED_DOCUMENT, f"trust state: {error}") from error
        fields = dict(zip(_STATE_NAMES, take_fields(value, _STATE_NAMES, "trust state"), strict=True))
        with malformed_as_trust_error("trust state"):
            expect_count("security_counters", fields["security_counters"], maximum=POSITION_MAX + 1)
            for pair in fields["security_counters"]:
                expect_count("security_counters", pair, minimum=2, maximum=2)
            fields["security_counters"] = tuple(
                (position, counter) for position, counter in fields["security_counters"]
            )
            layout = value.get(LAYOUT, 0)
            expect_integer(LAYOUT, layout)
            unknown = {name: value[name] for name in value if name not in {*_STATE_NAMES, _WITHDRAWN, LAYOUT}}
            return cls(**fields, withdrawn_sha256=value.get(_WITHDRAWN, b""), layout=layout, unknown=unknown)


class DeviceTrust:
    """The judgement of one unit. Every method either accepts or raises `TrustError` and changes nothing."""

    def __init__(
        self,
        *,
        vin: str,
        hwid: str,
        hardware_classes: Mapping[int, HardwareClass],
        image_keys: Iterable[PublicKey],
        manifest_keys: Iterable[Ed25519PublicKey],
        order_keys: Iterable[Ed25519PublicKey],
        state: TrustState | None = None,
    ) -> None:
        """Begin with what the unit knows of itself.

        Args:
            vin: the vehicle the unit is built into.
            hwid: hardware id of the master.
            hardware_classes: hardware class of every node by position: 0 the master, 1.. the slaves.
            image_keys: who signs firmware images.
            manifest_keys: who signs releases; offline.
            order_keys: who signs orders; online.
            state: from storage, or None for a new unit.

        Raises:
            LocalProtocolError: one of these cannot be.
        """
        expect_vin("vin", vin)
        expect_hwid("hwid", hwid)
        expect(0 in hardware_classes, "hardware_classes", "the master at position 0", sorted(hardware_classes))
        for position in hardware_classes:
            expect_integer("position", position, maximum=POSITION_MAX)
        self._vin = vin
        self._hwid = hwid
        self._hardware_classes = dict(sorted(hardware_classes.items()))
        self._image_keys = tuple(image_keys)
        self._manifest_keys = tuple(manifest_keys)
        self._order_keys = tuple(order_keys)
        self._state = state if state is not None else TrustState()

    @property
    def state(self) -> TrustState:
        """What must be stored before acting on an acceptance."""
        return self._state

    def accept_order(self, data: bytes, now_ns: int) -> UpgradeOrder:
        """Accept a signed order for this unit. The same document is accepted again until `close_order`.

        Its time is believed when its release is known (`accept_manifest`, `check_order_of`).

        Raises:
            TrustError: as `verify_order`; `wrong-vehicle`, `wrong-hardware`, `replay`, `fast-forward` or `freeze`.
        """
        order = self._read_order(data)
        state, digest = self._state, hashlib.sha256(data).digest()
        is_same = digest == state.order_sha256 and (state.order_is_open or digest == state.withdrawn_sha256)
        if order.sequence <= state.sequence and not is_same:
            raise TrustError(Attack.REPLAY, f"expected an order after {state.sequence}, got {order.sequence}")
        if order.sequence > state.sequence + SEQUENCE_AHEAD_MAX:
            raise TrustError(
                Attack.FAST_FORWARD,
                f"expected a sequence of at most {state.sequence + SEQUENCE_AHEAD_MAX}, got {order.sequence}",
            )
        self._check_expiry("order", order.expires_s, now_ns)
        if order.issued_s < state.time_s - CLOCKS_APART_S_MAX:
            # Not expired, and yet older than what was signed and accepted before it.
            raise TrustError(Attack.FREEZE, f"expected an order issued after {state.time_s}, got {order.issued_s}")
        self._state = replace(
            state, sequence=order.sequence, order_sha256=digest, order_is_open=True, withdrawn_sha256=b""
        )
        return order

    def check_order_of(self, order: UpgradeOrder, manifest: ReleaseManifest) -> None:
        """Check the order's times against its release's, which was accepted before, and move the signed time.

        Raises:
            TrustError: `freeze`: the order had ended before the release was made; `fast-forward`: it was issued after the
                release had expired.
        """
        if order.expires_s <= manifest.created_s:
            raise TrustError(
                Attack.FREEZE,
                f"expected an order that ends after its release was made at {manifest.created_s}, got {order.expires_s}",
            )
        if order.issued_s >= manifest.expires_s:
            raise TrustError(
                Attack.FAST_FORWARD,
                f"expected an order issued before its release expires at {manifest.expires_s}, got {order.issued_s}",
            )
        time_s = min(order.issued_s, manifest.created_s + ORDER_TIME_AHEAD_S_MAX)
        self._state = replace(self._state, time_s=max(self._state.time_s, time_s))

    def has_ended(self, data: bytes) -> bool:
        """Whether this document is the order that was accepted last, and it was carried out or refused."""
        state, digest = self._state, hashlib.sha256(data).digest()
        return digest == state.order_sha256 and not state.order_is_open and digest != state.withdrawn_sha256

    def reread_order(self, data: bytes) -> UpgradeOrder:
        """Take back, after a power cut, the open order that was accepted before it. It may have expired since.

        Raises:
            TrustError: as `verify_order`; `wrong-vehicle`, `wrong-hardware`; `replay` when it is not the open order.
        """
        order = self._read_order(data)
        if hashlib.sha256(data).digest() != self._state.order_sha256 or not self._state.order_is_open:
            raise TrustError(Attack.REPLAY, f"expected the open order, got order {order.order_id}")
        return order

    def close_order(self, *, is_withdrawn: bool = False) -> None:
        """The open order was carried out, failed or was refused: its document is worth nothing any more.

        Args:
            is_withdrawn: the platform had it no longer. If it gives the same document again, it is accepted again.
        """
        withdrawn = self._state.order_sha256 if is_withdrawn else b""
        self._state = replace(self._state, order_is_open=False, withdrawn_sha256=withdrawn)

    def accept_manifest(self, data: bytes, order: UpgradeOrder, now_ns: int) -> ReleaseManifest:
        """Accept the release manifest that *order* names.

        Raises:
            TrustError: as `verify_manifest`; `mixed-bundle`, `freeze`, `wrong-hardware`, `rollback` or `fast-forward`.
        """
        manifest = self.reread_manifest(data, order)
        self._check_expiry("manifest", manifest.expires_s, now_ns)
        for position in self._hardware_classes:
            image = self.image_for(manifest, position)
            confirmed = self._state.security_counter(position)
            if image.security_counter < confirmed:
                raise TrustError(
                    Attack.ROLLBACK,
                    f"expected a security counter >= {confirmed}, got {image.security_counter} (position {position})",
                )
        self.check_order_of(order, manifest)
        return manifest

    def reread_manifest(self, data: bytes, order: UpgradeOrder) -> ReleaseManifest:
        """Take back, after a power cut, the manifest that was accepted before it. It may have expired since.

        Raises:
            TrustError: as `verify_manifest`; `mixed-bundle` when *order* names another one, `wrong-hardware`.
        """
        # The signature first: an unsigned manifest is arbitrary software, whatever a stolen order key says of its digest.
        manifest = verify_manifest(data, self._manifest_keys)
        digest = hashlib.sha256(data).digest()
        if digest != order.manifest_sha256:
            raise TrustError(
                Attack.MIXED_BUNDLE, f"expected manifest {order.manifest_sha256.hex()[:16]}, got {digest.hex()[:16]}"
            )
        if manifest.software_version != order.software_version:
            raise TrustError(
                Attack.MIXED_BUNDLE,
                f"expected software {order.software_version}, got {manifest.software_version} (release {manifest.release})",
            )
        for position in self._hardware_classes:
            self.image_for(manifest, position)
        return manifest

    def image_for(self, manifest: ReleaseManifest, position: int) -> ReleaseImage:
        """The image of *manifest* for the node at *position*.

        Raises:
            TrustError: `wrong-hardware`; the release has none, or there is no such node.
        """
        role = ImageRole.MASTER if position == 0 else ImageRole.SLAVE
        hardware_class = self._hardware_classes.get(position)
        image = manifest.image_for(role, hardware_class) if hardware_class is not None else None
        if image is None:
            raise TrustError(
                Attack.WRONG_HARDWARE,
                f"expected an image for {role.name} {hardware_class} (position {position}), got release {manifest.release}"
                " without one",
            )
        return image

    def check_image(self, data: bytes, release_image: ReleaseImage) -> FirmwareImage:
        """Check a whole downloaded image against the manifest's entry, then its own signature and contents.

        Raises:
            TrustError: `endless-data`, `corrupted-data`, `arbitrary-software`, `wrong-hardware` or `mixed-bundle`.
            ImageError: the release's image is no well formed image.
        """
        if len(data) > release_image.size_bytes:
            raise TrustError(
                Attack.ENDLESS_DATA, f"expected {release_image.size_bytes} bytes of image, got {len(data)}"
            )
        if hashlib.sha256(data).digest() != release_image.sha256:
            raise TrustError(
                Attack.CORRUPTED_DATA, f"expected image {release_image.sha256.hex()[:16]}, got {len(data)} other bytes"
            )
        image = verify_image(data, public_keys=self._image_keys)
        if (image.role, image.hardware_class) != (release_image.role, release_image.hardware_class):
            raise TrustError(
                Attack.WRONG_HARDWARE,
                f"expected an image for {release_image.role.name} {release_image.hardware_class}, got one for"
                f" {image.role.name} {image.hardware_class}",
            )
        if (image.version, image.security_counter) != (release_image.version, release_image.security_counter):
            raise TrustError(
                Attack.MIXED_BUNDLE,
                f"expected version {release_image.version} counter {release_image.security_counter}, got version"
                f" {image.version} counter {image.security_counter}",
            )
        return image

    def check_bundle(self, manifest: ReleaseManifest, images: Iterable[FirmwareImage]) -> None:
        """Check the dependencies the images name among each other, for the nodes of this unit.

        Raises:
            TrustError: `mixed-bundle`; an image needs a later version of another role than the release brings.
        """
        for image in images:
            for dependency in image.dependencies:
                for position in self._hardware_classes:
                    other = self.image_for(manifest, position)
                    if other.role is dependency.role and other.version < dependency.version_min:
                        raise TrustError(
                            Attack.MIXED_BUNDLE,
                            f"expected {other.role.name} >= {dependency.version_min} for {image.role.name}"
                            f" {image.version}, got {other.version} (position {position})",
                        )

    def confirmed(self, manifest: ReleaseManifest, positions: Iterable[int] | None = None) -> None:
        """The pack was confirmed on *manifest*: raise the counters. Never before: a roll-back must stay possible.

        Args:
            manifest: the release that runs now.
            positions: the slaves that run it; None: every node. The master always counts.

        Raises:
            TrustError: `wrong-hardware`; a position the release has no image for.
        """
        nodes = self._hardware_classes if positions is None else {0, *positions}
        counters = dict(self._state.security_counters)
        for position in nodes:
            counter = self.image_for(manifest, position).security_counter
            counters[position] = max(counters.get(position, 0), counter)
        self._state = replace(self._state, security_counters=tuple(sorted(counters.items())))

    def _read_order(self, data: bytes) -> UpgradeOrder:
        order = verify_order(data, self._order_keys)
        if order.vin != self._vin:
            raise TrustError(Attack.WRONG_VEHICLE, f"expected an order for {self._vin}, got one for {order.vin}")
        if order.hwid != self._hwid:
            raise TrustError(Attack.WRONG_HARDWARE, f"expected an order for {self._hwid}, got one for {order.hwid}")
        return order

    def _check_expiry(self, what: str, expires_s: int, now_ns: int) -> None:
        now_s = max(now_ns // _S, self._state.time_s)
        if now_s >= expires_s:
            raise TrustError(Attack.FREEZE, f"expected {what} to be valid at {now_s}, got expiry {expires_s}")
