from pathlib import Path

import pytest
import torch
import vanishing_and_exploding as example
from experiment import command_line, load_data, quiet_lightning

from gradscope import Finding, Severity, diagnose
from tests.hand_written_runs import run_of


@pytest.mark.parametrize(("weight", "bias"), [(1.0, 0.0), (100.0, -50.0)])
def test_the_chain_is_the_product_formula(weight: float, bias: float, tmp_path: Path) -> None:
    options = command_line("", "").parse_args(["--logdir", str(tmp_path)])
    chain = example.measure_chain(weight, bias, options)
    assert chain.measured == pytest.approx(chain.formula, rel=1e-6)
    if weight == 100.0:  # every factor is 100 / 4, and the last is the slope alone
        assert chain.formula == pytest.approx([0.25 * 25**i for i in (4, 3, 2, 1, 0)])


def test_the_update_of_the_article() -> None:
    assert f"{example.updated(example.ARTICLE_GRADIENT, torch.float64):.9f}" == "0.199999978"
    # Half the spacing of floats near 0.2, which is 2⁻²⁶, is what a step has to exceed.
    assert example.lost_below() == 2**-26
    assert example.updated(0.99 * example.lost_below(), torch.float32) == torch.tensor(0.2).item()
    assert example.updated(1.01 * example.lost_below(), torch.float32) < torch.tensor(0.2).item()


def test_the_value_to_clip_at_is_that_of_the_explosion_else_of_the_nan(monkeypatch: pytest.MonkeyPatch) -> None:
    def finding(code: str, hint: str) -> Finding:
        return Finding(code, Severity.CRITICAL, (), 0, 1, "", hint)

    nan = finding("non_finite", "clip: Trainer(gradient_clip_val=1.0).")
    explosion = finding("exploding_gradient", "clip: Trainer(gradient_clip_val=3.5e+02), touches 1% of the steps")
    for findings, value in (((nan,), 1.0), ((nan, explosion), 350.0)):
        monkeypatch.setattr(example, "diagnose", lambda _, findings=findings: findings)
        assert example.suggested_clip(run_of("recurrent", [], {})) == value
    monkeypatch.setattr(example, "diagnose", lambda _: ())
    with pytest.raises(SystemExit, match="did not explode"):
        example.suggested_clip(run_of("recurrent", [], {}))


def test_ctrl_c_says_that_nothing_is_shown(tmp_path: Path, no_network: None, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(*_: object) -> example.Learning:
        raise KeyboardInterrupt

    monkeypatch.setattr(example, "train_nielsen", interrupted)
    with pytest.raises(SystemExit, match="Interrupted: the experiments are shown when all four are done"):
        example.main(["--fast", "--logdir", str(tmp_path), "--data-dir", "nothing"])


@pytest.mark.slow
def test_layers_learn_at_different_speeds_and_clipping_cures(image_dir: str, tmp_path: Path) -> None:
    quiet_lightning()
    options = command_line("", "").parse_args(["--fast", "--logdir", str(tmp_path)])
    images = load_data(image_dir, limit=example.IMAGES).dataset.train
    for depth in (2, 4):
        speeds = example.train_nielsen(depth, images, options).before.mean(axis=0)
        assert speeds.tolist() == sorted(speeds)
        # The book's own numbers come from one net: those of others are of the same order.
        assert all(1 / 3 < ours / theirs < 3 for ours, theirs in zip(speeds, example.NIELSEN[depth], strict=True))
    exploding, value, clipped = example.explode_and_cure(images, options)
    assert "exploding_gradient" in {finding.code for finding in diagnose(exploding)}
    assert not torch.isfinite(torch.tensor(exploding.series("loss"))).all()
    assert value > 0
    assert clipped.series("loss")[-1] < 0.6 * clipped.series("loss")[0]
    assert {finding.code for finding in diagnose(clipped) if finding.severity > 1} == set()
