"""In every mode of `tests.modes`: training is bitwise the same under GradScope, and all that it measures is exact."""

import copy
import gc
import itertools
import math
import os
import random
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from functools import cache
from typing import Any, NamedTuple
from unittest import mock

import numpy as np
import pytest
import pytorch_lightning as pl
import torch
from torch import Tensor, nn

from gradscope import GradScope, Run
from gradscope.model.moment import Moment
from gradscope.probes.gradients import GradientProbe
from tests.models import Batches, own_metrics, trainer
from tests.modes import MODES, Mode
from tests.oracle import Expected, Oracle


@pytest.fixture(autouse=True, scope="module")
def _little_garbage() -> Iterator[None]:
    """Tuners collect garbage, and would look for it among all that was ever imported."""
    gc.collect()
    gc.freeze()
    yield
    gc.unfreeze()


def fit(mode: Mode, *callbacks: pl.Callback, accelerator: str = "cpu") -> dict[str, Any]:
    """Fit from the same seed each time. Returns all that a fit leaves behind, by name."""
    with process_left_as_it_was(), tempfile.TemporaryDirectory() as folder:
        torch.default_generator.manual_seed(7)  # `torch.manual_seed` looks for every accelerator, each time
        if accelerator == "cuda":
            torch.cuda.manual_seed(7)
        random.seed(7)
        np.random.seed(7)  # noqa: NPY002
        model, options = mode.build(), {"accelerator": accelerator, **mode.options(accelerator)}
        fitter = trainer(*callbacks, *options.pop("callbacks", ()), default_root_dir=folder, **options)
        mode.fit(fitter, model, mode.batches())
    return {
        "weights": model.state_dict(),
        "gradients": {name: p.grad for name, p in model.named_parameters()},
        "optimizers": [optimizer.state_dict() for optimizer in fitter.optimizers],
        "precision": fitter.precision_plugin.state_dict(),
        "metrics": own_metrics(fitter),
        "torch": torch.get_rng_state(),
        "cuda": torch.cuda.get_rng_state() if accelerator == "cuda" else None,
        "python": random.getstate(),
        "numpy": np.random.get_state(),  # noqa: NPY002
        "modes": torch._C._len_torch_function_stack(),
        "hooks": hooks(model, fitter),
    }


@contextmanager
def process_left_as_it_was() -> Iterator[None]:
    """Take back what Lightning sets for the whole process."""
    threads, deterministic = torch.get_num_threads(), torch.are_deterministic_algorithms_enabled()
    with mock.patch.dict(os.environ):
        yield
    torch.set_num_threads(threads)
    torch.use_deterministic_algorithms(deterministic)


def hooks(model: nn.Module, fitter: pl.Trainer) -> dict[str, int]:
    kinds = ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks")
    counts = {kind: sum(len(getattr(module, kind)) for module in model.modules()) for kind in kinds}
    for kind in ("_optimizer_step_pre_hooks", "_optimizer_step_post_hooks"):
        counts[kind] = sum(len(getattr(optimizer, kind)) for optimizer in fitter.optimizers)
    return counts


class Outcome(NamedTuple):
    """Two fits from the same seed: under GradScope, and without it, but under the oracle."""

    watched: dict[str, Any]
    plain: dict[str, Any]
    run: Run
    expected: dict[int, Expected]


def outcome(mode: Mode, accelerator: str = "cpu") -> Outcome:
    scope = GradScope(every_n_steps=1, summary=False)
    watched = fit(mode, scope, accelerator=accelerator)
    oracle = Oracle(mode.unscales_itself, mode.overwrites, mode.channels, mode.functions)
    with oracle.hearing():
        plain = fit(mode, oracle, accelerator=accelerator)
    return Outcome(watched, plain, scope.run, oracle.expected())


remembered = cache(outcome)


def assert_same(one: Any, other: Any, where: str = "") -> None:
    """Same types, same keys, same bits."""
    assert type(one) is type(other), where
    if isinstance(one, Mapping):
        assert list(one) == list(other), where
        for key in one:
            assert_same(one[key], other[key], f"{where}.{key}")
    elif isinstance(one, (list, tuple)):
        assert len(one) == len(other), where
        for i, (a, b) in enumerate(zip(one, other, strict=True)):
            assert_same(a, b, f"{where}[{i}]")
    elif isinstance(one, Tensor):
        assert (one.dtype, one.shape, one.layout) == (other.dtype, other.shape, other.layout), where
        assert bits(one) == bits(other), where
    elif isinstance(one, np.ndarray):
        assert one.tobytes() == other.tobytes(), where
    else:
        assert one == other, where


def bits(tensor: Tensor) -> bytes:
    tensor = tensor.detach().to_dense() if tensor.is_sparse else tensor.detach()
    return tensor.contiguous().reshape(-1).view(torch.uint8).cpu().numpy().tobytes()


TOLERANCES = {"act_mean": (1e-5, 1e-6), "act_var": (1e-5, 1e-9), "update_ratio": (1e-5, 1e-12)}
"""Relative and absolute; else 1e-6 and next to none: norms in float32."""


def assert_measured(run: Run, expected: Mapping[int, Expected]) -> None:
    """All numbers of `expected` are in `run`, and no others."""
    assert list(run.steps) == list(expected)
    names = [layer.name for layer in run.layers]
    for s, (step, truth) in enumerate(expected.items()):
        assert truth.metrics.keys() == run.metrics.keys()
        for metric, values in truth.metrics.items():
            assert values.keys() <= set(names), "a layer has no row"
            measured = dict(zip(names, run.metric(metric)[s].tolist(), strict=True))
            assert_close(measured, values, *TOLERANCES.get(metric, (1e-6, 1e-12)), f"{metric} of step {step}")
        measured = {name: float(series[s]) for name, series in run.globals.items()}
        assert_close(measured, truth.globals, 1e-6, 0, f"globals of step {step}")


def assert_close(
    measured: Mapping[str, float], wanted: Mapping[str, float], relative: float, absolute: float, what: str
) -> None:
    """What is absent from `wanted` must be NaN."""
    wrong = {
        name: (value, truth)
        for name, value in measured.items()
        if not math.isclose(value, truth := wanted.get(name, math.nan), rel_tol=relative, abs_tol=absolute)
        and not (math.isnan(value) and math.isnan(truth))
    }
    assert not wrong, f"{what}: (measured, wanted) of {wrong}"


def rows(*, exact: bool) -> list[Any]:
    """Every mode on the CPU, and on a CUDA device where there is one."""
    marked = []
    for accelerator, mode in itertools.product(["cpu", "cuda"] if torch.cuda.is_available() else ["cpu"], MODES):
        if accelerator == "cuda" and not exact and not mode.repeats_on_cuda:
            continue
        marks = [pytest.mark.filterwarnings(w) for w in mode.warnings]
        if exact and mode.wrong:
            marks.append(pytest.mark.xfail(strict=True, reason=mode.wrong))
        marked.append(pytest.param(mode, accelerator, id=f"{mode.name}, {accelerator}", marks=marks))
    return marked


@pytest.mark.parametrize(("mode", "accelerator"), rows(exact=False))
def test_training_is_bitwise_the_same(mode: Mode, accelerator: str) -> None:
    result = remembered(mode, accelerator)
    assert_same(result.watched, result.plain)


@pytest.mark.parametrize(("mode", "accelerator"), rows(exact=True))
def test_measures_what_brute_force_measures(mode: Mode, accelerator: str) -> None:
    result = remembered(mode, accelerator)
    run = result.run
    assert list(run.steps) == list(mode.steps)
    assert_measured(run, result.expected)
    assert [step for step, skipped in zip(run.steps, run.series("skipped"), strict=True) if skipped == 1] == list(
        mode.skipped
    )
    coefficients = run.series("clip_coefficient")
    coefficients = coefficients[np.isfinite(coefficients)]
    assert len(coefficients)
    assert (coefficients < 0.9).all() if mode.clips else (np.abs(coefficients - 1) < 1e-6).all()
    assert list(run.coverage.unseen) == list(mode.unseen)


def test_modes_have_names_of_their_own() -> None:
    names = [mode.name for mode in MODES]
    assert sorted(set(names)) == sorted(names)


# ------------------------------------------------------------------ the comparisons above can fail


def mode_of(name: str) -> Mode:
    return next(mode for mode in MODES if mode.name == name)


@pytest.mark.parametrize(
    "name",
    [
        "Adam",
        "fp16, fused Adam",
        "GAN",
        "LBFGS",
        "checkpointing, reentrant",
        "a transformer layer on its fast path",
        "weights averaged, with batch norm",
        "copied in the middle",
    ],
)
def test_the_oracle_leaves_training_alone(name: str) -> None:
    assert_same(remembered(mode_of(name)).plain, fit(mode_of(name)))


@pytest.mark.parametrize("factor", [1.01, math.nan], ids=["off by one percent", "absent"])
def test_a_wrong_number_is_noticed(factor: float) -> None:
    result = remembered(mode_of("clip by norm"))
    run, expected = result.run, result.expected
    for name, values in run.metrics.items():
        for row in np.flatnonzero(np.nansum(np.abs(values), axis=0)):
            wrong = values.copy()
            wrong[-1, row] *= factor
            with pytest.raises(AssertionError, match=f"{name} of step 5"):
                assert_measured(replace(run, metrics={**run.metrics, name: wrong}), expected)
    for name, series in run.globals.items():
        if np.nansum(series):
            with pytest.raises(AssertionError, match="globals of step 0"):
                assert_measured(replace(run, globals={**run.globals, name: series * factor}), expected)


def test_a_number_too_many_is_noticed() -> None:
    result = remembered(mode_of("fp32"))
    run, expected = result.run, result.expected
    for name, values in run.metrics.items():
        filled = np.nan_to_num(values, nan=0.5)
        if np.isfinite(values).all():
            continue
        with pytest.raises(AssertionError, match=f"{name} of step 0"):
            assert_measured(replace(run, metrics={**run.metrics, name: filled}), expected)
    for part in (dict(list(expected.items())[1:]), {**expected, 6: expected[5]}):
        with pytest.raises(AssertionError):
            assert_measured(run, part)


def test_one_bit_is_noticed() -> None:
    state = fit(mode_of("Adam"))

    class Disturber(pl.Callback):
        def on_train_batch_end(self, *_: Any) -> None:
            torch.rand(1)

    disturbed = fit(mode_of("Adam"), Disturber())
    with pytest.raises(AssertionError, match="torch"):
        assert_same(disturbed, state)
    moments = copy.deepcopy(state["optimizers"])
    moments[0]["state"][0]["exp_avg"].view(torch.int32)[0, 0] ^= 1
    with pytest.raises(AssertionError, match="exp_avg"):
        assert_same(moments, state["optimizers"])


# ------------------------------------------------------------------ what fails on the way


def test_a_probe_that_fails_at_the_37th_step_fails_alone(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    mode = Mode("long", batches=lambda: Batches(number=40))
    bare, sound = fit(mode), GradScope(every_n_steps=1, summary=False)
    assert_same(fit(mode, sound), bare)
    healthy, calls = GradientProbe.after_optimizer_step, itertools.count(1)

    def fails_once(probe: GradientProbe, moment: Moment) -> None:
        if next(calls) == 37:
            raise ZeroDivisionError("on purpose")
        healthy(probe, moment)

    monkeypatch.setattr(GradientProbe, "after_optimizer_step", fails_once)
    scope = GradScope(every_n_steps=1, summary=False)
    assert_same(fit(mode, scope), bare)
    reason = "switched off after ZeroDivisionError: on purpose"
    assert scope.run.coverage.unseen == {"GradientProbe": reason}
    assert [r.getMessage() for r in caplog.records if r.name == "gradscope"] == [
        f"GradScope: GradientProbe {reason}. Everything else goes on."
    ]
    assert list(scope.run.steps) == list(sound.run.steps) == list(range(40))
    for name, values in sound.run.metrics.items():
        ours = {metric.name for metric in GradientProbe(scope.thresholds).metrics}
        until = 36 if name in ours else 40
        np.testing.assert_array_equal(scope.run.metric(name)[:until], values[:until], err_msg=name)
        assert np.isnan(scope.run.metric(name)[until:]).all() or name == "nonfinite"
