"""On one GPU: VGG16 features in bfloat16, batch 256, and full fine-tuning, against torch.compile; share of the peak.

python -m benchmarks.gpu --torch-python PATH     # PATH: an interpreter with a CUDA build of torch

Needs jax[cuda13]. Both contenders keep their pictures on the device and take turns there, so each is told to leave the
other room. The MFU counts the convolutions alone, three times over where gradients are taken, against the dense
bfloat16 peak in `PEAKS`.
"""

from __future__ import annotations

import argparse
import statistics
import subprocess
import sys
from typing import Any

from benchmarks import networks, tables
from benchmarks.driver import Case, Contender, measure, started

OURS = "vgg_flax"
BATCHES = {"features": 256, "fine-tune": 64}
PEAKS = {"H100": 989e12, "H200": 989e12, "A100": 312e12}  # FLOP/s, from NVIDIA's data sheets, SXM models


def gpu_name() -> str | None:
    """Of the first GPU, without starting JAX."""
    try:
        command = ["nvidia-smi", "--query-gpu=name", "--format=csv,noheader"]
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout.splitlines()[0].strip()
    except (OSError, subprocess.CalledProcessError, IndexError):
        return None


def run(gpu: str, torch_python: str, rounds: int = 15) -> list[dict[str, Any]]:
    room = {"XLA_PYTHON_CLIENT_PREALLOCATE": "false"}
    contenders = [
        Contender(OURS, "benchmarks.contenders.gpu_ours", environment=room),
        Contender("torch.compile", "benchmarks.contenders.gpu_torch", python=torch_python),
    ]
    results = []
    with started(contenders) as field:
        for what, batch in BATCHES.items():
            case = Case(f"VGG16 {what}, 224 pixels, bfloat16, batch {batch}", {"what": what, "batch": batch}, batch)
            result = measure(field, case, rounds=rounds, seconds=2.0)
            print(tables.compare(result, OURS), mfu(result, gpu), sep="\n", flush=True)
            results.append(result)
    return results


def mfu(result: dict[str, Any], gpu: str) -> str:
    """Share of the GPU's peak that each contender's convolutions reach, as a sentence."""
    peak = next((value for name, value in PEAKS.items() if name in gpu), None)
    if peak is None:
        return f"MFU unknown: no peak on file for {gpu}.\n"
    passes = 3 if result["settings"]["what"] == "fine-tune" else 1
    work = passes * networks.flops("vgg16", 224) * result["items"] / peak
    shares = {name: work / statistics.median(one["seconds"]) for name, one in result["contenders"].items()}
    return f"MFU on {gpu}: " + ", ".join(f"{name} {share:.0%}" for name, share in shares.items()) + ".\n"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--torch-python", default=sys.executable)
    arguments = parser.parse_args()
    gpu = gpu_name()
    if gpu is None:
        sys.exit("benchmarks.gpu: no NVIDIA GPU found (nvidia-smi names none).")
    print(tables.save("gpu", run(gpu, arguments.torch_python)), file=sys.stderr)


if __name__ == "__main__":
    main()
