"""Education distillation (arXiv 2311.13811): big expert classifiers into a small edge model, fast.

``edufast.ops`` can be used on its own: fused operators for any training loop. Everything else is
imported when it is first used, so that ``import edufast`` costs next to nothing.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from edufast import ops as ops
    from edufast.data import Augment as Augment
    from edufast.data import DataSet as DataSet
    from edufast.data import load_dataset as load_dataset
    from edufast.data.class_map import ClassMap as ClassMap
    from edufast.data.sources import register_data_set as register_data_set
    from edufast.distill.registry import register_algorithm as register_algorithm
    from edufast.distill.weighting import register_weighting as register_weighting
    from edufast.edge.export import export as export
    from edufast.edge.onnx_model import OnnxModel as OnnxModel
    from edufast.edge.predict import predict as predict
    from edufast.models.zoo import create_model as create_model
    from edufast.models.zoo import register_model as register_model
    from edufast.student.early_exits import EarlyExit as EarlyExit
    from edufast.student.student import Student as Student
    from edufast.teachers.cached_faculty import CachedFaculty as CachedFaculty
    from edufast.teachers.faculty import Faculty as Faculty
    from edufast.teachers.targets import register_target as register_target
    from edufast.teachers.teacher import Teacher as Teacher
    from edufast.training.curriculum import Curriculum as Curriculum
    from edufast.training.curriculum import Grade as Grade
    from edufast.training.school import School as School
    from edufast.training.settings import SchoolOptions as SchoolOptions
    from edufast.training.settings import Training as Training

__version__ = "0.1.0"

# Where each public name lives; those above, for type checkers, are the same.
_HOMES = {
    "Augment": "edufast.data",
    "CachedFaculty": "edufast.teachers.cached_faculty",
    "ClassMap": "edufast.data.class_map",
    "Curriculum": "edufast.training.curriculum",
    "DataSet": "edufast.data",
    "EarlyExit": "edufast.student.early_exits",
    "Faculty": "edufast.teachers.faculty",
    "Grade": "edufast.training.curriculum",
    "OnnxModel": "edufast.edge.onnx_model",
    "School": "edufast.training.school",
    "SchoolOptions": "edufast.training.settings",
    "Student": "edufast.student.student",
    "Teacher": "edufast.teachers.teacher",
    "Training": "edufast.training.settings",
    "create_model": "edufast.models.zoo",
    "export": "edufast.edge.export",
    "load_dataset": "edufast.data",
    "predict": "edufast.edge.predict",
    "register_algorithm": "edufast.distill.registry",
    "register_data_set": "edufast.data.sources",
    "register_model": "edufast.models.zoo",
    "register_target": "edufast.teachers.targets",
    "register_weighting": "edufast.distill.weighting",
}

__all__ = [*sorted(_HOMES), "ops"]


def __getattr__(name: str) -> Any:
    if name == "ops":
        return importlib.import_module("edufast.ops")
    if name not in _HOMES:
        raise AttributeError(f"module 'edufast' has no attribute {name!r}")
    value = getattr(importlib.import_module(_HOMES[name]), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
