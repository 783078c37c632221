"""The recipe of the demo model: phantoms, their prompts, a small network.

``python -m napari_biomedparse.training.demo --output DIR --seed 0`` trains it anew; cut
off, the same command goes on where it was. Only phantoms are used, so that the weights
carry nobody's data.

Three parts: `FIRST`, with small slices and three decoder layers, learns what things
look like; the network of `CONFIG` goes on from there with finer masks and deeper
layers, which look closer at small targets; at last it sees more of what is hardest,
touching nuclei and vessels, and the edges between objects count for more. What is
shipped lies between the last two parts: what the third one learns of phantoms costs
some of what the second one makes of real images (Wortsman et al., CVPR 2022).
"""

from __future__ import annotations

import argparse
import json
import logging
import subprocess
from collections.abc import Sequence
from copy import deepcopy
from dataclasses import asdict, replace
from functools import partial
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import save_file

from napari_biomedparse.model.biomedparse import BiomedParse
from napari_biomedparse.model.config import BiomedParseConfig
from napari_biomedparse.phantoms import KINDS, Phantom, make_phantom
from napari_biomedparse.phantoms.wordings import (
    FOREIGN,
    MODALITIES,
    NAMES,
    TEMPLATES,
    TITLES,
    wording,
)
from napari_biomedparse.tokenizer import END_ID, START_ID, tokenize
from napari_biomedparse.training.data import (
    Augmentation,
    Batches,
    Case,
    Question,
    question,
)
from napari_biomedparse.training.deepen import deepened
from napari_biomedparse.training.loop import Trainer, TrainOptions, predict

logger = logging.getLogger(__name__)

CONFIG = BiomedParseConfig(
    image_size=192,
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
FIRST = replace(CONFIG, image_size=128, decoder_layers=3)
"""Sizes of the network that is trained first."""

PHANTOM_SHAPE = (12, 256, 256)
"""Shape of the phantoms that are trained on; slices are cut from them."""
PHANTOMS = 320
STEPS = (7391, 3300, 3400)
HARDEST = (("light-sheet", 1), ("light-sheet", 1), ("light-sheet", 2))
"""Nuclei and vessels, by label: what the third part sees more of."""
THIRD_SHARE = 0.75
"""Share of the third part's weights in what is shipped, the rest is the second's."""
EM_SHARE = 0.6
NUCLEI = {"em": "nucleus", "light-sheet": "nuclei"}
"""Without a modality these two have the same name."""


def to_case(phantom: Phantom) -> Case:
    """Turn a phantom into a training case."""
    objects = sum(phantom.objects.values())
    return Case(
        phantom.kind,
        phantom.image,
        phantom.labels.astype(np.uint8),
        np.asarray(objects, np.uint16),
    )


def make_cases(folder: Path, count: int, seed: int) -> list[Case]:
    """Draw the phantoms to train on, or read them from `folder` if they are there.

    Parameters
    ----------
    folder : Path
        Where each is kept as an `.npz`.
    count : int
        How many.
    seed : int
        Of the first; they count on from ``1000 * seed``.

    Returns
    -------
    list of Case
    """
    folder.mkdir(parents=True, exist_ok=True)
    return [_make_case(folder, 100_000 * seed + index) for index in range(count)]


def _make_case(folder: Path, seed: int) -> Case:
    kind = "em" if (seed * EM_SHARE) % 1.0 < EM_SHARE - 1e-9 else "light-sheet"
    path = folder / f"{kind}-{seed}.npz"
    if path.exists():
        with np.load(path, allow_pickle=False) as kept:
            return Case(kind, kept["image"], kept["labels"], kept["objects"])
    case = to_case(make_phantom(kind, seed, shape=PHANTOM_SHAPE))
    part = path.with_suffix(".part.npz")
    np.savez(part, image=case.image, labels=case.labels, objects=case.objects)
    part.replace(path)
    return case


def ask_about_phantoms(rng: np.random.Generator) -> list[Question]:
    """Ask for every target, for nuclei in whatever microscope, and for the unheard of.

    In half of the batches one sentence serves all, so that prompts of one length are
    seen together: the padding to the longest prompt takes part in the computation.

    Parameters
    ----------
    rng : numpy.random.Generator
        Source of the randomness.

    Returns
    -------
    list of Question
        Nine or ten; each target occurs, so that every slice has its negatives.
    """
    questions = []
    common = TEMPLATES[int(rng.integers(len(TEMPLATES)))]
    template = common if rng.random() < 0.5 else None
    for kind, targets in KINDS.items():
        for label, target in enumerate(targets, start=1):
            text = wording(rng, kind, target, template=template)
            bare = text in NAMES[target] and target in NUCLEI.values()
            answers = _nuclei_anywhere() if bare else {kind: label}
            questions.append(question(text, answers))
    questions.append(_foreign(rng, common))
    if template is None or "{m}" not in template:
        questions.append(question(_nuclear_name(rng), _nuclei_anywhere()))
    return [_with_noise(rng, asked) for asked in questions]


def _nuclei_anywhere() -> dict[str, int]:
    return {kind: KINDS[kind].index(name) + 1 for kind, name in NUCLEI.items()}


def _nuclear_name(rng: np.random.Generator) -> str:
    shared = sorted(set(NAMES["nucleus"]) & set(NAMES["nuclei"]))
    name = shared[int(rng.integers(len(shared)))]
    forms = ("{}", "the {}", "{} in microscopy", "segment {}")
    return forms[int(rng.integers(len(forms)))].format(name)


def _foreign(rng: np.random.Generator, template: str) -> Question:
    """Ask for something that no phantom holds: known words, or words never learned."""
    if rng.random() < 0.5:
        return question(FOREIGN[int(rng.integers(len(FOREIGN)))], {})
    kind = list(MODALITIES)[int(rng.integers(len(MODALITIES)))]
    names = MODALITIES[kind]
    mark = "zebra"
    text = template.format(t=mark, m=names[int(rng.integers(len(names)))])
    ids = tokenize(text).ids[: tokenize(text).length]
    at = int(np.flatnonzero(ids == tokenize(mark).ids[1])[0])
    strange = rng.integers(1_000, START_ID, int(rng.integers(1, 4)))
    return Question(np.concatenate([ids[:at], strange, ids[at + 1 :]]), {})


def _with_noise(rng: np.random.Generator, asked: Question) -> Question:
    """Now and then put a word in that means nothing."""
    if rng.random() > 0.2:
        return asked
    at = int(rng.integers(1, len(asked.ids)))
    strange = rng.integers(1_000, START_ID, 1)
    ids = np.concatenate([asked.ids[:at], strange, asked.ids[at:]])
    return Question(ids, asked.answers)


def known_tokens() -> set[int]:
    """Token ids of all words that training uses."""
    texts = [*TEMPLATES, *TITLES.values(), *FOREIGN, "the in microscopy segment"]
    texts += [n for names in (*NAMES.values(), *MODALITIES.values()) for n in names]
    texts += [f"({n}) , {n}:" for names in MODALITIES.values() for n in names]
    return {START_ID, END_ID} | {int(i) for text in texts for i in tokenize(text).ids}


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
    """Make the network whose weights are `share` of the way from `one` to `other`."""
    mixed = deepcopy(one)
    weights = other.state_dict()
    with torch.no_grad():
        for name, value in mixed.state_dict().items():
            if value.is_floating_point():
                value.lerp_(weights[name], share)
    return mixed


def export(model: BiomedParse, path: Path, about: dict[str, str]) -> None:
    """Write the weights as float16 `.safetensors` with the config and `about`."""
    weights = {
        name: value.detach().cpu().half().contiguous()
        for name, value in model.state_dict().items()
    }
    metadata = {"config": json.dumps(asdict(model.config)), **about}
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(f"{path.name}.part")
    save_file(weights, part, metadata=metadata)
    part.replace(path)


def train(
    output: Path,
    *,
    seed: int,
    steps: tuple[int, int, int] = STEPS,
    phantoms: int = PHANTOMS,
) -> Path:
    """Train the demo model, or go on with it.

    Parameters
    ----------
    output : Path
        Folder for phantoms, checkpoints and `demo.safetensors`.
    seed : int
        Fixes phantoms, weights and batches.
    steps : (int, int, int)
        Number of batches of the three parts.
    phantoms : int
        How many volumes to train on.

    Returns
    -------
    Path
        The weights: averaged over the last steps, and between the last two parts.
    """
    torch.set_flush_denormal(True)  # numbers that small only cost time
    cases = make_cases(output / "phantoms", phantoms, seed)
    batches = partial(
        Batches, cases, ask_about_phantoms, seed=seed, augmentation=Augmentation()
    )
    # Every slice gets as many absent targets as present ones: no need to weigh.
    common = TrainOptions(
        clip=1.0, existence_weight=1.0, absent_weight=1.0, edge_weight=7.0, seed=seed
    )
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")

    first = Trainer(
        new_model(seed).to(device),
        batches(size=FIRST.image_size, slices=12),
        replace(
            common,
            steps=steps[0],
            learning_rate=1.5e-3,
            coefficients=(1.0, 1.0, 1.0, 1.0, 2.0),
        ),
        output / "first",
    ).run()

    finer = batches(size=CONFIG.image_size, slices=8)
    generator = torch.Generator().manual_seed(seed)
    second = Trainer(
        deepened(first, CONFIG, lambda m: predict(m, finer[0], generator, device)),
        finer,
        replace(
            common,
            steps=steps[1],
            learning_rate=7e-4,
            coefficients=(1.0, 1.0, 1.0, 1.5, 3.0),
        ),
        output / "second",
    ).run()

    weights = output / "demo.safetensors"
    about = _about(seed, steps, phantoms)
    before = deepcopy(second)
    Trainer(
        second,
        batches(size=CONFIG.image_size, slices=8, seed=seed + 1, again=HARDEST),
        replace(
            common,
            steps=steps[2],
            learning_rate=7e-4,
            coefficients=(1.0, 1.0, 2.0, 4.0, 2.0),
            seed=seed + 1,
        ),
        output / "third",
        lambda model, step: export(
            between(before, model, THIRD_SHARE), weights, {**about, "step": str(step)}
        ),
    ).run()
    return weights


def _about(seed: int, steps: tuple[int, int, int], phantoms: int) -> dict[str, str]:
    """Describe where the weights come from, for the file's header."""
    return {
        "name": "napari-biomedparse demo model",
        "command": "python -m napari_biomedparse.training.demo --output DIR "
        f"--seed {seed} --steps {' '.join(map(str, steps))} --phantoms {phantoms}",
        "data": f"{phantoms} procedural phantoms of napari_biomedparse.phantoms from "
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
    parser = argparse.ArgumentParser(description="Train the demo model anew.")
    parser.add_argument("--output", type=Path, required=True, help="folder of the run")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument(
        "--steps", type=int, nargs=3, default=STEPS, help="batches of the three parts"
    )
    parser.add_argument("--phantoms", type=int, default=PHANTOMS)
    chosen = parser.parse_args(arguments)
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s")
    path = train(
        chosen.output,
        seed=chosen.seed,
        steps=tuple(chosen.steps),
        phantoms=chosen.phantoms,
    )
    logger.info("wrote %s", path)


if __name__ == "__main__":
    main()
