from __future__ import annotations

import pack_rig
import pytest


@pytest.fixture
def pack():
    """A master and three slaves, all with the old version."""
    return pack_rig.Pack(*(pack_rig.Node(position) for position in range(4)))


@pytest.fixture
def rig():
    """`pack_rig`."""
    return pack_rig
