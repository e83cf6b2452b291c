"""What is said of each disease, word for word.

After a change that is meant: ``python -m tests.rules.test_messages > tests/rules/golden/messages.txt``, and read it.
"""

from pathlib import Path

from gradscope import diagnose
from gradscope.rules import RULES
from tests.rules.sick_runs import sick_runs

GOLDEN = Path(__file__).parent / "golden" / "messages.txt"


def told() -> str:
    paragraphs = []
    for what, run in sick_runs().items():
        lines = [f"# {what}"]
        for f in diagnose(run):
            follows = f", follows from {f.cause}" if f.cause else ""
            where = ", ".join(f.layers) or "the whole net"
            lines.append(f"{f.severity} {f.code} in {where}, {f.first_step} to {f.last_step}{follows}")
            lines += [f"  {f.message}", f"  -> {f.hint}"]
        paragraphs.append("\n".join(lines))
    return "\n\n".join(paragraphs) + "\n"


def test_the_words_are_the_ones_that_were_read_last() -> None:
    assert told() == GOLDEN.read_text(encoding="utf-8")


def test_there_is_a_run_for_every_rule() -> None:
    found = {finding.code for run in sick_runs().values() for finding in diagnose(run)}
    assert found >= {rule.__name__ for rule in RULES} - {"selu_misconfigured", "preflight_remarks"}


if __name__ == "__main__":
    print(told(), end="")
