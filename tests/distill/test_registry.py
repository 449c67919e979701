"""Algorithms by name: the package's, and users' own."""

from __future__ import annotations

import pytest
import torch

from edufast.distill import (
    ALGORITHMS,
    KD,
    Algorithm,
    AttentionTransfer,
    LogitMSE,
    create_algorithm,
    register_algorithm,
)
from edufast.utils.errors import UserError
from tests.distill.cases import draw

LOSSES = """
import torch
from torch.nn import functional as F
from edufast.distill import Algorithm, KD

class Agreement(Algorithm):
    def __init__(self, weight: float = 1.0) -> None:
        super().__init__(temperature=1.0)
        self.weight = weight

    def logit_loss(self, logits, outputs, labels):
        return self.weight * F.cross_entropy(logits, outputs.logits[0].argmax(1))

def sharp_kd(alpha):
    return KD(temperature=0.5, alpha=alpha)

def careless(**options):
    return KD

def failing(weight=1.0):
    return 1 / (weight - weight)
"""


@pytest.fixture(autouse=True)
def registrations_are_forgotten(monkeypatch):
    monkeypatch.setattr(ALGORITHMS, "_entries", dict(ALGORITHMS._entries))


def told(name: object, **options) -> str:
    with pytest.raises(UserError) as caught:
        create_algorithm(name, **options)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_names_of_the_package_take_their_options():
    assert create_algorithm("kd", alpha=0.7).alpha == 0.7
    assert create_algorithm("js").divergence == "js"
    assert create_algorithm("reverse_kl", temperature=2).temperature == 2.0


def test_an_algorithm_is_registered_by_a_decorator():
    @register_algorithm("halved")
    class Halved(KD):
        def logit_loss(self, logits, outputs, labels):
            return super().logit_loss(logits, outputs, labels) / 2

    batch = draw("several")
    loss = create_algorithm("halved", alpha=0.7).logit_loss(*batch)
    torch.testing.assert_close(2 * loss, KD(alpha=0.7).logit_loss(*batch))


def test_an_algorithm_is_found_by_its_import_path_and_its_entry_point(mypackage):
    mypackage.write(losses=LOSSES)
    mypackage.declare("edufast.algorithms", agreement="mypackage.losses:Agreement")
    batch = draw("full")
    losses = [
        create_algorithm(name, weight=3.0).logit_loss(*batch)
        for name in ("mypackage.losses:Agreement", "agreement")
    ]
    assert losses[0] == losses[1] > 0
    assert create_algorithm("mypackage.losses:sharp_kd", alpha=0.1).temperature == 0.5


def test_the_logits_of_a_feature_algorithm_may_be_anybodys(mypackage):
    mypackage.write(losses=LOSSES)
    inner = {"name": "mypackage.losses:Agreement", "weight": 2.0}
    algorithm = create_algorithm("at", logits=inner)
    assert isinstance(algorithm, AttentionTransfer) and algorithm.logits.weight == 2.0
    assert inner == {"name": "mypackage.losses:Agreement", "weight": 2.0}  # as it was
    assert isinstance(create_algorithm("crd", logits="mse").logits, LogitMSE)
    own = KD()
    assert create_algorithm("fitnet", logits=own).logits is own


def test_unknown_names_and_options_say_what_is_near_and_what_there_is():
    assert told("standardized") == (
        "algorithm is 'standardized'; did you mean 'standardised'? Expected one of kd, "
        "reverse_kl, js, dkd, dist, standardised, mse, fitnet, at, crd; or an import path"
    )
    assert "algorithm is 'magic'; expected one of kd, reverse_kl" in told("magic")
    assert "algorithm 'kd': option is 'alhpa'; did you mean 'alpha'?" in told("kd", alhpa=1)
    assert "algorithm 'js': option is 'beta'; expected one of temperature" in told("js", beta=1)
    assert "algorithm is 'magic'" in told("at", logits="magic")
    assert "logits is {'alpha': 1}; expected a name among the keys" in told(
        "at", logits={"alpha": 1}
    )
    assert "expected an algorithm that reads logits only" in told("at", logits="crd")


def test_values_that_do_not_fit_are_told_with_the_algorithm():
    assert told("kd", temperature=0) == (
        "algorithm 'kd': temperature is 0; expected a finite number above 0"
    )


def test_what_is_no_algorithm_is_told(mypackage):
    mypackage.write(losses=LOSSES)
    assert told("mypackage.losses:F") == (
        "algorithm 'mypackage.losses:F' is a module; expected a class or function that makes an "
        "Algorithm"
    )
    assert "is the class Linear; expected" in told("torch.nn:Linear")
    assert "'mypackage.losses:careless' returned the class KD; expected an Algorithm" in told(
        "mypackage.losses:careless"
    )
    assert "missing a required argument: 'alpha'; it takes (alpha)" in told(
        "mypackage.losses:sharp_kd"
    )
    assert "did you mean 'Agreement'" in told("mypackage.losses:Agrement")
    with pytest.raises(UserError, match=r"ZeroDivisionError: .* line 21") as caught:
        create_algorithm("mypackage.losses:failing")
    assert isinstance(caught.value.__cause__, ZeroDivisionError)


def test_every_name_of_the_package_makes_an_algorithm():
    for name in ALGORITHMS:
        assert isinstance(create_algorithm(name), Algorithm)
