"""Distillation algorithms: losses of the student's and the teachers' outputs."""

from edufast.distill.algorithm import Algorithm, GradeContext
from edufast.distill.attention import AttentionTransfer
from edufast.distill.crd import CRD
from edufast.distill.dist import DIST
from edufast.distill.dkd import DKD
from edufast.distill.feature_algorithm import FeatureAlgorithm
from edufast.distill.fitnet import FitNet
from edufast.distill.kd import KD
from edufast.distill.mse import LogitMSE
from edufast.distill.registry import ALGORITHMS, create_algorithm, register_algorithm
from edufast.distill.standardised import Standardised
from edufast.distill.teacher_outputs import TeacherOutputs
from edufast.distill.weighting import WEIGHTINGS, register_weighting

__all__ = [
    "ALGORITHMS",
    "CRD",
    "DIST",
    "DKD",
    "KD",
    "WEIGHTINGS",
    "Algorithm",
    "AttentionTransfer",
    "FeatureAlgorithm",
    "FitNet",
    "GradeContext",
    "LogitMSE",
    "Standardised",
    "TeacherOutputs",
    "create_algorithm",
    "register_algorithm",
    "register_weighting",
]
