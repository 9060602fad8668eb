"""Training in one process or in several, started by torchrun (NCCL on GPUs, gloo on CPUs).

Each process takes its share of every batch; all end with the weights of a one-process run. Sums and batch norm are
over all processes, and each uses its rows of one common dropout mask.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
import torch.distributed as dist
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from ttilib.solver.extraction import find_device


@contextmanager
def process_group(device: torch.device | str = "cpu") -> Iterator[torch.device]:
    """Join the process group of torchrun, if any, and leave it at the end; yields the device of this process."""
    if not dist.is_torchelastic_launched() or dist.is_initialized():
        yield find_device(device)
        return
    device = torch.device(device)
    if device.type == "cuda":
        device = torch.device("cuda", dist.get_node_local_rank())
        torch.cuda.set_device(device)
    dist.init_process_group("nccl" if device.type == "cuda" else "gloo")
    try:
        yield device
    finally:
        dist.destroy_process_group()


def rank() -> int:
    """Index of this process, from 0."""
    return dist.get_rank() if dist.is_initialized() else 0


def count() -> int:
    """Number of processes."""
    return dist.get_world_size() if dist.is_initialized() else 1


def total(value: Tensor) -> Tensor:
    """Sum over all processes, without gradients."""
    value = value.detach().clone()
    if count() > 1:
        dist.all_reduce(value)
    return value


def share_layers(network: nn.Module, device: torch.device, norm: bool = True) -> None:
    """Make dropout and (with `norm`) batch norm work over all processes; parameters and their names stay."""
    if count() == 1:
        return
    if norm and device.type == "cuda":
        nn.SyncBatchNorm.convert_sync_batchnorm(network)
    for module in list(network.modules()):
        for name, child in module.named_children():
            if isinstance(child, nn.BatchNorm2d) and norm:
                shared = SharedBatchNorm(child.num_features, child.eps, child.momentum)
                shared._parameters, shared._buffers = child._parameters, child._buffers
                setattr(module, name, shared)
            elif isinstance(child, nn.Dropout2d):
                setattr(module, name, SharedDropout(child.p))


class SharedBatchNorm(nn.BatchNorm2d):
    """Batch norm over all processes, with equally many images each; torch's SyncBatchNorm needs a GPU."""

    def forward(self, x: Float[Tensor, "N C h w"]) -> Float[Tensor, "N C h w"]:
        """y = (x - mean) / sqrt(var + eps) * weight + bias; mean and variance over all processes."""
        if not self.training:
            return super().forward(x)
        dtype = x.dtype
        x = x.to(torch.promote_types(dtype, torch.float32))  # sums in half precision would be too coarse
        mean = _Mean.apply(x.mean((0, 2, 3)))
        deviation = x - mean[:, None, None]
        variance = _Mean.apply(deviation.square().mean((0, 2, 3)))
        with torch.no_grad():
            values = x.numel() / x.shape[1] * count()
            self.running_mean.lerp_(mean, self.momentum)
            self.running_var.lerp_(variance * (values / max(values - 1, 1)), self.momentum)
            self.num_batches_tracked += 1
        scale = self.weight * torch.rsqrt(variance + self.eps)
        return (deviation * scale[:, None, None] + self.bias[:, None, None]).to(dtype)


class SharedDropout(nn.Dropout2d):
    """Channel dropout with one mask for all processes; each takes its own rows."""

    def forward(self, x: Float[Tensor, "N C h w"]) -> Float[Tensor, "N C h w"]:
        """Zero a channel with probability p; scale the others by 1 / (1 - p)."""
        if not self.training:
            return x
        mask = F.dropout2d(x.new_ones(len(x) * count(), x.shape[1], 1, 1), self.p, training=True)
        return x * mask[rank() * len(x) : (rank() + 1) * len(x)]


class _Mean(torch.autograd.Function):
    """Mean over all processes; the gradient is averaged too."""

    @staticmethod
    def forward(context: torch.autograd.function.FunctionCtx, value: Tensor) -> Tensor:
        return total(value) / count()

    @staticmethod
    def backward(context: torch.autograd.function.FunctionCtx, gradient: Tensor) -> Tensor:
        return total(gradient) / count()
