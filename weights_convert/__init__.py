"""Other frameworks' VGG weights <-> ours. Importing it loads neither JAX nor a file format's library."""

from weights_convert.pretrained import Weights, WeightsUnavailable, load

__all__ = ["Weights", "WeightsUnavailable", "load"]
