"""What a head costs once the features are there: an epoch, a whole training, and a grid of 32 of them.

python -m benchmarks.head
"""

from __future__ import annotations

import sys
from typing import Any

from benchmarks import tables
from benchmarks.driver import Case, Contender, measure, started
from benchmarks.forward import peer

OURS = "vgg_flax"
GRID = "vgg_flax, a grid of 32"
MODULE = "benchmarks.contenders.head"
SETTINGS = {"pictures": 1056, "width": 1280, "classes": 2}  # the training photos of the end-to-end run, all blocks


def run(rounds: int = 15, limit: float = 20.0, seconds: float = 0.3) -> list[dict[str, Any]]:
    ours = Contender(OURS, MODULE, {"who": "ours"})
    keras = [
        peer("Keras on TensorFlow", "tensorflow", "head", {"who": "keras"}, KERAS_BACKEND="tensorflow"),
        peer("Keras on JAX", "keras", "head", {"who": "keras"}, KERAS_BACKEND="jax"),
    ]
    sklearn = Contender("scikit-learn LogisticRegression", MODULE, {"who": "sklearn"})
    thirty = SETTINGS | {"epochs": 30}
    grid = Contender(GRID, MODULE, {"who": "grid", "heads": 32})
    results = []
    for case, contenders in (
        (Case("an epoch of a linear head, 1056 x 1280 features, batch 32", SETTINGS | {"epochs": 1}), [ours, *keras]),
        (Case("a linear head: our 30 epochs, scikit-learn's convergence", thirty), [ours, sklearn]),
        (Case("one head and a grid of 32, 30 epochs with validation", thirty | {"validation": 150}), [ours, grid]),
    ):
        with started(contenders) as field:
            result = measure(field, case, rounds=rounds, seconds=seconds, limit=limit)
        print(tables.compare(result, OURS, "times a second"), flush=True)
        results.append(result)
    return results


if __name__ == "__main__":
    print(tables.save("head", run()), file=sys.stderr)
