"""Heads on cached features: ours, Keras's and scikit-learn's. The features are made up, two classes a little apart."""

from __future__ import annotations

import importlib
from typing import Any

import numpy as np

from vgg_flax.network.spec import CUTS, VGG16, HeadSpec, ModelSpec

FOLDS = 5


def features(case: dict) -> tuple[np.ndarray, np.ndarray]:
    """float32 `[pictures, width]`, about unit scale, and int32 labels."""
    rng = np.random.default_rng(0)
    labels = rng.integers(case["classes"], size=case["pictures"]).astype(np.int32)
    centres = 0.2 * rng.standard_normal((case["classes"], case["width"]), np.float32)
    return rng.standard_normal((case["pictures"], case["width"]), np.float32) + centres[labels], labels


class Contender:
    """`who` is ours or keras: `case["epochs"]` passes, batches of 32; or sklearn: until it converges.

    Or the head of `train.py`, and scikit-learn's of the same meaning: with the regularisation `case["strength"]`, for
    all rows and without each of five folds (regression_once, sklearn_once); or with one that the folds choose among
    the same strengths, of which ours leaves out the weak ones once the loss has risen (regression, sklearn_folds).
    """

    def __init__(self, who: str):
        self._prepare = getattr(self, f"_{who}")
        self.versions: dict[str, str] = {}

    def prepare(self, case: dict) -> np.ndarray:
        """The logits of the second class beside those of the first, where the contenders' must agree."""
        self.run: Any = self._prepare(case, *features(case))
        found = self.run()
        return found if "strength" in case else np.empty(0)

    def _ours(self, case: dict, inputs: np.ndarray, labels: np.ndarray) -> Any:
        import jax

        from vgg_flax.network.model import init_head
        from vgg_flax.training.feed import Batches, plan_epoch
        from vgg_flax.training.task import Recipe, Task, standardization

        spec = ModelSpec(VGG16, HeadSpec(case["classes"]), 224)
        plans = [plan_epoch(len(labels), 32, 1, 0, epoch) for epoch in range(case["epochs"])]
        recipe = Recipe(sum(len(plan.indices) for plan in plans), 3e-3, 1e-2, 0.1)
        task, key = Task(spec, CUTS["none"], recipe), jax.random.key(0)
        head = init_head(spec, key) | {"standardize": standardization(inputs)}

        def run() -> None:
            state, frozen = task.init({"head": jax.tree.map(np.array, head)})
            for plan in plans:
                batches = Batches(inputs[plan.indices], labels[plan.indices], plan.weights)
                state, sums = task.step(state, frozen, batches, key)
                float(sums["loss"])

        return run

    def _regression_once(self, case: dict, inputs: np.ndarray, labels: np.ndarray) -> Any:
        from vgg_flax.training import regression

        folds = np.arange(len(labels)) % FOLDS

        def run() -> np.ndarray:
            found = regression.fit(inputs, labels, folds, case["strength"], case["classes"])
            kernel, bias = found.kernel[:, 1] - found.kernel[:, 0], found.bias[1] - found.bias[0]
            return (inputs - found.mean) / found.std @ kernel + bias

        return run

    def _sklearn_once(self, case: dict, inputs: np.ndarray, labels: np.ndarray) -> Any:
        linear = importlib.import_module("sklearn.linear_model")
        pipeline = importlib.import_module("sklearn.pipeline")
        scaler = importlib.import_module("sklearn.preprocessing").StandardScaler
        # Of two classes scikit-learn keeps one kernel, the difference of ours, which weighs twice as much as they do.
        power = 2 / (case["strength"] * len(labels))
        folds = np.arange(len(labels)) % FOLDS

        def run() -> np.ndarray:
            for fold in [*range(FOLDS), -1]:
                model = pipeline.make_pipeline(scaler(), linear.LogisticRegression(C=power, max_iter=1000))
                model.fit(inputs[folds != fold], labels[folds != fold])
            return model.decision_function(inputs)

        return run

    def _regression(self, case: dict, inputs: np.ndarray, labels: np.ndarray) -> Any:
        from vgg_flax.training import regression

        folds = np.arange(len(labels)) % FOLDS
        columns = {"all": np.arange(inputs.shape[1])}

        def run() -> None:
            best = regression.choose(inputs, labels, folds, columns, case["classes"])[0]
            regression.fit(inputs, labels, folds, best.strength, case["classes"])

        return run

    def _sklearn_folds(self, case: dict, inputs: np.ndarray, labels: np.ndarray) -> Any:
        linear = importlib.import_module("sklearn.linear_model")
        pipeline = importlib.import_module("sklearn.pipeline")
        scaler = importlib.import_module("sklearn.preprocessing").StandardScaler
        strengths = importlib.import_module("vgg_flax.training.regression").STRENGTHS
        powers = [1 / (strength * len(labels)) for strength in strengths]
        options = {"Cs": powers, "cv": FOLDS, "max_iter": 1000, "scoring": "neg_log_loss", "n_jobs": -1}
        options |= {"l1_ratios": (0.0,), "use_legacy_attributes": False}  # defaults to be, and warned of until then
        model = pipeline.make_pipeline(scaler(), linear.LogisticRegressionCV(**options))
        return lambda: model.fit(inputs, labels)

    def _keras(self, case: dict, inputs: np.ndarray, labels: np.ndarray) -> Any:
        keras = importlib.import_module("keras")
        model = keras.Sequential([keras.Input((case["width"],)), keras.layers.Dense(case["classes"])])
        loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
        model.compile(keras.optimizers.AdamW(3e-3), loss, metrics=["accuracy"])
        return lambda: model.fit(inputs, labels, batch_size=32, epochs=case["epochs"], verbose=0)

    def _sklearn(self, case: dict, inputs: np.ndarray, labels: np.ndarray) -> Any:
        linear = importlib.import_module("sklearn.linear_model")
        return lambda: linear.LogisticRegression(max_iter=1000).fit(inputs, labels)
