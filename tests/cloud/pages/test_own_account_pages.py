"""The page of the own account: tokens are made, shown once and revoked."""

import re


def test_a_token_is_made_shown_once_and_revoked(world, visit, words):
    carol = visit("carol")
    page = carol.see("/account")
    assert 'value="vehicle.export"' in page
    assert 'value="account.manage"' not in page
    answer = carol.post("/account/tokens", name="night run", days="7", permissions=["vehicle.read", "ota.read"])
    assert answer.status_code == 200
    secret = re.search(r"bmsota_[\w-]{43}", answer.text)[0]
    assert world.services.tokens.who(secret, world.now).name == "carol"
    page = carol.see("/account")
    assert secret not in page
    assert "night run ota.read, vehicle.read" in words(page)
    token_id = re.search(r"/account/tokens/(\w+)/revoke", page)[1]
    assert carol.post(f"/account/tokens/{token_id}/revoke").status_code == 303
    assert "API tokens 0" in words(carol.see("/account"))


def test_what_is_refused_stays_typed(visit):
    carol = visit("carol")
    for fields, expected in (
        ({"days": "soon", "permissions": "ota.read"}, "days: expected 1 to 366, got 0"),
        ({"days": "9"}, "choose at least one permission"),
    ):
        answer = carol.post("/account/tokens", name="night", **fields)
        assert answer.status_code == 422
        assert expected in answer.text
        assert 'value="night"' in answer.text
    assert carol.post("/account/tokens", name="n", days="1", permissions="account.manage").status_code == 403


def test_a_form_of_another_session_is_refused(world, visit):
    assert visit("carol").post("/account/tokens", csrf="x", name="n", permissions="ota.read").status_code == 403
    assert world.services.tokens.tokens("carol", by=world.people["carol"]) == ()
