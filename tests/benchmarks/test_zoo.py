"""The cases, their data, and how one is trained."""

import hashlib
import logging
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from zoo import data
from zoo.case import Case, Cure, labels, numbered
from zoo.cases import CASES
from zoo.data import MissingImagesError, mnist_slice, mnist_tensors
from zoo.fit import fit
from zoo.modules import Classifier, mlp, sgd

IMAGES = "371426f5b02cee4c8345c5484eaf247b634d731e3933d6c2a053ac1ee0106cea"
LABELS = "66efd10eae435e2fa0fefc21d7cf69f6f93879ea4aca79690acc7d1cab12d4ce"
"""SHA-256 of the bytes that the labels were measured with."""

WITHOUT_IMAGES = {
    "nan_from_log_zero_midrun",
    "transformer_layernorm_rare_tokens",
    "gan_two_optimizers_by_hand",
    "embedding_with_rarely_used_rows",
    "selu_mlp_lecun_alpha_dropout",
}


def case(**changes: Any) -> Case:
    """Return a sound case of three steps, changed."""
    parts: dict[str, Any] = {
        "name": "small",
        "why": "",
        "make_module": lambda: Classifier(mlp([4, 8, 3], nn.ReLU), sgd(0.1)),
        "make_loader": lambda: data.loader(data.teacher_classes(24, 4, 3), batch_size=8),
        "steps": 3,
        "seed": 1,
        "learns_to": 2.0,
    }
    return Case(**{**parts, **changes})


def digest(tensor: Tensor) -> str:
    return hashlib.sha256(tensor.to(torch.uint8).numpy().tobytes()).hexdigest()


def test_images_are_those_of_the_measured_labels(mnist_dir: Path) -> None:
    images, digits = mnist_slice(mnist_dir)
    assert (tuple(images.shape), images.dtype, digits.dtype) == ((5120, 28, 28), torch.uint8, torch.int64)
    assert (digest(images), digest(digits)) == (IMAGES, LABELS)


def test_scalings(mnist_dir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GRADSCOPE_DATA", str(mnist_dir))
    raw, unit, standard = (mnist_tensors(64, 14, scaling)[0] for scaling in ("raw", "unit", "standard"))
    assert tuple(raw.shape) == (64, 1, 14, 14)
    torch.testing.assert_close(unit * 255, raw)
    torch.testing.assert_close(standard * raw.std() + raw.mean(), raw)
    with pytest.raises(ValueError, match="`scaling` must be 'standard', 'unit' or 'raw', got 'log'"):
        mnist_tensors(64, 14, "log")


def test_without_mnist_just_the_cases_on_images_say_what_to_do(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GRADSCOPE_DATA", str(tmp_path))
    reasons = {}
    for each in CASES:
        try:
            each.make_loader()
        except MissingImagesError as error:
            reasons[each.name] = str(error)
    assert reasons.keys() == {each.name for each in CASES} - WITHOUT_IMAGES
    assert set(reasons.values()) == {
        f"MNIST is not in {tmp_path}; name its folder in GRADSCOPE_DATA, or let `make demo` download it to ./data"
    }


def test_without_torchvision_the_reason_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "torchvision.datasets", None)
    with pytest.raises(MissingImagesError, match="needs torchvision; `pip install torchvision` brings it"):
        mnist_slice(tmp_path)


def test_the_cases_are_22_sick_and_14_sound_ones() -> None:
    assert len({each.name for each in CASES}) == len(CASES)
    assert [sum(not each.sound for each in CASES), sum(each.sound for each in CASES)] == [22, 14]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"labels": labels("flu")}, "unknown label 'flu'"),
        ({"labels": labels("dead_relu"), "also_true": labels("dead_relu")}, "both required and optional"),
        ({"labels": labels("dead_relu")}, "needs a cure"),
        ({"learns_to": None}, "a sound case needs learns_to"),
    ],
)
def test_a_case_that_contradicts_itself_is_refused(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        case(**changes)


def test_the_cured_twin_differs_by_the_cure_alone() -> None:
    def make() -> Classifier:
        return Classifier(mlp([4, 8, 3], nn.GELU), sgd(0.1))

    sick = case(labels=labels("dead_relu"), cure=Cure("GELU", make_module=make), onset=2)
    cured = sick.cured()
    assert (cured.make_module, cured.make_loader, cured.steps, cured.seed) == (make, sick.make_loader, 3, 1)
    assert cured.sound
    with pytest.raises(ValueError, match="small has no cure"):
        case().cured()


def test_groups_are_numbered() -> None:
    assert numbered("fc{}", "act{}", start=2, upto=3) == (("fc2", "act2"), ("fc3", "act3"))


def test_a_fit_takes_its_steps_and_is_the_same_each_time() -> None:
    fits = [fit(case(), []) for _ in range(2)]
    assert [f.trainer.global_step for f in fits] == [3, 3]
    first, second = (f.module.state_dict() for f in fits)
    assert all(torch.equal(first[name], second[name]) for name in first)
    other = fit(case(seed=2), []).module.state_dict()
    assert not torch.equal(first["net.fc1.weight"], other["net.fc1.weight"])


def test_a_fit_that_an_exception_ends_hands_it_on() -> None:
    class Broken(Classifier):
        def compute_loss(self, batch: Any) -> Tensor:
            raise ArithmeticError("no loss")

    broken = case(make_module=lambda: Broken(mlp([4, 8, 3], nn.ReLU), sgd(0.1)))
    level = logging.getLogger("gradscope").level
    assert repr(fit(broken, []).error) == "ArithmeticError('no loss')"
    assert logging.getLogger("gradscope").level == level
