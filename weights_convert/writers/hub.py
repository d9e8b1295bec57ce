"""A folder for a model hub: the bundle, `model.safetensors` and `model.json`, and a model card, `README.md`."""

from __future__ import annotations

from pathlib import Path

import jinja2

from vgg_flax.answers import bundle as bundles
from vgg_flax.errors import UserError
from vgg_flax.files import write_atomic
from weights_convert.writers import card

CARD = "README.md"


def is_ours(names: set[str]) -> bool:
    """Whether a folder with these files may be replaced: an earlier export, or nothing at all."""
    return names in (set(), {bundles.ARRAYS, bundles.RECORD, CARD})


def write(bundle: bundles.Bundle, folder: Path, _: str) -> None:
    """Fill the folder, whose name becomes the model's. Raises UserError when the training record is not ours."""
    try:
        text = card.compose(bundle, folder.name)
    except (ArithmeticError, AttributeError, LookupError, TypeError, ValueError, jinja2.UndefinedError) as error:
        what = f"{type(error).__name__}: {error}"
        raise UserError(f"the training record is not as `vgg-flax train` or `import` writes it ({what}).") from None
    bundles.save(bundle, folder)
    write_atomic(folder / CARD, text)
