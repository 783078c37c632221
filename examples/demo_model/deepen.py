"""Add layers to a trained mask decoder that at first change nothing.

Deeper layers look more and more where the mask is (their temperature falls), which the
existence of small targets needs; training the first layers again would be a waste.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from napari_biomedparse.networks.blocks.boltzmann import LEVELS
from napari_biomedparse.networks.v2.biomedparse import BiomedParse

if TYPE_CHECKING:
    from napari_biomedparse.networks.config import BiomedParseConfig

_STACKS = (
    "transformer_cross_attention_layers",
    "transformer_self_attention_layers",
    "transformer_ffn_layers",
    "classifier_cross_attention_layers",
    "classifier_ffn_layers",
)
_CLASSIFIER = tuple(name for name in _STACKS if name.startswith("classifier"))
_OUTPUTS = ("out_proj.weight", "out_proj.bias", "linear2.weight", "linear2.bias")


def deepened(
    model: BiomedParse,
    config: BiomedParseConfig,
    probe: Callable[[BiomedParse], object],
) -> BiomedParse:
    """Copy a network with more decoder layers.

    A new layer is a copy of the layer three before it, which reads the same level of
    the pixel decoder, but with an output of zero. Its norms keep the mean and the
    spread that its input has, as measured while `probe` runs.

    Parameters
    ----------
    model : BiomedParse
        With at least three decoder layers.
    config : BiomedParseConfig
        Of the result: as that of `model`, but with more decoder layers, and maybe
        larger slices.
    probe : callable
        Runs the network on typical data.

    Returns
    -------
    BiomedParse
        Finds the same masks, and nearly the same existence.
    """
    spread = _spread(model, probe)
    deep = BiomedParse(config)
    decoder = deep.mask_decoder
    fitting = deep.state_dict() | model.state_dict()
    deep.load_state_dict(fitting)
    with torch.no_grad():
        for stack in _STACKS:
            modules = getattr(decoder, stack)
            for i in range(model.config.decoder_layers, config.decoder_layers):
                modules[i].load_state_dict(modules[i - LEVELS].state_dict())
                for name, parameter in modules[i].named_parameters():
                    if name.endswith(_OUTPUTS):
                        parameter.zero_()
                std, mean = spread["classifier" if stack in _CLASSIFIER else "query"]
                modules[i].norm.weight.fill_(std)
                modules[i].norm.bias.fill_(mean)
    return deep


def _spread(
    model: BiomedParse, probe: Callable[[BiomedParse], object]
) -> dict[str, tuple[float, float]]:
    """Measure spread and mean, over channels, of what the last layer hands on."""
    seen: dict[str, list[Tensor]] = defaultdict(list)
    decoder = model.mask_decoder
    last: Sequence[tuple[str, nn.Module]] = (
        ("query", decoder.transformer_ffn_layers[-1]),
        ("classifier", decoder.classifier_ffn_layers[-1]),
    )

    def watcher(name: str) -> Callable[[nn.Module, object, Tensor], None]:
        def watch(module: nn.Module, inputs: object, output: Tensor) -> None:
            seen[name].append(
                torch.stack([output.std(dim=-1).mean(), output.mean(dim=-1).mean()])
            )

        return watch

    handles = [module.register_forward_hook(watcher(name)) for name, module in last]
    with torch.no_grad():
        probe(model)
    for handle in handles:
        handle.remove()
    means = {name: torch.stack(values).mean(dim=0) for name, values in seen.items()}
    return {name: (float(pair[0]), float(pair[1])) for name, pair in means.items()}
