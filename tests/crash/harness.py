"""Kill programs at named points and at random moments, let them finish, and compare with an undisturbed run.

    python -m tests.crash.harness --kills 200 [--scenario rows] [--seed 0] [--signal SIGINT]

Half of the kills, or as many as there are points, are spread over the points; the others come at random moments.
Every third time the run that recovers is killed as well. What Ctrl-C ends must leave nothing half done.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from tests.crash.scenarios import SCENARIOS, Scenario, all_files

REPOSITORY = Path(__file__).parents[2]


class Child:
    """The scenario's program, started and past its imports."""

    def __init__(self, scenario: Scenario, folder: Path, point: int = 0, role: str = "victim", log: Path | None = None):
        environment = os.environ | {"VGG_FLAX_CACHE": str(folder / "cache"), "CRASH_ROLE": role}
        environment |= {"CRASH_POINTS": str(log)} if log else {}
        command = [sys.executable, "-m", "tests.crash.killer", str(point), *scenario.command(folder)]
        self._process = subprocess.Popen(
            command, cwd=REPOSITORY, env=environment, text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT
        )
        assert self._process.stdout is not None
        self.output = self._process.stdout.readline()
        self.begin, self._ended = time.monotonic(), False

    def kill_after(self, seconds: float) -> None:
        """Send the signal, unless it ended before."""
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._process.wait(seconds)
        self._process.send_signal(chosen_signal())

    def end(self) -> int:
        """Wait; the exit status, -9 if it was killed."""
        if not self._ended:
            self._ended = True
            self.output += self._process.communicate()[0]
        return self._process.returncode

    def failed(self) -> bool:
        """Neither killed nor at its end, or ended with more than a line."""
        killed = -signal.SIGKILL if chosen_signal() == signal.SIGKILL else 128 + chosen_signal()
        return self.end() not in (0, killed) or "Traceback" in self.output


def chosen_signal() -> signal.Signals:
    """By which programs are killed."""
    return signal.Signals[os.environ.get("CRASH_SIGNAL", "SIGKILL")]


class Undisturbed:
    """One run without kills: what comes out, its points, and how long it takes."""

    def __init__(self, scenario: Scenario, folder: Path):
        log = folder.with_name("points")
        child = Child(scenario, folder, log=log)
        if child.end() != 0:
            raise SystemExit(f"the undisturbed run failed:\n{child.output}")
        self.seconds = time.monotonic() - child.begin
        if scenario.companion and (companion := Child(scenario, folder, role="companion")).end() != 0:
            raise SystemExit(f"the undisturbed companion failed:\n{companion.output}")
        self.points = log.read_text().splitlines()
        self.results, self.files = scenario.results(folder), scenario.files(folder)


def trial(scenario: Scenario, folder: Path, kills: list[Callable[[], Child]], right: Undisturbed) -> list[str]:
    """Kill, run to the end, and say what is wrong."""
    companion = [Child(scenario, folder, role="companion")] if scenario.companion else []
    killed = [kill() for kill in kills]
    wrong = []
    if chosen_signal() != signal.SIGKILL:
        wrong = [f"leftover: {name} of a run that was stopped" for name in all_files(folder) if ".tmp" in name]
    unkilled = [*companion, Child(scenario, folder)]
    wrong += [f"failure: a killed run ended with {child.end()}: {child.output}" for child in killed if child.failed()]
    wrong += [f"failure: a run ended with {child.end()}: {child.output}" for child in unkilled if child.end() != 0]
    results = scenario.results(folder)
    names = sorted(results.keys() | right.results.keys())
    wrong += [f"difference: {name}" for name in names if results.get(name) != right.results.get(name)]
    return wrong + [f"leftover: {name}" for name in sorted(scenario.files(folder) - right.files)]


class Plan:
    """Which kills there are: the first ones at points, the others at random, every third followed by another."""

    def __init__(self, scenario: Scenario, count: int, seed: int, right: Undisturbed):
        self.scenario, self.rng, self.right = scenario, random.Random(seed), right
        total = len(right.points)
        at_points = min(max(1, count // 2), total)
        self.points = [1 + i * total // at_points for i in range(at_points)]

    def where(self, number: int) -> str:
        """In words."""
        if number >= len(self.points):
            return "at random"
        return f"at point {self.points[number]} ({self.right.points[self.points[number] - 1]})"

    def kills(self, number: int, folder: Path) -> list[Callable[[], Child]]:
        """Functions that run a child until it is dead."""
        kills = [lambda: self._at_point(number, folder) if number < len(self.points) else self._at_random(folder)]
        return [*kills, lambda: self._at_random(folder)] if number % 3 == 2 else kills

    def _at_point(self, number: int, folder: Path) -> Child:
        child = Child(self.scenario, folder, self.points[number])
        child.end()
        return child

    def _at_random(self, folder: Path) -> Child:
        child = Child(self.scenario, folder)
        child.kill_after(self.rng.uniform(0, self.right.seconds))
        child.end()
        return child


def run(name: str, count: int, seed: int) -> bool:
    """All trials of one scenario, and a line about them. Whether all went well."""
    scenario, problems = SCENARIOS[name], []
    with tempfile.TemporaryDirectory(prefix="crash-") as temporary:
        undisturbed = Path(temporary, "undisturbed")
        undisturbed.mkdir()
        right = Undisturbed(scenario, undisturbed)
        plan = Plan(scenario, count, seed, right)
        for number in range(count):
            folder = Path(temporary, f"{number}")
            folder.mkdir()
            found = trial(scenario, folder, plan.kills(number, folder), right)
            problems += [f"{name}, kill {number} {plan.where(number)}: {problem}" for problem in found]
            shutil.rmtree(folder)
    print("\n".join(problems[:20]), end="\n" if problems else "")
    counts = {kind: sum(f": {kind}: " in each for each in problems) for kind in ("difference", "leftover", "failure")}
    summary = ", ".join(f"{number} {kind}s" for kind, number in counts.items())
    at_points = len(plan.points)
    kinds = f"{at_points} at {len(right.points)} points, {count - at_points} at random"
    print(f"{name}: {count} kills ({kinds}), {summary}", flush=True)
    return not problems


def main() -> None:
    """Exit with 1 if anything differs, is left over, or fails."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=200, help="for each scenario")
    parser.add_argument("--scenario", choices=sorted(SCENARIOS), action="append", help="unset: all")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--signal", choices=("SIGKILL", "SIGINT", "SIGTERM"), default="SIGKILL")
    args = parser.parse_args()
    os.environ["CRASH_SIGNAL"] = args.signal
    names = args.scenario or list(SCENARIOS)
    well = [run(name, args.kills, args.seed) for name in names]
    sys.exit(0 if all(well) else 1)


if __name__ == "__main__":
    main()
