"""Lines for whoever watches the training, which leave its progress bars whole."""

import contextlib
import logging
import sys
from collections.abc import Iterator

_logger = logging.getLogger("gradscope")


def say(message: str) -> None:
    """Log `message` as a warning of GradScope, in a line above the progress bars."""
    # Not `warnings.warn`: where the user turns warnings into errors it would end the training. Nor must a handler or a
    # bar of the user's that raises: then nobody can be told, and what there was to say stands in the summary.
    with contextlib.suppress(Exception), _above_tqdm(), _above_rich():
        _logger.warning("GradScope: %s", message)


def _above_tqdm() -> contextlib.AbstractContextManager[None]:
    """Take tqdm's bars away, and draw them anew afterwards: each leaves the cursor at the end of its line."""
    tqdm = sys.modules.get("tqdm")  # who has no bar need not wait for it
    return tqdm.tqdm.external_write_mode() if tqdm is not None else contextlib.nullcontext()


@contextlib.contextmanager
def _above_rich() -> Iterator[None]:
    """Let handlers that hold on to the bare stderr write to the one that rich has put in its place."""
    bare = getattr(sys.stderr, "rich_proxied_file", None)
    handlers = [h for h in _handlers() if isinstance(h, logging.StreamHandler) and h.stream is bare is not None]
    try:
        for handler in handlers:
            handler.setStream(sys.stderr)
        yield
    finally:
        for handler in handlers:
            handler.setStream(bare)


def _handlers() -> Iterator[logging.Handler]:
    """All handlers that a record of ours reaches."""
    logger: logging.Logger | None = _logger
    while logger is not None:
        yield from logger.handlers
        logger = logger.parent if logger.propagate else None
