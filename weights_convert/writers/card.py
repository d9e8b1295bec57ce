"""A model card in Markdown: what a bundle and its training record say of the model, and nothing else.

Its text is `card.md.jinja`; here are the facts that stand in it, and the escaping. Class names are folder names, and
those may hold anything. Contents: Mitchell et al., "Model Cards for Model Reporting", arXiv:1810.03993. Metadata:
https://github.com/huggingface/hub-docs/blob/main/modelcard.md.
"""

from __future__ import annotations

import functools
import math
import re
from importlib import resources
from typing import Any

import jinja2
import yaml
from markupsafe import Markup

from vgg_flax import __version__
from vgg_flax.answers.bundle import Bundle
from vgg_flax.insight.metrics import wilson
from vgg_flax.network.heads import HEADS
from vgg_flax.network.params import flatten
from vgg_flax.network.spec import HeadSpec
from vgg_flax.settings import TrainSettings, from_flat

ENOUGH = 30  # test pictures of a class
TASK = "image-classification"
BACKBONE = {"none": "frozen", "block5": "block 5 trained with the head", "all": "trained with the head"}
SPECIAL = re.compile(r"[\\`*\[\]<>&|~#!$@]|(?<![^\W_])_|_(?![^\W_])|:(?=//)|(?<=www)\.", re.IGNORECASE)
ENTITIES = {"<": "&lt;", ">": "&gt;", "&": "&amp;", "|": "&#124;"}


def compose(bundle: Bundle, name: str) -> str:
    """The card of a model called `name`. What its training record holds is published as it is.

    Raises:
      KeyError, TypeError, jinja2.UndefinedError and their like: the record is not one that `vgg-flax train` or
        `import` writes.
    """
    return _template().render(
        name=name,
        folder=re.sub(r"[^A-Za-z0-9._]+", "-", name).strip("-.") or "model",
        version=__version__,
        metadata=_metadata(bundle, name),
        bundle=bundle,
        reads=_reads(bundle.spec.head),
        parameters=sum(array.size for array in flatten(bundle.params).values()),
        record=bundle.training,
        measured=_measured(bundle) if "test" in bundle.training else None,
        enough=ENOUGH,
        wilson=wilson,
        entropy=_entropy,
    )


@functools.cache
def _template() -> jinja2.Template:
    """Every value that it writes goes through `plain`."""
    environment = jinja2.Environment(
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
        finalize=plain,
    )
    environment.filters["number"] = format
    text = resources.files("weights_convert.writers").joinpath("card.md.jinja").read_text(encoding="utf-8")
    return environment.from_string(text)


def printable(text: str) -> str:
    """The text on one line, without control characters or halves of a surrogate pair."""
    return "".join(c if c.isprintable() else "\N{REPLACEMENT CHARACTER}" for c in " ".join(text.split()))


def plain(value: object) -> str:
    """What reads as `value` in a line of Markdown, in a table's cell, and in HTML. Markup stays as it is."""
    if isinstance(value, Markup):
        return value
    return SPECIAL.sub(lambda found: ENTITIES.get(found[0], f"\\{found[0]}"), printable(str(value)))


def _metadata(bundle: Bundle, name: str) -> str:
    """YAML, in the format that the hub publishes."""
    facts: dict[str, Any] = {"library_name": "vgg_flax", "pipeline_tag": TASK}
    facts["tags"] = ["vgg_flax", "jax", "flax", bundle.spec.backbone.name, TASK, "transfer-learning"]
    if test := bundle.training.get("test"):
        data = printable(bundle.training["data"])
        own = data != "digits" and not data.startswith("tfds:")
        metrics = [("accuracy", "accuracy", test["accuracy"]), ("f1", "macro F1", test["macro_f1"])]
        result = {
            "task": {"type": TASK, "name": "Image Classification"},
            "dataset": {"name": data, "type": "imagefolder" if own else data.removeprefix("tfds:"), "split": "test"},
            "metrics": [{"type": kind, "name": title, "value": round(value, 4)} for kind, title, value in metrics],
        }
        facts["metrics"] = [kind for kind, *_ in metrics]
        facts["model-index"] = [{"name": printable(name), "results": [result]}]
    return yaml.safe_dump(facts, sort_keys=False, allow_unicode=True)


def _reads(head: HeadSpec) -> str:
    """What a head reads, in words."""
    *first, last = map(str, head.blocks)
    blocks = f"blocks {', '.join(first)} and {last}" if first else f"block {last}"
    pooled = " and ".join({"average": "averages", "maximum": "maxima"}.get(pool, pool) for pool in head.pools)
    return f"output of {blocks}, flattened" if head.flat else f"{pooled} over each channel of {blocks}"


def _measured(bundle: Bundle) -> dict[str, Any]:
    """What a run of `vgg-flax train` knows beside its record's own figures."""
    settings, test = from_flat(TrainSettings, bundle.training["settings"]), bundle.training["test"]
    matrix = test["confusion_matrix"]
    wrong = [(row[j], i, j) for i, row in enumerate(matrix) for j in range(len(row)) if i != j]
    return {
        "settings": settings,
        "backbone": BACKBONE[bundle.training["settings"]["unfreeze"]],
        "usual": HEADS[settings.head],  # what the head takes where nothing was asked
        "matrix": list(zip(bundle.classes, matrix, strict=True)),
        "few": {name: one["support"] for name, one in test["per_class"].items() if one["support"] < ENOUGH},
        "confused": max(wrong, key=lambda pair: pair[0], default=(0, 0, 0)),  # how often, which class, called what
    }


def _entropy(split: dict[str, Any]) -> float:
    """Log loss, in nats, of always answering with the classes' shares."""
    shares = [one["support"] / split["count"] for one in split["per_class"].values()]
    return -sum(share * math.log(share) for share in shares if share)
