"""Which rank is unlike the others, told by numbers made up for the purpose."""

from collections.abc import Iterator, Mapping
from itertools import repeat

import numpy as np
import pytest

from gradscope.ranks.outliers import LIMIT, Outliers
from gradscope.records import Floats, Layer, RankOutlier

LAYERS = tuple(Layer(f"act{i}", "ReLU", "rectifier") for i in range(3))
Numbers = Mapping[str, Floats]


def floats(*values: float) -> Floats:
    return np.array(values, dtype=np.float32)


def found(records: Iterator[tuple[Numbers, Numbers]], number: int = 20) -> tuple[RankOutlier, ...]:
    outliers = Outliers(3)
    for step in range(number):
        outliers.see(step, LAYERS, *next(records))
    return outliers.told(at_last=True)


def test_a_rank_whose_units_are_dead_is_found_with_both_numbers() -> None:
    own, others = {"dead_fraction": floats(0.4, 0.02, np.nan)}, {"dead_fraction": floats(0.02, 0.02, np.nan)}
    (outlier,) = found(repeat((own, others)))
    assert outlier == RankOutlier(3, "act0", "dead_fraction", pytest.approx(0.4), pytest.approx(0.02), 9, 19)  # type: ignore[arg-type]


def test_a_mean_is_compared_with_the_spread_of_the_others() -> None:
    own = {"act_mean": floats(3, 3, 3), "act_var": floats(1, 1, 1)}
    others = {"act_mean": floats(0, 0, 0), "act_var": floats(100, 1, np.nan)}
    by_layer = {o.layer: o.metric for o in found(repeat((own, others))) if o.metric == "act_mean"}
    assert by_layer == {"act1": "act_mean"}, "of a standard deviation of ten a difference of three is nothing"


@pytest.mark.parametrize("factor", [5, 1 / 5])
def test_a_variance_is_compared_by_its_factor(factor: float) -> None:
    own, others = ({"act_mean": floats(0), "act_var": floats(v)} for v in (factor, 1))
    assert [o.metric for o in found(repeat((own, others)))] == ["act_var"]


def test_noise_is_none_however_loud() -> None:
    generator = np.random.default_rng(0)

    def noise() -> Iterator[tuple[Numbers, Numbers]]:
        while True:
            yield {"zero_fraction": floats(*generator.random(3))}, {"zero_fraction": floats(*generator.random(3))}

    assert [found(noise(), number) for number in (10, 20, 100, 1000)] == [()] * 4


def test_what_begins_late_is_found() -> None:
    def late() -> Iterator[tuple[Numbers, Numbers]]:
        sound = {"dead_fraction": floats(0.1, 0.1, 0.1)}
        yield from repeat((sound, sound), 500)
        yield from repeat(({"dead_fraction": floats(0.1, 0.9, 0.1)}, sound))

    (outlier,) = found(late(), 520)
    assert outlier.layer == "act1"
    assert 500 < outlier.first_step < 515


def test_little_is_not_judged() -> None:
    own, others = {"dead_fraction": floats(1, 1, 1)}, {"dead_fraction": floats(0, 0, 0)}
    assert found(repeat((own, others)), 9) == ()


def test_the_worst_are_told_and_not_more() -> None:
    layers = tuple(Layer(f"act{i}", "ReLU", "rectifier") for i in range(20))
    outliers = Outliers(0)
    for step in range(11):
        outliers.see(
            step,
            layers,
            {"dead_fraction": np.linspace(0.3, 1, 20, dtype=np.float32)},
            {"dead_fraction": np.zeros(20, dtype=np.float32)},
        )
    told = outliers.told(at_last=True)
    assert [o.layer for o in told] == [f"act{i}" for i in range(19, 19 - LIMIT, -1)]


def test_it_is_told_ever_more_rarely() -> None:
    outliers, tellings = Outliers(0), []
    for step in range(100):
        outliers.see(step, LAYERS, {"dead_fraction": floats(1, 1, 1)}, {"dead_fraction": floats(0, 0, 0)})
        tellings.append(outliers.told())
    changes = [step for step in range(1, 100) if tellings[step] != tellings[step - 1]]
    assert changes == [9, 19, 39, 79]


def test_what_a_checkpoint_tells_of_is_told_by_the_rank_that_it_is_of() -> None:
    before = RankOutlier(3, "act0", "dead_fraction", 0.4, 0.02, 9, 19)
    outliers = Outliers(3)
    outliers.remember([before, RankOutlier(1, "act0", "dead_fraction", 0.02, 0.4, 9, 19)])
    assert outliers.told() == (before,)
    own, others = {"dead_fraction": floats(0.5, 0.02, np.nan)}, {"dead_fraction": floats(0.02, 0.02, np.nan)}
    for step in range(20, 35):
        outliers.see(step, LAYERS, own, others)
    (outlier,) = outliers.told(at_last=True)
    assert (outlier.first_step, outlier.last_step, outlier.value) == (9, 34, 0.5)


def test_next_to_no_spread_is_no_measure() -> None:
    own = {"act_mean": floats(0.9990), "act_var": floats(1e-7)}
    others = {"act_mean": floats(0.9995), "act_var": floats(1e-9)}
    assert found(repeat((own, others))) == (), "a sigmoid that is saturated on both"
