"""Lightning under both its names: `lightning` and `pytorch_lightning` hold the same code, and classes of their own."""

import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from functools import cache
from importlib import import_module
from operator import attrgetter
from types import ModuleType
from typing import TYPE_CHECKING, Any

RANK_ZERO = "lightning_utilities.core.rank_zero"
NAMES = ("pytorch_lightning", "lightning.pytorch")


def _installed() -> tuple[ModuleType, ...]:
    packages = []
    with _one_voice():
        for name in NAMES:
            with suppress(Exception):  # one that is broken must not stand in the way of the other
                packages.append(import_module(name))
    # Where there is none, once more for what is wrong with it.
    return tuple(packages) or (import_module(NAMES[0]),)


@contextmanager
def _one_voice() -> Iterator[None]:
    """Leave Lightning's messages to the logger that they go to, which the package imported last takes for its own."""
    begun = any(name in sys.modules for name in NAMES)
    kept = getattr(sys.modules.get(RANK_ZERO), "log", None)
    yield
    if begun and kept is not None:
        sys.modules[RANK_ZERO].log = kept  # type: ignore[attr-defined]  # of any module


# What is imported already does not tell whose Trainer will come: `from gradscope import GradScope` may be a script's
# first line, and a library may import the other name. The second of them takes 0.1 s beside the first.
PACKAGES = _installed()


@cache  # it is asked for in every recorded step
def classes(name: str) -> tuple[type[Any], ...]:
    """Return the class `name`, "loggers.TensorBoardLogger" say, of each package: one or two."""
    return tuple(attrgetter(name)(package) for package in PACKAGES)


if TYPE_CHECKING:
    from pytorch_lightning import Callback as Callback
else:
    Callback = type("Callback", classes("Callback"), {"__module__": __name__, "__doc__": "A callback of either's."})
