"""Write the log that is kept of the present format, and the numbers that it holds: `python -m tests.logs.write`.

To be run once for each `FORMAT_VERSION`, by the code that introduces it; what there is it leaves as it is.
"""

import json
import sys
from collections.abc import Mapping
from dataclasses import fields, is_dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytorch_lightning as pl
import torch
from pytorch_lightning.loggers import TensorBoardLogger
from torch import nn

from gradscope import GradScope, load
from gradscope.events.decoding import FORMAT_VERSION
from tests.models import Batch, Batches, Classifier, trainer

FOLDER = Path(__file__).parent


class LosesItsWay(Classifier):
    """A classifier whose inputs are infinite from batch 9 on."""

    def training_step(self, batch: Batch, batch_idx: int) -> torch.Tensor | None:
        factor = torch.inf if self.global_step >= 9 else 1.0
        return super().training_step((batch[0] * factor, batch[1]), batch_idx)


def plain(value: Any) -> Any:
    """Return `value` as what JSON knows: fields and items by name, arrays and tuples as lists."""
    if is_dataclass(value):
        return {field.name: plain(getattr(value, field.name)) for field in fields(value)}
    if isinstance(value, Mapping):
        return {key: plain(item) for key, item in value.items()}
    if isinstance(value, np.ndarray):
        return value.tolist()
    return [plain(item) for item in value] if isinstance(value, (list, tuple)) else value


def fit(folder: Path) -> None:
    """Log a net of every kind of activation: clipped, resumed, and broken at the end."""
    torch.manual_seed(0)
    net = nn.Sequential(
        *(nn.Linear(20, 8), nn.Sigmoid(), nn.Linear(8, 8), nn.ReLU(), nn.Linear(8, 8), nn.SELU(), nn.Linear(8, 4))
    )
    options: dict[str, Any] = {"gradient_clip_val": 0.5}
    model, checkpoint = LosesItsWay(net, 0.5), folder / "checkpoint"
    for steps, resumed in ((8, None), (12, checkpoint)):
        logger = TensorBoardLogger(folder, name="", version="")
        scope = GradScope(every_n_steps=1, summary=False, log=["tensors", "scalars", "verdicts"])
        kept = pl.callbacks.ModelCheckpoint(folder, filename="checkpoint", every_n_train_steps=6)
        given = trainer(scope, kept, logger=logger, enable_checkpointing=True, max_epochs=2, max_steps=steps, **options)
        given.fit(model, Batches(), ckpt_path=resumed and str(checkpoint.with_suffix(".ckpt")))
    for other in (*folder.glob("*.ckpt"), *folder.glob("hparams.yaml")):
        other.unlink()


def main() -> str | None:
    """Write the folder of `FORMAT_VERSION`; return what is wrong."""
    folder = FOLDER / f"format_{FORMAT_VERSION}"
    if folder.exists():
        return f"{folder} is there already, and is meant to stay as it is"
    fit(folder)
    (run,) = load(folder).values()
    (folder / "expected.json").write_text(json.dumps(plain(run)) + "\n", encoding="utf-8")
    return None


if __name__ == "__main__":
    sys.exit(main())
