"""The page's modules in a browser, without TensorBoard: what a test calls in them, and what it gets back."""

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import numpy as np
from playwright.sync_api import Page

from gradscope.dashboard.content import STATIC
from gradscope.records import Floats


class Module:
    """One module of the page, imported by `page` from `address`."""

    def __init__(self, page: Page, address: str) -> None:
        self.page, self._address = page, address

    def call(self, function: str, *given: Any) -> Any:
        """Call what the module exports by this name."""
        return self.run(f"(m, ...given) => m.{function}(...given)", *given)

    def run(self, function: str, *given: Any) -> Any:
        """Call `function`, written in JavaScript, with the module and with what else is `given`."""
        return self.page.evaluate(
            f"async (given) => {{const m = await import('{self._address}'); return ({function})(m, ...given);}}",
            list(given),
        )


class _Quiet(SimpleHTTPRequestHandler):
    def guess_type(self, path: Any) -> str:
        # Some systems have another type for it, which a browser takes no module of.
        return "text/javascript" if str(path).endswith(".js") else super().guess_type(path)

    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002 - the library's own name
        pass


@contextmanager
def served_modules() -> Iterator[str]:
    """Serve the page's files on a free port of 127.0.0.1; gives the address, and stops the server at the end."""
    with ThreadingHTTPServer(("127.0.0.1", 0), partial(_Quiet, directory=str(STATIC))) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_port}"
        finally:
            server.shutdown()
            thread.join()


def floats(values: Any) -> Floats:
    """Return what JavaScript gave as an array, in the precision that the page draws with."""
    return np.array(values, dtype=np.float32)
