"""Measure light networks beside v2: parameters, operations, time of a slice.

    python benchmarks/light.py
    python benchmarks/light.py --threads 2 --repeats 5

Random weights, float32, texts excluded. Times are processor time of one slice of 512 x
512, the least of some alternating repeats, as multiples of the speed of v2.
"""

from __future__ import annotations

import argparse
import time
from typing import TYPE_CHECKING

import torch
from torch.utils.flop_counter import FlopCounterMode

from napari_biomedparse.engine.engine import Engine
from napari_biomedparse.networks.catalogue import build
from napari_biomedparse.networks.config import ARCHITECTURES, V2, BiomedParseConfig
from napari_biomedparse.networks.synthetic import synthetic_state_dict

if TYPE_CHECKING:
    from napari_biomedparse.networks.network import Network

COUNTS = (1, 13)
TIMED = ("v2", "v2-light", "v2-lite")
TOKENS = 10


def operations(config: BiomedParseConfig, prompts: int) -> float:
    """Count the GFLOP of a slice."""
    model = build(config).eval().requires_grad_(False).to("meta")
    size = config.image_size
    with torch.device("meta"), torch.inference_mode():
        counter = FlopCounterMode(display=False)
        with counter:
            seen = model.encode_image(torch.zeros(1, 3, size, size))
            shape = config.heads, config.queries
            tokens = torch.zeros(prompts, TOKENS, config.dim)
            model.decode(seen, tokens, lambda call, keys: torch.zeros(*shape, keys))
    return counter.get_total_flops() / 1e9


def synthetic(config: BiomedParseConfig) -> Network:
    """Build a network with weights that are not trained."""
    model = build(config)
    shapes = {name: x.shape for name, x in model.state_dict().items()}
    model.load_state_dict(synthetic_state_dict(shapes), assign=True)
    return model.eval().requires_grad_(False)


def main() -> None:
    """Measure and print a table."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--repeats", type=int, default=3)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    configs = {"v2": V2, **ARCHITECTURES}
    engines = {
        name: Engine(synthetic(configs[name]), device="cpu", cache_bytes=0)
        for name in TIMED
    }
    best: dict[tuple[str, int], float] = {}
    for count in COUNTS:
        texts = [f"target {i}" for i in range(count)]
        tokens = {name: one.encode_prompts(texts) for name, one in engines.items()}
        for _ in range(args.repeats):
            for name, engine in engines.items():
                size = configs[name].image_size
                square = torch.randint(0, 256, (1, 3, size, size), dtype=torch.int32)
                begun = time.process_time()
                engine.predict(square, tokens[name], remember=False)
                taken = time.process_time() - begun
                best[name, count] = min(taken, best.get((name, count), taken))
    print("| network | million parameters | GFLOP | times as fast as v2 |")
    print("|---|---|---|---|")
    for name, config in configs.items():
        size = sum(p.numel() for p in build(config).parameters()) / 1e6
        work = ", ".join(f"{operations(config, count):.3g}" for count in COUNTS)
        ratios = [best["v2", n] / best[name, n] for n in COUNTS if (name, n) in best]
        shown = ", ".join(f"{ratio:.2f}" for ratio in ratios)
        print(f"| {name} | {size:.0f} | {work} | {shown} |")


if __name__ == "__main__":
    main()
