"""Pictures a second through the frozen convolutions, against everybody who runs them on a CPU.

python -m benchmarks.forward --quick      # VGG16, 224 pixels, batches of 1 and 16: the main table
python -m benchmarks.forward              # VGG16 and VGG19, 224 and 112 pixels
"""

from __future__ import annotations

import argparse
import dataclasses
import sys
from typing import Any

import numpy as np

from benchmarks import networks, peers, tables
from benchmarks.driver import WORK, Case, Contender, measure, started

OURS = "vgg_flax winograd"
NCNN = "ncnn"
OTHERS = (
    "torch eager", "torch.compile", "Keras on JAX", "Keras on TensorFlow", "Keras on TensorFlow, oneDNN off",
    "onnxruntime", "OpenVINO",
)  # fmt: skip
TOLERANCE = 1e-4  # relative RMS between two contenders' outputs; another network would be off by 1


def contenders() -> list[Contender]:
    """Ours, and each peer in its environment."""
    folder = {"folder": str(WORK)}
    return [
        Contender(OURS, "benchmarks.contenders.ours_forward", {"engine": "winograd"}),
        Contender("vgg_flax xla", "benchmarks.contenders.ours_forward", {"engine": "xla"}),
        peer(NCNN, "ncnn", "ncnn_forward", folder),
        peer("onnxruntime", "onnxruntime", "onnxruntime_forward", folder),
        peer("OpenVINO", "openvino", "openvino_forward", folder),
        peer("torch eager", "torch", "torch_forward", {"compiled": False}),
        peer("torch.compile", "torch", "torch_forward", {"compiled": True}),
        peer("Keras on JAX", "keras", "keras_forward", KERAS_BACKEND="jax"),
        peer("Keras on TensorFlow", "tensorflow", "keras_forward", KERAS_BACKEND="tensorflow"),
        peer(
            "Keras on TensorFlow, oneDNN off", "tensorflow", "keras_forward",
            KERAS_BACKEND="tensorflow", TF_ENABLE_ONEDNN_OPTS="0",
        ),
    ]  # fmt: skip


def peer(name: str, home: str, module: str, options: dict[str, Any] | None = None, **environment: str) -> Contender:
    """A contender in the environment `home`, or the reason why there is none."""
    return Contender(
        name, f"benchmarks.contenders.{module}", options or {}, str(peers.python_of(home)), environment,
        peers.why_missing(home),
    )  # fmt: skip


def one_thread() -> list[Contender]:
    """Each on one processor. Its CPU time hardly depends on what else the machine does; that of two threads which
    wait for each other does."""
    chosen = (OURS, "vgg_flax xla", NCNN, "onnxruntime", "OpenVINO", "torch eager")
    pinned = {"BENCHMARK_THREADS": "1"}
    return [
        dataclasses.replace(one, environment=one.environment | pinned) for one in contenders() if one.name in chosen
    ]


def cases(quick: bool) -> list[Case]:
    """What is measured, the main table first."""
    found = []
    for model in ("vgg16",) if quick else ("vgg16", "vgg19"):
        for size in (224,) if quick else (224, 112):
            for batch in (1, 16):
                name = f"{model.upper()}, {size} pixels, batch {batch}"
                found.append(Case(name, {"model": model, "size": size, "batch": batch}, batch))
    return found


def run(quick: bool = True, rounds: int = 15, limit: float = 200.0, seconds: float = 1.0) -> list[dict[str, Any]]:
    """Measures every case; each result also says how far the contenders' outputs lie apart."""
    for model in networks.BLOCKS:
        networks.write_onnx(model, WORK / f"{model}.onnx")
    results: list[dict[str, Any]] = []
    with started(contenders()) as field:
        results += [checked(measure(field, case, rounds=rounds, seconds=seconds, limit=limit)) for case in cases(quick)]
    with started(one_thread()) as field:
        for case in cases(quick=True):
            alone = dataclasses.replace(case, name=f"{case.name}, one thread")
            results.append(checked(measure(field, alone, rounds=rounds, seconds=seconds / 2, limit=limit / 3)))
    return results


def checked(result: dict[str, Any]) -> dict[str, Any]:
    """The same with the contenders' largest disagreement in place of their outputs; printed on the way."""
    result["disagreement"] = disagreement(result)
    print(tables.compare(result, OURS), flush=True)
    return result


def disagreement(result: dict[str, Any], tolerance: float = TOLERANCE) -> float:
    """The largest relative RMS distance from XLA's output. Raises ValueError where it can't be the same network."""
    samples = {name: np.asarray(one.pop("sample")) for name, one in result["contenders"].items()}
    reference = samples.get("vgg_flax xla", next(iter(samples.values())))
    size = np.sqrt((reference**2).mean())
    distances = {name: float(np.sqrt(((one - reference) ** 2).mean()) / size) for name, one in samples.items()}
    if wrong := {name: far for name, far in distances.items() if not far < tolerance}:
        raise ValueError(f"not the same network: relative RMS {wrong}, expected below {tolerance:g}")
    return max(distances.values())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="VGG16 at 224 pixels only")
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--seconds", type=float, default=2.0, help="least length of one timing")
    parser.add_argument("--limit", type=float, default=900.0, help="seconds after which a case has rounds enough")
    arguments = parser.parse_args()
    results = run(arguments.quick, arguments.rounds, arguments.limit, arguments.seconds)
    print(tables.save("forward", results), file=sys.stderr)


if __name__ == "__main__":
    main()
