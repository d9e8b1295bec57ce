"""ONNX Runtime on the CPU."""

from __future__ import annotations

import os

import numpy as np
import onnxruntime

from benchmarks import networks


class Contender:
    def __init__(self, folder: str):
        self._folder = folder
        self.versions = {"onnxruntime": onnxruntime.__version__}

    def prepare(self, case: dict) -> np.ndarray:
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = len(os.sched_getaffinity(0))
        for name, side in (("batch", case["batch"]), ("height", case["size"]), ("width", case["size"])):
            options.add_free_dimension_override_by_name(name, side)
        path = f"{self._folder}/{case['model']}.onnx"
        self._session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
        images = networks.images(case["batch"], case["size"])
        self._images = np.ascontiguousarray(images.transpose(0, 3, 1, 2))
        return self.run()[0].mean((1, 2))

    def run(self) -> np.ndarray:
        return np.asarray(self._session.run(None, {"images": self._images})[0])
