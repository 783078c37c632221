"""Golden cases of BoltzFormer."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import golden_2d
import golden_network
import numpy as np
import torch
from golden_network import (
    FIELDS,
    FLIPPED_BITS,
    LOGIT,
    RELATIVE,
    compare,
    golden_field,
    load,
    logits_result,
    prefix_of,
    recorded,
    seeded,
)
from golden_result import Result, check, relative_to
from torch import Tensor

from napari_biomedparse.engine.engine import Engine
from napari_biomedparse.labels.resolve import upsample
from napari_biomedparse.networks.blocks.decoder import ImageFeatures, never_drawn
from napari_biomedparse.networks.blocks.pixel_decoder import PixelFeatures
from napari_biomedparse.networks.blocks.tokenizer import tokenize
from napari_biomedparse.networks.boltzformer.boltzformer import BoltzFormer
from napari_biomedparse.networks.boltzformer.output import aggregate, pixel_logits
from napari_biomedparse.networks.config import (
    FOCAL_L,
    HIERA_BP,
    HIERA_S,
    BiomedParseConfig,
)
from napari_biomedparse.networks.synthetic import synthetic_state_dict
from napari_biomedparse.training.losses import (
    mask_losses,
)

Arrays = dict[str, np.ndarray[Any, Any]]
CONFIGS = {"focal-l": FOCAL_L, "hiera-s": HIERA_S, "hiera-bp": HIERA_BP}
OUTPUT, VALUE, GRADIENT = (1e-4, 1e-4), 1e-5, 1e-4
LABELS = {"binary": 1e-3, "hash": 5e-3}
VISIBLE, NORM, SMALL = 1e-3, 2e-3, 1e-6
STEPS = {
    "res2": (32, 32), "res3": (32, 16), "res4": (32, 8), "res5": (32, 4),
    "mask_features": (32, 32), "ms0": (32, 4), "ms1": (32, 8), "ms2": (32, 16),
}  # fmt: skip


def is_boltzformer(folder: Path) -> bool:
    """Return whether the goldens of a folder are those of BoltzFormer."""
    named = "*hiera*", "*focal-l*", "unit_output*", "unit_loss*", "v2_2d_*", "v2_loss*"
    return any(any(folder.glob(pattern)) for pattern in named)


class Models:
    """Networks with synthetic weights, one at a time: they are large."""

    def __init__(self) -> None:
        self._kept: dict[str, BoltzFormer] = {}

    @property
    def current(self) -> BoltzFormer:
        """The network of the case that runs."""
        return next(iter(self._kept.values()))

    def get(self, name: str) -> BoltzFormer:
        """Return the network of a configuration."""
        if name not in self._kept:
            self._kept = {name: synthetic_network(CONFIGS[name])}
        return self._kept[name]


def synthetic_network(config: BiomedParseConfig) -> BoltzFormer:
    """Make a network of any size with the reference weights."""
    with torch.inference_mode(False), torch.no_grad():
        return _made(config)


def _made(config: BiomedParseConfig) -> BoltzFormer:
    model = BoltzFormer.unfilled(config)
    shapes = {name: x.shape for name, x in model.state_dict().items()}
    model.load_state_dict(synthetic_state_dict(shapes), assign=True)
    return model.eval().requires_grad_(False)


MODELS = Models()


def configuration(path: Path) -> str:
    """Return which configuration a file is of: the part of its name between _."""
    name = next((n for n in CONFIGS if n in path.stem), "hiera")
    return name if name in CONFIGS else "hiera-s"


def cases(folder: Path) -> Iterator[Callable[[], Iterator[Result]]]:
    """Yield a function for each golden file, those of one network together."""
    of_one = {
        "state_dict_manifest_*.json": manifest,
        "weights_check_*.json": weights_check,
        "unit_backbone_*.npz": unit_backbone,
        "unit_pixel_decoder_*.npz": unit_pixel_decoder,
        "e2e_*.npz": end_to_end,
        "gradients_*.npz": gradients,
    }
    for name in CONFIGS:
        for pattern, run in of_one.items():
            for path in sorted(folder.glob(pattern)):
                if configuration(path) == name:
                    yield partial(run, path)
        if name == "hiera-s":
            for file, run in (
                ("unit_decoder.npz", unit_decoder),
                ("unit_output.npz", unit_output),
            ):
                if (folder / file).exists():
                    yield partial(run, folder / file)
    for file, run in (
        ("unit_loss.npz", unit_loss),
        ("v2_loss.npz", golden_2d.v2_loss),
        ("v2_2d_prepare.npz", golden_2d.prepared),
    ):
        if (folder / file).exists():
            yield partial(run, folder / file)
    for path in sorted(folder.glob("v2_2d_*.npz")):
        if path.stem != "v2_2d_prepare":
            yield partial(golden_2d.image_of_v2, path)


def manifest(path: Path) -> Iterator[Result]:
    """Names and shapes of the state dict."""
    model = MODELS.get(configuration(path))
    yield from golden_network.manifest(path.parent, model, path.stem)


def weights_check(path: Path) -> Iterator[Result]:
    """Synthetic weights equal those of the goldens, to the last bits."""
    model = MODELS.get(configuration(path))
    yield from golden_network.weights_check(path.parent, model, path.stem)


def unit_backbone(path: Path) -> Iterator[Result]:
    """Feature maps of small images; of Hiera also blocks and positions."""
    file, backbone = load(path), MODELS.get(configuration(path)).backbone
    prefix, case = f"{prefix_of(file)}unit_backbone/", path.stem

    def equal(key: str, x: Tensor) -> Result:
        return compare(f"{case} {key}", x, file[key], RELATIVE, relative=True)

    hiera = "kept_blocks" in file
    found: dict[str, Tensor] = {}
    for name in (key.removeprefix("shape_") for key in file if "shape_" in key):
        image = seeded(f"{prefix}{name}", *file[f"shape_{name}"])
        steps = (0, 0, *((32, 16, 4, 4) if hiera else (16,) * 4))
        if hiera:
            trunk = backbone.trunk
            with recorded(*trunk.blocks) as blocks:
                stages = trunk(image)
            features = backbone.neck(stages)
            kept = file["kept_blocks"]
            found |= {f"{name}_block{i}": blocks[i][..., ::16] for i in kept}
            found[f"{name}_embedded"] = trunk.embed(image)[..., ::16]
            for i, x in enumerate(stages):
                found[f"{name}_trunk{i}"] = x[:, :: 16 if i < 2 else 8]
        else:
            features = backbone(image)
        for i, x in enumerate(features, start=2):
            found[f"{name}_res{i}"] = x[:, :: steps[i]]
    if hiera:
        config = CONFIGS[configuration(path)]
        ends, widths = backbone.trunk.ends, config.backbone_widths
        sizes = {
            "window14": (ends[1] + 2, widths[2], (1, 17, 20)),
            "pooled14": (ends[2] + 1, widths[2], (1, 16, 20)),
            "pooled8": (ends[0] + 1, widths[0], (2, 24, 20)),
        }
        for name, (index, width, shape) in sizes.items():
            shape = tuple(file.get(f"shape_{name}", (*shape, width)))
            x = backbone.trunk.blocks[index](seeded(f"{prefix}{name}", *shape))
            found[f"{name}_block"] = x[..., ::16]
        found["pos_256"] = backbone.trunk.positions(256, 256)[0, ::16, ::16, ::8]
        found["pos_16x24"] = backbone.trunk.positions(16, 24)[0, ..., ::16]
    for key, x in found.items():
        if key in file:
            yield equal(key, x.reshape(file[key].shape) if key[:3] == "pos" else x)


def unit_pixel_decoder(path: Path) -> Iterator[Result]:
    """Pixel decoder on seeded features."""
    file, name = load(path), configuration(path)
    batch, _, height, width = (int(n) for n in file["shape_res2"])
    prefix = f"{prefix_of(file)}unit_pixel_decoder/res"
    inputs = tuple(
        seeded(f"{prefix}{i}", batch, channels, height >> (i - 2), width >> (i - 2))
        for i, channels in enumerate(CONFIGS[name].feature_widths, start=2)
    )
    decoder = MODELS.get(name).pixel_decoder
    with recorded(decoder.transformer["encoder"]) as encoded:
        pixels = decoder(inputs)
    found = {
        "transformer_out": encoded[0],
        "ms0": pixels.levels[0][:, ::2],
        "ms1": pixels.levels[1][:, ::4],
        "ms2": pixels.levels[2][:, ::8],
        "mask_features": pixels.mask_features[:, ::16],
    }
    for key, x in found.items():
        yield compare(f"{path.stem} {key}", x, file[key], RELATIVE, relative=True)


class Trace:
    """What the queries [Q, C] were, and their mask embeddings, at each head call."""

    def __init__(self, image: ImageFeatures, tokens: Tensor, field: Any) -> None:
        decoder = MODELS.current.mask_decoder
        with (
            recorded(decoder.decoder_norm, inputs=True) as queries,
            recorded(decoder.mask_embed) as masks,
        ):
            self.embedding, _ = decoder.embed(image, tokens, field)
        self.queries, self.masks = torch.stack(queries)[:, 0], masks
        self.logits = (self.embedding @ image.mask_features.flatten(2)).unflatten(
            -1, image.mask_features.shape[-2:]
        )[0]
        self.image = image

    @property
    def stats(self) -> Tensor:
        """Mean and standard deviation of each query's logits."""
        flat = self.logits.flatten(1)
        return torch.stack([flat.mean(-1), flat.std(-1, unbiased=False)])

    def masked(self, call: int, kind: str) -> Tensor:
        """Return the keys that a head call hides, before a reset."""
        features = self.image.level_mask_features[call % 3]
        logits = (self.masks[call] @ features)[0]
        field = golden_field(kind, len(logits))(call, logits.shape[-1])
        return field[0] < never_drawn(logits, call)


def one_of(image: ImageFeatures, n: int) -> ImageFeatures:
    """Cut a batch element out."""
    levels = (tuple(x[n : n + 1] for x in level) for level in image[1:])
    return ImageFeatures(image.mask_features[n : n + 1], *levels)


def unit_decoder(path: Path) -> Iterator[Result]:
    """Mask decoder alone; each batch element has text tokens of its own."""
    file, decoder = load(path), MODELS.get("hiera-s").mask_decoder
    prefix = f"{prefix_of(file)}unit_decoder/"
    first = next(f for f in FIELDS if f"mean_mask_{f}" in file)
    count, height, width = file[f"mean_mask_{first}"].shape
    masks = seeded(f"{prefix}mask_features", count, 512, height, width) * 0.7
    levels = tuple(
        seeded(f"{prefix}ms{i}", count, 512, height // d, width // d).relu()
        for i, d in enumerate((8, 4, 2))
    )
    length = int(file.get("length", 11))
    tokens = seeded(f"{prefix}tokens", length, count, 512) * 2.0
    tokens[7:, 1] = 0
    image = decoder.prepare(PixelFeatures(masks, levels))
    for kind in (f for f in FIELDS if f"mean_mask_{f}" in file):
        field = golden_field(kind, 101)
        runs = [
            Trace(one_of(image, n), tokens[:, n][None], field) for n in range(count)
        ]
        found = {
            "pred_masks": torch.stack([run.logits[:, ::4, ::4] for run in runs]),
            "mean_mask": torch.stack([run.logits.mean(0) for run in runs]),
            "query_stats": torch.stack([run.stats for run in runs], dim=1),
            "queries": torch.stack([run.queries[..., ::32] for run in runs], dim=2),
        }
        for key, x in found.items():
            case = f"{path.stem} {kind} {key}"
            yield logits_result(case, kind, x, file[f"{key}_{kind}"])
        wrong = total = 0
        for call in range(10):
            if (key := f"attn_masked_{kind}_head{call}") not in file:
                continue
            hidden = torch.stack([run.masked(call, kind) for run in runs]).numpy()
            bits = np.unpackbits(file[key], axis=-1)[..., : hidden.shape[-1]]
            wrong, total = wrong + int((hidden != bits).sum()), total + bits.size
        if total:
            yield check(
                f"{path.stem} {kind} mask bits", wrong / total, FLIPPED_BITS, ""
            )


def unit_output(path: Path) -> Iterator[Result]:
    """Output layer alone, and its gradients."""
    file, model, prefix = load(path), MODELS.get("hiera-s"), ""
    prefix = f"{prefix_of(file)}unit_output/"
    names = [str(name) for name in file["grad_names"]]
    parameters = dict(model.named_parameters())
    layer = model.output_deconv, model.output_conv
    with torch.inference_mode(False), torch.enable_grad():
        masks = (seeded(f"{prefix}masks", 1, 101, 256, 256) * 3).requires_grad_()
        own = [parameters[name].requires_grad_() for name in names]
        pixels = pixel_logits(seeded(f"{prefix}image", 1, 3, 1024, 1024), *layer)
        logits = aggregate(torch.eye(101)[None], masks, pixels, *layer)
        cotangent = seeded(f"{prefix}cotangent", *logits.shape)
        grad, *grads = torch.autograd.grad(logits, [masks, *own], cotangent)
        model.requires_grad_(False)
    logits = logits.detach()[0, 0]
    found = {
        "logits": logits[::8, ::8],
        "logits_border": logits[:4, :64],
        "grad_masks": grad[0, ::10, ::16, ::16],
    }
    for key, x in found.items():
        yield compare(f"{path.stem} {key}", x, file[key], OUTPUT, relative=True)
    stats = torch.stack([logits.mean(), logits.std(unbiased=False)])
    yield compare(f"{path.stem} stats", stats, file["stats"], OUTPUT)
    norms = [float(g.norm()) for g in (grad, *grads)]
    expected = [float(file["grad_masks_norm"]), *file["grad_norms"].tolist()]
    yield relative_to(f"{path.stem} gradient norms", norms, expected, GRADIENT)


def unit_loss(path: Path) -> Iterator[Result]:
    """BoltzFormer's loss."""
    file = load(path)
    for case in (key.removesuffix("_total") for key in file if key.endswith("_total")):
        labels = torch.from_numpy(file[f"{case}_labels"]).float()
        with torch.inference_mode(False), torch.enable_grad():
            prefix = f"{prefix_of(file)}unit_loss/"
            drawn = seeded(f"{prefix}{case}", len(labels), 1, 64, 64) * 2 - 1
            logits = drawn.requires_grad_()
            terms = mask_losses(upsample(logits, labels.shape[-2:]), labels.clone())
            total = terms.mask_dice + terms.mask_bce
            (grad,) = torch.autograd.grad(total, logits)
        name = f"{path.stem} {case}"
        found = [float(x) for x in (total, terms.mask_dice, terms.mask_bce)]
        expected = [float(file[f"{case}_{k}"]) for k in ("total", "dice", "bce")]
        yield relative_to(f"{name} values", found, expected, VALUE)
        norm = float(file[f"{case}_grad_norm"])
        error = np.abs(grad[..., ::4, ::4].numpy() - file[f"{case}_grad"]).max() / norm
        yield check(f"{name} gradient", float(error), GRADIENT, "")
        yield relative_to(f"{name} norm", [float(grad.norm())], [norm], GRADIENT)


def gradients(path: Path) -> Iterator[Result]:
    """Loss and gradients of a whole network without its output layer."""
    file, told = load(path), json.loads(path.with_suffix(".json").read_text())
    config = CONFIGS[configuration(path)]
    model = synthetic_network(replace(config, output_layer=False, image_size=256))
    whole = enlarged(load(path.with_name("images.npz"))["em"])
    crop = whole[:, 300:556, 400:656]
    images = torch.stack([crop, crop.flip(-1)])
    ids = [tokenize(str(text)) for text in told["texts"]]
    y, x = np.mgrid[:256, :256]
    discs = ((100, 120, 40), (60, 200, 12))
    labels = np.stack([(y - a) ** 2 + (x - b) ** 2 < r**2 for a, b, r in discs])
    truth = torch.from_numpy(labels[:, None].astype(np.float32))
    field = golden_field("binary", config.queries)
    model.requires_grad_(True)
    with torch.inference_mode(False), torch.enable_grad():
        vectors = model.encode_prompts(torch.from_numpy(np.stack([t.ids for t in ids])))
        longest = max(t.length for t in ids)
        real = torch.tensor([[i < t.length for i in range(longest)] for t in ids])
        tokens = vectors[:, :longest] * real[..., None]
        seen = model.encode_image(images.clone())

        def logits(given: Tensor) -> Tensor:
            one = [
                model.decode(
                    type(seen)(one_of(seen.features, n), seen.pixels[n : n + 1]),
                    given[n : n + 1],
                    field,
                ).mask_logits
                for n in range(len(images))
            ]
            return torch.cat(one)

        predicted = logits(tokens)
        loss = sum(mask_losses(upsample(predicted, (256, 256)), truth.clone()))
        loss.backward()
        other = logits(torch.where(real[..., None], tokens, -1.0).detach()).detach()
    name = path.stem
    found = {"logits_train": predicted.detach(), "logits_eval": other}
    for key, value in found.items():
        yield compare(f"{name} {key}", value[:, 0, ::2, ::2], file[key], LOGIT)
    yield relative_to(f"{name} loss", [float(loss.detach())], [told["loss"]], GRADIENT)
    norms = told["gradient_norms"]
    largest, worst, wrong = max(v for v in norms.values() if v), (0.0, ""), []
    for key, parameter in model.named_parameters():
        expected = norms[key]
        if (expected is None) != (parameter.grad is None):
            wrong.append(key)
        elif expected is not None and expected > SMALL * largest:
            error = abs(float(parameter.grad.norm()) - expected) / expected
            worst = max(worst, (error, key))
    yield Result(f"{name} norms", worst[0], NORM, worst[0] <= NORM, worst[1])
    yield Result(f"{name} no gradient", len(wrong), 0, not wrong, str(wrong[:3]))


def enlarged(image: np.ndarray[Any, Any]) -> Tensor:
    """Repeat the pixels of an image to 1024 x 1024, and a single channel to three."""
    times = 1024 // image.shape[-1]
    whole = np.kron(image, np.ones((1, times, times), np.uint8))
    whole = np.repeat(whole, 3 // len(whole), axis=0)
    return torch.from_numpy(whole.astype(np.float32))


def end_to_end(path: Path) -> Iterator[Result]:
    """One image through the whole network, and its output layer."""
    file, model, name = load(path), MODELS.get(configuration(path)), path.stem
    prompt, images = str(file["prompt"]), load(path.with_name("images.npz"))
    ids = tokenize(prompt)
    wrong = int((ids.ids != file["input_ids"]).sum())
    yield Result(f"{name} ids", wrong, 0, wrong == 0, "")
    tokens = Engine(model, precision="float32").encode_prompts([prompt])
    expected = file["tokens"]
    found = tokens[0, :, ::4]
    yield compare(f"{name} tokens", found, expected, RELATIVE, relative=True)
    image = enlarged(images[name.rpartition("_")[2]])[None]
    with recorded(model.backbone) as res, recorded(model.pixel_decoder) as decoded:
        seen = model.encode_image(image)
    features = {f"res{i}": x for i, x in enumerate(res[0], start=2)}
    features |= {"mask_features": decoded[0].mask_features}
    features |= {f"ms{i}": x for i, x in enumerate(decoded[0].levels)}
    for key, x in features.items():
        c, s = STEPS[key]
        sub, flat = x[0, ::c, ::s, ::s], x[0].flatten(1)
        yield compare(f"{name} {key}", sub, file[f"{key}_sub"], RELATIVE, relative=True)
        stats = torch.stack([flat.mean(-1), flat.std(-1, unbiased=False)])
        if f"{key}_stats" in file:
            expected, case = file[f"{key}_stats"], f"{name} {key} stats"
            yield compare(case, stats, expected, RELATIVE, relative=True)
    for kind in (f for f in FIELDS if f"logits_sub_{f}" in file):
        field = golden_field(kind, 101)
        run = Trace(seen.features, tokens, field)
        out = model.decode(seen, tokens, field).mask_logits[0, 0]
        found = {
            "mean_mask_sub": run.logits.mean(0)[::4, ::4],
            "query_stats": run.stats,
            "queries": run.queries[..., ::64],
            "logits_sub": out[::4, ::4],
        }
        for key, x in found.items():
            case, expected = f"{name} {kind} {key}", file[f"{key}_{kind}"]
            yield logits_result(case, kind, x, expected)
        large = upsample(out[None, None], (1024, 1024))[0, 0]
        for key, x in (("labels", out), ("labels1024", large)):
            bits = np.unpackbits(file[f"{key}_{kind}"], axis=-1)
            share = float(((x > 0).numpy() != bits).mean())
            yield check(f"{name} {kind} {key}", share, LABELS[kind], "")
        if f"attn_masked_{kind}_head3" in file:
            hidden = run.masked(3, kind)[::10].numpy()
            bits = np.unpackbits(file[f"attn_masked_{kind}_head3"][0], axis=-1)
            share = float((hidden != bits).mean())
            yield check(f"{name} {kind} mask bits", share, FLIPPED_BITS, "")
            visible = [1 - float(run.masked(c, kind).float().mean()) for c in range(10)]
            error = float(np.abs(np.array(visible) - file[f"visible_{kind}"]).max())
            yield check(f"{name} {kind} visible", error, VISIBLE, "")
