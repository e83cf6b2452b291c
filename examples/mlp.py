"""A multilayer perceptron for MNIST whose depth, activation, normalization and dropout are chosen by the experiment."""

from collections.abc import Callable, Sequence

from activation_cnn import activation_named
from torch import nn

PIXELS, CLASSES = 28 * 28, 10


class MLP(nn.Sequential):
    """Hidden layers of the widths `hidden`, each with the same activation, and ten logits.

    Takes float32[N, 1, 28, 28] and gives float32[N, 10]; N may be 0. The modules are called `linear1`, `act1`,
    `linear2` and so on, the last `linear{len(hidden) + 1}` has no activation behind it. With `batch_norm` a `norm1`
    stands between `linear1` and `act1`, with a `dropout` a `dropout1` behind `act1`. Weights are those of PyTorch's
    default initialisation.

    Raises:
        ValueError: `activation` is not a key of `ACTIVATIONS`.
    """

    def __init__(
        self,
        activation: str,
        hidden: Sequence[int],
        *,
        batch_norm: bool = False,
        dropout: Callable[[], nn.Module] | None = None,
    ) -> None:
        build = activation_named(activation)
        super().__init__()
        self.add_module("flatten", nn.Flatten())
        widths = [PIXELS, *hidden]
        for i, width in enumerate(hidden, start=1):
            self.add_module(f"linear{i}", nn.Linear(widths[i - 1], width))
            if batch_norm:
                self.add_module(f"norm{i}", nn.BatchNorm1d(width))
            self.add_module(f"act{i}", build())
            if dropout is not None:
                self.add_module(f"dropout{i}", dropout())
        self.add_module(f"linear{len(widths)}", nn.Linear(widths[-1], CLASSES))
