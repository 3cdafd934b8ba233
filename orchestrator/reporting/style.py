"""How figures look: one drawing, in fixed colours for a paper and in the page's own colours for a page."""

import io
import re
from html import escape
from typing import Any

import matplotlib
from matplotlib.axes import Axes
from matplotlib.figure import Figure

# Each colour of a drawing stands for a role; on the page, a style sheet gives it for light, dark and print.
# Blue and vermillion are Okabe and Ito's, told apart by every kind of colour vision; lines differ in their
# dashes too, and the five shades in lightness.
TEXT, MUTED, GRID, PAPER = "#1b1f23", "#57606b", "#d9dde2", "#fefefe"
BEST, BASE, FRONT = "#0072b2", "#b8480a", "#00755a"
SHADES = ("#d3e2ef", "#a6c6e0", "#6ba2cb", "#2e75ad", "#0b3d75")
"""From worst to best, by fifths of the trials."""
ON_SHADES = ("#1b1f24", "#1b1f25", "#1b1f26", "#fefefd", "#fefefc")
"""Text on them; each is a colour of its own, so that the page can give it another."""

ROLES = {
    TEXT: "currentColor",
    MUTED: "var(--muted)",
    GRID: "var(--grid)",
    PAPER: "var(--paper)",
    BEST: "var(--best)",
    BASE: "var(--base)",
    FRONT: "var(--front)",
    **{colour: f"var(--shade{i})" for i, colour in enumerate(SHADES)},
    **{colour: f"var(--on-shade{i})" for i, colour in enumerate(ON_SHADES)},
}
SETTINGS: Any = {
    "font.family": "sans-serif",
    "font.size": 10,
    "axes.titlesize": 10,
    "text.color": TEXT,
    "axes.labelcolor": TEXT,
    "axes.edgecolor": MUTED,
    "axes.facecolor": "none",
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.unicode_minus": True,
    "xtick.color": MUTED,
    "ytick.color": MUTED,
    "xtick.labelcolor": TEXT,
    "ytick.labelcolor": TEXT,
    "grid.color": GRID,
    "grid.linewidth": 0.8,
    "legend.frameon": False,
    "legend.fontsize": 9,
    "lines.linewidth": 1.6,
    "svg.fonttype": "none",
}
WIDTH_IN = 5.0
"""Width of a figure; on a phone's screen its letters are then still readable."""


def canvas(height_in: float, width_in: float = WIDTH_IN) -> tuple[Figure, Axes]:
    """An empty drawing. To be called, as all that draws on it, within `styled`."""
    figure = Figure(figsize=(width_in, height_in), layout="constrained")
    return figure, figure.add_subplot()


def stack(height_in: float, count: int) -> tuple[Figure, list[Axes]]:
    """The same with `count` axes above one another, each of that height."""
    figure = Figure(figsize=(WIDTH_IN, height_in * count + 0.4), layout="constrained")
    return figure, [figure.add_subplot(count, 1, place) for place in range(1, count + 1)]


def styled() -> Any:
    """Within, figures are drawn in this style."""
    return matplotlib.rc_context(SETTINGS)


def to_png(figure: Figure) -> bytes:
    """For papers and slides, on white, 300 dots per inch."""
    with styled(), io.BytesIO() as file:
        figure.draw_without_rendering()
        figure.savefig(file, format="png", dpi=300, facecolor="white", metadata={"Software": ""})
        return file.getvalue()


def to_svg(figure: Figure, name: str, words: str) -> str:
    """For a page, in the page's colours, with `words` in place of it for whoever cannot see it."""
    with styled(), matplotlib.rc_context({"svg.hashsalt": name}), io.StringIO() as file:
        # Marks along an axis follow from its length, and that from their width: one layout more settles both.
        figure.draw_without_rendering()
        figure.savefig(file, format="svg", transparent=True, metadata={"Date": None, "Creator": None})
        text = file.getvalue()
    text = re.sub(r"<metadata>.*?</metadata>", "", text[text.index("<svg") :], flags=re.S)
    # Ids are one space in a page, and matplotlib's are those of a file.
    text = re.sub(r'(\sid="|url\(#|href="#)', rf"\g<1>{name}-", text)
    text = re.sub(r"#[0-9a-f]{6}\b", lambda found: ROLES.get(found[0], found[0]), text)
    box = re.search(r'viewBox="[^"]*"', text)
    assert box is not None
    label = escape(words, quote=True)
    return f'<svg xmlns="http://www.w3.org/2000/svg" xmlns:xlink="http://www.w3.org/1999/xlink" {box[0]} ' + (
        f'role="img" aria-label="{label}">' + text[text.index(">") + 1 :]
    )


def fifth_of(value: float, values: list[float], sign: int) -> int:
    """The shade of a value among all `values`: 0 for the worst fifth of them, 4 for the best."""
    worse = sum(sign * other < sign * value for other in values)
    return min(4, 5 * worse // max(1, len(values)))
