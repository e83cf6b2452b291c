"""What shards parameters, from where the torch that is installed has it: 2.4 keeps most of it in private places."""

from typing import TYPE_CHECKING

import torch.distributed.fsdp
import torch.distributed.tensor

if TYPE_CHECKING or hasattr(torch.distributed.tensor, "DTensor"):
    from torch.distributed.tensor import DTensor, Partial, Replicate, Shard
    from torch.distributed.tensor.debug import CommDebugMode
else:
    from torch.distributed._tensor import DTensor, Partial, Replicate, Shard
    from torch.distributed._tensor.debug import CommDebugMode

if TYPE_CHECKING or hasattr(torch.distributed.fsdp, "fully_shard"):
    from torch.distributed.fsdp import fully_shard
else:
    from torch.distributed._composable.fsdp import fully_shard

__all__ = ["CommDebugMode", "DTensor", "Partial", "Replicate", "Shard", "fully_shard"]
