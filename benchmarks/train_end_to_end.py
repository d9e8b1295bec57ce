"""Photos on disk to an evaluated model: `train.py`, cold and warm, against the notebook's recipe in Keras.

VGG_FLAX_TEST_DATA=FOLDER python -m benchmarks.train_end_to_end      # the photos are in FOLDER/masks

The recipe would take half an hour: a few of its training and validation steps are measured and scaled to its five
epochs. Loading, fitting the generator and the first step are counted once, one pass over the test photos too; saving
its 1.5 GB model is not.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from benchmarks import peers, tables
from benchmarks.driver import ROOT, WORK
from vgg_flax.cache import cache_dir

EPOCHS = 5
MEASURED_STEPS = 2
PATIENCE = 1500  # seconds
POLL = 0.2  # seconds between looks at a process's memory
BACKENDS = {"tensorflow": "tensorflow", "jax": "keras"}  # and the environment that has it


class Missing(Exception):
    """What can't be measured here, and why."""


def photos() -> Path:
    """Raises Missing."""
    folder = Path(os.environ.get("VGG_FLAX_TEST_DATA", "")) / "masks"
    if "VGG_FLAX_TEST_DATA" not in os.environ or not folder.is_dir():
        raise Missing("no photos: VGG_FLAX_TEST_DATA must name a folder with `masks`, a folder per class in it")
    return folder


def timed(command: list[str], environment: dict[str, str]) -> dict[str, Any]:
    """Seconds, peak memory and output of a program. Raises Missing with its last line when it fails."""
    start, peak = time.monotonic(), 0
    WORK.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryFile(dir=WORK) as out, tempfile.TemporaryFile(dir=WORK) as errors:
        process = subprocess.Popen(command, env=os.environ | environment, stdout=out, stderr=errors, cwd=ROOT)
        try:
            while process.poll() is None:
                peak = max(peak, _peak_kb(process.pid))
                time.sleep(POLL)
                if time.monotonic() - start > PATIENCE:
                    raise Missing(f"not done after {PATIENCE} s")
        finally:
            process.kill()
            process.wait()
        seconds = time.monotonic() - start
        out.seek(0)
        errors.seek(0)
        output, said = out.read().decode(errors="replace"), errors.read().decode(errors="replace")
    if process.returncode:
        raise Missing((said.strip() or output.strip() or str(process.returncode)).splitlines()[-1][:300])
    return {"seconds": seconds, "peak_mb": peak * 1024 / 1e6, "output": output}


def _peak_kb(process: int) -> int:
    try:
        lines = Path(f"/proc/{process}/status").read_text().splitlines()
    except OSError:  # it has just ended, or this is not Linux
        return 0
    return next((int(line.split()[1]) for line in lines if line.startswith("VmHWM")), 0)


def ours(folder: Path, size: int, cache: Path, name: str) -> dict[str, Any]:
    """One run of train.py with its defaults."""
    command = [sys.executable, "train.py", "--data", str(folder), "--image-size", str(size)]
    project = cache / "runs"
    result = timed([*command, "--project", str(project), "--name", name], {"VGG_FLAX_CACHE": str(cache)})
    report = json.loads((project / name / "report.json").read_text())
    return {
        "seconds": result["seconds"],
        "peak_mb": result["peak_mb"],
        "test_accuracy": report["test"]["accuracy"],
        "stages": report["timings"],
    }


def recipe(folder: Path, backend: str) -> dict[str, Any]:
    """The notebook's recipe on a backend: its measured parts, and what they make in five epochs."""
    home = BACKENDS[backend]
    if reason := peers.why_missing(home):
        raise Missing(reason)
    command = [str(peers.python_of(home)), "-m", "benchmarks.recipe", str(folder), str(MEASURED_STEPS)]
    environment = {"KERAS_BACKEND": backend, "PYTHONPATH": str(ROOT), "TF_CPP_MIN_LOG_LEVEL": "2"}
    parts = json.loads(timed(command, environment)["output"].splitlines()[-1])
    return {"seconds": scaled(parts), "peak_mb": parts["peak_mb"], "parts": parts}


def scaled(parts: dict[str, Any]) -> float:
    """Seconds of the whole recipe from those of its parts; the first step replaces an ordinary one.

    A validation batch counts no more than a training step, which does the same and more: where it was measured as
    slower, the machine was busier in those few seconds, and we don't take the profit.
    """
    val_step = min(parts["val_step"], parts["step"])
    epoch = parts["steps"] * parts["step"] + parts["val_steps"] * val_step
    tests = parts["test_steps"] * val_step
    return parts["setup"] + parts["first_step"] - parts["step"] + EPOCHS * epoch + tests


def run() -> dict[str, Any]:
    """Everything, by name; what could not be measured has an `error`."""
    results: dict[str, Any] = {}
    try:
        folder = photos()
        make_weights()
    except Missing as error:
        return {"error": str(error)}
    for backend in BACKENDS:
        attempt(results, f"recipe, Keras on {backend}", lambda backend=backend: recipe(folder, backend))
    WORK.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=WORK) as home:
        for size in (224, 112):
            cache = Path(home) / str(size)
            shutil.copytree(cache_dir() / "weights", cache / "weights")  # the download is nobody's speed
            cache.chmod(0o700)
            for name in ("cold", "warm"):
                attempt(results, f"train.py at {size}, {name}", lambda *a: ours(folder, *a), size, cache, name)
    return results


def attempt(results: dict[str, Any], name: str, measure: Any, *arguments: Any) -> None:
    """Puts what `measure` returns under the name, or why it could not."""
    try:
        results[name] = measure(*arguments)
    except Missing as error:
        results[name] = {"error": str(error)}
    print(name, {key: value for key, value in results[name].items() if key != "parts"}, flush=True)


def make_weights() -> None:
    """ImageNet's weights, in the user's cache from here on. Raises Missing."""
    import weights_convert
    from vgg_flax.network.spec import VGG16

    try:
        weights_convert.load("imagenet", VGG16, say=print)
    except weights_convert.WeightsUnavailable as error:
        raise Missing(str(error)) from error


def best_recipe(results: dict[str, Any]) -> tuple[str, dict[str, Any]] | None:
    """The recipe on its faster backend."""
    done = [(name, one) for name, one in results.items() if name.startswith("recipe") and "seconds" in one]
    return min(done, key=lambda item: item[1]["seconds"], default=None)


def report(results: dict[str, Any]) -> str:
    """A Markdown table."""
    if "error" in results:
        return f"Not measured: {results['error']}\n"
    best, rows = best_recipe(results), []
    for name, one in results.items():
        if "error" in one:
            rows.append([name, "missing", "", "", one["error"].replace("|", "/")])
            continue
        times = f"{best[1]['seconds'] / one['seconds']:.1f}" if best and "stages" in one else ""
        stages = ", ".join(f"{stage} {seconds:.0f}" for stage, seconds in one.get("stages", {}).items())
        parts = one.get("parts", {})
        if parts:
            stages = (
                f"a step {parts['step']:.1f}, validating a batch {parts['val_step']:.1f}, before it all "
                f"{parts['setup']:.0f}: scaled from {parts['measured_steps']} steps"
            )
        accuracy = f"{one['test_accuracy']:.3f}" if "test_accuracy" in one else "not measured"
        rows.append([name, f"{one['seconds']:.0f}", times, f"{one['peak_mb'] / 1000:.1f}", f"{accuracy}; s: {stages}"])
    return tables.table(("", "seconds", "times as fast as the recipe", "peak GB", "test accuracy; stages"), rows) + "\n"


def main() -> None:
    results = run()
    print(report(results))
    print(tables.save("train_end_to_end", results), file=sys.stderr)


if __name__ == "__main__":
    main()
