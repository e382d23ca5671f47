"""Batch norm over the slices of all workers: what torch has for CUDA alone, on the CPU too.

Ioffe and Szegedy, "Batch Normalization", 2015. The passes over the pictures are torch's own; what is added is one sum
over the workers in each direction.
"""

from typing import Any

import torch
from torch import Tensor, distributed, nn
from torch.nn import functional

from pupila.training.loop.resnet import ResNet18

Grads = tuple[Tensor, Tensor, Tensor, None, None, None, None]


def synced(network: ResNet18) -> ResNet18:
    """Give the network batch norm that is synchronised over the process group; in place, weights and names stay."""
    if torch.cuda.is_available():
        converted: ResNet18 = nn.SyncBatchNorm.convert_sync_batchnorm(network)  # type: ignore[no-untyped-call]
        return converted
    for module in list(network.modules()):
        for name, child in module.named_children():
            if type(child) is nn.BatchNorm2d:
                setattr(module, name, SyncedBatchNorm.of(child))
    return network


class SyncedBatchNorm(nn.BatchNorm2d):
    """BatchNorm2d whose statistics in training are of all workers' pictures."""

    @classmethod
    def of(cls, plain: nn.BatchNorm2d) -> "SyncedBatchNorm":
        """Return the same layer, synchronised; it shares weights and running statistics with the plain one."""
        layer = cls(plain.num_features, plain.eps)
        layer.weight, layer.bias = plain.weight, plain.bias
        layer.running_mean, layer.running_var = plain.running_mean, plain.running_var
        layer.num_batches_tracked = plain.num_batches_tracked
        return layer.train(plain.training)

    def forward(self, x: Tensor) -> Tensor:
        """[N, C, H, W] -> the same shape."""
        if not self.training:
            return super().forward(x)
        assert self.num_batches_tracked is not None  # noqa: S101 - for the type checker
        self.num_batches_tracked.add_(1)
        out: Tensor = _Normalise.apply(  # type: ignore[no-untyped-call]
            x, self.weight, self.bias, self.running_mean, self.running_var, self.momentum, self.eps
        )
        return out


class _Normalise(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, x: Tensor, weight: Tensor, bias: Tensor, mean: Tensor, var: Tensor, momentum: float, eps: float
    ) -> Tensor:
        """Normalise by the mean and variance over all workers, and take them into the running ones, in place."""
        own_var, own_mean = torch.var_mean(x.to(mean.dtype), (0, 2, 3), correction=0)
        own_mean, own_var = own_mean.double(), own_var.double()  # squares are subtracted below
        count = x.numel() // x.shape[1]
        moments = torch.cat([own_mean * count, (own_var + own_mean.square()) * count, own_mean.new_tensor([count])])
        distributed.all_reduce(moments)
        total = float(moments[-1])
        batch_mean, square = (moments[:-1] / total).chunk(2)
        batch_var = square - batch_mean.square()
        mean.lerp_(batch_mean.to(mean.dtype), momentum)
        var.lerp_((batch_var * (total / (total - 1))).to(var.dtype), momentum)
        batch_mean, batch_var = batch_mean.to(mean.dtype), batch_var.to(var.dtype)
        ctx.save_for_backward(x, weight, batch_mean, batch_var)
        ctx.eps, ctx.total = eps, total
        return functional.batch_norm(x, batch_mean, batch_var, weight, bias, False, 0.0, eps)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> Grads:
        """The gradient for fixed statistics, then what the statistics' own dependence on x takes away."""
        (grad,) = grads
        x, weight, mean, var = ctx.saved_tensors
        grad_x, grad_weight, grad_bias = torch.ops.aten.native_batch_norm_backward(
            grad, x, weight, mean, var, None, None, False, ctx.eps, [True, True, True]
        )
        sums = torch.cat([grad_weight, grad_bias])
        distributed.all_reduce(sums)
        of_weight, of_bias = (sums / ctx.total).chunk(2)
        inverse = (var + ctx.eps).rsqrt()
        slope = -weight * inverse * inverse * of_weight
        offset = -weight * inverse * of_bias - slope * mean
        taken = torch.addcmul(_channels(offset), _channels(slope), x)
        return grad_x.add_(taken), grad_weight, grad_bias, None, None, None, None


def _channels(values: Tensor) -> Tensor:
    return values.view(1, -1, 1, 1)
