"""One process or many: what differs between them is written here, so that nobody else needs to know.

Started by torchrun, each process takes its share of every batch and all end with the same weights as one process
would have: sums are taken over all processes, batch norm looks at all pictures, and dropout takes its rows of the
mask that one process would have drawn. Processes talk by NCCL on GPUs and by gloo on CPUs.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import torch
import torch.distributed as dist
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor, nn


@contextmanager
def joined(device: torch.device | str = "cpu") -> Iterator[torch.device]:
    """Take one's place among the processes that torchrun started; gives the device of this one.

    Without torchrun, or if the processes know each other already, nothing happens. The group is left however the
    block ends, so that the others see an end instead of waiting.
    """
    device = torch.device(device)
    if not dist.is_torchelastic_launched() or dist.is_initialized():
        yield device
        return
    if device.type == "cuda":
        device = torch.device("cuda", dist.get_node_local_rank())
        torch.cuda.set_device(device)
    dist.init_process_group("nccl" if device.type == "cuda" else "gloo")
    try:
        yield device
    finally:
        dist.destroy_process_group()


def rank() -> int:
    """Which process this is, from 0."""
    return dist.get_rank() if dist.is_initialized() else 0


def count() -> int:
    """How many processes there are."""
    return dist.get_world_size() if dist.is_initialized() else 1


def total(value: Tensor) -> Tensor:
    """The sum over all processes; gradients do not pass."""
    value = value.detach().clone()
    if count() > 1:
        dist.all_reduce(value)
    return value


def share(network: nn.Module, device: torch.device, norm: bool = True) -> nn.Module:
    """The network with layers that know of the other processes; tensors and their names stay. Alone: unchanged.

    `norm`: batch norm over all pictures; otherwise each process normalises its own.
    """
    if count() == 1:
        return network
    if norm and device.type == "cuda":
        network = nn.SyncBatchNorm.convert_sync_batchnorm(network)
    for module in list(network.modules()):
        for name, child in module.named_children():
            if isinstance(child, nn.BatchNorm2d) and norm:
                setattr(module, name, _like(child, SharedBatchNorm))
            elif isinstance(child, nn.Dropout2d):
                setattr(module, name, SharedDropout(child.p))
    return network


def _like(norm: nn.BatchNorm2d, kind: type[SharedBatchNorm]) -> SharedBatchNorm:
    """The same layer, with the very same tensors, of another kind."""
    new = kind(norm.num_features, norm.eps, norm.momentum)
    new._parameters, new._buffers = norm._parameters, norm._buffers
    return new


class SharedBatchNorm(nn.BatchNorm2d):
    """Batch norm over the pictures of all processes, each of which holds equally many.

    torch's own (SyncBatchNorm) does not run on CPUs.
    """

    def forward(self, x: Float[Tensor, "N C h w"]) -> Float[Tensor, "N C h w"]:
        """y = (x - mean) / sqrt(var + eps) * weight + bias; mean and variance over everything, everywhere."""
        if not self.training:
            return super().forward(x)
        kind = x.dtype
        x = x.to(torch.promote_types(kind, torch.float32))  # sums in half precision would be too coarse
        mean = _Mean.apply(x.mean((0, 2, 3)))
        centred = x - mean[:, None, None]
        variance = _Mean.apply(centred.square().mean((0, 2, 3)))
        with torch.no_grad():
            values = x.numel() / x.shape[1] * count()
            self.running_mean.lerp_(mean, self.momentum)
            unbiased = variance * (values / max(values - 1, 1))
            self.running_var.lerp_(unbiased, self.momentum)
            self.num_batches_tracked += 1
        scale = self.weight * torch.rsqrt(variance + self.eps)
        return (centred * scale[:, None, None] + self.bias[:, None, None]).to(kind)


class SharedDropout(nn.Dropout2d):
    """Dropout of whole channels by one mask for the pictures of all processes, each taking its own rows."""

    def forward(self, x: Float[Tensor, "N C h w"]) -> Float[Tensor, "N C h w"]:
        """Zero a channel with probability p, and multiply what stays with 1 / (1 - p)."""
        if not self.training:
            return x
        whole = F.dropout2d(x.new_ones(len(x) * count(), x.shape[1], 1, 1), self.p, training=True)
        return x * whole[rank() * len(x) : (rank() + 1) * len(x)]


class _Mean(torch.autograd.Function):
    """The mean of a value over all processes; its gradient is the mean of theirs."""

    @staticmethod
    def forward(context: torch.autograd.function.FunctionCtx, value: Tensor) -> Tensor:
        return total(value) / count()

    @staticmethod
    def backward(context: torch.autograd.function.FunctionCtx, gradient: Tensor) -> Tensor:
        return total(gradient) / count()


def parts_of(order: Int[np.ndarray, "steps batch"], accumulate: int) -> Int[np.ndarray, "steps part"]:
    """Which items of each batch this process takes: as many as all others.

    A batch falls into `accumulate` parts, each of which is divided among the processes in their order.
    """
    steps, batch = order.shape
    return order.reshape(steps, accumulate, count(), -1)[:, :, rank()].reshape(steps, batch // count())


def check_batch(batch: int, accumulate: int) -> None:
    """Raise ValueError unless every part of every process gets equally many items, and at least one."""
    shares = accumulate * count()
    if batch % shares:
        nearest = math.ceil(batch / shares) * shares
        raise ValueError(
            f"batch is {batch}, which {count()} processes in {accumulate} parts cannot share evenly; "
            f"take a multiple of {shares}, such as {nearest}"
        )
