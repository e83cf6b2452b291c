"""The logs that the browser tests look at: two real fits, and two runs of which every cell is known."""

import math
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
from pytorch_lightning.loggers import TensorBoardLogger
from torch import nn

from gradscope import GradScope
from gradscope.records import Floats, Layer, Metric, Record
from tests.dashboard.served import ACT_MEAN, GRAD_NORM, NONFINITE, Log
from tests.models import Batches, Classifier, mlp, trainer

NAN, INF = math.nan, math.inf
ACT_VAR = Metric("act_var", "activation variance", "value", {"self_normalizing": (0.8, 1.5)})
DEAD = Metric("dead_fraction", "dead units", "fraction", {"rectifier": (0.0, 0.4)})
LAYERS = (
    Layer("encoder.0.conv", "Conv2d", "convolution"),
    Layer("encoder.0.act", "SELU", "self_normalizing"),
    Layer("encoder.1.conv", "Conv2d", "convolution"),
    Layer("encoder.1.act", "SELU", "self_normalizing"),
    Layer("gate", "ReLU", "rectifier"),
    Layer("head", "Linear", "linear"),
)
RECORDS = 12
WEIGHTS, SELUS, RECTIFIERS = [0, 2, 5], [1, 3], [4]


def metrics_by_name() -> dict[str, npt.NDArray[np.float64]]:
    """Return what the run "cells" holds, float64[records, layers] by metric."""
    t = np.arange(RECORDS)
    cells = {name: np.full((RECORDS, len(LAYERS)), NAN) for name in ("grad_norm", "act_mean", "act_var", DEAD.name)}
    for layer, decade in zip(WEIGHTS, (-5, -3, -0.5), strict=True):
        cells["grad_norm"][:, layer] = 10.0 ** (decade + 0.11 * t)
    cells["nonfinite"] = np.zeros((RECORDS, len(LAYERS)))
    cells["grad_norm"][3, 0], cells["nonfinite"][3, 0] = NAN, 1  # was measured, and was NaN
    cells["grad_norm"][4, 2], cells["nonfinite"][4, 2] = INF, 1
    cells["grad_norm"][5, 2] = 0
    cells["grad_norm"][6, 5] = NAN  # was not measured
    cells["act_mean"][:, SELUS] = np.stack([0.09 * np.cos(t), 0.06 * (t - 5.5)], axis=1)
    cells["act_mean"][3, 1], cells["nonfinite"][3, 1] = NAN, 4
    cells["act_mean"][7, 3] = NAN
    cells["act_var"][:, SELUS] = np.stack([1 + 0.04 * t, 10.0 ** (0.2 * (t - 6))], axis=1)
    cells[DEAD.name][:, RECTIFIERS[0]] = t / 11
    return cells


def records(scale: float = 1.0) -> list[Record]:
    """Return the records of "cells"; the gradients times `scale`."""
    cells = {name: values.astype(np.float32) for name, values in metrics_by_name().items()}
    cells["grad_norm"] *= np.float32(scale)
    return [
        Record(
            step,
            1000.0 + step,
            LAYERS,
            {k: v[step] for k, v in cells.items()},
            {"loss": 2.5 - 0.1 * step, "skipped": 0.0},
        )
        for step in range(RECORDS)
    ]


def drawn(metric: str) -> Floats:
    """Return what the page has to draw of "cells", float32[records, rows]: +inf for what was measured but is lost."""
    cells = metrics_by_name()
    values = cells[metric].astype(np.float32)
    where = {"grad_norm": 1, "act_mean": 4, "act_var": 4}.get(metric, 0)
    values[np.isnan(values) & ((cells["nonfinite"].astype(int) & where) > 0)] = INF
    rows = {"grad_norm": WEIGHTS, "act_mean": SELUS, "act_var": SELUS, DEAD.name: RECTIFIERS}
    shown: Floats = values[:, rows.get(metric, list(range(len(LAYERS))))]
    return shown


def write_logs(logdir: Path) -> None:
    columns = (GRAD_NORM, ACT_MEAN, ACT_VAR, DEAD, NONFINITE)
    Log(logdir / "cells" / "events.out.tfevents.1.host", columns).add(*records())
    Log(logdir / "calm" / "events.out.tfevents.1.host", columns).add(*records(scale=1e3))
    fit(logdir, "selu", nn.SELU)
    fit(logdir, "sigmoid", nn.Sigmoid)


def fit(logdir: Path, name: str, activation: type[nn.Module]) -> None:
    """Train a deep net for real: of sigmoids the gradient vanishes."""
    torch.manual_seed(0)
    deep = mlp(activation, (20, *[16] * 8, 4))
    scope = GradScope(every_n_steps=1, summary=False, on_finding="ignore")
    logger = TensorBoardLogger(logdir, name="fit", version=name)
    trainer(scope, logger=logger).fit(Classifier(deep), Batches(number=20))
