"""The runs under a directory while they are written: read as they grow, judged again where they changed."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, NamedTuple

from gradscope.records import Finding, Run, Severity
from gradscope.rules import diagnose

if TYPE_CHECKING:
    from gradscope.events.reading import LogReader


class Judged(NamedTuple):
    """A run and what is wrong with it."""

    run: Run
    findings: Sequence[Finding]


class News(NamedTuple):
    """What a look brought: whether anything is other than before, and findings that were not there at the last one."""

    changed: bool
    findings: tuple[tuple[Run, Finding], ...]


class Watch:
    """Looks at the runs that `reader` reads, again and again."""

    def __init__(self, reader: "LogReader") -> None:
        self._reader = reader
        self._judged: dict[str, Judged] = {}

    @property
    def judged(self) -> list[Judged]:
        """The runs as they were at the last look, the one that was written to last first."""
        return sorted(self._judged.values(), key=lambda one: -_last_time(one.run))

    def look(self) -> News:
        """Read what is new, and judge the runs that have something new; all are new at the first look.

        Raises:
            OSError: the directory cannot be read.
        """
        before, runs = self._judged, self._reader.read()
        # A run without news is the same object as before.
        self._judged = {
            name: before[name] if name in before and before[name].run is run else Judged(run, diagnose(run))
            for name, run in runs.items()
        }
        changed = before.keys() != runs.keys() or any(before[name].run is not run for name, run in runs.items())
        known = {(name, finding.code, finding.severity) for name, one in before.items() for finding in one.findings}
        fresh = [
            (one.run, finding)
            for name, one in self._judged.items()
            for finding in one.findings
            if finding.severity > Severity.INFO and (name, finding.code, finding.severity) not in known
        ]
        return News(changed, tuple(fresh))


def _last_time(run: Run) -> float:
    return float(run.wall_times[-1]) if len(run.wall_times) else 0.0
