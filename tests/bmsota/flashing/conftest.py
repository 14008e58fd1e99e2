from __future__ import annotations

import sys
from pathlib import Path
from types import SimpleNamespace

import pytest

sys.path.insert(0, str(Path(__file__).parent))  # For `pack_rig`: tests have no packages.

import pack_rig


@pytest.fixture
def pack():
    """A master and three slaves, all with the old version."""
    return pack_rig.Pack(*(pack_rig.Node(position) for position in range(4)))


@pytest.fixture
def rig():
    """The names of `pack_rig`."""
    return SimpleNamespace(**{name: value for name, value in vars(pack_rig).items() if not name.startswith("_")})
