"""The GradScope that the environment asks for."""

from __future__ import annotations

from typing import TYPE_CHECKING

from gradscope.lightning.callback import GradScope
from gradscope.lightning.packages import Callback

if TYPE_CHECKING:
    import pytorch_lightning as pl  # of either package


class AttachedGradScope(GradScope):
    """One that leaves a Trainer which has another: the user's own knows better."""

    def setup(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        """Look at the callbacks when all are there: some come with the model, or are added to the Trainer by hand."""
        callbacks: list[Callback] = trainer.callbacks  # type: ignore[attr-defined]  # undeclared
        others = [callback for callback in callbacks if callback is not self]
        if any(isinstance(callback, GradScope) for callback in others):
            trainer.callbacks = others  # type: ignore[attr-defined]  # not in place: Lightning is on its way through it
        else:
            super().setup(trainer, pl_module, stage)
