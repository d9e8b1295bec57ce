"""What is kept between runs: decoded pictures and features as rows, weights, compiled code; and how it is pruned."""

from vgg_flax.cache.folder import cache_dir, usable_dir
from vgg_flax.cache.kept import Entry, entries, parse_size, prune
from vgg_flax.cache.rows import Rows, RowStore

__all__ = ["Entry", "RowStore", "Rows", "cache_dir", "entries", "parse_size", "prune", "usable_dir"]
