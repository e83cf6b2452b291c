"""What the programs print."""

from collections.abc import Iterable

import torch
from interleave import ATTACHED, RECORDED, Cost, Spread
from rich.box import SIMPLE_HEAD
from rich.console import Console, RenderableType
from rich.table import Table

CADENCES = (1, 10, 50)


def show(*renderables: RenderableType) -> None:
    Console(width=120, highlight=False, markup=False).print(*renderables)


def table(title: str, *columns: str) -> Table:
    """Return a table whose first column is text, and the others numbers."""
    empty = Table(title=title, title_justify="left", caption_justify="left", box=SIMPLE_HEAD)
    for i, column in enumerate(columns):
        empty.add_column(column, justify="right" if i else "left")
    return empty


def costs(title: str, rows: Iterable[tuple[str, Cost]]) -> Table:
    filled = table(title, "net", "plain, ms", "attached, ms", "recorded, ms", *(f"every {n}" for n in CADENCES))
    for name, cost in rows:
        extra = [milliseconds(cost.extra[kind]) for kind in (ATTACHED, RECORDED)]
        filled.add_row(name, f"{cost.plain.median * 1e3:.1f}", *extra, *(f"{cost.ratio(n):.3f}" for n in CADENCES))
    return filled


def milliseconds(extra: Spread) -> str:
    """Return the median and, in brackets, the quartiles of what a step takes beyond a plain one."""
    median, low, high = (f"{s * 1e3:+.2f}" if abs(s) < 0.01 else f"{s * 1e3:+.1f}" for s in extra)
    return f"{median} [{low}, {high}]"


def device_name(device: str) -> str:
    name = torch.cuda.get_device_name() if device == "cuda" else f"CPU, {torch.get_num_threads()} thread(s)"
    return f"{name}, torch {torch.__version__}"
