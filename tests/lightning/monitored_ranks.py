"""A fit on two processes of a CPU, to be run as a script: each rank writes down what it could monitor, and its end.

``python -m tests.lightning.monitored_ranks FOLDER``
"""

import json
import os
import sys
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
from pytorch_lightning.callbacks import EarlyStopping, ModelCheckpoint
from pytorch_lightning.strategies import DDPStrategy
from torch import nn

from gradscope import GradScope
from tests.models import Batches, Validated, mlp, trainer


class Notes(pl.Callback):
    """What there is to monitor whenever validation ends."""

    def __init__(self) -> None:
        self.seen: list[dict[str, float]] = []

    def on_validation_end(self, trainer: pl.Trainer, *_: Any) -> None:
        if not trainer.sanity_checking:
            ours = {k: v.item() for k, v in trainer.callback_metrics.items() if k.startswith("gradscope/")}
            self.seen.append(ours)


def main(folder: Path) -> None:
    """Fit a net whose rectifiers are dead from the start: rank zero alone judges it."""
    rank, net = int(os.environ.get("LOCAL_RANK", "0")), mlp()
    nn.init.constant_(net.get_parameter("0.bias"), -100.0)
    notes, stopping = Notes(), EarlyStopping("gradscope/critical_findings", patience=99, divergence_threshold=0.5)
    checkpoint = ModelCheckpoint(folder, monitor="gradscope/total_norm")
    fitter = trainer(
        stopping,
        notes,
        checkpoint,
        GradScope(every_n_steps=4, summary=False),
        devices=2,
        strategy=DDPStrategy(process_group_backend="gloo"),
        use_distributed_sampler=False,
        enable_checkpointing=True,
        limit_val_batches=1,
        val_check_interval=3,
        max_epochs=9,
    )
    fitter.fit(Validated(net, lr=1e-3), Batches(number=6, seed=rank), Batches(1))
    score = checkpoint.best_model_score
    outcome = {
        "steps": fitter.global_step,
        "seen": notes.seen,
        "best": None if score is None else score.item(),
        "path": checkpoint.best_model_path,
    }
    (folder / f"{fitter.global_rank}.json").write_text(json.dumps(outcome))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
