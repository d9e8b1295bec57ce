"""Other frameworks' VGG weights <-> ours. Importing it loads neither JAX, NumPy nor OpenCV."""

from weights_convert.pretrained import load
from weights_convert.types import Weights, WeightsUnavailable

__all__ = ["Weights", "WeightsUnavailable", "load"]
