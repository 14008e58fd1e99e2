"""Accounts and sessions."""

from dataclasses import replace
from datetime import timedelta

import bmsota_cloud.services.limits as limits_module
import pytest
from bmsota_cloud.domain.accounts import ROLE_PERMISSIONS, Permission, Role
from bmsota_cloud.domain.errors import ConflictError, InvalidInputError, LoginError, NotAllowedError, RateLimitedError
from bmsota_cloud.domain.limits import Rate
from bmsota_cloud.domain.paging import PageRequest
from bmsota_cloud.services.limits import Limit

PASSWORD = "correct horse battery"


def log_in(world, name="carol", password=PASSWORD, **options):
    return world.services.accounts.log_in(name=name, password=password, now=world.now, **options)


def code_of(call) -> str:
    with pytest.raises((LoginError, RateLimitedError)) as caught:
        call()
    return caught.value.code


def test_a_session_says_whose_it_is_until_it_ends(world):
    login = log_in(world)
    account, session = world.services.accounts.who(login.token, world.now)
    assert (account.name, session.csrf_token) == ("carol", login.csrf_token)
    assert login.expires_at == world.now + timedelta(hours=24)
    world.services.accounts.log_out(login.token)
    assert code_of(lambda: world.services.accounts.who(login.token, world.now)) == "no-session"


def test_the_token_is_not_in_the_database(world):
    login = log_in(world)
    with world.cloud.store.reading() as work:
        assert work.accounts.session(login.token.encode()[:32]) is None
    assert code_of(lambda: world.services.accounts.who(login.token[:-1], world.now)) == "no-session"


def test_an_idle_session_ends_and_a_used_one_goes_on_to_its_absolute_end(world):
    idle, used = log_in(world), log_in(world)
    for _ in range(4):
        world.wait(hours=5)
        world.services.accounts.who(used.token, world.now)
    assert code_of(lambda: world.services.accounts.who(idle.token, world.now)) == "session-over"
    world.wait(hours=4)
    assert code_of(lambda: world.services.accounts.who(used.token, world.now)) == "session-over"


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "password"), [("carol", "wrong"), ("nobody", PASSWORD), ("", ""), ("carol", "x" * 5000)]
)
def test_a_wrong_login_does_not_say_what_is_wrong(world, name, password):
    with pytest.raises(LoginError) as caught:
        log_in(world, name, password)
    assert caught.value.code == "wrong-login"
    assert "carol" not in str(caught.value)


# --- guessing, and keeping others out

HERE, THERE = "192.0.2.1", "198.51.100.1"


def wrong(world, name="carol", **options):
    return code_of(lambda: log_in(world, name, "wrong password", **options))


def audit(world, action):
    entries = world.services.audit.page(PageRequest(1, 500), by=world.people["anna"]).items
    return [entry for entry in entries if entry.action == action]


def address(number):
    return f"10.{number >> 16 & 255}.{number >> 8 & 255}.{number & 255}"


def restarted(world):
    """The same data in a new process."""
    world.services.accounts._limits.__init__(world.cloud.store)


def test_ten_wrong_passwords_from_one_address_must_wait_and_the_owner_elsewhere_need_not(world):
    assert [wrong(world, address=HERE) for _ in range(12)] == ["wrong-login"] * 10 + ["too-many-tries"] * 2
    with pytest.raises(RateLimitedError) as caught:
        log_in(world, address=HERE)
    assert (caught.value.retry_after_s, str(caught.value)) == (
        360,
        "too many wrong passwords; try again in 6 minutes",
    )
    log_in(world, address=THERE)
    log_in(world, "olaf", address=HERE)
    world.wait(seconds=360)
    log_in(world, address=HERE)


def test_a_success_empties_the_counter_of_this_name_at_this_address_only(world):
    for _ in range(9):
        wrong(world, address=HERE)
        wrong(world, "olaf", address=HERE)
    log_in(world, address=HERE)
    assert [wrong(world, address=HERE) for _ in range(11)] == ["wrong-login"] * 10 + ["too-many-tries"]
    assert [wrong(world, "olaf", address=HERE) for _ in range(2)] == ["wrong-login", "too-many-tries"]


@pytest.mark.slow
def test_many_names_from_one_address_must_wait(world):
    """Spraying: one password on many names, of which most do not exist. IPv6 addresses of one /64 are one."""
    outcomes = [wrong(world, f"name{number}", address=HERE) for number in range(22)]
    assert outcomes == ["wrong-login"] * 20 + ["too-many-tries"] * 2
    outcomes = [wrong(world, f"name{number}", address=f"2001:db8::{number:x}") for number in range(22)]
    assert outcomes == ["wrong-login"] * 20 + ["too-many-tries"] * 2


@pytest.mark.slow
def test_many_networks_of_one_site_must_wait(world):
    outcomes = [wrong(world, f"name{number}", address=f"2001:db8:0:{number:x}::1") for number in range(82)]
    assert outcomes == ["wrong-login"] * 80 + ["too-many-tries"] * 2


@pytest.mark.slow
def test_who_is_known_is_not_kept_out_by_strangers_at_the_same_address(world):
    """An office behind one address: one colleague sprays, another one guesses at carol."""
    carol = log_in(world, address=HERE)
    for number in range(40):
        wrong(world, f"name{number}", address=HERE)
        wrong(world, address=HERE)
    assert wrong(world, address=HERE) == "too-many-tries"
    again = log_in(world, address=HERE, device=carol.device)
    assert again.account.name == "carol"


def test_a_browser_that_is_known_may_not_guess_either(world):
    device = log_in(world, address=HERE).device
    outcomes = [wrong(world, address=address(number), device=device) for number in range(12)]
    assert outcomes == ["wrong-login"] * 10 + ["too-many-tries"] * 2
    # Nor does it spend what others have.
    log_in(world, address=THERE)


@pytest.mark.parametrize("change", ["name", "age", "bits", "cut", "nonsense"])
def test_a_token_of_a_browser_is_for_one_name_and_half_a_year(world, change):
    device = log_in(world, "olaf" if change == "name" else "carol", address=HERE).device
    if change == "age":
        world.wait(days=180)
    device = {"bits": device[:-1] + ("A" if device[-1] != "A" else "B"), "cut": device[:-4], "nonsense": "\xff="}.get(
        change, device
    )
    for _ in range(10):
        wrong(world, address=THERE)
    assert code_of(lambda: log_in(world, address=THERE, device=device)) == "too-many-tries"


@pytest.mark.slow
def test_many_addresses_that_guess_at_one_name_get_one_try_an_hour_each(world):
    """The owner gets in at the first try from a new address, and as always from where she is known; she is told, once."""
    known = log_in(world, address=HERE)
    for number in range(50):
        assert [wrong(world, address=address(number)) for _ in range(2)] == ["wrong-login"] * 2
    assert [wrong(world, address=address(50)) for _ in range(2)] == ["wrong-login", "too-many-tries"]
    assert wrong(world, address=address(1)) == "too-many-tries"
    log_in(world, address=THERE)
    assert [wrong(world, address=HERE) for _ in range(3)] == ["wrong-login"] * 3
    assert [wrong(world, address=address(60), device=known.device) for _ in range(3)] == ["wrong-login"] * 3
    world.services.outbox.drain(world.now, world.mails.append)
    assert [(mail.recipient, mail.subject) for mail in world.mails] == [
        ("carol@example.org", "Many wrong passwords for your account carol")
    ]
    assert [entry.subject for entry in audit(world, "account.attacked")] == ["account carol"]


@pytest.mark.slow
def test_nobody_guesses_on_however_many_addresses_he_has(world, monkeypatch):
    """At most 1,000 a day at one name (here 150); then only known browsers and addresses get in, and they do."""
    assert limits_module.LOGIN_NAME.rate == Rate(1000, 24 * 3600)
    fewer = Limit("login name", Rate(150, 24 * 3600))
    monkeypatch.setattr(limits_module, "ACCOUNT_LOGINS", replace(limits_module.ACCOUNT_LOGINS, name=fewer))
    known = log_in(world, address=HERE)
    outcomes = [wrong(world, address=address(number)) for number in range(160)]
    assert outcomes == ["wrong-login"] * 150 + ["too-many-tries"] * 10
    assert code_of(lambda: log_in(world, address=THERE)) == "too-many-tries"
    log_in(world, address=HERE)
    log_in(world, address=THERE, device=known.device)
    log_in(world, "olaf", address=THERE)
    world.wait(days=1)
    assert wrong(world, address=address(5000)) == "wrong-login"


@pytest.mark.slow
def test_a_name_that_nobody_has_is_limited_in_the_same_way(world):
    """So the limits do not tell which names exist."""
    for name in ("carol", "nobody"):
        outcomes = [wrong(world, name, address=address(number)) for number in range(60) for _ in range(2)]
        assert outcomes == ["wrong-login"] * 100 + ["wrong-login", "too-many-tries"] * 10
    assert wrong(world, "nobody") == "wrong-login"


def test_a_restart_does_not_help_who_guesses(world):
    for _ in range(10):
        wrong(world, address=HERE)
    restarted(world)
    assert code_of(lambda: log_in(world, address=HERE)) == "too-many-tries"


@pytest.mark.slow
def test_a_flood_of_refused_logins_is_one_line_an_hour(world):
    """A stranger can't fill the log."""
    for _ in range(100):
        wrong(world, address=HERE)
    entries = audit(world, "account.log_in")
    assert [entry.outcome for entry in entries].count("too-many-tries") == 1
    assert len(entries) == 11
    assert entries[0].address == HERE
    world.wait(hours=1)
    for _ in range(12):
        wrong(world, address=HERE)
    assert [entry.outcome for entry in audit(world, "account.log_in")].count("too-many-tries") == 2


def test_a_password_typed_into_the_wrong_box_is_written_nowhere(world):
    assert wrong(world, "My Secret Pass Phrase", address=HERE) == "wrong-login"
    (entry,) = audit(world, "account.log_in")
    assert (entry.who, entry.subject) == ("stranger", "account ")
    assert not any("Secret" in str(entry) for entry in audit(world, "account.log_in"))


@pytest.mark.slow
def test_old_passwords_are_not_guessed_in_a_stolen_session(world):
    """By address and name, and by name over all addresses; the owner is not kept from logging in."""
    accounts, carol = world.services.accounts, world.people["carol"]

    def change(old, where):
        return code_of(
            lambda: accounts.change_password(
                account=carol, old=old, new="a new password!", now=world.now, address=where
            )
        )

    assert [change("wrong", HERE) for _ in range(12)] == ["wrong-login"] * 10 + ["too-many-tries"] * 2
    assert change(PASSWORD, HERE) == "too-many-tries"
    accounts.change_password(account=carol, old=PASSWORD, new=PASSWORD + "1", now=world.now, address=THERE)
    outcomes = [change("wrong", address(number)) for number in range(60)]
    assert outcomes == ["wrong-login"] * 40 + ["too-many-tries"] * 20
    log_in(world, password=PASSWORD + "1", address=HERE)


@pytest.mark.slow
def test_the_addresses_of_an_account_are_the_newest_twenty(world):
    for number in range(25):
        world.wait(minutes=1)
        log_in(world, address=address(number))
    for _ in range(2):
        for number in range(500, 550):
            wrong(world, address=address(number))
    known = [wrong(world, address=address(number)) + wrong(world, address=address(number)) for number in range(25)]
    assert known == ["wrong-logintoo-many-tries"] * 5 + ["wrong-loginwrong-login"] * 20


def test_what_the_platform_could_not_judge_is_no_try(world, monkeypatch):
    """The database is away in the middle of a login."""

    def broken(*_, **__):
        raise OSError("disk full")

    with monkeypatch.context() as patch:
        patch.setattr(world.cloud.store, "transaction", broken)
        for _ in range(30):
            with pytest.raises(OSError, match="disk full"):
                log_in(world, address=HERE)
    log_in(world, address=HERE)


def test_changing_the_password_ends_every_session(world):
    login = log_in(world)
    accounts, carol = world.services.accounts, world.people["carol"]
    assert (
        code_of(lambda: accounts.change_password(account=carol, old="no", new="a new password!", now=world.now))
        == "wrong-login"
    )
    accounts.change_password(account=carol, old=PASSWORD, new="a new password!", now=world.now)
    assert code_of(lambda: accounts.who(login.token, world.now)) == "no-session"
    assert code_of(lambda: log_in(world)) == "wrong-login"
    log_in(world, password="a new password!")


@pytest.mark.parametrize(
    ("change", "code"),
    [
        ({"name": "Carol"}, "bad-name"),
        ({"name": ""}, "bad-name"),
        ({"name": "a" * 65}, "bad-name"),
        ({"email": "carol"}, "bad-email"),
        ({"email": "a@b\nBcc: c@d"}, "bad-email"),
        ({"password": "short"}, "bad-password"),
        ({"password": "x" * 257}, "bad-password"),
    ],
)
def test_an_account_that_can_not_be_used_is_refused(world, change, code):
    asked = {"name": "new", "email": "new@example.org", "role": Role.VIEWER, "password": PASSWORD, "now": world.now}
    with pytest.raises(InvalidInputError) as caught:
        world.services.accounts.create(**asked | change)
    assert caught.value.code == code


def test_a_name_is_given_once(world):
    asked = {"name": "carol", "email": "c@example.org", "role": Role.VIEWER, "password": PASSWORD, "now": world.now}
    with pytest.raises(ConflictError):
        world.services.accounts.create(**asked)


@pytest.mark.parametrize("who", ["carol", "alan", "vera"])
def test_only_administrators_manage_accounts(world, who):
    asked = {"name": "new", "email": "n@example.org", "role": Role.AUDITOR, "password": PASSWORD, "now": world.now}
    with pytest.raises(NotAllowedError):
        world.services.accounts.create(**asked, by=world.people[who])
    with pytest.raises(NotAllowedError):
        world.services.accounts.page(PageRequest(), by=world.people[who])
    assert world.services.accounts.create(**asked, by=world.people["adam"]).name == "new"


def test_no_role_both_creates_and_approves():
    """Four eyes by role, beside the rule by person."""
    for permissions in ROLE_PERMISSIONS.values():
        assert not {Permission.OTA_CREATE, Permission.OTA_AUDIT} <= permissions
        # Who says where codes go enters none.
        assert not {Permission.PROJECT_MANAGE, Permission.OTA_START} <= permissions


def test_auditors_to_choose_from(world):
    assert world.services.accounts.auditors(by=world.people["carol"]) == ("alan", "anna")
    with pytest.raises(NotAllowedError):
        world.services.accounts.auditors(by=world.people["vera"])


def test_logins_are_in_the_audit_log_with_their_outcome(world):
    log_in(world)
    code_of(lambda: log_in(world, password="wrong"))
    entries = world.services.audit.page(PageRequest(1, 2), by=world.people["anna"], subject="account carol").items
    assert [(e.who, e.action, e.outcome) for e in entries] == [
        ("carol", "account.log_in", "wrong-login"),
        ("carol", "account.log_in", "done"),
    ]
    with pytest.raises(NotAllowedError):
        world.services.audit.page(PageRequest(), by=world.people["carol"])
