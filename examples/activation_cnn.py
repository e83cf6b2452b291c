"""A small convolutional network for MNIST whose activation is chosen by name."""

from collections import OrderedDict
from collections.abc import Callable
from functools import partial

from classifier import Classifier
from torch import nn

ACTIVATIONS: dict[str, Callable[[], nn.Module]] = {
    "sigmoid": nn.Sigmoid,
    "relu": nn.ReLU,
    "elu": partial(nn.ELU, alpha=0.2),
    "leaky_relu": partial(nn.LeakyReLU, negative_slope=0.2),
    "selu": nn.SELU,
    "gelu": partial(nn.GELU, approximate="tanh"),
}


def activation_named(activation: str) -> Callable[[], nn.Module]:
    """Return what builds the activation of this name.

    Raises:
        ValueError: `activation` is not a key of `ACTIVATIONS`.
    """
    if activation not in ACTIVATIONS:
        raise ValueError(f"`activation` must be one of {', '.join(ACTIVATIONS)}; got {activation!r}")
    return ACTIVATIONS[activation]


class ActivationCNN(nn.Sequential):
    """Two convolutions and two dense layers with the same activation between them.

    Takes float32[N, 1, 28, 28], standardised to mean 0 and variance 1, and gives logits float32[N, 10]; N may be 0.
    Each activation is a module of its own, so that each can be watched by its name.

    SELU keeps its outputs near mean 0 and variance 1 only with LeCun-normal weights and a dropout that preserves
    both moments (Klambauer et al. 2017), so it alone gets them; the others keep the initialisation of PyTorch.

    Raises:
        ValueError: `activation` is not a key of `ACTIVATIONS`.
    """

    def __init__(self, activation: str = "relu") -> None:
        build = activation_named(activation)
        dropout = nn.AlphaDropout if activation == "selu" else nn.Dropout
        super().__init__(
            OrderedDict(
                conv1=nn.Conv2d(1, 32, kernel_size=3),
                act1=build(),
                conv2=nn.Conv2d(32, 64, kernel_size=3),
                act2=build(),
                pool=nn.MaxPool2d(2),
                dropout1=dropout(0.25),
                flatten=nn.Flatten(),
                dense1=nn.Linear(64 * 12 * 12, 128),
                act3=build(),
                dropout2=dropout(0.5),
                dense2=nn.Linear(128, 10),
            )
        )
        if activation == "selu":
            self.apply(lecun_normal_)


def lecun_normal_(module: nn.Module) -> None:
    """Draw the weights of a convolution or dense layer from N(0, 1/fan_in) and zero its bias; leave others alone."""
    if isinstance(module, nn.Conv2d | nn.Linear):
        nn.init.kaiming_normal_(module.weight, nonlinearity="linear")
        if module.bias is not None:
            nn.init.zeros_(module.bias)


class MNISTClassifier(Classifier):
    """Trains an `ActivationCNN` with cross-entropy and Adam; what it logs is told in `Classifier`.

    Raises:
        ValueError: `activation` is not a key of `ACTIVATIONS`.
    """

    def __init__(self, activation: str = "relu", learning_rate: float = 1e-3) -> None:
        super().__init__(ActivationCNN(activation), learning_rate)
        self.save_hyperparameters()
