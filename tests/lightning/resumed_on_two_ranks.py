"""A fit on two processes of a CPU that is resumed, to be run as a script: each rank writes down what it recorded.

``python -m tests.lightning.resumed_on_two_ranks FOLDER``
"""

import json
import sys
from pathlib import Path

import torch
from pytorch_lightning.strategies import DDPStrategy

from gradscope import GradScope
from tests.models import Batches, Classifier, mlp, trainer


def main(folder: Path) -> None:
    """Fit for 30 steps with a budget, resume, and fit up to step 70."""
    outcome = []
    checkpoint = folder / "here.ckpt"
    for steps in (30, 70):
        torch.manual_seed(0)
        scope = GradScope(budget=1.0, summary=False, on_finding="stop")
        strategy = DDPStrategy(process_group_backend="gloo")
        options = {"devices": 2, "strategy": strategy, "use_distributed_sampler": False, "max_epochs": -1}
        fitter = trainer(scope, max_steps=steps, **options)
        fitter.fit(Classifier(mlp()), Batches(), ckpt_path=checkpoint if checkpoint.exists() else None)
        fitter.save_checkpoint(checkpoint)
        outcome.append({"steps": scope.run.steps.tolist(), "ledger": scope.run.ledger.steps})
    (folder / f"{fitter.global_rank}.json").write_text(json.dumps(outcome))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
