"""The parts that reports are set of: the head of a run, its findings, what was not seen and what it cost."""

import math
from collections.abc import Iterator, Sequence

import numpy as np
import numpy.typing as npt
from rich.console import Console, Group, RenderableType
from rich.text import Text

from gradscope.records import (
    CLIP_COEFFICIENT,
    LOSS,
    LOSS_SCALE,
    NONFINITE_LOSS,
    SKIPPED,
    TOTAL_NORM,
    Coverage,
    Finding,
    Flight,
    Overhead,
    Run,
    Severity,
)
from gradscope.report.depth_profile import depth_profile
from gradscope.report.page import STYLES, Page
from gradscope.report.sign import sign_of
from gradscope.report.sparkline import sparkline
from gradscope.summary import verdict
from gradscope.wording import brief, counted


def head(page: Page, run: Run, findings: Sequence[Finding]) -> Iterator[RenderableType]:
    """Yield the first lines: name and extent, the verdict, loss, gradient norms, and what went wrong on the way."""
    extent = [counted(len(run.steps), "record"), counted(len(run.layers), "layer")]
    if len(run.steps):
        extent.insert(1, page.steps(int(run.steps[0]), int(run.steps[-1])))
    yield from _flow(page, [Text(page.name(run.name, page.width), style="bold"), *(Text(e, "dim") for e in extent)])
    mark = sign_of(page, run, findings)
    yield page.item(mark.plain, [page.text(verdict(run, findings), str(mark.style))], str(mark.style))
    if run.stop is not None:
        yield Text(f"GradScope stopped the fit at step {run.stop.step}: {page.visible(run.stop.code)}", style="yellow")
    yield from _flow(page, [*_loss(page, run), *_depth(page, run), *_norms(run), *_mishaps(run)])


def _flow(page: Page, pieces: Sequence[Text]) -> Iterator[Text]:
    """Set `pieces` side by side, in as many lines as they need: a line breaks between two pieces, not within one."""
    line = Text()
    for piece in pieces:
        if line and line.cell_len + 3 + piece.cell_len > page.width:
            yield line
            line = Text()
        line = Text.assemble(line, "   ", piece) if line else piece
    if line:
        yield line


def _loss(page: Page, run: Run) -> Iterator[Text]:
    loss = run.series(LOSS)
    finite = loss[np.isfinite(loss)]
    if finite.size:
        line = sparkline(loss, min(16, page.width // 4), page.glyphs.ramp, least_decades=0.25)
        first, last = f"{finite[0]:.3g}", f"{finite[-1]:.3g}"
        yield Text.assemble(("loss ", "dim"), f"{first} {page.glyphs.arrow} {last}  ", (line, "cyan"))


def _depth(page: Page, run: Run) -> Iterator[Text]:
    profile = depth_profile(page, run)
    if profile is not None:
        yield profile


def has_colour(console: Console) -> bool:
    """Say whether `console` shows colours: told not to, rich keeps a colour system and drops the styles."""
    return console.color_system is not None and not console.no_color


def last_loss(run: Run) -> str:
    """Return the last finite loss, empty where there is none."""
    loss = run.series(LOSS)
    finite = loss[np.isfinite(loss)]
    return f"{finite[-1]:.3g}" if finite.size else ""


def _norms(run: Run) -> Iterator[Text]:
    total, clip = run.series(TOTAL_NORM), run.series(CLIP_COEFFICIENT)
    total, clip = total[np.isfinite(total)], clip[np.isfinite(clip)]
    if total.size:
        yield Text.assemble(("total gradient norm ", "dim"), f"{total[-1]:.3g}")
    if (clip < 1).any():
        yield Text.assemble(("clipped to ", "dim"), f"{clip.min():.3g}", (" at worst", "dim"))


def _mishaps(run: Run) -> Iterator[Text]:
    for name, what in ((NONFINITE_LOSS, "loss not finite"), (SKIPPED, "optimizer step skipped")):
        if times := int((np.nan_to_num(run.series(name)) != 0).sum()):
            yield Text(f"{what} in {counted(times, 'record')}", style="yellow")
    if run.ledger.skipped:
        yield Text(f"{run.ledger.skipped:,} of {counted(run.ledger.steps, 'optimizer step')} skipped", style="yellow")
    scale = run.series(LOSS_SCALE)
    if np.isfinite(scale).any():
        yield Text.assemble(("loss scale ", "dim"), f"{scale[np.isfinite(scale)][-1]:,.0f}")


def finding_item(page: Page, finding: Finding) -> RenderableType:
    """Return a finding: what happened, where, since when, and what to change."""
    style = STYLES[finding.severity]
    head = Text.assemble(
        (str(finding.severity), style),
        " ",
        (page.visible(finding.code), "bold"),
        (f"  {page.steps(finding.first_step, finding.last_step)}", "dim"),
        (f"  follows from {page.visible(finding.cause)}" if finding.cause else "", "dim"),
    )
    layers = Text(page.names(finding.layers) if finding.layers else "the whole net", "dim")
    what = page.item(page.glyphs.signs[finding.severity], [head, layers, page.text(finding.message)], style)
    return Group(what, page.item(page.glyphs.arrow, [page.text(finding.hint)], "green"))


def flight_item(page: Page, flight: Flight) -> RenderableType:
    """The last steps before a critical finding, every one of them: loss and gradient norm over all that was kept."""
    norms = np.sqrt(np.square(flight.grad_norm.astype(np.float64)).sum(axis=1, where=~np.isnan(flight.grad_norm)))
    norms[np.isnan(flight.grad_norm).all(axis=1) if flight.layers else slice(None)] = np.nan
    lines = [Text(f"the {counted(len(flight.steps), 'step')} before, {_first_to_last(page, flight.steps)}", "dim")]
    for what, values in (("loss", flight.loss), ("gradient norm", norms)):
        if np.isfinite(values).any():
            line = sparkline(values, min(24, page.width // 3), page.glyphs.ramp, least_decades=0.25)
            ends = f"{values[0]:.3g} {page.glyphs.arrow} {values[-1]:.3g}  "
            lines.append(Text.assemble((f"{what} ", "dim"), ends, (line, "cyan")))
    return page.item("", lines)


def _first_to_last(page: Page, steps: npt.NDArray[np.int64]) -> str:
    return page.steps(int(steps[0]), int(steps[-1])) if len(steps) else "none"


def coverage_items(page: Page, coverage: Coverage) -> Iterator[RenderableType]:
    """Yield what was measured, and what was not, by the reason."""
    if coverage.measured:
        counts = ", ".join(f"{number:,} {page.visible(what)}" for what, number in coverage.measured.items())
        yield page.item(page.glyphs.dash, [Text.assemble(("measured: ", "dim"), counts)], "dim")
    by_reason: dict[str, list[str]] = {}
    for name, reason in coverage.unseen.items():
        by_reason.setdefault(reason, []).append(name)
    for reason, names in by_reason.items():
        line = Text.assemble(("not seen: ", "dim"), page.names(names), (f" ({page.visible(reason)})", "dim"))
        yield page.item(page.glyphs.signs[Severity.INFO], [line], STYLES[Severity.INFO])


def note_items(page: Page, run: Run) -> Iterator[RenderableType]:
    """Yield what was wrong with the log."""
    for note in run.notes:
        yield page.item(page.glyphs.signs[Severity.WARNING], [page.text(note)], STYLES[Severity.WARNING])


def overhead_line(overhead: Overhead) -> Iterator[Text]:
    """Yield what GradScope cost, where that is known."""
    share = overhead.gradscope_seconds / overhead.fit_seconds if overhead.fit_seconds > 0 else math.nan
    if math.isfinite(share):
        records = counted(overhead.records, "record")
        took = f"{brief(100 * share)} % of {_seconds(overhead.fit_seconds)} on the host over {records}"
        if overhead.every_n_steps:
            took += f", one every {counted(overhead.every_n_steps, 'step')}"
        yield Text(f"GradScope took {took}", style="dim")


def _seconds(seconds: float) -> str:
    return f"{brief(seconds)} s"
