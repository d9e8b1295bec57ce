"""What an import costs: the full VGG16, 553 MB of .h5, into a folder, beside copying and hashing the same file.

python -m benchmarks.convert [--rounds 7] [--work DIR]

Both run once a round, in turn, as processes of their own; the ratio is the median of the rounds' ratios. `inspect` is
timed inside a process that has already imported the package.
"""

from __future__ import annotations

import argparse
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import h5py
import numpy as np

from benchmarks import stats, tables
from benchmarks.driver import ROOT, canary_gflops, sgemm

OURS, THEIRS = "weights_convert import", "cp and sha256sum"
IMPORT = """
import sys
from pathlib import Path
from vgg_flax.commands.convert import main
sys.argv[0] = "weights_convert"
main(["import", sys.argv[1], sys.argv[2], "--overwrite"])
line = next(l for l in Path("/proc/self/status").read_text().splitlines() if l.startswith("VmHWM"))
print("PEAK", int(line.split()[1]) * 1024 / 1e6, "JAX", "jax" in sys.modules)
"""
INSPECT = """
import sys, time
from weights_convert import convert, readers
import weights_convert.readers.hdf5
start = time.perf_counter()
with readers.open_source(sys.argv[1]) as source:
    convert.plan(source)
print("SECONDS", time.perf_counter() - start)
"""
DENSE = (("fc1", 25088, 4096), ("fc2", 4096, 4096), ("predictions", 4096, 1000))


def write_vgg16(path: Path) -> None:
    """A file laid out as the official full VGG16, with random values."""
    from weights_convert.rules import DEPTHS, WIDTHS, conv_names

    widths = [width for width, depth in zip(WIDTHS, DEPTHS["vgg16"], strict=True) for _ in range(depth)]
    convs = zip(conv_names(DEPTHS["vgg16"]), [3, *widths], widths, strict=False)
    shapes = {name: (3, 3, into, out) for name, into, out in convs} | {name: (n, m) for name, n, m in DENSE}
    rng = np.random.default_rng(0)
    with h5py.File(path, "w") as file:
        file.attrs["layer_names"] = np.array(list(shapes), "S")
        for layer, shape in shapes.items():
            group = file.create_group(layer)
            group.attrs["weight_names"] = np.array([f"{layer}_W_1:0", f"{layer}_b_1:0"], "S")
            group[f"{layer}_W_1:0"] = rng.standard_normal(shape, np.float32)
            group[f"{layer}_b_1:0"] = rng.standard_normal(shape[-1:], np.float32)


def run(rounds: int = 7, work: Path | None = None) -> dict[str, Any]:
    """Seconds a round of both, the ratio, peak memory of the import, and seconds of `inspect`."""
    with tempfile.TemporaryDirectory(dir=work) as name:
        folder = Path(name)
        source = folder / "vgg16.h5"
        write_vgg16(source)
        seconds: dict[str, list[float]] = {OURS: [], THEIRS: []}
        peaks, canaries = [], []
        for i in range(rounds + 1):  # the first fills the page cache and is not counted
            canary = sgemm()
            turns = {
                OURS: lambda: _python(IMPORT, source, folder / "out"),
                THEIRS: lambda: _shell(f"cp {source} {folder}/copy.h5 && sha256sum {folder}/copy.h5"),
            }
            for who in list(turns)[:: 1 if i % 2 else -1]:
                start = time.perf_counter()
                out = turns[who]()
                if i:
                    seconds[who].append(time.perf_counter() - start)
                if "PEAK" in out:
                    peaks.append(float(out.split("PEAK ")[1].split()[0]))
            canaries.append(canary)
        inspect = [float(_python(INSPECT, source).split("SECONDS ")[1]) for _ in range(rounds)]
        return {
            "bytes": source.stat().st_size,
            "seconds": seconds,
            "peak_mb": max(peaks),
            "inspect_seconds": inspect,
            "canary_seconds": canaries,
        }


def targets(result: dict[str, Any] | None) -> list[tuple[str, str, str, str, str]]:
    """(what, against, at most, measured, verdict) of what was promised; undecided if the interval holds the bound."""
    rows = [
        ("import of the full VGG16", THEIRS, "at most 1.5 times its time", 1.5),
        ("peak memory of that import", "", "at most 700 MB", 700),
        ("inspect of it, after the imports", "", "at most 0.3 s", 0.3),
    ]
    if result is None:
        return [(what, against, bound, "not measured", "") for what, against, bound, _ in rows]
    times = stats.times_faster(result["seconds"][THEIRS], result["seconds"][OURS])
    inspect = statistics.median(result["inspect_seconds"])
    found = (
        (times.low, times.high, f"{times} times"),
        (result["peak_mb"], result["peak_mb"], f"{result['peak_mb']:.0f} MB"),
        (inspect, inspect, f"{inspect:.3f} s"),
    )
    return [
        (what, against, bound, text, "met" if high <= limit else "undecided" if low <= limit else "**missed**")
        for (what, against, bound, limit), (low, high, text) in zip(rows, found, strict=True)
    ]


def report(result: dict[str, Any]) -> str:
    """Seconds of both as Markdown; `targets` has the rest."""
    canary = [canary_gflops(seconds) for seconds in result["canary_seconds"]]
    calm = f"SGEMM canary {statistics.median(canary):.0f} GFLOP/s, {min(canary):.0f} to {max(canary):.0f}"
    rows = [
        (who, f"{statistics.median(seconds):.2f}", f"{min(seconds):.2f}") for who, seconds in result["seconds"].items()
    ]
    title = f"**the full VGG16, {result['bytes'] / 1e6:.0f} MB of `.h5`** ({len(canary) - 1} rounds, {calm})"
    return f"{title}\n\n{tables.table(('', 'seconds', 'best round'), rows)}\n"


def _python(code: str, *arguments: Path) -> str:
    return _run([sys.executable, "-c", code, *map(str, arguments)])


def _shell(command: str) -> str:
    return _run(["sh", "-c", command])


def _run(command: list[str]) -> str:
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    return subprocess.run(command, check=True, capture_output=True, text=True, env=environment).stdout


def main() -> None:
    """Measure, save and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--work", type=Path, help="where the files lie while it measures; 2 GB")
    given = parser.parse_args()
    result = run(given.rounds, given.work)
    print(report(result))
    print(tables.table(("", "against", "target", "measured", ""), targets(result)))
    print(tables.save("convert", result), file=sys.stderr)


if __name__ == "__main__":
    main()
