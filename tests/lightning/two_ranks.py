"""A fit on two processes of a CPU, to be run as a script: each rank writes down how its fit ended.

``python -m tests.lightning.two_ranks ACTION FOLDER``
"""

import json
import sys
from pathlib import Path

from pytorch_lightning.strategies import DDPStrategy
from torch import nn

from gradscope import GradScope, GradScopeError
from tests.models import Batches, Classifier, mlp, trainer


def main(action: str, folder: Path) -> None:
    """Fit a net whose rectifiers are dead from the start."""
    net = mlp()
    nn.init.constant_(net.get_parameter("0.bias"), -100.0)
    scope, raised = GradScope(on_finding=action, every_n_steps=4, summary=False), None
    fitter = trainer(
        scope, devices=2, strategy=DDPStrategy(process_group_backend="gloo"), use_distributed_sampler=False
    )
    try:
        fitter.fit(Classifier(net, lr=1e-3), Batches(number=60))
    except GradScopeError as error:
        raised = error.finding.code
    stopped = scope.stopped.code if scope.stopped is not None else None
    outcome = {"steps": fitter.global_step, "stopped": stopped, "raised": raised}
    (folder / f"{fitter.global_rank}.json").write_text(json.dumps(outcome))


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]))
