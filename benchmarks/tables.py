"""Results for people and for programs: a header, Markdown tables, JSON files."""

from __future__ import annotations

import datetime
import json
import os
import platform
import statistics
from collections.abc import Iterable, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

from benchmarks import stats
from benchmarks.driver import canary_gflops

RESULTS = Path(__file__).with_name("results")


def processor() -> str:
    """Its name, and the widest vector instructions it has."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor() or platform.machine()
    facts = {key.strip(): value.strip() for key, _, value in (line.partition(":") for line in lines)}
    flags = facts.get("flags", "").split()
    vectors = next((name for flag, name in (("avx512f", "AVX-512"), ("avx2", "AVX2")) if flag in flags), "no AVX2")
    family = f"family {facts.get('cpu family', '?')} model {facts.get('model', '?')}"
    return f"{facts.get('model name', platform.machine())} ({family}, {vectors})"


def header() -> dict[str, Any]:
    """When and on what."""
    return {
        "date": datetime.date.today().isoformat(),
        "processor": processor(),
        "cores": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count(),
        "system": f"{platform.system()} {platform.machine()}",
        "load": round(os.getloadavg()[0], 1),
        "python": platform.python_version(),
        "versions": {name: version(name) for name in ("jax", "jaxlib", "numpy")},
    }


def save(name: str, results: Any) -> Path:
    """benchmarks/results/NAME.json, with the header."""
    RESULTS.mkdir(exist_ok=True)
    path = RESULTS / f"{name}.json"
    path.write_text(json.dumps({"header": header(), "results": results}, indent=1) + "\n")
    return path


def table(titles: Sequence[str], rows: Iterable[Sequence[object]]) -> str:
    """Markdown; every column but the first is set to the right."""
    lines = ["| " + " | ".join(titles) + " |", "|---|" + "---:|" * (len(titles) - 1)]
    return "\n".join([*lines, *("| " + " | ".join(str(cell) for cell in row) + " |" for row in rows)])


def compare(result: dict[str, Any], ours: str, unit: str = "pictures a second") -> str:
    """One case: rates, and how many times faster `ours` is than each of the others, by the clock and by CPU time."""
    contenders = result["contenders"]
    rows: list[list[object]] = []
    for name, one in sorted(contenders.items(), key=lambda item: -item[1]["median_rate"]):
        row: list[object] = [name, f"{one['median_rate']:.3g}", f"{one['best_rate']:.3g}"]
        if name == ours or ours not in contenders:
            row += ["", ""]
        else:
            mine = contenders[ours]
            row += [stats.times_faster(mine["seconds"], one["seconds"])]
            row += [f"{stats.times_faster(mine['cpu_seconds'], one['cpu_seconds']).median:.2f}"]
        rows.append(row)
    rows += [[name, "missing", "", reason.replace("|", "/"), ""] for name, reason in result["missing"].items()]
    titles = ("", unit, "best round", f"times as fast: {ours}", "the same in CPU time")
    return f"**{result['case']}** ({describe_rounds(result)})\n\n{table(titles, rows)}\n"


def describe_rounds(result: dict[str, Any]) -> str:
    """How many rounds, and how calm the machine was."""
    canary = [canary_gflops(second) for one in result["canary_seconds"] for second in one] or [float("nan")]
    calm = f"SGEMM canary {statistics.median(canary):.0f} GFLOP/s, {min(canary):.0f} to {max(canary):.0f}"
    off = result["disturbed"]
    if not off:
        return f"{result['rounds']} rounds, {calm}"
    fate = "dropped" if result["kept"] < result["rounds"] else "kept all the same, as they are more than half"
    return f"{result['rounds']} rounds, {off} with a canary more than 15 % off and {fate}; {calm}"


def ratio(result: dict[str, Any], ours: str, theirs: Iterable[str]) -> tuple[str, stats.Ratio] | None:
    """Against the fastest of `theirs` that took part: its name, and how many times faster `ours` was."""
    contenders = result["contenders"]
    present = [name for name in theirs if name in contenders]
    if ours not in contenders or not present:
        return None
    best = min(present, key=lambda name: statistics.median(contenders[name]["seconds"]))
    return best, stats.times_faster(contenders[ours]["seconds"], contenders[best]["seconds"])
