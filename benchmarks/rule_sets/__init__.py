"""The rules of other tools, written anew after their documentation and papers, and those of folklore, to compare with.

They watch the same fit, and see all of it: every step and every element. No tool knows all labels of the zoo; a label
that it does not know it cannot report.
"""

from rule_sets.autotrainer import AutoTrainer
from rule_sets.folklore import Folklore
from rule_sets.sagemaker import SageMaker
from rule_sets.torchmortem import Torchmortem
from rule_sets.watch import RuleSet

RULE_SETS: dict[str, type[RuleSet]] = {
    "SageMaker": SageMaker,
    "AutoTrainer": AutoTrainer,
    "torchmortem": Torchmortem,
    "folklore": Folklore,
}
"""By the name that the tables know them by."""
