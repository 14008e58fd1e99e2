"""API tokens are worth what their owner is worth, and less where they say so."""

from datetime import timedelta
from hashlib import sha256

import pytest
from bmsota_cloud.domain.accounts import Permission, Role, Scope, ScopeKind
from bmsota_cloud.domain.errors import ConflictError, InvalidInputError, LoginError, NotAllowedError, NotFoundError
from bmsota_cloud.domain.paging import PageRequest
from bmsota_cloud.services import tokens as tokens_module


def make(world, *permissions, by="carol", name="night run", days=30):
    permissions = permissions or ("vehicle.read",)
    return world.services.tokens.create(
        name=name, permissions=list(permissions), days=days, by=world.people[by], now=world.now, address="192.0.2.1"
    )


def who(world, secret):
    return world.services.tokens.who(secret, world.now, "192.0.2.7")


def lines(world):
    page = world.services.audit.page(PageRequest(), by=world.people["adam"], action="token")
    return [(line.who, line.action, line.outcome) for line in reversed(page.items)]


def test_a_token_is_its_owner_with_fewer_permissions(world):
    made = make(world, "vehicle.read", "ota.create")
    assert made.secret.startswith("bmsota_")
    assert len(made.secret) == len("bmsota_") + 43
    account = who(world, made.secret)
    assert (account.name, account.permissions) == ("carol", {Permission.VEHICLE_READ, Permission.OTA_CREATE})
    with world.cloud.store.reading() as work:
        (stored,) = work.accounts.tokens_of("carol")
    assert stored.token_sha256 == sha256(made.secret.encode()).digest()
    assert made.secret not in repr(stored)
    assert lines(world) == [("carol", "token.create", "done")]


def test_nobody_gives_a_token_more_than_he_has(world):
    with pytest.raises(NotAllowedError, match=r"carol \(operator\) lacks the permission account\.manage"):
        make(world, "vehicle.read", "account.manage")
    assert world.services.tokens.tokens("carol", by=world.people["carol"]) == ()
    assert lines(world) == [("carol", "token.create", "not-allowed")]


def test_what_the_owner_loses_the_token_loses_at_once(world):
    made = make(world, "vehicle.read", "ota.create")
    adam = world.people["adam"]
    scope = Scope(kind=ScopeKind.PROJECTS, projects=("Airport",))
    world.services.accounts.change("carol", role=Role.VIEWER, scope=scope, by=adam, now=world.now)
    account = who(world, made.secret)
    assert (account.permissions, account.scope) == ({Permission.VEHICLE_READ}, scope)
    # And with more permissions than before, it has no more than it was given.
    world.services.accounts.change("carol", role=Role.ADMINISTRATOR, scope=Scope(), by=adam, now=world.now)
    assert who(world, made.secret).permissions == {Permission.VEHICLE_READ, Permission.OTA_CREATE}


def test_the_token_of_a_disabled_account_is_dead(world):
    made, adam = make(world), world.people["adam"]
    world.services.accounts.disable("carol", by=adam, now=world.now)
    with pytest.raises(LoginError, match="not valid"):
        who(world, made.secret)
    world.services.accounts.enable("carol", by=adam, now=world.now)
    assert who(world, made.secret).name == "carol"


def test_a_password_that_is_reset_takes_the_tokens_along(world):
    made = make(world)
    world.services.accounts.reset("carol", password="another long one", by=world.people["adam"], now=world.now)
    with pytest.raises(LoginError):
        who(world, made.secret)


def test_a_token_ends(world):
    made = make(world, days=1)
    world.wait(days=1, seconds=-1)
    assert who(world, made.secret).name == "carol"
    world.wait(seconds=1)
    with pytest.raises(LoginError, match="this API token expired at 2026-11-23T08:00:00"):
        who(world, made.secret)


def test_when_it_was_used_is_written_once_a_minute(world):
    made = make(world)

    def used():
        (token,) = world.services.tokens.tokens("carol", by=world.people["carol"])
        return token.last_used_at, token.last_address

    assert used() == (None, "")
    first = world.now
    who(world, made.secret)
    world.wait(seconds=59)
    who(world, made.secret)
    assert used() == (first, "192.0.2.7")
    world.wait(seconds=1)
    who(world, made.secret)
    assert used() == (first + timedelta(seconds=60), "192.0.2.7")


def test_revoking(world):
    made, other = make(world), make(world, name="other")
    services, carol = world.services.tokens, world.people["carol"]
    services.revoke("carol", made.token.id, by=carol, now=world.now)
    with pytest.raises(LoginError):
        who(world, made.secret)
    with pytest.raises(NotFoundError, match="carol has no token"):
        services.revoke("carol", made.token.id, by=carol, now=world.now)
    with pytest.raises(NotAllowedError):
        services.revoke("carol", other.token.id, by=world.people["olaf"], now=world.now)
    services.revoke("carol", other.token.id, by=world.people["adam"], now=world.now)
    with pytest.raises(LoginError):
        who(world, other.secret)


def test_who_has_found_a_token_cannot_stay(world):
    """It makes and revokes no tokens, ends no sessions and changes no password."""
    made = make(world)
    found = who(world, made.secret)
    for act in (
        lambda: world.services.tokens.create(
            name="mine", permissions=["vehicle.read"], days=1, by=found, now=world.now
        ),
        lambda: world.services.tokens.revoke("carol", made.token.id, by=found, now=world.now),
        lambda: world.services.accounts.end_sessions("carol", by=found, now=world.now),
        lambda: world.services.accounts.change_password(account=found, old="x", new="y" * 12, now=world.now),
    ):
        with pytest.raises(NotAllowedError, match="an API token cannot"):
            act()


def test_a_stranger_s_token_is_none(world):
    make(world)
    for secret in ("bmsota_", "bmsota_" + "A" * 43, ""):
        with pytest.raises(LoginError, match="not valid"):
            who(world, secret)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"name": ""}, "name: expected 1 to 64"),
        ({"name": "a\nb"}, "name: expected 1 to 64"),
        ({"days": 0}, "days: expected 1 to 366, got 0"),
        ({"days": 367}, "days: expected 1 to 366, got 367"),
    ],
)
def test_what_cannot_be_used(world, options, words):
    with pytest.raises(InvalidInputError, match=words):
        make(world, **options)


def test_permissions_that_cannot_be_used(world):
    with pytest.raises(InvalidInputError, match="no permission 'all'"):
        make(world, "all")
    with pytest.raises(InvalidInputError, match="choose at least one"):
        world.services.tokens.create(name="n", permissions=[], days=1, by=world.people["carol"], now=world.now)


def test_a_name_is_used_once_and_there_are_twenty_at_most(world, monkeypatch):
    make(world)
    with pytest.raises(ConflictError, match="you have a token night run already"):
        make(world)
    monkeypatch.setattr(tokens_module, "TOKENS_MAX", 1)
    with pytest.raises(ConflictError, match="you have 1 tokens; revoke one"):
        make(world, name="second")


def test_the_api(world, client, bearer):
    carol = bearer("carol")
    body = {"name": "ci", "permissions": ["vehicle.read"], "days": 7}
    answer = client.post("/api/v1/me/tokens", json=body, headers=carol)
    assert answer.status_code == 201, answer.text
    by_token = {"Authorization": f"Bearer {answer.json()['secret']}"}
    assert client.get("/api/v1/vehicles", headers=by_token).status_code == 200
    assert client.get("/api/v1/me", headers=by_token).json()["permissions"] == ["vehicle.read"]
    refused = client.get("/api/v1/releases", headers=by_token)
    assert (refused.status_code, refused.json()["detail"]) == (403, "this API token lacks the permission release.read")
    (token,) = client.get("/api/v1/me/tokens", headers=carol).json()
    assert "secret" not in token
    assert client.delete(f"/api/v1/me/tokens/{token['id']}", headers=carol).status_code == 204
    assert client.get("/api/v1/vehicles", headers=by_token).status_code == 401
