"""The kinds of heads, a row each: how it is built, and how it is fitted unless the settings say otherwise."""

from __future__ import annotations

import dataclasses

from vgg_flax.network.spec import POOLED_BLOCKS, POOLS, HeadSpec, Pool
from vgg_flax.settings import TrainSettings


@dataclasses.dataclass(frozen=True)
class HeadKind:
    """A row.

    Attributes:
      solver: `regression`: to convergence, on stored features, with cross-validation; `adamw`: epochs of batches.
      epochs: passes over the training pictures, for regression the most iterations.
    """

    solver: str
    epochs: int
    lr: float = 1e-3
    weight_decay: float = 1e-2
    hidden: tuple[int, ...] = ()
    pools: tuple[Pool, ...] = POOLS
    standardize: bool = True


HEADS = {
    "regression": HeadKind("regression", 300),
    "linear": HeadKind("adamw", 30),
    "mlp": HeadKind("adamw", 30, hidden=(256,)),
    "notebook": HeadKind("adamw", 5, lr=1e-4, hidden=(4096, 4096), pools=("flatten",), standardize=False),
}
BLOCKS = {"3-5": (3, 4, 5), "4-5": (4, 5), "5": (5,)}


def head_spec(settings: TrainSettings, classes: int) -> HeadSpec:
    """The head that the settings describe; where cross-validation is to choose its blocks, it reads them all."""
    kind, network = HEADS[settings.head], settings.network
    blocks = BLOCKS.get(network.blocks, POOLED_BLOCKS)
    if network.unfreeze == "block5" or "flatten" in kind.pools:
        blocks = (5,)
    return HeadSpec(classes, blocks, kind.pools, kind.hidden, network.dropout, kind.standardize)
