import json

import jax
import pytest

from uda_jax.config import check_config, check_x64, default_config, differences
from uda_jax.errors import UserError
from uda_jax.files import to_json
from uda_jax.methods import METHODS


def test_the_default_is_valid_and_locked() -> None:
    config = default_config()
    check_config(config)
    with pytest.raises(AttributeError, match='Did you mean "steps"'):
        config.train.stpes = 5
    with pytest.raises(TypeError):
        config.train.steps = "many"


@pytest.mark.parametrize(
    ("path", "value", "words"),
    [
        ("method", "adaptsegnett", "did you mean 'adaptsegnet'"),
        ("model.backbone", "resnet110", "did you mean 'resnet101'"),
        ("optimizer.variant", "torch", "did you mean 'torch2'"),
        ("apoda.attack", "sing", "did you mean 'sign'"),
        ("train.log_every", 0, "must be at least 1"),
        ("train.steps", 300_000, "schedule_steps"),
        ("train.steps", -1, "config.train.steps=-1 must be at least 0"),
        ("apoda.warmup_steps", -5, "must be at least 0"),
        ("optimizer.momentum", 1.5, "must be 0 to 1"),
        ("optimizer.learning_rate", float("nan"), "config.optimizer.learning_rate=nan must be"),
        ("model.precision", "float32", "is not one of default, high, highest"),
        ("model.dilations", (), "one or more rates"),
        ("model.dilations", (6, 0), "one or more rates"),
        ("model.std", (1.0, 0.0, 1.0), "std above 0"),
        ("model.pretrained_skip", ("head",), "does nothing without model.pretrained"),
        ("data.source.scale", (1.5, 0.5), r"config.data.source.scale=\(1.5, 0.5\): expected \(smallest, largest\)"),
        ("data.oracle.scale", (0.0, 1.0), "both above 0"),
        ("data.target.jitter", 1.5, "config.data.target.jitter=1.5 must be 0..1"),
        ("data.source.crop", (64,), r"config.data.source.crop=\(64,\): expected \(height, width\)"),
        (
            "data.source.crop",
            (721, 16),
            r"config.data.source.crop=\(721, 16\) .* is larger than any image: .* all would be",
        ),
        ("data.target.crop", (16, 1025), r"they are \(512, 1024\) at most"),
        ("data.source.scale", (0.5, 0.9), r"config.data.source.crop=\(720, 1280\) .* they are \(648, 1152\) at most"),
        ("data.eval.size", (0, 64), "expected"),
        ("apoda.eps_discriminator", -0.01, "config.apoda.eps_discriminator=-0.01 must be at least 0"),
        ("apoda.eps_source", -0.01, "must be at least 0"),
        ("apoda.eps_target", -0.01, "must be at least 0"),
        ("eval.limit", -1, "config.eval.limit=-1 must be at least 0"),
        ("optimizer.discriminator_b2", 1.0, "config.optimizer.discriminator_b2=1.0 must be 0 to 0.999999"),
        ("seed", 2**32, "config.seed=4294967296 must be -2147483648 to 2147483647"),
        ("optimizer.learning_rate", float("inf"), "config.optimizer.learning_rate=inf: expected finite"),
        ("adaptsegnet.lambda_adv_main", float("nan"), "config.adaptsegnet.lambda_adv_main=nan: expected finite"),
        ("model.std", (1.0, float("inf"), 1.0), r"config.model.std=\[1.0, inf, 1.0\]: expected finite"),
        ("data.source.scale", (1.0, float("inf")), "expected finite"),
        ("data.source.scale", (0.5,), r"config.data.source.scale=\(0.5,\): expected \(smallest, largest\)"),
        ("data.source.scale", ("1", "2"), "expected"),
        ("data.source.size", (32.5, 64), r"config.data.source.size=\(32.5, 64\): expected \(height, width\)"),
        ("data.source.size", ("32", "64"), "expected"),
        ("data.oracle.crop", (16.5, 32), "expected"),
        ("data.eval.label_size", (True, 64), "expected"),
        ("model.dilations", (1.5,), "one or more rates"),
        ("model.dilations", ("a",), "one or more rates"),
        ("model.mean", ("a", 1.0, 2.0), "three numbers each"),
        ("eval.classes", ("road",), r"config.eval.classes=\('road',\): expected train ids"),
        ("eval.classes", (0.5,), "expected train ids"),
        ("eval.classes", (1, 1), "each once"),
        ("data.source.sampling", "rare_classes", "config.data.source.sampling='rare_classes' .* did you mean 'rare_c"),
        ("data.target.rare_temperature", 0.0, "config.data.target.rare_temperature=0.0 must be at least 1e-06"),
        ("data.source.rare_pixels", -1, "config.data.source.rare_pixels=-1 must be at least 0"),
        ("data.oracle.rare_crop_ratio", -0.5, "config.data.oracle.rare_crop_ratio=-0.5 must be at least 0"),
    ],
)
def test_values_that_cannot_work(path: str, value: object, words: str) -> None:
    config = default_config()
    config.update_from_flattened_dict({path: value})
    with pytest.raises(UserError, match=words):
        check_config(config)


def test_settings_that_are_missing_or_unknown() -> None:
    config = default_config()
    with config.unlocked():
        config.model.drop_blocks = 0.5
    with pytest.raises(UserError, match=r"has settings unknown here, model.drop_blocks; let its get_config\(\)"):
        check_config(config)
    with config.unlocked():
        del config.model["drop_blocks"], config["eval"]
    with pytest.raises(UserError, match=r"lacks eval.batch_size, eval.classes, eval.limit, \.\.\.;"):
        check_config(config)


@pytest.mark.parametrize(
    ("backbone", "setting", "value"),
    [
        ("vgg16", "remat", True),
        ("vgg16", "norm", "frozen"),
        ("vgg16", "affine", "train"),
        ("vgg16", "stem", "small"),
        ("vgg16", "stem_width", 32),
        ("vgg16", "stride_in_1x1", False),
        ("resnet18", "stride_in_1x1", False),
    ],
)
def test_settings_that_a_backbone_does_not_have(backbone: str, setting: str, value: object) -> None:
    config = default_config()
    config.model[setting] = value
    check_config(config)
    config.model.backbone = backbone
    with pytest.raises(UserError, match=rf"config.model.{setting}={value!r} does nothing with .*{backbone}"):
        check_config(config)


@pytest.mark.parametrize(
    ("method", "setting", "value"),
    [
        ("adaptsegnet", "lambda_adv_aux", 0.1),
        ("advent", "lambda_seg_aux", 0.2),
        ("minent", "lambda_ent_aux", 0.1),
        ("source_only", "lambda_seg_aux", 0.2),
    ],
)
def test_settings_of_a_level_that_is_not_there(method: str, setting: str, value: float) -> None:
    """They are refused, and do not tell runs apart that are from before they were."""
    config = default_config()
    config.method = method
    usual = config.copy_and_resolve_references()
    config[method][setting] = value
    check_config(config)
    config.model.two_levels = usual.model.two_levels = False
    with pytest.raises(UserError, match=f"config.{method}.{setting}={value!r} does nothing with .*two_levels=False"):
        check_config(config)
    assert differences(config.to_dict(), usual) == ""


@pytest.mark.parametrize("name", ["source", "target", "oracle"])
@pytest.mark.parametrize(
    ("setting", "value"), [("rare_temperature", 0.1), ("rare_pixels", 100), ("rare_crop_ratio", 2.0)]
)
def test_settings_of_rare_classes_without_their_sampling(name: str, setting: str, value: float) -> None:
    config = default_config()
    config.data[name].update({"sampling": "rare_class", setting: value})
    check_config(config)
    config.data[name].sampling = "uniform"
    words = f"config.data.{name}.{setting}={value} does nothing with config.data.{name}.sampling='uniform'; leave it at"
    with pytest.raises(UserError, match=words):
        check_config(config)


def test_weights_of_sets_that_are_drawn_from_together() -> None:
    config = default_config()
    config.data.source.update(dataset="gta5+synthia", weights=(1.0, 3.0))
    check_config(config)
    config.data.source.sampling = "rare_class"
    words = r"source.weights=\(1.0, 3.0\) does nothing with config.data.source.sampling='rare_class'; leave it at \(\)"
    with pytest.raises(UserError, match=words):
        check_config(config)


def test_crops_that_are_too_small_to_show_what_is_sought() -> None:
    config = default_config()
    source = config.data.source
    source.update(sampling="rare_class", size=(30, 50), crop=(30, 50))
    check_config(config)  # whole images, in which none is sought
    for changes in ({"crop": (30, 49)}, {"scale": (0.5, 1.1)}):
        source.update({"crop": (), "scale": (1.0, 1.0), "rare_crop_ratio": 0.5, **changes})
        with pytest.raises(UserError, match=r"rare_pixels=3000 times rare_crop_ratio=0\.5 are all pixels of crop="):
            check_config(config)
        source.rare_crop_ratio = 0.48
        check_config(config)


def test_a_method_without_a_game_may_have_the_config_of_one_with_it() -> None:
    config = default_config()
    config.update_from_flattened_dict({"discriminator.width": 32, "optimizer.discriminator_b1": 0.5})
    assert "discriminator.width" in differences(config.to_dict(), default_config())
    for method in ("source_only", "minent"):
        config.method = method
        check_config(config)
        plain = default_config()
        plain.method = method
        assert differences(config.to_dict(), plain) == ""


@pytest.mark.parametrize("method", METHODS)
def test_the_defaults_of_every_method_are_valid_with_one_level_too(method: str) -> None:
    config = default_config()
    config.method = method
    check_config(config)
    config.model.two_levels = False
    check_config(config)


@pytest.mark.parametrize("method", METHODS)
def test_entropies_need_two_classes(method: str) -> None:
    config = default_config()
    config.update(method=method)
    config.model.num_classes = 1
    if method in ("adaptsegnet", "source_only"):
        check_config(config)
    else:
        with pytest.raises(UserError, match=f"num_classes=1: config.method='{method}' needs 2 or more"):
            check_config(config)


def test_float64_needs_jax_to_have_it() -> None:
    model = default_config().model
    check_x64(model)
    model.dtype = "float64"
    with pytest.raises(UserError, match="JAX_ENABLE_X64=1"):
        check_x64(model)
    with jax.enable_x64(True):
        check_x64(model)


def test_what_a_resumed_run_may_change() -> None:
    config = default_config()
    stored = json.loads(to_json(config.to_dict()))
    assert differences(stored, config) == ""
    config.train.update(steps=7, eval_every=3)  # how long, and what does not change a step
    config.data.dir = "/moved"
    config.data.oracle.update(size=(8, 8), flip=True)  # another run's source
    config.data.eval.update(size=(8, 8), dataset="folders/other")
    config.eval.update(limit=3, classes=(1, 2))
    config.source_only.lambda_seg_aux = 0.7  # and the settings of a method that this run does not use
    assert differences(stored, config) == ""
    config.optimizer.learning_rate = 0.5
    config.data.target.size = (4, 4)
    assert differences(stored, config) == (
        "  data.target.size: [512, 1024] there, [4, 4] here\n  optimizer.learning_rate: 0.00025 there, 0.5 here"
    )


def test_what_a_backbone_does_not_have_does_not_tell_runs_apart() -> None:
    """Runs of the time when such settings passed in silence can be resumed."""
    config = default_config()
    config.model.backbone = "vgg16"
    old = config.to_dict()
    old["model"].update(norm="frozen", remat=True, stem_width=32)
    assert differences(old, config) == ""
    old["model"]["width"] = 32
    assert differences(old, config) == "  model.width: 32 there, 64 here"


def test_a_run_from_before_a_setting_existed_had_its_default() -> None:
    config = default_config()
    old = config.to_dict()
    del old["model"]["pretrained_skip"], old["data"]["source"]["jitter"]
    for name in ("sampling", "rare_temperature", "rare_pixels", "rare_crop_ratio"):
        del old["data"]["source"][name], old["data"]["target"][name], old["data"]["oracle"][name]
    assert differences(old, config) == ""
    config.data.source.sampling = "rare_class"
    assert differences(old, config) == "  data.source.sampling: 'uniform' there, 'rare_class' here"
    config.data.source.rare_pixels = 7
    assert "  data.source.rare_pixels: 3000 there, 7 here" in differences(old, config)
    config.data.source.update(sampling="uniform", rare_pixels=3000)
    config.data.source.jitter = 0.3
    assert differences(old, config) == "  data.source.jitter: 0.0 there, 0.3 here"
