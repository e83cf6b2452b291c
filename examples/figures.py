"""How the pictures of the examples look, and where they go: no display is needed."""

from pathlib import Path

from matplotlib import style
from matplotlib.figure import Figure

# The palette of Okabe and Ito (2008), which stays apart in the common kinds of colour blindness.
BLACK, VERMILION, ORANGE = "#000000", "#D55E00", "#E69F00"
GREEN, PURPLE, BLUE = "#009E73", "#CC79A7", "#0072B2"

COLORS = {
    "sigmoid": BLACK,
    "relu": VERMILION,
    "elu": ORANGE,
    "leaky_relu": GREEN,
    "selu": PURPLE,
    "gelu": BLUE,
}
"""The color of each activation."""

STYLE = {
    "axes.grid": True,
    "axes.spines.right": False,
    "axes.spines.top": False,
    "axes.titlelocation": "left",
    "axes.titleweight": "bold",
    "font.size": 9.0,
    "grid.alpha": 0.25,
    "legend.edgecolor": "none",
    "legend.framealpha": 0.7,
}


def new_figure(width: float, height: float) -> Figure:
    """Return an empty figure of so many inches; what adds axes to it is to be `styled`."""
    return Figure(figsize=(width, height), layout="constrained")


styled = style.context(STYLE)
"""The decorator of every function that draws: axes made inside it have the style of the examples."""


def save(figure: Figure, path: Path) -> None:
    """Write the picture and say where it is."""
    figure.savefig(path, dpi=130)
    print(f"picture  {path}")
