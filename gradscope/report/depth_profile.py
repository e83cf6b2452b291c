"""The gradient over depth in one line: vanishing is a slope."""

import math
import warnings

import numpy as np
from rich.text import Text

from gradscope.records import Run
from gradscope.report.page import Page
from gradscope.report.sparkline import sparkline

LONGEST = 32


def depth_profile(page: Page, run: Run) -> Text | None:
    """Return the median of `grad_norm` over the records, layer by layer from the input to the loss.

    None where fewer than two layers have it.
    """
    values = run.metric("grad_norm")
    values = values[:, ~np.isnan(values).all(axis=0)].astype(np.float64) if len(run.steps) else values[:0]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # a layer whose every number is infinite
        medians = np.nanmedian(np.where(np.isfinite(values), values, math.nan), axis=0) if values.size else values[:0]
    if medians.size < 2 or np.isnan(medians).all():
        return None
    known = medians[np.isfinite(medians)]
    line = sparkline(medians, min(LONGEST, page.width // 3), page.glyphs.ramp)
    ends = f"{known[0]:.2e} {page.glyphs.arrow} {known[-1]:.2e}  "
    return Text.assemble(("gradient over depth ", "dim"), ends, (line, "cyan"))
