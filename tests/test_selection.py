"""A part of a run: which layers, which records."""

import numpy as np
import pytest

from gradscope.patterns import NamePatterns
from gradscope.selection import selected
from tests.hand_written_runs import empty_run, sick_run


@pytest.mark.parametrize(
    ("patterns", "names"),
    [
        (("encoder.blocks.0.*",), ["encoder.blocks.0.conv", "encoder.blocks.0.relu"]),
        (("encoder.*", "!*.conv", "!*.relu"), ["encoder.squash"]),
        (("!encoder.*",), ["head.linear"]),
        (("nothing",), []),
    ],
)
def test_layers_are_those_of_the_patterns_with_their_numbers(patterns: tuple[str, ...], names: list[str]) -> None:
    run = sick_run()
    part = selected(run, NamePatterns(patterns))
    assert [layer.name for layer in part.layers] == names
    rows = [i for i, layer in enumerate(run.layers) if layer.name in names]
    for name, values in run.metrics.items():
        np.testing.assert_array_equal(part.metrics[name], values[:, rows])


@pytest.mark.parametrize(
    ("first", "last", "steps"),
    [
        (100, 120, [100, 110, 120]),
        (None, 5, [0]),
        (555, None, [560]),
        (9000, None, []),
        (None, None, range(0, 570, 10)),
    ],
)
def test_both_ends_of_the_steps_belong_to_them(first: int | None, last: int | None, steps: list[int]) -> None:
    run = sick_run()
    part = selected(run, NamePatterns(("*",)), first, last)
    assert part.steps.tolist() == list(steps)
    records = np.flatnonzero(np.isin(run.steps, list(steps)))
    np.testing.assert_array_equal(part.series("loss"), run.series("loss")[records])
    np.testing.assert_array_equal(part.metric("grad_norm"), run.metric("grad_norm")[records])
    assert part.wall_times.tolist() == run.wall_times[records].tolist()


def test_an_empty_run_stays_empty() -> None:
    assert selected(empty_run(), NamePatterns(("*",)), 0, 10).layers == ()
