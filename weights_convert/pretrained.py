"""What `--weights` names -> parameters and preprocessing: ImageNet, a file, an imported folder, or a run."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from vgg_flax.errors import UserError
from weights_convert.types import Say, Weights

if TYPE_CHECKING:  # --help does not wait for NumPy
    from vgg_flax.network.spec import BackboneSpec


def load(source: str, spec: BackboneSpec, *, say: Say) -> Weights:
    """The weights that `source` names, checked against `spec`.

    Args:
      source: `imagenet`, a weight file, a folder that `import` wrote, a bundle or a run.
      spec: the backbone it must be.
      say: called with a line of text when something takes long or should be known.

    Raises:
      WeightsUnavailable: `imagenet`, and neither the cache nor a network has it.
      UserError: no such file, not a VGG, or another VGG than `spec`.
    """
    if source == "imagenet":
        from weights_convert import imagenet

        return imagenet.load(spec, say)
    path = Path(source).expanduser()
    if not path.exists():
        raise UserError(
            f"{source}: there is no such file or folder. "
            "Expected imagenet, random, a weight file, an imported folder or a finished run."
        )
    if path.name in ("model.json", "model.safetensors") and (path.parent / "model.safetensors").is_file():
        path = path.parent  # one of a bundle's two files
    in_browser = (path / "model.json").is_file() and not (path / "model.safetensors").exists()
    if path.is_dir() and not in_browser:
        from weights_convert import store

        return store.load(path, spec)
    return from_file(path, spec, say)


def from_file(path: Path, spec: BackboneSpec, say: Say) -> Weights:
    """The weights in another framework's file. Raises WeightFileError."""
    from weights_convert.convert import plan
    from weights_convert.readers import open_source

    with open_source(path) as source:
        found = plan(source, spec)
        backbone = found.read()
    if found.left_out:
        say(f"{path}: {len(found.left_out)} tensors are not of the backbone and were left out.")
    return Weights(backbone, found.preprocessing, f"{path} ({found.format})")
