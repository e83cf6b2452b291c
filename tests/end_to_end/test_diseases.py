"""Real sick nets on real MNIST, logged, read back and judged: the verdict by name, from callback and command alike."""

import itertools
import json
from pathlib import Path

import pytest
import pytorch_lightning as pl
import torch
import torch.nn.functional as F
from activation_cnn import ACTIVATIONS
from mnist_data import MNISTDataModule
from pytorch_lightning.loggers import TensorBoardLogger
from torch import Tensor, nn

from gradscope import GradScope
from gradscope.cli import main

pytestmark = pytest.mark.slow

STEPS = 200


class MLP(pl.LightningModule):
    """A stack of linear layers on flat images, with torch's default initialisation."""

    def __init__(self, activation: str, hidden: int, width: int = 64) -> None:
        super().__init__()
        sizes = [28 * 28, *[width] * hidden, 10]
        self.net = nn.Sequential(nn.Flatten())
        for i, (fan_in, fan_out) in enumerate(itertools.pairwise(sizes)):
            if i:
                self.net.append(ACTIVATIONS[activation]())
            self.net.append(nn.Linear(fan_in, fan_out))

    def linear_layers(self) -> list[nn.Linear]:
        return [module for module in self.net if isinstance(module, nn.Linear)]

    def training_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> Tensor:
        return F.cross_entropy(self.net(batch[0]), batch[1])

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.Adam(self.parameters(), lr=1e-3)


def sigmoid_mlp() -> MLP:
    return MLP("sigmoid", hidden=10)


def relu_mlp_with_biases_of_minus_five() -> MLP:
    model = MLP("relu", hidden=4)
    for linear in model.linear_layers()[:-1]:
        nn.init.constant_(linear.bias, -5.0)
    return model


def selu_mlp(nonlinearity: str) -> MLP:
    model = MLP("selu", hidden=8)
    for linear in model.linear_layers():
        nn.init.kaiming_normal_(linear.weight, nonlinearity=nonlinearity)  # type: ignore[arg-type]
        nn.init.zeros_(linear.bias)
    return model


def verdict(model: MLP, accelerator: str, mnist_dir: Path, tmp_path: Path) -> dict[str, str]:
    """Train for `STEPS` steps; return code → severity, after checking that the log tells the same."""
    if accelerator == "cuda" and not torch.cuda.is_available():
        pytest.skip("needs a CUDA device")
    scope = GradScope(summary=False)
    trainer = pl.Trainer(
        accelerator=accelerator,
        devices=1,
        max_steps=STEPS,
        logger=TensorBoardLogger(tmp_path, name="", version="run"),
        callbacks=[scope],
        limit_val_batches=0,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
    )
    data = MNISTDataModule(mnist_dir)
    data.setup("fit")
    trainer.fit(model, data.train_dataloader())
    found = {finding.code: str(finding.severity) for finding in scope.findings}
    assert found == logged_verdict(tmp_path)
    return found


def logged_verdict(logdir: Path) -> dict[str, str]:
    with pytest.MonkeyPatch.context() as patch:
        written: list[str] = []
        patch.setattr("gradscope.cli.summary.write", written.append)
        assert main(["summary", str(logdir), "--json"]) == 0
    (run,) = json.loads("".join(written))["runs"]
    return {finding["code"]: finding["severity"] for finding in run["findings"]}


on_every_device = pytest.mark.parametrize("accelerator", ["cpu", "cuda"])


@on_every_device
def test_ten_layers_of_sigmoids_vanish(accelerator: str, mnist_dir: Path, tmp_path: Path) -> None:
    assert verdict(sigmoid_mlp(), accelerator, mnist_dir, tmp_path) == {"vanishing_gradient": "critical"}


@on_every_device
def test_biases_of_minus_five_kill_a_relu_net(accelerator: str, mnist_dir: Path, tmp_path: Path) -> None:
    found = verdict(relu_mlp_with_biases_of_minus_five(), accelerator, mnist_dir, tmp_path)
    assert found == {"dead_relu": "critical"}


@on_every_device
def test_a_kaiming_initialised_selu_net_drifts(accelerator: str, mnist_dir: Path, tmp_path: Path) -> None:
    found = verdict(selu_mlp("relu"), accelerator, mnist_dir, tmp_path)
    assert found == {"selu_misconfigured": "warning", "selu_drift": "warning"}


@on_every_device
def test_a_lecun_initialised_selu_net_gets_no_warning(accelerator: str, mnist_dir: Path, tmp_path: Path) -> None:
    assert set(verdict(selu_mlp("linear"), accelerator, mnist_dir, tmp_path).values()) <= {"info"}


@on_every_device
def test_a_shallow_relu_net_is_sound(accelerator: str, mnist_dir: Path, tmp_path: Path) -> None:
    assert verdict(MLP("relu", hidden=3), accelerator, mnist_dir, tmp_path) == {}
