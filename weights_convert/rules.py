"""What names can't say of a family of weight files: colours and statistics. A new one is a row here.

Which tensor is which parameter is told by shapes and order, see `assemble`.
"""

from __future__ import annotations

import dataclasses

from vgg_flax.network.spec import KERAS_MEAN

# Convolutions in each block, and their widths: Simonyan and Zisserman, table 1, columns D and E.
DEPTHS = {"vgg16": (2, 2, 3, 3, 3), "vgg19": (2, 2, 4, 4, 4)}
WIDTHS = (64, 128, 256, 512, 512)

TOP_LAYERS = ("fc1", "fc2", "predictions")

CAFFE = (KERAS_MEAN, (1.0, 1.0, 1.0))
TORCH = ((123.675, 116.28, 103.53), (58.395, 57.12, 57.375))  # (0.485, 0.456, 0.406) and (0.229, 0.224, 0.225) x 255
VGGFACE = ((129.1863, 104.7624, 93.5940), (1.0, 1.0, 1.0))


@dataclasses.dataclass(frozen=True)
class Dialect:
    """One family of weight files.

    Attributes:
      title: for people.
      bgr: the first kernel expects BGR; its input channels are flipped once, at import.
      mean, std: RGB, in units of 0..255: what its weights were trained with.
      names: regular expression that the name of its first convolution has somewhere; of several, the first row wins.
    """

    title: str
    bgr: bool
    mean: tuple[float, float, float]
    std: tuple[float, float, float]
    names: str = ""


DIALECTS = {
    "keras": Dialect("Keras, layers called block1_conv1 to block5_conv4", True, *CAFFE, r"block1_conv1"),
    "keras-numbered": Dialect("Keras, layers called conv2d, conv2d_1, ... in order", True, *CAFFE, r"conv(olution)?2d"),
    "vggface": Dialect("keras-vggface, layers called conv1_1 to conv5_3", True, *VGGFACE, r"(^|/)conv1_1"),
    "torchvision": Dialect("torchvision, features.0.weight to classifier.6.weight", False, *TORCH),
    "timm": Dialect("timm, fc1 and fc2 as convolutions called pre_logits", False, *TORCH),
    "machrisaa": Dialect("machrisaa's tensorflow-vgg, {'conv1_1': [kernel, bias], ...}", True, *CAFFE),
    "frossard": Dialect("Davi Frossard's vgg16_weights.npz, conv1_1_W to fc8_b", False, *CAFFE, r"^conv1_1$"),
    # Statistics: where the file's own metadata say nothing.
    "vgg_flax": Dialect("our own names, backbone/block1_conv1/kernel", False, *CAFFE),
    "onnx-keras": Dialect("ONNX of a Keras model (tf2onnx, keras2onnx)", True, *CAFFE),
    # Statistics: where the file's own metadata say nothing, which `export` never leaves out.
    "onnx-vgg_flax": Dialect("ONNX that `export` wrote, preprocessing inside", False, *CAFFE),
    "onnx-torch": Dialect("ONNX of a torchvision model (torch.onnx)", False, *TORCH),
}


def conv_names(depths: tuple[int, ...]) -> list[str]:
    """Keras layer names of the convolutions, in order."""
    return [f"block{i}_conv{j}" for i, depth in enumerate(depths, 1) for j in range(1, depth + 1)]
