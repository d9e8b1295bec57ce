"""The notebook's recipe in Keras, timed in part: run in Keras's own environment by `train_end_to_end`.

KERAS_BACKEND=tensorflow python -m benchmarks.recipe PHOTOS STEPS

Photos by OpenCV at 224 pixels and divided by 255; 80 % to train on, of which a tenth validates; ImageDataGenerator
with featurewise statistics, rotation 20, shifts 0.2 and mirror images; frozen VGG16, Flatten, Dense 4096, Dense 4096,
softmax; Adam 1e-3; batches of 32. Runs STEPS training steps after one to warm up, and as many validation steps, and
prints what each took as a line of JSON. The backbone's weights are random: no time depends on them.
"""

from __future__ import annotations

import importlib
import json
import os
import statistics
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.worker import peak_mb

SIZE, BATCH = 224, 32


def read_photos(folder: Path) -> tuple[np.ndarray, np.ndarray]:
    """float32 BGR `[n, 224, 224, 3]` in 0..1, and one-hot labels."""
    cv2 = importlib.import_module("cv2")
    classes = sorted(path for path in folder.iterdir() if path.is_dir())
    files = [(path, i) for i, home in enumerate(classes) for path in sorted(home.iterdir())]
    pictures = np.stack([cv2.resize(cv2.imread(str(path)), (SIZE, SIZE)) for path, _ in files])
    return pictures.astype(np.float32) / 255, np.eye(len(classes), dtype=np.float32)[[label for _, label in files]]


def build(keras: Any, classes: int) -> Any:
    """The network, compiled."""
    backbone = keras.applications.VGG16(weights=None, include_top=False, input_shape=(SIZE, SIZE, 3))
    backbone.trainable = False
    layers = keras.layers
    hidden = [layers.Dense(4096, activation="relu"), layers.Dense(4096, activation="relu")]
    model = keras.Sequential([backbone, layers.Flatten(), *hidden, layers.Dense(classes, activation="softmax")])
    model.compile(keras.optimizers.Adam(1e-3), "categorical_crossentropy", metrics=["accuracy"])
    return model


def main() -> None:
    lines = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    folder, steps, start = Path(sys.argv[1]), int(sys.argv[2]), time.perf_counter()
    keras = importlib.import_module("keras")
    image = importlib.import_module("keras.src.legacy.preprocessing.image")
    split = importlib.import_module("sklearn.model_selection").train_test_split

    pictures, labels = read_photos(folder)
    rest, test, rest_labels, _ = split(pictures, labels, test_size=0.2, random_state=0)
    train, val, train_labels, val_labels = split(rest, rest_labels, test_size=0.1, random_state=0)
    moves = {"rotation_range": 20, "width_shift_range": 0.2, "height_shift_range": 0.2, "horizontal_flip": True}
    generator = image.ImageDataGenerator(featurewise_center=True, featurewise_std_normalization=True, **moves)
    generator.fit(train)
    model = build(keras, labels.shape[1])
    setup = time.perf_counter() - start

    ends: list[float] = []
    clock = keras.callbacks.LambdaCallback(on_train_batch_end=lambda batch, logs: ends.append(time.perf_counter()))
    flow = generator.flow(train, train_labels, batch_size=BATCH)
    start = time.perf_counter()
    model.fit(flow, steps_per_epoch=steps + 1, epochs=1, callbacks=[clock], verbose=0)
    first, step = ends[0] - start, statistics.mean(np.diff(ends))

    model.evaluate(val[:BATCH], val_labels[:BATCH], batch_size=BATCH, verbose=0)
    count = min(len(val) // BATCH, steps) * BATCH
    start = time.perf_counter()
    model.evaluate(val[:count], val_labels[:count], batch_size=BATCH, verbose=0)
    val_step = (time.perf_counter() - start) * BATCH / count

    found = {
        "setup": setup, "first_step": first, "step": step, "val_step": val_step, "measured_steps": steps,
        "steps": -(-len(train) // BATCH), "val_steps": -(-len(val) // BATCH), "test_steps": -(-len(test) // BATCH),
        "peak_mb": peak_mb(), "keras": keras.__version__, "backend": keras.backend.backend(),
    }  # fmt: skip
    print(json.dumps(found), file=lines, flush=True)


if __name__ == "__main__":
    main()
