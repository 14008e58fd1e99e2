"""python-can's socketcan as far as its errors go: this machine may have no CAN sockets. What is raised is what 4.6.1 raises."""

from __future__ import annotations

import errno
import os
from contextlib import contextmanager

import can
import can.interfaces
import pytest


class _Bus(can.BusABC):
    """A bus whose interface is down, not there, or has no driver; or whose queue does not empty."""

    number = 0

    def __init__(self, channel, **options):
        self.channel_info = f"socketcan {channel}"
        if self.number in (errno.ENODEV, errno.EAFNOSUPPORT):
            raise OSError(self.number, os.strerror(self.number))
        super().__init__(channel, can_filters=options.get("can_filters"))

    def _recv_internal(self, timeout):
        if self.number == errno.ENETDOWN:
            raise can.CanOperationError(f"Error receiving: {os.strerror(self.number)}", self.number) from OSError(
                self.number, os.strerror(self.number)
            )
        return None, False

    def send(self, msg, timeout=None):
        raise can.CanOperationError(f"Failed to transmit: {os.strerror(self.number)}", self.number) from OSError(
            self.number, os.strerror(self.number)
        )


@contextmanager
def socketcan_that_fails(number):
    """`-i socketcan` inside fails as the system does with this errno."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(_Bus, "number", number)
        patch.setitem(can.interfaces.BACKENDS, "socketcan", ("fake_socketcan", "_Bus"))
        yield
