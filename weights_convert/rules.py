"""Which name in a file is which of our parameters, and in which layout. A new dialect is a table, not code.

A rule is (pattern over `Tensor.key`, target, layout). Named groups of the pattern fill the target's braces. A
group called `index` is not used as it stands: the n-th smallest index of all matches is the n-th convolution, and
likewise the n-th `norm_index` is the batch norm behind the n-th convolution; both fill `{conv_layer}`.
The pattern must match the whole key; `layout` names an entry of `mapping.LAYOUTS`, whose rank must be the
tensor's: of several rules that match a key, the first with the right rank is taken.
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


@dataclasses.dataclass(frozen=True)
class Rule:
    """Where one kind of tensor goes; `epsilon` is that of a batch norm that is folded, torch's if nothing says more."""

    pattern: str
    target: str
    layout: str
    epsilon: float = 1e-5


@dataclasses.dataclass(frozen=True)
class Dialect:
    """One family of weight files.

    Attributes:
      title: for people.
      bgr: the first kernel expects BGR; its input channels are flipped once, at import.
      mean, std: RGB, in units of 0..255: what its ImageNet weights were trained with.
      rules: a tensor that none of them matches belongs to a head of its own.
    """

    title: str
    bgr: bool
    mean: tuple[float, float, float]
    std: tuple[float, float, float]
    rules: tuple[Rule, ...]


# Keras spells a variable `kernel`, before version 2 `W`; Keras 3's .weights.h5 numbers them.
_KERNEL = r"/(?:.*/)?(?:kernel|W|0)(?:_\d+)?"
_BIAS = r"/(?:.*/)?(?:bias|b|1)(?:_\d+)?"
_BLOCK = r"(?:.*/)?block(?P<block>[1-5])_conv(?P<conv>[1-4])(?:_\d+)?"
_NUMBERED = r"(?:.*/)?conv(?:olution)?2d(?:_(?P<index>\d+))?"
_TOP = r"(?:.*/)?(?P<layer>fc1|fc2|predictions)(?:_\d+)?"

KERAS_TOP = (Rule(_TOP + _KERNEL, "top/{layer}/kernel", "in_out"), Rule(_TOP + _BIAS, "top/{layer}/bias", "bias"))
# A batch norm between a convolution and its ReLU is folded into the convolution.
TORCH_CONVS = (
    Rule(r"conv/features\.(?P<index>\d+)/weight", "backbone/{conv_layer}/kernel", "oihw"),
    Rule(r"conv/features\.(?P<index>\d+)/bias", "backbone/{conv_layer}/bias", "bias"),
    Rule(r"norm/features\.(?P<norm_index>\d+)/(?P<part>\w+)", "norm/{conv_layer}/{part}", "bias"),
)
CAFFE_TOP = ((6, "fc1"), (7, "fc2"), (8, "predictions"))

DIALECTS = {
    "keras": Dialect(
        "Keras, layers called block1_conv1 to block5_conv4",
        True,
        *CAFFE,
        (
            Rule(_BLOCK + _KERNEL, "backbone/block{block}_conv{conv}/kernel", "hwio"),
            Rule(_BLOCK + _BIAS, "backbone/block{block}_conv{conv}/bias", "bias"),
            *KERAS_TOP,
        ),
    ),
    "keras-numbered": Dialect(
        "Keras, layers called conv2d, conv2d_1, ... in order",
        True,
        *CAFFE,
        (
            Rule(_NUMBERED + _KERNEL, "backbone/{conv_layer}/kernel", "hwio"),
            Rule(_NUMBERED + _BIAS, "backbone/{conv_layer}/bias", "bias"),
            *KERAS_TOP,
        ),
    ),
    "torchvision": Dialect(
        "torchvision, features.0.weight to classifier.6.weight",
        False,
        *TORCH,
        (
            *TORCH_CONVS,
            Rule(r"linear/classifier\.0/weight", "top/fc1/kernel", "out_in_chw"),
            Rule(r"linear/classifier\.3/weight", "top/fc2/kernel", "out_in"),
            Rule(r"linear/classifier\.6/weight", "top/predictions/kernel", "out_in"),
            Rule(r"linear/classifier\.0/bias", "top/fc1/bias", "bias"),
            Rule(r"linear/classifier\.3/bias", "top/fc2/bias", "bias"),
            Rule(r"linear/classifier\.6/bias", "top/predictions/bias", "bias"),
        ),
    ),
    "timm": Dialect(
        "timm, fc1 and fc2 as convolutions called pre_logits",
        False,
        *TORCH,
        (
            *TORCH_CONVS,
            Rule(r"conv/pre_logits\.(?P<layer>fc[12])/weight", "top/{layer}/kernel", "oihw_dense"),
            Rule(r"conv/pre_logits\.(?P<layer>fc[12])/bias", "top/{layer}/bias", "bias"),
            Rule(r"linear/head\.fc/weight", "top/predictions/kernel", "out_in"),
            Rule(r"linear/head\.fc/bias", "top/predictions/bias", "bias"),
        ),
    ),
    "machrisaa": Dialect(
        "machrisaa's tensorflow-vgg, {'conv1_1': [kernel, bias], ...}",
        True,
        *CAFFE,
        (
            Rule(r"conv(?P<block>\d)_(?P<conv>\d)/0", "backbone/block{block}_conv{conv}/kernel", "hwio"),
            Rule(r"conv(?P<block>\d)_(?P<conv>\d)/1", "backbone/block{block}_conv{conv}/bias", "bias"),
            *(Rule(f"fc{i}/0", f"top/{layer}/kernel", "in_out") for i, layer in CAFFE_TOP),
            *(Rule(f"fc{i}/1", f"top/{layer}/bias", "bias") for i, layer in CAFFE_TOP),
        ),
    ),
    "frossard": Dialect(
        "Davi Frossard's vgg16_weights.npz, conv1_1_W to fc8_b",
        False,
        *CAFFE,
        (
            Rule(r"conv(?P<block>\d)_(?P<conv>\d)_W", "backbone/block{block}_conv{conv}/kernel", "hwio"),
            Rule(r"conv(?P<block>\d)_(?P<conv>\d)_b", "backbone/block{block}_conv{conv}/bias", "bias"),
            *(Rule(f"fc{i}_W", f"top/{layer}/kernel", "in_out") for i, layer in CAFFE_TOP),
            *(Rule(f"fc{i}_b", f"top/{layer}/bias", "bias") for i, layer in CAFFE_TOP),
        ),
    ),
    "vgg_flax": Dialect(
        "our own names, backbone/block1_conv1/kernel",
        False,
        *CAFFE,  # where the file's own metadata say nothing
        (
            Rule(r"(?P<path>backbone/\w+/kernel)", "{path}", "hwio"),
            Rule(r"(?P<path>top/\w+/kernel)", "{path}", "in_out"),
            Rule(r"(?P<path>(?:backbone|top)/\w+/bias)", "{path}", "bias"),
        ),
    ),
    "onnx-keras": Dialect("ONNX of a Keras model (tf2onnx, keras2onnx)", True, *CAFFE, ()),
    # Statistics: where the file's own metadata say nothing, which `export` never leaves out.
    "onnx-vgg_flax": Dialect("ONNX that `export` wrote, preprocessing inside", False, *CAFFE, ()),
    "onnx-torch": Dialect("ONNX of a torchvision model (torch.onnx)", False, *TORCH, ()),
}


def conv_names(depths: tuple[int, ...]) -> list[str]:
    """Keras layer names of the convolutions, in order."""
    return [f"block{i}_conv{j}" for i, depth in enumerate(depths, 1) for j in range(1, depth + 1)]
