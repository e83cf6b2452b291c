"""Requests and responses: what every route of the tab has in common, and the files of its page."""

import logging
from collections.abc import Callable, Iterable
from typing import Any
from urllib.parse import urlsplit

from tensorboard.backend import http_util
from werkzeug.wrappers import Request, Response

from gradscope.dashboard.content import STATIC, to_json

TYPES = {".js": "text/javascript", ".css": "text/css", ".svg": "image/svg+xml"}
"""All that is served from `STATIC`."""

Answer = Callable[[Request], Response]
Application = Callable[[dict[str, Any], Callable[..., Any]], Iterable[bytes]]

_logger = logging.getLogger("gradscope")


class Refusal(Exception):  # noqa: N818, it is no error of ours
    """Why a request is not answered: the status code, and a sentence that says what to do."""

    def __init__(self, code: int, sentence: str) -> None:
        super().__init__(sentence)
        self.code = code


def application(answer: Answer) -> Application:
    """Return `answer` as a WSGI application, which refuses what is not a GET from this very page and never raises."""

    @Request.application
    def served(request: Request) -> Response:
        try:
            _check(request)
            return answer(request)
        except Refusal as refusal:
            return _error(request, refusal.code, str(refusal))
        except Exception:
            _logger.exception("GradScope: %s could not be answered", request.path)
            sentence = (
                "GradScope failed to answer; reload the page, and if it stays so report what TensorBoard's output says"
            )
            return _error(request, 500, sentence)

    return served


def json_response(request: Request, content: object) -> Response:
    """Return `content` as JSON, compressed where the browser takes it."""
    return _respond(request, to_json(content), "application/json")


def binary_response(request: Request, content: bytes) -> Response:
    """Return `content` as it is."""
    return _respond(request, content, "application/octet-stream")


def argument(request: Request, name: str) -> str:
    """Return a parameter of the query, which may be empty.

    Raises:
        Refusal: it is missing.
    """
    value = request.args.get(name)
    if value is None:
        raise Refusal(400, f"the parameter `{name}` is missing; give it in the address")
    return value


def shortened(name: str) -> str:
    """Return `name` in quotes, cut where it is huge."""
    return repr(name if len(name) <= 80 else f"{name[:80]}…")


def static_file(request: Request) -> Response:
    """Answer with a file of the page.

    Raises:
        Refusal: there is no such file, or it is none of the page's.
    """
    # A name is looked up and never made a path of: there is nothing to escape to.
    name = request.path.partition("/static/")[2]
    files = {p.name: p for p in STATIC.glob("[!.]*") if p.suffix in TYPES and p.is_file()}
    if name not in files:
        raise Refusal(404, f"there is no file {shortened(name)}; reload the page")
    return _respond(request, files[name].read_bytes(), TYPES[files[name].suffix])


def _check(request: Request) -> None:
    if request.method != "GET":
        raise Refusal(405, "only GET is answered here; nothing can be changed")
    if request.headers.get("Sec-Fetch-Site") == "cross-site" or _is_foreign(request):
        raise Refusal(403, "only TensorBoard's own page is answered; open the tab there")


def _is_foreign(request: Request) -> bool:
    origin = request.headers.get("Origin")
    if origin is None:
        return False
    try:
        return urlsplit(origin).netloc.lower() != request.host.lower()
    except ValueError:
        return True


def _error(request: Request, code: int, sentence: str) -> Response:
    response = _respond(request, to_json({"error": sentence}), "application/json", code)
    if code == 405:
        response.headers["Allow"] = "GET"
    return response


def _respond(request: Request, content: bytes, content_type: str, code: int = 200) -> Response:
    response: Response = http_util.Respond(request, content, content_type, code=code)
    return response
