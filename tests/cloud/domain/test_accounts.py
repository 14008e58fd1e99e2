"""Permissions and scope, without a database."""

from datetime import UTC, datetime

import pytest
from bmsota_cloud.domain.accounts import (
    PLATFORM_WIDE,
    ROLE_PERMISSIONS,
    Account,
    Permission,
    Role,
    Scope,
    ScopeKind,
    require,
)
from bmsota_cloud.domain.customers import check_customer_name
from bmsota_cloud.domain.errors import InvalidInputError, NotAllowedError

AT = datetime(2026, 11, 22, 8, tzinfo=UTC)


def account(role, **options):
    return Account(name="olga", email="o@example.org", role=role, password_hash="", created_at=AT, **options)


def test_every_permission_is_somebody_s():
    assert frozenset().union(*ROLE_PERMISSIONS.values()) == frozenset(Permission)


@pytest.mark.parametrize("role", [Role.VIEWER, Role.OPERATOR, Role.AUDITOR])
def test_who_does_not_see_everything_does_nothing_to_the_whole_platform(role):
    limited = account(role, sees=ScopeKind.PROJECTS, projects=("Harbour",))
    assert limited.permissions == ROLE_PERMISSIONS[role] - PLATFORM_WIDE
    assert account(role).permissions == ROLE_PERMISSIONS[role]
    with pytest.raises(NotAllowedError, match=r"sees only projects Harbour; monitoring\.read is for accounts that see"):
        require(limited, Permission.MONITORING_READ)
    require(limited, Permission.VEHICLE_READ)


def test_a_disabled_account_may_do_nothing():
    assert not account(Role.ADMINISTRATOR, disabled_at=AT).permissions
    with pytest.raises(NotAllowedError, match="the account olga is disabled"):
        require(account(Role.ADMINISTRATOR, disabled_at=AT), Permission.VEHICLE_READ)


@pytest.mark.parametrize(
    ("scope", "harbour", "airport", "ports", "whole"),
    [
        (Scope(), True, True, True, True),
        (Scope(kind=ScopeKind.PROJECTS, projects=("Harbour", "Hills")), True, False, False, True),
        (Scope(kind=ScopeKind.PROJECTS), False, False, False, False),
        (Scope(kind=ScopeKind.CUSTOMER, customer="Port"), False, False, True, False),
        (Scope(kind=ScopeKind.CUSTOMER), False, False, False, False),
    ],
    ids=str,
)
def test_what_a_scope_has(scope, harbour, airport, ports, whole):
    """A vehicle of Harbour and one of Airport without a customer, one of Airport that is Port's, and the project Harbour."""
    assert scope.has_vehicle(project="Harbour", customer="") is harbour
    assert scope.has_vehicle(project="Airport", customer="") is airport
    assert scope.has_vehicle(project="Airport", customer="Port") is ports
    assert scope.has_project("Harbour") is whole


@pytest.mark.parametrize("name", ["", " Port", "Port ", "Po\nrt", "x" * 65, "a/b", "a;b"])
def test_a_customer_needs_a_name_that_can_be_read(name):
    with pytest.raises(InvalidInputError, match="customer: expected 1 to 64"):
        check_customer_name(name)


@pytest.mark.parametrize("name", ["P", "Port Authority (North) & Co.", "港务", "x" * 64])
def test_names_of_customers(name):
    check_customer_name(name)
