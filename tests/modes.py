"""Every mode in which Lightning trains: a table. A new mode is a row of it."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import pytorch_lightning as pl
import torch
from pytorch_lightning.callbacks import (
    GradientAccumulationScheduler,
    LambdaCallback,
    LearningRateFinder,
    ModelCheckpoint,
    ModelPruning,
    StochasticWeightAveraging,
)
from pytorch_lightning.plugins.precision import MixedPrecision
from pytorch_lightning.strategies import DDPStrategy
from torch import Tensor, nn
from torch.optim import LBFGS, SGD, Adam, AdamW, RMSprop

from tests import automatic, manual, nets
from tests.models import Batches, Classifier, Net, Validated, mlp

Build = Callable[[], pl.LightningModule]


@dataclass(frozen=True, eq=False)
class Mode:
    """A way to train, and what a record of its steps must show beside what brute force says."""

    name: str
    build: Build = lambda: Classifier(mlp())
    batches: Callable[[], Any] = Batches
    options: Callable[[str], dict[str, Any]] = lambda accelerator: {}
    """Of the Trainer on that accelerator, made anew for each fit."""
    fit: Callable[[pl.Trainer, Any, Any], None] = lambda fitter, model, batches: fitter.fit(model, batches)
    steps: Iterable[int] = range(6)
    skipped: Sequence[int] = ()
    """Steps that the optimizer was called for and did not make."""
    clips: bool = False
    """Whether the optimizer is given smaller gradients in every step."""
    unscales_itself: bool = False
    """Whether the optimizer divides gradients by the loss scale within its own step, as fused ones do."""
    overwrites: bool = False
    """Whether the optimizer writes something else into gradients within its own step."""
    channels: Sequence[str] = ()
    """Activations whose units are channels."""
    functions: Mapping[str, tuple[str, Callable[[Tensor], Tensor]]] = field(default_factory=dict)
    """Rectifiers called as functions: the module that feeds each, and the function."""
    unseen: Sequence[str] = ()
    """What GradScope is to say that it does not see."""
    warnings: Sequence[str] = ()
    """Warnings of Lightning or torch that the mode brings with it."""
    repeats_on_cuda: bool = True
    """Whether two fits from the same seed are bitwise the same there without GradScope."""
    wrong: str = ""
    """What GradScope is known to get wrong here."""


def options(*callbacks: Callable[[], pl.Callback], **of_trainer: Any) -> Callable[[str], dict[str, Any]]:
    return lambda accelerator: {"callbacks": [build() for build in callbacks], **of_trainer}


def fp16(scale: float = 2.0**10, backoff: float = 0.5, enabled: bool = True, **of_trainer: Any) -> Any:
    def with_new_scaler(accelerator: str) -> dict[str, Any]:
        scaler = torch.amp.GradScaler(accelerator, scale, backoff_factor=backoff, enabled=enabled)
        return {"plugins": [MixedPrecision("16-mixed", accelerator, scaler=scaler)], **of_trainer}

    return with_new_scaler


def classifier(optimizer: Callable[..., Any] = SGD, net: Callable[[], nn.Module] = mlp, **of_optimizer: Any) -> Build:
    return lambda: Classifier(net(), lr=0.01, optimizer=partial(optimizer, **of_optimizer))


def overflows(optimizer: Callable[..., Any] = SGD, **of_optimizer: Any) -> Build:
    return lambda: automatic.Overflows(mlp(), lr=0.01, optimizer=partial(optimizer, **of_optimizer))


def by_hand(body: Callable[..., Any], *of_module: Any, **of_body: Any) -> Build:
    return lambda: manual.ByHand(partial(body, **of_body), *of_module)


def net(run: Callable[[Any, Any], Any], **modules: Callable[[], nn.Module]) -> Build:
    return lambda: Classifier(Net(run, **{name: build() for name, build in modules.items()}))


CLIPS: dict[str, Any] = {"gradient_clip_val": 0.05, "gradient_clip_algorithm": "norm"}
CLIPS_VALUES: dict[str, Any] = {"gradient_clip_val": 0.002, "gradient_clip_algorithm": "value"}

NONE = ["ignore:.training_step. returned .None."]  # said by Lightning at every such step

PRECISION = [
    Mode("fp32"),
    Mode("64-true", options=options(precision="64-true")),
    Mode("float64 by default", fit=automatic.fit_in_float64),
    Mode("bf16-mixed", options=options(precision="bf16-mixed")),
    Mode("bf16-true", options=options(precision="bf16-true")),
    Mode("16-true", options=options(precision="16-true")),
    Mode("fp16", overflows(), options=fp16(), skipped=[2]),
    Mode("fp16, Adam", overflows(Adam), options=fp16(), skipped=[2]),
    Mode("fp16, fused Adam", overflows(Adam, fused=True), options=fp16(), skipped=[2], unscales_itself=True),
    Mode("fp16, fused SGD", overflows(SGD, fused=True), options=fp16(), skipped=[2], unscales_itself=True),
    Mode("fp16, the scale starts too high", options=fp16(2.0**40, 2.0**-12), skipped=[0, 1]),
    Mode("fp16, the scaler is switched off", options=fp16(enabled=False)),
    Mode("fp16, accumulation", overflows(), options=fp16(accumulate_grad_batches=2), steps=range(3), skipped=[1]),
    Mode(
        "fp16, fused, accumulation",
        overflows(AdamW, fused=True),
        options=fp16(accumulate_grad_batches=2),
        steps=range(3),
        skipped=[1],
        unscales_itself=True,
    ),
    Mode("fp16, clip by norm", overflows(), options=fp16(**CLIPS), skipped=[2], clips=True),
    Mode("fp16, clip by value", overflows(), options=fp16(**CLIPS_VALUES), skipped=[2], clips=True),
    Mode(
        "fp16, a hook of the optimizer changes gradients",
        lambda: automatic.ShrinksInHook(mlp()),
        options=fp16(),
        clips=True,
    ),
    Mode("fp16, a step of None", lambda: automatic.SometimesNone(mlp()), options=fp16(), warnings=NONE),
    Mode("fp16, by hand", by_hand(manual.plain, factor=1e6), options=fp16(), skipped=[2]),
    Mode(
        "fp16, by hand, fused",
        by_hand(manual.plain, mlp, manual.fused, factor=1e6),
        options=fp16(),
        skipped=[2],
        unscales_itself=True,
    ),
    Mode("fp16, by hand, clip by norm", by_hand(manual.clips, gradient_clip_val=20), options=fp16(), clips=True),
    Mode("fp16, GAN", by_hand(manual.plays_gan, manual.gan, manual.optimizers_of_gan), options=fp16()),
    Mode(
        "fp16, fused GAN",
        by_hand(manual.plays_gan, manual.gan, manual.fused_optimizers_of_gan),
        options=fp16(),
        unscales_itself=True,
    ),
    Mode("fp16, sparse gradients", lambda: Classifier(nets.sparse()), options=fp16(), repeats_on_cuda=False),
]

OPTIMIZERS = [
    Mode("SGD with momentum", classifier(SGD, momentum=0.9, nesterov=True, foreach=False)),
    Mode("SGD with momentum, foreach on", classifier(SGD, momentum=0.9, nesterov=True, foreach=True), overwrites=True),
    Mode("Adam", classifier(Adam)),
    Mode("AdamW", classifier(AdamW, amsgrad=True)),
    Mode("RMSprop", classifier(RMSprop)),
    Mode("Adam, maximizing", classifier(Adam, maximize=True, weight_decay=0.1)),
    Mode("Adam, fused", classifier(Adam, fused=True)),
    Mode("SGD, fused", classifier(SGD, fused=True)),
    Mode("Adam, foreach off", classifier(Adam, foreach=False)),
    Mode("SGD, foreach on", classifier(SGD, foreach=True, weight_decay=0.1)),
    Mode("Adam, fused, clip by norm", classifier(Adam, fused=True), options=options(**CLIPS), clips=True),
    Mode("Adam, fused, bf16-mixed", classifier(Adam, fused=True), options=options(precision="bf16-mixed")),
    Mode("LBFGS", classifier(LBFGS, max_iter=4)),
    Mode("LBFGS, clip by norm", classifier(LBFGS, max_iter=3), options=options(**CLIPS), clips=True),
    Mode("a learning rate schedule", lambda: automatic.SchedulesRate(mlp())),
    Mode(
        "the optimizer replaced",
        lambda: automatic.ReplacesOptimizer(mlp()),
        options=options(max_epochs=2),
        steps=range(12),
    ),
    Mode("parameters outside of the model", automatic.TrainsLoss),
]

AUTOMATIC = [
    Mode("accumulation", batches=lambda: Batches(7), options=options(accumulate_grad_batches=3, max_epochs=2)),
    Mode(
        "accumulation by a schedule",
        options=options(lambda: GradientAccumulationScheduler({0: 1, 1: 3}), max_epochs=2),
        steps=range(8),
    ),
    Mode("clip by norm", options=options(**CLIPS), clips=True),
    Mode("clip by value", options=options(**CLIPS_VALUES), clips=True),
    Mode("clip that never bites", options=options(gradient_clip_val=1e6)),
    Mode("clip after accumulation", options=options(accumulate_grad_batches=2, **CLIPS), steps=range(3), clips=True),
    Mode("the user clips", lambda: automatic.ClipsItself(mlp()), clips=True),
    Mode("the user changes gradients", lambda: automatic.Shrinks(mlp()), clips=True),
    Mode("a callback changes gradients", options=options(automatic.ShrinksAsCallback), clips=True),
    Mode(
        "a lambda changes gradients",
        options=options(lambda: LambdaCallback(on_before_optimizer_step=automatic.shrink)),
        clips=True,
    ),
    Mode("a hook put onto the model changes gradients", automatic.shrinks_on_the_instance, clips=True),
    Mode("a gradient penalty", lambda: automatic.Penalizes(mlp(nn.Tanh))),
    Mode("a step of None", lambda: automatic.SometimesNone(mlp()), warnings=NONE),
    Mode(
        "a step of None, accumulation",
        lambda: automatic.SometimesNone(mlp()),
        options=options(accumulate_grad_batches=3),
        steps=range(2),
        warnings=NONE,
    ),
    Mode(
        "a batch of None",
        batches=automatic.WithNone,
        steps=[0, 1, 3, 4, 5],
        warnings=["ignore:train_dataloader yielded None"],
    ),
    Mode("a step of None, gradients of zero", lambda: automatic.SetsToZero(mlp()), warnings=NONE),
    Mode("a step that returns a dict", lambda: automatic.ReturnsDict(mlp())),
    Mode(
        "a step that takes the iterator",
        lambda: automatic.TakesIterator(mlp()),
        warnings=["ignore:You are using the .dataloader_iter. step", "ignore:Found .dataloader_iter. argument"],
    ),
    Mode("the user steps every other batch", lambda: automatic.StepsEveryOther(mlp()), steps=[1, 3, 5]),
    Mode(
        "the rest of an epoch refused",
        lambda: automatic.LeavesEpoch(mlp()),
        options=options(max_epochs=2),
        steps=range(9),
    ),
    Mode(
        "validation",
        lambda: Validated(mlp()),
        options=options(max_epochs=2, limit_val_batches=2, num_sanity_val_steps=1),
        fit=automatic.fit_and_validate,
        steps=range(12),
    ),
    Mode(
        "validation between micro-batches",
        lambda: Validated(mlp()),
        options=options(limit_val_batches=2, val_check_interval=1, accumulate_grad_batches=2),
        fit=automatic.fit_and_validate,
        steps=range(3),
    ),
    Mode("anomalies detected", options=options(detect_anomaly=True)),
    Mode("deterministic", options=options(deterministic=True)),
    Mode("barebones", options=options(barebones=True, **dict.fromkeys(automatic.NOT_IN_BAREBONES))),
    Mode("profiled", options=options(profiler="simple")),
    Mode(
        "distributed, alone",
        options=lambda accelerator: {
            "strategy": DDPStrategy(
                process_group_backend="nccl" if accelerator == "cuda" else "gloo", gradient_as_bucket_view=True
            )
        },
        fit=automatic.fit_distributed,
        warnings=["ignore:The AccumulateGrad node's stream"],  # of Lightning's DDP on CUDA
    ),
    Mode("a layer made in configure_model", automatic.ConfiguresModel),
]

MANUAL = [
    Mode("by hand", by_hand(manual.plain)),
    Mode("by hand, bf16-mixed", by_hand(manual.clips, **CLIPS), options=options(precision="bf16-mixed"), clips=True),
    Mode("by hand, clip by norm", by_hand(manual.clips, **CLIPS), clips=True),
    Mode("by hand, clip by value", by_hand(manual.clips, **CLIPS_VALUES), clips=True),
    Mode("by hand, accumulation", by_hand(manual.accumulates), steps=[2, 5], clips=True),
    Mode("by hand, a closure", by_hand(manual.gives_closure)),
    Mode(
        "by hand, LBFGS",
        by_hand(manual.gives_closure, mlp, lambda net: LBFGS(net.parameters(), 0.01, max_iter=3)),
        warnings=["ignore:Converting a tensor with requires_grad=True to a scalar"],  # by torch 2.8
    ),
    Mode("by hand, two steps a batch", by_hand(manual.steps_twice)),
    Mode("by hand, sharpness-aware", by_hand(manual.steps_from_afar)),
    Mode("by hand, past Lightning", by_hand(manual.goes_past_lightning)),
    Mode("GAN", by_hand(manual.plays_gan, manual.gan, manual.optimizers_of_gan)),
    Mode("two optimizers that take turns", by_hand(manual.takes_turns, mlp, manual.optimizers_of_halves)),
    Mode("two optimizers, one more often", by_hand(manual.steps_often, mlp, manual.optimizers_of_halves)),
    Mode("two optimizers in one batch", by_hand(manual.trains_parts, mlp, manual.optimizers_of_halves), clips=True),
    Mode("two optimizers for one layer", by_hand(manual.trains_parts, mlp, manual.optimizers_of_kinds), clips=True),
    Mode(
        "SparseAdam beside SGD",
        by_hand(manual.steps_all, nets.sparse, manual.optimizers_of_sparse),
        repeats_on_cuda=False,
    ),
]

CHANGES = [
    Mode("frozen on the way", lambda: automatic.Changes(automatic.freeze)),
    Mode("unfrozen on the way", automatic.Unfreezes),
    Mode("frozen in turn, gradients of zero", lambda: automatic.FreezesInTurn(mlp())),
    Mode("unfrozen in a group of its own", lambda: automatic.Changes(automatic.unfreeze, automatic.frozen())),
    Mode(
        "finetuned",
        lambda: automatic.TrainsUnfrozen(mlp()),
        options=options(automatic.Finetunes, max_epochs=2),
        steps=range(12),
    ),
    Mode("a parameter vanishes", lambda: automatic.Changes(automatic.drop_bias)),
    Mode(
        "a layer vanishes",
        lambda: automatic.Changes(automatic.drop_layer),
    ),
    Mode("data swapped", lambda: automatic.Changes(automatic.swap_data)),
    Mode(
        "a parameter replaced",
        lambda: automatic.Changes(automatic.replace_weight),
    ),
    Mode(
        "a layer added",
        lambda: automatic.Changes(automatic.add_layer),
        wrong="a layer that comes after the fit began has no row; coverage says so",
    ),
]

NETS = [
    *(
        Mode(
            f"{act.__name__}, three batches a step",
            nets.wild(act),
            options=options(accumulate_grad_batches=3),
            steps=range(2),
        )
        for act in (nn.ReLU, nn.Sigmoid, nn.Tanh, nn.SELU, nn.GELU)
    ),
    Mode("Sigmoid", nets.wild(nn.Sigmoid)),
    Mode("ReLU in place", nets.wild(lambda: nn.ReLU(inplace=True))),
    Mode("units die and revive", nets.Flickers, batches=lambda: Batches(18, 2), steps=range(18)),
    Mode("an output changed in place", net(nets.doubles, enter=partial(nn.Linear, 20, 4), act=nn.GELU)),
    Mode("a head of zeros", nets.zero_head),
    Mode("turned to NaN", lambda: automatic.TurnsToNan(mlp(nn.SELU))),
    Mode(
        "turned to NaN, ReLU",
        lambda: automatic.TurnsToNan(mlp()),
    ),
    Mode("a module called twice", net(nets.twice, enter=nets.square, act=nn.ReLU)),
    Mode("a module called ten times", net(nets.ten_times, enter=nets.square, act=nn.ReLU)),
    Mode(
        "a module called now once, now twice",
        net(nets.once_or_twice, enter=nets.square, act=nn.ReLU),
        lambda: Batches(12, 3),
        options=options(accumulate_grad_batches=2),
        steps=range(6),
    ),
    Mode("a branch that runs late", lambda: nets.LateBranch(nn.Linear(20, 6)), lambda: Batches(15, 4), steps=range(15)),
    Mode(
        "a convolution that runs late",
        lambda: nets.LateBranch(nn.Sequential(nn.Unflatten(1, (1, 20)), nn.Conv1d(1, 3, 3))),
        lambda: Batches(15, 4),
        steps=range(15),
        channels=["net.act"],
        wrong="an activation of three dimensions that is new after ten records is measured from the next record on",
    ),
    Mode("tied weights", nets.tied),
    Mode("parametrized weights", nets.parametrized),
    *(Mode(f"spectral norm, {act.__name__}", nets.spectral(act)) for act in (nn.ReLU, nn.Tanh)),
    Mode(
        "a scripted part",
        lambda: Classifier(mlp(nn.Tanh).insert(0, torch.jit.script(nn.Linear(20, 20)))),
        unseen=["hook at net.0"],
        warnings=["ignore:.torch.jit.script. is deprecated"],
    ),
    Mode("a model that owns parameters", nets.OwnsParameters),
    Mode("odd parameters", lambda: Classifier(nets.Odd())),
    Mode("a part in evaluation mode", nets.InEvaluation),
    Mode("lazy modules", lambda: Classifier(nn.Sequential(nn.LazyLinear(8), nn.ReLU(), nn.LazyLinear(4)))),
    Mode("checkpointing, reentrant", net(partial(nets.checkpointed, reentrant=True), enter=nets.square, body=mlp)),
    Mode("checkpointing, not reentrant", net(partial(nets.checkpointed, reentrant=False), enter=nets.square, body=mlp)),
    *(Mode(kind.__name__, nets.recurrent(kind)) for kind in (nn.RNN, nn.LSTM, nn.GRU)),
    Mode("a packed sequence", net(nets.packed, rnn=partial(nn.LSTM, 4, 4, batch_first=True), act=nn.ReLU)),
    Mode("a cell in a loop", net(nets.loop, cell=partial(nn.GRUCell, 4, 4), act=nn.ReLU)),
    Mode("attention", net(nets.attends, attention=partial(nn.MultiheadAttention, 4, 2, batch_first=True), act=nn.GELU)),
    Mode(
        "a transformer layer",
        net(nets.encodes, encoder=partial(nn.TransformerEncoderLayer, 4, 2, 8, batch_first=True)),
        lambda: Batches(14, 4),
        functions={"net.encoder.relu": ("net.encoder.linear1", torch.relu)},
        steps=range(14),
    ),
    Mode("a transformer layer on its fast path", nets.InFastPath, unseen=["activations called as functions"]),
    Mode("dictionaries of dictionaries", net(lambda n, x: n.nested(x)["deep"]["logits"], nested=nets.Nested)),
    Mode("tuples", net(lambda n, x: n.pair(x)[1][0], pair=nets.Pair)),
    Mode("convolution", nets.images(), lambda: Batches(14, 4), steps=range(14), channels=["net.conv.2"]),
    Mode("convolution, channels last", nets.images(memory_format=torch.channels_last), channels=["net.conv.2"]),
    Mode("complex parameters", lambda: Classifier(nets.Complex())),
    Mode("complex parameters, Adam", lambda: Classifier(nets.Complex(), optimizer=Adam)),
    Mode("sparse gradients", lambda: Classifier(nets.sparse()), repeats_on_cuda=False),
]

SWA = partial(StochasticWeightAveraging, 0.05, 1, annealing_epochs=1)

TOOLS = [
    Mode("lr_find", fit=automatic.find_rate),
    Mode("lr_find as a callback", options=options(partial(LearningRateFinder, num_training_steps=8))),
    Mode("a batch size found", automatic.HasLoader, fit=automatic.find_batch_size, steps=range(8)),
    Mode("weights averaged", options=options(SWA, max_epochs=3), steps=range(18)),
    Mode(
        "weights averaged, with batch norm",
        nets.images(),
        options=options(SWA, max_epochs=3),
        steps=range(19),  # the last without gradients, at the end of an epoch for the running statistics
        channels=["net.conv.2"],
    ),
    Mode("weights averaged exponentially", options=options(automatic.ema)),
    Mode("pruned", options=options(lambda: ModelPruning("l1_unstructured", amount=0.3), max_epochs=2), steps=range(12)),
    Mode("checkpoints", options=options(lambda: ModelCheckpoint(every_n_train_steps=2), enable_checkpointing=True)),
    Mode("resumed", options=options(max_epochs=2), fit=automatic.resume, steps=range(6, 12)),
    Mode("a second fit", fit=automatic.fit_twice),
    Mode("copied in the middle", options=options(automatic.Copies)),
]

MODES = [*PRECISION, *OPTIMIZERS, *AUTOMATIC, *MANUAL, *CHANGES, *NETS, *TOOLS]
