"""The page of releases: what is there, who runs it, and the upload of another one."""

import re

import pytest
from bmsota_cloud.domain.paging import PageRequest
from playwright.sync_api import expect
from starlette.requests import Request


def files_of(release):
    named = [("images", (f"image-{place}.bin", data)) for place, data in enumerate(release.images)]
    return [("manifest", ("release.cose", release.manifest)), *named]


def upload(visitor, release, *, csrf=None):
    fields = {"csrf": visitor.csrf() if csrf is None else csrf}
    return visitor.client.post("/releases", data=fields, files=files_of(release))


def count(world):
    return world.services.releases.page(PageRequest(), by=world.people["vera"]).total


@pytest.mark.slow
def test_each_release_says_what_is_in_it_and_who_runs_it(fleet, visit, words, release_files):
    fleet.upload()
    fleet.upload(release_files("E7"))
    fleet.register(5)
    fleet.identify(5, version="2.1.0")
    task = fleet.create(1)
    page = visit("vera").see("/releases")
    e7, f7 = re.findall(r"<article.*?</article>", page, re.DOTALL)
    assert re.search(r"^E7-2.1.0 Series E7 Version 2.1.0 Running now 0 vehicles Tasks none Expires 2036-", words(e7))
    assert f"Running now 1 vehicle Tasks OTA-{task.id} Expires" in words(f7)
    assert "by carol" in words(f7)
    for image in release_files().images:
        assert f"{len(image):,}" in words(f7)
    digests = [image.sha256 for image in fleet.services.releases.get(1, by=fleet.people["vera"]).images]
    assert len(digests) == 2
    assert all(digest in f7 for digest in digests)
    # A viewer uploads nothing and creates nothing.
    assert "Upload a release" not in page
    assert "/ota/tasks/new" not in page
    only = visit("vera").get("/releases?series=E7", headers={"X-Partial": "list"}).text
    assert only.startswith('<section id="list"')
    assert re.findall(r'id="release-(\d+)"', only) == ["2"]
    assert "No releases match." in visit("vera").see("/releases?series=X9")


def test_another_build_of_the_version_is_not_counted_where_a_signed_document_names_it(fleet, visit, words):
    release = fleet.upload()
    facts = [
        type(fact)(**{name: getattr(fact, name) for name in type(fact).__dataclass_fields__} | {"image_sha256": digest})
        for fact, digest in zip(
            fleet.facts(1, version="2.1.0"),
            ("ab" * 32, release.images[1].sha256, release.images[1].sha256),
            strict=True,
        )
    ]
    fleet.confirm(1, facts=facts)
    assert "Running now 0 vehicles" in words(visit("vera").see("/releases"))
    facts[0] = type(facts[0])(
        **{name: getattr(facts[0], name) for name in type(facts[0]).__dataclass_fields__}
        | {"image_sha256": release.images[0].sha256}
    )
    fleet.confirm(1, facts=facts)
    assert "Running now 1 vehicle " in words(visit("vera").see("/releases"))


def test_a_release_that_has_expired_says_so(fleet, visit, words):
    fleet.upload()
    carol = visit("carol")
    assert 'href="/ota/tasks/new?version=2.1.0&amp;series=F7"' in carol.see("/releases")
    fleet.wait(days=3650)
    page = visit("carol").see("/releases")
    assert "Expired" in words(page)
    assert "/ota/tasks/new?" not in page


def test_a_release_is_uploaded_with_the_form(fleet, visit, words, release_files):
    carol = visit("carol")
    assert "No releases yet." in carol.see("/releases")
    answer = upload(carol, release_files())
    assert (answer.status_code, answer.headers["location"]) == (303, "/releases?uploaded=1")
    assert "every signature and image was verified" in words(carol.see("/releases?uploaded=1"))
    # The same again is the same release.
    assert upload(carol, release_files()).headers["location"] == "/releases?uploaded=1"
    assert count(fleet) == 1


@pytest.mark.slow
def test_what_cannot_be_a_release_is_refused_with_the_reason(fleet, visit, release_files):
    carol, files = visit("carol"), release_files()
    for sent, status_code, says in (
        ([], 422, "no manifest was chosen"),
        ([("manifest", ("", b""))], 422, "no manifest was chosen"),
        (files_of(files)[:2], 422, "missing images of the manifest"),
        ([("manifest", ("big.cose", b"x" * 2_000_000)), *files_of(files)[1:]], 422, "big.cose: larger than"),
        ([("manifest", ("m", b"nonsense")), *files_of(files)[1:]], 422, "the manifest was rejected"),
    ):
        answer = carol.client.post("/releases", data={"csrf": carol.csrf()}, files=sent or {"other": b""})
        assert answer.status_code == status_code, says
        assert says in answer.text
    fleet.upload()
    later = release_files(expires=fleet.now.replace(year=2030))
    answer = upload(carol, later)
    assert answer.status_code == 409
    assert "series F7 already has version 2.1.0" in answer.text
    assert upload(carol, files, csrf="wrong").status_code == 403
    for name in ("vera", "alan"):
        assert upload(visit(name), files).status_code == 403
    assert count(fleet) == 1


@pytest.mark.slow
def test_of_who_may_not_upload_the_files_are_not_read(fleet, visit, monkeypatch):
    vera = visit("vera")
    csrf = vera.csrf()
    read = []
    form = Request.form
    monkeypatch.setattr(Request, "form", lambda self, **options: read.append(1) or form(self, **options))
    assert vera.client.post("/releases", data={"csrf": csrf}, files={"manifest": b"x"}).status_code == 403
    assert read == []
    assert visit("carol").post("/releases").status_code == 422
    assert read


@pytest.mark.browser
def test_the_upload_shows_how_far_it_is_and_what_came_of_it(fleet, tab, release_files):
    page = tab("carol", "/releases")
    files = release_files()
    sent = [
        {"name": f"i{n}.bin", "mimeType": "application/octet-stream", "buffer": d} for n, d in enumerate(files.images)
    ]
    manifest = {"name": "m.cose", "mimeType": "application/octet-stream", "buffer": files.manifest}
    page.get_by_label("Signed manifest").set_input_files(manifest)
    page.get_by_label("Its images").set_input_files(sent[:1])
    page.evaluate("window.isSamePage = true")
    page.get_by_role("button", name="Upload", exact=True).click()
    # Refused: said in place, and what was chosen is still chosen.
    expect(page.locator("[data-said]")).to_contain_text("missing images of the manifest")
    assert page.evaluate("window.isSamePage") is True
    page.get_by_label("Its images").set_input_files(sent)
    page.get_by_role("button", name="Upload", exact=True).dblclick()
    expect(page.get_by_text("every signature and image was verified")).to_be_visible()
    expect(page).to_have_url(re.compile(r"/releases\?uploaded=1$"))
    expect(page.locator("article")).to_have_count(1)
