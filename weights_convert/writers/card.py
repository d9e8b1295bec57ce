"""A model card in Markdown: what a bundle and its training record say of the model, and nothing else.

Contents: Mitchell et al., "Model Cards for Model Reporting", arXiv:1810.03993. Metadata:
https://github.com/huggingface/hub-docs/blob/main/modelcard.md.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Any

import yaml

from vgg_flax import __version__
from vgg_flax.answers.bundle import Bundle
from vgg_flax.network.params import flatten
from vgg_flax.network.spec import HeadSpec
from weights_convert.writers import measured
from weights_convert.writers.markdown import plain, printable, quoted, table

MANY = 20  # classes: no more are named in a sentence
FEW = 30  # test pictures of a class
UNTESTED = ", after a test on labelled pictures of your own"
TASK = "image-classification"

USAGE = """## How to use it

Install vgg_flax {version} or newer with `pip install -e .` in its source folder, and save this folder there as
`{folder}`. Labels on the picture of a camera, and labels of a folder of photos in a file:

```sh
vgg-flax webcam --model {folder}
vgg-flax webcam --model {folder} --source photos/ --show terminal --json labels.jsonl
```

In Python:

```python
from vgg_flax import Predictor

predictor = Predictor.load("{folder}")
prediction = predictor.predict_file("photo.jpg")
print(prediction.label, prediction.probability)
print(dict(zip(predictor.classes, prediction.probabilities.tolist())))
```
"""


def compose(bundle: Bundle, name: str) -> str:
    """The card of a model called `name`. What its training record holds is published as it is.

    Raises:
      KeyError, TypeError and their like: the record is not one that `vgg-flax train` or `import` writes.
    """
    folder = re.sub(r"[^A-Za-z0-9._]+", "-", name).strip("-.") or "model"
    parts = [f"---\n{_metadata(bundle, name)}---\n", f"# {plain(name)}\n", _summary(bundle)]
    parts.append(USAGE.format(version=__version__, folder=folder))
    if "test" in bundle.training:
        parts += measured.sections(bundle)
    return "\n".join([*parts, _preprocessing(bundle), _use(bundle), _origin(bundle.training)])


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


def _summary(bundle: Bundle) -> str:
    spec, test, count = bundle.spec, bundle.training.get("test"), len(bundle.classes)
    found = "No evaluation was run: how often its labels are right is not known."
    if test:
        found = f"Accuracy: **{test['accuracy']:.2%}** of {test['count']} test pictures"
        found += f" (95 % interval {measured.interval(test)})."
    rows = [
        ("backbone", f"{spec.backbone.name.upper()} (Simonyan and Zisserman, arXiv:1409.1556)"),
        ("head", f"{_reads(spec.head)}; {''.join(f'{width} ReLU units; ' for width in spec.head.hidden)}softmax"),
        ("input", f"an RGB picture, resized to {spec.image_size} x {spec.image_size} pixels"),
        ("output", f"{'calibrated ' if test else ''}probabilities of {count} classes"),
        ("parameters", f"{sum(array.size for array in flatten(bundle.params).values()):,}, float32"),
    ]
    return (
        f"Tells {count} kinds of pictures apart: {_listed(map(quoted, bundle.classes))}.\n\n{found}\n\n"
        f"{table(('', ''), rows)}\n"
        "License: none is given. Whoever publishes this model adds `license:` to the metadata of this file.\n"
    )


def _reads(head: HeadSpec) -> str:
    """What a head reads, in words."""
    *first, last = map(str, head.blocks)
    blocks = f"blocks {', '.join(first)} and {last}" if first else f"block {last}"
    pooled = " and ".join({"average": "averages", "maximum": "maxima"}.get(pool, pool) for pool in head.pools)
    return f"output of {blocks}, flattened" if head.flat else f"{pooled} over each channel of {blocks}"


def _preprocessing(bundle: Bundle) -> str:
    how = bundle.preprocessing
    size = f"{how.image_size} x {how.image_size} pixels"
    numbers = [(key, ", ".join(f"{value:g}" for value in getattr(how, key))) for key in ("mean", "std")]
    rows = [("resize", f"{how.resize}: to {size}, whatever the shape"), *numbers]
    return (
        f"## Preprocessing\n\n{table(('step', 'value'), rows)}\nThe network reads (rgb - mean) / std of an upright "
        "picture with values from 0 to 255. The commands above do all this themselves.\n"
    )


def _use(bundle: Bundle) -> str:
    record, count = bundle.training, len(bundle.classes)
    limits = [
        f"Every picture gets one of these {count} labels, also one that shows none of them. A high probability does "
        "not say that a picture is of a known kind.",
        "It judges the whole picture. Photos framed, lit or taken unlike those of its training may be labelled worse; "
        "how much worse was not measured.",
        *(_found(bundle.classes, record["test"]) if "test" in record else []),
    ]
    if record.get("random_weights"):
        limits.append(
            "The backbone started from random numbers, not from ImageNet: this is a trial, not a model to use."
        )
    where = f" in pictures like those of {quoted(record['data'])}" if "test" in record else UNTESTED
    bullets = "".join(f"- {limit}\n" for limit in limits)
    return f"## Intended use and limits\n\nTelling the classes above apart{where}.\n\n{bullets}"


def _found(classes: tuple[str, ...], test: dict[str, Any]) -> list[str]:
    """Limits that the test tells."""
    matrix = test["confusion_matrix"]
    limits = [
        f"A test of {test['count']} pictures says no more than that the accuracy is {measured.interval(test)}, and "
        "less if many of them show the same thing. Groups within a class (people, places, cameras) were not measured."
    ]
    few = [f"{quoted(name)} ({one['support']})" for name, one in test["per_class"].items() if one["support"] < FEW]
    if few:
        limits.append(f"Fewer than {FEW} test pictures, too few to judge these classes by: {_listed(few)}.")
    wrong = [(row[j], i, j) for i, row in enumerate(matrix) for j in range(len(row)) if i != j]
    most, i, j = max(wrong, key=lambda pair: pair[0], default=(0, 0, 0))
    if most:
        pair = f"pictures of {quoted(classes[i])} were called {quoted(classes[j])}"
        limits.append(f"Most often confused: {most} of {sum(matrix[i])} {pair}.")
    else:
        limits.append("No test picture got a wrong label. That is not the same as never.")
    return limits


def _listed(names: Iterable[str]) -> str:
    first, rest = (names := list(names))[:MANY], names[MANY:]
    return ", ".join(first) + (f" and {len(rest)} more, which are in `model.json`" if rest else "")


def _origin(record: dict[str, Any]) -> str:
    if "test" in record:
        backbone = measured.BACKBONE[record["settings"]["unfreeze"]]
        text = f"Backbone: {plain(record['weights'])}; {backbone}. Head: trained on the data above."
    elif "source" in record:
        text = f"All of it was imported from {plain(record['source'])}."
        if "recipe" in record:
            text += f" Pictures are prepared as {plain(record['recipe'])}, {plain(record['recipe_chosen'])}."
    else:
        text = "The model does not say."
    made = f"Written by vgg_flax {__version__}, `vgg-flax convert export --format hub`."
    return f"## Where the weights came from\n\n{text}\n\n{made}\n"
