"""A contender at rest: started once, it answers one line of JSON with another until its input ends.

python -m benchmarks.worker benchmarks.contenders.ncnn '{"weights": "vgg16.npz"}'

Runs in the contender's own environment, so it needs nothing but the standard library. BENCHMARK_THREADS=1 leaves it one
processor, and contenders use as many threads as they have processors. The class `Contender` of the
named module is made with the options, and has

    versions: dict[str, str]          library and version, flags where they matter
    prepare(case) -> list[float]      builds and warms up for one case; a sample of the output, to compare
    run()                             does the work of the case once, to its very end

    {"do": "prepare", "case": {...}}  ->  {"sample": [...]}
    {"do": "time", "seconds": 2.0}    ->  {"calls": 3, "wall": 2.1, "cpu": 4.1, "peak_mb": 900.0}
    anything that goes wrong          ->  {"error": "one line"}
"""

from __future__ import annotations

import importlib
import json
import os
import sys
import time
from pathlib import Path
from typing import Any


def peak_mb() -> float:
    """The most memory that this process ever had, in MB. (ru_maxrss would inherit the parent's.)"""
    try:
        line = next(line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("VmHWM"))
    except (OSError, StopIteration):
        return float("nan")
    return int(line.split()[1]) * 1024 / 1e6


def repeat(contender: Any, seconds: float) -> dict[str, float]:
    """Runs it until `seconds` have passed, at least once."""
    calls, cpu, start = 0, time.process_time(), time.perf_counter()
    wall = 0.0
    while not calls or wall < seconds:
        contender.run()
        calls += 1
        wall = time.perf_counter() - start
    return {"calls": calls, "wall": wall, "cpu": time.process_time() - cpu, "peak_mb": peak_mb()}


def answer(contender: Any, message: dict[str, Any]) -> dict[str, Any]:
    if message["do"] == "prepare":
        return {"sample": [float(value) for value in contender.prepare(message["case"])]}
    return repeat(contender, message["seconds"])


def main() -> None:
    if threads := int(os.environ.get("BENCHMARK_THREADS", "0")):
        os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[:threads])  # before any library counts processors
    # What libraries print must not get between the lines of the protocol: it goes to standard error.
    lines = os.fdopen(os.dup(1), "w", buffering=1)
    os.dup2(2, 1)
    module, options = sys.argv[1], json.loads(sys.argv[2])
    try:
        contender = importlib.import_module(module).Contender(**options)
        print(json.dumps({"versions": contender.versions}), file=lines)
        for line in sys.stdin:
            print(json.dumps(answer(contender, json.loads(line))), file=lines)
    except Exception as error:  # whatever it is, the driver names it and goes on without this contender
        print(json.dumps({"error": f"{type(error).__name__}: {error}".splitlines()[0][:300]}), file=lines)
        raise


if __name__ == "__main__":
    main()
