"""Heads on cached features: ours, Keras's and scikit-learn's. The features are made up, two classes a little apart."""

from __future__ import annotations

import importlib
from typing import Any

import numpy as np
from vgg_flax.answers.scores import cross_entropy

from vgg_flax.network.spec import VGG16, HeadSpec, ModelSpec


def features(case: dict) -> tuple[np.ndarray, np.ndarray]:
    """float32 `[pictures, width]`, about unit scale, and int32 labels."""
    rng = np.random.default_rng(0)
    labels = rng.integers(case["classes"], size=case["pictures"]).astype(np.int32)
    centres = 0.2 * rng.standard_normal((case["classes"], case["width"]), np.float32)
    return rng.standard_normal((case["pictures"], case["width"]), np.float32) + centres[labels], labels


def validation(case: dict, inputs: np.ndarray, labels: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Features and labels of as many pictures as the case validates on."""
    count = case.get("validation", 0)
    return inputs[:count], labels[:count]


class Contender:
    """`who` is ours, grid, keras or sklearn: `case["epochs"]` passes, batches of 32; sklearn until it converges.

    A grid is `heads` heads at once, learning rates by weight decays. `case["validation"]` is on how many pictures ours
    and a grid are validated after every epoch, as in `train.py`.
    """

    def __init__(self, who: str, heads: int = 1):
        ways = {"ours": self._ours, "grid": self._grid, "keras": self._keras, "sklearn": self._sklearn}
        self._prepare, self._heads = ways[who], heads
        self.versions: dict[str, str] = {}

    def prepare(self, case: dict) -> list[float]:
        self.run: Any = self._prepare(case, *features(case))
        self.run()
        return []

    def _ours(self, case: dict, inputs: np.ndarray, labels: np.ndarray) -> Any:
        import jax

        from vgg_flax.network import model, params
        from vgg_flax.training import feed as batches
        from vgg_flax.training import task as training

        recipe, plan = _recipe(case)
        head = model.init_head(recipe.spec, jax.random.key(0)) | {"standardize": training.standardization(inputs)}
        trainable, frozen = params.partition({"head": head}, training.TRAINABLE["none"])
        views, key = [(inputs, np.arange(len(labels)))], jax.random.key(0)
        val, val_labels = validation(case, inputs, labels)

        def run() -> None:
            state = training.init_state(recipe, jax.tree.map(jax.numpy.copy, trainable), 3e-3, 1e-2)
            for epoch in range(case["epochs"]):
                for some in batches.feature_batches(views, labels, plan(epoch)):
                    state, sums = training.train_steps(recipe, state, frozen, some, key)
                    float(sums["loss"])
                if len(val):
                    whole = params.combine(state["params"], frozen)
                    logits = np.asarray(training.head_logits(recipe.spec, whole["head"], val))
                    cross_entropy(logits, val_labels)
                    float((logits.argmax(-1) == val_labels).mean())

        return run

    def _grid(self, case: dict, inputs: np.ndarray, labels: np.ndarray) -> Any:
        from vgg_flax import grid
        from vgg_flax.settings import Choice
        from vgg_flax.training import feed as batches
        from vgg_flax.training import task as training

        recipe, plan = _recipe(case)
        choices = [Choice("all", 1e-3 * 1.5 ** (i // 4), 10.0 ** -(i % 4)) for i in range(self._heads)]
        standardize = training.standardization(inputs)
        views = [(inputs, np.arange(len(labels)))]

        def epoch_batches(epoch: int) -> Any:
            return batches.feature_batches(views, labels, plan(epoch))

        val = validation(case, inputs, labels)
        return lambda: grid.search(recipe, choices, standardize, case["epochs"], epoch_batches, *val)

    def _keras(self, case: dict, inputs: np.ndarray, labels: np.ndarray) -> Any:
        keras = importlib.import_module("keras")
        model = keras.Sequential([keras.Input((case["width"],)), keras.layers.Dense(case["classes"])])
        loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
        model.compile(keras.optimizers.AdamW(3e-3), loss, metrics=["accuracy"])
        return lambda: model.fit(inputs, labels, batch_size=32, epochs=case["epochs"], verbose=0)

    def _sklearn(self, case: dict, inputs: np.ndarray, labels: np.ndarray) -> Any:
        linear = importlib.import_module("sklearn.linear_model")
        return lambda: linear.LogisticRegression(max_iter=1000).fit(inputs, labels)


def _recipe(case: dict) -> tuple[Any, Any]:
    """What a step is compiled for, and the plan of an epoch by its number."""
    import functools

    from vgg_flax.training import feed as batches
    from vgg_flax.training import task as training

    plan = functools.partial(batches.plan_epoch, case["pictures"], 32, 1, 0)
    spec = ModelSpec(VGG16, HeadSpec(case["classes"]), 224)
    return training.Recipe(spec, case["epochs"] * len(plan(0).indices), 0.1), plan
