"""The platform's side of the device API: a unit proves its identity, then fetches what was ordered for it and nothing else.

A challenge works once and for a minute. Nothing of it is stored: it holds its own expiry and the platform's signature over it
and the HWID, so no number of requests costs a write, and none displaces another unit's. Only one that has opened a session is
remembered until it expires. A challenge is given for every HWID, and a wrong answer is refused in the same words whether the
HWID is registered or not: the device API tells nobody which are.

What the unit signs names the origin it talks to, which must be one of ours: whoever passes the proof of a unit on, which
believed him to be its platform, has another one. The session belongs to one HWID, its token is stored as a digest only.
Manifests and images are given out only to a unit with an open order that names them: a stolen session reads one release.
"""

from __future__ import annotations

import hmac
from base64 import urlsafe_b64encode
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from hashlib import sha256
from typing import TYPE_CHECKING

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey

from bmsota.errors import ConfigurationError, TrustError
from bmsota.ota import SEQUENCE_AHEAD_MAX, device_api, verify_order
from bmsota_cloud.domain.device import Challenge, DeviceSession
from bmsota_cloud.domain.errors import ConflictError, LoginError
from bmsota_cloud.domain.evidence import Source
from bmsota_cloud.domain.limits import address_groups
from bmsota_cloud.domain.ota_tasks import OPEN_STATUSES, VehicleStatus, VehicleUpgrade
from bmsota_cloud.services.audit import note
from bmsota_cloud.services.limits import DEVICE_ADDRESS, DEVICE_NOTED, DEVICE_SESSIONS, Counted
from bmsota_cloud.services.link_watch import Oddity
from bmsota_cloud.services.platform_secret import PlatformSecret
from bmsota_cloud.services.transitions import move, publish_task, publish_upgrade, sign_next_order
from bmsota_cloud.services.unit_documents import with_sequence

if TYPE_CHECKING:
    from bmsota_cloud.domain.ota_tasks import OtaTask
    from bmsota_cloud.domain.releases import Release
    from bmsota_cloud.domain.vehicles import Vehicle
    from bmsota_cloud.services.context import Context
    from bmsota_cloud.services.limits import RateLimits
    from bmsota_cloud.services.link_watch import LinkWatch
    from bmsota_cloud.services.transitions import SignedOrder
    from bmsota_cloud.storage.base import Work

__all__ = ["DeviceService"]

_TIME_SIZE_BYTES, _NONCE_SIZE_BYTES = 6, 10
# What is left of the 32 bytes: 128 bits that nobody guesses.
_MAC_SIZE_BYTES = device_api.CHALLENGE_SIZE_BYTES - _TIME_SIZE_BYTES - _NONCE_SIZE_BYTES
# Clocks of several processes may differ by this much. A challenge that is good for longer than it ever could be was made by
# a clock that was ahead; it is as expired.
_CLOCKS_APART_S = 5

# Stands for the key of a unit that is not registered, so that its proof is checked as any other; the answer is no either way.
_NOBODYS_KEY = Ed25519PrivateKey.from_private_bytes(sha256(b"bmsota: no such unit").digest()).public_key()

# While a unit downloads, the platform notes at this interval that it was heard.
_HEARD_EVERY = timedelta(minutes=1)

# An order about to expire could expire while the unit works on it: it is signed again when less than this is left.
_ORDER_LEFT_S_MIN = 3600
_ORDER_OVER = "the order is over and cannot be renewed: its release expires, or another unit is in the vehicle"


class DeviceService:
    """One method per endpoint. Tokens are those of `open_session`.

    Raises, everywhere: LoginError when the token opens no session (the unit then begins again with a challenge).
    """

    def __init__(self, context: Context, limits: RateLimits, watch: LinkWatch) -> None:
        self._context = context
        self._watch = watch
        self._limits = limits
        self._secret = PlatformSecret(context, "device-challenge-key")
        settings = context.settings
        try:
            urls = (settings.device_url, *settings.device_url_aliases)
            self._origins = frozenset(device_api.origin_of(url) for url in urls)
        except ValueError as error:
            raise ConfigurationError(f"URL of the device API: {error}") from error

    def challenge(self, hwid: str, now: datetime, address: str = "") -> Challenge:
        """A fresh challenge for this HWID, whether a unit has it or not.

        Raises:
            RateLimitedError: too many requests from this address.
        """
        self._admit(address, now)
        expires_at = now + timedelta(seconds=self._context.settings.challenge_valid_s)
        content = int(expires_at.timestamp() * 1000).to_bytes(_TIME_SIZE_BYTES, "big")
        content += self._context.draw(_NONCE_SIZE_BYTES)
        return Challenge(hwid=hwid, challenge=content + self._mac(hwid, content), expires_at=expires_at)

    def open_session(
        self, request: device_api.SessionRequest, now: datetime, address: str = ""
    ) -> tuple[str, datetime]:
        """Token and expiry of a session, for a challenge signed with the unit's key.

        Raises:
            LoginError: the challenge is not one of ours, was used before, is too old, or the signature is wrong or for
                another origin.
            RateLimitedError: too many requests from this address, or too many sessions of this unit.
        """
        self._admit(address, now)
        challenge = self._check_challenge(request, now)
        with self._context.store.reading() as work:
            vehicle = work.vehicles.by_hwid(request.hwid)
        key = _NOBODYS_KEY
        if vehicle is not None and vehicle.device_public_key:
            key = Ed25519PublicKey.from_public_bytes(vehicle.device_public_key)
        # Checked for a unit that is not registered too: the answer takes as long.
        if not device_api.session_proof_is_valid(request, key) or vehicle is None or key is _NOBODYS_KEY:
            raise self._refused(
                request, vehicle, "wrong-signature", "the signature does not match the registered key", now, address
            )
        if not request.origin and not self._context.settings.accepts_proof_without_origin:
            text = "the proof names no origin; update the firmware of this unit on the bench"
            raise self._refused(request, vehicle, "no-origin", text, now, address)
        if request.origin and request.origin not in self._origins:
            text = f"origin: expected {' or '.join(sorted(self._origins))}, got {request.origin}"
            raise self._refused(request, vehicle, "wrong-origin", text, now, address)
        by_unit = Counted(DEVICE_SESSIONS, (vehicle.hwid,))
        if self._limits.take((by_unit,), now) is not None:
            raise self._limits.refuse(by_unit, now, code="too-many-sessions", what="too many sessions of this unit")
        token = urlsafe_b64encode(self._context.draw(32)).decode().rstrip("=")
        expires_at = now + timedelta(seconds=self._context.settings.device_session_valid_s)
        with self._context.store.transaction() as work:
            is_first = work.device.spend_challenge(challenge.challenge, challenge.expires_at)
            if is_first:
                work.device.add_session(
                    DeviceSession(
                        token_sha256=sha256(token.encode()).digest(),
                        vin=vehicle.vin,
                        hwid=vehicle.hwid,
                        issued_at=now,
                        expires_at=expires_at,
                    )
                )
        if not is_first:
            text = "the challenge was used before; request a new one"
            raise self._refused(request, vehicle, "unknown-challenge", text, now, address)
        return token, expires_at

    def check_session(self, token: str, now: datetime) -> None:
        """Raise LoginError unless the token opens a session; for a request whose body has not been read yet."""
        with self._context.store.reading() as work:
            self._session(work, token, now)

    def order(self, token: str, now: datetime) -> bytes | None:
        """The unit's signed order, or None if there is nothing to do.

        An order that is over, or nearly, is signed again with the next sequence. So is one that the unit would take for a
        replay, because it has seen a higher one (`with_sequence`). One that is over and cannot be signed again times the vehicle
        out.
        """
        with self._context.store.reading() as work:
            found = work.device.session(sha256(token.encode()).digest())
            renewal = None if found is None else self._renewal(work, found.vin, now)
        signed = None if renewal is None else renewal.sign(self._context, now)
        with self._context.store.transaction() as work:
            session = self._session(work, token, now)
            # First, as a signed report locks it.
            work.vehicles.get(session.vin, lock=True)
            upgrade = self._open_upgrade(work, session.vin)
            if upgrade is None:
                return None
            current = self._renewal(work, session.vin, now)
            if current is not None:
                if signed is None or current != renewal:
                    # It has changed in the milliseconds since: too rare to begin again, so it is signed here.
                    signed = current.sign(self._context, now)
                work.vehicles.save_sequences({session.vin: signed.sequence})
                upgrade = signed.put_into(upgrade)
            upgrade = replace(upgrade, heard_at=now)
            assert upgrade.order_expires_at is not None  # set with the order, at the approval
            is_over = upgrade.order_expires_at <= now
            if is_over:
                # The unit can do nothing with it, and would ask for another for ever.
                upgrade = move(
                    work, upgrade, VehicleStatus.TIMED_OUT, now=now, reason=_ORDER_OVER, source=Source.PLATFORM
                )
            elif upgrade.status is VehicleStatus.APPROVED:
                upgrade = move(work, upgrade, VehicleStatus.TO_BE_DOWNLOADED, now=now, source=Source.DEVICE_API)
            else:
                work.ota_tasks.save_upgrade(upgrade)
        publish_upgrade(self._context, upgrade, now)
        if is_over:
            publish_task(self._context, upgrade.task_id)
            return None
        return upgrade.order_document

    def refuse_order(self, token: str, refusal: device_api.OrderRefusal, now: datetime) -> bytes | None:
        """The unit does not believe the order it was given; another one for it, or None.

        If it has accepted a higher sequence, the platform has forgotten orders (it was restored from a backup): the order is
        signed again above that, for the same approval. Every other refusal of the very document that was given ends the
        vehicle as rejected. A document that was never given was changed on its way, which ends nothing.
        """
        with self._context.store.transaction() as work:
            session = self._session(work, token, now)
            # First, as a signed report locks it.
            vehicle = work.vehicles.get(session.vin, lock=True)
            upgrade = self._open_upgrade(work, session.vin)
            if upgrade is None or vehicle is None:
                return None
            upgrade = replace(upgrade, heard_at=now)
            is_ours = sha256(upgrade.order_document).digest() == refusal.order_sha256
            known = upgrade.sequence
            if not is_ours:
                upgrade = replace(upgrade, stage=f"refused an order that the platform has not given: {refusal.reason}")
            elif known <= refusal.sequence < known + SEQUENCE_AHEAD_MAX:
                work.vehicles.save(with_sequence(vehicle, refusal.sequence))
                renewal = self._renewal(work, session.vin, now, is_asked=True)
                if renewal is not None:
                    signed = renewal.sign(self._context, now)
                    work.vehicles.save_sequences({session.vin: signed.sequence})
                    upgrade = signed.put_into(upgrade)
            is_renewed = upgrade.sequence > known
            if is_renewed or not is_ours:
                work.ota_tasks.save_upgrade(upgrade)
            else:
                upgrade = move(
                    work, upgrade, VehicleStatus.REJECTED, now=now, reason=refusal.reason, source=Source.DEVICE_API
                )
            note(
                work,
                who=f"unit {session.hwid}",
                action="device.refuse_order",
                subject=f"task {upgrade.task_id}",
                outcome="signed-again" if is_renewed else str(upgrade.status),
                now=now,
                detail=f"{upgrade.order_id}: {refusal.reason}; the unit has accepted sequence {refusal.sequence}",
            )
        publish_upgrade(self._context, upgrade, now)
        if upgrade.status not in OPEN_STATUSES:
            publish_task(self._context, upgrade.task_id)
        return upgrade.order_document if is_renewed else None

    def vin_of(self, token: str, now: datetime) -> str:
        """The vehicle whose unit has opened the session."""
        with self._context.store.reading() as work:
            return self._session(work, token, now).vin

    def manifest(self, token: str, manifest_sha256: str, now: datetime) -> bytes | None:
        """The signed manifest that the unit's order names; None for every other."""
        with self._context.store.reading() as work:
            release = self._ordered_release(work, token, now)
            if release is None or release.manifest_sha256 != manifest_sha256:
                return None
            return work.releases.manifest(manifest_sha256)

    def image(self, token: str, image_sha256: str, now: datetime) -> bytes | None:
        """An image of the release that the unit's order names; None for every other."""
        with self._context.store.reading() as work:
            release = self._ordered_release(work, token, now)
            if release is None or all(image.sha256 != image_sha256 for image in release.images):
                return None
            return work.releases.image(image_sha256)

    def image_served(self, token: str, image_sha256: str, now: datetime, *, to_its_end: bool) -> None:
        """Bytes of an image that `image` gave were served, *to_its_end* or only a part before it.

        The unit is downloading, whatever the cloud link says. When every image of the release was served to its end, the
        unit may switch by itself from now on; one that is fetched again shows that it may not yet.
        """
        with self._context.store.transaction() as work:
            upgrade = self._open_upgrade(work, self._session(work, token, now).vin)
            release = None if upgrade is None else work.releases.get(upgrade.release_id)
            if upgrade is None or release is None:
                return
            known = upgrade
            others = tuple(digest for digest in upgrade.images_fetched if digest != image_sha256)
            fetched = tuple(sorted((*others, image_sha256))) if to_its_end else others
            is_complete = {image.sha256 for image in release.images} <= set(fetched)
            if upgrade.status in {VehicleStatus.APPROVED, VehicleStatus.TO_BE_DOWNLOADED}:
                upgrade = move(work, upgrade, VehicleStatus.DOWNLOADING, now=now, source=Source.DEVICE_API)
            upgrade = replace(
                upgrade, images_fetched=fetched, fetched_at=(upgrade.fetched_at or now) if is_complete else None
            )
            is_news = upgrade != known
            if is_news or known.heard_at is None or now - known.heard_at >= _HEARD_EVERY:
                work.ota_tasks.save_upgrade(replace(upgrade, heard_at=now))
        if is_news:
            publish_upgrade(self._context, upgrade, now)

    def confirm(self, token: str, order_id: str, decision: device_api.Decision, reason: str, now: datetime) -> None:
        """The unit has decided about its order.

        Raises:
            ConflictError: this is not the unit's open order (cancelled, ended, or another vehicle's).
        """
        with self._context.store.transaction() as work:
            session = self._session(work, token, now)
            upgrade = self._open_upgrade(work, session.vin)
            if upgrade is None or upgrade.order_id != order_id:
                raise ConflictError("no-such-order", f"{session.vin} has no open order {order_id}")
            upgrade = replace(upgrade, heard_at=now)
            if decision is device_api.Decision.REJECTED:
                upgrade = move(work, upgrade, VehicleStatus.REJECTED, now=now, reason=reason, source=Source.DEVICE_API)
            else:
                upgrade = replace(upgrade, confirmed_at=upgrade.confirmed_at or now)
                if upgrade.status is VehicleStatus.APPROVED:
                    upgrade = move(work, upgrade, VehicleStatus.TO_BE_DOWNLOADED, now=now, source=Source.DEVICE_API)
                else:
                    work.ota_tasks.save_upgrade(upgrade)
        publish_upgrade(self._context, upgrade, now)
        if upgrade.status not in OPEN_STATUSES:
            publish_task(self._context, upgrade.task_id)

    # -- inside --------------------------------------------------------------------------------------------------------

    def _session(self, work: Work, token: str, now: datetime) -> DeviceSession:
        session = work.device.session(sha256(token.encode()).digest())
        # A master that was taken out of the vehicle takes its session with it.
        vehicle = None if session is None else work.vehicles.by_hwid(session.hwid)
        if session is None or vehicle is None or vehicle.vin != session.vin or now >= session.expires_at:
            raise LoginError("no-session", "the session is unknown or has expired; open a new one")
        newest = work.device.newest_session(session.hwid)
        if newest is not None and newest.issued_at > session.issued_at:
            # A unit has one session, and forgets it before it opens the next: somebody else has one of the two.
            detail = f"a session opened {session.issued_at.isoformat()} is in use after one opened later"
            self._watch.note(session.vin, Oddity.OLD_SESSION, detail, now)
        return session

    def _admit(self, address: str, now: datetime) -> None:
        """Count a request of somebody who has not proved anything. Without an address it comes from this process itself."""
        if address:
            by_address = Counted(DEVICE_ADDRESS, (address_groups(address)[0],))
            if self._limits.take((by_address,), now) is not None:
                self._context.counters.add("device_requests_refused")
                raise self._limits.refuse(
                    by_address, now, code="too-many-requests", what="too many requests from your address"
                )

    def _mac(self, hwid: str, content: bytes) -> bytes:
        message = b"device-challenge:" + content + hwid.encode()
        return hmac.digest(self._secret(), message, "sha256")[:_MAC_SIZE_BYTES]

    def _check_challenge(self, request: device_api.SessionRequest, now: datetime) -> Challenge:
        content, mac = request.challenge[:-_MAC_SIZE_BYTES], request.challenge[-_MAC_SIZE_BYTES:]
        if not hmac.compare_digest(mac, self._mac(request.hwid, content)):
            self._context.counters.add("device_login_refused")
            raise LoginError("unknown-challenge", "the challenge is not one of ours for this HWID; request a new one")
        left_s = int.from_bytes(content[:_TIME_SIZE_BYTES], "big") / 1000 - now.timestamp()
        if not 0 < left_s <= self._context.settings.challenge_valid_s + _CLOCKS_APART_S:
            self._context.counters.add("device_login_refused")
            raise LoginError("challenge-expired", "the challenge has expired; request a new one")
        expires_at = datetime.fromtimestamp(int.from_bytes(content[:_TIME_SIZE_BYTES], "big") / 1000, UTC)
        return Challenge(hwid=request.hwid, challenge=request.challenge, expires_at=expires_at)

    def _refused(
        self,
        request: device_api.SessionRequest,
        vehicle: Vehicle | None,
        code: str,
        text: str,
        now: datetime,
        address: str,
    ) -> LoginError:
        """The refusal of a proof, in the audit log too: the first ones from an address, the others are counted."""
        self._context.counters.add("device_login_refused")
        if self._limits.take((Counted(DEVICE_NOTED, (address_groups(address)[0],)),), now) is None:
            with self._context.store.transaction() as work:
                note(
                    work,
                    who=f"unit {request.hwid}",
                    action="device.open_session",
                    subject="device API" if vehicle is None else f"vehicle {vehicle.vin}",
                    outcome=code,
                    now=now,
                    detail=text,
                    address=address,
                )
        return LoginError(code, text)

    @staticmethod
    def _open_upgrade(work: Work, vin: str) -> VehicleUpgrade | None:
        upgrade = work.ota_tasks.open_upgrade(vin)
        if upgrade is None:
            return None
        upgrade = work.ota_tasks.upgrade(upgrade.task_id, upgrade.place, lock=True)
        if upgrade is None or upgrade.status is VehicleStatus.UNAPPROVED:
            return None
        return upgrade

    def _ordered_release(self, work: Work, token: str, now: datetime) -> Release | None:
        upgrade = self._open_upgrade(work, self._session(work, token, now).vin)
        return None if upgrade is None else work.releases.get(upgrade.release_id)

    def _renewal(self, work: Work, vin: str, now: datetime, *, is_asked: bool = False) -> _Renewal | None:
        """What the unit's order is to be signed again from; None if it is good for a while, unless *is_asked*.

        Also for a unit that has the release staged: it does not switch under an order that is over. A release that is over
        can't be ordered again, and no unit but the one that was approved gets an order.
        """
        upgrade = self._open_upgrade(work, vin)
        if upgrade is None:
            return None
        vehicle = work.vehicles.get(vin)
        assert vehicle is not None  # the session would not be open
        assert upgrade.order_expires_at is not None  # set with the order, at the approval
        left = timedelta(seconds=_ORDER_LEFT_S_MIN)
        is_good = upgrade.order_expires_at - now >= left and upgrade.sequence >= vehicle.order_sequence
        if is_good and not is_asked:
            return None
        task = work.ota_tasks.get(upgrade.task_id)
        release = work.releases.get(upgrade.release_id)
        assert task is not None  # foreign keys
        assert release is not None
        if release.expires_at - now < left or self._is_for_another(upgrade.order_document, vehicle.hwid):
            return None
        return _Renewal(task, upgrade, vehicle, release)

    def _is_for_another(self, order_document: bytes, hwid: str) -> bool:
        """Whether the order names another unit than the vehicle has now."""
        try:
            ordered = verify_order(order_document, [self._context.keys.order_signing_key.public_key()])
        except TrustError:
            return False  # Signed with an earlier order key.
        return ordered.hwid != hwid


@dataclass(frozen=True, slots=True)
class _Renewal:
    """All that the next order of a unit is made of."""

    task: OtaTask
    upgrade: VehicleUpgrade
    vehicle: Vehicle
    release: Release

    def sign(self, context: Context, now: datetime) -> SignedOrder:
        return sign_next_order(
            context, task=self.task, upgrade=self.upgrade, vehicle=self.vehicle, release=self.release, now=now
        )
