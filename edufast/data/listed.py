"""Lists of pictures with their classes, and the checks that all kinds of lists share."""

from __future__ import annotations

import os
from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple

from edufast.data.folder import VAL_NAMES, check_class_name, class_splits
from edufast.data.samples import Splits
from edufast.utils.errors import UserError

_SPLITS = {"train": "train", **dict.fromkeys(VAL_NAMES, "val")}


class Listed(NamedTuple):
    """A picture of a list.

    Attributes:
        where: it is listed, for messages.
        picture: its file.
        name: of its class.
        split: train, val or another name of that; None: to be chosen.
    """

    where: str
    picture: Path
    name: str
    split: str | None


def listed_splits(where: str, pictures: Iterable[Listed], seed: int) -> Splits:
    """The splits that the list names, or, where it names none, about a fifth of each class for
    validation, chosen by file name and ``seed``.

    Args:
        where: the list is, for messages.

    Raises:
        UserError: a picture is no file or is there twice, a class or a split has no valid name; or
            as :func:`edufast.data.folder.class_splits`.
    """
    parts: dict[str, dict[str, list[Path]]] = {"train": {}, "val": {}}
    seen: set[str] = set()
    named = False
    for each in pictures:
        check_class_name(each.where, each.name)
        if each.name != each.name.strip():  # seldom meant, and hard to see
            raise UserError(
                f"{each.where}: class {each.name!r}: expected a name without spaces around it"
            )
        split = "train" if each.split is None else each.split
        if split not in _SPLITS:
            expected = ", ".join(_SPLITS)
            raise UserError(f"{each.where}: split is {split!r}; expected one of {expected}")
        named = named or each.split is not None
        if not os.path.isfile(each.picture):
            raise UserError(f"{each.where}: {str(each.picture)!r} is not a file")
        place = os.path.abspath(each.picture)  # the same for every way to write it
        if place in seen:
            raise UserError(f"{each.where}: {str(each.picture)!r} is listed twice")
        seen.add(place)
        parts[_SPLITS[split]].setdefault(each.name, []).append(each.picture)
    return class_splits(where, parts["train"], parts["val"] if named else None, seed=seed)


def used_splits(where: str, names: Iterable[str]) -> dict[str, str | None]:
    """Of the splits of a data set those that are used, and what for: ``train``, and the first of
    val, valid, validation and test; with train alone None, a part is to be chosen.

    Raises:
        UserError: there is no train.
    """
    there = set(names)
    if "train" not in there:
        raise UserError(
            f"{where}: has the splits {', '.join(sorted(there)) or 'none'}; expected train, and "
            f"perhaps one of {', '.join(VAL_NAMES)}"
        )
    val = next((name for name in VAL_NAMES if name in there), None)
    return {"train": None} if val is None else {"train": "train", val: "val"}
