"""Projects, what they deliver, and how their OTA tasks are approved.

A project is the delivery of a battery system for a vehicle type. The customer orders by its number; its class says what it is for.

Two ways (design decision 20)::

    audit mailbox   the code goes to the project's audit mailbox; a person who may start tasks in the project asks the
                    auditor for it and enters it. A person without that right who finds the code is refused.
    named auditor   stricter: the task names an auditor, and only that person's account may enter the code; the
                    creator of the task never.

A task may be stricter than its project, by naming an auditor, and never laxer. In both ways the code never goes to an
address of the task's creator: a mailbox is the same with other capitals, and with another "+tag".
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from enum import StrEnum
from typing import TYPE_CHECKING

from bmsota_cloud.domain.errors import InvalidInputError

if TYPE_CHECKING:
    from datetime import datetime

__all__ = [
    "STARTERS_MAX",
    "ApprovalWay",
    "Project",
    "ProjectClass",
    "check_project_name",
    "check_project_number",
    "is_same_mailbox",
]

# A list that a person reads before changing it.
STARTERS_MAX = 100

_NAME = re.compile(r"[\w .+-]{1,64}")
_NUMBER = re.compile(r"[\w./-]{1,32}")


class ApprovalWay(StrEnum):
    """Who may enter the code of a task."""

    AUDIT_MAILBOX = "audit mailbox"
    """Every account that may start tasks in the project."""
    NAMED_AUDITOR = "named auditor"
    """The account of the auditor whom the task names."""


class ProjectClass(StrEnum):
    """What the battery systems of a project are for."""

    UNSPECIFIED = "unspecified"
    PASSENGER_CAR = "passenger car"
    BUS = "bus"
    TRUCK = "truck"
    SPECIAL_VEHICLE = "special vehicle"
    STORAGE = "storage"


@dataclass(frozen=True, slots=True, kw_only=True)
class Project:
    """The settings of a project. Without settings it has these defaults: no mailbox, so no task without an auditor."""

    name: str
    audit_mailbox: str = ""
    """Where approval codes go. Empty: to the named auditor's own address, if the task has one."""
    approval: ApprovalWay = ApprovalWay.AUDIT_MAILBOX
    starters: tuple[str, ...] = ()
    """The accounts that may start tasks here, of those that may start tasks at all; empty: all of them."""
    changed_at: datetime | None = None
    changed_by: str = ""
    number: str = ""
    """As the customer orders by it; no two projects have the same. Empty: none."""
    classification: ProjectClass = ProjectClass.UNSPECIFIED

    def way_of(self, auditor: str) -> ApprovalWay:
        """How a task of this project with this auditor ("": none) is approved."""
        return ApprovalWay.NAMED_AUDITOR if auditor else self.approval


def check_project_name(name: str) -> None:
    """Raise InvalidInputError unless *name* can be a project's."""
    if not _NAME.fullmatch(name):
        raise InvalidInputError(
            "bad-project", f"project: expected 1 to 64 letters, digits, space . + - _, got {name[:80]!r}"
        )


def check_project_number(number: str) -> None:
    """Raise InvalidInputError unless *number* can be a project's; it may be empty."""
    if number and not _NUMBER.fullmatch(number):
        raise InvalidInputError(
            "bad-number", f"number: expected at most 32 letters, digits, . / - _, got {number[:80]!r}"
        )


def is_same_mailbox(one: str, other: str) -> bool:
    """Whether mails to both addresses arrive in one box, as far as the addresses tell."""
    return bool(one.strip()) and _box(one) == _box(other)


def _box(address: str) -> tuple[str, str]:
    name, _, host = address.strip().casefold().rpartition("@")
    return name.partition("+")[0], host
