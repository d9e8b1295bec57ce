"""Photos whose class is in the name of their file: `cat.0.jpg`, `dog.0.jpg`."""

from __future__ import annotations

from vgg_flax.data.dataset import Dataset, LeftOut, compiled
from vgg_flax.data.layout import dataset
from vgg_flax.data.listing import NOT_A_PICTURE, Listing
from vgg_flax.data.splitnames import is_split, role
from vgg_flax.errors import UserError


def by_names(listing: Listing, label: str) -> Dataset:
    """The pictures of a listing, wherever they lie; folders such as train/ and test/ are their splits.

    Args:
      label: a regular expression; its group 1, found in a file's name, is the class.

    Raises:
      UserError: no regular expression with a group 1, or it finds fewer than two classes.
    """
    pattern = compiled("label", label)
    pictures = set(listing.pictures())
    found: list[tuple[str, str, str]] = []  # name, split, class
    left_out = []
    for name in listing.names:
        match = pattern.search(name.rpartition("/")[2])
        if name not in pictures:
            left_out.append(LeftOut(name, NOT_A_PICTURE))
        elif not match or not match[1]:
            left_out.append(LeftOut(name, "--label finds no class in its name"))
        else:
            found.append((name, _split(name), match[1]))
    classes = sorted({label for _, _, label in found})
    if len(classes) < 2:
        what = f"one class, {classes[0]!r}," if classes else "no class"
        example = f" such as {sorted(pictures)[0]!r}" if pictures else ""
        raise UserError(
            f"--label {label!r} finds {what} in the {len(pictures)} picture names of {listing.source}{example}, "
            "expected at least two."
        )
    splits = {split for _, split, _ in found}
    if splits != {""} and "train" not in splits:
        raise UserError(
            f"{listing.source} has pictures of {' and '.join(sorted(splits - {''}))}, but no folder for training: "
            "give --data the folder that holds both, or another name to the folder."
        )
    number = {label: i for i, label in enumerate(classes)}
    kept = [(name, split, number[label], name) for name, split, label in found]
    notes = [f"--label finds {len(classes)} classes in the names of {len(found)} files"]
    return dataset(listing, classes, kept, left_out, notes, [])


def _split(name: str) -> str:
    """ "train", "val" or "test" of the first folder that means one, else ""."""
    for folder in name.split("/")[:-1]:
        if is_split(folder) and (found := role(folder)):
            return found.kind
    return ""
