"""What `--weights` names -> parameters and preprocessing: ImageNet, a file, an imported folder, or a run."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from vgg_flax.errors import UserError

if TYPE_CHECKING:  # --help needn't wait for NumPy and OpenCV
    from vgg_flax.network.params import Params
    from vgg_flax.network.spec import BackboneSpec, Preprocessing

Say = Callable[[str], object]


class WeightsUnavailable(UserError):
    """ImageNet weights can't be had here: no network, and no file brought by hand."""


@dataclasses.dataclass(frozen=True)
class Weights:
    """Parameters that somebody trained.

    Attributes:
      backbone: {layer: {"kernel": [3, 3, in, out], "bias": [out]}}, float32, for RGB input.
      top: {"fc1", "fc2", "predictions"}: {"kernel": [in, out], "bias": [out]}}, or None.
      preprocessing: mean and std that the backbone expects; the image size is the caller's to choose.
      source: where they come from, for people.
      random: not trained at all.
    """

    backbone: Params
    top: Params | None
    preprocessing: Preprocessing
    source: str
    random: bool = False


def load(source: str, spec: BackboneSpec, *, say: Say = print) -> Weights:
    """The weights that `source` names, checked against `spec`.

    Args:
      source: `imagenet`, a weight file, a folder that `weights_convert import` wrote, a bundle or a run.
      spec: the backbone it must be.
      say: called with a line of text when something takes long or deserves a word.

    Raises:
      WeightsUnavailable: `imagenet`, and neither the cache nor a network has it.
      UserError: no such file, not a VGG, or another VGG than `spec`.
    """
    if source == "imagenet":
        from weights_convert import imagenet

        return _imported(imagenet.load(spec, say))
    path = Path(source).expanduser()
    if not path.exists():
        raise UserError(
            f"--weights is {source}, and there is no such file or folder. "
            "Expected imagenet, random, a weight file, an imported folder or a finished run."
        )
    if path.name in ("model.json", "model.safetensors") and (path.parent / "model.safetensors").is_file():
        path = path.parent  # one of a bundle's two files
    in_browser = (path / "model.json").is_file() and not (path / "model.safetensors").exists()
    if path.is_dir() and not in_browser:
        return from_folder(path, spec)
    return from_file(path, spec, say)


def from_file(path: Path, spec: BackboneSpec, say: Say = print) -> Weights:
    """The weights in another framework's file. Raises WeightFileError."""
    from vgg_flax.network.spec import Preprocessing
    from weights_convert.convert import plan
    from weights_convert.readers import open_source

    with open_source(path) as source:
        found = plan(source, spec)
        weights = Weights(
            found.read("backbone"),
            found.read("top") if found.has_top else None,
            Preprocessing(224, found.mean, found.std),
            f"{path} ({found.format})",
        )
    if found.left_out:
        say(f"{path}: {len(found.left_out)} tensors are not of the backbone and were left out.")
    return weights


def from_folder(path: Path, spec: BackboneSpec) -> Weights:
    """The weights of an imported folder, a bundle or a run. Raises UserError."""
    from weights_convert import store

    if (path / store.RECORD).is_file():
        record, params = store.load(path)
        _check(path, params["backbone"], record["model"], spec)
        return _imported((record, params))
    from vgg_flax.answers import bundle

    found = bundle.load(path)
    backbone: dict[str, Any] = found.params["backbone"]
    _check(path, backbone, found.spec.backbone.name, spec)
    return Weights(backbone, None, found.preprocessing, f"the trained model in {path}")


def _imported(loaded: tuple[dict[str, Any], Params]) -> Weights:
    from vgg_flax.network.spec import Preprocessing

    record, params = loaded
    preprocessing = Preprocessing(224, tuple(record["mean"]), tuple(record["std"]))
    return Weights(params["backbone"], params.get("top"), preprocessing, record["source"])


def _check(path: Path, backbone: Params, model: str, spec: BackboneSpec) -> None:
    from vgg_flax.network.params import flatten

    channels, want = 3, {}
    for i, block in enumerate(spec.blocks, 1):
        for j, out in enumerate(block, 1):
            want[f"block{i}_conv{j}/kernel"] = (3, 3, channels, out)
            want[f"block{i}_conv{j}/bias"] = (out,)
            channels = out
    have = {name: leaf.shape for name, leaf in flatten(backbone).items()}
    if have != want:
        wrong = min(want.items() ^ have.items())[0]
        if model != spec.name:
            names = f"{model.upper()}, expected {spec.name.upper()}"
            raise UserError(f"{path} holds {names} (they differ in {wrong}): use --model {model}.")
        shapes = f"{wrong} is {have.get(wrong)}, expected {want.get(wrong)}"
        raise UserError(f"{path} does not fit {spec.name.upper()}: {shapes}.")
