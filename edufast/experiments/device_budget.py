"""Which files of a recipe's student fit the device that the recipe says it is for."""

from __future__ import annotations

from collections.abc import Sequence

from edufast.edge.fitting import Budget, Needs, needed
from edufast.edge.registry import FORMATS
from edufast.experiments.events import FileKey
from edufast.experiments.method import Method
from edufast.training.growth import grow_student
from edufast.utils.errors import UserError

_COUNTED = ("onnx", "onnx-int8")  # of 4 bytes a number and of 1, whatever runtime they are for


def fitting_files(method: Method) -> list[FileKey] | None:
    """The files that fit; None: the recipe has no budget.

    Raises:
        UserError: none fits.
    """
    section = method.recipe.budget
    if section is None:
        return None
    budget = Budget(section.flash, section.ram, section.latency)
    student = method.create_student(seed=0)
    for g in range(len(method.curriculum.grades)):
        grow_student(student, method.curriculum, g)
    size = (3, method.data.image_size, method.data.image_size)
    found = {}
    for depth in student.depths:
        exit = None if depth == student.grown else depth
        for form, needs in needed(student.eval().graduate(depth), size, _COUNTED, budget):
            found[form, exit] = needs
    fitting = [file for file, needs in found.items() if needs.fits]
    if not fitting:
        least = min(found.values(), key=lambda needs: needs.flash)
        raise UserError(
            f"budget: no exit of {method.recipe.student.model} fits, the smallest takes "
            f"{_needs_text(least)}; expected a larger budget, or another student, see edufast plan"
        )
    return fitting


def fitting_text(fitting: Sequence[FileKey]) -> str:
    """The files that fit, in words."""
    names = [
        f"student{'' if exit is None else f'-exit{exit}'}{FORMATS[form].SUFFIX}"
        for form, exit in fitting
    ]
    return f"the budget has room for {', '.join(names)}"


def _needs_text(needs: Needs) -> str:
    latency = "" if needs.latency_ms is None else f" and {needs.latency_ms:.2f} ms for an image"
    return f"{needs.flash / 1024:,.1f}k of flash, {needs.ram / 1024:,.1f}k of RAM{latency}"
