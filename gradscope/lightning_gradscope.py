"""What Lightning and TensorBoard find of GradScope, installed as a module of its own: `lightning_gradscope`.

Neither guards itself against an entry point that cannot be loaded: every Trainer, or all of TensorBoard, would fail to
start wherever the installed metadata and the `gradscope` on the path disagree, as after a checkout of another version,
or where the unrelated package of that name lies over this one. So the metadata names this file. It is installed by the
side of the metadata, even where the installation is editable, and goes only with it; it imports nothing of `gradscope`
before it is asked to, and stands in for what it does not find. Its name and those in it stay, in every version to come.
"""

import contextlib
import logging
import os
from typing import Any


def callbacks() -> list[Any]:
    """Return the callbacks that a new Trainer gets: none, and nothing is imported, unless GRADSCOPE is set."""
    if not os.environ.get("GRADSCOPE", "").strip():
        return []
    try:
        from gradscope.lightning.environment import callbacks as asked_for

        return asked_for()
    except Exception as error:
        _say("is off although the environment asks for it", error)
        return []


def __getattr__(name: str) -> Any:
    # PEP 562: Lightning imports this module as well, and must not wait for TensorBoard.
    if name != "GradScopeLoader":
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    try:
        from gradscope.dashboard.entry import GradScopeLoader

        return GradScopeLoader
    except Exception as error:
        from tensorboard.plugins.base_plugin import TBLoader

        _say("has no tab in TensorBoard", error)
        return TBLoader  # which loads nothing


def _say(what: str, error: Exception) -> None:
    cause = "another package may lie over it, or another version stand before it on the path"
    with contextlib.suppress(Exception):  # a handler of the user's may raise
        logging.getLogger("gradscope").warning(
            "GradScope: %s (%s: %s): %s; reinstall lightning-gradscope", what, type(error).__name__, error, cause
        )
