"""The benchmarks' driver: honest statistics, and contenders that come and go. Nothing here depends on a clock."""

from __future__ import annotations

import importlib
import json
import sys
import textwrap
from pathlib import Path

import numpy as np
import pytest

from benchmarks import accuracy, convert, driver, forward, head, networks, peers, stats, suite, tables, train_end_to_end
from vgg_flax.network.spec import BACKBONES, conv_layers

FAKE = """
import os, sys, time
from pathlib import Path

class Contender:
    versions = {"fake": "1"}
    def __init__(self, log, fault=None, start=None):
        self.log, self.fault, self.calls = Path(log), fault, 0
        if start == "fail":
            raise RuntimeError("no such library")
        print("noise on standard output")

    def prepare(self, case):
        self.name = case["name"]
        return [1.5, 2.5]

    def run(self):
        self.calls += 1
        with self.log.open("a") as file:
            file.write(f"{os.getpid()}\\n")
        if self.fault == "raise" and self.calls == 3:
            raise ValueError("out of luck")
        if self.fault == "exit" and self.calls == 3:
            os._exit(7)
"""
CASE = driver.Case("a case", {"name": "a case"}, items=4)


@pytest.fixture
def fake(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """Makes contenders whose every call leaves their process number in a file."""
    (tmp_path / "fake.py").write_text(textwrap.dedent(FAKE))
    monkeypatch.setattr(driver, "WORK", tmp_path / "work")
    path = f"{driver.ROOT}:{tmp_path}"

    def make(name: str, **options: str) -> driver.Contender:
        return driver.Contender(
            name, "fake", {"log": str(tmp_path / "calls"), **options}, sys.executable, {"PYTHONPATH": path}
        )

    return make


def quiet(line: str) -> None:
    """Says nothing."""


def run(contenders: list[driver.Contender], rounds: int = 4, seed: int = 0) -> dict:
    with driver.started(contenders, say=quiet) as field:
        return driver.measure(field, CASE, rounds=rounds, seconds=0.0, seed=seed, canary=lambda: 0.1, say=quiet)


def test_ratio_is_the_median_of_rounds_not_the_ratio_of_medians():
    ours, theirs = [1.0, 2.0, 10.0], [3.0, 2.0, 40.0]
    assert stats.times_faster(ours, theirs).median == 3.0  # medians would give 1.5, means 3.46


def test_interval_holds_the_median_and_narrows_with_agreement():
    rng = np.random.default_rng(0)
    theirs = 2 + rng.standard_normal(15) * 0.3
    found = stats.times_faster([1.0] * 15, list(theirs))
    assert found.low < found.median < found.high
    assert found.low > 1.5 and found.high < 2.5
    same = stats.times_faster([1.0] * 15, [2.0] * 15)
    assert (same.low, same.median, same.high, same.rounds) == (2.0, 2.0, 2.0, 15)


def test_bootstrap_interval_covers_the_truth():
    rng, covered = np.random.default_rng(1), 0
    for _ in range(60):
        theirs = 2 * np.exp(0.2 * rng.standard_normal(15))
        found = stats.times_faster([1.0] * 15, list(theirs))
        covered += found.low <= 2 <= found.high
    assert covered >= 51  # 95 % of 60 is 57; an interval of the wrong quantiles covers far fewer


@pytest.mark.parametrize("ours, theirs", [([], []), ([1.0], [1.0, 2.0])])
def test_ratio_of_unequal_rounds_is_refused(ours: list[float], theirs: list[float]):
    with pytest.raises(ValueError, match="rounds"):
        stats.times_faster(ours, theirs)


def test_rounds_with_a_slow_canary_are_dropped_unless_they_are_the_rule():
    assert stats.kept_rounds([[1.0, 1.0], [1.05, 1.0], [1.0, 1.3], [0.97, 1.0]]) == [0, 1, 3]
    wild = [[1.0], [2.0], [4.0], [0.3]]
    assert stats.kept_rounds(wild) == [0, 1, 2, 3]


def test_every_contender_runs_once_a_round_and_prints_do_no_harm(fake, tmp_path: Path):
    result = run([fake("a"), fake("b"), fake("c")])
    calls = (tmp_path / "calls").read_text().split()
    rounds = [calls[i : i + 3] for i in range(3, len(calls), 3)]  # the first three warmed up
    assert len(rounds) == 4
    assert all(len(set(one)) == 3 for one in rounds)
    assert result["contenders"]["a"]["sample"] == [1.5, 2.5]
    assert result["versions"]["b"] == {"fake": "1"}
    assert [len(one["seconds"]) for one in result["contenders"].values()] == [4, 4, 4]


def test_order_is_random_and_follows_the_seed(fake, tmp_path: Path):
    def orders(seed: int) -> list[tuple[int, ...]]:
        (tmp_path / "calls").unlink(missing_ok=True)
        run([fake("a"), fake("b"), fake("c")], rounds=8, seed=seed)
        calls = (tmp_path / "calls").read_text().split()
        warm = {process: i for i, process in enumerate(calls[:3])}  # in the order of the list
        return [tuple(warm[process] for process in calls[i : i + 3]) for i in range(3, len(calls), 3)]

    first = orders(5)
    assert len(set(first)) > 1
    assert first == orders(5)
    assert first != orders(6)


@pytest.mark.parametrize(
    "options, reason",
    [
        ({"start": "fail"}, "RuntimeError: no such library"),
        ({"fault": "raise"}, "ValueError: out of luck"),
        ({"fault": "exit"}, "ended with 7"),
    ],
)
def test_a_contender_that_dies_is_named_and_the_others_go_on(fake, options: dict[str, str], reason: str):
    result = run([fake("healthy"), fake("ill", **options)])
    assert result["missing"] == {"ill": reason}
    assert list(result["contenders"]) == ["healthy"]
    assert len(result["contenders"]["healthy"]["seconds"]) == 4
    text = tables.compare(result, "healthy")
    assert "| ill | missing |" in text and reason in text


def test_a_peer_that_is_not_installed_is_named(fake, tmp_path: Path):
    reason = peers.why_missing("ncnn", tmp_path)
    absent = driver.Contender("ncnn", "fake", missing=reason)
    assert run([fake("ours"), absent])["missing"] == {"ncnn": "not installed (python -m benchmarks.peers)"}


def test_an_install_that_fails_keeps_its_reason(tmp_path: Path):
    record = {"packages": peers.PACKAGES["ncnn"], "error": "ERROR: no wheel for this platform"}
    (tmp_path / "ncnn").mkdir()
    (tmp_path / "ncnn" / "installed.json").write_text(json.dumps(record))
    assert peers.why_missing("ncnn", tmp_path) == "ERROR: no wheel for this platform"


def test_ratio_is_taken_against_the_fastest_of_the_others(fake):
    result = run([fake("a"), fake("b"), fake("c")])
    for name, seconds in (("a", 1.0), ("b", 5.0), ("c", 3.0)):
        result["contenders"][name]["seconds"] = [seconds] * 4
    found = tables.ratio(result, "a", ("b", "c", "absent"))
    assert found is not None
    assert found[0] == "c" and found[1].median == 3.0
    assert tables.ratio(result, "a", ("absent",)) is None


@pytest.mark.parametrize("name", ["vgg16", "vgg19"])
def test_peers_get_our_network(name: str):
    ours = conv_layers(BACKBONES[name])
    assert [(layer, out) for layer, _, out, _ in networks.layers(name)] == ours
    assert {key.split("/")[0] for key in networks.weights(name)} == {layer for layer, _ in ours}


def test_vgg16_costs_31_gflop_a_picture():
    assert networks.flops("vgg16", 224) == pytest.approx(30.7e9, rel=0.01)  # 15.3 G multiply-adds


def test_recipe_scales_to_five_epochs():
    parts = {
        "setup": 10.0,
        "first_step": 7.0,
        "step": 2.0,
        "val_step": 1.0,
        "steps": 30,
        "val_steps": 4,
        "test_steps": 6,
    }
    assert train_end_to_end.scaled(parts) == 10 + (7 - 2) + 5 * (30 * 2 + 4) + 6
    # A validation batch that took longer than a training step was disturbed, and is not held against the recipe.
    assert train_end_to_end.scaled(parts | {"val_step": 9.0}) == 10 + (7 - 2) + 5 * (30 * 2 + 4 * 2) + 6 * 2


def test_an_import_is_held_against_its_targets():
    seconds = {convert.OURS: [1.2, 2.4, 3.9], convert.THEIRS: [1.0, 2.0, 3.0]}
    result = {"bytes": 553e6, "seconds": seconds, "peak_mb": 701.0, "inspect_seconds": [0.1, 0.3, 0.2]}
    result["canary_seconds"] = [0.1] * 4
    rows = convert.targets(result)
    assert [row[3] for row in rows] == ["1.20 (1.20 to 1.30) times", "701 MB", "0.200 s"]
    assert [row[4] for row in rows] == ["met", "**missed**", "met"]
    wide = result | {"seconds": seconds | {convert.OURS: [0.9, 2.4, 6.0]}}
    assert convert.targets(wide)[0][3:] == ("1.20 (0.90 to 2.00) times", "undecided")
    page = suite.page({"convert": {"header": tables.header(), "results": result}})
    assert (
        "| import of the full VGG16 | cp and sha256sum | at most 1.5 times its time | 1.20 (1.20 to 1.30) times" in page
    )
    assert "## Weights in\n" in page and "553 MB of `.h5`** (3 rounds" in page
    assert [row[3] for row in convert.targets(None)] == ["not measured"] * 3


def test_every_part_of_the_suite_has_its_place_on_the_page():
    assert suite.PARTS.keys() == suite.TITLES.keys() and not suite.ALONE - suite.PARTS.keys()


def test_a_target_inside_the_interval_is_undecided():
    assert suite.verdict(1.51, 1.6, 1.5, 1.8) == "met"
    assert suite.verdict(1.81, 2.0, 1.5, 1.8) == "aim met"
    assert suite.verdict(1.4, 1.6, 1.5, 1.8) == "undecided"
    assert suite.verdict(1.3, 1.49, 1.5, 1.8) == "**missed**"


NETWORK = {"model": "vgg16", "batch": 2, "size": 32}
HEAD = {"pictures": 50, "width": 2560, "classes": 2, "epochs": 2}


@pytest.mark.parametrize(
    "module, options, case",
    [
        ("ours_forward", {"engine": "xla"}, NETWORK),
        ("webcam", {"engine": "xla"}, NETWORK),
        ("augment", {"who": "ours"}, NETWORK),
        ("finetune", {"who": "ours"}, NETWORK),
        ("head", {"who": "ours"}, HEAD),
        ("head", {"who": "regression"}, HEAD),
        ("head", {"who": "sklearn"}, HEAD),
        ("head", {"who": "sklearn_folds"}, HEAD),
    ],
)
def test_our_contenders_run(module: str, options: dict[str, str], case: dict):
    contender = importlib.import_module(f"benchmarks.contenders.{module}").Contender(**options)
    assert np.isfinite(contender.prepare(case)).all()
    contender.run()


def test_our_regression_and_scikit_learns_solve_the_same_problem():
    contender = importlib.import_module("benchmarks.contenders.head").Contender
    case = HEAD | {"pictures": 200, "width": 100, "strength": 0.1}
    samples = {who: {"sample": contender(who).prepare(case)} for who in ("regression_once", "sklearn_once")}
    assert forward.disagreement({"contenders": samples}, head.CONVERGED) < head.CONVERGED


def test_accuracy_tables_hold_each_run_and_the_mean_of_each_set():
    def result(name: str, seed: int, plain: float) -> dict:
        scores = dict.fromkeys(accuracy.TITLES, 0.5) | {"plain": plain}
        by_change = dict.fromkeys(accuracy.robust.CHANGES, plain)
        return {"set": name, "seed": seed, "image_size": 64, "test": 9, "by_change": by_change, **scores}

    runs, changes = accuracy.describe([result("a", 0, 0.2), result("a", 1, 0.4), result("b", 0, 1.0)]).split("\n\n")
    assert [line.split(" | ")[:4] for line in runs.splitlines()[2:]] == [
        ["| a, seed 0", "64", "9", "0.200"],
        ["| a, seed 1", "64", "9", "0.400"],
        ["| **a, mean**", "64", "9", "0.300"],
        ["| b, seed 0", "64", "9", "1.000"],
        ["| **b, mean**", "64", "9", "1.000"],
    ]
    assert [line.split(" | ")[1] for line in changes.splitlines()[2:]] == ["0.300", "1.000"]
