"""The cases: 22 sick runs and 14 sound ones."""

from collections.abc import Sequence

from zoo.case import Case
from zoo.cases import (
    depth,
    disconnected,
    numerics,
    rectifiers,
    saturation,
    selu,
    sound_architectures,
    sound_trainings,
    speeds,
)

CASES: tuple[Case, ...] = (
    depth.SIGMOID_MLP,
    depth.TANH_TINY_INIT,
    depth.RNN_EXPLODING,
    depth.RELU_LARGE_INIT,
    depth.TANH_CHAOS,
    rectifiers.RELU_NEGATIVE_BIAS,
    rectifiers.RELU_KILLED_MIDWAY,
    rectifiers.CONV_PRIOR_BIAS,
    selu.SELU_DEFAULT_INIT,
    selu.SELU_PLAIN_DROPOUT,
    saturation.TANH_RAW_PIXELS,
    saturation.SIGMOID_HUGE_INIT,
    speeds.LR_TYPO,
    speeds.STEEP_LR_DECAY,
    disconnected.UNUSED_LAYER,
    disconnected.DETACHED_ENCODER,
    speeds.ADAM_LR_HUGE,
    speeds.GRU_LR_HUGE,
    speeds.SGD_LR_TINY,
    speeds.CLIPPED_EACH_STEP,
    numerics.NAN_LOG_ZERO,
    numerics.FP16_OVERFLOW,
    sound_architectures.SPARSE_RELU,
    sound_architectures.RESNET,
    sound_architectures.TRANSFORMER,
    sound_architectures.GAN,
    sound_trainings.CONVERGED,
    sound_trainings.WARMUP,
    sound_trainings.BF16_CONV,
    sound_trainings.FROZEN_BACKBONE,
    sound_architectures.RARE_ROWS,
    selu.SELU_SOUND,
    sound_architectures.PLAIN_CONV,
    sound_trainings.LSTM_RARELY_CLIPPED,
    sound_trainings.ZERO_HEAD,
    sound_trainings.ALTERNATING_HEADS,
)


def cases_named(parts: Sequence[str]) -> list[Case]:
    """Return the cases with any of `parts` in their name.

    Raises:
        ValueError: there is none.
    """
    found = [case for case in CASES if any(part in case.name for part in parts)]
    if not found:
        raise ValueError(f"--cases must be part of the name of a case, got {' '.join(parts)}; relu, say")
    return found
