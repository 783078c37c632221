"""Fuzz every reader for any time: ``python tests/fuzz/run.py --minutes 60``.

A child process damages files and opens them, each within ten seconds and a bound of
memory. What is neither opened nor refused by an exception of the package is a finding;
it is saved in ``found/``, which the normal tests replay. The parent starts the child
again should it die, which is a finding as well.
"""

from __future__ import annotations

import argparse
import contextlib
import hashlib
import json
import shutil
import subprocess
import sys
import tempfile
import time
from collections import Counter
from dataclasses import asdict
from pathlib import Path
from random import Random

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE.parent))

from fuzz.mutate import zipped  # noqa: E402
from hostile.doors import SECONDS, Outcome, attempt, limit_memory, warm_up  # noqa: E402

FOUND = HERE / "found"
SHARED = HERE.parents[2] / "shared"
LARGEST = 64 * 1024
"""Findings larger than this are reported but not kept."""
_BIGGEST = 2**20
"""Bytes of an input, and of each file of a folder; time and memory are bounded for
small files, and the text of a larger one takes as much more when it is parsed."""
_PER_CHILD = 20_000
"""Inputs after which a child is replaced, so that none grows old."""


def save(path: Path, target: str, door: str) -> Path | None:
    """Keep an input, a folder as an archive, under a name that says its door."""
    from fuzz.seeds import read_folder

    if not path.exists():
        return None
    content = zipped(read_folder(path)) if path.is_dir() else path.read_bytes()
    if len(content) > LARGEST:
        return None
    digest = hashlib.sha256(content).hexdigest()[:10]
    ending = "".join(path.suffixes) + (".folder" if path.is_dir() else "")
    kept = FOUND / f"{door}-{target}-{digest}{ending}"
    kept.write_bytes(content)
    return kept


def child(only: list[str], seed: int, until: float, work: Path) -> None:
    """Damage and open files until the time is up; tell the parent line by line."""
    from fuzz.targets import all_targets

    warm_up()
    with tempfile.TemporaryDirectory() as scratch:
        targets = [
            target
            for target in all_targets(Path(scratch), SHARED)
            if not only or target.name in only
        ]
    limit_memory()
    for number in range(_PER_CHILD):
        if time.time() > until:
            return
        target = targets[number % len(targets)]
        shutil.rmtree(work, ignore_errors=True)
        work.mkdir()
        with contextlib.suppress(OSError):
            path = target.write(Random(f"{seed} {number}"), work)
            if any(p.stat().st_size > _BIGGEST for p in (path, *path.rglob("*"))):
                continue
            print(json.dumps([target.name, target.door, path.name]), flush=True)
            outcome = attempt(target.door, path)
            if outcome.error == "Hang" or outcome.seconds >= SECONDS:
                # A file that is slow is slow again; a computer that stood still is not.
                outcome = attempt(target.door, path)
            if outcome.acceptable:
                print(json.dumps([outcome.error, outcome.seconds]), flush=True)
                continue
            kept = str(save(path, target.name, target.door))
            print(json.dumps({"kept": kept, **asdict(outcome)}), flush=True)


class Tally:
    """What was tried and found."""

    def __init__(self) -> None:
        self.inputs: Counter[str] = Counter()
        self.opened: Counter[str] = Counter()
        self.seconds: Counter[str] = Counter()
        self.findings: Counter[str] = Counter()

    def report(self) -> str:
        """Return a table of inputs by reader, and the findings."""
        lines = [f"{'reader':12}{'inputs':>10}{'opened':>10}{'refused':>10}{'min':>8}"]
        for name in sorted(self.inputs):
            count, opened = self.inputs[name], self.opened[name]
            minutes = self.seconds[name] / 60
            lines.append(
                f"{name:12}{count:10}{opened:10}{count - opened:10}{minutes:8.1f}"
            )
        lines.append(f"{'all':12}{sum(self.inputs.values()):10}")
        lines += [f"FOUND {count} x {what}" for what, count in self.findings.items()]
        return "\n".join(lines)

    def find(self, what: str, kept: str) -> bool:
        """Count a finding; tell the first of its kind, keep no file of others."""
        self.findings[what] += 1
        first = self.findings[what] == 1
        if first:
            print("FINDING", what, kept, flush=True)
        else:
            Path(kept).unlink(missing_ok=True)
        return first


def _kind(outcome: Outcome) -> str:
    """Say what is wrong, equal for equal causes."""
    frames = [line for line in outcome.trace.splitlines() if line.startswith("  File")]
    where = frames[-1].strip() if frames else ""
    too_much = outcome.starved or outcome.megabytes > 100
    size = f"{round(outcome.megabytes, -2):.0f} MB " if too_much else ""
    time_ = "slow " if outcome.seconds >= SECONDS else ""
    ours = outcome.message[-60:] if outcome.ours or not where else where
    return f"{time_}{size}{outcome.error} {ours}"


def watch(only: list[str], seed: int, until: float, work: Path, tally: Tally) -> None:
    """Run one child to its end, or to its death."""
    arguments = [
        sys.executable, "-W", "ignore", __file__, "--child", str(work),
        "--seed", str(seed), "--until", str(until),
        *[a for name in only for a in ("--only", name)],
    ]  # fmt: skip
    process = subprocess.Popen(arguments, stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    now: list[str] | None = None
    for line in process.stdout:
        said = json.loads(line)
        if isinstance(said, list) and len(said) == 3:
            now = said
            continue
        assert now is not None
        name, door, file = now
        now = None
        tally.inputs[name] += 1
        if isinstance(said, list):
            tally.opened[name] += said[0] is None
            tally.seconds[name] += said[1]
        else:
            kept = said.pop("kept")
            outcome = Outcome(**said)
            tally.seconds[name] += outcome.seconds
            if tally.find(f"{name}: {_kind(outcome)}", kept):
                print(outcome.message, outcome.trace[-1500:], flush=True)
    if process.wait() and now is not None:
        name, door, file = now
        kept = str(save(work / file, name, door))
        tally.find(f"{name}: died with {process.returncode}", kept)


def main() -> int:
    """Fuzz for the time asked for; return 1 if anything was found."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--minutes", type=float, default=1.0)
    parser.add_argument("--only", action="append", default=[], help="a reader's name")
    parser.add_argument("--seed", type=int, default=int(time.time()))
    parser.add_argument("--child", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--until", type=float, help=argparse.SUPPRESS)
    asked = parser.parse_args()
    if asked.child:
        child(asked.only, asked.seed, asked.until, asked.child)
        return 0
    FOUND.mkdir(exist_ok=True)
    tally, until = Tally(), time.time() + 60 * asked.minutes
    memory = Path("/dev/shm")
    with tempfile.TemporaryDirectory(
        prefix="fuzz-", dir=memory if memory.is_dir() else None
    ) as folder:
        for count in range(10**6):
            if time.time() > until:
                break
            watch(asked.only, asked.seed + count, until, Path(folder) / "work", tally)
            print(tally.report(), flush=True)
    return 1 if tally.findings else 0


if __name__ == "__main__":
    sys.exit(main())
