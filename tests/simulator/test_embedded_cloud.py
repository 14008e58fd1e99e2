"""The embedded cloud's end: what fails in it is not swallowed."""

from __future__ import annotations

import pytest
from bmsota_sim.embedded_cloud import EmbeddedCloud

pytestmark = pytest.mark.slow


def fail_at_its_end(cloud):
    """Let the platform's databases be closed, and then something go wrong."""
    stop = cloud.running.stop

    async def stop_and_fail():
        await stop()
        raise OSError("the disk is full")

    cloud.running.stop = stop_and_fail


def end_a_part(cloud):
    """One of the platform's tasks ends by itself; wait until the platform has noticed."""
    cloud._loop.call_soon_threadsafe(cloud.running._tasks[0].cancel)
    cloud._thread.join(60)


def test_a_failure_at_its_end_is_raised(tmp_path):
    """A demo whose cloud could not close its databases has not succeeded."""
    cloud = EmbeddedCloud(tmp_path, seed=1)
    with pytest.raises(OSError, match="the disk is full"), cloud:
        fail_at_its_end(cloud)
    cloud.__exit__(ValueError, ValueError("the run's own"), None)  # An error that is on its way is not replaced.


def test_a_part_that_ends_by_itself_is_a_failure(tmp_path):
    cloud = EmbeddedCloud(tmp_path, seed=1)
    with pytest.raises(OSError, match="a part of the embedded cloud ended unexpectedly"), cloud:
        end_a_part(cloud)
