"""A step of fine-tuning block5: ours from stored outputs of block4, Keras's from pictures.

python -m benchmarks.finetune
"""

from __future__ import annotations

import sys
from typing import Any

from benchmarks import forward, tables
from benchmarks.driver import Case, Contender, measure, started

OURS = "vgg_flax"
KERAS = {"Keras on TensorFlow": ("tensorflow", "tensorflow"), "Keras on JAX": ("keras", "jax")}  # environment, backend
MODULE = "benchmarks.contenders.finetune"


def run(rounds: int = 8, limit: float = 400.0, seconds: float = 1.0) -> list[dict[str, Any]]:
    """One result; raises ValueError where the contenders' logits say that it is not the same network."""
    contenders = [Contender(OURS, MODULE, {"who": "ours"})]
    contenders += [
        forward.peer(name, home, "finetune", {"who": "keras"}, KERAS_BACKEND=backend)
        for name, (home, backend) in KERAS.items()
    ]
    case = Case("a step that trains block5 and a linear head, 224 pixels, batch 32", {"batch": 32, "size": 224}, 32)
    with started(contenders) as field:
        result = measure(field, case, rounds=rounds, seconds=seconds, limit=limit)
    result["disagreement"] = forward.disagreement(result)
    print(tables.compare(result, OURS), flush=True)
    return [result]


if __name__ == "__main__":
    print(tables.save("finetune", run()), file=sys.stderr)
