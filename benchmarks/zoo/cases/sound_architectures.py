"""Sound runs whose architecture tempts a naive rule: sparse, shared, rarely used, adversarial."""

from collections import OrderedDict
from typing import Any, cast

import torch
import torch.nn.functional as F
from pytorch_lightning.core.optimizer import LightningOptimizer
from torch import Tensor, nn

from zoo import data
from zoo.case import Case
from zoo.data import Loader, flat_mnist, mnist_images
from zoo.modules import (
    DIGITS,
    Classifier,
    LabelledModule,
    SmallConvNet,
    ZooModule,
    adam,
    adamw,
    kaiming_init,
    mlp,
    sgd,
)


def sparse_relu_net() -> ZooModule:
    net: Any = mlp([196, 256, 128, DIGITS], nn.ReLU, kaiming_init())
    nn.init.constant_(net.fc1.bias, -1.2)
    nn.init.constant_(net.fc2.bias, -0.4)
    return Classifier(net, sgd(0.05))


SPARSE_RELU = Case(
    name="relu_mlp_sparse_but_alive",
    why="over 70 % of the ReLU outputs of the first layer are zero, yet every unit fires on some samples",
    make_module=sparse_relu_net,
    make_loader=flat_mnist(seed=21, n=4096),
    steps=250,
    seed=121,
    learns_to=0.35,
)


class BasicBlock(nn.Module):
    """As in torchvision: one ReLU module is used twice."""

    def __init__(self, n_in: int, n_out: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(n_in, n_out, 3, stride, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(n_out)
        self.relu = nn.ReLU(inplace=True)
        self.conv2 = nn.Conv2d(n_out, n_out, 3, 1, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(n_out)
        self.shortcut: nn.Module = nn.Identity()
        if stride != 1 or n_in != n_out:
            self.shortcut = nn.Sequential(nn.Conv2d(n_in, n_out, 1, stride, bias=False), nn.BatchNorm2d(n_out))

    def forward(self, x: Tensor) -> Any:
        out = self.relu(self.bn1(self.conv1(x)))
        return self.relu(self.bn2(self.conv2(out)) + self.shortcut(x))


def small_resnet() -> ZooModule:
    blocks = [BasicBlock(8, 8, 1), BasicBlock(8, 16, 2), BasicBlock(16, 16, 1), BasicBlock(16, 32, 2)]
    net = nn.Sequential(
        OrderedDict(
            stem=nn.Conv2d(1, 8, 3, padding=1, bias=False),
            bn=nn.BatchNorm2d(8),
            relu=nn.ReLU(inplace=True),
            blocks=nn.Sequential(*blocks),
            pool=nn.AdaptiveAvgPool2d(1),
            flatten=nn.Flatten(),
            head=nn.Linear(32, DIGITS),
        )
    )
    return Classifier(net, sgd(0.05, momentum=0.9))


RESNET = Case(
    name="resnet_with_batchnorm",
    why="an ordinary small ResNet; shared in-place ReLU modules, no conv biases",
    make_module=small_resnet,
    make_loader=mnist_images(seed=22),
    steps=120,
    seed=122,
    learns_to=0.4,
)


class TinyTransformer(ZooModule):
    """A causal pre-norm language model on tokens with Zipf-like frequencies."""

    def __init__(self, vocab: int = 300, width: int = 48, length: int = 24) -> None:
        super().__init__(adamw(3e-3))
        self.token = nn.Embedding(vocab, width)
        self.position = nn.Embedding(length, width)
        layer = nn.TransformerEncoderLayer(width, 4, 96, dropout=0.0, batch_first=True, norm_first=True)
        self.blocks = nn.TransformerEncoder(layer, 2, enable_nested_tensor=False)
        self.norm = nn.LayerNorm(width)
        self.head = nn.Linear(width, vocab)

    def forward(self, tokens: Tensor) -> Any:
        t = tokens.shape[1]
        h = self.token(tokens) + self.position(torch.arange(t))
        mask = nn.Transformer.generate_square_subsequent_mask(t, dtype=h.dtype)
        return self.head(self.norm(self.blocks(h, mask=mask, is_causal=True)))

    def compute_loss(self, batch: Any) -> Tensor:
        x, y = batch
        return F.cross_entropy(self(x).flatten(0, 1), y.flatten())


TRANSFORMER = Case(
    name="transformer_layernorm_rare_tokens",
    why="embedding gradients are tiny and mostly zero rows, since most tokens are rare; that is normal",
    make_module=TinyTransformer,
    make_loader=lambda: data.loader(data.markov_text(1024, 24, 300, seed=23), batch_size=32, seed=23),
    steps=200,
    seed=123,
    learns_to=2.6,
)


class ToyGAN(ZooModule):
    """Learns a ring of eight Gaussians with two optimizers, stepped by hand."""

    def __init__(self) -> None:
        super().__init__(adam(2e-3))
        self.automatic_optimization = False
        self.generator = mlp([8, 64, 64, 2], lambda: nn.LeakyReLU(0.2))
        self.critic = mlp([2, 64, 64, 1], lambda: nn.LeakyReLU(0.2))

    def configure_optimizers(self) -> tuple[torch.optim.Optimizer, torch.optim.Optimizer]:
        return (
            torch.optim.Adam(self.generator.parameters(), lr=1e-3, betas=(0.5, 0.9)),
            torch.optim.Adam(self.critic.parameters(), lr=1e-3, betas=(0.5, 0.9)),
        )

    def training_step(self, batch: Any, batch_idx: int) -> None:
        generator_opt, critic_opt = cast("list[LightningOptimizer]", self.optimizers())
        real, noise = batch
        fake = self.generator(noise)
        critic_loss = F.softplus(-self.critic(real)).mean() + F.softplus(self.critic(fake.detach())).mean()
        critic_opt.zero_grad()
        self.manual_backward(critic_loss)
        critic_opt.step()
        generator_loss = F.softplus(-self.critic(fake)).mean()
        generator_opt.zero_grad()
        self.manual_backward(generator_loss)
        generator_opt.step()

    def compute_loss(self, batch: Any) -> Tensor:
        """Distance of the first two moments, and of the mean radius: how good are the fakes?"""
        real, noise = batch
        fake = self.generator(noise)
        distance: Tensor = (
            (real.mean(0) - fake.mean(0)).norm()
            + (torch.cov(real.T) - torch.cov(fake.T)).norm()
            + (real.norm(dim=1).mean() - fake.norm(dim=1).mean()).abs()
        )
        return distance


def ring_and_noise() -> Loader:
    g = torch.Generator().manual_seed(24)
    angle = torch.randint(0, 8, (4096,), generator=g) * torch.pi / 4
    real = 2 * torch.stack([angle.cos(), angle.sin()], 1) + 0.1 * torch.randn(4096, 2, generator=g)
    noise = torch.randn(4096, 8, generator=g)
    return data.loader(torch.utils.data.TensorDataset(real, noise), batch_size=128, seed=24)


GAN = Case(
    name="gan_two_optimizers_by_hand",
    why="manual optimization; while one net steps the other's gradients are stale or None, by design",
    make_module=ToyGAN,
    make_loader=ring_and_noise,
    steps=600,  # 300 of each optimizer
    seed=124,
    learns_to=2.0,
)


class BagOfWords(LabelledModule):
    def __init__(self, vocab: int = 3000, width: int = 24, n_classes: int = 5) -> None:
        super().__init__(adam(0.01))
        self.words = nn.Embedding(vocab, width)
        self.head = nn.Linear(width, n_classes)

    def forward(self, bags: Tensor) -> Any:
        return self.head(self.words(bags).mean(1))


RARE_ROWS = Case(
    name="embedding_with_rarely_used_rows",
    why="per batch over 80 % of the embedding rows get zero gradient, since words are Zipf-distributed",
    make_module=BagOfWords,
    make_loader=lambda: data.loader(data.zipf_bags(4096, 12, 3000, 5, seed=29), seed=29),
    steps=250,
    seed=129,
    learns_to=0.7,
)


PLAIN_CONV = Case(
    name="lenet_on_mnist",
    why="an ordinary conv net with max pooling and ReLU, default init",
    make_module=lambda: Classifier(SmallConvNet(), sgd(0.03, momentum=0.9)),
    make_loader=mnist_images(seed=31, size=28),
    steps=150,
    seed=131,
    learns_to=0.4,
)
