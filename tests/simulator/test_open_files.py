"""A run needs as many open files as it has units."""

from __future__ import annotations

import resource

import pytest
from bmsota_sim.realtime import allow_connections

from bmsota.errors import ConfigurationError


@pytest.fixture
def limits():
    before = resource.getrlimit(resource.RLIMIT_NOFILE)
    yield before
    resource.setrlimit(resource.RLIMIT_NOFILE, before)


def test_the_limit_is_raised_as_far_as_needed(limits):
    _, hard = limits
    resource.setrlimit(resource.RLIMIT_NOFILE, (300, hard))
    allow_connections(50)
    assert resource.getrlimit(resource.RLIMIT_NOFILE)[0] == 300
    allow_connections(500)
    assert resource.getrlimit(resource.RLIMIT_NOFILE)[0] == 700


def test_more_than_the_system_allows_is_said_before_the_run(monkeypatch):
    monkeypatch.setattr(resource, "getrlimit", lambda _what: (1024, 4096))
    with pytest.raises(ConfigurationError, match="5,000 connections need 5,200 open files, but the limit is 4,096"):
        allow_connections(5_000)
