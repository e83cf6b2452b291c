"""Lightning under both its names: `lightning` and `pytorch_lightning` hold the same code, and classes of their own."""

from contextlib import suppress
from importlib import import_module
from operator import attrgetter
from types import ModuleType
from typing import TYPE_CHECKING, Any


def _installed() -> tuple[ModuleType, ...]:
    packages = []
    for name in ("lightning.pytorch", "pytorch_lightning"):
        with suppress(Exception):  # one that is broken must not stand in the way of the other
            packages.append(import_module(name))
    if not packages:
        # Once more, for what is wrong with it.
        packages.append(import_module("pytorch_lightning"))
    return tuple(packages)


# What is imported already does not tell whose Trainer will come: `from gradscope import GradScope` may be a script's
# first line, and a library may import the other name. The second of them takes 0.1 s beside the first.
PACKAGES = _installed()


def classes(name: str) -> tuple[type[Any], ...]:
    """Return the class `name`, "loggers.TensorBoardLogger" say, of each package: one or two."""
    return tuple(attrgetter(name)(package) for package in PACKAGES)


if TYPE_CHECKING:
    from pytorch_lightning import Callback as Callback
else:
    Callback = type("Callback", classes("Callback"), {"__module__": __name__, "__doc__": "A callback of either's."})
