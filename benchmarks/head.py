"""What a head costs once the features are there: an epoch, a whole training, and the head that folds choose.

python -m benchmarks.head
"""

from __future__ import annotations

import sys
from typing import Any

from benchmarks import tables
from benchmarks.driver import Case, Contender, measure, started
from benchmarks.forward import disagreement, peer

OURS = "vgg_flax"
FOLDS = "vgg_flax, five folds"
MODULE = "benchmarks.contenders.head"
SETTINGS = {"pictures": 1056, "width": 2560, "classes": 2}  # the training photos of the end-to-end run, all blocks
CONVERGED = 1e-2  # relative RMS between logits of two solvers of the same problem


def run(rounds: int = 15, limit: float = 20.0, seconds: float = 0.3) -> list[dict[str, Any]]:
    ours = Contender(OURS, MODULE, {"who": "ours"})
    keras = [
        peer("Keras on TensorFlow", "tensorflow", "head", {"who": "keras"}, KERAS_BACKEND="tensorflow"),
        peer("Keras on JAX", "keras", "head", {"who": "keras"}, KERAS_BACKEND="jax"),
    ]
    sklearn = Contender("scikit-learn LogisticRegression", MODULE, {"who": "sklearn"})
    thirty = SETTINGS | {"epochs": 30}
    folds = [
        Contender(FOLDS, MODULE, {"who": "regression"}),
        Contender("scikit-learn LogisticRegressionCV", MODULE, {"who": "sklearn_folds"}),
    ]
    once = [
        Contender(OURS, MODULE, {"who": "regression_once"}),
        Contender("scikit-learn LogisticRegression", MODULE, {"who": "sklearn_once"}),
    ]
    results = []
    for case, contenders in (
        (Case("an epoch of a linear head, 1056 x 2560 features, batch 32", SETTINGS | {"epochs": 1}), [ours, *keras]),
        (Case("a linear head: our 30 epochs, scikit-learn's convergence", thirty), [ours, sklearn]),
        (
            Case("regression to convergence, of all rows and without each of five folds", SETTINGS | {"strength": 0.1}),
            once,
        ),
        (Case("regression, its strength by five folds, then all rows", SETTINGS), folds),
    ):
        with started(contenders) as field:
            result = measure(field, case, rounds=rounds, seconds=seconds, limit=limit)
        if "strength" in case.settings:
            result["disagreement"] = disagreement(result, CONVERGED)
        print(report(result), flush=True)
        results.append(result)
    return results


def report(result: dict[str, Any]) -> str:
    """The table of one case."""
    ours = FOLDS if FOLDS in result["contenders"] else OURS
    return tables.compare(result, ours, "times a second")


if __name__ == "__main__":
    print(tables.save("head", run()), file=sys.stderr)
