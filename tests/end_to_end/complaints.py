"""What goes wrong in a browser without a test asking for it."""

import re
from urllib.parse import urlsplit

from playwright.sync_api import BrowserContext, ConsoleMessage, Dialog, Page, Request, WebError, WebSocket

_NOT_OURS = re.compile("Multiple instances of Three.js")
"""What TensorBoard itself complains of."""


class Complaints:
    """Of all pages of a context: messages of the console, errors, dialogs, and requests to anybody but `host`."""

    def __init__(self, context: BrowserContext, host: str) -> None:
        self.host = host
        self.requests: list[str] = []
        self._found: list[str] = []
        self._expected: list[str] = []
        context.on("console", self._console)
        context.on("weberror", self._error)
        context.on("dialog", self._dialog)
        context.on("request", self._request)
        context.on("page", self._page)

    def check(self) -> None:
        """Fail if there is anything to complain of since the last time."""
        found, self._found = self._found, []
        expected, self._expected = self._expected, []
        unexpected = [text for text in found if not any(part in text for part in expected)]
        assert not unexpected, "\n".join(unexpected)

    def expect(self, part: str) -> None:
        """Let what contains `part` pass, until the next `check`."""
        self._expected.append(part)

    def _console(self, message: ConsoleMessage) -> None:
        if message.type in ("error", "warning", "assert") and not _NOT_OURS.search(message.text):
            self._found.append(f"{message.type}: {message.text}")

    def _error(self, error: WebError) -> None:
        self._found.append(f"error: {error.error}")

    def _dialog(self, dialog: Dialog) -> None:
        self._found.append(f"dialog: {dialog.message}")
        dialog.dismiss()

    def _request(self, request: Request) -> None:
        self._ask(request.url)

    def _page(self, page: Page) -> None:
        page.on("websocket", self._websocket)

    def _websocket(self, socket: WebSocket) -> None:
        self._ask(socket.url)

    def _ask(self, url: str) -> None:
        address = urlsplit(url)
        if address.scheme in ("data", "blob"):
            return
        self.requests.append(url)
        if address.netloc != self.host:
            self._found.append(f"foreign request: {url}")
