"""The gradient over depth in one line: vanishing is a slope."""

import numpy as np
from rich.text import Text

from gradscope.records import Run
from gradscope.report.page import Page
from gradscope.report.sparkline import sparkline
from gradscope.rules.persistence import median

LONGEST = 32


def depth_profile(page: Page, run: Run) -> Text | None:
    """Return the median of `grad_norm` over the records, layer by layer from the input to the loss.

    None where fewer than two layers have it.
    """
    norms = run.metric("grad_norm")
    norms = norms[:, ~np.isnan(norms).all(axis=0)]
    medians = median(np.where(np.isfinite(norms), norms, np.nan))
    known = medians[np.isfinite(medians)]
    if len(medians) < 2 or not len(known):
        return None
    line = sparkline(medians, min(LONGEST, page.width // 3), page.glyphs.ramp)
    ends = f"{known[0]:.2e} {page.glyphs.arrow} {known[-1]:.2e}  "
    return Text.assemble(("gradient over depth ", "dim"), ends, (line, "cyan"))
