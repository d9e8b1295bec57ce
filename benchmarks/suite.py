"""The CPU suite: installs the peers, measures, writes benchmarks/results/*.json and docs/benchmarks.md.

python -m benchmarks.suite                        # all of it, under half an hour on two quiet cores
python -m benchmarks.suite --only head webcam     # measures these again; the rest of the page stays as it was
python -m benchmarks.suite --only                 # writes the page anew from the results that are there
"""

from __future__ import annotations

import argparse
import json
import statistics
from pathlib import Path
from typing import Any

from benchmarks import augment, convert, finetune, forward, head, peers, tables, train_end_to_end, webcam
from benchmarks.driver import ROOT

PAGE = ROOT / "docs" / "benchmarks.md"
NOTES = Path(__file__).with_name("notes.md")
PARTS = {
    "forward": lambda: forward.run(quick=True, rounds=10, limit=200, seconds=1.0),
    "head": head.run,
    "finetune": finetune.run,
    "augment": augment.run,
    "webcam": webcam.run,
    "train_end_to_end": train_end_to_end.run,
    "convert": convert.run,
}
ALONE = {"convert"}  # needs no other project
TITLES = {
    "forward": "Features",
    "train_end_to_end": "Photos on disk to an evaluated model",
    "head": "Heads",
    "finetune": "Fine-tuning",
    "webcam": "Webcam",
    "augment": "Random views",
    "convert": "Weights in",
}
INTRODUCTION = """# Benchmarks

Written by `make bench` (`python -m benchmarks.suite`); figures below its targets included. Every contender is a
process of its own in an environment of its own; in each round all of them run once, in random order, one awake at a
time, each on both cores unless it says otherwise. "Times as fast" is the median of the rounds' ratios with its 95 %
bootstrap interval: what slows a whole round cancels out. A fixed matrix product, the canary, runs before each timing.
All contenders compute in float32, on the same weights and pictures, and their outputs agree. A target is met or missed
when the whole interval is on that side of it, and undecided when it lies inside.
"""
Row = tuple[str, str, str, str, str]


def targets(found: dict[str, Any]) -> list[Row]:
    """(what, against, at least / aim, measured, verdict) of everything that was promised."""
    rows: list[Row] = []
    two, one = by_case(found, "VGG16, 224 pixels, batch {}"), by_case(found, "VGG16, 224 pixels, batch {}, one thread")
    for batch, theirs, least, aim in (
        (16, (forward.NCNN,), 1.5, 1.8),
        (16, forward.OTHERS, 2.6, 3.2),
        (1, (forward.NCNN,), 1.4, 1.7),
    ):
        what = f"VGG16 features, batch {batch}, 224 pixels"
        rows.append(speed_row(f"{what}, both cores", two.get(batch), theirs, least, aim))
        rows.append(speed_row(f"{what}, one thread, CPU time", cpu_time(one.get(batch)), theirs, least, aim))
    runs = found.get("train_end_to_end", {}).get("results", {})
    recipe = train_end_to_end.best_recipe(runs)
    wanted = (("224, cold", 10, 14), ("112, cold", 30, 45), ("224, warm", 80, 150))
    for name, least, aim in wanted:
        mine = runs.get(f"train.py at {name}", {})
        ratio = recipe[1]["seconds"] / mine["seconds"] if recipe and "seconds" in mine else None
        rows.append(row(f"photos to evaluated model, {name}", "the notebook's recipe", ratio, least, aim))
    mine = runs.get("train.py at 224, cold", {})
    ratio = recipe[1]["peak_mb"] / mine["peak_mb"] if recipe and "peak_mb" in mine else None
    rows.append(row("peak memory of a whole run, times less", "the notebook's recipe", ratio, 3, 5))
    rows.append(folds_row(found))
    tuned = next(iter(found.get("finetune", {}).get("results", [])), None)
    what = "block5 fine-tuning step from cached block4"
    rows.append(speed_row(what, tuned, tuple(finetune.KERAS), 5, 8, finetune.OURS))
    return [
        *rows,
        *convert.targets(found.get("convert", {}).get("results")),
        ("GPU: features, fine-tuning", "torch.compile", "1.0 and 45 % MFU / 55 %", "not measured: no GPU", ""),
    ]


def by_case(found: dict[str, Any], name: str) -> dict[int, dict[str, Any]]:
    """Results of the forward benchmark by batch."""
    results = {one["case"]: one for one in found.get("forward", {}).get("results", [])}
    return {batch: results[name.format(batch)] for batch in (1, 16) if name.format(batch) in results}


def cpu_time(result: dict[str, Any] | None) -> dict[str, Any] | None:
    """The same result with CPU seconds for seconds: those hardly notice what else runs."""
    if result is None:
        return None
    contenders = {name: one | {"seconds": one["cpu_seconds"]} for name, one in result["contenders"].items()}
    return result | {"contenders": contenders}


def speed_row(
    what: str,
    result: dict[str, Any] | None,
    theirs: tuple[str, ...],
    least: float,
    aim: float,
    ours: str = forward.OURS,
) -> Row:
    """Ours against the fastest of `theirs`."""
    found = tables.ratio(result, ours, theirs) if result else None
    if result is None or found is None:
        return row(what, theirs[0], None, least, aim)
    name, ratio = found
    against = name if len(theirs) == 1 else f"{name}, the best of the others"
    return (what, against, f"{least:g} / {aim:g}", str(ratio), verdict(ratio.low, ratio.high, least, aim))


def verdict(low: float, high: float, least: float, aim: float) -> str:
    """By the whole 95 % interval: a bound inside it is neither met nor missed."""
    if high < least:
        return "**missed**"
    return "aim met" if low >= aim else "met" if low >= least else "undecided"


def row(what: str, against: str, ratio: float | None, least: float, aim: float) -> Row:
    """Of a ratio that was measured once."""
    if ratio is None:
        return (what, against, f"{least:g} / {aim:g}", "not measured", "")
    return (what, against, f"{least:g} / {aim:g}", f"{ratio:.1f}", verdict(ratio, ratio, least, aim))


def folds_row(found: dict[str, Any]) -> Row:
    """Seconds of the default head, cross-validation included."""
    what, bound = "the default head with all its folds, 1056 photos", "at most 5 s / 2 s"
    for result in found.get("head", {}).get("results", []):
        if one := result["contenders"].get(head.FOLDS):
            seconds = one["seconds"]
            met = verdict(-max(seconds), -min(seconds), -5, -2)
            return (what, "", bound, f"{statistics.median(seconds):.2f} s", met)
    return (what, "", bound, "not measured", "")


def page(found: dict[str, Any]) -> str:
    """docs/benchmarks.md from the results of all parts."""
    promised = tables.table(("what", "against", "at least / aim", "measured", ""), targets(found))
    parts = [INTRODUCTION, "## Targets\n", promised]
    parts.append("\n" + NOTES.read_text())
    for name, title in TITLES.items():
        parts.append(f"## {title}\n")
        if name not in found:
            parts.append("Not measured.\n")
            continue
        parts.append(describe(found[name]["header"]))
        parts.append(section(name, found[name]["results"]))
    return "\n".join(parts)


def section(name: str, results: Any) -> str:
    """The tables of one part."""
    if name == "train_end_to_end":
        return train_end_to_end.report(results)
    if name == "head":
        return "\n".join(map(head.report, results))
    if name == "finetune":
        return "\n".join(tables.compare(one, finetune.OURS) for one in results)
    if name == "convert":
        return convert.report(results)
    if name == "augment":
        return "\n".join(tables.compare(one, augment.OURS, "views a second") for one in results)
    if name == "webcam":
        return "\n".join(map(webcam.report, results))
    texts = [tables.compare(one, forward.OURS) for one in results]
    apart = max((one["disagreement"] for one in results), default=0.0)
    texts.append(f"The contenders' outputs, averaged over a picture, lie within {apart:.1e} (relative RMS) of XLA's.\n")
    texts.append(f"Versions: {versions(results)}.\n")
    return "\n".join(texts)


def versions(results: list[dict[str, Any]]) -> str:
    """Libraries and flags, contender by contender."""
    named = {name: facts for one in results for name, facts in one["versions"].items()}
    each = (f"{name} ({', '.join(f'{key} {value}' for key, value in facts.items())})" for name, facts in named.items())
    return "; ".join(each)


def describe(header: dict[str, Any]) -> str:
    """The header of a part, as a sentence."""
    packages = ", ".join(f"{name} {number}" for name, number in header["versions"].items())
    return (
        f"{header['date']}, {header['processor']}, {header['cores']} cores, {header['system']}, "
        f"Python {header['python']}, {packages}; load average at the end {header['load']}.\n"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", nargs="*", choices=list(PARTS), help="measure no more than these")
    chosen = parser.parse_args().only
    chosen = list(PARTS) if chosen is None else chosen
    for peer in peers.PACKAGES if set(chosen) - ALONE else ():
        if reason := peers.install(peer):
            print(f"{peer} can't be installed: {reason}", flush=True)
    for name in chosen:
        print(f"== {name}", flush=True)
        tables.save(name, PARTS[name]())
    files = {name: tables.RESULTS / f"{name}.json" for name in PARTS}
    found = {name: json.loads(path.read_text()) for name, path in files.items() if path.exists()}
    PAGE.write_text(page(found))
    print(f"wrote {PAGE.relative_to(ROOT)}")


if __name__ == "__main__":
    main()
