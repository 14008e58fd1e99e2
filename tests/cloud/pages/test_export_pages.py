"""The page of exports: the form, the list, the file."""

import pytest


@pytest.fixture
def world(new_world, tmp_path):
    return new_world(data_dir=tmp_path / "data")


def finish(world):
    while world.services.exports.run(world.now):
        pass


FORM = {"format": "csv", "since": "2026-11-22T00:00", "until": "2026-11-23T00:00", "project": "Harbour"}


def test_the_list_s_filter_leads_to_a_file(fleet, visit, words):
    carol = visit("carol")
    assert 'href="/exports?project=Harbour&amp;online=yes"' in carol.see("/vehicles?project=Harbour&online=yes")
    page = carol.see("/exports?project=Harbour&online=yes")
    assert "2 vehicles matched" in words(page)
    assert '<option value="Harbour" selected>' in page
    assert "No exports yet." in page
    answer = carol.post("/exports", **FORM, online="yes")
    assert (answer.status_code, answer.headers["location"]) == (303, "/exports")
    assert "data-poll" in carol.see("/exports")
    finish(fleet)
    page = carol.see("/exports")
    assert "data-poll" not in page
    assert "bmsota-export-1.csv Done 2 Harbour online" in words(page)
    file = carol.get("/exports/1/file")
    assert file.headers["content-disposition"] == 'attachment; filename="bmsota-export-1.csv"'
    assert file.text.count("\n") == 3
    assert carol.post("/exports/1/delete").status_code == 303
    assert "deleted by carol" in words(carol.see("/exports"))
    assert carol.get("/exports/1/file").status_code == 404


@pytest.mark.parametrize(
    ("typed", "words_of_error"),
    [
        ({"until": ""}, "enter both times of the range"),
        ({"until": "2026-11-21T00:00"}, "the time range is empty"),
        ({"format": "pdf"}, "format: expected csv, parquet, xlsx, got &#39;pdf&#39;"),
        ({"since": "soon"}, "since: expected a time"),
        ({"project": "Moon"}, "no vehicle passes the filter"),
    ],
)
def test_what_is_refused_stays_typed(fleet, visit, typed, words_of_error):
    answer = visit("carol").post("/exports", **FORM | typed, q="TEST")
    assert answer.status_code == 422
    assert words_of_error in answer.text
    assert 'value="TEST"' in answer.text


def test_who_may_not_export_is_shown_no_way_to_it(fleet, visit):
    vera = visit("vera")
    assert "/exports" not in vera.see("/vehicles")
    assert "/exports" not in vera.see(f"/vehicles/{fleet.vin(1)}/export")
    assert vera.get("/exports").status_code == 403
    assert vera.post("/exports", **FORM).status_code == 403
    assert f'href="/exports?q={fleet.vin(1)}"' in visit("carol").see(f"/vehicles/{fleet.vin(1)}/export")


@pytest.mark.browser
def test_the_list_shows_how_far_it_is(fleet, tab):
    from playwright.sync_api import expect

    page = tab("carol", "/vehicles?project=Harbour")
    page.get_by_role("link", name="Export these vehicles").click()
    page.get_by_label("To (not included)").fill("2026-11-23T00:00")
    page.get_by_role("button", name="Export", exact=True).click()
    expect(page.get_by_text("Waiting")).to_be_visible()
    page.locator("h1").click()
    finish(fleet)
    expect(page.get_by_text("Done", exact=True)).to_be_visible()
    with page.expect_download() as download:
        page.get_by_role("link", name="bmsota-export-1.csv").click()
    assert download.value.suggested_filename == "bmsota-export-1.csv"
