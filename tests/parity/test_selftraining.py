"""The pieces of self-training: teacher, pseudo-labels, mixing, losses, masks, feature distance, strong augmentation."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tests.parity import reference as ref
from tests.parity.selftraining import load
from uda_jax.methods import colours, masking, mixing, selftraining
from uda_jax.methods.feature_distance import downscaled, feature_distance
from uda_jax.methods.losses import weighted_cross_entropy
from uda_jax.methods.teacher import momentum, moved
from uda_jax.models.layers import resize_bilinear

FILE, CLASSES = "selftraining", 19
MEAN, STD = np.array([123.675, 116.28, 103.53]), np.array([58.395, 57.12, 57.375])


def network_input(u8: np.ndarray) -> np.ndarray:
    """What the published network was given of uint8 [B, 3, H, W], float32 [B, H, W, 3]."""
    return ((ref.nhwc(u8).astype(np.float64) - MEAN) / STD).astype(np.float32)


def images(u8: np.ndarray) -> np.ndarray:
    """The image in 0..255 of which `network_input` is the network's input in float64."""
    return network_input(u8).astype(np.float64) * STD + MEAN


def normalised(x: jax.Array) -> np.ndarray:
    return ref.nchw((x - MEAN) / STD)


def cases(prefix: str, depth: int = 1) -> list[str]:
    """The names after a prefix; in the copies and in a full set alike."""
    return sorted({"/".join(k.split("/")[1 : 1 + depth]) for k in load(FILE) if k.startswith(prefix)})


@pytest.mark.parametrize("alpha", [0.99, 0.999])
def test_a_teacher_moves_as_published(alpha: float) -> None:
    v = load(FILE)
    used = jax.vmap(lambda n: momentum(n, alpha))(jnp.asarray(v["ema/alpha_iters"]))
    ref.check(FILE, "teacher", used, v[f"ema/alpha{alpha}_used"])
    for case in cases("ema/start"):
        start = int(case.removeprefix("start"))
        teacher: Any = {"w": jnp.asarray(v[f"ema/{case}/teacher_before"], jnp.float64)}
        truth = ref.truth(v, f"ema/{case}/alpha{alpha}/teacher_after")
        for i, student in enumerate(v[f"ema/{case}/student"].astype(np.float64)):
            teacher = moved(teacher, {"w": student}, momentum(jnp.asarray(start + i), alpha))
            ref.check(FILE, "teacher", teacher["w"], truth[i])


@pytest.mark.parametrize("threshold", [0.968, 0.9, 0.5])
def test_pseudo_labels_and_their_weight(threshold: float) -> None:
    v = load(FILE)
    logits = jnp.asarray(ref.nhwc(v["pseudo/teacher_logits"]), jnp.float64)
    truth = ref.truth(v, f"pseudo/thr{threshold}/weight_rows_ignored")
    counted = np.flatnonzero(truth.any((0, 2)))
    height = truth.shape[1]
    margins = {"ignore_top": counted[0] / height, "ignore_bottom": (height - 1 - counted[-1]) / height}
    labels, weight, sure = selftraining.pseudo_labels(
        logits, selftraining.default_config(threshold=threshold, **margins)
    )
    np.testing.assert_array_equal(labels, v["pseudo/label"])
    ref.check(FILE, "weights", sure, ref.truth(v, f"pseudo/thr{threshold}/confident_fraction"))
    ref.check(FILE, "weights", weight, truth)


@pytest.mark.parametrize("case", ["a", "b", "c"])
def test_classes_are_pasted_as_published(case: str) -> None:
    v, p = load(FILE), f"mix/{case}"
    labels, pseudo = v[f"{p}/source_label_u8"].astype(np.int32), v[f"{p}/pseudo_label_u8"].astype(np.int32)
    source, target = (images(v[f"{p}/{domain}_rgb_u8"]) for domain in ("source", "target"))
    for i in range(len(labels)):
        chosen = np.zeros((1, CLASSES + 1), bool)
        chosen[0, np.minimum(v[f"{p}/{i}/classes_pasted"], CLASSES)] = True
        one = slice(i, i + 1)
        where = mixing.pasted_pixels(jnp.asarray(labels[one]), jnp.asarray(chosen))
        np.testing.assert_array_equal(where[0], v[f"{p}/{i}/mask"])
        mixed = mixing.paste(where, source[one], target[one])
        ref.check(FILE, "mixed images", ref.samples(normalised(mixed)), ref.truth(v, f"{p}/{i}/mixed_img.s64"))
        label = mixing.paste(where, jnp.asarray(labels[one]), jnp.asarray(pseudo[one]))
        np.testing.assert_array_equal(label[0], v[f"{p}/{i}/mixed_label"])
        weight = v[f"{p}/pseudo_weight"][one].astype(np.float64)
        weight = mixing.paste(where, jnp.ones_like(weight), jnp.asarray(weight))
        ref.check(FILE, "weights", weight, ref.truth(v, f"{p}/{i}/mixed_weight")[0], 1e-7)  # given in float32


@pytest.mark.parametrize("case", ["a", "b", "c"])
def test_as_many_classes_are_drawn_as_published(case: str) -> None:
    v, p = load(FILE), f"mix/{case}"
    labels = jnp.asarray(v[f"{p}/source_label_u8"].astype(np.int32))
    chosen = mixing.choose_classes(jax.random.key(0), labels, CLASSES, "batch", True)
    n, k = v[f"{p}/0/n_k"]
    assert len(v[f"{p}/classes_in_batch"]) == n
    assert chosen.sum(-1).tolist() == [k, k]
    assert set(np.flatnonzero(chosen.any(0)).tolist()) <= set(np.minimum(v[f"{p}/classes_in_batch"], CLASSES).tolist())


@pytest.mark.parametrize("low", [False, True], ids=["plain", "resized"])
def test_cross_entropy_over_all_pixels(low: bool) -> None:
    v, prefix, of = load(FILE), "ce/head_" if low else "ce/", "low_" if low else ""
    logits = jnp.asarray(ref.nhwc(v[f"ce/{of}logits"]), jnp.float64)
    label, weight = v[f"ce/{of}label"].astype(np.int32), v[f"ce/{of}weight"].astype(np.float64)
    settings = [("plain", label, None), ("weighted", label, weight)]
    if not low:
        settings.append(("all_ignored", np.full_like(label, 255), None))
    for name, labels, weights in settings:

        def loss(x: jax.Array, labels: Any = labels, weights: Any = weights) -> jax.Array:
            x = resize_bilinear(x, labels.shape[1:], align_corners=False)
            return weighted_cross_entropy(x, labels, weights)

        value, gradient = jax.value_and_grad(loss)(logits)
        ref.check(FILE, "cross entropy", value, ref.truth(v, f"{prefix}{name}"))
        ref.check(FILE, "cross entropy", ref.nchw(gradient), ref.truth(v, f"{prefix}{name}.grad"))


@pytest.mark.parametrize("case", ["a", "b", "c", "d", "e"])
def test_labels_are_downscaled_as_published(case: str) -> None:
    v, p = load(FILE), f"downscale/{case}"
    factor, share = v[f"{p}/scale_ratio"]
    small = downscaled(jnp.asarray(v[f"{p}/label"].astype(np.int32)), int(factor), float(share), CLASSES)
    np.testing.assert_array_equal(np.where(small == CLASSES, 255, small), v[f"{p}/out"][:, 0])


@pytest.mark.parametrize("case", ["things", "no_classes", "empty"])
def test_feature_distance(case: str) -> None:
    v, p = load(FILE), f"fdist/{case}"
    student, frozen = (jnp.asarray(ref.nhwc(v[f"fdist/feat_{of}"]), jnp.float64) for of in ("student", "imagenet"))
    label = v["fdist/label"].astype(np.int32)
    label = np.full_like(label, 0) if case == "empty" else label
    of = () if case == "no_classes" else tuple(v["fdist/classes"].tolist())

    def distance(x: jax.Array) -> jax.Array:
        return feature_distance(x, frozen, jnp.asarray(label), of, 0.75, CLASSES)

    value, gradient = jax.value_and_grad(lambda x: 0.005 * distance(x))(student)
    truth = ref.truth(v, f"{p}/loss")
    assert (value == 0) if np.isnan(truth) else value == pytest.approx(float(truth), rel=1e-9)
    if f"{p}/grad.s64__f64" in v:
        ref.check(FILE, "feature distance", ref.samples(ref.nchw(gradient)), ref.truth(v, f"{p}/grad.s64"))
    else:
        ref.check(FILE, "feature distance", ref.nchw(gradient), ref.truth(v, f"{p}/grad"))


def test_no_gradient_where_both_networks_agree() -> None:
    x = jnp.ones((1, 2, 2, 3))
    gradient = jax.grad(lambda x: feature_distance(x, jnp.ones_like(x), jnp.zeros((1, 4, 4), int), (), 0.75, 3))(x)
    assert not gradient.any()


@pytest.mark.parametrize("case", cases("blockmask/5") + cases("blockmask/9") + cases("blockmask/7"))
def test_blocks_are_masked_as_published(case: str) -> None:
    check_blocks(case)


@pytest.mark.parametrize("case", cases("blockmask/8") + cases("blockmask/2") + cases("blockmask/4"))
def test_blocks_of_odd_grids_too(case: str) -> None:
    check_blocks(case)


def check_blocks(case: str) -> None:
    v, p = load(FILE), f"blockmask/{case}"
    size, block = v[f"{p}/mask"].shape[1:], int(case.partition("_b")[2])
    uniform = v[f"{p}/uniform"][:, 0]
    assert uniform.shape[1:] == masking.grid(size, block)
    shown = masking.shown(jnp.asarray(uniform), size, 0.7)
    np.testing.assert_array_equal(shown, v[f"{p}/mask"])
    if f"{p}/masked_image.s64" in v:
        hidden = masking.hide(images(v["blockmask/image_rgb_u8"]), shown, tuple(MEAN))
        ref.check(FILE, "masked images", ref.samples(normalised(hidden)), ref.truth(v, f"{p}/masked_image.s64"), 1e-7)


@pytest.mark.parametrize("case", cases("strong/jitter"))
def test_colours_are_jittered_as_published(case: str) -> None:
    v, p = load(FILE), f"strong/{case}"
    x = images(v["strong/image_rgb_u8"])[:1] / 255
    factors = [v[f"{p}/{name}_factor"].astype(np.float64) for name in ("brightness", "contrast", "saturation", "hue")]
    out = colours.jitter(jnp.asarray(x), jnp.asarray(np.stack(factors, -1)), jnp.asarray(v[f"{p}/order"])[None])
    ref.check(FILE, "colour jitter", normalised(255 * out), ref.truth(v, f"{p}/out"))


@pytest.mark.parametrize("sigma", [0.15, 0.5, 1.15])
def test_images_are_blurred_as_published(sigma: float) -> None:
    v = load(FILE)
    x = jnp.asarray(images(v["strong/image_rgb_u8"])[:1])
    out = normalised(colours.gaussian_blur(x, jnp.full(1, sigma)))
    ref.check(FILE, "blur", out, ref.truth(v, f"strong/blur_sigma{sigma}/out"))


def test_sizes_of_the_blurs_kernels() -> None:
    v = load(FILE)
    ours = [colours.kernel_size(int(side)) for side in v["strong/blur_kernel/size"]]
    assert ours == v["strong/blur_kernel/kernel"].tolist()
