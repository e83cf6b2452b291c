"""Single keys from a terminal, without Enter."""

import contextlib
import os
import re
import select
import sys
import time
from collections.abc import Iterator


class Keyboard:
    """Gives the keys that were pressed; where stdin is no terminal, none."""

    def __init__(self, descriptor: int | None) -> None:
        self._descriptor = descriptor

    def wait(self, seconds: float) -> list[str]:
        """Return the keys that were pressed within `seconds`, as soon as any is. An arrow is three characters."""
        if self._descriptor is None:
            time.sleep(seconds)
            return []
        ready, _, _ = select.select([self._descriptor], [], [], seconds)
        if not ready:
            return []
        pressed = os.read(self._descriptor, 64).decode(errors="replace")
        if not pressed:  # the terminal is gone
            raise KeyboardInterrupt
        return re.findall(r"\x1b\[[A-Z]|.", pressed, re.DOTALL)


@contextlib.contextmanager
def keyboard() -> Iterator[Keyboard]:
    """Make the terminal give single keys, and leave it as it was."""
    try:
        import termios
        import tty
    except ImportError:  # not a POSIX system: Ctrl-C is the way out
        yield Keyboard(None)
        return
    if sys.stdin is None or not sys.stdin.isatty():
        yield Keyboard(None)
        return
    descriptor = sys.stdin.fileno()
    before = termios.tcgetattr(descriptor)
    try:
        tty.setcbreak(descriptor)
        yield Keyboard(descriptor)
    finally:
        termios.tcsetattr(descriptor, termios.TCSADRAIN, before)
