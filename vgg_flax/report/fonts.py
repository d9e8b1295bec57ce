"""Names in any script: fonts of this machine that can draw them."""

from __future__ import annotations

import functools
import logging
import time
from collections.abc import Iterable, Sequence

from matplotlib import font_manager, ft2font

USUAL = "DejaVu Sans"  # comes with matplotlib
LIKELY = (
    "notosanscjk",
    "notosans",
    "cjk",
    "gothic",
    "hei",
    "song",
    "ming",
    "malgun",
    "nanum",
    "arab",
    "unicode",
    "unifont",
)
logging.getLogger("matplotlib.font_manager").setLevel(logging.ERROR)  # a script without a bold face has its plain one
SECONDS = 5.0  # to look for fonts at most; a machine may have thousands


def families_for(texts: Iterable[str]) -> list[str]:
    """Font families, the usual one first, which together draw what can be drawn of these texts here."""
    return list(_families(frozenset("".join(texts))))


@functools.lru_cache
def _families(characters: frozenset[str]) -> tuple[str, ...]:
    missing = {ord(one) for one in characters if one.isprintable()} - _known(font_manager.findfont(USUAL))
    families = [USUAL]
    latest = time.monotonic() + SECONDS
    for path in sorted(font_manager.findSystemFonts(), key=_rank) if missing else []:
        if not missing or time.monotonic() > latest:
            break
        if (known := _known(path)) & missing:
            missing -= known
            font_manager.fontManager.addfont(path)
            families.append(ft2font.FT2Font(path).family_name)
    return tuple(families)


def _rank(path: str) -> tuple[int, str]:
    """Plain upright fonts of many characters first."""
    name = path.lower()
    plain = "regular" in name or not any(
        style in name for style in ("bold", "italic", "oblique", "light", "thin", "black")
    )
    likely = next((i for i, word in enumerate(LIKELY) if word in name), len(LIKELY))
    return likely + (0 if plain else 100), name


@functools.lru_cache(maxsize=4096)
def _known(path: str) -> frozenset[int]:
    try:
        return frozenset(ft2font.FT2Font(path).get_charmap())
    except (OSError, RuntimeError):  # a font that is broken, or of a kind without outlines
        return frozenset()


def drawable(names: Sequence[str]) -> tuple[list[str], list[str]]:
    """(The names as they can be drawn, a line about each that can't).

    A name with characters that no font here has is drawn as its number.
    """
    known = frozenset().union(*(_known(font_manager.findfont(family)) for family in families_for(names)))
    shown, lines = [], []
    for number, name in enumerate(names, 1):
        plain = "".join(one if one.isprintable() else "?" for one in name)
        if {ord(one) for one in plain} <= known:
            shown.append(plain)
        else:
            shown.append(f"no. {number}")
            lines.append(f"no. {number} is {name!r}")
    return shown, lines
