"""A training script that knows nothing of GradScope unless it is told to: it writes down what became of its Trainers.

``python tests/unchanged.py PACKAGE FOLDER [own|first|late|model]``, where PACKAGE is `lightning.pytorch` or
`pytorch_lightning`, and the last says how a GradScope of its own comes to the Trainer.
"""

import importlib
import json
import sys
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader

package, folder, *own = sys.argv[1:]
if own == ["first"]:
    pass  # before either package is imported
pl: Any = importlib.import_module(package)


class Model(pl.LightningModule):  # type: ignore[misc]  # of either package
    def __init__(self) -> None:
        super().__init__()
        self.net = nn.Sequential(nn.Linear(8, 16), nn.ReLU(), nn.Linear(16, 2))

    def training_step(self, batch: Tensor, batch_idx: int) -> Any:
        return self.net(batch).square().mean()

    def configure_optimizers(self) -> Any:
        return torch.optim.SGD(self.parameters(), lr=0.1)

    def configure_callbacks(self) -> list[Any]:
        return [gradscope()] if own == ["model"] else []


def gradscope() -> Any:
    from gradscope import GradScope

    return GradScope(every_n_steps=7, summary=False)


def fitted(where: Path) -> dict[str, Any]:
    pl.seed_everything(1, verbose=False)
    trainer = pl.Trainer(
        callbacks=gradscope() if own in (["own"], ["first"]) else None,
        logger=[pl.loggers.TensorBoardLogger(where, name="", version=""), pl.loggers.CSVLogger(where / "csv")],
        max_epochs=1,
        gradient_clip_val=0.1,
        enable_progress_bar=False,
        enable_model_summary=False,
        accelerator="cpu",
        log_every_n_steps=1,
    )
    if own == ["late"]:
        trainer.callbacks.append(gradscope())
    model = Model()
    trainer.fit(model, DataLoader([*torch.randn(60, 8)], batch_size=4))  # type: ignore[arg-type]
    scopes = [c for c in trainer.callbacks if "GradScope" in type(c).__name__]
    return {
        "callbacks": sorted(type(c).__name__ for c in trainer.callbacks),
        "steps": [scope.run.steps.tolist() for scope in scopes],
        "off": [dict(scope.run.coverage.unseen) for scope in scopes],
        "weights": [parameter.tolist() for parameter in model.parameters()],
    }


if __name__ == "__main__":
    outcomes = [fitted(Path(folder) / str(i)) for i in range(2)]
    modules = sorted(name for name in sys.modules if name.split(".")[0] == "gradscope")
    content = {"argv": sys.argv, "modules": modules, "fits": outcomes}
    (Path(folder) / "outcome.json").write_text(json.dumps(content))
