"""What is said of each disease, word for word.

After a change that is meant: ``python -m tests.rules.test_messages > tests/rules/golden/messages.txt``, and read it.
"""

from pathlib import Path

import pytest

from gradscope import Severity, diagnose, rules
from gradscope.explanations import EXPLANATIONS
from gradscope.rules import RULES, Rule
from tests.rules.sick_runs import otherwise_sick_runs, sick_runs

GOLDEN = Path(__file__).parent / "golden" / "messages.txt"


def told() -> str:
    paragraphs = []
    for what, run in {**sick_runs(), **otherwise_sick_runs()}.items():
        lines = [f"# {what}"]
        for f in diagnose(run):
            follows = f", follows from {f.cause}" if f.cause else ""
            where = ", ".join(f.layers) or "the whole net"
            lines.append(f"{f.severity} {f.code} in {where}, {f.first_step} to {f.last_step}{follows}")
            evidence = ", ".join(f"{name} {value:.4g}" for name, value in f.evidence.items())
            lines += [f"  {f.message}", f"  -> {f.hint}", f"  ({evidence})"]
        paragraphs.append("\n".join(lines))
    return "\n\n".join(paragraphs) + "\n"


def test_the_words_are_the_ones_that_were_read_last() -> None:
    assert told() == GOLDEN.read_text(encoding="utf-8")


def test_there_is_a_run_for_every_code() -> None:
    found = {finding.code for run in sick_runs().values() for finding in diagnose(run)}
    assert found == set(EXPLANATIONS)


@pytest.mark.parametrize("rule", [r for r in RULES if r.__name__ in EXPLANATIONS], ids=lambda rule: rule.__name__)
def test_no_other_rule_finds_what_a_rule_finds(rule: Rule, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rules, "RULES", tuple(r for r in RULES if r is not rule))
    warnings = {f.code for run in sick_runs().values() for f in diagnose(run) if f.severity > Severity.INFO}
    assert rule.__name__ not in warnings


if __name__ == "__main__":
    print(told(), end="")
