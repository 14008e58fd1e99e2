from __future__ import annotations

import pytest
import uds_rig

pytest.register_assert_rewrite("flashing_contract")


@pytest.fixture
def parts():
    """`uds_rig`, for tests that build their own bench."""
    return uds_rig


@pytest.fixture
def node():
    return uds_rig.Node(factory=uds_rig.OLD())


@pytest.fixture
def bench(node):
    return uds_rig.Bench(node)
