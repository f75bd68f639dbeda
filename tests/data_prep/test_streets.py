"""The street generator: geometry, labels, the two looks; and its TFDS builder."""

import numpy as np
import pytest
import tensorflow_datasets as tfds
from ml_collections import ConfigDict

from data_prep import features, pictures
from data_prep.build import main
from data_prep.streets import DOMAINS, generate
from data_prep.streets.builder import build, draw, settings_of
from data_prep.streets.draw import FAR, rasterise
from data_prep.streets.geometry import NEAR, Camera, Face, clip, hull
from data_prep.streets.materials import METAL, SKY
from data_prep.streets.solids import Place, box
from uda_jax.data import labels, pipeline
from uda_jax.errors import UserError

CAMERA = Camera(x=1.0, height=1.5, pitch=0.05, yaw=-0.1, focal=90.0, center=(80.0, 40.0), bend=1e-3, rise=1e-4)
SMALL = (48, 96)
BACKGROUND = Face(np.zeros((1, 3)), 10, (0.5, 0.7, 0.9), SKY)


@pytest.fixture(scope="module", params=sorted(DOMAINS))
def scenes(request: pytest.FixtureRequest) -> tuple[str, np.ndarray, np.ndarray]:
    """A domain, its first 40 pictures [40, H, W, 3] and their labels [40, H, W]."""
    images, truths = zip(*(generate(request.param, seed, SMALL) for seed in range(40)), strict=True)
    return request.param, np.stack(images), np.stack(truths)


def test_unproject_undoes_project() -> None:
    points = np.array([[-3.0, 0.2, 12.0], [2.0, 4.0, 30.0], [0.5, 1.0, 6.0]])
    view = CAMERA.view(points)
    for (u, v), seen, point in zip(CAMERA.project(view), view, points, strict=True):
        depth = np.full((80, 160), seen[2], np.float32)
        found = CAMERA.unproject(depth)[int(v), int(u)]
        np.testing.assert_allclose(found, point, atol=seen[2] / CAMERA.focal)  # within a pixel


def test_clip_cuts_at_the_near_plane() -> None:
    square = np.array([[0, 0, -1.0], [1, 0, -1], [1, 0, 3], [0, 0, 3]])
    cut = clip(square)
    assert cut[:, 2].min() == pytest.approx(NEAR)
    assert len(cut) == 4
    assert len(clip(square - [0, 0, 10])) == 0


def test_hull_drops_inner_points() -> None:
    square = np.array([[0.0, 0], [2, 0], [2, 2], [0, 2], [1, 1], [0.5, 1.2]])
    assert {tuple(p) for p in hull(square)} == {(0, 0), (2, 0), (2, 2), (0, 2)}


def test_box_faces_look_outward() -> None:
    place = Place(3.0, 20.0, 0.7)
    faces = box(place, (2.0, 1.5, 4.0), 13, (0.5, 0.5, 0.5), METAL)
    middle = np.array([place.x, 0.75, place.z])
    assert len(faces) == 6
    for face in faces:
        a, b, c = face.points[:3]
        assert np.cross(b - a, c - a) @ (a - middle) > 0


def test_nearer_faces_hide_farther_ones_and_depth_is_that_of_the_face() -> None:
    straight = CAMERA._replace(x=0.0, pitch=0.0, yaw=0.0, bend=0.0, rise=0.0)

    def screen(z: float, half: float, label: int) -> Face:
        corners = [(-half, -half, z), (half, -half, z), (half, half, z), (-half, half, z)]
        return Face(np.array(corners) + np.array([0, 1.5, 0]), label, (1.0, 1.0, 1.0), METAL)

    buffers = rasterise([screen(20.0, 4.0, 2), screen(10.0, 1.0, 13)], BACKGROUND, straight, (80, 160))
    truth = buffers.label[buffers.ids]
    assert (truth[40, 80], truth[40, 94], truth[5, 5]) == (13, 2, 10)
    assert buffers.depth[40, 80] == pytest.approx(10, rel=1e-4)
    assert buffers.depth[40, 94] == pytest.approx(20, rel=1e-4)
    assert buffers.depth[5, 5] == pytest.approx(FAR)


def test_generate_is_a_pure_function_of_its_arguments() -> None:
    first, again, other = (
        generate("camera", 3, SMALL),
        generate("camera", 3, SMALL),
        generate("camera", 4, SMALL),
    )
    assert first[0].shape == (*SMALL, 3) and first[1].shape == SMALL
    assert first[0].dtype == first[1].dtype == np.uint8
    assert all(np.array_equal(a, b) for a, b in zip(first, again, strict=True))
    assert not np.array_equal(first[0], other[0])


def test_a_scene_is_the_same_at_any_size() -> None:
    coarse, fine = generate("rendered", 5, (64, 128))[1], generate("rendered", 5, (128, 256))[1]
    assert (coarse == fine[::2, ::2]).mean() > 0.93


def test_unknown_domain_names_the_known_ones() -> None:
    with pytest.raises(UserError, match=r"painted.*rendered, camera"):
        generate("painted", 0)


def test_every_class_occurs_and_the_large_ones_are_large(scenes: tuple[str, np.ndarray, np.ndarray]) -> None:
    _, _, truths = scenes
    count = np.bincount(truths.ravel(), minlength=256)
    missing = [name for name, n in zip(labels.NAMES, count, strict=False) if n == 0]
    assert missing == []
    assert count[labels.NUM_CLASSES : labels.IGNORE].sum() == 0
    share = count / count.sum()
    assert share[0] > 0.2 and share[2] > 0.1  # road, building


def test_only_the_bonnet_is_ignored(scenes: tuple[str, np.ndarray, np.ndarray]) -> None:
    domain, _, truths = scenes
    ignored = truths == labels.IGNORE
    assert ignored[:, -1].all() == (domain == "camera")
    assert not ignored[:, : int(0.85 * SMALL[0])].any()


def test_labels_change_where_the_picture_changes(scenes: tuple[str, np.ndarray, np.ndarray]) -> None:
    """The picture's steps are higher at label borders than at the same borders moved aside by 4 pixels."""
    _, images, truths = scenes
    step = np.abs(np.diff(images.astype(float).mean(axis=-1), axis=2))
    border = np.diff(truths.astype(int), axis=2) != 0
    aside = np.roll(border, 4, axis=2) & ~border
    assert step[border].mean() > 1.5 * step[aside].mean()


def test_a_rendered_picture_is_cleaner_and_more_colourful_than_a_camera_picture() -> None:
    def look(domain: str) -> tuple[float, float]:
        images = np.stack([generate(domain, seed, SMALL)[0] for seed in range(12)]).astype(float)
        colourful = (images.max(axis=-1) - images.min(axis=-1)).mean()
        road = images[:, 36:42, 30:66].mean(axis=-1)  # mostly asphalt
        return colourful, np.median(np.abs(np.diff(road, axis=2)))

    (rendered, smooth), (camera, noisy) = look("rendered"), look("camera")
    assert rendered > 1.3 * camera
    assert noisy > 1.3 * smooth


def test_processes_draw_what_one_process_draws() -> None:
    alone, together = (list(draw("camera", range(2), (16, 32), workers)) for workers in (1, 2))
    for a, b in zip(alone, together, strict=True):
        assert np.array_equal(a[0], b[0]) and np.array_equal(a[1], b[1])


def test_builder_writes_both_domains_and_keeps_what_exists(tmp_path) -> None:  # type: ignore[no-untyped-def]
    build(tmp_path, size=(32, 64), train_images=5, val_images=4, workers=1)
    written = {p: p.stat().st_mtime_ns for p in tmp_path.rglob("*.tfrecord*")}
    build(tmp_path, size=(32, 64), train_images=5, val_images=4, workers=1)
    assert {p: p.stat().st_mtime_ns for p in tmp_path.rglob("*.tfrecord*")} == written
    for domain in DOMAINS:
        builder = tfds.builder_from_directory(tmp_path / "streets" / domain / "1.0.0")
        assert dict(builder.info.metadata["labelled"]) == {"train": True, "val": True}
        assert list(builder.info.metadata["classes"]) == list(labels.NAMES)
        assert builder.info.splits["train"].num_shards == 4
        read = {e["id"].decode(): e for e in tfds.as_numpy(builder.as_dataset("train"))}
        assert sorted(read) == [f"train_{k:06d}" for k in range(5)]
        image, label = generate(domain, 2, (32, 64))
        assert np.array_equal(read["train_000002"]["image"], image)
        assert np.array_equal(read["train_000002"]["label"][..., 0], label)
        assert read["train_000002"]["original_size"].tolist() == [32, 64]


@pytest.mark.parametrize(("train", "val"), [(1, 1), (2, 1), (3, 5)])
def test_fewer_scenes_than_files_can_be_built_and_trained_on(tmp_path, train: int, val: int) -> None:  # type: ignore[no-untyped-def]
    build(tmp_path, size=(8, 16), train_images=train, val_images=val, workers=1)
    stream = ConfigDict({"dataset": "streets/camera", "weights": (), "split": "train", "size": (8, 16), "crop": ()})
    stream.update({"scale": (1.0, 1.0), "flip": False, "jitter": 0.0, "dct_scaling": False, "sampling": "uniform"})
    batches = pipeline.train_stream(str(tmp_path), stream, batch_size=2, seed=0)
    assert next(batches)["image"].shape == (2, 8, 16, 3)
    assert pipeline.describe(str(tmp_path), "streets/rendered", "train")["count"] == train
    assert pipeline.describe(str(tmp_path), "streets/rendered", "val")["count"] == val


def test_other_settings_than_those_of_what_exists_are_refused_without_overwrite(tmp_path, capsys) -> None:  # type: ignore[no-untyped-def]
    command = ["--dataset=streets", f"--out={tmp_path}", "--workers=1"]
    asked = ["--train_images=2", "--val_images=1", "--size=16x8"]
    assert main([*command, *asked]) == main([*command, *asked]) == main(command) == 0
    capsys.readouterr()
    for option in ("--size=32x16", "--train_images=3", "--val_images=2"):
        assert main([*command, option]) == 2
        error = capsys.readouterr().err
        assert "holds 2 train and 1 val images of 16x8" in error and f"{option} was asked for" in error
        assert "--overwrite" in error
    assert main([*command, "--train_images=2", "--val_images=1", "--size=32x16", "--overwrite"]) == 0
    assert settings_of(tmp_path / "streets" / "rendered" / "1.0.0") == {
        "size": (16, 32),
        "train_images": 2,
        "val_images": 1,
    }
    image, label = generate("camera", 1, (16, 32))
    builder = tfds.builder_from_directory(tmp_path / "streets" / "camera" / "1.0.0")
    read = {e["id"].decode(): e for e in tfds.as_numpy(builder.as_dataset("train"))}
    assert np.array_equal(read["train_000001"]["image"], image)
    assert np.array_equal(read["train_000001"]["label"][..., 0], label)


@pytest.mark.parametrize("option", ["--train_images=0", "--val_images=0", "--val_images=-1", "--size=full"])
def test_no_scenes_and_no_size_are_refused(tmp_path, capsys, option: str) -> None:  # type: ignore[no-untyped-def]
    assert main(["--dataset=streets", f"--out={tmp_path}", "--workers=1", option]) == 2
    assert f"error: {option}: " in capsys.readouterr().err and list(tmp_path.iterdir()) == []


def test_what_is_no_set_is_named_and_can_be_replaced(tmp_path) -> None:  # type: ignore[no-untyped-def]
    (tmp_path / "streets" / "rendered" / "1.0.0").mkdir(parents=True)
    with pytest.raises(UserError, match=r"rendered/1.0.0 cannot be read .*--overwrite"):
        build(tmp_path, size=(8, 16), train_images=1, val_images=1, workers=1)
    build(tmp_path, size=(8, 16), train_images=1, val_images=1, workers=1, overwrite=True)
    assert settings_of(tmp_path / "streets" / "rendered" / "1.0.0")["size"] == (8, 16)


def test_unlabelled_examples_are_all_ignore() -> None:
    image = np.zeros((4, 6, 3), np.uint8)
    made = features.example("a", image, None, original_size=(40, 60))
    assert (made["label"] == labels.IGNORE).all() and made["label"].shape == (4, 6, 1)
    assert made["original_size"].tolist() == [40, 60]


def test_resized_labels_hold_no_new_ids() -> None:
    image, label = generate("rendered", 1, SMALL)
    small = pictures.resize_label(label, (31, 50))
    assert small.shape == (31, 50) and set(np.unique(small)) <= set(np.unique(label))
    assert pictures.resize_image(image, (31, 50)).shape == (31, 50, 3)
    assert pictures.resize_image(image, SMALL) is image
