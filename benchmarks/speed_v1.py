"""Measure BiomedParse v1 against the network as the original evaluates it.

    taskset -c 0,1 python benchmarks/speed_v1.py --threads 2 --json speed_v1.json
    python benchmarks/speed_v1.py --size 256 --repeats 1          # a quick try

The full-size network has the synthetic weights of the goldens; an image of noise goes
through the product's engine and, by turns, through the original's way: convolutions see
images channel by channel, every head makes all 101 masks at full size, attention
returns its weights. By itself, the original computes the image again for every prompt
(so does its recognition). Texts are encoded beforehand on both sides. Medians are
taken; peak memory is that of a process of its own for each side.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import statistics
import sys
import time
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import naive
import torch
from measures import TEXTS
from torch import Tensor
from torch.nn import functional as F

sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))

from golden_v1 import reference_model

from napari_biomedparse.engine.engine import Engine
from napari_biomedparse.networks.blocks.layers import sine_positions

if TYPE_CHECKING:
    from napari_biomedparse.networks.v1.biomedparse import BiomedParseV1

COUNTS = (1, 4, 13)
BERT = 109_482_257
"""Weights of a second text model, which the original keeps and never evaluates."""


def decode(model: BiomedParseV1, image: Tensor, tokens: Sequence[Tensor]) -> Tensor:
    """Compute an image [1, 3, S, S] and all its prompts [T, C], as mask logits."""
    pixels = naive.decode_pixels(model, naive.encode_backbone(model, image))
    net = model.mask_decoder
    memory, places = [], []
    for embed, level in zip(net.level_embed.weight, pixels.levels, strict=True):
        flat = level.flatten(2).permute(2, 0, 1)
        memory.append(flat + embed)
        grid = sine_positions(
            *level.shape[-2:], level.shape[1], level.device, level.dtype
        )
        places.append(grid[:, None])
    words = torch.cat(list(tokens))[:, None]  # [T, 1, C]
    q, place = net.query_feat.weight[:, None], net.query_embed.weight[:, None]
    positions, t, kept = torch.cat([place, words]), words, []

    def head(q: Tensor, call: int) -> Tensor:
        embedding = net.mask_embed(net.decoder_norm(q)).transpose(0, 1)
        logits = torch.einsum("bqc,bchw->bqhw", embedding, pixels.mask_features)
        kept.append(logits)
        size = pixels.levels[call % 3].shape[-2:]
        sampled = F.interpolate(logits, size=size, mode="bilinear").sigmoid()
        hidden = (sampled.flatten(2) < 0.5).repeat(8, 1, 1)
        hidden[hidden.all(-1)] = False
        return hidden

    hidden = head(q, 0)
    for i, cross in enumerate(net.transformer_cross_attention_layers):
        key, value = memory[i % 3] + places[i % 3], memory[i % 3]
        read = naive._attention(cross.multihead_attn, q + place, key, value, hidden)
        q = cross.norm(q + read)
        s, attend = torch.cat([q, t]), net.transformer_self_attention_layers[i]
        placed = s + positions
        s = attend.norm(s + naive._attention(attend.self_attn, placed, placed, s))
        s = net.transformer_ffn_layers[i](s)
        q, t = s[: len(q)], s[len(q) :]
        hidden = head(q, i + 1)
    ends = torch.stack([own[-1] for own in tokens])
    chosen = net.similarity(q.transpose(0, 1), ends)[0].argmax(dim=0)
    masks = F.interpolate(kept[-1][:, chosen], image.shape[-2:], mode="bilinear")
    return masks.sigmoid() > 0.5


def timed(work: Callable[[], object], repeats: int) -> float:
    """Return the median of the seconds that some work takes."""
    seconds = []
    for _ in range(repeats):
        begun = time.perf_counter()
        work()
        seconds.append(time.perf_counter() - begun)
    return statistics.median(seconds)


def ways(
    size: int, count: int
) -> tuple[Engine, Tensor, Callable[[bool], object], Callable[[bool], object]]:
    """Return the product's and the original's way, prompts apart or together."""
    model = reference_model()
    engine = Engine(model, cache_bytes=0)
    noise = torch.Generator().manual_seed(0)
    image = torch.randint(0, 256, (1, 3, size, size), generator=noise)
    each = [engine.encode_prompts([text]) for text in TEXTS[:count]]
    together = engine.encode_prompts(TEXTS[:count])

    def product(apart: bool) -> object:
        found = engine.predict(image, each if apart else together)
        return F.interpolate(found.mask_logits, (size, size), mode="bilinear") > 0

    def original(apart: bool) -> object:
        with torch.inference_mode():
            tokens = [one[0] for one in each]
            parts = [[one] for one in tokens] if apart else [tokens]
            return [decode(model, image, part) for part in parts]

    return engine, image, product, original


def peak(which: str, size: int, threads: int, sent: Any) -> None:
    """Send the peak of memory of one way in a process of its own, in bytes."""
    torch.set_num_threads(threads)
    _, _, product, original = ways(size, 4)
    bert = torch.ones(0 if which == "product" else BERT)
    Path("/proc/self/clear_refs").write_text("5")  # forgets what making weights took
    (product if which == "product" else original)(False)
    status = Path("/proc/self/status").read_text()
    sent.send(int(status.partition("VmHWM:")[2].split()[0]) * 1024)
    del bert


def peak_apart(which: str, size: int, threads: int) -> int:
    """Measure `peak` in a process that is spawned for it."""
    spawn = multiprocessing.get_context("spawn")
    received, sent = spawn.Pipe(duplex=False)
    process = spawn.Process(target=peak, args=(which, size, threads, sent))
    process.start()
    found: int = received.recv()
    process.join()
    return found


def main() -> None:
    """Measure, print and write what the arguments ask for."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--size", type=int, default=1024)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--most-apart", type=int, default=13, help="prompts, apart")
    parser.add_argument("--json", type=Path)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    rows: dict[str, Any] = {}
    for count in COUNTS:
        engine, image, product, original = ways(args.size, count)
        for apart in (False, True):
            if apart and not 1 < count <= args.most_apart:
                continue
            product(apart)
            seconds: dict[str, list[float]] = {"product": [], "original": []}
            for _ in range(args.repeats):
                seconds["product"].append(timed(partial(product, apart), 1))
                seconds["original"].append(timed(partial(original, apart), 1))
            row = {name: statistics.median(values) for name, values in seconds.items()}
            row["ratio"] = row["original"] / row["product"]
            name = f"{count} {'by themselves' if apart else 'together'}"
            rows[name] = row
            print(f"{name}: {json.dumps(row)}", flush=True)
    first = timed(lambda: engine._encode_image(image), args.repeats)
    features, tokens = engine._encode_image(image), engine.encode_prompts(TEXTS[:1])

    def another() -> None:
        with torch.inference_mode():
            engine.model.decode(features, tokens, engine._field)

    another()
    share = timed(another, args.repeats) / first
    memory = {
        name: peak_apart(name, args.size, args.threads)
        for name in ("product", "original")
    }
    rows["another prompt, share of the image"] = share
    rows["memory"] = {**memory, "ratio": memory["product"] / memory["original"]}
    print(json.dumps({name: rows[name] for name in list(rows)[-2:]}))
    if args.json:
        args.json.write_text(json.dumps(rows, indent=2))


if __name__ == "__main__":
    main()
