"""How fast a live view is, one frame at a time: against the notebook's loop, and with everything else that it does.

python -m benchmarks.webcam              # xvfb shows the window; without a screen the view is painted, not shown
python -m benchmarks.webcam --live       # the second part only

The live view is fed 30 pictures a second by another process, each with its number in it, so that ages are true.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks import tables
from benchmarks.contenders.camera import PICTURES, RATE, number_in
from benchmarks.driver import ROOT, Case, Contender, measure, started
from benchmarks.forward import peer

OURS = "vgg_flax winograd"
KERAS = ("Keras on TensorFlow, model.predict", "Keras on JAX, model.predict")
SIZE, SECONDS, ROUNDS = 224, 8.0, 3
MODES = ("window", "evidence", "recording")
TITLES = ("", "pictures on the screen a second", "labels a second", "of inference alone", "age of a label, p50", "p95")


def run(rounds: int = 9, limit: float = 30.0, seconds: float = 1.0) -> list[dict[str, Any]]:
    module = "benchmarks.contenders.webcam"
    contenders = [
        Contender(OURS, module, {"engine": "winograd"}),
        Contender("vgg_flax xla", module, {"engine": "xla"}),
        peer(KERAS[0], "tensorflow", "keras_webcam", KERAS_BACKEND="tensorflow"),
        peer(KERAS[1], "keras", "keras_webcam", KERAS_BACKEND="jax"),
    ]
    results = []
    with started(contenders) as field:
        for size in (SIZE, 112):
            case = Case(f"frame to label, VGG16 at {size} pixels", {"size": size})
            results.append(measure(field, case, rounds=rounds, seconds=seconds, limit=limit))
    return [*results, live()]


def live() -> dict[str, Any]:
    """Figures of each mode, and of inference alone in the same rounds."""
    from benchmarks.contenders.webcam import label, predictor

    model = predictor(SIZE, "auto")
    frame = np.random.default_rng(0).integers(0, 256, (480, 640, 3), np.uint8)
    label(frame, model)
    found: dict[str, list[dict[str, float]]] = {mode: [] for mode in MODES}
    alone = []
    with screen() as shown, camera() as (port, start):
        watch(model, port, start, "evidence", 3.0, shown)  # compiles what evidence needs
        for _ in range(ROUNDS):
            began, count = time.monotonic(), 0
            while time.monotonic() - began < SECONDS / 2:
                label(frame, model)
                count += 1
            alone.append(count / (time.monotonic() - began))
            for mode in MODES:
                found[mode].append(watch(model, port, start, mode, SECONDS, shown))
    return {"case": "live", "shown": shown, "alone": alone, "modes": found}


def watch(model: Any, port: int, start: float, mode: str, seconds: float, shown: bool) -> dict[str, float]:
    """A live view for so many seconds."""
    from vgg_flax.live.newest import LIVE_FPS
    from vgg_flax.live.painter import Painter
    from vgg_flax.live.recording import Recording
    from vgg_flax.live.session import Session
    from vgg_flax.live.sources import open_source
    from vgg_flax.live.state import State

    source = open_source(f"http://127.0.0.1:{port}/", print)
    first = State(source.name, "benchmark", ("a", "b"), evidence=mode == "evidence")
    with tempfile.TemporaryDirectory() as folder:
        recording = Recording(Path(folder) / "view.mkv", LIVE_FPS) if mode == "recording" else None
        session = Session(
            source, model, first, every=False, paced=False, smooth=0.3, most=None, rows=[], recording=recording,
            folder=Path(folder), painter=Painter,
        )  # fmt: skip
        face = Watcher(session, Painter(), start, seconds, shown)
        try:
            session.run([face], lambda: None, hold=False)
        finally:
            session.finish()
            face.close()
    return face.figures()


class Watcher:
    """A window, and a person with a stopwatch before it."""

    def __init__(self, session: Any, painter: Any, start: float, seconds: float, shown: bool):
        from vgg_flax.live.window import Window

        self._session, self._painter, self._start = session, painter, start
        self._window = Window("benchmark", painter, session.control.commands.put) if shown else None
        self._seen: set[int] = set()
        self._ages: list[float] = []
        self._last: Any = None
        self._from, self._until = time.monotonic() + 1.0, time.monotonic() + 1.0 + seconds

    def show(self, state: Any) -> None:
        if self._window:
            self._window.show(state)
        elif state.frame is not None:
            self._painter.paint(state, 960, 480)
        now = time.monotonic()
        if state.frame is not None and now > self._from:
            self._seen.add(round((now - self._age(state.frame, now)) * RATE))
            if state.answer is not None and state.answer is not self._last:
                self._ages.append(self._age(state.answer.frame, now))
            self._last = state.answer
        if now > self._until:
            self._session.control.quit = True

    def _age(self, frame: Any, now: float) -> float:
        """Seconds since a frame was taken, by the number in it, which begins anew after PICTURES."""
        return ((now - self._start) * RATE - number_in(frame.image)) % PICTURES / RATE

    def figures(self) -> dict[str, float]:
        seconds = self._until - self._from
        ages = np.array(self._ages) if self._ages else np.array([np.nan])
        return {
            "pictures": len(self._seen) / seconds,
            "labels": len(self._ages) / seconds,
            "age": float(np.median(ages)),
            "age95": float(np.quantile(ages, 0.95)),
        }

    def close(self) -> None:
        if self._window:
            self._window.close()


@contextlib.contextmanager
def camera() -> Iterator[tuple[int, float]]:
    """(Its port, when its picture 0 was taken)."""
    command = [sys.executable, "-m", "benchmarks.contenders.camera"]
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout is not None
            port, start = process.stdout.readline().split()
            yield int(port), float(start)
        finally:
            process.kill()


@contextlib.contextmanager
def screen() -> Iterator[bool]:
    """Whether there is one; a virtual one is started where there is none."""
    if os.environ.get("DISPLAY") or shutil.which("Xvfb") is None:
        yield bool(os.environ.get("DISPLAY"))
        return
    reading, writing = os.pipe()
    command = ["Xvfb", "-displayfd", str(writing), "-screen", "0", "1280x800x24"]
    with subprocess.Popen(command, pass_fds=[writing], stderr=subprocess.DEVNULL) as process:
        os.close(writing)
        try:
            with os.fdopen(reading) as pipe:
                os.environ["DISPLAY"] = f":{pipe.readline().strip()}"
            yield True
        finally:
            process.terminate()


def report(result: dict[str, Any]) -> str:
    """A part's table: one of the contenders, or that of the live view."""
    if result["case"] != "live":
        return tables.compare(result, OURS, "frames a second") + "\n" + latency(result)
    alone = statistics.median(result["alone"])
    rows = [["inference alone", "", f"{alone:.1f}", "", f"{1000 / alone:.0f} ms", ""]]
    for mode, rounds in result["modes"].items():
        share = statistics.median(one["labels"] / mine for one, mine in zip(rounds, result["alone"], strict=True))
        middle = {name: statistics.median(one[name] for one in rounds) for name in rounds[0]}
        ages = [f"{1000 * middle[name]:.0f} ms" for name in ("age", "age95")]
        rows.append([mode, f"{middle['pictures']:.1f}", f"{middle['labels']:.1f}", f"{100 * share:.0f} %", *ages])
    where = "in a window" if result["shown"] else "painted, but without a screen"
    return f"**Live, VGG16 at {SIZE} pixels**, 30 pictures a second {where}\n\n{tables.table(TITLES, rows)}\n"


def latency(result: dict[str, Any]) -> str:
    """Milliseconds from frame to label, as a sentence."""
    times = {name: 1000 * statistics.median(one["seconds"]) for name, one in result["contenders"].items()}
    return "Latency: " + ", ".join(f"{name} {ms:.0f} ms" for name, ms in times.items()) + ".\n"


def main() -> None:
    parser = argparse.ArgumentParser(description="Frames to labels, alone and live.")
    parser.add_argument("--live", action="store_true", help="the live view only; nothing is saved")
    if parser.parse_args().live:
        return print(report(live()))
    results = run()
    print("\n".join(map(report, results)))
    print(tables.save("webcam", results), file=sys.stderr)


if __name__ == "__main__":
    main()
