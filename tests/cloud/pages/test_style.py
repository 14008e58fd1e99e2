"""The colours can be read: contrast by WCAG 2.2, computed from the style sheet, in light and dark."""

import re
from importlib.resources import files

import pytest
from bmsota_cloud.pages.realtime_view import HEAT_CLASSES

CSS = files("bmsota_cloud.pages").joinpath("static", "app.css").read_text(encoding="utf-8")


def colours(block):
    return dict(re.findall(r"--([\w-]+): (#[0-9a-f]{6});", block))


def blocks(selector):
    """The bodies of all rules of *selector*: the light one, then the dark one."""
    return re.findall(re.escape(selector) + r" \{([^}]*)\}", CSS)


LIGHT, DARK = (colours(block) for block in blocks(":root"))
OFFLINE_LIGHT, OFFLINE_DARK = (colours(block) for block in blocks('[data-online="no"] > .values'))
SCHEMES = {
    "light": LIGHT,
    "dark": LIGHT | DARK,
    "light, offline": LIGHT | OFFLINE_LIGHT,
    "dark, offline": LIGHT | DARK | OFFLINE_DARK,
}


def luminance(colour):
    parts = [int(colour[place : place + 2], 16) / 255 for place in (1, 3, 5)]
    linear = [part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in parts]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


def contrast(one, other):
    low, high = sorted((luminance(one), luminance(other)))
    return (high + 0.05) / (low + 0.05)


def test_the_formula_is_right():
    """The ends of the scale, and a pair published with WCAG's technique G18 (grey #767676 on white: 4.54)."""
    assert contrast("#000000", "#ffffff") == pytest.approx(21)
    assert contrast("#767676", "#ffffff") == pytest.approx(4.54, abs=0.01)


PAIRS = [
    *[(text, ground) for text in ("ink", "soft", "accent", "good", "bad", "warn") for ground in ("ground", "surface")],
    *[(word, f"{word}-ground") for word in ("good", "bad", "warn", "busy", "idle", "accent")],
    ("accent-ink", "accent"),
    ("ink", "idle-ground"),
    *[("heat-ink", f"heat-{number}") for number in range(HEAT_CLASSES)],
]


@pytest.mark.parametrize("scheme", SCHEMES)
def test_every_text_can_be_read(scheme):
    known = SCHEMES[scheme]
    poor = {
        (text, ground): round(contrast(known[text], known[ground]), 2)
        for text, ground in PAIRS
        if contrast(known[text], known[ground]) < 4.5
    }
    assert poor == {}


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_the_frame_of_an_extreme_stands_out_from_its_cell(scheme):
    """Not text: 3 is enough (WCAG 1.4.11); it is dashed or solid besides."""
    known = SCHEMES[scheme]
    assert contrast(known["edge-max"], known[f"heat-{HEAT_CLASSES - 1}"]) > 2.5
    for edge in ("edge-min", "edge-max"):
        assert contrast(known[edge], known["surface"]) >= 3


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_the_number_of_a_cell_can_be_read_on_every_colour_of_heat(scheme):
    """It is paler than the value: its ink lets the ground through."""
    known = SCHEMES[scheme]
    opacity = float(re.search(r"\.grid-number \{[^}]*opacity: ([0-9.]+)", CSS)[1])
    for heat in range(HEAT_CLASSES):
        ground, ink = known[f"heat-{heat}"], known["heat-ink"]
        mixed = [
            round(opacity * int(ink[at : at + 2], 16) + (1 - opacity) * int(ground[at : at + 2], 16))
            for at in (1, 3, 5)
        ]
        assert contrast("#" + "".join(f"{part:02x}" for part in mixed), ground) >= 4.5


def test_there_is_a_colour_for_every_class_of_heat():
    for number in range(HEAT_CLASSES):
        assert f'[data-heat="{number}"] {{ background: var(--heat-{number}) !important; }}' in CSS


def test_the_style_sheet_asks_nobody_else():
    assert "url(" not in CSS
    assert "@import" not in CSS
