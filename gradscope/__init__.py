"""GradScope: gradient-health diagnostics for PyTorch Lightning.

Add one callback, ``Trainer(callbacks=[GradScope()])``; read ``gradscope summary lightning_logs`` or TensorBoard.
"""

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from gradscope.events.reading import LogReader, load
    from gradscope.lightning.actions import GradScopeError
    from gradscope.lightning.callback import GradScope
    from gradscope.records import (
        Coverage,
        Finding,
        Flight,
        Layer,
        Ledger,
        Metric,
        NonFinite,
        Origin,
        Overhead,
        RankOutlier,
        Record,
        Run,
        Severity,
        Stop,
    )
    from gradscope.rules import diagnose
    from gradscope.thresholds import Thresholds

__version__ = "0.1.0"

__all__ = [
    "Coverage",
    "Finding",
    "Flight",
    "GradScope",
    "GradScopeError",
    "Layer",
    "Ledger",
    "LogReader",
    "Metric",
    "NonFinite",
    "Origin",
    "Overhead",
    "RankOutlier",
    "Record",
    "Run",
    "Severity",
    "Stop",
    "Thresholds",
    "diagnose",
    "load",
]

_HOME = {
    "GradScope": "lightning.callback",
    "GradScopeError": "lightning.actions",
    "LogReader": "events.reading",
    "Thresholds": "thresholds",
    "diagnose": "rules",
    "load": "events.reading",
}


def __getattr__(name: str) -> object:
    # PEP 562: the command line and TensorBoard's tab import this package, and must not wait for torch.
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_HOME.get(name, 'records')}"), name)


def __dir__() -> list[str]:
    return sorted([*__all__, "__version__"])
