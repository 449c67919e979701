"""What a sweep is for: variants of a recipe, how often each, and by which measure equal."""

from __future__ import annotations

import itertools
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from pydantic import Field, PositiveInt

from edufast.experiments import MAX_SEEDS, RUN_FILE, SWEEP_FILE
from edufast.experiments.events import Equal
from edufast.experiments.method import USUAL
from edufast.experiments.recipe import Recipe, VariantName, parse_recipe
from edufast.experiments.schema import Section, differences, parse_value, read_section, written_yaml
from edufast.utils.errors import UserError, unknown
from edufast.utils.files import atomic_write

# Keys of a recipe that change nothing about how a student of a sweep is trained.
_OF_NO_TRAINING = {"name", "baselines", "variants"}


class SweepConfig(Section):
    """What a sweep folder is for; its sweep.yaml.

    Attributes:
        seeds: of students: 0 to this many, exclusive.
        teacher_seeds: sets of teachers; student seed s learns from set s modulo this.
        data_seeds: draws of the data (splits, rendering), likewise.
        equal: see :class:`edufast.experiments.run_folder.RunConfig`; of each variant relative to
            education distillation by the same variant, for "time" to the first variant that is
            one.
        device: "cpu" or a CUDA device.
        cache: keep the teachers' logits in the folder, for all students of the same teachers whose
            algorithm reads logits only.
        only: variants that are trained; None: all. The others are of earlier sweeps in the folder.
        recipe: with its variants.
    """

    seeds: PositiveInt = Field(le=MAX_SEEDS)
    teacher_seeds: PositiveInt = 1
    data_seeds: PositiveInt = 1
    equal: Equal = "samples"
    device: str = "cpu"
    cache: bool = False
    only: tuple[VariantName, ...] | None = None
    recipe: Recipe

    @property
    def trained(self) -> tuple[VariantName, ...]:
        """Names of the variants that are trained."""
        return tuple(self.recipe.variants) if self.only is None else self.only

    def continuing(self, folder: Path) -> SweepConfig:
        """This config with the variants that the sweep in ``folder``, if there is one, has beside.

        Raises:
            UserError: what all variants of the two start from differs, so that they cannot be
                compared; or the folder holds a run, whose event log a sweep would replace.
        """
        if (folder / RUN_FILE).exists():
            raise UserError(f"{folder} holds a run, not a sweep; expected another folder")
        if not is_sweep(folder):
            return self
        earlier = self.read(folder)
        ours, theirs = (config._basis() for config in (self, earlier))
        if ours != theirs:
            raise UserError(
                f"{folder} holds a sweep of another recipe or with other options: "
                f"{differences(theirs, ours)}; choose another --out, or continue it with: edufast "
                f"resume {folder}"
            )
        variants = earlier.recipe.variants | self.recipe.variants
        recipe = self.recipe.model_copy(update={"variants": variants})
        return self.model_copy(update={"recipe": recipe, "only": self.trained})

    def _basis(self) -> SweepConfig:
        recipe = self.recipe.model_copy(update={"variants": {}})
        return self.model_copy(update={"recipe": recipe, "seeds": 1, "only": None, "device": ""})

    @classmethod
    def read(cls, folder: Path) -> SweepConfig:
        """The config of an existing sweep.

        Raises:
            UserError: sweep.yaml was damaged.
        """
        config = read_section(cls, folder / SWEEP_FILE)
        parse_recipe(config.recipe.model_dump(mode="json"), f"{folder / SWEEP_FILE}: recipe")
        return config

    def write(self, folder: Path) -> None:
        """Make ``folder`` one of this config."""
        with atomic_write(folder / SWEEP_FILE) as temporary:
            temporary.write_text(written_yaml(self), "utf-8")


def is_sweep(folder: Path) -> bool:
    """Whether ``folder`` is that of a sweep."""
    return (folder / SWEEP_FILE).is_file()


def with_variants(recipe: Recipe, vary: Sequence[str] = (), only: Sequence[str] = ()) -> Recipe:
    """``recipe`` with the variants that a sweep runs.

    Args:
        recipe: its own variants, else what ``vary`` makes of the recipe, else the usual methods.
        vary: ``key=value,value`` each; every variant is run with every combination of them. The key
            ``method`` chooses among :data:`edufast.experiments.method.METHODS`.
        only: names of the variants wanted; none: all.

    Raises:
        UserError: a variant is not valid, there is none of a name, or two are the same training.
    """
    variants: dict[str, dict[str, Any]] = recipe.variants
    if not variants and not vary:
        variants = {name: {"method": name} for name in USUAL}
    axes = [_axis(text) for text in vary]
    if axes:
        variants = {
            ", ".join(filter(None, (name, *(text for text, _ in values)))): changes
            | dict(change for _, change in values)
            for name, changes in (variants or {"": {}}).items()
            for values in itertools.product(*axes)
        }
    for name in only:
        if name not in variants:
            raise unknown("--only", name, variants)
    chosen = {name: changes for name, changes in variants.items() if not only or name in only}
    trainings: dict[str, str] = {}
    for name, changes in chosen.items():
        varied = recipe.variant(changes, f"variant {name}")
        content = varied.model_dump_json(exclude=_OF_NO_TRAINING)
        training = f"{changes.get('method', 'education')} {content}"
        same = trainings.setdefault(training, name)
        if same != name:
            raise UserError(f"variants {same} and {name} are the same training; expected one")
    return recipe.model_copy(update={"variants": chosen})


def _axis(text: str) -> list[tuple[str, tuple[str, Any]]]:
    """``key=a,b`` as (name, (key, value)) of each value."""
    origin = " ".join(f"--vary {text}".split())
    key, separator, values = text.partition("=")
    found = parse_value(f"[{values}]", origin)
    if not separator or not key.isprintable() or not found:
        raise UserError(f"{origin}: expected key.subkey=value,value")
    try:
        return [(f"{key}={json.dumps(value).strip(chr(34))}", (key, value)) for value in found]
    except TypeError as error:  # YAML has dates and bytes, too
        raise UserError(f"{origin}: {error}") from error
