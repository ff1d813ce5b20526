"""Weights, gradients and optimizer states divided among the processes of a run (FSDP2: torch's ``fully_shard``).

A process holds a part of each weight, of its gradient and of its moments. A layer's whole weights are gathered when it
is computed, forward and backward, and given up afterwards; its gradient is averaged over the processes and divided
again. All processes take part in each gathering: they have to encode the same number of chunks.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
import torch.distributed as dist
from pytorch_lightning.core.optimizer import LightningOptimizer
from pytorch_lightning.strategies import ModelParallelStrategy, ParallelStrategy
from torch import Tensor, nn
from torch.distributed.checkpoint.state_dict import (
    StateDictOptions,
    get_optimizer_state_dict,
    set_model_state_dict,
    set_optimizer_state_dict,
)
from torch.distributed.device_mesh import DeviceMesh
from torch.distributed.fsdp import MixedPrecisionPolicy, fully_shard
from torch.distributed.tensor import DTensor
from torch.optim import Optimizer

from hybrid_ir.modeling.adapters import transformer_layers
from hybrid_ir.modeling.encoder import BiEncoder


class ShardedStrategy(ModelParallelStrategy):
    """Lightning's strategy for a module that shards itself, with the checkpoints of a run that is not sharded.

    Lightning numbers the optimizer's states in the order of the module's parameters, torch in that of the optimizer's
    groups: where these differ, a run could not go on with another strategy.

    Args:
        processes: of all machines.
    """

    def __init__(self, processes: int) -> None:
        super().__init__(data_parallel_size=processes, tensor_parallel_size=1, save_distributed_checkpoint=False)

    @property
    def lightning_restore_optimizer(self) -> bool:
        return True

    def optimizer_state(self, optimizer: Optimizer) -> dict[str, Any]:
        """As ``optimizer.state_dict()`` of whole parameters, in the first process; empty in the others."""
        assert self.model is not None
        if isinstance(optimizer, LightningOptimizer):
            optimizer = optimizer.optimizer
        options = StateDictOptions(full_state_dict=True, cpu_offload=True)
        named: Any = get_optimizer_state_dict(self.model, optimizer, options=options)
        if not self.is_global_zero:
            return {}
        numbers = {name: number for number, name in enumerate(_in_groups(named["param_groups"]))}
        return _renamed(named, numbers)

    def load_checkpoint(self, checkpoint_path: Any, weights_only: bool | None = None) -> dict[str, Any]:
        return ParallelStrategy.load_checkpoint(self, checkpoint_path, weights_only)

    def load_model_state_dict(self, checkpoint: Mapping[str, Any], strict: bool = True) -> None:
        assert self.model is not None
        options = StateDictOptions(full_state_dict=True, strict=strict)
        set_model_state_dict(self.model, dict(checkpoint["state_dict"]), options=options)

    def load_optimizer_state_dict(self, checkpoint: Mapping[str, Any]) -> None:
        assert self.model is not None
        names = {parameter: name for name, parameter in self.model.named_parameters()}
        for optimizer, state in zip(self.optimizers, checkpoint["optimizer_states"], strict=True):
            here = [names[parameter] for parameter in _in_groups(optimizer.param_groups)]
            named = _renamed(state, dict(zip(_in_groups(state["param_groups"]), here, strict=True)))
            set_optimizer_state_dict(self.model, optimizer, named, options=StateDictOptions(full_state_dict=True))


def _in_groups(groups: Sequence[Mapping[str, Any]]) -> list[Any]:
    return [parameter for group in groups for parameter in group["params"]]


def _renamed(state: Mapping[str, Any], names: Mapping[Any, Any]) -> dict[str, Any]:
    """An optimizer's state with other names, or numbers, of its parameters."""
    return {
        "state": {names[parameter]: values for parameter, values in state["state"].items()},
        "param_groups": [
            {**g, "params": [names[parameter] for parameter in g["params"]]} for g in state["param_groups"]
        ],
    }


def shard(encoder: BiEncoder, mesh: DeviceMesh, bf16: bool) -> None:
    """Divides an encoder's parameters among the processes of a mesh, in place: layer by layer, then what is left.

    Args:
        encoder: the same on all processes.
        mesh: of one dimension.
        bf16: gather weights in bf16, for a forward pass under autocast; what a process keeps, and sums of gradients,
            are fp32.
    """
    # Under autocast alone each process would keep a cast of all weights until the backward pass.
    policy = MixedPrecisionPolicy(torch.bfloat16, torch.float32, cast_forward_inputs=False) if bf16 else None
    for module in [*(part for layer in transformer_layers(encoder.transformer) for part in layer), encoder]:
        fully_shard(module, mesh=mesh, mp_policy=policy or MixedPrecisionPolicy())


def average_gradient(parameter: nn.Parameter) -> None:
    """Mean over the processes of the gradient of a parameter that each of them has whole."""
    assert parameter.grad is not None
    dist.all_reduce(parameter.grad)
    parameter.grad /= dist.get_world_size()


@torch.no_grad()
def copy_whole(sharded: nn.Module, whole: nn.Module) -> None:
    """Copies a sharded module's state into the same module unsharded, one tensor at a time. Collective."""
    target = whole.state_dict()
    for name, value in sharded.state_dict().items():
        target[name].copy_(value.full_tensor() if isinstance(value, DTensor) else value)


def clip_grad_norm(parameters: Sequence[nn.Parameter], limit: float) -> Tensor:
    """Clips the gradient by its L2 norm, which it returns: ``torch.nn.utils.clip_grad_norm_`` of any parameters, some
    of them sharded. Collective where they are."""
    if not any(isinstance(p, DTensor) for p in parameters):
        return torch.nn.utils.clip_grad_norm_(parameters, limit)
    kinds = [[p for p in parameters if isinstance(p, DTensor) is sharded] for sharded in (True, False)]
    norms = [torch.nn.utils.get_total_norm([p.grad for p in kind if p.grad is not None]) for kind in kinds if kind]
    norm = torch.nn.utils.get_total_norm([n.full_tensor() if isinstance(n, DTensor) else n for n in norms])
    for kind in kinds:
        torch.nn.utils.clip_grads_with_norm_(kind, limit, norm)
    return norm
