"""Education distillation (arXiv 2311.13811): big expert classifiers into a small edge model, fast.

``edufast.ops`` stands alone: fused operators for anybody's training loop. The rest follows the way
of the data: ``data`` and ``faculty``, ``student``, ``curriculum``, ``school``, ``export``.
"""

from edufast import ops
from edufast.curriculum import Curriculum, Grade
from edufast.data import Augment, load_dataset
from edufast.exits import EarlyExit
from edufast.export import export
from edufast.faculty import Faculty, Teacher
from edufast.models import create_model
from edufast.school import School
from edufast.student import Student
from edufast.training import Training

__version__ = "0.1.0"

__all__ = [
    "Augment",
    "Curriculum",
    "EarlyExit",
    "Faculty",
    "Grade",
    "School",
    "Student",
    "Teacher",
    "Training",
    "create_model",
    "export",
    "load_dataset",
    "ops",
]
