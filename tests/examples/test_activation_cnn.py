import math

import pytest
import pytorch_lightning as pl
import torch
from activation_cnn import ACTIVATIONS, ActivationCNN, MNISTClassifier
from mnist_data import TensorBatches, load_sklearn_digits
from torch import nn

ALL = tuple(ACTIVATIONS)
SELU_ALPHA, SELU_SCALE = 1.6732632423543772, 1.0507009873554805


def test_layers_and_their_order() -> None:
    assert [name for name, _ in ActivationCNN().named_children()] == (
        ["conv1", "act1", "conv2", "act2", "pool", "dropout1", "flatten", "dense1", "act3", "dropout2", "dense2"]
    )


def test_parameter_counts() -> None:
    counts = {name: sum(p.numel() for p in layer.parameters()) for name, layer in ActivationCNN().named_children()}
    assert {name: count for name, count in counts.items() if count} == {
        "conv1": 32 * 9 + 32,
        "conv2": 64 * 32 * 9 + 64,
        "dense1": 9216 * 128 + 128,
        "dense2": 128 * 10 + 10,
    }


@pytest.mark.parametrize("batch", [0, 1, 5])
def test_ten_logits_for_each_image(batch: int) -> None:
    assert ActivationCNN()(torch.zeros(batch, 1, 28, 28)).shape == (batch, 10)


@pytest.mark.parametrize(
    ("activation", "at_minus_one", "at_two"),
    [
        ("sigmoid", 1 / (1 + math.e), 1 / (1 + math.exp(-2))),
        ("relu", 0.0, 2.0),
        ("elu", 0.2 * (math.exp(-1) - 1), 2.0),
        ("leaky_relu", -0.2, 2.0),
        ("selu", SELU_SCALE * SELU_ALPHA * (math.exp(-1) - 1), SELU_SCALE * 2),
        (
            "gelu",
            -0.5 * (1 + math.tanh(math.sqrt(2 / math.pi) * (-1 - 0.044715))),
            1 + math.tanh(math.sqrt(2 / math.pi) * (2 + 8 * 0.044715)),
        ),
    ],
)
def test_values_of_the_activations(activation: str, at_minus_one: float, at_two: float) -> None:
    for name in ("act1", "act2", "act3"):
        values = ActivationCNN(activation).get_submodule(name)(torch.tensor([-1.0, 2.0]))
        torch.testing.assert_close(values, torch.tensor([at_minus_one, at_two]), rtol=1e-5, atol=0)


def test_every_activation_has_known_values() -> None:
    assert set(ALL) == {"sigmoid", "relu", "elu", "leaky_relu", "selu", "gelu"}


@pytest.mark.parametrize("activation", ALL)
def test_activations_are_three_modules(activation: str) -> None:
    network = ActivationCNN(activation)
    assert len({id(network.get_submodule(name)) for name in ("act1", "act2", "act3")}) == 3


@pytest.mark.parametrize("activation", ALL)
def test_only_selu_has_alpha_dropout(activation: str) -> None:
    network = ActivationCNN(activation)
    expected = nn.AlphaDropout if activation == "selu" else nn.Dropout
    for name, rate in (("dropout1", 0.25), ("dropout2", 0.5)):
        dropout = network.get_submodule(name)
        assert type(dropout) is expected
        assert dropout.p == rate


@pytest.mark.parametrize(("layer", "fan_in"), [("conv1", 9), ("conv2", 288), ("dense1", 9216), ("dense2", 128)])
def test_selu_weights_are_lecun_normal(layer: str, fan_in: int) -> None:
    torch.manual_seed(0)
    module = ActivationCNN("selu").get_submodule(layer)
    assert isinstance(module, nn.Conv2d | nn.Linear)
    standardised = module.weight.detach() * math.sqrt(fan_in)
    tolerance = 4 / math.sqrt(standardised.numel())
    assert standardised.mean().item() == pytest.approx(0, abs=tolerance)
    assert standardised.var().item() == pytest.approx(1, abs=1.5 * tolerance)
    # A uniform distribution of variance 1 has 42.3 % of its mass beyond ±1, a normal one 31.7 %.
    beyond_one = (standardised.abs() > 1).float().mean().item()
    assert beyond_one == pytest.approx(math.erfc(math.sqrt(0.5)), abs=tolerance)
    assert module.bias is not None
    assert torch.equal(module.bias, torch.zeros_like(module.bias))


@pytest.mark.parametrize("activation", [name for name in ALL if name != "selu"])
def test_others_keep_the_initialisation_of_pytorch(activation: str) -> None:
    torch.manual_seed(0)
    expected = nn.Conv2d(1, 32, 3)
    torch.manual_seed(0)
    conv1 = ActivationCNN(activation).get_submodule("conv1")
    assert torch.equal(conv1.get_parameter("weight"), expected.weight)
    assert expected.bias is not None
    assert torch.equal(conv1.get_parameter("bias"), expected.bias)


@pytest.mark.parametrize("build", [ActivationCNN, MNISTClassifier])
def test_unknown_activation(build: type[nn.Module]) -> None:
    message = r"`activation` must be one of sigmoid, relu, elu, leaky_relu, selu, gelu; got 'swish'"
    with pytest.raises(ValueError, match=message):
        build("swish")


def test_optimizer_and_hyperparameters() -> None:
    model = MNISTClassifier("elu", learning_rate=0.02)
    optimizer = model.configure_optimizers()
    assert type(optimizer) is torch.optim.Adam
    assert optimizer.param_groups[0]["lr"] == 0.02
    assert sum(p.numel() for p in optimizer.param_groups[0]["params"]) == 1_199_882
    assert dict(model.hparams) == {"activation": "elu", "learning_rate": 0.02}
    assert MNISTClassifier().learning_rate == 1e-3


def test_three_steps_of_training_learn_and_log() -> None:
    digits = load_sklearn_digits()
    model = MNISTClassifier("selu")
    before = model.network.get_submodule("conv1").get_parameter("weight").detach().clone()
    trainer = pl.Trainer(
        accelerator="cpu",
        max_steps=3,
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        gradient_clip_val=0.5,
        gradient_clip_algorithm="value",
        log_every_n_steps=1,
    )
    trainer.fit(model, TensorBatches(digits.train, 128, shuffle=True), TensorBatches(digits.validation, 128))
    assert trainer.global_step == 3
    assert not torch.equal(model.network.get_submodule("conv1").get_parameter("weight"), before)
    assert {"train_loss", "train_accuracy"} <= set(trainer.callback_metrics)
    (validation,) = trainer.validate(model, TensorBatches(digits.validation, 128), verbose=False)
    assert set(validation) == {"val_loss", "val_accuracy"}

    # 200 images in batches of 128: the mean over batches must be one over images.
    (test,) = trainer.test(model, TensorBatches(digits.test, 128), verbose=False)
    logits = model.eval()(digits.test.images)
    right = (logits.argmax(1) == digits.test.labels).float().mean().item()
    assert test["test_accuracy"] == pytest.approx(right, abs=1e-6)
    assert test["test_loss"] == pytest.approx(nn.CrossEntropyLoss()(logits, digits.test.labels).item(), rel=1e-5)
