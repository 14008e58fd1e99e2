"""The platform's side of the device API: a unit proves its identity, then fetches what was ordered for it and nothing else.

A challenge works once and for a minute; the session it opens belongs to one HWID, its token is stored as a digest only.
Manifests and images are given out only to a unit with an open order that names them: a stolen session reads one release.
"""

from __future__ import annotations

from base64 import urlsafe_b64encode
from dataclasses import replace
from datetime import timedelta
from hashlib import sha256
from typing import TYPE_CHECKING

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

from bmsota.ota import device_api
from bmsota_cloud.domain.device import Challenge, DeviceSession
from bmsota_cloud.domain.errors import ConflictError, LoginError
from bmsota_cloud.domain.ota_tasks import OPEN_STATUSES, VehicleStatus, VehicleUpgrade, needs_instruction
from bmsota_cloud.services.audit import note
from bmsota_cloud.services.transitions import give_order, move, publish_task, publish_upgrade

if TYPE_CHECKING:
    from datetime import datetime

    from bmsota_cloud.domain.releases import Release
    from bmsota_cloud.services.context import Context
    from bmsota_cloud.storage.base import Work

__all__ = ["DeviceService"]

# A unit needs one; a few more, so that a stranger who requests them in its name can't lock it out.
_CHALLENGES_MAX = 4

# An order about to expire could expire while the unit works on it: it is signed again when less than this is left.
_ORDER_LEFT_S_MIN = 3600


class DeviceService:
    """One method per endpoint. Tokens are those of `open_session`.

    Raises, everywhere: LoginError when the token opens no session (the unit then begins again with a challenge).
    """

    def __init__(self, context: Context) -> None:
        self._context = context

    def challenge(self, hwid: str, now: datetime) -> Challenge:
        """A fresh challenge for a registered unit.

        Raises:
            LoginError: no vehicle has this HWID as its master's.
        """
        issued = Challenge(
            hwid=hwid,
            challenge=self._context.draw(device_api.CHALLENGE_SIZE_BYTES),
            issued_at=now,
            expires_at=now + timedelta(seconds=self._context.settings.challenge_valid_s),
        )
        with self._context.store.transaction() as work:
            if work.vehicles.by_hwid(hwid) is None:
                raise LoginError("unknown-hwid", f"no vehicle is registered with HWID {hwid}")
            work.device.add_challenge(issued, keep=_CHALLENGES_MAX)
        return issued

    def open_session(self, request: device_api.SessionRequest, now: datetime) -> tuple[str, datetime]:
        """Token and expiry of a session, for a challenge signed with the unit's key.

        Raises:
            LoginError: the challenge is not one of ours, was used before, is too old, or the signature is wrong.
        """
        refusal: LoginError | None = None
        token = urlsafe_b64encode(self._context.draw(32)).decode().rstrip("=")
        expires_at = now + timedelta(seconds=self._context.settings.device_session_valid_s)
        with self._context.store.transaction() as work:
            # Taken even when it is refused in the end: a challenge is for one answer.
            challenge = work.device.take_challenge(request.hwid, request.challenge)
            vehicle = work.vehicles.by_hwid(request.hwid)
            if challenge is None or vehicle is None:
                refusal = LoginError(
                    "unknown-challenge", "the challenge is unknown or was used before; request a new one"
                )
            elif now >= challenge.expires_at:
                refusal = LoginError("challenge-expired", "the challenge has expired; request a new one")
            elif vehicle.device_public_key is None:
                refusal = LoginError("no-device-key", f"{vehicle.vin} is registered without a device key")
            elif not device_api.session_proof_is_valid(
                request, Ed25519PublicKey.from_public_bytes(vehicle.device_public_key)
            ):
                refusal = LoginError("wrong-signature", "the signature does not match the registered key")
            else:
                work.device.add_session(
                    DeviceSession(
                        token_sha256=sha256(token.encode()).digest(),
                        vin=vehicle.vin,
                        hwid=vehicle.hwid,
                        issued_at=now,
                        expires_at=expires_at,
                    )
                )
            if refusal is not None:
                self._context.counters["device_login_refused"] += 1
                note(
                    work,
                    who=f"unit {request.hwid}",
                    action="device.open_session",
                    subject="device API" if vehicle is None else f"vehicle {vehicle.vin}",
                    outcome=refusal.code,
                    now=now,
                    detail=str(refusal),
                )
        if refusal is not None:
            raise refusal
        return token, expires_at

    def order(self, token: str, now: datetime) -> bytes | None:
        """The unit's signed order, or None if there is nothing to do.

        An order that is over, or nearly, is signed again with the next sequence.
        """
        with self._context.store.transaction() as work:
            session = self._session(work, token, now)
            upgrade = self._open_upgrade(work, session.vin)
            if upgrade is None:
                return None
            upgrade = replace(upgrade, heard_at=now)
            assert upgrade.order_expires_at is not None  # set with the order, at the approval
            if upgrade.order_expires_at - now < timedelta(seconds=_ORDER_LEFT_S_MIN):
                upgrade = self._renew(work, upgrade, now)
            if upgrade.status is VehicleStatus.APPROVED:
                upgrade = move(work, upgrade, VehicleStatus.TO_BE_DOWNLOADED, now=now)
            else:
                work.ota_tasks.save_upgrade(upgrade)
        publish_upgrade(self._context, upgrade, now)
        return upgrade.order_document

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
                upgrade = move(work, upgrade, VehicleStatus.REJECTED, now=now, reason=reason)
            else:
                upgrade = replace(upgrade, confirmed_at=upgrade.confirmed_at or now)
                if upgrade.status is VehicleStatus.APPROVED:
                    upgrade = move(work, upgrade, VehicleStatus.TO_BE_DOWNLOADED, now=now)
                else:
                    work.ota_tasks.save_upgrade(upgrade)
        publish_upgrade(self._context, upgrade, now)
        if upgrade.status not in OPEN_STATUSES:
            publish_task(self._context, upgrade.task_id)

    # -- inside --------------------------------------------------------------------------------------------------------

    def _session(self, work: Work, token: str, now: datetime) -> DeviceSession:
        session = work.device.session(sha256(token.encode()).digest())
        if session is None or now >= session.expires_at:
            raise LoginError("no-session", "the session is unknown or has expired; open a new one")
        return session

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

    def _renew(self, work: Work, upgrade: VehicleUpgrade, now: datetime) -> VehicleUpgrade:
        # A unit that has the release staged needs no order any more, and one that is expired can't be signed again.
        task = work.ota_tasks.get(upgrade.task_id)
        vehicle = work.vehicles.get(upgrade.vin, lock=True)
        release = work.releases.get(upgrade.release_id)
        assert task is not None  # foreign keys
        assert vehicle is not None
        assert release is not None
        if not needs_instruction(upgrade) or release.expires_at - now < timedelta(seconds=_ORDER_LEFT_S_MIN):
            return upgrade
        return give_order(self._context, work, task=task, upgrade=upgrade, vehicle=vehicle, release=release, now=now)
