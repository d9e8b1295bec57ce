"""The part of a model card that a run of `vgg-flax train` fills: data, settings, results."""

from __future__ import annotations

import math
from typing import Any

from vgg_flax.answers.bundle import Bundle
from vgg_flax.insight.metrics import wilson
from vgg_flax.network.heads import HEADS
from vgg_flax.settings import TrainSettings, from_flat
from weights_convert.writers.markdown import plain, quoted, table

MANY = 20  # classes: the confusion matrix of more is not shown
BACKBONE = {"none": "frozen", "block5": "block 5 trained with the head", "all": "trained with the head"}


def sections(bundle: Bundle) -> list[str]:
    """Markdown sections. Raises KeyError, TypeError and their like for a record that it does not write."""
    return [_data(bundle.training), _settings(bundle.training), _results(bundle)]


def interval(split: dict[str, Any]) -> str:
    """The accuracy's 95 % interval by Wilson's formula, as `evaluate` has it."""
    low, high = split["accuracy_95"]
    return f"{low:.1%} to {high:.1%}"


def _data(record: dict[str, Any]) -> str:
    splits = {"training": record["train"], "validation": record["val"], "test": record["test"]}
    names = record["test"]["per_class"]
    rows = [(name, *(split["per_class"][name]["support"] for split in splits.values())) for name in names]
    rows.append(("all", *(split["count"] for split in splits.values())))
    what = "validation chose among its states."
    if record["chosen"]:
        what = "validation figures come from models that were fitted without the picture."
    return (
        f"## Training data\n\nThe data is called {quoted(record['data'])}. In pictures:\n\n"
        f"{table(('class', *splits), rows, numbers=3)}\n"
        f"The first column trained the model; {what}\n"
    )


def _settings(record: dict[str, Any]) -> str:
    asked, chosen = from_flat(TrainSettings, record["settings"]), record["chosen"]
    kind, optimizer, views = HEADS[asked.head], asked.optimizer, asked.augmentation
    if chosen:
        optimiser = f"L-BFGS to convergence, L2 regularisation {chosen['strength']:g}"
        epochs = f"{record['best_epoch']} iterations; cross-validation chose the blocks and the regularisation"
    else:
        decay = kind.weight_decay if optimizer.weight_decay is None else optimizer.weight_decay
        optimiser = f"AdamW, learning rate {optimizer.lr or kind.lr:g} at its peak, weight decay {decay:g}"
        optimiser += f", batches of {optimizer.batch_size}"
        epochs = f"{optimizer.epochs or kind.epochs}; kept: {record['best_epoch']}, the best on validation"
    shares = [f"{name} {getattr(views, name):.0%}" for name in ("shift", "zoom", "brightness", "contrast")]
    changes = ", ".join([f"rotation {views.rotation:g} degrees", *shares, *["mirror image"] * bool(views.flip)])
    count = asked.features.views
    more = f"{count - 1} of each picture" if asked.stores else "a new one in every epoch"
    rows = [
        ("head", asked.head),
        ("backbone", BACKBONE[asked.network.unfreeze]),
        ("optimiser", optimiser),
        ("epochs", epochs),
        ("random views", f"{more}, up to: {changes}" if count > 1 else "none"),
        ("seed", asked.split.seed),
    ]
    return f"## Training\n\n{table(('setting', 'value'), rows)}\nAll settings: `model.json`, under `training`.\n"


def _results(bundle: Bundle) -> str:
    test, val = (bundle.training[split] for split in ("test", "val"))
    rows = [
        ("accuracy", *(f"{split['accuracy']:.2%}" for split in (test, val))),
        ("its 95 % interval", *map(interval, (test, val))),
        (
            "accuracy of always naming the largest class",
            *(f"{split['majority_baseline']:.2%}" for split in (test, val)),
        ),
        ("macro F1", *(f"{split['macro_f1']:.2%}" for split in (test, val))),
        ("log loss, nats", *(f"{split['loss']:.4f}" for split in (test, val))),
        ("log loss of naming only the classes' shares", *(f"{_entropy(split):.4f}" for split in (test, val))),
        ("pictures", test["count"], val["count"]),
    ]
    chose, fitted = "the epoch", "on validation"
    if bundle.training["chosen"]:
        chose, fitted = "blocks and regularisation", "on answers of models that had not seen the picture"
    return (
        f"## Results\n\nThe test pictures were used once, at the end. Validation chose {chose}, so its figures are "
        f"optimistic.\n\n{table(('', 'test', 'validation'), rows, numbers=2)}\n"
        "Intervals: Wilson, J. Am. Stat. Assoc. 22 (1927) 209, for pictures that are independent of each other. "
        f"Calibration: logits are divided by the temperature {bundle.judge.temperature:.3f}, fitted {fitted}, "
        f"where 1 changes nothing (Guo et al., arXiv:1706.04599).\n\n{_classes(bundle, test)}"
    )


def _classes(bundle: Bundle, test: dict[str, Any]) -> str:
    matrix, rows = test["confusion_matrix"], []
    for name, counts, i in zip(bundle.classes, matrix, range(len(matrix)), strict=True):
        one, recall = test["per_class"][name], "-"
        if support := one["support"]:
            low, high = wilson(counts[i], support)
            recall = f"{one['recall']:.1%} ({low:.1%} to {high:.1%})"
        rows.append((name, f"{one['precision']:.1%}", recall, f"{one['f1']:.1%}", support))
    header = ("class", "precision", "recall (95 % interval)", "F1", "pictures")
    text = f"### Classes of the test\n\n{table(header, rows, numbers=4)}"
    if len(matrix) > MANY:
        return text + f"\nThe confusion matrix of {plain(len(matrix))} classes is in `model.json`.\n"
    counted = [(name, *counts) for name, counts in zip(bundle.classes, matrix, strict=True)]
    header = ("", *bundle.classes)
    return (
        f"{text}\n### Confusion matrix of the test\n\nA row for each true class, a column for what it was called.\n\n"
        f"{table(header, counted, numbers=len(matrix))}"
    )


def _entropy(split: dict[str, Any]) -> float:
    """Log loss, in nats, of always answering with the classes' shares."""
    shares = [one["support"] / split["count"] for one in split["per_class"].values()]
    return -sum(share * math.log(share) for share in shares if share)
