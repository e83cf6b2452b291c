"""GradScope in the configuration of LightningCLI, of either package."""

import importlib
from pathlib import Path
from typing import Any

import pytest
from torch import nn

from gradscope import GradScope, Severity, Thresholds
from gradscope.lightning.actions import Action

pytest.importorskip("jsonargparse", reason="jsonargparse, which LightningCLI needs, is not installed")
pytestmark = pytest.mark.filterwarnings("ignore")  # the two packages do not always keep pace with each other

CONFIG = """\
trainer:
  max_epochs: 1
  accelerator: cpu
  logger: false
  enable_checkpointing: false
  enable_progress_bar: false
  enable_model_summary: false
  callbacks:
    - class_path: gradscope.GradScope
      init_args:
        every_n_steps: 5
        summary: false
        layers: ["!*.2"]
        on_finding: {critical: stop}
        log: [scalars]
        thresholds:
          class_path: gradscope.Thresholds
          init_args: {dead_fraction: 0.6, selu_mean: [-0.2, 0.2]}
"""
SHORT = """\
  callbacks:
    class_path: gradscope.GradScope
    init_args: {every_n_steps: 5, summary: false, thresholds: {dead_fraction: 0.6}}
"""


@pytest.fixture(params=["pytorch_lightning", "lightning.pytorch"])
def package(request: pytest.FixtureRequest) -> Any:
    return pytest.importorskip(request.param, reason=f"{request.param} is not installed")


def fitted(package: Any, config: str, folder: Path) -> GradScope:
    """Fit with `config` and return the GradScope that it made."""
    from tests.models import Batches

    class Small(package.LightningModule):  # type: ignore[misc]  # of either package
        def __init__(self) -> None:
            super().__init__()
            self.net = nn.Sequential(nn.Linear(20, 16), nn.ReLU(), nn.Linear(16, 4))

        def training_step(self, batch: Any, batch_idx: int) -> Any:
            return self.net(batch[0]).square().mean()

        def configure_optimizers(self) -> Any:
            from torch.optim import SGD

            return SGD(self.parameters(), lr=0.1)

        def train_dataloader(self) -> Any:
            return Batches(number=16)

    (folder / "config.yaml").write_text(config)
    kind = importlib.import_module(f"{package.__name__}.cli").LightningCLI
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("sys.argv", ["train.py", "fit", f"--config={folder / 'config.yaml'}"])
        cli = kind(Small, save_config_callback=None, seed_everything_default=False)
    (scope,) = [callback for callback in cli.trainer.callbacks if isinstance(callback, GradScope)]
    return scope


def test_options_and_thresholds_from_yaml(package: Any, tmp_path: Path) -> None:
    scope = fitted(package, CONFIG, tmp_path)
    assert scope.thresholds == Thresholds(dead_fraction=0.6, selu_mean=(-0.2, 0.2))
    assert scope.on_finding == {
        Severity.INFO: Action.IGNORE,
        Severity.WARNING: Action.WARN,
        Severity.CRITICAL: Action.STOP,
    }
    assert [layer.name for layer in scope.run.layers] == ["net.0", "net.1"]
    assert list(scope.run.steps) == [*range(11), 15]
    assert scope.run.coverage.unseen.keys() <= {"layers"}


def test_one_callback_without_a_list_and_thresholds_as_a_mapping(package: Any, tmp_path: Path) -> None:
    scope = fitted(package, CONFIG[: CONFIG.index("  callbacks")] + SHORT, tmp_path)
    assert scope.thresholds == Thresholds(dead_fraction=0.6)
    assert list(scope.run.steps) == [*range(11), 15]


@pytest.mark.parametrize(
    ("right", "wrong", "word"),
    [
        ("dead_fraction", "dead_fracton", "'dead_fracton' is not accepted"),
        ("every_n_steps", "every_step", "'every_step' is not accepted"),
        ("0.6", "6", "`dead_fraction` must be a number in (0, 1], got 6"),
        ("{critical: stop}", "{critical: explode}", "`on_finding` must name actions among"),
    ],
)
def test_what_is_wrong_in_yaml_is_named(
    right: str, wrong: str, word: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises((SystemExit, ValueError, TypeError)) as error:
        fitted(pytest.importorskip("pytorch_lightning"), CONFIG.replace(right, wrong), tmp_path)
    assert word in capsys.readouterr().err + str(error.value)
