"""Random features, a head and a discriminator: APODA without a backbone."""

from collections.abc import Iterator
from functools import cache
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from ml_collections import ConfigDict

from tests.conftest import SIZE
from uda_jax.config import default_config
from uda_jax.methods import apoda
from uda_jax.methods.attack import Term, perturb
from uda_jax.methods.contract import Context
from uda_jax.models.layers import resize_bilinear
from uda_jax.models.networks import Networks, build_networks

CHANNELS, CLASSES = 6, 5


@pytest.fixture(autouse=True)
def float64(request: pytest.FixtureRequest) -> Iterator[None]:
    with jax.enable_x64("config" not in request.fixturenames):
        yield


def key() -> jax.Array:
    return jax.random.key(3)


class World(NamedTuple):
    """Random features of two images a domain, a head and a discriminator that have opinions on them."""

    config: ConfigDict
    networks: Networks
    head: Any
    discriminator: Any
    features: dict[str, jax.Array]
    label: jax.Array

    def set(self, **changes: Any) -> "World":
        config = self.config.copy_and_resolve_references()
        config.apoda.update(**changes)
        return self._replace(config=config)

    def logits(self, features: jax.Array) -> jax.Array:
        return resize_bilinear(self.networks.classify(self.head, features), SIZE)

    def terms(self, domain: str) -> list[Term]:
        """[the discriminator's loss, the classifier's] of a domain."""
        return apoda.attacked_losses(
            domain, self.features[domain], self.label, SIZE, self.head, self.discriminator, self.config, self.networks
        )

    def attack(self, domain: str) -> jax.Array:
        c = self.config.apoda

        @jax.jit
        def run() -> jax.Array:
            return perturb(self.features[domain], self.terms(domain), c.attack_steps, c.attack, key())

        return run()

    def loss(self, head: Any, features: dict[str, jax.Array], step: int = 0) -> Any:
        """The segmenter's (loss, metrics) as training computes them from these features."""
        outputs = {d: self.networks.outputs(head, f, SIZE) for d, f in features.items()}
        return apoda.objective(head, outputs, self.context(step), self.config, self.networks)

    def context(self, step: int = 0) -> Context:
        return Context(jnp.asarray(step), key(), {"source_label": self.label}, {}, self.discriminator, {}, {})


@cache
def build_world(dtype: str, param_dtype: str) -> World:
    config = default_config()
    config.method = "apoda"
    config.model.update(num_classes=CLASSES, dtype=dtype, param_dtype=param_dtype, dilations=(2,), two_levels=False)
    config.discriminator.update(width=4, layers=2)
    networks = build_networks(config)
    rng = np.random.default_rng(0)
    head = {"kernel_0": jnp.asarray(0.3 * rng.standard_normal((3, 3, CHANNELS, CLASSES)))}
    head["bias_0"] = jnp.asarray(0.1 * rng.standard_normal(CLASSES))
    label = rng.integers(0, CLASSES, (2, *SIZE))
    label[rng.random(label.shape) < 0.1] = 255
    discriminator = networks.discriminator.init(key(), jnp.zeros((1, *SIZE, CLASSES)))["params"]
    discriminator = jax.tree.map(lambda x: 5 * x, discriminator)
    features = {d: jnp.asarray(np.maximum(rng.standard_normal((2, 5, 9, CHANNELS)), 0), dtype) for d in apoda.DOMAINS}
    return World(config, networks, {"head": head}, {"main": discriminator}, features, jnp.asarray(label))


@pytest.fixture
def world() -> World:
    return build_world("float64", "float64")
