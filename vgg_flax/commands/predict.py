"""Ask a trained model about pictures: one line each, on standard output, in the order in which they were named."""

from __future__ import annotations

import itertools
import sys
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any

from vgg_flax import console
from vgg_flax.files import printable
from vgg_flax.settings import PredictSettings

if TYPE_CHECKING:  # JAX takes seconds to import
    from vgg_flax.answers.predictor import Prediction, Predictor
    from vgg_flax.data.named import Picture

UNREADABLE = "unreadable"
VERDICTS = {"label": "", "unsure": "not sure", "unlike": "unlike", UNREADABLE: UNREADABLE}


def main(settings: PredictSettings) -> None:
    """Exit code 1 where a picture could not be read."""
    from vgg_flax.answers.predictor import Predictor
    from vgg_flax.data import named

    predictor = Predictor.load(settings.model)
    if predictor.bundle.judge.references is None:
        console.say(f"{predictor.name} does not know its training photos: nothing is called unlike them")
    write = _writer(settings, predictor)
    failed = 0
    pictures = named.pictures(settings.sources, predictor.preprocessing, sys.stdin)
    with console.without_noise():
        for picture, prediction in answered(pictures, predictor, keep=not settings.no_cache):
            if prediction is None:
                failed += 1
                console.warn(f"{picture.name}: {picture.reason}")
            write(row(picture, prediction, predictor, settings.topk))
    if failed:
        raise SystemExit(1)


def answered(
    pictures: Iterator[Picture], predictor: Predictor, *, keep: bool
) -> Iterator[tuple[Picture, Prediction | None]]:
    """Each picture with its prediction, None where it can't be read; in batches, as the network likes them.

    Args:
      keep: look features up in the store, and leave new ones there.
    """
    import numpy as np

    from vgg_flax.network.extract import NO_CHANGE, batch_size
    from vgg_flax.store import FeatureStore

    store = FeatureStore(predictor.extractor, NO_CHANGE, 0) if keep else None
    while some := list(itertools.islice(pictures, batch_size(predictor.preprocessing.image_size))):
        found: dict[int, Prediction] = {}
        named = [i for i, one in enumerate(some) if one.image is not None and one.content and store]
        plain = [i for i, one in enumerate(some) if one.image is not None and i not in named]
        for rows in filter(None, (named, plain)):
            images = np.stack([some[i].image for i in rows])  # type: ignore[misc]
            if store and rows is named:
                outputs = store.outputs(images, [some[i].content for i in rows])
                answers = predictor.judge(*predictor.answer(outputs))
            else:
                answers = predictor.predict(images)
            found |= dict(zip(rows, answers, strict=True))
        yield from ((one, found.get(i)) for i, one in enumerate(some))


def row(picture: Picture, prediction: Prediction | None, predictor: Predictor, topk: int | None) -> dict[str, Any]:
    """{column: value}, JSON types."""
    from vgg_flax.answers.rows import said

    values = {"file": picture.name} | said(prediction, predictor.classes, topk)
    return values if prediction else values | {"verdict": UNREADABLE}


def _writer(settings: PredictSettings, predictor: Predictor) -> Callable[[dict[str, Any]], None]:
    """What writes a row to standard output, at once."""
    from vgg_flax.answers.rows import SAID, csv_line, json_line

    if settings.json:
        return lambda values: print(json_line(values), flush=True)
    if settings.csv:
        print(csv_line(("file", *SAID)), flush=True)
        return lambda values: print(csv_line(values.values()), flush=True)
    width = max(len("label"), *(min(len(name), 30) for name in predictor.classes))
    print(f"{'label':{width}}  probability  verdict     file")
    return lambda values: print(printable(_table_line(values, width, settings.topk or 1)), flush=True)


def _table_line(values: dict[str, Any], width: int, topk: int) -> str:
    verdict, label = VERDICTS[values["verdict"]], values["label"] or "-"
    probability = "" if values["probability"] is None else f"{values['probability']:.1%}"
    others = [f"{name} {p:.1%}" for name, p in list((values["probabilities"] or {}).items())[1:topk]]
    if values["verdict"] == "unsure" and not others:
        others = [f"or {name}" for name in values["candidates"][1:4]]
    more = f"  ({', '.join(others)})" if others else ""
    return f"{label:{width}}  {probability:>11}  {verdict:10}  {values['file']}{more}"
