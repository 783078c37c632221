"""Golden cases of the network's parts, and of the whole decoder, one by one."""

from __future__ import annotations

import json
import zlib
from collections import OrderedDict
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from golden_result import Result
from torch import Tensor, nn

from napari_biomedparse.engine.engine import Engine
from napari_biomedparse.networks.blocks.boltzmann import (
    BoltzmannDecoder,
    ImageFeatures,
)
from napari_biomedparse.networks.blocks.decoder import RandomField, never_drawn
from napari_biomedparse.networks.blocks.layers import sine_positions
from napari_biomedparse.networks.blocks.maskformer import MaskFormer
from napari_biomedparse.networks.blocks.pixel_decoder import PixelFeatures
from napari_biomedparse.networks.blocks.tokenizer import CONTEXT_LENGTH, tokenize
from napari_biomedparse.networks.config import V2
from napari_biomedparse.networks.network import SlicePrediction
from napari_biomedparse.networks.synthetic import synthetic_state_dict
from napari_biomedparse.networks.v2.biomedparse import BiomedParse
from napari_biomedparse.slicing.geometry import neighbour_index, stack_context

REMEMBERED = 12
FIELDS = ("binary", "hash", "const")
RELATIVE, LOGIT = (1e-3, 1e-4), (1e-2, 1e-3)
"""Tolerances, largest and mean."""
FLIPPED_BITS = 1e-4
LOOSE_LOGIT, LOOSE_SHARE = 2e-2, 0.01
"""With sampled masks computed: all but this share of the logits within that."""


class RememberingModel(BiomedParse):
    """The network, made to encode a slice once for the three fields of a case."""

    def __init__(self) -> None:
        super().__init__(V2)
        self._remembered: OrderedDict[bytes, ImageFeatures] = OrderedDict()

    def encode_image(self, slices: Tensor) -> ImageFeatures:
        """Encode a batch, or remember it: the last 12 slices cost 1.3 GB."""
        key = slices.numpy().tobytes()
        if key not in self._remembered:
            self._remembered[key] = super().encode_image(slices)
        while len(self._remembered) > REMEMBERED:
            self._remembered.popitem(last=False)
        return self._remembered[key]


@cache
def reference_model() -> BiomedParse:
    """Return the full-size network with the synthetic weights of the goldens."""
    with torch.device("meta"):
        model = RememberingModel()
    shapes = {name: x.shape for name, x in model.state_dict().items()}
    model.load_state_dict(synthetic_state_dict(shapes), assign=True)
    return model.eval().requires_grad_(False)


def prefix_of(file: dict[str, np.ndarray[Any, Any]]) -> str:
    """Return what the names of a file's seeded inputs begin with."""
    return str(file.get("seed_prefix", ""))


def golden_field(kind: str, queries: int = V2.queries) -> RandomField:
    """Return one of the three fields of the reference's README, section 2."""

    def field(call: int, keys: int) -> Tensor:
        q = np.arange(queries, dtype=np.float64)[:, None]
        k = np.arange(keys, dtype=np.float64)[None, :]
        v = np.sin((131 * q + 17 * k + 1009 * call + 1) * 12.9898) * 43758.5453
        u = torch.from_numpy((v - np.floor(v)).astype(np.float32))
        if kind == "const":
            u = torch.full_like(u, 0.5)
        if kind == "binary":
            u = (u >= 0.9).float()
        return u[None]  # [1, Q, K], the same for all heads

    return field


def seeded(name: str, *shape: int) -> Tensor:
    """Return the seeded normal input of the reference's README, section 3.1."""
    generator = torch.Generator().manual_seed(zlib.crc32(name.encode()))
    return torch.randn(shape, generator=generator)


def load(path: Path) -> dict[str, np.ndarray[Any, Any]]:
    """Read all arrays of a golden file."""
    with np.load(path) as file:
        return dict(file)


def compare(
    case: str,
    found: Tensor,
    expected: np.ndarray[Any, Any],
    tolerance: tuple[float, float],
    *,
    relative: bool = False,
) -> Result:
    """Compare two arrays by the largest and the mean difference."""
    if tuple(found.shape) != expected.shape:
        note = f"shape {tuple(found.shape)}, expected {expected.shape}"
        return Result(case, float("inf"), tolerance[0], False, note)
    truth = expected.astype(np.float64)
    error = np.abs(found.double().numpy() - truth)
    if relative:
        error = error / truth.std()
    largest, mean = float(error.max()), float(error.mean())
    passed = largest <= tolerance[0] and mean <= tolerance[1]
    return Result(case, largest, tolerance[0], passed, f"mean {mean:.1e}")


def text_encoder(folder: Path, model: MaskFormer | None = None) -> Iterator[Result]:
    """Token vectors, class embedding and grounding tokens."""
    file = load(folder / "text_encoder.npz")
    engine = Engine(model or reference_model(), precision="float32")
    tokens = [tokenize(str(text)) for text in file["prompts"]]
    ids = np.stack([t.ids for t in tokens])
    masks = np.stack([np.arange(CONTEXT_LENGTH) < t.length for t in tokens])
    wrong = (ids != file["input_ids"]).sum() + (masks != file["attention_mask"]).sum()
    yield Result("text_encoder ids", float(wrong), 0, wrong == 0, "")
    full = engine.model.encode_prompts(torch.from_numpy(ids))
    for i, token in enumerate(tokens):
        yield compare(
            f"text_encoder token_emb_{i}",
            full[i, : token.length],
            file[f"token_emb_{i}"],
            RELATIVE,
            relative=True,
        )
        if (key := f"token_emb_{i}_padding_tail") in file:
            tail = full[i, token.length : token.length + len(file[key])]
            yield compare(
                f"text_encoder {key}", tail, file[key], RELATIVE, relative=True
            )
    first_end = torch.stack([full[i, ids[i].argmax()] for i in range(len(tokens))])
    yield compare(
        "text_encoder class_emb", first_end, file["class_emb"], RELATIVE, relative=True
    )
    grounding = engine.encode_prompts([str(text) for text in file["prompts"]])
    if model is not None:  # v1 puts all prompts into one sequence
        grounding = grounding[grounding.any(dim=-1)][None, :, ::4]
        unit = F.normalize(first_end, dim=-1)
        name = "text_encoder class_cosine"
        yield compare(name, unit @ unit.T, file["class_cosine"], RELATIVE)
    yield compare(
        "text_encoder grounding_tokens",
        grounding.transpose(0, 1),
        file["grounding_tokens"],
        RELATIVE,
        relative=True,
    )


def unit_backbone(folder: Path, model: MaskFormer | None = None) -> Iterator[Result]:
    """Feature maps of odd-sized images, and the first block by itself."""
    file = load(folder / "unit_backbone.npz")
    backbone = (model or reference_model()).backbone
    sizes = {"a": (2, 3, 64, 96), "b": (1, 3, 70, 90)}
    for case in sorted(key[0] for key in file if key.endswith("_res2")):
        rows, columns = file[f"{case}_res2"].shape[-2:]
        batch = file[f"{case}_res2"].shape[0]
        size = sizes.get(case, (batch, 3, 4 * rows, 4 * columns))
        block = backbone.layers[0].blocks[0]
        with (
            recorded(backbone.patch_embed) as stem,
            recorded(block.modulation) as modulation,
            recorded(block) as first,
        ):
            features = backbone(seeded(f"{prefix_of(file)}unit_backbone/{case}", *size))
        found = {f"res{i}": x for i, x in enumerate(features, start=2)}
        found["stem"] = stem[0].permute(0, 3, 1, 2)
        found["block0_modulation"] = modulation[0].permute(0, 3, 1, 2)
        found["block0"] = first[0].flatten(1, 2).transpose(1, 2)
        steps = {
            "res2": 8,
            "res3": 8,
            "stem": 16,
            "block0_modulation": 16,
            "block0": 16,
        }
        for name, x in found.items():
            if (key := f"{case}_{name}") not in file:
                continue
            x = x[:, :: steps.get(name, 1)]
            if name.startswith("block0"):
                x = x.movedim(1, -1)
            yield compare(f"unit_backbone {key}", x, file[key], RELATIVE, relative=True)


def unit_pixel_decoder(
    folder: Path, model: MaskFormer | None = None
) -> Iterator[Result]:
    """Pixel decoder on seeded features, and the position encoding."""
    file = load(folder / "unit_pixel_decoder.npz")
    decoder = (model or reference_model()).pixel_decoder
    maps = ("mask_features", "ms2", "ms1", "ms0")
    inputs = tuple(
        seeded(
            f"{prefix_of(file)}unit_pixel_decoder/res{i}",
            file[name].shape[0],
            V2.backbone_widths[i - 2],
            *file[name].shape[-2:],
        )
        for i, name in enumerate(maps, start=2)
    )
    with recorded(decoder.transformer["encoder"]) as encoded:
        pixels = decoder(inputs)
    found = {
        "transformer_out": encoded[0],
        "ms0": pixels.levels[0],
        "ms1": pixels.levels[1],
        "ms2": pixels.levels[2][:, ::4],
        "mask_features": pixels.mask_features[:, ::8],
    }
    for name, x in found.items():
        case = f"unit_pixel_decoder {name}"
        yield compare(case, x, file[name], RELATIVE, relative=True)
    for name in (key for key in file if key.startswith("pos_")):
        height, width = (int(n) for n in name.removeprefix("pos_").split("x"))
        grid = sine_positions(height, width, V2.dim, torch.device("cpu"), torch.float32)
        x = grid.T.unflatten(1, (height, width))[None]
        case = f"unit_pixel_decoder {name}"
        yield compare(case, x, file[name], RELATIVE, relative=True)


def _one_slice(image: ImageFeatures, index: int) -> ImageFeatures:
    cut = slice(index, index + 1)
    levels = (tuple(x[cut] for x in level) for level in image[1:])
    return ImageFeatures(image.mask_features[cut], *levels)


def unit_decoder(folder: Path) -> Iterator[Result]:
    """Mask decoder alone; here each batch element has text tokens of its own."""
    file = load(folder / "unit_decoder.npz")
    decoder = reference_model().mask_decoder
    first = next(f for f in FIELDS if f"pred_masks_{f}" in file)
    length, count = file[f"text_{first}"].shape[1:3]
    step = 2 if first == "const" else 1
    height, width = (n * step for n in file[f"pred_masks_{first}"].shape[-2:])
    masks = seeded("unit_decoder/mask_features", count, V2.dim, height, width) * 0.7
    levels = tuple(
        seeded(f"unit_decoder/ms{i}", count, V2.dim, height // d, width // d).relu()
        for i, d in enumerate((8, 4, 2))
    )
    tokens = seeded("unit_decoder/tokens", length, count, V2.dim) * 2.0
    tokens[7:, 1] = 0
    image = decoder.prepare(PixelFeatures(masks, levels))

    def decode(field: RandomField) -> Trace:
        parts = []
        for n in range(count):
            own = _of_element(field, n)
            parts.append(trace(decoder, _one_slice(image, n), tokens[:, n][None], own))
        return Trace.join(parts)

    for kind in (f for f in FIELDS if f"pred_masks_{f}" in file):
        for name, run in _runs(file, kind, decode):
            case = f"unit_decoder {name}"
            logits = run.masks[-1] @ masks.flatten(2)
            logits = logits.unflatten(-1, (height, width))
            if kind == "const":
                logits = logits[..., ::2, ::2]
            yield logits_result(
                f"{case} pred_masks", name, logits, file[f"pred_masks_{kind}"]
            )
            existence = run.decoded.existence
            key = f"object_existence_{kind}"
            yield logits_result(f"{case} existence", name, existence, file[key])
            yield from _steps(case, name, kind, run, file, text_step=4, cls_step=2)
            yield from _bits(case, name, kind, run, image, file)


def stage(folder: Path, path: Path) -> Iterator[Result]:
    """Four slices in one batch through the whole network."""
    file = load(path)
    model = reference_model()
    engine = Engine(model, precision="float32")
    planes = file["imgs"] if "imgs" in file else subvolume(folder)["imgs"][2:6]
    pixels, image = encode(planes)
    name = path.stem
    yield from features_of(name, pixels, STEPS, file)
    tokens = engine.encode_prompts([str(text) for text in file["prompts"]])
    count = len(file["prompts"])
    depth = len(planes)

    def decode(field: RandomField) -> Trace:
        def shaped(call: int, keys: int) -> Tensor:
            u = field(call, keys)
            return u.unflatten(0, (depth, count)) if u.dim() == 4 else u

        return trace(model.mask_decoder, image, tokens, shaped)

    for kind in (f for f in FIELDS if f"pred_gmasks_{f}" in file):
        for run_name, run in _runs(file, kind, decode):
            case = f"{name} {run_name}"
            step = 2 if kind == "const" else 1
            masks = run.decoded.mask_logits.transpose(0, 1)[..., ::step, ::step]
            edges = run.decoded.edge_logits.transpose(0, 1)[..., ::2, ::2]
            found = {
                "pred_gmasks": masks,
                "edge_masks": edges,
                "object_existence": run.decoded.existence.T,
            }
            for key, x in found.items():
                if f"{key}_{kind}" in file:
                    expected = file[f"{key}_{kind}"]
                    yield logits_result(f"{case} {key}", run_name, x, expected)
            yield from _steps(
                case, run_name, kind, run, file, text_step=8, cls_step=4, first=count
            )
            if f"head_masks_{kind}" in file:
                heads = torch.stack(
                    [m[:count] @ image.mask_features[0].flatten(1) for m in run.masks]
                ).unflatten(-1, image.mask_features.shape[-2:])[..., ::8, ::8]
                expected = file[f"head_masks_{kind}"]
                yield logits_result(f"{case} head_masks", run_name, heads, expected)
            yield from _bits(case, run_name, kind, run, image, file)


STEPS = {
    "res2": (16, 8), "res3": (16, 4), "res4": (32, 2), "res5": (32, 1),
    "mask_features": (32, 8), "ms0": (32, 1), "ms1": (32, 2), "ms2": (32, 4),
}  # fmt: skip
"""Of each map, every so many channels and pixels are in a file."""


def features_of(
    name: str,
    pixels: tuple[Sequence[Tensor], PixelFeatures],
    steps: dict[str, tuple[int, int]],
    file: dict[str, np.ndarray[Any, Any]],
) -> Iterator[Result]:
    """Compare maps of backbone and pixel decoder, and their statistics."""
    features = {f"res{i}": x for i, x in enumerate(pixels[0], start=2)}
    features |= {"mask_features": pixels[1].mask_features}
    features |= {f"ms{i}": x for i, x in enumerate(pixels[1].levels)}
    for key, x in features.items():
        c, s = steps[key]
        x = x.float()
        if f"{key}_sub" in file:
            sub = x[:, ::c, ::s, ::s]
            case = f"{name} {key}_sub"
            yield compare(case, sub, file[f"{key}_sub"], RELATIVE, relative=True)
        if f"{key}_stats" in file:
            flat = x.flatten(2)
            stats = torch.stack([flat.mean(-1), flat.std(-1, unbiased=False)])
            case = f"{name} {key}_stats"
            yield compare(case, stats, file[f"{key}_stats"], RELATIVE, relative=True)


def companion(folder: Path, path: Path) -> Iterator[Result]:
    """One prompt alone, and beside longer ones: the padding length matters."""
    file = load(path)
    stage_file = load(_beside(folder, path.name.replace("companion", "stage")))
    engine = Engine(
        reference_model(), field=golden_field("binary"), precision="float32"
    )
    _, image = encode(subvolume(folder)["imgs"][2:6])
    texts = [str(text) for text in stage_file["prompts"]]
    index = next((i for i, text in enumerate(texts) if "liver" in text), 0)
    for name, prompts, i in (("alone", [texts[index]], 0), ("with", texts, index)):
        tokens = engine.encode_prompts(prompts)
        out = engine.model.decode(image, tokens, golden_field("binary"))
        found = {
            "existence": out.existence.T[i : i + 1],
            "pred_gmasks_sub": out.mask_logits.transpose(0, 1)[i : i + 1, :, ::4, ::4],
        }
        for key, x in found.items():
            case = f"{path.stem} {name} {key}"
            yield compare(case, x, file[f"{name}_{key}"], LOGIT)


def manifest(
    folder: Path, model: MaskFormer | None = None, stem: str = "state_dict_manifest"
) -> Iterator[Result]:
    """Names, shapes and types of the state dict."""
    listed = json.loads((folder / f"{stem}.json").read_text())
    unused = listed.get("unused_network_keys", ()) if model else ()
    expected = {
        name: (tuple(shape), dtype)
        for name, (shape, dtype) in listed["keys"].items()
        if name not in unused
    }
    found = {
        name: (tuple(x.shape), str(x.dtype).removeprefix("torch."))
        for name, x in (model or reference_model()).state_dict().items()
    }
    expected = {n: (s, d.removeprefix("torch.")) for n, (s, d) in expected.items()}
    wrong = len(set(found.items()) ^ set(expected.items()))
    yield Result(stem, wrong, 0, wrong == 0, f"{len(found)} tensors")


def weights_check(
    folder: Path, model: MaskFormer | None = None, stem: str = "weights_check"
) -> Iterator[Result]:
    """Synthetic weights equal those of the goldens, to the last bits."""
    expected = json.loads((folder / f"{stem}.json").read_text())
    weights = (model or reference_model()).state_dict()
    worst = 0.0
    for name, numbers in expected.items():
        if model and name not in weights:  # of parts that no prompt needs
            continue
        w = weights[name].double().flatten()
        found = [w.sum(), w.abs().sum(), w[0], w[-1]]
        for i, (a, b) in enumerate(zip(found, numbers, strict=True)):
            # A sum of signed numbers is compared on the scale of their magnitudes.
            scale = max(abs(numbers[1] if i == 0 else b), 1e-6)
            worst = max(worst, abs(float(a) - b) / scale)
    yield Result(stem, worst, 1e-5, worst <= 1e-5, f"{len(expected)} names")


def subvolume(folder: Path) -> dict[str, np.ndarray[Any, Any]]:
    """Return the CT slices that several cases share."""
    return load(_beside(folder, "ct_subvolume.npz"))


@cache
def _encoded(planes: bytes, shape: tuple[int, ...]) -> Any:
    volume = torch.from_numpy(np.frombuffer(planes, np.uint8).reshape(shape).copy())
    around = [neighbour_index(i, len(volume)) for i in range(-1, len(volume) + 1)]
    slices = stack_context(volume[around])
    model = reference_model()
    with recorded(model.backbone) as res, recorded(model.pixel_decoder) as pixels:
        image = model.encode_image(slices)
    return (res[0], pixels[0]), image


def encode(planes: np.ndarray[Any, Any]) -> Any:
    """Backbone and pixel features, and image features, of 512 x 512 slices."""
    return _encoded(planes.tobytes(), planes.shape)


class Trace:
    """What happened inside one run of the mask decoder, batch axis first.

    `queries` and `masks` (mask embeddings) per head call, `text` after the initial and
    each layer's self-attention, `classifier` after each layer.
    """

    def __init__(self, decoded: SlicePrediction, **steps: list[Tensor]) -> None:
        self.decoded = decoded
        self.queries = steps["queries"]
        self.masks = steps["masks"]
        self.text = steps["text"]
        self.classifier = steps["classifier"]

    @staticmethod
    def join(parts: list[Trace]) -> Trace:
        """Put runs of single batch elements together."""
        steps = {}
        for name in ("queries", "masks", "text", "classifier"):
            calls = zip(*(getattr(p, name) for p in parts), strict=True)
            steps[name] = [torch.cat(call) for call in calls]
        outputs = zip(*(p.decoded for p in parts), strict=True)
        return Trace(SlicePrediction(*(torch.cat(x) for x in outputs)), **steps)


def trace(
    decoder: BoltzmannDecoder, image: ImageFeatures, tokens: Tensor, field: RandomField
) -> Trace:
    """Run the mask decoder and keep what its parts computed."""
    attention = [
        decoder.initial_self_attention_layer,
        *decoder.transformer_self_attention_layers,
    ]
    with (
        recorded(decoder.decoder_norm, inputs=True) as queries,
        recorded(decoder.mask_embed) as masks,
        recorded(*attention) as states,
        recorded(*decoder.classifier_ffn_layers) as classifier,
    ):
        decoded = decoder(image, tokens, field)
    text = [s[:, decoder.queries :] for s in states]
    first = [c[:, :1] for c in classifier]  # on a CPU a second row is its copy
    return Trace(decoded, queries=queries, masks=masks, text=text, classifier=first)


@contextmanager
def recorded(*modules: nn.Module, inputs: bool = False) -> Iterator[list[Any]]:
    """Collect the outputs, or the first inputs, of modules in the order of calls."""
    kept: list[Any] = []

    def keep(module: nn.Module, given: tuple[Any, ...], made: Any) -> None:
        kept.append(given[0] if inputs else made)

    handles = [module.register_forward_hook(keep) for module in modules]
    try:
        yield kept
    finally:
        for handle in handles:
            handle.remove()


def _runs(
    file: dict[str, np.ndarray[Any, Any]],
    kind: str,
    decode: Callable[[RandomField], Trace],
) -> Iterator[tuple[str, Trace]]:
    """Run a field; where its sampled masks are stored, once more with them given."""
    yield kind, decode(golden_field(kind))
    if f"attn_masked_{kind}_head0" in file:
        yield f"{kind}+masks", decode(_stored_field(file, kind))


def _stored_field(file: dict[str, np.ndarray[Any, Any]], kind: str) -> RandomField:
    """Make a field, [N, 1, Q, K], that leads to the stored attention masks."""

    def field(call: int, keys: int) -> Tensor:
        bits = np.unpackbits(file[f"attn_masked_{kind}_head{call}"], axis=-1)
        return torch.from_numpy(1.0 - bits[..., :keys].astype(np.float32))[:, None]

    return field


def _of_element(field: RandomField, n: int) -> RandomField:
    """Cut the field of one batch element out, if it differs between them."""

    def own(call: int, keys: int) -> Tensor:
        u = field(call, keys)
        return u[n] if u.dim() == 4 else u

    return own


def logits_result(
    case: str, run: str, found: Tensor, expected: np.ndarray[Any, Any]
) -> Result:
    """Compare logits, more loosely where the run sampled its own masks."""
    if run == "binary" or run.endswith("+masks"):
        return compare(case, found, expected, LOGIT)
    if tuple(found.shape) != expected.shape:
        return Result(case, float("inf"), LOOSE_LOGIT, False, f"{tuple(found.shape)}")
    error = np.abs(found.double().numpy() - expected)
    share = float((error > LOOSE_LOGIT).mean())
    largest = float(np.quantile(error, 1 - LOOSE_SHARE))
    note = f"99 % quantile; {share:.2%} beyond, largest {error.max():.1e}"
    return Result(case, largest, LOOSE_LOGIT, share <= LOOSE_SHARE, note)


def _steps(
    case: str,
    run: str,
    kind: str,
    found: Trace,
    file: dict[str, np.ndarray[Any, Any]],
    *,
    text_step: int,
    cls_step: int,
    first: int | None = None,
) -> Iterator[Result]:
    """Compare the decoder's inner states, [step, token, N, channel] in the files."""
    states = {
        "queries": (found.queries, 4, first),
        "text": (found.text, text_step, first),
        "cls": (found.classifier, cls_step, None),
    }
    for name, (steps, channel_step, count) in states.items():
        if f"{name}_{kind}" not in file:
            continue
        stacked = torch.stack(steps)[:, :count, :, ::channel_step].transpose(1, 2)
        yield logits_result(f"{case} {name}", run, stacked, file[f"{name}_{kind}"])


def _bits(
    case: str,
    run: str,
    kind: str,
    found: Trace,
    image: ImageFeatures,
    file: dict[str, np.ndarray[Any, Any]],
) -> Iterator[Result]:
    """Compare sampled attention masks bit by bit."""
    if f"attn_masked_{kind}_head0" not in file or run.endswith("+masks"):
        return
    wrong = total = 0
    field = golden_field(kind)
    for call, embedding in enumerate(found.masks):
        if (key := f"attn_masked_{kind}_head{call}") not in file:
            continue
        features = image.level_mask_features[call % 3]
        per_slice = embedding.unflatten(0, (len(features), -1)).flatten(1, 2)
        logits = (per_slice @ features).view(len(embedding), -1, features.shape[-1])
        masked = field(call, logits.shape[-1]) < never_drawn(logits, call)
        expected = np.unpackbits(file[key], axis=-1)[..., : logits.shape[-1]]
        wrong += int((masked.numpy() != expected.astype(bool)).sum())
        total += expected.size
    share = wrong / total
    note = f"{wrong} of {total} bits"
    yield Result(f"{case} mask bits", share, FLIPPED_BITS, share <= FLIPPED_BITS, note)


def _beside(folder: Path, name: str) -> Path:
    """Find a file that a case needs: in the folder, or in the shared reference."""
    shared = Path(__file__).parents[2] / "shared" / "reference"
    for place in (folder, shared):
        if (place / name).exists():
            return place / name
    raise FileNotFoundError(f"{name} is neither in {folder} nor in {shared}")
