"""The LightningModule of all examples: a network that tells ten classes apart, trained with cross-entropy."""

import pytorch_lightning as pl
import torch
import torch.nn.functional as F
from torch import Tensor, nn


class Classifier(pl.LightningModule):
    """Trains `network` with cross-entropy; by default with Adam, see `configure_optimizers`.

    Logs `{train,val,test}_loss` (mean cross-entropy in nats) and `{train,val,test}_accuracy` (a fraction). A batch is
    a pair of images float32[N, 1, 28, 28] and labels int64[N], N ≥ 1.
    """

    def __init__(self, network: nn.Module, learning_rate: float = 1e-3) -> None:
        super().__init__()
        self.learning_rate = learning_rate
        self.network = network

    def forward(self, images: Tensor) -> Tensor:
        """Return the logits float32[N, 10] of images float32[N, 1, 28, 28]."""
        logits: Tensor = self.network(images)
        return logits

    def training_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> Tensor:
        """Log `train_loss` and `train_accuracy`, and return the loss, a float32 scalar."""
        return self._loss("train", batch)

    def validation_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> Tensor:
        """Log `val_loss` and `val_accuracy`, and return the loss, a float32 scalar."""
        return self._loss("val", batch)

    def test_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> Tensor:
        """Log `test_loss` and `test_accuracy`, and return the loss, a float32 scalar."""
        return self._loss("test", batch)

    def configure_optimizers(self) -> torch.optim.Optimizer:
        """Return Adam over all parameters."""
        return torch.optim.Adam(self.parameters(), lr=self.learning_rate)

    def _loss(self, split: str, batch: tuple[Tensor, Tensor]) -> Tensor:
        images, labels = batch
        logits = self(images)
        loss = F.cross_entropy(logits, labels)
        accuracy = (logits.argmax(dim=1) == labels).float().mean()
        self.log_dict({f"{split}_loss": loss, f"{split}_accuracy": accuracy}, prog_bar=True)
        return loss
