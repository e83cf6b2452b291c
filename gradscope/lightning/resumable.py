"""A callback with a state that Lightning keeps in checkpoints: whatever is wrong with it, the training goes on."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from gradscope.lightning.packages import Callback
from gradscope.lightning.resume import Memory, UnreadableStateError, memory_of, state_of
from gradscope.messages import say

if TYPE_CHECKING:
    import pytorch_lightning as pl  # of either package


class Resumable(Callback):
    """Says what Lightning asks for when it saves a checkpoint, and reads what it hands over from one.

    Some strategies restore before `on_fit_start` and some after it, so that what is read waits for the first batch.
    """

    def __init__(self) -> None:
        # Lightning refuses two callbacks with one key, and asks before anybody can know whether one steps back.
        self._state_key = f"GradScope at {id(self):#x}"
        self._loaded: Memory | None = None

    @property
    def state_key(self) -> str:
        """The key of the state in a checkpoint's "callbacks": "GradScope", once a Trainer has set this one up."""
        return self._state_key

    def setup(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        """Take the key: the same for whoever added GradScope. Of several in a Trainer it is the first that records."""
        self._loaded = None  # what came for a test is not for the fit after it
        callbacks: list[Callback] = trainer.callbacks  # type: ignore[attr-defined]  # undeclared
        if next((callback for callback in callbacks if isinstance(callback, Resumable)), self) is self:
            self._state_key = "GradScope"

    def state_dict(self) -> dict[str, Any]:
        """Return what `load_state_dict` goes on from: plain data and tensors, empty before the first record.

        Records that are on their way from the device are waited for: a checkpoint is written seldom, and copies all
        weights. A step that is not over is left out, for it is taken again after a resumption.
        """
        try:
            memory = self._loaded or self._memory()
            return state_of(memory) if memory is not None else {}
        except Exception as error:
            say(f"leaves nothing in the checkpoint after {type(error).__name__}: {error}. The training goes on.")
            return {}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Go on where the fit was that the state is of, from the first batch of this one on.

        In the middle of a fit nothing is read: a tuner goes back to where it began, and nothing was recorded since.
        """
        if self._is_under_way():
            return
        try:
            self._loaded = memory_of(state_dict)
        except UnreadableStateError as error:
            self._loaded = None
            say(f"begins a new record, as the checkpoint's is of no use: {error}.")
        if self._loaded is not None and self._loaded.missing:
            say(f"goes on from a checkpoint of an older GradScope, without its {', '.join(self._loaded.missing)}.")

    def _memory(self) -> Memory | None:
        """What this fit, or the last, knows: None where it recorded nothing."""
        raise NotImplementedError

    def _is_under_way(self) -> bool:
        """Whether batches were taken of a fit that is not over."""
        raise NotImplementedError
