"""The program: from the command line to its tables."""

from collections.abc import Iterator
from pathlib import Path

import detection
import pytest
import torch
from detection_tables import ablation, agreement, by_label, by_system, details
from judging import GRADSCOPE, SYSTEMS, Judged, judge, judge_without, rule_names, verdicts
from rich.console import Console
from rich.table import Table
from torch import nn
from zoo import data
from zoo.case import Case, Cure, labels
from zoo.modules import Classifier, ZooModule, mlp, sgd
from zoo.scoring import Outcome

import gradscope.rules
from gradscope.records import Finding, Run, Severity
from tests.hand_written_runs import empty_run


def dead_net() -> ZooModule:
    net = mlp([8, 16, 16, 3], nn.ReLU)
    torch.nn.init.constant_(net.get_parameter("fc2.bias"), -30.0)
    return Classifier(net, sgd(0.05))


DEAD = Case(
    name="dead",
    why="no unit of the second layer can fire",
    make_module=dead_net,
    make_loader=lambda: data.loader(data.teacher_classes(320, 8, 3), batch_size=16),
    steps=40,
    seed=3,
    labels=labels("dead_relu"),
    guilty={"dead_relu": (("net.fc2", "net.act2"),)},
    also_true=labels("no_gradient", "vanishing_gradient", "uneven_learning_speed", "update_ratio_low"),
    cure=Cure("none"),
)
SOUND = Case("sound", "", dead_net, DEAD.make_loader, 40, 3, learns_to=2.0)


def finding(code: str, severity: Severity, *layers: str) -> Finding:
    return Finding(code, severity, layers, 0, 9, "", "")


def outcome(case: Case, *codes: str, noticed: int = 8) -> Outcome:
    return Outcome(case, frozenset((code, "net.act2") for code in codes), dict.fromkeys(codes, noticed), 40)


def rows(table: Table) -> list[list[str]]:
    """Return the cells of each row, as they are printed without colour on a wide terminal."""
    console = Console(width=300, color_system=None, record=True, file=None, quiet=False)
    with console.capture() as capture:
        console.print(table)
    lines = [line for line in capture.get().splitlines() if line.strip()]
    start = next(i for i, line in enumerate(lines) if set(line.strip()) == {"─"})
    return [[cell.strip() for cell in line.split("  ") if cell.strip()] for line in lines[start + 1 :]]


def test_a_dead_layer_is_found_and_named_by_all_who_know_the_code() -> None:
    judged = judge(DEAD, SYSTEMS)
    assert list(judged.outcomes) == list(SYSTEMS)
    for system in ("GradScope", "SageMaker", "torchmortem", "folklore"):
        said = judged.outcomes[system]
        assert "dead_relu" in said.hits
        assert said.named("dead_relu") >= {"net.act2"}
        assert (said.steps, said.error) == (40, "")
    delays = {system: judged.outcomes[system].delay("dead_relu") for system in SYSTEMS}
    assert (delays["SageMaker"], delays["folklore"], delays["torchmortem"]) == (0, 0, 39)
    gradscope_delay = delays["GradScope"]
    assert gradscope_delay is not None
    assert 0 < gradscope_delay < 39
    assert judged.run is not None
    assert gradscope_delay in judged.run.steps


def test_rule_sets_alone_leave_no_run() -> None:
    judged = judge(DEAD, ["SageMaker"])
    assert (list(judged.outcomes), judged.run) == (["SageMaker"], None)


def test_verdicts_are_warnings_and_worse_by_layer() -> None:
    said = verdicts(
        [
            finding("selu_drift", Severity.INFO, "act1"),
            finding("dead_relu", Severity.WARNING, "act1", "act2#2"),
            finding("clipping_dominates", Severity.CRITICAL),
        ]
    )
    assert said == {("dead_relu", "act1"), ("dead_relu", "act2"), ("clipping_dominates", None)}


@pytest.fixture
def two_rules(monkeypatch: pytest.MonkeyPatch) -> None:
    """GradScope with two rules, of which the second is silent where the first speaks."""

    def cause(run: Run) -> Iterator[Finding]:
        yield finding("dead_relu", Severity.WARNING, "net.act2")

    def consequence(run: Run) -> Iterator[Finding]:
        if cause not in gradscope.rules.RULES:
            yield finding("selu_drift", Severity.WARNING)

    monkeypatch.setattr(gradscope.rules, "RULES", (cause, consequence))


@pytest.mark.usefixtures("two_rules")
def test_a_rule_is_taken_out_and_put_back() -> None:
    rules = [*gradscope.rules.RULES]
    assert rule_names() == ["cause", "consequence"]
    assert judge_without("consequence", empty_run()) == {("dead_relu", "net.act2")}
    assert judge_without("cause", empty_run()) == {("selu_drift", None)}
    assert [*gradscope.rules.RULES] == rules


@pytest.mark.usefixtures("two_rules")
def test_the_ablation_tells_what_each_rule_is_worth() -> None:
    judged = [Judged({GRADSCOPE: outcome(DEAD, "dead_relu")}, empty_run())]
    assert rows(ablation(judged)) == [
        ["(with all)", "1.00", "0"],
        ["cause", "0.00", "1", "0", "1"],
        ["consequence", "1.00", "0", "0", "0"],
    ]


def test_tables_of_hand_made_outcomes() -> None:
    judged = [
        Judged({GRADSCOPE: outcome(DEAD, "dead_relu", noticed=8), "folklore": outcome(DEAD, "selu_drift")}, None),
        Judged({GRADSCOPE: outcome(SOUND), "folklore": outcome(SOUND, "dead_relu")}, None),
    ]
    systems = (GRADSCOPE, "folklore")
    table = by_system(judged, systems)
    assert table.title == "1 sick and 1 sound runs"
    assert rows(table) == [
        ["GradScope", "1.00", "1.00", "1.00", "0 of 1", "1 of 1", "1 of 1", "8", "20%"],
        ["folklore", "0.00", "0.00", "0.00", "1 of 1", "–", "–", "–", "–"],
    ]
    by_code = rows(by_label(judged, systems))
    assert len(by_code) == 12
    assert by_code[2] == ["dead_relu", "1", "1.00 1.00 1.00", "0.00 0.00 0.00"]
    assert by_code[3] == ["selu_drift", "0", "– – –", "0.00 – 0.00"]
    assert "\n".join(details([judged], systems)).split("\n")[1:5] == [
        "dead: dead_relu (not scored: no_gradient, uneven_learning_speed, update_ratio_low, vanishing_gradient)",
        "  GradScope: found dead_relu; dead_relu noticed after 8 of 40 steps",
        "  folklore: found selu_drift; missing dead_relu; wrong selu_drift",
        "",
    ]


def test_seeds_agree_where_the_same_codes_are_said() -> None:
    seeds = [
        [Judged({GRADSCOPE: outcome(DEAD, "dead_relu")}, None), Judged({GRADSCOPE: outcome(SOUND)}, None)],
        [Judged({GRADSCOPE: outcome(DEAD)}, None), Judged({GRADSCOPE: outcome(SOUND)}, None)],
    ]
    assert rows(agreement(seeds, [GRADSCOPE])) == [["GradScope", "1.00", "0.00", "1 of 2 cases"]]


def test_a_case_without_its_images_is_skipped_with_the_reason(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("GRADSCOPE_DATA", str(tmp_path))
    detection.main(["--cases", "lenet"])
    printed = " ".join(capsys.readouterr().out.split())
    assert printed.startswith(f"Skipped 1 of 1 cases: MNIST is not in {tmp_path}; name its folder in GRADSCOPE_DATA")
    assert printed.endswith("They are lenet_on_mnist. No case was judged.")


def test_a_case_from_the_command_line_to_the_tables(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("zoo.cases.CASES", (DEAD, SOUND))
    detection.main(["--cases", "dea", "--systems", "SageMaker", "--seeds", "2", "--details"])
    printed = capsys.readouterr().out
    assert "2 sick and 0 sound runs" in printed
    assert "2 of 2" in printed
    assert "1 of 1 cases" in printed
    assert "SageMaker, seed 2: found dead_relu" in printed
    assert "sound:" not in printed


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--cases", "flu"], "--cases must be part of the name of a case, got flu; relu, say"),
        (["--seeds", "0"], "--seeds must be at least 1, got 0"),
        (["--systems", "folklore", "--ablation"], "--ablation needs GradScope among the --systems"),
        (["--systems", "flu"], "invalid choice: 'flu'"),
    ],
)
def test_options_that_cannot_be_met(arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        detection.parse(arguments)
    assert message in " ".join(capsys.readouterr().err.split())
