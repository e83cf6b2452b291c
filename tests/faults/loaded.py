"""A data set that a worker loads, and with it nothing but torch: a spawned one imports what it is in."""

import torch
from torch import Tensor
from torch.utils.data import Dataset


class Numbers(Dataset[tuple[Tensor, Tensor]]):
    def __len__(self) -> int:
        return 160

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor]:
        generator = torch.Generator().manual_seed(index)
        return torch.randn(20, generator=generator), torch.tensor(index % 4)
