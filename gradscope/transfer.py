"""The one copy of a record from the device to the host: never waited for before it has to be."""

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from gradscope.records import Floats


class Transfer:
    """Tensors, flattened and joined as float32, on their way to the host.

    On CUDA the copy runs on its own into pinned memory, and an event tells when it has arrived, so that neither
    starting nor asking makes the host wait for the device; elsewhere it is done at once. `exact`, float64, goes along
    bit for bit.
    """

    def __init__(self, tensors: list[Tensor], exact: Tensor | None = None) -> None:
        self._exact = torch.Size([0]) if exact is None else exact.shape
        bits = [] if exact is None else [exact.reshape(-1).view(torch.float32)]  # first, where they are aligned
        some = [t for t in [*bits, *tensors] if t.numel()]
        device = next((t.device for t in some if not t.is_cpu), torch.device("cpu"))
        joined = (
            torch.cat([_row(t, device) for t in some]) if some else torch.zeros(0, dtype=torch.float32, device="cpu")
        )
        self._arrived: torch.cuda.Event | None = None
        if device.type == "cuda":
            self._host = torch.empty(joined.shape, dtype=torch.float32, device="cpu", pin_memory=True)
            self._host.copy_(joined, non_blocking=True)
            self._arrived = torch.cuda.Event()  # type: ignore[no-untyped-call]  # torch has no types for events
            self._arrived.record(torch.cuda.current_stream(device))
        else:
            self._host = joined.cpu()

    def ready(self) -> bool:
        """Say whether the copy has arrived, without waiting."""
        return self._arrived is None or bool(self._arrived.query())  # type: ignore[no-untyped-call]  # likewise

    def numpy(self) -> Floats:
        """Return the copy of the tensors, float32[n]; waits for it where it is not `ready`."""
        return self._all()[2 * self._exact.numel() :]

    def exact(self) -> npt.NDArray[np.float64]:
        """Return that of `exact`, of its shape; waits for it where it is not `ready`."""
        return self._all()[: 2 * self._exact.numel()].view(np.float64).reshape(self._exact)

    def _all(self) -> Floats:
        if self._arrived is not None:
            self._arrived.synchronize()
        return np.asarray(self._host.numpy(), dtype=np.float32)


def _row(t: Tensor, device: torch.device) -> Tensor:
    """The numbers in `t` one behind the other, on `device`."""
    t = t.detach() if t.requires_grad else t
    if t.dtype is not torch.float32 or t.device != device:
        t = t.to(device, torch.float32, non_blocking=True)
    return t if t.dim() == 1 else t.reshape(-1)
