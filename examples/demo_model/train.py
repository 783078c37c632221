"""The recipe of the demo model: phantoms, their prompts, a small network.

``python examples/demo_model/train.py --output DIR --seed 0`` trains it again; after an
interruption the same command resumes. Only phantoms are used, so that the weights carry
nobody's data.

`PARTS` are trained one after the other. The first, with small slices and three decoder
layers, learns what things look like; then the network gets deeper layers and larger
slices, which show small targets better; at last it sees more of what is hardest,
touching nuclei and vessels, and the edges between objects count for more. What is
shipped lies between the last part and an earlier one: what the later ones learn of
phantoms costs some of what those before make of real images (Wortsman et al., CVPR
2022).
"""

from __future__ import annotations

import argparse
import json
import logging
import subprocess
from collections.abc import Sequence
from copy import deepcopy
from dataclasses import asdict, replace
from pathlib import Path

import torch
from parts import Part, train_part
from phantom_cases import PHANTOM_SHAPE, known_tokens, make_cases
from safetensors.torch import save_file

from napari_biomedparse.engine.devices import find_device
from napari_biomedparse.io.durable import atomic_write
from napari_biomedparse.networks.config import BiomedParseConfig
from napari_biomedparse.networks.v2.biomedparse import BiomedParse

logger = logging.getLogger(__name__)

CONFIG = BiomedParseConfig(
    image_size=224,
    backbone_widths=(32, 64, 96, 160),
    backbone_depths=(2, 2, 3, 1),
    focal_levels=3,
    dim=64,
    heads=4,
    feedforward=128,
    norm_groups=8,
    encoder_layers=2,
    decoder_layers=6,
    text_width=32,
    text_layers=2,
)
"""Sizes of the demo model."""
FINER = replace(CONFIG, image_size=192)
FIRST = replace(CONFIG, image_size=128, decoder_layers=3)
NUCLEI, VESSELS = ("light-sheet", 1), ("light-sheet", 2)
HARDEST = (NUCLEI, NUCLEI, VESSELS)
PARTS = (
    Part("first", FIRST, 12, 7391, 1.5e-3, (1.0, 1.0, 1.0, 1.0, 2.0)),
    Part("second", FINER, 8, 3300, 7e-4, (1.0, 1.0, 1.0, 1.5, 3.0)),
    Part("third", FINER, 8, 3400, 7e-4, (1.0, 1.0, 2.0, 4.0, 2.0), 7.0, 1, HARDEST),
    Part(
        "fourth",
        CONFIG,
        6,
        2400,
        7e-4,
        (1.0, 1.0, 2.0, 4.0, 2.0),
        edge_weight=5.0,
        seed=2,
        again=(*HARDEST, NUCLEI),
    ),
)
"""The recipe."""
EARLIER, SHARE = "second", 0.75
"""What is shipped: so much of the last part's weights, and for the rest this part's."""
PHANTOMS = 320


def new_model(seed: int, config: BiomedParseConfig = FIRST) -> BiomedParse:
    """Make the untrained network; words that training does not use mean nothing."""
    torch.manual_seed(seed)
    model = BiomedParse(config)
    table = model.mask_decoder.language_encoder.encoder_transformer.token_embedding
    with torch.no_grad():
        table.weight.normal_(0.0, 0.1)
        unknown = torch.ones(len(table.weight), dtype=torch.bool)
        unknown[sorted(known_tokens())] = False
        table.weight[unknown] = 0.0
    return model


def between(one: BiomedParse, other: BiomedParse, share: float) -> BiomedParse:
    """Make the network whose weights are `share` of the way from `one` to `other`.

    Otherwise it is as `other`, which may see larger slices.
    """
    mixed, weights = deepcopy(other), one.state_dict()
    with torch.no_grad():
        for name, value in mixed.state_dict().items():
            if value.is_floating_point():
                value.copy_(torch.lerp(weights[name], value, share))
    return mixed


def export(model: BiomedParse, path: Path, about: dict[str, str]) -> None:
    """Write the weights as float16 `.safetensors` with the config and `about`."""
    weights = {
        name: value.detach().cpu().half().contiguous()
        for name, value in model.state_dict().items()
    }
    metadata = {"config": json.dumps(asdict(model.config)), **about}
    path.parent.mkdir(parents=True, exist_ok=True)
    with atomic_write(path) as partial:
        save_file(weights, partial, metadata=metadata)


def train(
    output: Path,
    *,
    seed: int,
    parts: Sequence[Part] = PARTS,
    phantoms: int = PHANTOMS,
) -> Path:
    """Train the demo model, or resume its training.

    Parameters
    ----------
    output : Path
        Folder for phantoms, a folder of each part, and `demo.safetensors`.
    seed : int
        Fixes phantoms, weights and batches.
    parts : sequence of Part
        The recipe.
    phantoms : int
        How many volumes to train on.

    Returns
    -------
    Path
        The weights: averaged over the last steps, and between two parts.

    Raises
    ------
    OutputError
        If the folder holds a training with another recipe, seed or number of phantoms.
    """
    cases = make_cases(output / "phantoms", phantoms, seed)
    device = find_device("auto")
    model, trained = new_model(seed, parts[0].config), {}
    for part in parts:
        model = train_part(
            part, model, cases, output / part.name, seed=seed, device=device
        )
        trained[part.name] = model
    weights = output / "demo.safetensors"
    mixed = between(trained[EARLIER], model, SHARE)
    export(mixed, weights, _about(seed, parts, phantoms))
    return weights


def _about(seed: int, parts: Sequence[Part], phantoms: int) -> dict[str, str]:
    """Describe where the weights come from, for the file's header."""
    steps = " ".join(str(part.steps) for part in parts)
    return {
        "name": "napari-biomedparse demo model",
        "command": "python examples/demo_model/train.py --output DIR "
        f"--seed {seed} --steps {steps} --phantoms {phantoms}",
        "data": f"{phantoms} procedural phantoms of napari_biomedparse.samples from "
        f"seed {100_000 * seed} on, shape {PHANTOM_SHAPE}; no real images",
        "seed": str(seed),
        "commit": _commit(),
        "licence": "BSD-3-Clause",
    }


def _commit() -> str:
    """Name the commit of the source tree, if there is one."""
    try:
        found = subprocess.run(
            ["git", "rev-parse", "HEAD"],
            cwd=Path(__file__).parent,
            capture_output=True,
            text=True,
            check=True,
        )
    except (OSError, subprocess.CalledProcessError):
        return "unknown"
    return found.stdout.strip()


def main(arguments: Sequence[str] | None = None) -> None:
    """Train from the command line."""
    parser = argparse.ArgumentParser(description="Train the demo model again.")
    parser.add_argument("--output", type=Path, required=True, help="folder of the run")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument(
        "--steps",
        type=int,
        nargs=len(PARTS),
        default=[part.steps for part in PARTS],
        help="batches of each part",
    )
    parser.add_argument("--phantoms", type=int, default=PHANTOMS)
    chosen = parser.parse_args(arguments)
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s")
    torch.set_flush_denormal(True)  # numbers that small only cost time
    parts = [replace(p, steps=n) for p, n in zip(PARTS, chosen.steps, strict=True)]
    path = train(chosen.output, seed=chosen.seed, parts=parts, phantoms=chosen.phantoms)
    logger.info("wrote %s", path)


if __name__ == "__main__":
    main()
