"""Times that a wrong clock has written."""

from __future__ import annotations

from datetime import timedelta
from typing import TYPE_CHECKING

from sqlalchemy import and_, or_, select, update

from bmsota_cloud.storage import schema as t
from bmsota_cloud.storage.sql._tables import Tables
from bmsota_cloud.storage.sql.ota_tasks import UNDER_WAY

if TYPE_CHECKING:
    from collections.abc import Sequence
    from datetime import datetime

    from sqlalchemy import Update

    from bmsota_cloud.storage.base import TimesAllowed

__all__ = ["SqlTimes"]


class SqlTimes(Tables):
    def mend(
        self, now: datetime, doubted: Sequence[tuple[datetime, datetime]], allowed: TimesAllowed
    ) -> dict[str, int]:
        ahead = now + timedelta(seconds=allowed.ahead_s)
        upgrade, session, device = t.vehicle_upgrade.c, t.login_session.c, t.device_session.c
        code, mail = t.approval_code.c, t.mail.c
        heard_in_doubt = [upgrade.heard_at.between(since, until) for since, until in doubted]
        retry_max = now if any(until > now for _, until in doubted) else ahead + timedelta(seconds=allowed.mail_retry_s)
        steps: tuple[tuple[str, Update], ...] = (
            (
                "upgrades",
                update(t.vehicle_upgrade)
                .where(upgrade.status.in_(UNDER_WAY), or_(upgrade.heard_at > ahead, *heard_in_doubt))
                .values(heard_at=now),
            ),
            (
                "login sessions",
                update(t.login_session)
                .where(session.created_at > ahead)
                .values(created_at=now, last_seen_at=now, expires_at=now + timedelta(seconds=allowed.login_session_s)),
            ),
            ("login sessions", update(t.login_session).where(session.last_seen_at > ahead).values(last_seen_at=now)),
            ("login addresses", update(t.login_address).where(t.login_address.c.last_at > ahead).values(last_at=now)),
            (
                "login addresses",
                update(t.platform_login_address).where(t.platform_login_address.c.last_at > ahead).values(last_at=now),
            ),
            (
                "device sessions",
                update(t.device_session)
                .where(device.issued_at > ahead)
                .values(issued_at=now, expires_at=now + timedelta(seconds=allowed.device_session_s)),
            ),
            (
                "approval codes",
                update(t.approval_code)
                .where(code.issued_at > ahead)
                .values(issued_at=now, expires_at=now + timedelta(seconds=allowed.code_s)),
            ),
            (
                "mails",
                update(t.mail)
                .where(
                    mail.sent_at.is_(None),
                    mail.given_up.is_(False),
                    or_(mail.next_try_at > retry_max, and_(mail.created_at > ahead, mail.next_try_at > now)),
                )
                .values(next_try_at=now),
            ),
            (
                "mails",
                update(t.mail)
                .where(mail.sent_at.is_(None), mail.claimed_until > ahead + timedelta(seconds=allowed.mail_claim_s))
                .values(claimed_until=now),
            ),
            (
                # One that lives writes it again within seconds.
                "gateways",
                update(t.gateway)
                .where(t.gateway.c.lease_until > ahead + timedelta(seconds=allowed.lease_s))
                .values(lease_until=now),
            ),
        )
        found: dict[str, int] = {}
        if limits := self._mend_limits(now, ahead):
            found["limits"] = limits
        for what, statement in steps:
            count = self._connection.execute(statement).rowcount
            if count:
                found[what] = found.get(what, 0) + count
        return found

    def _mend_limits(self, now: datetime, ahead: datetime) -> int:
        """Counters: tries that were counted in the future are counted now. One by one, because date arithmetic differs by dialect."""
        c = t.rate_limit.c
        rows = self._connection.execute(select(c.key, c.free_at, c.counted_at).where(c.counted_at > ahead)).all()
        for row in rows:
            free_at = row.free_at - (row.counted_at - now)
            # Unless somebody has counted meanwhile.
            same = (c.key == row.key) & (c.counted_at == row.counted_at)
            self._connection.execute(update(t.rate_limit).where(same).values(free_at=free_at, counted_at=now))
        return len(rows)
