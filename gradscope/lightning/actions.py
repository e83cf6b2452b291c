"""What is done about a finding when it appears: nothing, a line, the end of the fit, an error."""

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from enum import IntEnum
from typing import NamedTuple

from gradscope.ranks.voices import Voices
from gradscope.records import Finding, Severity, Stop
from gradscope.wording import counted, one_line


class Action(IntEnum):
    """What to do about a finding, the mildest first."""

    IGNORE = 0
    WARN = 1
    STOP = 2
    RAISE = 3

    def __str__(self) -> str:
        return self.name.lower()


DEFAULT_ACTIONS: Mapping[Severity, Action] = {
    Severity.INFO: Action.IGNORE,
    Severity.WARNING: Action.WARN,
    Severity.CRITICAL: Action.WARN,
}


class GradScopeError(RuntimeError):
    """Ends a fit that was asked to raise on such a finding."""

    def __init__(self, finding: Finding) -> None:
        super().__init__(finding)  # by which it is pickled on its way out of a process
        self.finding = finding
        """For which the fit was ended."""

    def __str__(self) -> str:
        return _described(self.finding)


class Ending(NamedTuple):
    """How a fit is to end, and why."""

    action: Action
    finding: Finding


class Actions:
    """Decides what is done about the findings of one fit.

    A finding is told by its code: it is acted on when it appears and when its severity rises, and not again. Findings
    are judged on rank zero alone, so that of several ranks each has to ask for what is `agreed`.
    """

    def __init__(self, policy: Mapping[Severity, Action], say: Callable[[str], None]) -> None:
        self.stopped: Finding | None = None
        """The finding for which the fit was ended."""
        self.stop: Stop | None = None
        self.unseen: dict[str, str] = {}
        """Why nothing is done any more, where acting failed."""
        self._policy = policy
        self._say = say
        self._known: dict[str, Severity] = {}
        self._ending: Ending | None = None
        self._asked_at = 0

    def known(self) -> dict[str, Severity]:
        """Return the findings that something was done about, by code; not the one the fit is still to end for."""
        open_ = self._ending.finding.code if self._ending is not None and self.stopped is None else None
        return {code: severity for code, severity in self._known.items() if code != open_}

    def restore(self, known: Mapping[str, Severity]) -> None:
        """Go on from a fit in which something was done about the `known` findings: it is not done again."""
        self._known = dict(known)

    def hear(self, findings: Sequence[Finding], step: int) -> None:
        """Act on what is new among `findings`, which were found at `step`: say it, and take note of how to end."""
        self._hear(findings, step, " GradScope stops the fit.")

    def hear_the_last(self, findings: Sequence[Finding], step: int, reported: bool) -> None:
        """Do so when the fit is over, and say nothing if it is `reported` anyway."""
        self._hear(findings, step, None if reported else "")

    def wants_agreement(self, step: int) -> bool:
        """Say whether ranks have anything to agree on before `step`, whose batches may be several: asked once."""
        asked, self._asked_at = self._asked_at == step, step
        return not asked and self.may_end_the_fit

    @property
    def may_end_the_fit(self) -> bool:
        """Whether some finding could."""
        return max(self._policy.values()) >= Action.STOP

    def agreed(self, voices: Voices | None) -> Ending | None:
        """Return how the fit is to end: on all of several ranks as rank zero wants. All ask at the same step."""
        if voices is None or not self.may_end_the_fit:
            return self._ending
        return voices.broadcast(self._ending) if voices.reduce_boolean_decision(bool(self._ending), all=False) else None

    def carry_out(self, ending: Ending, step: int) -> None:
        """Take note that the fit ends like that at `step`."""
        if self.stopped is None or ending.action is Action.RAISE:
            self.stopped, self.stop = ending.finding, Stop(step, ending.finding.code)

    def _hear(self, findings: Sequence[Finding], step: int, if_it_stops: str | None) -> None:
        """Act; where that fails it is over with acting, and everything else goes on."""
        if self.unseen:
            return
        try:
            for finding, action in self._new(findings):
                if action in (Action.WARN, Action.STOP) and if_it_stops is not None:
                    self._say(announcement(finding, step) + (if_it_stops if action is Action.STOP else ""))
        except Exception as error:
            self.unseen["on_finding"] = f"nothing is done about findings after {type(error).__name__}: {error}"

    def _new(self, findings: Sequence[Finding]) -> Iterator[tuple[Finding, Action]]:
        for finding in findings:
            if finding.severity > self._known.get(finding.code, 0):
                self._known[finding.code] = finding.severity
                action = self._policy[finding.severity]
                if action >= Action.STOP and (self._ending is None or action > self._ending.action):
                    self._ending = Ending(action, finding)
                yield finding, action


def announcement(finding: Finding, step: int) -> str:
    """Return the line that tells of a `finding` made at `step`: what, where, and the first cure."""
    seen = max(step, finding.first_step)  # a NaN may be born after the last record
    return f"{str(finding.severity).upper()} at step {seen}: {_described(finding)}"


def _described(finding: Finding) -> str:
    cure = _first_sentence(finding.hint).partition(";")[0].rstrip(".")
    cause = f", which follows from {finding.cause}" if finding.cause else ""
    return one_line(f"{finding.code} in {_where(finding)}{cause}: {_first_sentence(finding.message)} Cure: {cure}.")


def _where(finding: Finding) -> str:
    if not finding.layers:
        return "the whole net"
    others = len(finding.layers) - 1
    return finding.layers[0] + (f" and {counted(others, 'other layer')}" if others else "")


def _first_sentence(text: str) -> str:
    # Not at every full stop: layers are called `net.1`, and losses 2.3.
    return re.split(r"(?<=[.!?])\s+(?=[A-Z])", text, maxsplit=1)[0]
