"""What is told of a model after the first step of a real fit: each fault, its sound neighbour, and what is unknown."""

import math
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import pytorch_lightning as pl
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from gradscope import Finding, GradScope, Severity
from gradscope.model.graph import Graph
from gradscope.model.layers import LayerTable
from gradscope.model.trace import Trace
from gradscope.preflight import Preflight, _Facts
from gradscope.records import OutputActivation, Setup
from gradscope.rules.setup import selu_misconfigured
from tests.hand_written_runs import run_of
from tests.models import ANY_CHECKPOINT, Batch, Batches, Classifier, Net, mlp, trainer

WIDTHS = (20, 32, 32, 32, 4)


class Pixels(Batches):
    """Batches that were not standardised: numbers from 0 to 255."""

    def __init__(self) -> None:
        super().__init__()
        self.batches = [(x.abs().clamp(max=1) * 255, y) for x, y in self.batches]


def fitted(
    net: nn.Module | pl.LightningModule, batches: Batches | None = None, steps: int = 1, **options: Any
) -> GradScope:
    """Fit for `steps` steps, and return what watched."""
    scope = GradScope(summary=False, log=False)
    model = net if isinstance(net, pl.LightningModule) else Classifier(net)
    trainer(scope, max_steps=steps, **options).fit(model, batches or Batches())
    return scope


def setup_of(net: nn.Module | pl.LightningModule, **options: Any) -> Setup:
    return fitted(net, **options).run.setup


def only(scope: GradScope, code: str) -> Finding:
    (finding,) = [f for f in scope.findings if f.code == code]
    return finding


def lecun(net: nn.Module) -> nn.Module:
    for module in net.modules():
        if isinstance(module, nn.Linear | nn.Conv2d):
            nn.init.kaiming_normal_(module.weight, nonlinearity="linear")
            nn.init.zeros_(module.bias)  # type: ignore[arg-type]
    return net


def selu_net(*behind: Callable[[], nn.Module]) -> nn.Module:
    """Two SELU layers of LeCun-normal weights, with the modules `behind` after each SELU."""
    first, second = ([module() for module in behind] for _ in range(2))
    return lecun(
        nn.Sequential(nn.Linear(20, 64), nn.SELU(), *first, nn.Linear(64, 64), nn.SELU(), *second, nn.Linear(64, 4))
    )


# ------------------------------------------------------------------ SELU


def test_torchs_own_initialisation_before_selu_is_told_in_the_first_step() -> None:
    torch.manual_seed(0)
    finding = only(fitted(mlp(nn.SELU, WIDTHS)), "selu_misconfigured")
    assert finding.severity is Severity.WARNING
    assert set(finding.layers) == {"net.0", "net.2", "net.4"}, "the head feeds no SELU"
    assert "where LeCun-normal weights have 1 and torch's own initialisation 1/3" in finding.message
    assert finding.evidence["tau"] == pytest.approx(1 / 3, abs=0.05)


def test_tau_and_omega_are_those_of_the_weights_before_the_first_step() -> None:
    net = mlp(nn.SELU, WIDTHS)
    weight = net[2].weight.detach().clone()  # type: ignore[operator]
    known = setup_of(net).selu_weights[1]
    assert (known.layer, known.weights, known.units) == ("net.2", 32 * 32, 32)
    assert known.omega == pytest.approx(float(weight.sum(1).mean()), abs=1e-5)
    assert known.tau == pytest.approx(float(weight.square().sum(1).mean()), rel=1e-5)


@pytest.mark.parametrize("dropout", [(), (lambda: nn.AlphaDropout(0.1),), (lambda: nn.Dropout(0.0),)])
def test_a_selu_net_as_the_paper_has_it_is_sound(dropout: tuple[Callable[[], nn.Module], ...]) -> None:
    torch.manual_seed(1)
    scope = fitted(selu_net(*dropout))
    assert len(scope.run.setup.selu_weights) == 2
    assert [f for f in scope.findings if f.code != "selu_drift"] == []


def test_few_weights_are_not_blamed_for_their_draw() -> None:
    for seed in range(50):
        torch.manual_seed(seed)
        net = lecun(nn.Sequential(nn.Conv2d(1, 4, 3), nn.SELU(), nn.Conv2d(4, 2, 3), nn.SELU(), nn.Flatten()))
        known = facts_of(net, x=torch.randn(8, 1, 6, 6))
        assert len(known.selu_weights) == 2
        assert not [*selu_misconfigured(run_of("net", (), {}, records=0, setup=known))], seed


def facts_of(
    net: nn.Module, loss: Callable[[Tensor, Tensor], Tensor] = F.cross_entropy, x: Tensor | None = None
) -> Setup:
    """What the graph of one loss tells, without a Trainer."""
    trace, facts = Trace(), _Facts()
    for module in net.modules():
        module.register_forward_pre_hook(lambda module, args: trace.enter(module))
        module.register_forward_hook(lambda module, args, output: trace.leave(module, output))
    result = loss(net(torch.randn(8, 20) if x is None else x), torch.arange(8) % 4)
    trace.end(result)
    facts.look_at(Graph(result, LayerTable(net, lambda name: True), trace), True)
    return replace(
        facts.setup(Setup(), facts.send().numpy().tolist()),
        plain_dropouts=facts.dropouts,
        output_activation=facts.output,
    )


def test_functional_selu_and_views_between_are_seen_through() -> None:
    def run(net: Any, x: Tensor) -> Any:
        return net.head(F.selu(net.second(F.selu(net.first(x.view(-1, 4, 5)))), inplace=False).flatten(1))

    net = Net(run, first=nn.Linear(5, 8), second=nn.Linear(8, 8, bias=False), head=nn.Linear(32, 4))
    assert [w.layer for w in facts_of(net).selu_weights] == ["first", "second"]


@pytest.mark.parametrize("activation", [nn.ELU, nn.CELU, nn.GELU, nn.ReLU])
def test_other_activations_ask_nothing_of_their_weights(activation: type[nn.Module]) -> None:
    assert facts_of(mlp(activation, WIDTHS)) == Setup()


def test_a_residual_sum_and_a_transposed_convolution_before_selu_are_not_judged() -> None:
    residual = Net(lambda net, x: net.head(F.selu(net.fc(x) + x)), fc=nn.Linear(20, 20), head=nn.Linear(20, 4))
    assert facts_of(residual).selu_weights == ()
    grown = nn.Sequential(
        nn.Unflatten(1, (5, 2, 2)), nn.ConvTranspose2d(5, 4, 2), nn.SELU(), nn.Flatten(), nn.Linear(36, 4)
    )
    assert facts_of(grown).selu_weights == ()


@pytest.mark.filterwarnings("ignore:Initializing zero-element tensors")
def test_of_a_layer_without_units_nothing_is_said() -> None:
    for net in (
        nn.Sequential(nn.Linear(20, 0), nn.SELU(), nn.Linear(0, 4)),
        nn.Sequential(nn.Linear(20, 0), nn.Linear(0, 8), nn.SELU(), nn.Linear(8, 4)),
        nn.Sequential(nn.Linear(20, 0), nn.Sigmoid(), nn.Linear(0, 8), nn.Sigmoid(), nn.Linear(8, 4)),
    ):
        scope = fitted(net, steps=3)
        assert scope.run.setup.selu_weights == ()
        assert "preflight" not in scope.run.coverage.unseen


def test_plain_dropout_behind_selu() -> None:
    torch.manual_seed(1)
    finding = only(fitted(selu_net(lambda: nn.Dropout(0.5))), "selu_misconfigured")
    assert (finding.severity, finding.layers) == (Severity.WARNING, ("net.2", "net.5"))
    assert "net.2 is a plain Dropout(0.5) behind a SELU, which multiplies its second moment by 2.00" in finding.message
    assert "AlphaDropout" in finding.hint


def test_plain_dropout_behind_relu_is_where_it_belongs() -> None:
    net = nn.Sequential(nn.Linear(20, 8), nn.SELU(), nn.Linear(8, 8), nn.ReLU(), nn.Dropout(0.5), nn.Linear(8, 4))
    assert facts_of(net).plain_dropouts == {}


def test_batch_norm_before_selu_excuses_the_weights_before_it() -> None:
    scope = fitted(nn.Sequential(nn.Linear(20, 32), nn.BatchNorm1d(32), nn.SELU(), nn.Linear(32, 4)))
    finding = only(scope, "selu_misconfigured")
    assert finding.severity is Severity.INFO
    assert scope.run.setup.normalized_selus == finding.layers == ("net.2",)
    behind = nn.Sequential(nn.Linear(20, 32), nn.BatchNorm1d(32), nn.SELU(), nn.Linear(32, 32), nn.SELU())
    finding = only(fitted(nn.Sequential(behind, nn.Linear(32, 4))), "selu_misconfigured")
    assert (finding.severity, finding.layers) == (Severity.WARNING, ("net.0.3", "net.0.2"))


def test_raw_pixels_into_selu() -> None:
    torch.manual_seed(1)
    finding = only(fitted(selu_net(), Pixels()), "selu_misconfigured")
    assert (finding.severity, finding.layers) == (Severity.INFO, ("net.0",))
    x = Pixels().batches[0][0]
    assert finding.evidence["input_mean"] == pytest.approx(float(x.mean()), rel=1e-4)
    assert finding.evidence["input_variance"] == pytest.approx(float(x.var(unbiased=False)), rel=1e-4)


def test_what_goes_into_another_part_of_the_net_is_not_held_against_selu() -> None:
    net = nn.Sequential(nn.Linear(20, 8), nn.ReLU(), nn.Linear(8, 8), nn.SELU(), nn.Linear(8, 4))
    assert setup_of(net, batches=Pixels()).selu_input is None


def test_trained_weights_are_no_initialisation(tmp_path: Path) -> None:
    model = Classifier(mlp(nn.SELU, WIDTHS))
    first = trainer(max_steps=2, default_root_dir=tmp_path)
    first.fit(model, Batches())
    first.save_checkpoint(tmp_path / "last.ckpt")
    scope = GradScope(summary=False, log=False)
    trainer(scope, max_steps=4).fit(model, Batches(), ckpt_path=tmp_path / "last.ckpt", **ANY_CHECKPOINT)
    assert scope.run.setup == Setup()


def test_a_second_fit_knows_trained_weights_by_their_spectrum() -> None:
    torch.manual_seed(0)
    model = Classifier(mlp(nn.SELU, WIDTHS), lr=1e-2, optimizer=torch.optim.Adam)
    assert len(fitted(model, steps=60, max_epochs=10).run.setup.selu_weights) == 3
    assert fitted(model).run.setup.selu_weights == ()


# ------------------------------------------------------------------ saturating stacks


def test_a_stack_of_sigmoids() -> None:
    widths = (20, 16, 16, 16, 16, 16, 4)
    net = mlp(nn.Sigmoid, widths)
    gains = [float(net[i].weight.detach().norm()) / 4 for i in (2, 4, 6, 8)]  # type: ignore[operator]
    finding = only(fitted(net), "vanishing_gradient")
    assert finding.severity is Severity.INFO
    assert finding.layers == ("net.1", "net.3", "net.5", "net.7", "net.9")
    assert finding.evidence["gradient_gain"] == pytest.approx(0.25**5 * math.prod(gains), rel=1e-4)


def test_normalization_and_shortcuts_end_a_stack() -> None:
    def shortcut(net: Any, x: Tensor) -> Any:
        x = net.a(x).sigmoid()
        x = x + net.b(x).sigmoid()
        return net.c(x)

    net = Net(shortcut, a=nn.Linear(20, 8), b=nn.Linear(8, 8), c=nn.Linear(8, 4))
    assert facts_of(net).saturating_stack is None
    normed = nn.Sequential()
    for _ in range(6):
        normed.extend([nn.Linear(20, 20), nn.LayerNorm(20), nn.Sigmoid()])
    scope = fitted(normed.append(nn.Linear(20, 4)))
    assert scope.findings == ()


def test_a_gate_is_no_stack() -> None:
    assert facts_of(nn.Sequential(nn.Unflatten(1, (4, 5)), Last(nn.GRU(5, 4, batch_first=True)))) == Setup()
    assert facts_of(nn.Sequential(nn.Unflatten(1, (4, 5)), Last(nn.RNN(5, 4, batch_first=True)))) == Setup()


class Last(nn.Module):
    """What a recurrent net gives out last."""

    def __init__(self, net: nn.Module) -> None:
        super().__init__()
        self.net = net

    def forward(self, x: Tensor) -> Any:
        return self.net(x)[0][:, -1]


# ------------------------------------------------------------------ what goes into the cross-entropy


def relu_out(net: Any, x: Tensor) -> Any:
    return F.relu(net.b(F.relu(net.a(x))))


def softmax_out(net: Any, x: Tensor) -> Any:
    return F.softmax(net.a(x), dim=-1)


@pytest.mark.parametrize(
    ("net", "code", "expected"),
    [
        (nn.Sequential(nn.Linear(20, 4), nn.ReLU()), "dead_relu", ("net.1", "ReLU", 4)),
        (Net(relu_out, a=nn.Linear(20, 8), b=nn.Linear(8, 4)), "dead_relu", ("net.relu#2", "relu", 4)),
        (nn.Sequential(nn.Linear(20, 4), nn.Softmax(1)), "vanishing_gradient", ("net.1", "Softmax", 4)),
        (Net(softmax_out, a=nn.Linear(20, 4)), "vanishing_gradient", ("net.softmax", "softmax", 4)),
        (nn.Sequential(nn.Linear(20, 4), nn.Sigmoid()), "vanishing_gradient", ("net.1", "Sigmoid", 4)),
    ],
)
def test_an_activation_before_the_cross_entropy(net: nn.Module, code: str, expected: tuple[str, str, int]) -> None:
    scope = fitted(net)
    assert scope.run.setup.output_activation == OutputActivation(*expected)
    finding = only(scope, code)
    assert (finding.severity, finding.layers) == (Severity.INFO, expected[:1])


def one_hot(y: Tensor) -> Tensor:
    return F.one_hot(y, 4).float()


FLAWED: list[Callable[[Tensor, Tensor], Tensor]] = [
    lambda x, y: F.cross_entropy(x, y, label_smoothing=0.1) / 3 + 0.1,
    lambda x, y: F.cross_entropy(x, one_hot(y)),
    lambda x, y: F.nll_loss(x.log_softmax(1), y),
    lambda x, y: F.nll_loss(torch.log(x.softmax(1) + 1e-9), y),
    lambda x, y: F.binary_cross_entropy_with_logits(x, one_hot(y)),
    lambda x, y: -x.log_softmax(1).gather(1, y[:, None]).mean(),
    lambda x, y: ((1 - (-F.cross_entropy(x, y, reduction="none")).exp()) ** 2 * F.cross_entropy(x, y)).mean(),
]


@pytest.mark.parametrize("loss", FLAWED)
def test_cross_entropy_is_known_however_it_is_written(loss: Callable[[Tensor, Tensor], Tensor]) -> None:
    output = facts_of(nn.Sequential(nn.Linear(20, 4), nn.ReLU()), loss).output_activation
    assert output is not None
    assert (output.layer, output.type) == ("1", "ReLU")
    assert facts_of(nn.Linear(20, 4), loss) == Setup()


@pytest.mark.parametrize(
    ("last", "loss"),
    [
        (nn.LogSoftmax(1), lambda x, y: F.nll_loss(x, y)),
        (nn.LogSoftmax(1), lambda x, y: F.cross_entropy(x, y)),
        (nn.Sigmoid(), lambda x, y: F.binary_cross_entropy(x, one_hot(y))),
        (nn.ReLU(), lambda x, y: F.mse_loss(x, one_hot(y))),
        (nn.Softmax(1), lambda x, y: 1 - (x * one_hot(y)).mean()),
        (nn.Tanh(), lambda x, y: F.cross_entropy(10 * x, y)),
    ],
)
def test_losses_that_want_what_they_are_given(last: nn.Module, loss: Callable[[Tensor, Tensor], Tensor]) -> None:
    assert facts_of(nn.Sequential(nn.Linear(20, 4), last), loss) == Setup()


# ------------------------------------------------------------------ what is left out


class HeadOnly(Classifier):
    """Gives the optimizer the last layer alone."""

    def configure_optimizers(self) -> Any:
        return torch.optim.SGD(self.net[-1].parameters(), lr=0.1)  # type: ignore[index]


def test_trainable_but_in_no_optimizer() -> None:
    finding = only(fitted(HeadOnly(mlp())), "no_gradient")
    assert (finding.severity, finding.layers) == (Severity.INFO, ("net.0", "net.2"))
    assert "in no optimizer, so that the gradient is computed and never used" in finding.message


def test_a_backbone_that_is_frozen_or_only_looked_at_is_sound() -> None:
    frozen = mlp()
    frozen[:-1].requires_grad_(False)
    assert fitted(HeadOnly(frozen)).findings == ()

    class Backbone(HeadOnly):
        def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
            with torch.no_grad():
                x = self.net[:-1](batch[0])  # type: ignore[index]
            return F.cross_entropy(self.net[-1](x), batch[1])  # type: ignore[index]

    assert fitted(Backbone(mlp())).findings == ()


def test_never_called() -> None:
    net = Net(lambda net, x: net.used(x), used=nn.Linear(20, 4), idle=nn.Linear(3, 3))
    scope = fitted(net)
    finding = only(scope, "no_gradient")
    assert (finding.severity, finding.layers) == (Severity.INFO, ("net.idle",))


def test_a_layer_that_is_called_later_is_forgotten() -> None:
    class Late(Classifier):
        def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
            net: Any = self.net
            return F.cross_entropy(net.late(batch[0]) if batch_idx else net.early(batch[0]), batch[1])

    net = Net(lambda net, x: x, early=nn.Linear(20, 4), late=nn.Linear(20, 4))
    scope = fitted(Late(net), steps=3)
    assert scope.run.setup.never_called == ("net.late",)
    assert scope.findings == ()


def test_weights_that_another_module_uses_are_used() -> None:
    def tied(net: Any, x: Tensor) -> Any:
        return F.linear(net.attention(x[None], x[None], x[None])[0][0], net.tied.weight)

    net = Net(tied, attention=nn.MultiheadAttention(20, 2), tied=nn.Linear(20, 4, bias=False))
    assert setup_of(net).never_called == ()


def test_of_a_sharded_layer_that_did_not_run_it_is_not_known_whether_another_module_uses_it() -> None:
    net = Net(lambda net, x: net.used(x), used=nn.Linear(20, 4), gathered=nn.Linear(3, 3))
    for p in net.get_submodule("gathered").parameters():
        p._fsdp_flattened = True  # type: ignore[attr-defined]  # as FSDP marks what it gathers for the forward
    assert setup_of(net).never_called == ()


# ------------------------------------------------------------------ sound nets, and what the training must not feel


def transformer() -> nn.Module:
    layer = nn.TransformerEncoderLayer(4, 2, 16, dropout=0.1, batch_first=True, activation=F.gelu)
    return nn.Sequential(nn.Unflatten(1, (5, 4)), nn.TransformerEncoder(layer, 2), nn.Flatten(), nn.Linear(20, 4))


def resnet() -> nn.Module:
    def run(net: Any, x: Tensor) -> Any:
        x = F.relu(net.bn1(net.conv1(x.view(-1, 1, 4, 5))))
        x = F.relu(x + net.bn2(net.conv2(x)))
        return net.fc(x.mean((2, 3)))

    convolutions = {"conv1": nn.Conv2d(1, 8, 3, padding=1), "conv2": nn.Conv2d(8, 8, 3, padding=1)}
    return Net(run, **convolutions, bn1=nn.BatchNorm2d(8), bn2=nn.BatchNorm2d(8), fc=nn.Linear(8, 4))


def cnn() -> nn.Module:
    return nn.Sequential(
        nn.Unflatten(1, (1, 4, 5)), nn.Conv2d(1, 8, 3), nn.ReLU(), nn.Dropout(0.5), nn.Flatten(), nn.Linear(48, 4)
    )


@pytest.mark.parametrize("make", [transformer, resnet, cnn, mlp, lambda: mlp(nn.Tanh), lambda: mlp(nn.Sigmoid)])
def test_sound_nets(make: Callable[[], nn.Module]) -> None:
    assert fitted(make(), steps=6).findings == ()


class Gan(pl.LightningModule):
    """A generator and a discriminator with an optimizer each, stepped by hand."""

    def __init__(self) -> None:
        super().__init__()
        self.automatic_optimization = False
        self.generator = mlp(nn.ReLU, (8, 16, 20))
        self.discriminator = mlp(lambda: nn.LeakyReLU(0.2), (20, 16, 1))

    def training_step(self, batch: Batch, batch_idx: int) -> None:
        of_generator, of_discriminator = self.optimizers()  # type: ignore[attr-defined]
        noise = torch.randn(16, 8)
        for optimizer, x, label in (
            (of_discriminator, batch[0], 1.0),
            (of_discriminator, self.generator(noise).detach(), 0.0),
            (of_generator, self.generator(noise), 1.0),
        ):
            score = self.discriminator(x)
            loss = F.binary_cross_entropy_with_logits(score, torch.full_like(score, label))
            optimizer.zero_grad()
            self.manual_backward(loss)
            optimizer.step()

    def configure_optimizers(self) -> Any:
        return [torch.optim.Adam(net.parameters(), 1e-3) for net in (self.generator, self.discriminator)]


def test_a_gan_is_sound() -> None:
    assert fitted(Gan(), steps=12).findings == ()


def test_a_loss_of_a_forward_that_another_loss_has_ended_gives_no_false_name() -> None:
    class TwoLosses(Gan):
        def training_step(self, batch: Batch, batch_idx: int) -> None:
            optimizer = self.optimizers()[0]  # type: ignore[index]
            logits = self.generator(batch[0][:, :8]).relu()
            self.manual_backward(logits.square().mean(), retain_graph=True)
            self.manual_backward(F.cross_entropy(logits, batch[1]))
            optimizer.step()

    assert setup_of(TwoLosses()).output_activation is None


class Checkpointed(Classifier):
    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        x = checkpoint(self.net[:2], batch[0], use_reentrant=False)  # type: ignore[index]
        return F.cross_entropy(self.net[2:](x), batch[1])  # type: ignore[index]


def test_checkpointing_computes_nothing_anew_for_it() -> None:
    assert len(setup_of(Checkpointed(mlp(nn.SELU, WIDTHS))).selu_weights) == 3


def test_a_compiled_model_is_left_alone() -> None:
    model = Classifier(torch.compile(mlp(nn.SELU), backend="eager"))  # type: ignore[arg-type]
    scope = fitted(model, steps=2)
    assert scope.run.setup.in_no_optimizer == scope.run.setup.never_called == ()
    assert "preflight" not in scope.run.coverage.unseen


@pytest.mark.filterwarnings("ignore:.*returned `None`")
def test_the_first_batch_with_a_loss_is_the_one_that_tells() -> None:
    class Skips(Classifier):
        def training_step(self, batch: Batch, batch_idx: int) -> Tensor | None:
            return super().training_step(batch, batch_idx) if batch_idx == 2 else None

    known = fitted(Skips(nn.Sequential(nn.Linear(20, 8), nn.SELU(), nn.Linear(8, 4), nn.ReLU())), steps=3).run.setup
    assert known.output_activation == OutputActivation("net.3", "ReLU", 4)
    assert known.selu_weights == (), "the optimizer was called before"


def test_what_fails_is_named_and_the_rest_goes_on(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Graph, "source", lambda *args: 1 / 0)
    scope = fitted(mlp(nn.SELU), steps=3)
    assert scope.run.coverage.unseen == {"preflight": "switched off after ZeroDivisionError: division by zero"}
    assert scope.run.setup == Setup()
    assert len(scope.run.steps) == 3


def test_it_holds_nothing_of_the_graph(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[Any] = []
    before = Preflight.before_backward

    def spy(self: Preflight, loss: Tensor) -> None:
        before(self, loss)
        seen.append(self)

    monkeypatch.setattr(Preflight, "before_backward", spy)
    fitted(mlp(nn.Sigmoid, (20, 8, 8, 4)))
    held = [value for value in vars(seen[0]._facts).values() if "Backward" in repr(value)]
    assert seen[0]._used == {}
    assert held == []


@pytest.mark.parametrize("make", [lambda: selu_net(lambda: nn.Dropout(0.5)), lambda: mlp(nn.Sigmoid, (20,) * 7 + (4,))])
def test_training_is_the_same_to_the_bit(make: Callable[[], nn.Module]) -> None:
    weights = []
    for callbacks in ([], [GradScope(summary=False, log=False)]):
        torch.manual_seed(3)
        model = Classifier(make())
        trainer(*callbacks, max_steps=4).fit(model, Batches())
        weights.append([*model.parameters(), torch.rand(3)])
    assert all(torch.equal(a, b) for a, b in zip(*weights, strict=True))
