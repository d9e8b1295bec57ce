"""Write a run's page again, or put runs side by side."""

from __future__ import annotations

import dataclasses
import itertools
import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml
from rich import box
from rich.table import Column, Table
from rich.text import Text

from vgg_flax import console
from vgg_flax.errors import UserError
from vgg_flax.files import printable
from vgg_flax.settings import ReportSettings, TrainSettings, from_flat

if TYPE_CHECKING:  # JAX takes seconds to import
    from vgg_flax.answers.predictions import Predictions
    from vgg_flax.data.photos import Photos
    from vgg_flax.network.spec import Preprocessing

NAME_WIDTH = 18  # columns of a run's name
SHOWN = 20  # photos on which runs differ, on the screen


@dataclasses.dataclass(frozen=True)
class Finished:
    """What a run, or an evaluation, has left behind.

    Attributes:
      report: report.json. `config`: config.yaml; of an evaluation nothing.
      predictions: predictions.npz. `log`: rows of metrics.csv; of an evaluation none.
    """

    folder: Path
    report: dict[str, Any]
    config: dict[str, Any]
    predictions: Predictions
    log: list[dict[str, float]]

    @property
    def settings(self) -> dict[str, Any]:
        """{option: value} that it was trained with; of an evaluation what was measured on what."""
        return self.config.get("settings") or {"evaluated": self.report.get("model"), "data": self.report.get("data")}


def main(settings: ReportSettings) -> None:
    """One run: its page. Several: a page and a table that compare them."""
    runs = [read(Path(folder)) for folder in settings.runs]
    if len(runs) == 1:
        console.show_line(f"written: {write_page(runs[0], settings.data)}")
    else:
        compare(runs, free_name(runs[0].folder.parent), settings.data)


def free_name(folder: Path) -> Path:
    """comparison.html, comparison2.html, ...: the first that is not there."""
    numbers = itertools.chain([""], itertools.count(2))
    return next(path for number in numbers if not (path := folder / f"comparison{number}.html").exists())


def read(folder: Path) -> Finished:
    """What is in a folder. Raises UserError where it holds no finished run, or one that can't be read."""
    from vgg_flax.answers import predictions
    from vgg_flax.training.runs import read_log

    try:
        report = json.loads((folder / "report.json").read_bytes())
        config = (folder / "config.yaml").read_text(encoding="utf-8") if (folder / "config.yaml").exists() else "{}"
        table, log = predictions.load(folder / "predictions.npz"), read_log(folder)
        found = Finished(folder, report, dict(yaml.safe_load(config)), table, log)
        missing = {"confusion_matrix", "reliability", "judged"} - report["test"].keys()
    except FileNotFoundError as error:
        raise UserError(f"{error.filename} is missing, expected a finished run in {folder}.") from None
    except yaml.YAMLError:
        raise UserError(f"{folder / 'config.yaml'} can't be read as YAML: restore it as the run wrote it.") from None
    except (OSError, ValueError, TypeError, KeyError, AttributeError) as error:
        raise UserError(f"{folder} holds no report that can be read ({error!r}): train it again.") from None
    if missing:
        raise UserError(f"{folder / 'report.json'} lacks {', '.join(sorted(missing))} of the test: train it again.")
    return found


def write_page(run: Finished, data: str | None) -> Path:
    """report.html of a run; a line says what it has to do without."""
    from vgg_flax.answers import bundle
    from vgg_flax.answers.judge import Judge
    from vgg_flax.report import page

    photos, model, missing = None, None, ""
    try:
        photos = find_photos(run, data)
    except UserError as error:
        if data is not None:
            raise
        if (old := run.folder / page.NAME).exists():
            raise UserError(f"{error} {old} is left as it is; say with --data where the photos are now.") from None
        missing = str(error)
        console.say(f"no pictures on the page: {error}")
    try:
        model = bundle.load(Path(run.report["model"]) if "model" in run.report else run.folder)
    except UserError as error:
        console.say(f"no heat maps on the page: {error}")
    judge = model.judge if model else Judge(**run.report.get("judge", {}))
    return page.write(run.folder, run.report, run.config, run.predictions, judge, photos, model, missing, run.log)


def find_photos(run: Finished, data: str | None) -> Photos:
    """The photos of a run as they are now, decoded as they were then. Raises UserError where they are gone."""
    import numpy as np

    from vgg_flax.data import open_dataset
    from vgg_flax.data.photos import decoded_photos
    from vgg_flax.data.reading import look_at

    settings = from_flat(TrainSettings, run.config["settings"]) if run.config else TrainSettings()
    source = data or (settings.data if run.config else run.report["data"])
    dataset = open_dataset(source, label=settings.label)
    with console.without_noise():
        photos = decoded_photos(dataset, look_at(dataset, nothing), seen_by(run, settings.region))
    gone = int((~np.isin(run.predictions.contents, photos.contents)).sum())
    if gone == len(run.predictions):
        raise UserError(f"none of the photos in {source} is one of {run.folder}'s: name the right ones with --data.")
    if gone:
        console.warn(f"{gone} of {console.counted(len(run.predictions), 'photo')} no longer in {source}")
    return photos


def nothing() -> None:
    """Ctrl-C ends this command at once: nothing is half written."""


def seen_by(run: Finished, region: str) -> Preprocessing:
    """How the network saw the photos: their size and region. region: of a run; an evaluation's is its model's."""
    from vgg_flax.answers import bundle
    from vgg_flax.network.spec import Preprocessing

    size = run.report.get("image_size")
    return Preprocessing(size, region=region) if size else bundle.load(Path(run.report["model"])).preprocessing


def compare(runs: list[Finished], path: Path, data: str | None) -> None:
    """Write the page and show the table."""
    from vgg_flax.insight import compare as comparing
    from vgg_flax.report import comparison

    names = [str(run.folder) for run in runs]
    photos, missing = None, ""
    try:
        photos = find_photos(runs[0], data)
    except UserError as error:
        if data is not None:
            raise
        missing = str(error)
        console.say(f"no pictures on the page: {error}")
    tests, settings = [run.report["test"] for run in runs], [run.settings for run in runs]
    tables = [run.predictions.select("test") for run in runs]
    shared = comparison.write(path, names, tests, settings, tables, photos, missing)
    _show("test", names, comparing.figures(tests))
    differing = comparing.differing(settings)
    _show("differing settings", names, [(name, [str(one) for one in row]) for name, row in differing.items()])
    rows = [
        (str(shared.names[i]), [str(shared.truths[i]), *map(str, shared.answers[i])]) for i in shared.differ[:SHOWN]
    ]
    _show(f"{console.counted(len(shared.differ), 'photo')} with other labels", ["truth", *names], rows)
    console.show_line(f"{console.counted(len(shared.names), 'test photo is', 'test photos are')} the same in all runs")
    for sentence in comparing.all_in_words(comparing.pairs(shared), names):
        console.show_line(sentence)
    console.show_line(f"written: {path}")


def _show(title: str, columns: list[str], rows: list[tuple[str, list[str]]]) -> None:
    if rows:
        names = console.kept_apart([printable(name) for name in columns], NAME_WIDTH)
        heads = [Column(Text(name), justify="right") for name in names]
        table = Table(title, *heads, box=box.SIMPLE_HEAD)
        for row in rows:
            table.add_row(*(Text(printable(cell)) for cell in (row[0], *row[1])))
        console.results.print(table, soft_wrap=False)
