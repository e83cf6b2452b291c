"""Event files that are not on this machine's disks: whatever fsspec reaches, as Lightning's loggers write there."""

import posixpath
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO

from gradscope.events.event_files import EventFile, Files, LocalFiles, in_order_of_time, is_event_file, natural
from gradscope.wording import one_line


def is_url(path: str) -> bool:
    """Say whether `path` names a protocol, ``s3://`` say."""
    return "://" in path


def files_under(logdir: str) -> Files:
    """Return the place that `logdir` names, a path or an address.

    Raises:
        ValueError: an address whose protocol fsspec does not know, or for which a package is missing.
        OSError: the file system refuses.
    """
    return files_at(logdir) if is_url(logdir) else LocalFiles(Path(logdir))


def files_at(url: str) -> Files:
    """Return the place that `url` names; what is on a local disk is read as such.

    Raises:
        ValueError: fsspec does not know the protocol, or a package is missing that it needs.
        OSError: the file system refuses.
    """
    try:
        from fsspec.core import url_to_fs
        from fsspec.implementations.local import LocalFileSystem

        with _told(url):
            system, root = url_to_fs(url)
    except ImportError as error:
        why = one_line(str(error)).rstrip(".")
        raise ValueError(
            f"`logdir` must be on a file system for which there is a package, got {url!r}: {why}; install it with pip"
        ) from error
    return LocalFiles(Path(root)) if isinstance(system, LocalFileSystem) else RemoteFiles(url, system, root)


class RemoteFiles:
    """A directory or one event file on a file system of fsspec."""

    def __init__(self, url: str, system: Any, root: str) -> None:
        self._url, self._system, self._root = url, system, root

    def exists(self) -> bool:
        """Say whether there is such a file or directory."""
        with _told(self._url):
            return self._info() is not None

    def runs(self) -> dict[str, list[EventFile]]:
        """Return the event files by run; see `Files.runs`."""
        with _told(self._url):
            self._system.invalidate_cache()  # of listings: files grow, and new ones come
            info = self._info()
            if info is None:
                return {}
            if info["type"] == "file":
                return {".": [_remote(info)]} if is_event_file(posixpath.basename(self._root)) else {}
            found = self._system.find(self._root, detail=True)
        runs: dict[str, list[EventFile]] = {}
        for path in filter(lambda path: is_event_file(posixpath.basename(path)), found):
            name = posixpath.dirname(path).removeprefix(self._root).strip("/") or "."
            runs.setdefault(name, []).append(_remote(found[path]))
        return {name: in_order_of_time(runs[name]) for name in sorted(runs, key=natural)}

    @contextmanager
    def open(self, file: EventFile) -> Iterator[BinaryIO]:
        """Open a file; see `Files.open`."""
        try:
            with self._system.open(file.path, "rb") as opened:
                yield opened
        except OSError:
            raise
        except Exception as error:  # the packages behind fsspec raise anything
            raise OSError(_line(error)) from error

    def _info(self) -> Mapping[str, Any] | None:
        try:
            info: Mapping[str, Any] = self._system.info(self._root)
            return info
        except FileNotFoundError:
            return None


def _remote(info: Mapping[str, Any]) -> EventFile:
    path, size = str(info["name"]), info.get("size")
    name = posixpath.basename(path)
    if info.get("type") != "file":
        return EventFile(path, name, problem="not a regular file")
    if not isinstance(size, int):
        return EventFile(path, name, problem="its size is not known")
    return EventFile(path, name, size, version=repr(info))


@contextmanager
def _told(url: str) -> Iterator[None]:
    """Turn what the many packages behind fsspec raise into one sentence; that a package is missing stays as it is."""
    try:
        yield
    except (FileNotFoundError, ImportError):
        raise
    except ValueError as error:
        raise ValueError(
            f"`logdir` must be a path or an address that fsspec knows, got {url!r}: {_line(error)}"
        ) from error
    except Exception as error:
        raise OSError(
            f"`logdir` must be a place that can be read, got {url!r}: {_line(error)}; "
            "check the address, the network and the credentials"
        ) from error


def _line(error: Exception) -> str:
    text = one_line(str(error)).strip()
    return f"{type(error).__name__}: {text}" if text else type(error).__name__
