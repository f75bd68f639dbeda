"""The methods, one file a paper. A method is a module with

DOMAINS                 the domains that it trains on: ("source",) or ("source", "target");
default_config()        its settings, found in the config under the method's name;
discriminators(config)  names of the levels that have a discriminator, () for none;
discriminator_input(outputs, level, config) -> what a level's discriminator looks at, [B, H, W, C], if it has any;
segmenter_loss(params, discriminator_params, outputs, batch, step, key, config, networks) -> (loss, metrics)
discriminator_loss(discriminator_params, outputs, config, networks) -> (loss, metrics), if it has any,

where `outputs` maps a domain to the segmenter's `Outputs` for it (computed once and shared by both players; the
discriminators see them without gradient), `batch` holds "source_image", "source_label" and "target_image", `config`
is the whole config, `step` counts the updates done, and metrics are scalars by name.
"""

from types import ModuleType

from uda_jax.methods import adaptsegnet, advent, apoda, minent, source_only

METHODS: dict[str, ModuleType] = {
    "source_only": source_only,
    "adaptsegnet": adaptsegnet,
    "minent": minent,
    "advent": advent,
    "apoda": apoda,
}
