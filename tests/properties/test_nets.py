"""Nets of any nesting, trained for real: what is measured is what brute force measures, and training is the same."""

from collections.abc import Callable
from functools import partial
from typing import Any

import hypothesis.strategies as st
import torch
from hypothesis import given
from torch import Tensor, nn

from tests.models import Batches, Classifier, Net
from tests.modes import Mode
from tests.test_modes import assert_measured, assert_same, outcome

ACTIVATIONS: dict[str, Callable[[], nn.Module]] = {
    "relu": nn.ReLU,
    "relu in place": partial(nn.ReLU, inplace=True),
    "relu6": nn.ReLU6,
    "tanh": nn.Tanh,
    "sigmoid": nn.Sigmoid,
    "selu": nn.SELU,
    "gelu": nn.GELU,
    "elu": nn.ELU,
}
OPTIMIZERS = {"SGD": torch.optim.SGD, "AdamW": torch.optim.AdamW}

Plan = Any
"""A layer with an activation, (width, name); or (how they stand together, several plans)."""

layers = st.tuples(st.integers(1, 24), st.sampled_from(sorted(ACTIVATIONS)))
plans = st.recursive(
    layers,
    lambda inner: st.tuples(
        st.sampled_from(["in a row", "around", "normalized", "one activation"]), st.lists(inner, min_size=1, max_size=3)
    ),
    max_leaves=5,
)


def built(plan: Plan, width: int) -> tuple[nn.Module, int]:
    """The module for inputs of `width` features, and the number of its outputs."""
    how, parts = plan
    if isinstance(how, int):
        return nn.Sequential(nn.Linear(width, how), ACTIVATIONS[parts]()), how
    modules, now = [], width
    for part in parts:
        module, now = built(part, now)
        modules.append(module)
    inner = nn.Sequential(*modules)
    if how == "around":
        return Net(lambda net, x: x + net.back(net.inner(x)), inner=inner, back=nn.Linear(now, width)), width
    if how == "normalized":
        return nn.Sequential(nn.LayerNorm(width), inner), now
    if how == "one activation":  # called as often as there are layers
        shared = nn.ReLU()
        return nn.Sequential(*[m for module in modules for m in (module, shared)]), now
    return inner, now


def stem(channels: int, memory_format: torch.memory_format, act: str) -> nn.Module:
    """A convolution over the 20 features as an image, which gives out 20 features for each channel."""

    def run(net: Any, x: Tensor) -> Tensor:
        image = x.view(-1, 1, 4, 5).contiguous(memory_format=memory_format)
        return torch.as_tensor(net.act(net.conv(image)).flatten(1))

    return Net(run, conv=nn.Conv2d(1, channels, 3, padding=1).to(memory_format=memory_format), act=ACTIVATIONS[act]())


@st.composite
def modes(draw: st.DrawFn) -> Mode:
    plan, optimizer = draw(plans), OPTIMIZERS[draw(st.sampled_from(sorted(OPTIMIZERS)))]
    # At most 40 features, so that no weight has the 2,048 elements from which a norm is estimated, and not measured.
    image = draw(st.none() | st.tuples(st.integers(1, 2), st.sampled_from(sorted(ACTIVATIONS)), st.booleans()))

    def build() -> Classifier:
        net, width = nn.Sequential(), 20
        if image is not None:
            channels, act, last = image
            net.append(stem(channels, torch.channels_last if last else torch.contiguous_format, act))
            width = 20 * channels
        body, width = built(plan, width)
        return Classifier(net.append(body).append(nn.Linear(width, 4)), lr=0.02, optimizer=optimizer)

    options = draw(
        st.fixed_dictionaries(
            {"precision": st.sampled_from(["32-true", "64-true"])},
            optional={
                "accumulate_grad_batches": st.integers(2, 3),
                "gradient_clip_val": st.sampled_from([1e-3, 0.1, 10.0]),
            },
        )
    )
    batches = partial(Batches, number=draw(st.integers(1, 5)), size=draw(st.sampled_from([1, 2, 16])))
    channels_of = ("net.0.act",) if image is not None else ()
    return Mode(f"{plan}", build, batches=batches, options=lambda accelerator: dict(options), channels=channels_of)


@given(modes())
def test_any_net_is_measured_as_brute_force_measures_it(mode: Mode) -> None:
    result = outcome(mode)
    assert_same(result.watched, result.plain)
    assert_measured(result.run, result.expected)
    assert result.run.coverage.unseen == {}
