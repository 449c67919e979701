"""Which variants a sweep runs."""

import yaml

from edufast.experiments.recipe import parse_recipe
from edufast.experiments.sweep_config import with_variants


def test_vary_makes_every_combination(recipe):
    base = parse_recipe(yaml.safe_load(recipe.read_text()) | {"variants": {}})
    assert list(with_variants(base).variants) == [
        "scratch", "kd", "routed", "alone", "grades", "education",
    ]  # fmt: skip
    varied = with_variants(base, ["method=alone,education", "training.lr=0.1,0.2"]).variants
    assert varied["method=alone, training.lr=0.2"] == {"method": "alone", "training.lr": 0.2}
    assert len(varied) == 4
    lists = with_variants(base, ["curriculum.shares=[1,1],[1,6]"]).variants
    assert [v["curriculum.shares"] for v in lists.values()] == [[1, 1], [1, 6]]
    own = base.model_copy(update={"variants": {"a": {"training.lr": 0.3}}})
    assert with_variants(own, ["seed=1,2"]).variants == {
        "a, seed=1": {"training.lr": 0.3, "seed": 1},
        "a, seed=2": {"training.lr": 0.3, "seed": 2},
    }
