"""`model.precision` reaches every product of a step, in both directions of differentiation."""

from collections.abc import Iterator
from typing import Any

import jax
import pytest
from jax.extend.core import ClosedJaxpr, Jaxpr
from ml_collections import ConfigDict

from tests.conftest import random_batch
from uda_jax.models.networks import build_networks
from uda_jax.training.state import create_state
from uda_jax.training.step import build_step

PRODUCTS = ("dot_general", "conv_general_dilated")


def products(jaxpr: Jaxpr) -> Iterator[Any]:
    """The precision of every product in a program, those of loops and branches too."""
    for equation in jaxpr.eqns:
        if equation.primitive.name in PRODUCTS:
            yield equation.params["precision"]
        for parameter in jax.tree.leaves(equation.params, is_leaf=lambda x: isinstance(x, ClosedJaxpr | Jaxpr)):
            if isinstance(parameter, ClosedJaxpr | Jaxpr):
                yield from products(getattr(parameter, "jaxpr", parameter))


def precisions(config: ConfigDict) -> list[str]:
    """By product, both factors': HIGHEST for resizing, which is always exact."""
    networks = build_networks(config)
    state = jax.eval_shape(lambda: create_state(config, networks))
    found = list(products(jax.make_jaxpr(build_step(config, networks))(state, random_batch(config)).jaxpr))
    assert len(found) > 100
    return [str(both[0]) if both else "DEFAULT" for both in found]


@pytest.mark.parametrize("method", [pytest.param("adaptsegnet", marks=pytest.mark.slow), "apoda"])
def test_precision_reaches_every_product(config: ConfigDict, method: str) -> None:
    config.method = method
    config.model.two_levels = method == "adaptsegnet"
    by_default = precisions(config)
    # APODA attacks at "high" at least: TPUs round by default, and that is more than what it moves.
    assert set(by_default) == {"DEFAULT", "HIGHEST"} | ({"HIGH"} if method == "apoda" else set())
    for precision in ("high", "highest"):
        config.model.precision = precision
        set_to = precisions(config)
        assert set(set_to) == {"HIGHEST", precision.upper()}
        assert len(set_to) == len(by_default)
        assert set_to.count("HIGHEST") >= by_default.count("HIGHEST")
