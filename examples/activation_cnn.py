"""A small convolutional network for MNIST whose activation is chosen by name."""

from collections import OrderedDict
from collections.abc import Callable
from functools import partial

import pytorch_lightning as pl
import torch
import torch.nn.functional as F
from torch import Tensor, nn

ACTIVATIONS: dict[str, Callable[[], nn.Module]] = {
    "sigmoid": nn.Sigmoid,
    "relu": nn.ReLU,
    "elu": partial(nn.ELU, alpha=0.2),
    "leaky_relu": partial(nn.LeakyReLU, negative_slope=0.2),
    "selu": nn.SELU,
    "gelu": partial(nn.GELU, approximate="tanh"),
}


class ActivationCNN(nn.Sequential):
    """Two convolutions and two dense layers with the same activation between them.

    Takes float32[N, 1, 28, 28], standardised to mean 0 and variance 1, and gives logits float32[N, 10]; N may be 0.
    Each activation is a module of its own, so that each can be watched by its name.

    SELU keeps its outputs near mean 0 and variance 1 only with LeCun-normal weights and a dropout that preserves
    both moments (Klambauer et al. 2017), so it alone gets them; the others keep the initialisation of PyTorch.

    Raises:
        ValueError: `activation` is not a key of `ACTIVATIONS`.
    """

    def __init__(self, activation: str = "relu") -> None:
        if activation not in ACTIVATIONS:
            raise ValueError(f"`activation` must be one of {', '.join(ACTIVATIONS)}; got {activation!r}")
        build = ACTIVATIONS[activation]
        dropout = nn.AlphaDropout if activation == "selu" else nn.Dropout
        super().__init__(
            OrderedDict(
                conv1=nn.Conv2d(1, 32, kernel_size=3),
                act1=build(),
                conv2=nn.Conv2d(32, 64, kernel_size=3),
                act2=build(),
                pool=nn.MaxPool2d(2),
                dropout1=dropout(0.25),
                flatten=nn.Flatten(),
                dense1=nn.Linear(64 * 12 * 12, 128),
                act3=build(),
                dropout2=dropout(0.5),
                dense2=nn.Linear(128, 10),
            )
        )
        if activation == "selu":
            self.apply(lecun_normal_)


def lecun_normal_(module: nn.Module) -> None:
    """Draw the weights of a convolution or dense layer from N(0, 1/fan_in) and zero its bias; leave others alone."""
    if isinstance(module, nn.Conv2d | nn.Linear):
        nn.init.kaiming_normal_(module.weight, nonlinearity="linear")
        if module.bias is not None:
            nn.init.zeros_(module.bias)


class MNISTClassifier(pl.LightningModule):
    """Trains an `ActivationCNN` with cross-entropy and Adam.

    Logs `{train,val,test}_loss` (mean cross-entropy in nats) and `{train,val,test}_accuracy` (a fraction). A batch is
    a pair of images float32[N, 1, 28, 28] and labels int64[N], N ≥ 1.

    Raises:
        ValueError: `activation` is not a key of `ACTIVATIONS`.
    """

    def __init__(self, activation: str = "relu", learning_rate: float = 1e-3) -> None:
        super().__init__()
        self.save_hyperparameters()
        self.learning_rate = learning_rate
        self.network = ActivationCNN(activation)

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
