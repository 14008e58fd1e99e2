"""The pages of "Manage Background": accounts, customers, vehicles from a file, the audit log."""

import re

import pytest
from bmsota_cloud.domain.accounts import Role, ScopeKind
from playwright.sync_api import expect

MENU = ["/manage/accounts", "/manage/customers", "/manage/vehicles", "/manage/audit"]


def links(page):
    return re.findall(
        r'<a href="(/manage/[a-z]+)"', re.search(r'aria-label="Manage Background">(.*?)</nav>', page, re.DOTALL)[1]
    )


def account(world, name):
    return world.services.accounts.get(name, by=world.people["adam"])


def test_everybody_is_led_to_what_he_may_manage(fleet, visit):
    for name, expected in (("adam", MENU), ("carol", MENU[2:3]), ("alan", MENU[3:])):
        visitor = visit(name)
        assert '<a href="/manage">Manage Background</a>' in visitor.see("/vehicles")
        front = visitor.get("/manage")
        assert (front.status_code, front.headers["location"]) == (303, expected[0])
        assert links(visitor.see(expected[0])) == expected
    vera = visit("vera")
    assert "Manage Background" not in vera.see("/vehicles")
    assert vera.get("/manage").status_code == 403


# -- accounts ----------------------------------------------------------------------------------------------------------


def test_the_list_says_who_logged_in_when_and_is_filtered(fleet, visit, words):
    adam = visit("adam")
    page = adam.see("/manage/accounts")
    text = words(page)
    assert re.search(r"adam you Active administrator everything adam@\S+ \d{4}-\d\d-\d\d \d\d:\d\d:\d\d \+08:00", text)
    assert re.search(r"vera Active viewer everything vera@\S+ none known", text)
    visit("vera")
    assert re.search(r"vera Active viewer everything vera@\S+ \d{4}-", words(adam.see("/manage/accounts")))
    for query in ("q=ER", "q=vera%40", "role=viewer"):
        shown = re.findall(r'href="/manage/accounts/(\w+)"', adam.see(f"/manage/accounts?{query}"))
        assert shown == ["vera"], query
    assert "Nothing matches." in adam.see("/manage/accounts?q=%25")


def test_an_account_is_created_changed_and_kept_out(fleet, visit, words):
    adam = visit("adam")
    fields = {"name": " Olga ", "email": "olga@example.org", "password": "correct horse battery"}
    scope = {"role": "operator", "sees": "projects", "projects": "Hills, Harbour,,Hills", "customer": "left over"}
    answer = adam.post("/manage/new-account", **fields, **scope)
    assert (answer.status_code, answer.headers["location"]) == (303, "/manage/accounts/olga?done=created")
    made = account(fleet, "olga")
    assert (made.role, made.sees, made.projects, made.customer) == (
        Role.OPERATOR,
        ScopeKind.PROJECTS,
        ("Harbour", "Hills"),
        "",
    )
    assert "olga was created." in words(adam.see("/manage/accounts/olga?done=created"))
    olga = visit("olga")
    assert olga.get("/manage/vehicles").status_code == 200
    assert adam.post("/manage/accounts/olga", role="viewer", sees="everything").status_code == 303
    assert account(fleet, "olga").role is Role.VIEWER
    assert olga.get("/manage/vehicles").status_code == 403
    assert adam.post("/manage/accounts/olga/disable").status_code == 303
    assert olga.get("/vehicles").headers["location"].startswith("/login")
    assert "olga Disabled" in words(adam.see("/manage/accounts/olga"))
    assert adam.post("/manage/accounts/olga/enable").status_code == 303
    assert adam.post("/manage/accounts/olga/reset", password="a horse of another colour").status_code == 303
    assert olga.client.post("/login", data={"name": "olga", "password": "correct horse battery"}).status_code == 401
    assert olga.client.post("/login", data={"name": "olga", "password": "a horse of another colour"}).status_code == 303


def test_what_is_refused_stays_typed_and_no_password_comes_back(fleet, visit, words):
    adam = visit("adam")
    fields = {"name": "olga", "email": "olga@example.org", "password": "correct horse battery"}
    wrong = {"role": "customer", "sees": "customer", "customer": "Nobody"}
    answer = adam.post("/manage/new-account", **fields, **wrong)
    assert answer.status_code == 422
    assert "no customer &#39;Nobody&#39;; create it first" in answer.text
    assert 'value="olga@example.org"' in answer.text
    assert 'value="Nobody"' in answer.text
    assert '<option value="customer" selected>customer' in answer.text
    assert "battery" not in answer.text
    assert (
        adam.post("/manage/new-account", **fields | {"name": "vera"}, role="viewer", sees="everything").status_code
        == 409
    )
    for field, value, says in (("role", "king", "role: expected"), ("sees", "stars", "sees: expected")):
        fields = {"role": "viewer", "sees": "everything"} | {field: value}
        answer = adam.post("/manage/accounts/vera", **fields)
        assert answer.status_code == 422
        assert says in words(answer.text)
    answer = adam.post("/manage/accounts/vera/reset", password="short")
    assert answer.status_code == 422
    assert "password: expected" in words(answer.text)
    assert adam.get("/manage/accounts/nobody").status_code == 404


def test_the_own_account_is_another_administrators_business(fleet, visit, words):
    adam = visit("adam")
    page = adam.see("/manage/accounts/adam")
    assert "This is your own account." in page
    assert 'action="/manage/accounts/adam/disable"' not in page
    for act in ("", "/disable", "/enable", "/reset"):
        answer = adam.post(f"/manage/accounts/adam{act}", role="viewer", sees="everything", password="a long password")
        assert answer.status_code == 409, act
        assert "adam is your own account" in words(answer.text)


def test_sessions_are_ended_one_by_one_or_all(fleet, visit, words):
    adam, first, second, third = visit("adam"), visit("vera"), visit("vera"), visit("vera")
    page = adam.see("/manage/accounts/vera")
    ids = re.findall(r'name="session" value="([0-9a-f]{16})"', page)
    assert "Open sessions 3" in words(page)
    assert len(set(ids)) == 3
    assert adam.post("/manage/accounts/vera/end-sessions", session=ids[0]).status_code == 303
    open_now = [visitor.get("/vehicles").status_code == 200 for visitor in (first, second, third)]
    assert sorted(open_now) == [False, True, True]
    assert adam.post("/manage/accounts/vera/end-sessions", session=ids[0]).status_code == 404
    assert adam.post("/manage/accounts/vera/end-sessions").status_code == 303
    assert {visitor.get("/vehicles").status_code for visitor in (first, second, third)} == {303}
    assert "Open sessions 0 None." in words(adam.see("/manage/accounts/vera"))
    # The own sessions too; but not on this page by who is no administrator.
    assert visit("carol").post("/manage/accounts/carol/end-sessions").status_code == 403


# -- customers ---------------------------------------------------------------------------------------------------------


def test_a_customer_is_created_and_given_vehicles(fleet, visit, words):
    adam = visit("adam")
    assert "No customers yet." in adam.see("/manage/customers")
    name = "Böhm & (Söhne) +"
    for _ in range(2):
        answer = adam.post("/manage/customers", name=name)
    assert answer.status_code == 409
    assert "there is a customer Böhm &amp; (Söhne) + already" in answer.text
    vins = f" {fleet.vin(1).lower()},\r\n{fleet.vin(2)};{fleet.vin(1)}\n\n"
    answer = adam.post("/manage/customers/vehicles", customer=name, vins=vins)
    assert answer.status_code == 303
    text = words(adam.see(answer.headers["location"]))
    assert "2 vehicles now belong to Böhm &amp; (Söhne) +." in text
    assert "Böhm &amp; (Söhne) + 2 " in text
    answer = adam.post("/manage/customers/vehicles", customer=name, vins=f"{fleet.vin(3)} X")
    assert answer.status_code == 404
    assert f"{fleet.vin(3)} X</textarea>" in answer.text
    assert adam.post("/manage/customers/vehicles", customer=name, vins=" ").status_code == 422
    assert adam.post("/manage/customers/vehicles", customer="Nobody", vins=fleet.vin(3)).status_code == 404
    assert "Böhm &amp; (Söhne) + 2 " in words(adam.see("/manage/customers"))


# -- vehicles from a file ----------------------------------------------------------------------------------------------


def upload(visitor, content, **fields):
    files = {"file": ("fleet.csv", content, "text/csv")} if content is not None else None
    return visitor.client.post("/manage/vehicles", data={"csrf": visitor.csrf(), **fields}, files=files)


def test_vehicles_of_a_file_are_registered_all_or_none(fleet, visit, words):
    carol = visit("carol")
    lines = f"vin,series\n{fleet.vin(7)},F7\n{fleet.vin(8)},F7\n"
    answer = upload(carol, lines)
    assert answer.status_code == 422
    assert "project is missing; or name the project of all in the form" in words(answer.text)
    answer = upload(carol, lines + "short,F7\n", project="Harbour")
    assert "fleet.csv:4: VIN: expected 17 capitals or digits, got &#39;short&#39; nothing was registered" in words(
        answer.text
    )
    assert 'value="Harbour"' in answer.text
    assert fleet.vin(7) not in carol.see("/vehicles")
    answer = upload(carol, lines, project="Harbour")
    assert answer.headers["location"] == "/manage/vehicles?registered=2&present=0&changed=0"
    answer = upload(carol, lines + f"{fleet.vin(9)},F7\n", project="Harbour")
    assert "1 vehicle was registered; 2 were registered already." in words(carol.see(answer.headers["location"]))
    assert fleet.vin(9) in carol.see("/vehicles")
    assert "no file was chosen" in upload(carol, None).text
    found = visit("adam").see("/manage/audit?action=vehicle.import")
    assert "fleet.csv:4: VIN: expected 17" in found
    assert "testclient" in found
    assert visit("alan").get("/manage/vehicles").status_code == 403
    assert upload(visit("alan"), lines, project="Harbour").status_code == 403


# -- the audit log -----------------------------------------------------------------------------------------------------


def test_the_log_is_searched_by_who_action_and_subject(fleet, visit):
    adam = visit("adam")
    adam.post("/manage/customers", name="Port")
    adam.post("/manage/accounts/vera/disable")
    visit("carol").post("/manage/customers", name="Rails")

    def found(query):
        return re.findall(
            r'class="code">(\w+\.\w+)</td>\s*<td[^>]*>([^<]*)', visit("alan").see(f"/manage/audit?{query}")
        )

    customer, refused = ("customer.create", "customer Port"), ("customer.create", "customer Rails")
    disabled = ("account.disable", "account vera")
    assert found("action=customer") == [refused, customer]
    assert found("action=customer.create&who=adam") == [customer]
    assert found("q=RAILS") == [refused]
    assert found("q=vera&action=account.disable") == [disabled]
    assert found("action=cust") == found("q=%25") == found("who=ada") == []


def test_the_last_login_of_many(world):
    """The newest of several addresses, and no line for who never logged in."""
    log_in = world.services.accounts.log_in
    for minutes, address in ((0, "192.0.2.1"), (5, "192.0.2.2"), (5, "192.0.2.1")):
        world.wait(minutes=minutes)
        log_in(name="vera", password="correct horse battery", now=world.now, address=address)
    found = world.services.accounts.last_logins(["vera", "carol"], by=world.people["adam"])
    assert found == {"vera": world.now}


# -- in a browser ------------------------------------------------------------------------------------------------------


@pytest.mark.browser
@pytest.mark.parametrize("width", [1280, 390])
def test_the_pages_fit_the_window(fleet, tab, width):
    adam = fleet.people["adam"]
    fleet.services.customers.create(
        "A customer with a name as long as it may be, with sixty-four c.".replace(",", " "), by=adam, now=fleet.now
    )
    page = tab("adam", "/vehicles", width=width, height=800)
    page.get_by_role("link", name="Manage Background").click()
    for path in (*MENU, "/manage/new-account", "/manage/accounts/carol"):
        page.goto(path)
        expect(page.get_by_role("heading", level=1)).to_be_visible()
        assert page.evaluate("document.documentElement.scrollWidth") <= width, path
    page.goto("/manage/accounts")
    page.evaluate("window.isSamePage = true")
    page.get_by_label("Role").select_option("viewer")
    expect(page.locator("tbody tr")).to_have_count(1)
    assert page.evaluate("window.isSamePage") is True
