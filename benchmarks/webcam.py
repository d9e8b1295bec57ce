"""Frames a second from a 640x480 frame to its label, one at a time, as webcam.py does them; without a camera or window.

python -m benchmarks.webcam
"""

from __future__ import annotations

import statistics
import sys
from typing import Any

from benchmarks import tables
from benchmarks.driver import Case, Contender, measure, started

OURS = "vgg_flax winograd"


def run(rounds: int = 15, limit: float = 30.0, seconds: float = 1.0) -> list[dict[str, Any]]:
    module = "benchmarks.contenders.webcam"
    contenders = [
        Contender(OURS, module, {"engine": "winograd"}),
        Contender("vgg_flax xla", module, {"engine": "xla"}),
    ]
    results = []
    with started(contenders) as field:
        for size in (224, 112):
            case = Case(f"frame to label, VGG16 at {size} pixels", {"size": size})
            result = measure(field, case, rounds=rounds, seconds=seconds, limit=limit)
            print(tables.compare(result, OURS, "frames a second"), flush=True)
            print(latency(result), flush=True)
            results.append(result)
    return results


def latency(result: dict[str, Any]) -> str:
    """Milliseconds from frame to label, as a sentence."""
    times = {name: 1000 * statistics.median(one["seconds"]) for name, one in result["contenders"].items()}
    return "Latency: " + ", ".join(f"{name} {ms:.0f} ms" for name, ms in times.items()) + ".\n"


if __name__ == "__main__":
    print(tables.save("webcam", run()), file=sys.stderr)
