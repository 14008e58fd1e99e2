from __future__ import annotations

import bootloader_rig
import pytest

pytest.register_assert_rewrite("flashing_contract")


@pytest.fixture
def bench_parts():
    """`bootloader_rig`, for tests that build their own bench."""
    return bootloader_rig
