"""An imported folder: a bundle without a head."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from pathlib import Path

from vgg_flax.answers import bundle
from vgg_flax.errors import UserError
from vgg_flax.files import sync_folder, temporary_folder
from vgg_flax.network.spec import BackboneSpec
from weights_convert.convert import Plan
from weights_convert.types import Weights


def save(plan: Plan, folder: Path, source: str, *, overwrite: bool = False) -> None:
    """Write the backbone of `plan` into a folder, which appears whole or not at all. One tensor at a time is in memory.

    Raises:
      UserError: the folder exists, or can't be written.
    """
    training = {"source": source, "dialect": plan.dialect}
    record = bundle.describe(BackboneSpec(plan.model, plan.blocks), None, plan.preprocessing, (), training)
    arrays = [bundle.Entry(path, move.shape, move.read) for path, move in plan.moves.items()]
    with whole_folder(folder, is_ours, overwrite=overwrite) as new:
        bundle.write(new, record, arrays)


def load(folder: Path, spec: BackboneSpec) -> Weights:
    """The convolutions of an imported folder, a bundle or a run. Raises UserError, also for another VGG than `spec`."""
    found = bundle.load_backbone(folder)
    if found.spec.name != spec.name:
        names = f"{found.spec.name.upper()}, expected {spec.name.upper()}"
        raise UserError(f"{folder} holds {names}: use --model {found.spec.name}.")
    if found.spec != spec:
        raise UserError(f"{folder} has blocks of {found.spec.blocks} channels, expected {spec.blocks}.")
    return Weights(found.params, found.preprocessing, found.training.get("source", f"the trained model in {folder}"))


def is_ours(names: set[str]) -> bool:
    """Whether a folder with these files, and nothing else, may be replaced: an earlier import, or an empty one."""
    return names in (set(), {bundle.ARRAYS, bundle.RECORD})  # model.json alone may be somebody else's


@contextlib.contextmanager
def whole_folder(folder: Path, ours: Callable[[set[str]], bool], *, overwrite: bool) -> Iterator[Path]:
    """An empty folder of the same name, which takes the place of `folder` if all went well, and goes away if not.

    Args:
      ours: whether a folder that holds files of these names, and nothing else, may be replaced.

    Raises:
      UserError: `folder` exists and may not be replaced, or can't be written.
    """
    if folder.exists() and not overwrite:
        raise UserError(f"{folder} exists. Give another folder, or --overwrite.")
    if folder.name in ("", ".."):
        raise UserError(f"{folder} is no name. Expected that of a new folder.")
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        with temporary_folder(folder) as temporary:
            new = temporary / "new" / folder.name
            new.mkdir(parents=True)
            yield new
            old = temporary / "old"
            try:
                if folder.exists():
                    _check_replaceable(folder, ours)
                    folder.rename(old)
                new.rename(folder)
            finally:
                if old.exists() and not folder.exists():  # a signal came between the two
                    old.rename(folder)
            sync_folder(folder.parent)
    except OSError as error:
        raise UserError(f"{folder} can't be written: {error.strerror or error}.") from None


def _check_replaceable(folder: Path, ours: Callable[[set[str]], bool]) -> None:
    if not folder.is_dir():
        raise UserError(f"{folder} is no folder, and is not replaced. Give another name.")
    inside = list(folder.iterdir())
    names = sorted(path.name for path in inside)
    if not (all(path.is_file() for path in inside) and ours(set(names))):
        raise UserError(f"{folder} holds {', '.join(names[:3])} and is not replaced. Give another folder.")
