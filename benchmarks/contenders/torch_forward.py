"""PyTorch, channels_last, eager or compiled."""

from __future__ import annotations

import importlib
import os

import numpy as np

from benchmarks import networks

torch = importlib.import_module("torch")


class Contender:
    def __init__(self, compiled: bool):
        torch.set_num_threads(len(os.sched_getaffinity(0)))
        self.compiled = compiled
        self.versions = {"torch": torch.__version__, "threads": str(torch.get_num_threads())}

    def prepare(self, case: dict) -> np.ndarray:
        values, parts = networks.weights(case["model"]), []
        for name, inputs, outputs, pool in networks.layers(case["model"]):
            layer = torch.nn.Conv2d(inputs, outputs, 3, padding=1)
            kernel = np.ascontiguousarray(values[f"{name}/kernel"].transpose(3, 2, 0, 1))
            layer.load_state_dict(
                {"weight": torch.from_numpy(kernel), "bias": torch.from_numpy(values[f"{name}/bias"])}
            )
            parts += [layer, torch.nn.ReLU(inplace=True), *([torch.nn.MaxPool2d(2)] if pool else [])]
        network = torch.nn.Sequential(*parts).eval().to(memory_format=torch.channels_last)
        self._network = torch.compile(network) if self.compiled else network
        images = torch.from_numpy(networks.images(case["batch"], case["size"]))
        self._images = images.permute(0, 3, 1, 2).contiguous(memory_format=torch.channels_last)
        return self.run()[0].mean((1, 2))

    def run(self) -> np.ndarray:
        with torch.inference_mode():
            return self._network(self._images).numpy()
