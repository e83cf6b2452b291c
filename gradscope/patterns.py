"""Glob patterns on the names of layers."""

from collections.abc import Iterable
from dataclasses import dataclass
from fnmatch import fnmatchcase


@dataclass(frozen=True)
class NamePatterns:
    """Glob patterns on names: those without a leading ``!`` include, those with one exclude and win.

    Without an including pattern everything is included. Case counts; ``*`` matches dots too.
    """

    patterns: tuple[str, ...]

    def __call__(self, name: str) -> bool:
        """Say whether `name` is to be watched."""
        includes = [p for p in self.patterns if not p.startswith("!")] or ["*"]
        excludes = [p[1:] for p in self.patterns if p.startswith("!")]
        return any(fnmatchcase(name, p) for p in includes) and not any(fnmatchcase(name, p) for p in excludes)

    def without_match(self, names: Iterable[str]) -> list[str]:
        """Return the patterns that match none of `names`, in order."""
        known = list(names)
        return [p for p in self.patterns if not any(fnmatchcase(name, p.removeprefix("!")) for name in known)]
