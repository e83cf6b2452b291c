"""Which optimizers tell of their steps."""

from torch.optim import Optimizer


def tells_of_steps(optimizer: Optimizer) -> bool:
    """Say whether torch calls hooks of the step of `optimizer`.

    Lightning takes anything that has the methods of an optimizer, and torch only knows those whose classes went through
    `Optimizer.__init__`: a wrapper around another one often does not, and may have a place for hooks all the same.
    """
    step = getattr(type(optimizer), "step", None)
    return getattr(step, "hooked", False) and hasattr(optimizer, "_optimizer_step_post_hooks")
