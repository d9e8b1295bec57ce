"""Other frameworks' VGG weights <-> ours. Importing it loads neither JAX, NumPy nor OpenCV."""

from weights_convert.pretrained import Weights, WeightsUnavailable, load

__all__ = ["Weights", "WeightsUnavailable", "load"]
