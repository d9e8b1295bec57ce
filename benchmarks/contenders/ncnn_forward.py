"""ncnn on the CPU, in float32. It has no batches: of sixteen pictures it does one after the other."""

from __future__ import annotations

import os
import struct
from pathlib import Path

import ncnn  # pyright: ignore[reportMissingImports]
import numpy as np

from benchmarks import networks


class Contender:
    def __init__(self, folder: str):
        self._folder = Path(folder)
        self.versions = {"ncnn": ncnn.__version__, "fp16 and bf16": "off", "winograd, sgemm": "on"}

    def prepare(self, case: dict) -> np.ndarray:
        model = case["model"]
        self._last = write_model(model, case["size"], self._folder)
        self._net = ncnn.Net()
        options = self._net.opt
        options.num_threads = len(os.sched_getaffinity(0))
        options.use_vulkan_compute = options.use_bf16_storage = False
        options.use_fp16_packed = options.use_fp16_storage = options.use_fp16_arithmetic = False
        for failed in (
            self._net.load_param(str(self._folder / f"{model}.param")),
            self._net.load_model(str(self._folder / f"{model}.bin")),
        ):
            if failed:
                raise RuntimeError(f"ncnn refuses its model file ({failed})")
        images = networks.images(case["batch"], case["size"])
        self._images = np.ascontiguousarray(images.transpose(0, 3, 1, 2))
        return self.run()[0].mean((1, 2))

    def run(self) -> list[np.ndarray]:
        return [self._one(image) for image in self._images]

    def _one(self, image: np.ndarray) -> np.ndarray:
        extractor = self._net.create_extractor()
        extractor.input("images", ncnn.Mat(image))
        failed, out = extractor.extract(self._last)
        if failed:
            raise RuntimeError(f"ncnn could not run the network ({failed})")
        return np.array(out)


def write_model(model: str, size: int, folder: Path) -> str:
    """ncnn's own two files. Returns the name of the output.

    Of a Convolution, 0 is the number of outputs, 1 the kernel's side, 4 the padding, 5 whether there is a bias, 6 the
    number of weights, 9 = 1 a ReLU; of a Pooling, 0 = 0 the maximum, 1 the side, 2 the stride.
    """
    lines, last, values = [f"Input images 0 1 images 0={size} 1={size} 2=3"], "images", networks.weights(model)
    with (folder / f"{model}.bin").open("wb") as file:
        for name, inputs, outputs, pool in networks.layers(model):
            numbers = f"0={outputs} 1=3 4=1 5=1 6={9 * inputs * outputs} 9=1"
            lines.append(f"Convolution {name} 1 1 {last} {name} {numbers}")
            kernel = np.ascontiguousarray(values[f"{name}/kernel"].transpose(3, 2, 0, 1))
            file.write(struct.pack("<I", 0) + kernel.tobytes() + values[f"{name}/bias"].tobytes())
            last = name
            if pool:
                lines.append(f"Pooling {name}_pool 1 1 {name} {name}_pool 0=0 1=2 2=2")
                last = f"{name}_pool"
    text = "\n".join(["7767517", f"{len(lines)} {len(lines)}", *lines])
    (folder / f"{model}.param").write_text(text + "\n")
    return last
