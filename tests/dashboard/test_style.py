"""The colours of text in the page's style: legible in both themes, by the contrast that WCAG 2.1 asks for (AA)."""

import itertools
import re

import pytest

from gradscope.dashboard.content import STATIC

LEAST = 4.5
Colour = tuple[float, float, float]

TEXT = ("ink", "faint", "critical", "warning", "info", "sound", "unjudged")
ON_FILLS = (("on-critical-fill", "critical-fill"), ("on-warning-fill", "warning-fill"))


def variables(selector: str) -> dict[str, str]:
    """Return the variables that the style sets for `selector`."""
    style = (STATIC / "style.css").read_text(encoding="utf-8")
    (block,) = re.findall(rf"^{re.escape(selector)} \{{(.*?)^\}}", style, re.MULTILINE | re.DOTALL)
    return dict(re.findall(r"--([\w-]+): ([^;]+);", block))


THEMES = {"light": variables(":root"), "dark": variables(":root") | variables(":root.dark")}


def colour(text: str) -> Colour:
    assert re.fullmatch("#[0-9a-f]{6}", text)
    red, green, blue = (int(text[i : i + 2], 16) / 255 for i in (1, 3, 5))
    return red, green, blue


def luminance(of: Colour) -> float:
    linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in of]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


def contrast(text: str, ground: str) -> float:
    dark, light = sorted((luminance(colour(text)), luminance(colour(ground))))
    return (light + 0.05) / (dark + 0.05)


def test_contrast_is_that_of_the_standard() -> None:
    assert contrast("#000000", "#ffffff") == pytest.approx(21)
    assert contrast("#777777", "#ffffff") == pytest.approx(4.48, abs=0.005)


@pytest.mark.parametrize("theme", THEMES)
@pytest.mark.parametrize(("text", "ground"), [*itertools.product(TEXT, ("paper", "card")), *ON_FILLS])
def test_text_is_legible(theme: str, text: str, ground: str) -> None:
    names = THEMES[theme]
    assert contrast(names[text], names[ground]) >= LEAST


@pytest.mark.parametrize("theme", THEMES)
@pytest.mark.parametrize("name", ["accent", "mark", *(f"run-{i}" for i in range(6))])
def test_lines_stand_out(theme: str, name: str) -> None:
    names = THEMES[theme]
    assert contrast(names[name], names["paper"]) >= 3
    assert contrast(names[name], names["card"]) >= 3


@pytest.mark.parametrize("theme", THEMES)
def test_a_tooltip_is_legible(theme: str) -> None:
    assert contrast(THEMES[theme]["paper"], THEMES[theme]["ink"]) >= LEAST
