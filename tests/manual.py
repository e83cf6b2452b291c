"""Loops of manual optimization for `tests.modes`."""

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.optim import SGD, Adam, Optimizer, RMSprop, SparseAdam

from tests.models import Batch, Classifier, Net, mlp


class ByHand(Classifier):
    """Manual optimization: `body` is the training step."""

    def __init__(
        self,
        body: Callable[[Any, Batch, int], Any],
        net: Callable[[], nn.Module] = mlp,
        optimizers_of: Callable[[Any], Any] = lambda net: SGD(net.parameters(), lr=0.05, momentum=0.9),
    ) -> None:
        super().__init__(net())
        self.automatic_optimization = False
        self.body = body
        self.optimizers_of = optimizers_of

    def training_step(self, batch: Batch, batch_idx: int) -> Any:
        return self.body(self, batch, batch_idx)

    def loss(self, batch: Batch) -> Tensor:
        return F.cross_entropy(self.net(batch[0]), batch[1])

    def configure_optimizers(self) -> Any:
        return self.optimizers_of(self.net)


def plain(module: Any, batch: Batch, batch_idx: int, factor: float = 1) -> Tensor:
    """One step; the third loss is multiplied by `factor`."""
    loss: Tensor = module.loss(batch) * (factor if batch_idx == 2 else 1)
    optimizer = module.optimizers()
    optimizer.zero_grad()
    module.manual_backward(loss)
    optimizer.step()
    return loss


def clips(module: Any, batch: Batch, batch_idx: int, **options: Any) -> None:
    optimizer = module.optimizers()
    optimizer.zero_grad()
    module.manual_backward(module.loss(batch))
    module.clip_gradients(optimizer, **options)
    optimizer.step()


def accumulates(module: Any, batch: Batch, batch_idx: int) -> Tensor:
    loss: Tensor = module.loss(batch)
    optimizer = module.optimizers()
    module.manual_backward(loss / 3)
    if batch_idx % 3 == 2:
        module.clip_gradients(optimizer, gradient_clip_val=0.05)
        optimizer.step()
        optimizer.zero_grad()
    return loss


def gives_closure(module: Any, batch: Batch, batch_idx: int) -> None:
    optimizer = module.optimizers()

    def closure() -> Tensor:
        loss: Tensor = module.loss(batch)
        optimizer.zero_grad()
        module.manual_backward(loss)
        return loss

    optimizer.step(closure=closure)


def steps_twice(module: Any, batch: Batch, batch_idx: int) -> None:
    plain(module, batch, batch_idx)
    plain(module, batch, batch_idx)


def steps_from_afar(module: Any, batch: Batch, batch_idx: int) -> None:
    """The gradients are those of weights further up the slope."""
    optimizer = module.optimizers()
    optimizer.zero_grad()
    module.manual_backward(module.loss(batch))
    away = [0.05 * p.grad for p in module.parameters()]
    with torch.no_grad():
        torch._foreach_add_(list(module.parameters()), away)
    optimizer.zero_grad()
    module.manual_backward(module.loss(batch))
    with torch.no_grad():
        torch._foreach_sub_(list(module.parameters()), away)
    optimizer.step()


def goes_past_lightning(module: Any, batch: Batch, batch_idx: int) -> None:
    optimizer = module.optimizers(use_pl_optimizer=False)
    optimizer.zero_grad()
    module.manual_backward(module.loss(batch))
    optimizer.step()


def steps_all(module: Any, batch: Batch, batch_idx: int) -> Tensor:
    loss: Tensor = module.loss(batch)
    module.manual_backward(loss)
    for optimizer in module.optimizers():
        optimizer.step()
        optimizer.zero_grad()
    return loss


def takes_turns(module: Any, batch: Batch, batch_idx: int) -> None:
    optimizer = module.optimizers()[batch_idx % 2]
    optimizer.zero_grad()
    module.manual_backward(module.loss(batch))
    optimizer.step()


def steps_often(module: Any, batch: Batch, batch_idx: int) -> None:
    """The first optimizer steps three times a batch, the second in every other batch."""
    for optimizer, times in zip(module.optimizers(), (3, batch_idx % 2), strict=True):
        for _ in range(times):
            optimizer.zero_grad()
            module.manual_backward(module.loss(batch))
            optimizer.step()


def trains_parts(module: Any, batch: Batch, batch_idx: int) -> None:
    """Each optimizer has a forward and a backward of its own."""
    for optimizer in module.optimizers():
        optimizer.zero_grad()
        module.manual_backward(module.loss(batch))
        module.clip_gradients(optimizer, gradient_clip_val=0.05)
        optimizer.step()


def plays_gan(module: Any, batch: Batch, batch_idx: int) -> None:
    for_generator, for_critic = module.optimizers()
    generator, critic = module.net.generator, module.net.critic
    fake = generator(torch.randn_like(batch[0]))
    module.toggle_optimizer(for_critic)
    for_critic.zero_grad()
    module.manual_backward(judged(critic(batch[0][:, :4]), 1) + judged(critic(fake.detach()), 0))
    for_critic.step()
    module.untoggle_optimizer(for_critic)
    module.toggle_optimizer(for_generator)
    for_generator.zero_grad()
    module.manual_backward(judged(critic(fake), 1))
    for_generator.step()
    module.untoggle_optimizer(for_generator)


def judged(scores: Tensor, real: float) -> Tensor:
    return F.binary_cross_entropy_with_logits(scores, torch.full_like(scores, real))


def gan() -> nn.Module:
    return Net(lambda net, x: net.generator(x), generator=mlp(), critic=mlp(nn.SELU, (4, 8, 1)))


def fused(net: nn.Module) -> Optimizer:
    return Adam(net.parameters(), lr=1e-3, fused=True)


def optimizers_of_gan(net: Any) -> Any:
    return Adam(net.generator.parameters(), lr=1e-3), RMSprop(net.critic.parameters(), lr=1e-3)


def fused_optimizers_of_gan(net: Any) -> Any:
    return Adam(net.generator.parameters(), lr=1e-3, fused=True), SGD(net.critic.parameters(), lr=1e-2, fused=True)


def optimizers_of_halves(net: Any) -> Any:
    return SGD(net[:2].parameters(), lr=0.1), Adam(net[2:].parameters(), lr=0.01)


def optimizers_of_kinds(net: Any) -> Any:
    """One for weights, one for biases."""
    kinds = ([p for p in net.parameters() if p.dim() == n] for n in (2, 1))
    return [SGD(parameters, lr=0.1) for parameters in kinds]


def optimizers_of_sparse(net: Any) -> Any:
    return SparseAdam(net.embed.parameters(), lr=0.01), SGD(net.head.parameters(), lr=0.1)
