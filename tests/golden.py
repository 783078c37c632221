"""Run every golden file of a folder: ``python tests/golden.py FOLDER``.

The format is that of shared/reference. Prints one line a case with the largest error
and the tolerance; the exit code is 1 if a case fails or the folder holds none.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import golden_boltz
import golden_e2e
import golden_network
import golden_pure
import golden_v1
import golden_v1_pure
import torch
from golden_result import Result

from napari_biomedparse.networks.blocks.tokenizer import tokenize


def tokenizer(folder: Path) -> Iterator[Result]:
    """Token ids and masks of every text."""
    entries = json.loads((folder / "tokenizer.json").read_text(encoding="utf-8"))
    wrong = [entry["text"] for entry in entries if not _tokens_equal(entry)]
    note = f"{len(entries)} texts" + (f"; wrong: {wrong[:3]}" if wrong else "")
    yield Result("tokenizer", len(wrong), 0, not wrong, note)


def _tokens_equal(entry: dict[str, object]) -> bool:
    tokens = tokenize(str(entry["text"]))
    return (
        tokens.ids.tolist() == entry["input_ids"]
        and entry["attention_mask"] == [1] * tokens.length + [0] * (77 - tokens.length)
        and tokens.length == entry["n"]
    )


def cases(folder: Path) -> Iterator[Callable[[], Iterator[Result]]]:
    """Yield a function for each golden file that the folder holds."""
    named = {
        "tokenizer.json": tokenizer,
        "state_dict_manifest.json": golden_network.manifest,
        "weights_check.json": golden_network.weights_check,
        "text_encoder.npz": golden_network.text_encoder,
        "unit_backbone.npz": golden_network.unit_backbone,
        "unit_pixel_decoder.npz": golden_network.unit_pixel_decoder,
        "unit_decoder.npz": golden_network.unit_decoder,
    }
    yield partial(golden_pure.run, folder)
    for name, run in named.items():
        if (folder / name).exists():
            yield partial(run, folder)
    globs = {
        "stage_*.npz": golden_network.stage,
        "companion_*.npz": golden_network.companion,
        "e2e_*.npz": golden_e2e.end_to_end,
    }
    for pattern, run_file in globs.items():
        for path in sorted(folder.glob(pattern)):
            yield partial(run_file, folder, path)


def cases_of_v1(folder: Path) -> Iterator[Callable[[], Iterator[Result]]]:
    """Yield a function for each golden file of v1 that the folder holds."""
    model = golden_v1.reference_model()
    named = {
        "state_dict_manifest.json": golden_network.manifest,
        "weights_check.json": golden_network.weights_check,
        "text_encoder.npz": golden_network.text_encoder,
        "unit_backbone.npz": golden_network.unit_backbone,
        "unit_pixel_decoder.npz": golden_network.unit_pixel_decoder,
    }
    for name, run in named.items():
        if (folder / name).exists():
            yield partial(run, folder, model)
    if (folder / "unit_decoder.npz").exists():
        yield partial(golden_v1.unit_decoder, folder)
    if (folder / "pure_read.npz").exists():
        yield partial(golden_v1.pure_read, folder)
    if (folder / "pure_loss.npz").exists():
        yield partial(golden_v1_pure.loss, folder)
    if (folder / "pure_instances.npz").exists():
        yield partial(golden_v1_pure.instances, folder)
    if (folder / "pure_metrics.npz").exists():
        yield partial(golden_v1_pure.metrics, folder)
    if (folder / "pure_stats.npz").exists():
        yield partial(golden_v1_pure.statistics, folder)
    if (folder / "pure_combine.npz").exists():
        yield partial(golden_v1_pure.combination, folder)
    for pattern in ("stage_*.npz", "companion_*.npz", "e2e_*.npz"):
        for path in sorted(folder.glob(pattern)):
            yield partial(golden_v1.image_case, folder, path)
    for path in sorted(folder.glob("recognition_*.npz")):
        yield partial(golden_v1_pure.recognition, folder, path)


def main(folder: Path) -> int:
    """Run all cases, print the report and return the exit code."""
    started = time.perf_counter()
    results: list[Result] = []
    with torch.inference_mode():
        listed = cases_of_v1 if golden_v1.is_v1(folder) else cases
        if golden_boltz.is_boltzformer(folder):
            listed = golden_boltz.cases
        for case in listed(folder):
            for result in case():
                results.append(result)
                print(_line(result), flush=True)
    failed = [r for r in results if not r.passed]
    seconds = time.perf_counter() - started
    print(
        f"{len(results) - len(failed)} passed, {len(failed)} failed in {seconds:.0f} s"
    )
    if not results:
        print(f"{folder} holds no golden file", file=sys.stderr)
    return 1 if failed or not results else 0


def _line(result: Result) -> str:
    verdict = "ok  " if result.passed else "FAIL"
    return (
        f"{verdict} {result.case:44} error {result.error:.2e}  "
        f"tolerance {result.tolerance:.0e}  {result.note}".rstrip()
    )


if __name__ == "__main__":
    if len(sys.argv) != 2:
        sys.exit("usage: python tests/golden.py FOLDER")
    sys.exit(main(Path(sys.argv[1])))
