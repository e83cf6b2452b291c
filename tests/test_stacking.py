"""Records are stacked as a loop over each of them would, however they are cut into blocks."""

import math
import random
from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

from gradscope.records import GLOBALS, Floats, Layer, Record
from gradscope.stacking import Block, Stack, blocks_of, stacked, steps_of, where

A, B, C, D = (Layer(name, "Linear", "linear") for name in "abcd")
TABLES = ((A, B, C), (B, A), (A, B, C, D), (D,), (), (A, A, B))
METRICS = ("grad_norm", "act_mean")


def naively_stacked(records: Sequence[Record]) -> Stack:
    latest: dict[int, Record] = {}
    for record in sorted(records, key=lambda r: r.wall_time):
        latest[record.step] = record
    ordered = [latest[step] for step in sorted(latest)]
    layers: dict[str, Layer] = {}
    for record in reversed(ordered):
        for layer in record.layers:
            layers.setdefault(layer.name, layer)
    names = list(layers)
    metrics = {name: np.full((len(ordered), len(layers)), math.nan, dtype=np.float32) for name in METRICS}
    for i, record in enumerate(ordered):
        for name, values in record.metrics.items():
            for layer, value in zip(record.layers, values, strict=True):
                metrics[name][i, names.index(layer.name)] = value
    return Stack(
        np.array([r.step for r in ordered], dtype=np.int64),
        np.array([r.wall_time for r in ordered], dtype=np.float64),
        tuple(layers.values()),
        metrics,
        {name: np.array([r.globals.get(name, math.nan) for r in ordered], dtype=np.float64) for name in GLOBALS},
    )


def assert_same(stack: Stack, other: Stack) -> None:
    assert stack.layers == other.layers
    assert list(stack.metrics) == list(other.metrics)
    assert list(stack.globals) == list(other.globals)
    for array, expected in zip(arrays_of(stack), arrays_of(other), strict=True):
        assert (array.dtype, array.shape) == (expected.dtype, expected.shape)
        np.testing.assert_array_equal(array, expected)


def arrays_of(stack: Stack) -> list[npt.NDArray[Any]]:
    return [stack.steps, stack.wall_times, *stack.metrics.values(), *stack.globals.values()]


def drawn(rng: random.Random, number: int, steps: int) -> list[Record]:
    """Records in runs of the same layers; several of a step, some of which were taken at no time that is known."""
    records: list[Record] = []
    while len(records) < number:
        layers, names = rng.choice(TABLES), rng.sample(METRICS, rng.randrange(3))
        totals = rng.sample((*GLOBALS, "of tomorrow"), rng.randrange(3))
        for _ in range(rng.choice((1, 2, 9))):
            time = math.nan if rng.random() < 0.02 else rng.randrange(20) / 2
            metrics = {name: numbers(rng, len(layers)) for name in names}
            records.append(Record(rng.randrange(steps), time, layers, metrics, {name: rng.random() for name in totals}))
    return records


def numbers(rng: random.Random, size: int) -> Floats:
    return np.array([rng.choice((rng.random(), math.nan)) for _ in range(size)], dtype=np.float32)


def cut(rng: random.Random, records: Sequence[Record]) -> list[Record | Block]:
    """The same records, some of them already in blocks."""
    parts: list[Record | Block] = []
    while records:
        size = rng.choice((1, 3, 20))
        parts += rng.choice((list, blocks_of))(records[:size])
        records = records[size:]
    return parts


@pytest.mark.parametrize("seed", range(30))
def test_records_and_blocks_are_stacked_as_one_after_the_other(seed: int) -> None:
    rng = random.Random(seed)
    records = drawn(rng, 80, steps=rng.choice((5, 60, 10**6)))
    expected = naively_stacked(records)
    assert_same(stacked(records, METRICS, GLOBALS), expected)
    assert_same(stacked(cut(rng, records), METRICS, GLOBALS), expected)


@pytest.mark.parametrize("seed", range(10))
def test_some_of_the_records_in_blocks(seed: int) -> None:
    rng = random.Random(seed)
    records = drawn(rng, 40, steps=50)
    kept = [rng.random() < rng.choice((0.1, 0.9)) for _ in records]
    left = where(blocks_of(cut(rng, records)), np.array(kept))
    expected = [record for record, is_kept in zip(records, kept, strict=True) if is_kept]
    assert steps_of(left).tolist() == [record.step for record in expected]
    assert_same(stacked(left, METRICS, GLOBALS), naively_stacked(expected))


def test_records_of_the_same_layers_are_one_block() -> None:
    layers = (A,)
    alike = [Record(step, 1.0, layers, {"grad_norm": numbers(random.Random(0), 1)}) for step in range(9)]
    other = Record(9, 1.0, (B,), {})
    blocks = blocks_of([*alike, other, *alike])
    assert [len(block.steps) for block in blocks] == [9, 1, 9]
    again = blocks_of([alike[0], *blocks, *alike[:2]])
    assert [len(block.steps) for block in again] == [1, 9, 1, 9, 2]


def test_a_metric_that_was_not_asked_for_is_an_error() -> None:
    records = [Record(step, 1.0, (A,), {"grad_norm": numbers(random.Random(0), 1)}) for step in range(2)]
    with pytest.raises(KeyError, match="grad_norm"):
        stacked(records, ["act_mean"], GLOBALS)
    assert_same(stacked([], METRICS, GLOBALS), naively_stacked([]))
