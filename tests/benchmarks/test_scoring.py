"""Scores of hand-made outcomes, in closed form."""

from collections.abc import Mapping

import pytest
from zoo.case import Case, Cure, LayerGroup, labels
from zoo.modules import ZooModule
from zoo.scoring import Outcome, Score, Tally, first_steps


def nothing() -> ZooModule:
    raise AssertionError("nobody trains here")


def sick(
    *names: str, onset: int = 0, also_true: frozenset[str] = frozenset(), **layers: tuple[LayerGroup, ...]
) -> Case:
    """Return a case with these labels; `guilty` and `tolerated` are the layers of each."""
    guilty = dict.fromkeys(names, layers["guilty"]) if "guilty" in layers else {}
    tolerated = dict.fromkeys(names, layers["tolerated"]) if "tolerated" in layers else {}
    return Case(
        "sick", "", nothing, nothing, 100, 1,  # type: ignore[arg-type]  # no loader either
        labels=labels(*names), guilty=guilty, tolerated=tolerated, also_true=also_true, onset=onset, cure=Cure("none"),
    )  # fmt: skip


SOUND = Case("sound", "", nothing, nothing, 100, 1, learns_to=1.0)  # type: ignore[arg-type]


def outcome(case: Case, *said: tuple[str, str | None], noticed: Mapping[str, int] | None = None) -> Outcome:
    return Outcome(case, frozenset(said), noticed or {}, steps=100)


def test_hits_misses_and_false_alarms_in_closed_form() -> None:
    score = Score(
        [
            outcome(sick("dead_relu", "non_finite"), ("dead_relu", "fc1"), ("dead_relu", "fc2"), ("selu_drift", None)),
            outcome(sick("dead_relu"), ("vanishing_gradient", None)),
            outcome(SOUND),
            outcome(SOUND, ("dead_relu", None)),
        ]
    )
    assert score.of("dead_relu") == Tally(hit=1, missed=1, false_alarm=1)
    assert score.of("non_finite") == Tally(missed=1)
    micro = score.micro()
    assert micro == Tally(hit=1, missed=2, false_alarm=3)
    assert (micro.precision, micro.recall, micro.f1) == (1 / 4, 1 / 3, 2 / 7)
    assert score.sound_with_false_alarm() == (1, 2)
    assert score.exactly_right() == 1


def test_what_is_true_as_a_consequence_is_neutral() -> None:
    case = sick("dead_relu", also_true=labels("no_gradient"))
    silent, speaking = outcome(case, ("dead_relu", None)), outcome(case, ("dead_relu", None), ("no_gradient", None))
    assert Score([silent]).micro() == Score([speaking]).micro() == Tally(hit=1)
    assert speaking.right


def test_a_code_that_is_no_label_counts_for_nothing() -> None:
    said = outcome(SOUND, ("loss_plateau", None))
    assert (said.reported, said.right) == (frozenset(), True)


def test_rates_are_undefined_where_there_is_nothing_to_divide_by() -> None:
    assert (Tally().precision, Tally().recall, Tally().f1) == (None, None, None)
    assert (Tally(missed=2).precision, Tally(missed=2).recall, Tally(missed=2).f1) == (None, 0, 0)
    assert (Tally(false_alarm=2).precision, Tally(false_alarm=2).recall) == (0, None)


def test_layers_count_in_hits_whose_culprits_are_known() -> None:
    case = sick("dead_relu", guilty=(("net.fc1", "net.act1"), ("net.fc2", "net.act2")), tolerated=(("net.fc3",),))
    named = ("net.act1", "net.fc1.weight", "net.fc3", "net.fc10", "net.head")
    found = outcome(case, *(("dead_relu", layer) for layer in named))
    # fc1 is named twice, by its activation and by a parameter; fc3 is tolerated; fc10 is not fc1.
    expected = Tally(hit=1, guilty_groups=2, named_groups=1, named_layers=4, right_layers=2)
    assert Score([found]).of("dead_relu") == expected
    assert found.wrongly_named("dead_relu") == {"net.fc10", "net.head"}
    unknown = outcome(sick("dead_relu"), ("dead_relu", "net.head"))
    missed = outcome(case, ("selu_drift", "net.fc1"))
    assert Score([found, unknown, missed]).of("dead_relu") == expected + Tally(hit=1, missed=1)
    assert unknown.wrongly_named("dead_relu") == frozenset()


def test_noticed_is_the_first_step_from_the_onset_on() -> None:
    history = [(0, {"a"}), (10, {"a", "b"}), (20, {"a", "b", "c"}), (30, {"d"}), (40, {"d", "e"})]
    assert first_steps(history, 0) == {"a": 0, "b": 10, "c": 20, "d": 30, "e": 40}
    assert first_steps(history, 15) == {"c": 20, "d": 30, "e": 40}  # a and b stood there before
    assert first_steps(history, 20) == {"c": 20, "d": 30, "e": 40}
    assert first_steps([(0, {"a"}), (10, set()), (20, {"a"})], 10) == {}
    assert first_steps([], 0) == {}


def test_delays_are_those_of_the_hits() -> None:
    noticed = {"dead_relu": 90, "non_finite": 80, "selu_drift": 81}
    late = outcome(
        sick("dead_relu", "non_finite", onset=80), ("dead_relu", None), ("selu_drift", None), noticed=noticed
    )
    early = outcome(sick("dead_relu"), ("dead_relu", None), noticed={"dead_relu": 4})
    unknown = outcome(sick("dead_relu"), ("dead_relu", None))
    assert late.delay("dead_relu") == 10
    assert Score([late]).median_delay() == 10
    assert Score([late, early, unknown]).median_delay() == 7
    assert Score([late, early, unknown]).median_share() == pytest.approx(0.07)
    assert (Score([unknown]).median_delay(), Score([unknown]).median_share()) == (None, None)
