"""One fit at a time: a GradScope in several Trainers, at once or one after another, and several in one Trainer."""

from pathlib import Path
from typing import Any

import pytest
import pytorch_lightning as pl
import torch
from pytorch_lightning.loggers import TensorBoardLogger
from torch import nn

import gradscope
from gradscope import GradScope
from tests.lightning.test_company import Fails, Model, fit_and_fail
from tests.models import Batches, trainer
from tests.test_modes import assert_same, hooks

# ------------------------------------------------------------------ one GradScope, several Trainers


def lines(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [r.getMessage() for r in caplog.records if r.name == "gradscope"]


class FitsAnother(pl.Callback):
    """Fits another model, in the middle of a step or after it, by a Trainer with the same GradScope."""

    def __init__(self, when: str, *callbacks: pl.Callback, breaks: bool = False) -> None:
        self.model = Fails() if breaks else Model()
        self.breaks = breaks
        self.fitter = trainer(*callbacks, max_epochs=3)
        setattr(self, when, self.fit_once)

    def fit_once(self, trainer: pl.Trainer, *_: Any) -> None:
        if trainer.global_step == 4 and not self.fitter.global_step:
            state = torch.get_rng_state()
            (fit_and_fail if self.breaks else pl.Trainer.fit)(self.fitter, self.model)
            self.fitter.validate(self.model, Batches(2), verbose=False)
            torch.set_rng_state(state)


def weights_and_steps(model: nn.Module, fitter: pl.Trainer) -> Any:
    return model.state_dict(), fitter.global_step, hooks(model, fitter)


@pytest.mark.parametrize("breaks", [False, True], ids=["to its end", "until it fails"])
@pytest.mark.parametrize("when", ["on_train_batch_start", "on_before_backward", "on_train_batch_end"])
def test_a_fit_within_a_fit_is_not_watched_and_nothing_is_lost(
    when: str, breaks: bool, caplog: pytest.LogCaptureFixture
) -> None:
    def both(*scopes: GradScope) -> Any:
        pl.seed_everything(7, verbose=False)
        inner = FitsAnother(when, *scopes, breaks=breaks)
        model, outer = Model(), trainer(*scopes, inner, max_epochs=2)
        outer.fit(model)
        assert inner.fitter.global_step == (9 if breaks else 18)
        return weights_and_steps(model, outer), weights_and_steps(inner.model, inner.fitter)

    alone = GradScope(every_n_steps=1, summary=False)
    trainer(alone, max_epochs=2).fit(Model())
    scope = GradScope(every_n_steps=1, summary=False)
    assert_same(both(scope), both())
    assert lines(caplog) == [
        "GradScope: watches one fit at a time, and the fit of another Trainer goes on: this one is not watched. "
        "Give each Trainer a GradScope of its own."
    ]
    assert list(scope.run.steps) == [*range(12)], "the record of the first is whole"
    assert (scope.run.ledger.steps, scope.run.layers) == (12, alone.run.layers)
    # Within a forward that is listened to, it is said that a function of none of its modules was called.
    assert scope.run.coverage.unseen.keys() <= {"relu()"}


def test_fits_of_several_trainers_one_after_another_start_over(caplog: pytest.LogCaptureFixture) -> None:
    scope = GradScope(every_n_steps=1, summary=False)
    for fold in range(3):
        trainer(scope, max_epochs=fold + 1).fit(Model())
        assert list(scope.run.steps) == [*range(6 * (fold + 1))]
    assert lines(caplog) == []


def test_a_fit_that_ended_without_a_word_is_over(monkeypatch: pytest.MonkeyPatch) -> None:
    class Rude(pl.Callback):
        def on_exception(self, *_: Any) -> None:
            raise RuntimeError("keeps all behind it from being told")

    scope = GradScope(every_n_steps=1, summary=False)
    model, rude, bare = Fails(), trainer(Rude(), scope, max_epochs=2), trainer()
    with pytest.raises(RuntimeError, match="from being told"):
        rude.fit(model)
    trainer(scope).fit(Model())
    assert list(scope.run.steps) == [*range(6)]
    bare.fit(unwatched := Model())
    assert hooks(model, rude) == hooks(unwatched, bare), "nothing is left on the model of the fit before"


def test_the_ranks_of_a_fit_that_ended_without_a_word_part_when_the_next_begins() -> None:
    class Merge:
        """Of a fit of several ranks."""

        parted = False

        def leave(self) -> None:
            self.parted = True

    scope, merge, optimizer = GradScope(summary=False), Merge(), torch.optim.SGD([torch.ones(1)])
    ranks = scope._fit.ranks
    ranks.merge = merge  # type: ignore[assignment]
    ranks.count([optimizer])
    assert optimizer._optimizer_step_post_hooks
    trainer(scope).fit(Model())
    assert merge.parted
    assert not optimizer._optimizer_step_post_hooks


# ------------------------------------------------------------------ several GradScopes, one Trainer


def test_a_second_gradscope_steps_back_and_says_so(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    def fit(*scopes: GradScope) -> Any:
        pl.seed_everything(7, verbose=False)
        model, fitter = Model(), trainer(logger=TensorBoardLogger(tmp_path / str(len(scopes)), name="", version=""))
        fitter.callbacks.extend(scopes)  # type: ignore[attr-defined]  # given to a Trainer, Lightning may refuse them
        fitter.fit(model)
        return weights_and_steps(model, fitter)

    first, second = GradScope(every_n_steps=1, summary=False), GradScope(every_n_steps=2, summary=False)
    assert_same(fit(first, second), fit())
    reason = "switched itself off: this Trainer has another, which watches its fits; leave one of them out"
    assert lines(caplog) == [f"GradScope: {reason}. The training goes on without it."]
    assert list(first.run.steps) == list(gradscope.load(tmp_path / "2")["."].steps) == [*range(6)]
    assert (len(second.run.steps), second.run.coverage.unseen) == (0, {"GradScope": reason})
    trainer(second).fit(Model())
    assert list(second.run.steps) == [*range(6)], "by itself it watches again"
