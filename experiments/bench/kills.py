"""Kills `reproduce.py` again and again, and checks that it ends with the metrics of an undisturbed run.

`python experiments/bench/kills.py --kills 20` runs a small part of the paper on `tiny` twice: once undisturbed, once
with SIGKILL at random moments, by two workers that share the folders. Every result file must hold byte-identical
metrics, and no result may be made twice.
"""

import dataclasses
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import tyro

_SCRIPT = Path(__file__).resolve().parents[1] / "reproduce.py"
_PART = ["--datasets", "tiny", "--limit", "200", "--tables", "2", "3", "--figures", "4", "--relearn_epochs", "1"]
_QUICK = ["--set", "original.epochs=2", "retrain.epochs=4", "sisa.epochs=4", "camu.epochs=2", "neggrad.epochs=1"]


@dataclasses.dataclass(frozen=True)
class Options:
    """Kills reproduce.py at random moments and compares what it made with an undisturbed run."""

    kills: int = 20
    """How often it is killed."""
    seed: int = 0
    """Of the moments."""
    methods: tuple[str, ...] = ("retrain", "neggrad", "boundary", "unroll", "sisa", "camu")
    """Methods to run."""
    seeds: tuple[int, ...] = (0, 1)
    """Seeds to run."""


def start(options: Options, folder: Path, worker: str, log: Path) -> "subprocess.Popen[bytes]":
    """Starts a worker; what it says is appended to `log`."""
    folders = [f"--out={folder / 'results'}", f"--checkpoint_dir={folder / 'originals'}"]
    cache = [f"--cache_dir={folder.parent / 'cache'}"]  # compiled programs, for both runs
    command = [sys.executable, str(_SCRIPT), *_PART, *folders, *cache, "--worker", worker, "--methods"]
    command += [*options.methods, "--seeds", *map(str, options.seeds), *_QUICK]
    with log.open("ab") as file:
        return subprocess.Popen(command, stdout=file, stderr=subprocess.STDOUT)


def metrics(folder: Path) -> dict[str, dict[str, str]]:
    """The metrics of every result below a folder, as they stand in the files."""
    files = sorted((folder / "results").rglob("*seed*.json"))
    found = {str(f.relative_to(folder)): json.loads(f.read_text())["metrics"] for f in files}
    return {name: {metric: json.dumps(value) for metric, value in of.items()} for name, of in found.items()}


def within(part: dict[str, dict[str, str]], whole: dict[str, dict[str, str]]) -> bool:
    """Whether all that an unfinished run has written stands in the finished one; an audit is added to its result."""
    return all(name in whole and of.items() <= whole[name].items() for name, of in part.items())


def made(log: Path) -> list[str]:
    """What a worker said of each result that it made; without the seconds, so that the same is said of the same."""
    return [line.rsplit("  ", 1)[0] for line in log.read_text().splitlines() if ": R_tr" in line]


def run(options: Options) -> int:
    """Runs both, compares, and prints; returns 1 where they differ."""
    moments = random.Random(options.seed)
    with tempfile.TemporaryDirectory() as temporary:
        cold, calm, rough = (Path(temporary, name) for name in ("cold", "calm", "rough"))
        for folder in (cold, calm):  # the first compiles, the second takes as long as those to be killed
            folder.mkdir()
            begin = time.monotonic()
            if start(options, folder, "0/1", folder / "log").wait() != 0:
                print((folder / "log").read_text())
                return 1
            undisturbed = time.monotonic() - begin
        same, killed, whole = metrics(calm) == metrics(cold), 0, 0
        while killed < options.kills:
            rough.mkdir(exist_ok=True)
            worker = start(options, rough, "0/1", rough / "log")
            try:
                worker.wait(timeout=moments.uniform(0.1, 0.9) * undisturbed)
                same &= metrics(rough) == metrics(calm)
                shutil.rmtree(rough)  # all is made: the next one begins anew
                whole += 1
                print(f"run {whole} came to its end: {'byte-identical' if same else 'DIFFERENT'} so far", flush=True)
            except subprocess.TimeoutExpired:
                os.kill(worker.pid, signal.SIGKILL)
                worker.wait()
                killed += 1
                same &= within(metrics(rough), metrics(calm))
                print(f"killed {killed} times; {len(metrics(rough))} of {len(metrics(calm))} results", flush=True)
        rough.mkdir(exist_ok=True)
        start(options, rough, "0/1", rough / "log").wait()
        same &= metrics(rough) == metrics(calm)
        verdict = "are byte-identical" if same else "DIFFER"
        print(f"{killed} kills in {whole + 1} runs to the end: metrics {verdict}", flush=True)

        pair = Path(temporary, "pair")
        pair.mkdir()
        logs = [pair / "log0", pair / "log1"]
        workers = [start(options, pair, f"{i}/2", log) for i, log in enumerate(logs)]
        codes = [worker.wait() for worker in workers]
        shares = [made(log) for log in logs]
        every = [result for share in shares for result in share]
        once = len(every) == len(set(every)) and codes == [0, 0]
        agree = metrics(pair) == metrics(calm)
        print(
            f"two workers: {' + '.join(str(len(s)) for s in shares)} results, {'none' if once else 'SOME'} twice; "
            f"metrics {'are byte-identical' if agree else 'DIFFER'}"
        )
    return 0 if same and once and agree else 1


if __name__ == "__main__":
    sys.exit(run(tyro.cli(Options)))
