"""Commands that tell: recipes, doctor."""

import json

from edufast.experiments.cost import expected_cost
from edufast.experiments.recipe import load_recipe
from edufast.experiments.report.format import si
from tests.commands import edufast


def test_doctor_and_recipes():
    checks = json.loads(edufast("doctor", "--json").stdout)
    assert all(check["ok"] for check in checks if check["needed"])
    assert "CUDA kernels" in {check["what"] for check in checks}
    listed = edufast("recipes").stdout
    assert "quickstart" in listed and "cs.toronto.edu" in listed
    cost = expected_cost(load_recipe("quickstart"))
    assert si(cost.student_flops, "") in listed
