"""Takes turns: every contender a resident process, one awake at a time, in an order drawn anew for each round.

A contender that can't be started or dies is kept in the result with its reason, and the others go on.
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
import os
import random
import selectors
import signal
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks import stats

ROOT = Path(__file__).resolve().parents[1]
WORK = Path(__file__).with_name(".work")  # models, inputs and logs
START_SECONDS, CASE_SECONDS = 180, 420  # patience for a start, and for preparing or timing one case
CANARY_SIDE, CANARY_CALLS = 1024, 4


@dataclasses.dataclass(frozen=True)
class Contender:
    """Who takes part.

    Attributes:
      name: in the tables.
      module: of `benchmarks.contenders`, with a class `Contender`.
      options: its arguments, JSON types.
      python: interpreter of its environment.
      environment: variables on top of ours.
      missing: why it can't take part, if so.
    """

    name: str
    module: str
    options: dict[str, Any] = dataclasses.field(default_factory=dict)
    python: str = sys.executable
    environment: dict[str, str] = dataclasses.field(default_factory=dict)
    missing: str | None = None


@dataclasses.dataclass(frozen=True)
class Case:
    """One thing to measure. `settings` go to the contenders; `items` pictures are done in one call of run()."""

    name: str
    settings: dict[str, Any]
    items: int = 1


class Died(Exception):
    """A worker answered with an error, or not at all."""


class Worker:
    """A contender's process, asleep except while it is asked something."""

    def __init__(self, contender: Contender, logs: Path = WORK):
        self.name = contender.name
        logs.mkdir(parents=True, exist_ok=True)
        command = [contender.python, "-m", "benchmarks.worker", contender.module, json.dumps(contender.options)]
        environment = os.environ | {"PYTHONPATH": str(ROOT), "TF_CPP_MIN_LOG_LEVEL": "2"} | contender.environment
        log = "".join(c if c.isalnum() else "-" for c in contender.name)
        with (logs / f"{log}.log").open("w") as errors:
            self._process = subprocess.Popen(
                command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=errors, env=environment, bufsize=0
            )
        self._received = b""
        try:
            self.versions = self._answer(START_SECONDS)["versions"]
        except Died:
            self.close()
            raise
        self._process.send_signal(signal.SIGSTOP)

    def ask(self, message: dict[str, Any], seconds: float = CASE_SECONDS) -> dict[str, Any]:
        """Raises Died."""
        assert self._process.stdin is not None
        self._process.send_signal(signal.SIGCONT)
        with contextlib.suppress(BrokenPipeError):
            self._process.stdin.write(json.dumps(message).encode() + b"\n")
        reply = self._answer(seconds)
        self._process.send_signal(signal.SIGSTOP)  # no spinning threads beside the next one
        return reply

    def _answer(self, seconds: float) -> dict[str, Any]:
        assert self._process.stdout is not None
        deadline = time.monotonic() + seconds
        with selectors.DefaultSelector() as selector:
            selector.register(self._process.stdout, selectors.EVENT_READ)
            while b"\n" not in self._received:
                if not selector.select(max(0.0, deadline - time.monotonic())):
                    raise Died(f"no answer within {seconds:.0f} s")
                part = os.read(self._process.stdout.fileno(), 1 << 16)
                if not part:
                    raise Died(f"ended with {self._process.wait()}")
                self._received += part
        line, _, self._received = self._received.partition(b"\n")
        reply = json.loads(line)
        if "error" in reply:
            raise Died(reply["error"])
        return reply

    def close(self) -> None:
        self._process.kill()
        self._process.wait()
        for pipe in (self._process.stdin, self._process.stdout):
            if pipe is not None:
                pipe.close()


@contextlib.contextmanager
def started(contenders: Sequence[Contender], say: Callable[[str], object] = print) -> Iterator[Field]:
    """All that could be started, until the end of the block."""
    field = Field({}, {}, {})
    try:
        for contender in contenders:
            try:
                if contender.missing:
                    raise Died(contender.missing)
                worker = Worker(contender)
                field.workers[contender.name] = worker
                field.versions[contender.name] = worker.versions
            except Died as error:
                field.lost[contender.name] = str(error)
                say(f"  without {contender.name}: {error}")
        yield field
    finally:
        for worker in field.workers.values():
            worker.close()


@dataclasses.dataclass
class Field:
    """Workers by name, their versions, and the reasons of those who dropped out."""

    workers: dict[str, Worker]
    versions: dict[str, dict[str, str]]
    lost: dict[str, str]

    def drop(self, name: str, reason: object, say: Callable[[str], object] = print) -> None:
        self.workers.pop(name).close()
        self.lost[name] = str(reason)
        say(f"  without {name}: {reason}")


def measure(
    field: Field,
    case: Case,
    *,
    rounds: int = 15,
    seconds: float = 2.0,
    limit: float = 600.0,
    seed: int = 0,
    canary: Callable[[], float] | None = None,
    say: Callable[[str], object] = print,
) -> dict[str, Any]:
    """Warm-up, then rounds in which everybody runs once for `seconds`, until there are `rounds` or `limit` is over.

    Returns:
      A JSON tree: for each contender the seconds of one call in each kept round, the samples, canaries and errors.
    """
    canary = canary or sgemm
    say(f"{case.name}: warming up {len(field.workers)} contenders")
    samples: dict[str, list[float]] = {}
    for name in list(field.workers):
        try:
            samples[name] = field.workers[name].ask({"do": "prepare", "case": case.settings})["sample"]
            field.workers[name].ask({"do": "time", "seconds": 0.0})
        except Died as error:
            field.drop(name, error, say)
    log: list[dict[str, dict[str, float]]] = []
    canaries: list[list[float]] = []
    order, start = random.Random(seed), time.monotonic()
    while field.workers and len(log) < rounds and (len(log) < 3 or time.monotonic() - start < limit):
        turn, checks = {}, []
        for name in order.sample(sorted(field.workers), len(field.workers)):
            checks.append(canary())
            try:
                turn[name] = field.workers[name].ask({"do": "time", "seconds": seconds})
            except Died as error:
                field.drop(name, error, say)
        log.append(turn)
        canaries.append(checks)
    return summarize(case, field, log, canaries, samples)


def summarize(
    case: Case,
    field: Field,
    log: Sequence[dict[str, dict[str, float]]],
    canaries: Sequence[Sequence[float]],
    samples: dict[str, list[float]],
) -> dict[str, Any]:
    """The kept rounds, contender by contender; those who dropped out have an error and nothing else."""
    kept = stats.kept_rounds(canaries) if canaries else []
    results: dict[str, Any] = {}
    for name in field.workers:
        turns = [log[i][name] for i in kept]
        wall = [turn["wall"] / turn["calls"] for turn in turns]
        results[name] = {
            "seconds": wall,
            "cpu_seconds": [turn["cpu"] / turn["calls"] for turn in turns],
            "median_rate": case.items / statistics.median(wall),
            "best_rate": case.items / min(wall),
            "peak_mb": turns[-1]["peak_mb"],
            "sample": samples[name],
        }
    return {
        "case": case.name,
        "settings": case.settings,
        "items": case.items,
        "rounds": len(log),
        "disturbed": sum(stats.disturbed(canaries)) if canaries else 0,
        "kept": len(kept),
        "canary_seconds": [list(one) for one in canaries],
        "contenders": results,
        "versions": field.versions,
        "missing": dict(field.lost),
    }


_CANARY = [np.random.default_rng(i).standard_normal((CANARY_SIDE, CANARY_SIDE), np.float32) for i in range(2)]


def sgemm() -> float:
    """Seconds of a fixed product of matrices by NumPy: how fast the machine is just now."""
    start = time.perf_counter()
    for _ in range(CANARY_CALLS):
        np.matmul(_CANARY[0], _CANARY[1])
    return time.perf_counter() - start


def canary_gflops(seconds: float) -> float:
    """What a canary of so many seconds makes in GFLOP/s."""
    return CANARY_CALLS * 2 * CANARY_SIDE**3 / seconds / 1e9
