"""PyTorch on a GPU: torch.compile with max-autotune, channels_last, bfloat16 autocast, AdamW for fine-tuning."""

from __future__ import annotations

import importlib

from benchmarks import networks

torch = importlib.import_module("torch")


class Contender:
    def __init__(self):
        if not torch.cuda.is_available():
            raise RuntimeError("torch finds no GPU: --torch-python must have a CUDA build")
        self.versions = {"torch": torch.__version__, "device": torch.cuda.get_device_name()}

    def prepare(self, case: dict) -> list[float]:
        parts = []
        for _, inputs, outputs, pool in networks.layers("vgg16"):
            parts += [torch.nn.Conv2d(inputs, outputs, 3, padding=1), torch.nn.ReLU(inplace=True)]
            parts += [torch.nn.MaxPool2d(2)] if pool else []
        head = [torch.nn.AdaptiveAvgPool2d(1), torch.nn.Flatten()]
        head += [torch.nn.Linear(512, 2)] if case["what"] == "fine-tune" else []
        network = torch.nn.Sequential(*parts, *head).cuda().to(memory_format=torch.channels_last)
        compiled = torch.compile(network, mode="max-autotune")
        shape = (case["batch"], 3, 224, 224)
        pictures = torch.randint(0, 256, shape, dtype=torch.uint8, device="cuda")
        images = pictures.contiguous(memory_format=torch.channels_last)
        mean = torch.tensor(networks.MEAN, device="cuda").view(1, 3, 1, 1)

        def features() -> None:
            with torch.inference_mode(), torch.autocast("cuda", torch.bfloat16):
                compiled(images - mean)
            torch.cuda.synchronize()

        optimizer = torch.optim.AdamW(network.parameters(), 1e-5, fused=True)
        labels = torch.ones(case["batch"], dtype=torch.long, device="cuda")

        def fine_tune() -> None:
            with torch.autocast("cuda", torch.bfloat16):
                loss = torch.nn.functional.cross_entropy(compiled(images - mean), labels)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            torch.cuda.synchronize()

        self.run = features if case["what"] == "features" else fine_tune
        for _ in range(3):
            self.run()
        return []
