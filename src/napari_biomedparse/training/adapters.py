"""Low-rank adapters: fewer parameters to train, for small data sets.

A matrix W is frozen and replaced by W + B A, with A and B of a small rank (Hu et al.
2022, arXiv:2106.09685). B starts at zero, so that nothing changes at first.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize

_MARK = ".parametrizations."


class LowRank(nn.Module):
    """The change B A of a matrix [rows, columns]; `generator` draws A."""

    def __init__(self, matrix: Tensor, rank: int, generator: torch.Generator) -> None:
        super().__init__()
        rows, columns = matrix.shape
        drawn = torch.randn((rank, columns), generator=generator) / columns**0.5
        self.a = nn.Parameter(drawn.to(matrix))
        self.b = nn.Parameter(matrix.new_zeros((rows, rank)))

    def forward(self, matrix: Tensor) -> Tensor:
        """Return the changed matrix."""
        return matrix + self.b @ self.a


def add_adapters(model: nn.Module, rank: int, seed: int) -> None:
    """Make only low-rank changes of matrices, norms and biases trainable.

    The model is changed in place; frozen parts stay frozen. Kernels and embedding
    tables are frozen; matrices with a side of at most `rank` are trained directly.
    """
    generator = torch.Generator().manual_seed(seed)
    for module in list(model.modules()):
        for name, parameter in list(module.named_parameters(recurse=False)):
            if not parameter.requires_grad or parameter.ndim < 2:
                continue
            if parameter.ndim > 2 or isinstance(module, nn.Embedding):
                parameter.requires_grad_(False)
            elif min(parameter.shape) > rank:
                parameter.requires_grad_(False)
                change = LowRank(parameter.detach(), rank, generator)
                parametrize.register_parametrization(module, name, change)


def merged_state_dict(model: nn.Module) -> dict[str, Tensor]:
    """Return the state of a network with its adapters, if any, merged in."""
    state = {k: v for k, v in model.state_dict().items() if _MARK not in k}
    for prefix, module in model.named_modules():
        if parametrize.is_parametrized(module):
            assert isinstance(module.parametrizations, nn.ModuleDict)
            for name in module.parametrizations:
                state[f"{prefix}.{name}"] = getattr(module, name).detach()
    return state
