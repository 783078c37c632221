"""Golden cases of BiomedParse v1: its decoder, and whole images."""

from __future__ import annotations

import importlib.util
import json
import math
import tempfile
import zlib
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
from golden_network import (
    LOGIT,
    STEPS,
    compare,
    features_of,
    load,
    prefix_of,
    recorded,
    seeded,
)
from golden_result import Result
from torch import Tensor

from napari_biomedparse.data.options import MODALITIES
from napari_biomedparse.engine.engine import Engine
from napari_biomedparse.io.files import _open
from napari_biomedparse.networks.blocks.decoder import ImageFeatures
from napari_biomedparse.networks.blocks.pixel_decoder import PixelFeatures
from napari_biomedparse.networks.config import V1, BiomedParseConfig
from napari_biomedparse.networks.v1.biomedparse import BiomedParseV1
from napari_biomedparse.slicing.intensity import stretched

Arrays = dict[str, np.ndarray[Any, Any]]
PREDICTOR = "sem_seg_head.predictor."
STEPS_1024 = {
    "res2": (32, 32), "res3": (32, 16), "res4": (64, 8), "res5": (64, 4),
    "mask_features": (32, 32), "ms0": (32, 1), "ms1": (32, 2), "ms2": (32, 4),
}  # fmt: skip
HIDDEN, SIMILARITY = 1e-5, 1e-3
"""Tolerances: share of the bits of attention masks, and a cosine."""
MEAN_LOGIT, MOST_LOGITS, ANY_LOGIT = 1e-2, 2e-2, 1e-1
"""Of a whole image: the mean, 99 %, and all of its logits."""
PIXELS, FEW_PIXELS, SMALL_IMAGE = 1e-3, 3e-3, 20_000
"""Share of a mask's pixels that may differ, also in small images; how small."""
FROM_HALF = 1e-2


def is_v1(folder: Path) -> bool:
    """Return whether the goldens of a folder are those of v1."""
    return any(
        {"matched_id", "seed_prefix", "image_type"} & np.load(path).keys()
        for path in folder.glob("*.npz")
    ) or any(folder.glob("target_dist*.json"))


def synthetic(key: str, shape: tuple[int, ...]) -> Tensor:
    """Make a tensor of the reference weights (README of v1, section 1)."""
    if not shape:
        return torch.tensor(1.0)
    generator = torch.Generator().manual_seed(zlib.crc32(key.encode()))
    z = torch.randn(shape, generator=generator)
    if key.endswith((".gamma_1", ".gamma_2")):
        return 0.4 + 0.1 * z
    if len(shape) == 1:
        return 1 + 0.1 * z if key.endswith(".weight") else 0.05 * z
    if key.endswith("token_embedding.weight"):
        z[-2:] *= 0.1  # the start and end token
        return z
    if key.endswith(("query_feat.weight", "query_embed.weight", "level_embed.weight")):
        return z
    if key.endswith("positional_embedding"):
        return 0.3 * z
    if key == "sem_seg_head.pixel_decoder.mask_features.weight":
        return (z - 0.8 * z.mean(dim=(2, 3), keepdim=True)) / math.sqrt(
            math.prod(shape[1:])
        )
    own = key.startswith(PREDICTOR)
    last = ("linear2.weight", "mlp.c_proj.weight", "mask_embed.layers.2.weight")
    if own and key.endswith((*last, "mask_embed.layers.1.weight")):
        gain = 1.5 if key.endswith("mask_embed.layers.1.weight") else 1.0
        return gain * (z - z.mean(dim=1, keepdim=True)) / math.sqrt(shape[1])
    gain = 1.0
    if key == f"{PREDICTOR}lang_encoder.lang_proj":
        gain = 2.0
    elif own and key.endswith("out_proj.weight") and "_attention" in key:
        gain = 0.5 if "cross_attention" in key else 0.7
    return gain * z / math.sqrt(math.prod(shape[1:]))


def synthetic_network(config: BiomedParseConfig) -> BiomedParseV1:
    """Make a network of any size with the reference weights."""
    model = BiomedParseV1.unfilled(config)
    shapes = {name: tuple(x.shape) for name, x in model.state_dict().items()}
    weights = {name: synthetic(name, shape) for name, shape in shapes.items()}
    model.load_state_dict(weights, assign=True)
    return model.eval().requires_grad_(False)


@cache
def reference_model() -> BiomedParseV1:
    """Return the full-size network with the synthetic weights of the goldens."""
    return synthetic_network(V1)


class Trace:
    """What happened while queries read: before each head, and after each layer."""

    def __init__(
        self, image: ImageFeatures, words: Tensor, hidden: Tensor | None = None
    ) -> None:
        decoder = reference_model().mask_decoder
        with (
            recorded(decoder.decoder_norm, inputs=True) as queries,
            recorded(*decoder.transformer_ffn_layers) as states,
        ):
            self.last = decoder.read(image, words, hidden)
        self.queries = [*queries, self.last]
        count = decoder.query_feat.num_embeddings
        self.text = [s[:, count:] for s in states]
        self.embeddings = [
            decoder.mask_embed(decoder.decoder_norm(q)) for q in self.queries
        ]
        self.image = image

    def compared(
        self, case: str, file: Arrays, kind: str, text_step: int
    ) -> Iterator[Result]:
        """Compare the states with the fields ``queries_KIND`` and so on."""
        features = self.image.mask_features
        step = features.shape[-1] // file[f"head_masks{kind}"].shape[-1]
        own = features.flatten(2).double()
        heads = torch.stack([e[:, ::10] @ own for e in self.embeddings])
        heads = heads.unflatten(-1, features.shape[-2:])[..., ::step, ::step]
        found = {
            "queries": torch.stack(self.queries).transpose(1, 2)[:, ::10, :, ::8],
            "text": torch.stack(self.text).transpose(1, 2)[..., ::text_step],
            "head_masks": heads,
        }
        for name, x in found.items():
            yield compare(f"{case} {name}", x, file[f"{name}{kind}"], LOGIT)

    def bits(self, case: str, file: Arrays, suffix: str) -> Iterator[Result]:
        """Compare the hidden keys, before a query that sees nothing is reset."""
        wrong = total = 0
        for call, embedding in enumerate(self.embeddings):
            if (key := f"attn_masked_head{call}{suffix}") not in file:
                continue
            features = self.image.level_mask_features[call % 3]
            hidden = (embedding @ features.double()).float().sigmoid() < 0.5
            expected = np.unpackbits(file[key], axis=-1)[..., : hidden.shape[-1]]
            wrong += int((hidden.numpy() != expected.astype(bool)).sum())
            total += expected.size
        note, share = f"{wrong} of {total} bits", wrong / total
        yield Result(f"{case} hidden keys", share, HIDDEN, share <= HIDDEN, note)


def unit_decoder(folder: Path) -> Iterator[Result]:
    """Mask decoder alone, on seeded features and tokens; filled-up batches, resets."""
    file = load(folder / "unit_decoder.npz")
    decoder, prefix = reference_model().mask_decoder, f"{prefix_of(file)}unit_decoder/"
    batch, side = file["pred_masks_plain"].shape[0], file["pred_masks_plain"].shape[-1]
    length = file["text_plain"].shape[1]
    masks = seeded(f"{prefix}mask_features", batch, V1.dim, side, side) * 0.4
    levels = tuple(
        seeded(f"{prefix}ms{i}", batch, V1.dim, side // d, side // d).relu()
        for i, d in enumerate((8, 4, 2))
    )
    tokens = seeded(f"{prefix}tokens", length, batch, V1.dim).transpose(0, 1) * 2.0
    offset = seeded(f"{prefix}offset", batch, V1.dim, 1, 1) * 0.4
    for kind in ("plain", "padded", "reset"):
        if f"pred_masks_{kind}" not in file:
            continue
        words, hidden = tokens.clone(), None
        if kind == "padded":
            hidden = torch.zeros(words.shape[:2], dtype=torch.bool)
            hidden[1, 7:] = True
            words[hidden] = 0
        own = 0.1 * masks + offset if kind == "reset" else masks
        image = decoder.prepare(PixelFeatures(own, levels))
        run, case = Trace(image, words, hidden), f"unit_decoder {kind}"
        logits = (run.embeddings[-1].float() @ own.flatten(2)).unflatten(
            -1, own.shape[-2:]
        )
        logits = logits[:, ::2] if kind == "plain" else logits[..., ::2, ::2]
        yield compare(f"{case} masks", logits, file[f"pred_masks_{kind}"], LOGIT)
        v = decoder.decoder_norm(run.last) @ decoder.class_embed.double()
        expected = file[f"pred_embeddings_{kind}"]
        yield compare(f"{case} embeddings", v[..., ::4], expected, LOGIT)
        yield from run.compared(case, file, f"_{kind}", text_step=8)
        if kind != "padded":
            yield from run.bits(case, file, "" if kind == "plain" else f"_{kind}")


def image_case(folder: Path, path: Path) -> Iterator[Result]:
    """One image through the whole network: features, decoder, masks."""
    file = load(path)
    name = path.stem
    pixels = file["image"] if "image" in file else load(_stage(folder, path))["image"]
    size = int(file["size"])
    squares = prepared(pixels, size)
    sub, total = squares[0, :, ::8, ::8].numpy(), squares[0].sum(dim=(1, 2)).numpy()
    wrong = int((sub != file["input_sub"]).sum() + (total != file["input_sum"]).sum())
    yield Result(f"{name} input", wrong, 0, wrong == 0, "")
    model, prompts = reference_model(), [str(text) for text in file["prompts"]]
    tokens = Engine(model, precision="float32").encode_prompts(prompts)
    with recorded(model.backbone) as res, recorded(model.pixel_decoder) as decoded:
        image = model.encode_image(squares)
    steps = STEPS_1024 if size == 1024 else STEPS
    if "res2_stats" in file:
        yield from features_of(name, (res[0], decoded[0]), steps, file)
    if "queries" in file:
        words = tokens[tokens.any(dim=-1)][None]
        run = Trace(image, words)
        yield from run.compared(name, file, "", text_step=16)
        yield from run.bits(name, file, "")
    decoder = model.mask_decoder
    with recorded(decoder) as made:
        out = model.decode(image, tokens, lambda call, keys: torch.empty(0))
    words = tokens[tokens.any(dim=-1)][None]
    ends = torch.stack([own[own.any(dim=-1)][-1] for own in tokens])
    cosines = decoder.similarity(decoder.read(image, words), ends)[0]
    assert len(made) == 1
    mean = (SIMILARITY, SIMILARITY)
    yield compare(f"{name} similarity", cosines, file["similarity"], mean)
    chosen = cosines.argmax(dim=0).numpy()
    wrong = int((chosen != file["matched_id"]).sum())
    yield Result(f"{name} chosen queries", wrong, 0, wrong == 0, str(chosen))
    logits = out.mask_logits[0]
    step = logits.shape[-1] // file["matched_logits"].shape[-1]
    error = np.abs(logits[:, ::step, ::step].numpy() - file["matched_logits"])
    most = float(np.quantile(error, 0.99))
    passed = error.mean() <= MEAN_LOGIT and most <= MOST_LOGITS
    note = f"mean {error.mean():.1e}, 99 % {most:.1e}"
    worst = float(error.max())
    passed = passed and worst <= ANY_LOGIT
    yield Result(f"{name} logits", worst, ANY_LOGIT, passed, note)
    probability = enlarged(logits, pixels.shape[:2])
    yield _masks(name, probability, file)


def _masks(name: str, probability: np.ndarray[Any, Any], file: Arrays) -> Result:
    count = probability[0].size
    bits = np.unpackbits(file["mask_bits"], axis=-1)[:, :count]
    differ = (probability > 0.5) != bits.reshape(probability.shape).astype(bool)
    share = float(differ.mean())
    allowed = FEW_PIXELS if count < SMALL_IMAGE else PIXELS
    away = float(np.abs(probability[differ] - 0.5).max(initial=0))
    note = f"{int(differ.sum())} of {differ.size} pixels, at most {away:.1e} from 0.5"
    passed = share <= allowed and away <= FROM_HALF
    return Result(f"{name} masks", share, allowed, passed, note)


def pure_read(folder: Path) -> Iterator[Result]:
    """Readers of pictures, CT, MR, NIfTI and DICOM; Pillow's way to a square."""
    file = load(folder / "pure_read.npz")
    described = json.loads((folder / "pure_read.json").read_text("utf-8"))
    for name, about in described.items():
        if f"{name}_seed" in file and "shape" in about:
            rows, columns = about["shape"]
            seed = file[f"{name}_seed"].repeat(10, 0).repeat(10, 1)[:rows, :columns]
            found = np.moveaxis(prepared(seed, 1024)[0].numpy(), 0, -1)
        elif "file" in about and about["file"].endswith(".dcm") and _no_pydicom():
            yield Result(name, 0, 0, True, "skipped: pydicom is not installed")
            continue
        else:
            found = published_square(_planes(name, about, file, folder))
        off = int(found.sum(dtype=np.int64)) - about["sum"]
        sub, row = file[f"{name}_sub"], file[f"{name}_row500"]
        found = found if sub.ndim == 3 else found[..., 0]
        own = found[500].reshape(1024, -1)[:, : row.size // 1024].reshape(row.shape)
        wrong = int((found[::16, ::16] != sub).sum() + (own != row).sum())
        passed = wrong == 0 and off == 0
        yield Result(f"pure_read {name}", wrong, 0, passed, f"sum differs by {off}")


def _no_pydicom() -> bool:
    return importlib.util.find_spec("pydicom") is None


def _planes(
    name: str, about: dict[str, Any], file: Arrays, folder: Path
) -> np.ndarray[Any, Any]:
    """Return what a reader gets from its file: grey levels, [Y, X] or [Y, X, 3]."""
    window = None
    if "site" in about:
        key = {"lung": "chest"}.get(about["site"], about["site"])
        window = MODALITIES[f"ct-{key}-v1"].window
    if f"{name}_file" in file:
        with tempfile.TemporaryDirectory() as temporary:
            path = Path(temporary) / "a.png"
            path.write_bytes(file[f"{name}_file"].tobytes())
            stored = _open(path, stored=True).images[0]  # a palette's indices
            return np.asarray(stored.data)
    if f"{name}_in" in file:
        return stretched(file[f"{name}_in"], window)
    if f"{name}_seed" in file:
        return stretched(file[f"{name}_seed"].repeat(20, 0).repeat(20, 1), window)
    places = (folder.parent / "data", Path(__file__).parents[2] / "shared" / "data")
    path = next(
        p for place in places if (p := place / "formats" / about["file"]).exists()
    )
    if path.suffix == ".dcm":
        return stretched(np.asarray(_open(path).images[0].data), window)
    import nibabel

    data = np.asanyarray(nibabel.load(path).get_fdata())  # type: ignore[attr-defined]
    data = np.moveaxis(data, about.get("HW_index", (0, 1)), (0, 1))
    plane = data[:, :, about["slice_idx"]]
    if "channel_idx" in about:
        plane = plane[:, :, about["channel_idx"]]
    return stretched(plane, window)


def published_square(image: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    """Pad [Y, X] or [Y, X, 3] to a square, and resize it to 1024, uint8, in color."""
    from skimage.transform import resize

    colours = image if image.ndim == 3 else image[..., None]
    missing = [max(image.shape[:2]) - n for n in image.shape[:2]]
    padded = np.pad(colours, [*((n // 2, n // 2) for n in missing), (0, 0)])
    channels = [
        resize(
            padded[..., i], (1024, 1024), order=3, mode="constant",
            preserve_range=True, anti_aliasing=True,
        ).astype(np.uint8)
        for i in range(padded.shape[-1])
    ]  # fmt: skip
    return np.stack(channels * (3 // len(channels)), axis=-1)


def prepared(image: np.ndarray[Any, Any], size: int) -> Tensor:
    """Squash an image [Y, X, 3] as Pillow does, to a tensor [1, 3, S, S]."""
    from PIL import Image

    square = Image.fromarray(image).resize((size, size), Image.Resampling.BICUBIC)
    return torch.from_numpy(np.moveaxis(np.asarray(square), -1, 0)[None].copy())


def enlarged(logits: Tensor, shape: tuple[int, ...]) -> np.ndarray[Any, Any]:
    """Bring mask logits [P, h, w] to the image, as probabilities [P, Y, X]."""
    resized = torch.nn.functional.interpolate(logits[None], shape, mode="bilinear")
    return resized[0].sigmoid().numpy()


def _stage(folder: Path, path: Path) -> Path:
    """Find the file that holds the image of a companion."""
    name = f"stage_{path.stem.split('_', 2)[-1]}.npz"
    shared = Path(__file__).parents[2] / "shared" / "reference_v1"
    return next(p / name for p in (folder, shared) if (p / name).exists())
