"""What folders mean: a folder per class, below folders of splits or not, in a wrapper or not.

What looks like a split and can't be used as one is refused: as a class, it would make every figure untrue.
"""

from __future__ import annotations

import collections
import dataclasses

import numpy as np

from vgg_flax.data.dataset import Dataset, LeftOut
from vgg_flax.data.listing import NOT_A_PICTURE, Listing
from vgg_flax.data.splitnames import Role, is_split, role
from vgg_flax.data.tree import Tree, above, last
from vgg_flax.errors import UserError
from vgg_flax.settings import SPLITS

SHOWN = 5  # names in a sentence


@dataclasses.dataclass
class Layout:
    """What was understood.

    Attributes:
      places: {folder: (split or "", class)}; whatever lies below such a folder is of that class.
      tops: folders that hold class folders; pictures directly in them belong to no class.
      notes, warnings: a line each.
    """

    places: dict[str, tuple[str, str]] = dataclasses.field(default_factory=dict)
    tops: list[str] = dataclasses.field(default_factory=list)
    notes: list[str] = dataclasses.field(default_factory=list)
    warnings: list[str] = dataclasses.field(default_factory=list)

    def place(self, name: str) -> tuple[str, str, str] | None:
        """(Split, class, path below the class's folder) of a file or folder."""
        for folder in above(f"{name}/"):
            if folder in self.places:
                return *self.places[folder], name[len(folder) + 1 :]
        return None


def by_folders(listing: Listing) -> Dataset:
    """The pictures of class folders.

    Raises:
      UserError: no classes, an empty class, or splits that can't be used.
    """
    tree = Tree(listing)
    layout = Layout()
    top = tree.unwrapped("")
    if top:
        layout.notes.append(f"the folders of {tree.source} lie in {top}")
    splits = _splits(tree, top, layout)
    if splits:
        _add_splits(tree, splits, layout)
    else:
        _add_classes(tree, top, layout)
    return _dataset(listing, tree, layout)


def _splits(tree: Tree, top: str, layout: Layout) -> dict[str, str]:
    """{split: its folder}, empty where we split ourselves. Notes what is left aside; refuses what can't be used."""
    found: dict[str, list[str]] = collections.defaultdict(list)
    for folder in tree.inside(top):
        meaning = _meaning(tree, folder)
        if meaning == "unlabelled" and tree.below[folder]:
            layout.notes.append(
                f"{folder} holds {tree.below[folder]} pictures without class folders: left aside, as it has no labels"
            )
        elif meaning in SPLITS:
            found[meaning].append(folder)
    for split, folders in found.items():
        if len(folders) > 1:
            raise UserError(
                f"{tree.shown(top)} has {' and '.join(map(last, folders))}, which both mean {split}: keep one of them."
            )
    if found and "train" not in found:
        [folder, *_] = next(iter(found.values()))
        raise UserError(
            f"{tree.shown(folder)} looks like a split, but no folder for training lies beside it. Expected train/ with "
            "the class folders in it; if it is a class, give it another name."
        )
    if found:
        others = [one for one in tree.inside(top) if _meaning(tree, one) == "" and tree.below[one]]
        layout.warnings += [
            f"{one} is no split ({tree.below[one]} pictures beside train): left aside" for one in others
        ]
        layout.tops.append(top)
    return {split: found[split][0] for split in SPLITS if split in found}


def _meaning(tree: Tree, folder: str) -> str:
    """ "train", "val", "test", "unlabelled", or "" for what may be a class. Raises UserError: neither this nor that."""
    found = role(last(folder))
    labelled = tree.has_classes(folder)
    if found is None or not (found.plain or labelled) or (found.kind == "fold" and not labelled):
        return ""
    kind = _unlabelled_test(tree, folder, found, labelled)
    if kind in ("test", "unlabelled") and not labelled:
        return "unlabelled"
    if kind in SPLITS and (labelled or (kind == "train" and tree.inside(folder))):
        return kind
    if kind == "unlabelled" or not tree.below[folder]:
        return "unlabelled"
    why = "holds photos, but no class folders" if kind in SPLITS else f"seems to mean {kind}, which can't be used here"
    raise UserError(
        f"{tree.shown(folder)} looks like a split, but {why}. Expected class folders inside train/, val/ and test/. "
        "Where the names of the files tell the class, give --label; if it is a class, give it another name."
    )


def _unlabelled_test(tree: Tree, folder: str, found: Role, labelled: bool) -> str:
    """The kind of split; `unlabelled` also for a test folder with all its pictures in one folder of no class."""
    if found.kind != "test" or not labelled:
        return found.kind
    others = [one for one in tree.inside(folder.rpartition("/")[0]) if one != folder]
    known = {last(one) for other in others for one in tree.inside(tree.unwrapped(other))}
    inner = [one for one in tree.inside(tree.unwrapped(folder, known)) if tree.below[one]]
    return "unlabelled" if len(inner) == 1 and last(inner[0]) not in known else "test"


def _add_splits(tree: Tree, splits: dict[str, str], layout: Layout) -> None:
    """Class folders inside folders of splits."""
    train = tree.unwrapped(splits["train"])
    classes = _class_names(tree, train, tree.inside(train))
    tops = {split: tree.unwrapped(folder, classes) for split, folder in splits.items()}
    layout.notes.append("your own splits: " + ", ".join(f"{split} from {top}" for split, top in tops.items()))
    for split, top in tops.items():
        layout.tops.append(top)
        full = {last(one): one for one in tree.inside(top) if tree.below[one]}
        if extra := [name for name in full if name not in classes]:
            are = "is" if len(extra) == 1 else "are"
            raise UserError(
                f"{len(full)} classes in {tree.shown(top)} but {len(classes)} in {tree.shown(tops['train'])}: "
                f"{_some(extra)} {are} missing from {last(splits['train'])}. Expected no class "
                "that is not trained."
            )
        if split == "train":
            full = {last(one): one for one in tree.inside(top)}
        elif missing := [name for name in classes if name not in full]:
            layout.warnings.append(
                f"{top} has no pictures of {_some(missing)}: figures are of the other {len(full)} only"
            )
        layout.places |= {folder: (split, name) for name, folder in full.items()}


def _add_classes(tree: Tree, top: str, layout: Layout) -> None:
    """Class folders that we split ourselves, or that hold the splits."""
    folders = [one for one in tree.inside(top) if _meaning(tree, one) == ""]
    layout.tops.append(top)
    names = _class_names(tree, top, folders)
    inner = {folder: [one for one in tree.inside(folder) if is_split(last(one))] for folder in folders}
    if not any(inner.values()):
        layout.places |= {folder: ("", name) for name, folder in zip(names, folders, strict=True)}
        return
    for name, folder in zip(names, folders, strict=True):
        kinds = [found.kind for one in inner[folder] if (found := role(last(one)))]
        others = tree.below[folder] - sum(tree.below[one] for one in inner[folder])
        if "train" not in kinds or len(set(kinds)) < len(kinds) or others:
            wrong = inner[folder][0] if inner[folder] else folder
            raise UserError(
                f"{tree.shown(wrong)}: only some photos lie in folders of splits inside their class folder. Expected "
                "train/, val/ and test/ with class folders inside, or the same splits inside every class folder."
            )
        layout.places |= {one: (kind, name) for kind, one in zip(kinds, inner[folder], strict=True)}
    layout.notes.append("your own splits, inside each class folder: " + ", ".join(map(last, inner[folders[0]])))


def _class_names(tree: Tree, top: str, folders: list[str]) -> list[str]:
    """Names of class folders. Raises UserError: fewer than two, or one that is empty or looks like a split."""
    names = [last(folder) for folder in folders]
    if len(names) < 2:
        found = f"one class, {names[0]!r}" if names else "no class folders"
        hint = ""
        if tree.direct[top] > 1:
            hint = (
                f" {tree.direct[top]} pictures lie in it directly: if their names tell the class, give --label REGEX, "
                r"for cat.0.jpg --label '(\w+)[.]'."
            )
        raise UserError(
            f"{tree.shown(top)} has {found}, expected at least two sub-folders of photos, one per class.{hint}"
        )
    for folder in folders:
        if is_split(last(folder)):
            raise UserError(
                f"{tree.shown(folder)} looks like a split inside {tree.shown(top)}, where class folders are expected: "
                "if it is a class, give it another name."
            )
        if not tree.below[folder]:
            raise UserError(
                f"class folder {tree.shown(folder)} holds no pictures, expected files such as .jpg or .png: "
                "add some, or remove the folder."
            )
    return names


def _some(names: list[str]) -> str:
    more = f" and {len(names) - SHOWN} more" if len(names) > SHOWN else ""
    return ", ".join(map(repr, names[:SHOWN])) + more


def _dataset(listing: Listing, tree: Tree, layout: Layout) -> Dataset:
    classes = sorted({name for _, name in layout.places.values()})
    number = {name: i for i, name in enumerate(classes)}
    pictures = set(tree.pictures)
    kept: list[tuple[str, str, int, str]] = []  # name, split, label, path below the class
    left_out = []
    for name in listing.names:
        place = layout.place(name)
        if place is None:
            if name in pictures and name.rpartition("/")[0] in layout.tops:
                left_out.append(LeftOut(name, "lies beside the class folders, in none of them"))
            continue
        split, label, below = place
        target = layout.place(listing.links[name]) if name in listing.links else None
        if name not in pictures:
            left_out.append(LeftOut(name, NOT_A_PICTURE, label))
        elif target and target[1] != label:
            left_out.append(LeftOut(name, f"a link into class {target[1]!r}: {listing.links[name]}", label))
        else:
            kept.append((name, split, number[label], below))
    for label in sorted(set(range(len(classes))) - {label for _, _, label, _ in kept}):
        mine = [one for one in left_out if one.label == classes[label]]
        raise UserError(
            f"class {classes[label]!r} has no picture of its own: all {len(mine)} files in it are left out, such as "
            f"{mine[0].name!r}: {mine[0].reason}."
        )
    kept.sort(key=lambda one: (SPLITS.index(one[1]) if one[1] else -1, one[2], one[0]))
    return dataset(listing, classes, kept, left_out, layout.notes, layout.warnings)


def dataset(
    listing: Listing,
    classes: list[str],
    kept: list[tuple[str, str, int, str]],
    left_out: list[LeftOut],
    notes: list[str],
    warnings: list[str],
) -> Dataset:
    """A Dataset of some files of a listing.

    Args:
      kept: (name, split or "", label, path below the class's folder) of each.
    """
    names = tuple(name for name, _, _, _ in kept)
    left_out += [LeftOut(name, reason) for name, reason in listing.left_out.items()]
    return Dataset(
        source=listing.source,
        classes=tuple(classes),
        names=names,
        labels=np.array([label for _, _, label, _ in kept], np.int32),
        own_splits=np.array([split for _, split, _, _ in kept], "<U5"),
        read=lambda index: listing.read(names[index]),
        below=tuple(below for _, _, _, below in kept),
        left_out=tuple(left_out),
        notes=tuple(notes),
        warnings=tuple(warnings),
    )
