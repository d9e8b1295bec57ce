"""Random views a second: ours inside jit, against Keras's ImageDataGenerator and its preprocessing layers.

python -m benchmarks.augment
"""

from __future__ import annotations

import sys
from typing import Any

from benchmarks import tables
from benchmarks.driver import Case, Contender, measure, started
from benchmarks.forward import peer

OURS = "vgg_flax"


def run(rounds: int = 10, limit: float = 30.0, seconds: float = 0.5) -> list[dict[str, Any]]:
    contenders = [
        Contender(OURS, "benchmarks.contenders.augment", {"who": "ours"}),
        peer("Keras ImageDataGenerator", "tensorflow", "augment", {"who": "generator"}, KERAS_BACKEND="tensorflow"),
        peer("Keras layers, tf.function", "tensorflow", "augment", {"who": "layers"}, KERAS_BACKEND="tensorflow"),
        peer("Keras layers on JAX, eager", "keras", "augment", {"who": "layers"}, KERAS_BACKEND="jax"),
    ]
    case = Case("random views of 32 pictures of 224 pixels", {"batch": 32, "size": 224}, 32)
    with started(contenders) as field:
        result = measure(field, case, rounds=rounds, seconds=seconds, limit=limit)
    print(tables.compare(result, OURS, "views a second"), flush=True)
    return [result]


if __name__ == "__main__":
    print(tables.save("augment", run()), file=sys.stderr)
