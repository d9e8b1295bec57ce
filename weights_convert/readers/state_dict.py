"""PyTorch parameter names, from `.pth` or safetensors, with the kind of their layer in front.

`module.features.0.weight` becomes `conv/features.0/weight`; the kind is told by the weight's rank.
"""

from __future__ import annotations

KINDS = {4: "conv", 2: "linear", 1: "norm"}
PREFIXES = ("module.", "_orig_mod.", "model.")  # data parallel, torch.compile, a wrapper class


def keys(shapes: dict[str, tuple[int, ...]]) -> dict[str, str]:
    """{name in the file: key} of every parameter; the counters of batch norms are left out."""
    short = {name: _strip(name, shapes) for name in shapes}
    ranks = {module(s): len(shapes[name]) for name, s in short.items() if s.endswith(".weight")}
    return {
        name: f"{KINDS.get(ranks.get(module(s), 0), 'other')}/{module(s)}/{s.rpartition('.')[2]}"
        for name, s in short.items()
        if not s.endswith(".num_batches_tracked")
    }


def module(name: str) -> str:
    """`features.0.weight` -> `features.0`."""
    return name.rpartition(".")[0]


def _strip(name: str, shapes: dict[str, tuple[int, ...]]) -> str:
    """Without the prefixes that all names share."""
    while prefix := next((p for p in PREFIXES if name.startswith(p)), None):
        if not all(other.find(prefix) >= 0 for other in shapes):
            break
        name = name.removeprefix(prefix)
    return name
