"""OpenVINO on the CPU, in float32: its default would be bfloat16 where the processor has it."""

from __future__ import annotations

import os

import numpy as np
import openvino  # pyright: ignore[reportMissingImports]

from benchmarks import networks


class Contender:
    def __init__(self, folder: str):
        self._folder = folder
        self.versions = {"openvino": openvino.__version__, "INFERENCE_PRECISION_HINT": "f32", "hint": "LATENCY"}

    def prepare(self, case: dict) -> np.ndarray:
        core = openvino.Core()
        model = core.read_model(f"{self._folder}/{case['model']}.onnx")
        model.reshape([case["batch"], 3, case["size"], case["size"]])
        threads = len(os.sched_getaffinity(0))
        settings = {"INFERENCE_PRECISION_HINT": "f32", "INFERENCE_NUM_THREADS": threads, "PERFORMANCE_HINT": "LATENCY"}
        self._compiled = core.compile_model(model, "CPU", settings)
        images = networks.images(case["batch"], case["size"])
        self._images = np.ascontiguousarray(images.transpose(0, 3, 1, 2))
        return self.run()[0].mean((1, 2))

    def run(self) -> np.ndarray:
        return np.asarray(self._compiled(self._images)[0])
