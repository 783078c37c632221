"""What the demo model is taught: phantoms as training cases, and prompts for them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from batches import Case, Question, question
from wordings import FOREIGN, MODALITIES, NAMES, TEMPLATES, wording

from napari_biomedparse.io.durable import atomic_write
from napari_biomedparse.networks.blocks.tokenizer import END_ID, START_ID, tokenize
from napari_biomedparse.samples import KINDS, TITLES, Phantom, make_phantom

PHANTOM_SHAPE = (12, 256, 256)
"""Shape of the phantoms that are trained on; slices are cut from them."""
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
        Of the first; they count on from ``100000 * seed``.

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
    with atomic_write(path) as partial, partial.open("wb") as file:
        np.savez(file, image=case.image, labels=case.labels, objects=case.objects)
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
