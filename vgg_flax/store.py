"""The frozen layers of each picture, computed once: a row per (content, view), whatever data set it comes from.

Another label, name or split costs nothing, ten photos more cost ten. View 0 is the clean picture; every other view is a
random one, a function of (seed, view, content).
"""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import json
from collections.abc import Callable, Sequence
from typing import Any

import jax
import numpy as np

from vgg_flax.cache import Rows, RowStore
from vgg_flax.console import bar
from vgg_flax.data import decode
from vgg_flax.data.prefetch import prefetch
from vgg_flax.network.augment import view_keys
from vgg_flax.network.extract import Extractor, batch_size
from vgg_flax.settings import AugmentSettings


class FeatureStore:
    """What an extractor gives, kept on disk.

    Attributes:
      computed: rows that were computed by this object, a picture's view each.
    """

    def __init__(self, extractor: Extractor, augmentation: AugmentSettings, seed: int):
        self.extractor, self.augmentation, self.seed = extractor, augmentation, seed
        self.computed = 0
        identity = extractor.identity
        identity = {**identity, "versions": {**identity["versions"], "decode": decode.VERSION}}
        self._stores = {name: RowStore(name, identity, shape) for name, shape in sorted(extractor.shapes.items())}

    def rows(self, name: str, contents: np.ndarray, view: int = 0) -> Rows:
        """Rows that `fill` has seen to: float32 `[n, *shape]`, read from the disk when indexed."""
        return self._stores[name].rows(self._keys(contents, view))

    def outputs(self, images: np.ndarray, contents: Sequence[str]) -> dict[str, np.ndarray]:
        """All outputs of a few clean pictures, computed and kept where they are unknown.

        Args:
          images: uint8 RGB `[n, size, size, 3]`, n at most one batch.
          contents: `[n]`.

        Returns:
          {output: float32 `[n, *shape]`}.
        """
        keys = [bytes.fromhex(content) for content in contents]
        for store in self._stores.values():
            store.refresh()
        lacking = [np.flatnonzero(store.find(keys) < 0) for store in self._stores.values()]
        if len(missing := np.unique(np.concatenate(lacking))):
            size = batch_size(self.extractor.preprocessing.image_size)
            computed = self.extractor(images[np.resize(missing, size)])
            for name, store in self._stores.items():
                store.add([keys[i] for i in missing], np.asarray(computed[name])[: len(missing)])
            self.computed += len(missing)
        return {name: store.rows(keys)[:] for name, store in self._stores.items()}

    def fill(self, images: Any, contents: np.ndarray, view: int = 0, check: Callable[[], None] = lambda: None) -> None:
        """Compute what is missing of one view.

        Args:
          images: uint8 RGB `[n, size, size, 3]`, indexable by an array.
          contents: str `[n]`.
          check: called between batches; may raise to stop. What is done stays done.

        Raises:
          UserError: it fits neither the disk nor the memory.
        """
        keys = self._keys(contents, view)
        with contextlib.ExitStack() as claims:
            lacking = [claims.enter_context(store.filling(keys, check)) for store in self._stores.values()]
            if len(missing := np.unique(np.concatenate(lacking))):
                self._compute(images, contents, missing, view, check)

    def _compute(
        self, images: Any, contents: np.ndarray, missing: np.ndarray, view: int, check: Callable[[], None]
    ) -> None:
        size = batch_size(self.extractor.preprocessing.image_size)
        starts = range(0, len(missing), size)

        def load(k: int) -> tuple[np.ndarray, np.ndarray]:
            some = missing[starts[k] : starts[k] + size]
            return some, images[np.resize(some, size)]  # one shape compiles; the surplus is thrown away

        title = "features of the clean pictures" if view == 0 else f"features of random view {view}"
        with bar(title, len(missing)) as advance:
            for some, batch in prefetch(load, len(starts), ahead=2):
                keys = view_keys(self.seed, view, contents[np.resize(some, size)]) if view else None
                outputs = self.extractor(batch, keys, self.augmentation)
                for name, store in self._stores.items():
                    store.add(self._keys(contents[some], view), np.asarray(outputs[name])[: len(some)])
                self.computed += len(some)
                advance(len(some))
                check()

    def _keys(self, contents: np.ndarray, view: int) -> list[bytes]:
        if view == 0:
            return [bytes.fromhex(content) for content in contents]
        random = [dataclasses.asdict(self.augmentation), self.seed, int(view), jax.__version__]
        settings = json.dumps(random, sort_keys=True).encode()
        return [hashlib.sha256(bytes.fromhex(content) + settings).digest() for content in contents]
