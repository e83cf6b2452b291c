"""What NCCL does with a record: on a single device, which is a group of one rank."""

import numpy as np
import pytest
import torch
import torch.distributed as dist
from torch import nn

from gradscope import Thresholds
from gradscope.ranks.group import Group
from gradscope.ranks.merging import RankMerge
from gradscope.recorder import Recorder

pytestmark = [
    pytest.mark.skipif(
        not (torch.cuda.is_available() and dist.is_nccl_available()), reason="needs a CUDA device and NCCL"
    ),
    pytest.mark.filterwarnings("ignore:Synchronization debug mode is a prototype"),
]


def test_a_group_of_one_measures_what_it_measures_alone() -> None:
    store = dist.HashStore()  # type: ignore[attr-defined]  # which torch exports without saying so
    dist.init_process_group("nccl", store=store, rank=0, world_size=1)
    try:
        merge = RankMerge(Group(dist.new_group(), torch.device("cuda")))  # type: ignore[arg-type]
        torch.manual_seed(0)
        net = nn.Sequential(nn.Linear(20, 16), nn.ReLU(), nn.Linear(16, 8), nn.Tanh()).cuda()
        batch = torch.randn(32, 20, device="cuda")
        records = []
        for ranks in (None, merge):
            recorder = Recorder(net, Thresholds(), lambda name: True, merge=ranks)
            for step in range(3):
                recorder.begin([])
                loss = net(batch).square().mean()
                recorder.end_batch(loss)
                torch.cuda.set_sync_debug_mode("error" if step and ranks is None else "default")
                recorder.end(step)
                torch.cuda.set_sync_debug_mode("default")
            record = [recorder.poll(wait=True) for _ in range(3)][-1]
            assert record is not None
            assert recorder.failures == {}
            records.append(record)
        assert merge.ended == ""
        alone, merged = records
        for name, values in alone.metrics.items():
            np.testing.assert_allclose(merged.metrics[name], values, rtol=1e-5, atol=1e-6, err_msg=name)
        assert merged.globals["loss"] == pytest.approx(alone.globals["loss"], rel=1e-6)
        merge.leave()
    finally:
        dist.destroy_process_group()
