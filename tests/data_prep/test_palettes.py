"""data_prep.palettes: label pictures with palettes give the right classes, or are refused; never other classes."""

import io
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from data_prep import label_map
from data_prep.palettes import published
from data_prep.pictures import pack, read_values
from data_prep.raw import RAW_SETS
from data_prep.verify import check as verify
from tests.data_prep.picture_files import assemble, parts
from tests.data_prep.raw_trees import raw_ids, save, save_palette, scene
from tests.data_prep.test_verify import run, surprising
from uda_jax.data import labels
from uda_jax.errors import UserError

TRUTH = scene("rendered", 1)[1]
IDS = raw_ids(TRUTH, "gta5", 0)
TRAIN_COLORS = {row.id: row.color for row in labels.TRAIN}
GTA5_COLORS = {row.id: row.color for row in labels.GTA5}
Colors = Mapping[int, tuple[int, int, int]]


def paint(path: Path, indices: np.ndarray, colors: Colors, count: int = 256, **options) -> Path:
    """A palette PNG of `count` colours, black where `colors` has none."""
    picture = Image.fromarray(indices)
    picture.putpalette([part for index in range(count) for part in colors.get(index, (0, 0, 0))])
    path.parent.mkdir(parents=True, exist_ok=True)
    picture.save(path, **options)
    return path


def renumber(path: Path, ids: np.ndarray, colors: Colors, order: int = 1) -> Path:
    """As optimisers do it: unused colours go, the others are renumbered (from the last, if `order` is -1)."""
    kept = np.unique(ids)[::order]
    table = np.zeros(256, np.uint8)
    table[kept] = np.arange(len(kept))
    return paint(path, table[ids], {k: colors[value] for k, value in enumerate(kept.tolist())}, len(kept))


def raw(path: Path, name: str = "gta5") -> np.ndarray:
    train_ids, unknown = RAW_SETS[name].to_train_ids(RAW_SETS[name].read_label(path))
    assert not unknown
    return train_ids


def voc() -> Colors:
    """PASCAL VOC's palette, from the published recipe."""
    colors = {}
    for index in range(256):
        color, rest = [0, 0, 0], index
        for bit in range(7, -1, -1):
            color = [value | (rest >> channel & 1) << bit for channel, value in enumerate(color)]
            rest >>= 3
        colors[index] = tuple(color)
    return colors


def random_colors(count: int = 256) -> Colors:
    return dict(enumerate(map(tuple, np.random.default_rng(5).integers(1, 250, (count, 3)).tolist())))


TAB10 = {k: tuple(bytes.fromhex(c)) for k, c in enumerate(["1f77b4", "ff7f0e", "2ca02c", "d62728"])}


@pytest.mark.parametrize("order", [1, -1])
@pytest.mark.parametrize("name", ["gta5", "cityscapes"])
def test_renumbered_palettes_are_read_by_their_colours(tmp_path, name, order):
    path = renumber(tmp_path / "a.png", IDS, GTA5_COLORS, order)
    np.testing.assert_array_equal(raw(path, name), TRUTH)
    np.testing.assert_array_equal(label_map.read_train_ids(path, label_map.load(name)), TRUTH)
    np.testing.assert_array_equal(label_map.read_train_ids(path, label_map.load("train")), TRUTH)


@pytest.mark.parametrize(("bits", "ids"), [(1, [7, 23]), (2, [8, 7, 23]), (4, [7, 8, 11, 21, 23, 26])])
def test_palettes_of_few_bits(tmp_path, bits, ids):
    ids = np.array([ids], np.uint8)
    path = renumber(tmp_path / "a.png", ids, GTA5_COLORS)
    with Image.open(path) as picture:
        picture.save(tmp_path / "b.png", bits=bits, transparency=bytes([0, 9]))  # alpha means nothing
    assert (tmp_path / "b.png").read_bytes()[24] == bits
    np.testing.assert_array_equal(raw(tmp_path / "b.png"), labels.id_table("gta5")[ids])


def test_train_ids_in_their_colours_are_right_for_sets_of_other_ids(tmp_path):
    path = paint(tmp_path / "a.png", TRUTH, TRAIN_COLORS)
    for name in ("gta5", "cityscapes", "visda17"):
        np.testing.assert_array_equal(raw(path, name), TRUTH)
    np.testing.assert_array_equal(label_map.read_train_ids(path, label_map.TRAIN_IDS), TRUTH)


def test_ids_in_cityscapes_colours_are_ids_of_gta5_and_plates_stay_ignored(tmp_path):
    ids = np.array([[*range(34)]], np.uint8)
    path = save_palette(tmp_path / "a.png", ids, labels.CITYSCAPES[1:])
    np.testing.assert_array_equal(raw(path), labels.id_table("gta5")[ids])
    path = paint(tmp_path / "b.png", np.array([[26, 34, 18, 17]], np.uint8), GTA5_COLORS)
    assert raw(path).tolist() == [[13, 255, 255, 5]]


def test_one_colour_for_two_meanings_is_refused_where_the_indices_do_not_tell(tmp_path):
    path = renumber(tmp_path / "a.png", np.array([[7, 26, 34]], np.uint8), GTA5_COLORS)
    with pytest.raises(UserError, match=r"a.png: its palette contradicts .*index 0 has the colour \(128, 64, 128\)"):
        raw(path)
    path = renumber(tmp_path / "b.png", np.array([[7, 26]], np.uint8), GTA5_COLORS)
    assert raw(path).tolist() == [[0, 13]]  # cars are more than licence plates


def test_contradictions_that_the_colours_do_not_settle_are_refused(tmp_path):
    colors = {**{k: c.color for k, c in enumerate(labels.CLASSES)}, 2: (1, 2, 3)}
    path = paint(tmp_path / "a.png", np.array([[0, 1, 2]], np.uint8), colors)
    with pytest.raises(UserError) as error:
        raw(path)
    assert "index 0 has the colour (128, 64, 128), which stands for road, but as an id 0 is ignored" in str(error.value)
    assert "save it as an RGB picture" in str(error.value) and "8-bit grey PNG without a palette" in str(error.value)


def test_the_default_train_ids_are_never_read_by_colours(tmp_path):
    path = renumber(tmp_path / "a.png", TRUTH, TRAIN_COLORS, -1)
    with pytest.raises(UserError, match=r"a.png: its palette contradicts .* with a --label_map of colours"):
        label_map.read_train_ids(path, label_map.TRAIN_IDS)
    path = paint(tmp_path / "b.png", IDS, GTA5_COLORS)
    with pytest.raises(UserError, match="If they are Cityscapes labelIds, give --label_map=cityscapes"):
        label_map.read_train_ids(path, label_map.TRAIN_IDS)


def test_a_palette_left_over_from_other_ids_is_refused(tmp_path):
    """Train ids that were written into a GTA5 file whose palette stayed: the colours are wrong, the indices right."""
    path = paint(tmp_path / "a.png", TRUTH, GTA5_COLORS)
    for found in (label_map.load("train"), label_map.TRAIN_IDS):
        with pytest.raises(UserError, match="its palette contradicts its values"):
            label_map.read_train_ids(path, found)


UNRELATED = {
    "grey ramp": {k: (k, k, k) for k in range(256)},
    "PASCAL VOC": voc(),
    "random": random_colors(),
    "matplotlib": {k: TAB10[k % len(TAB10)] for k in range(256)},
    "one colour": {k: (200, 100, 50) for k in range(256)},
    "black first": {0: (0, 0, 0), **{k: TAB10[k % len(TAB10)] for k in range(1, 256)}},
    "primary": {k: ((255, 0, 0), (0, 255, 0), (0, 0, 255), (9, 9, 0))[k % 4] for k in range(256)},
}


def test_the_palette_of_train_ids_over_label_ids_is_refused(tmp_path):
    path = paint(tmp_path / "a.png", IDS, TRAIN_COLORS)  # all that lies behind it is black
    with pytest.raises(UserError, match="its palette contradicts its values"):
        raw(path)
    with pytest.raises(UserError, match="its palette contradicts its values"):
        label_map.read_train_ids(path, label_map.load("cityscapes"))
    padded = np.where(TRUTH == 255, 19, TRUTH).astype(np.uint8)  # 19 is how others write "ignore"
    np.testing.assert_array_equal(raw(paint(tmp_path / "b.png", padded, TRAIN_COLORS)), TRUTH)


@pytest.mark.parametrize("palette", UNRELATED)
def test_ids_under_a_palette_of_other_things_are_ids(tmp_path, palette):
    colors = UNRELATED[palette]
    np.testing.assert_array_equal(raw(paint(tmp_path / "a.png", IDS, colors)), TRUTH)
    every = np.array([[*range(19), 255]], np.uint8)
    path = paint(tmp_path / "b.png", every, colors)
    np.testing.assert_array_equal(label_map.read_train_ids(path, label_map.TRAIN_IDS), every)
    np.testing.assert_array_equal(label_map.read_train_ids(path, label_map.load("train")), every)
    road = paint(tmp_path / "c.png", np.zeros((2, 2), np.uint8), colors)
    assert (label_map.read_train_ids(road, label_map.load("train")) == 0).all()


@pytest.mark.parametrize("how", ["WEB", "ADAPTIVE"])
def test_coloured_labels_that_pillow_made_a_palette_of(tmp_path, how):
    """Pillow's default palette changes the colours, an adaptive one keeps them and numbers them anew."""
    colored = Image.fromarray(labels.palette()[TRUTH])
    colored.convert("P", palette=Image.Palette[how]).save(tmp_path / "a.png")
    if how == "WEB":
        with pytest.raises(UserError, match=r"a.png: its palette contradicts"):
            raw(tmp_path / "a.png")
    else:
        np.testing.assert_array_equal(raw(tmp_path / "a.png"), TRUTH)


def test_grey_ids_made_a_palette_are_read_by_their_levels(tmp_path):
    ids = Image.fromarray(IDS)
    ids.convert("P").save(tmp_path / "ramp.png")
    ids.quantize(64).save(tmp_path / "adaptive.png")
    renumber(tmp_path / "cut.png", IDS, UNRELATED["grey ramp"], -1)
    for name in ("ramp", "adaptive", "cut"):
        np.testing.assert_array_equal(raw(tmp_path / f"{name}.png"), TRUTH)


def test_grey_palettes_that_could_mean_either_are_refused(tmp_path):
    white = paint(tmp_path / "a.png", np.array([[0, 1]], np.uint8), {1: (255, 255, 255)}, 2)
    with pytest.raises(
        UserError, match=r"index 1 has the colour \(255, 255, 255\), which shows 255, .* ignored, but .* sidewalk"
    ):
        label_map.read_train_ids(white, label_map.TRAIN_IDS)
    stretched = paint(tmp_path / "b.png", np.array([[0, 1]], np.uint8), {k: (13 * k,) * 3 for k in range(19)}, 19)
    with pytest.raises(UserError, match="which shows 13, as an id car, but as an id 1 is sidewalk"):
        label_map.read_train_ids(stretched, label_map.TRAIN_IDS)


def test_a_palette_cut_to_black_says_nothing(tmp_path):
    """It may be all road, or a picture in colours of which everything is ignored."""
    path = paint(tmp_path / "a.png", np.zeros((2, 2), np.uint8), {}, 1)
    assert (raw(path) == 255).all()
    with pytest.raises(UserError, match="contradicts"):
        label_map.read_train_ids(path, label_map.load("train"))


def test_indices_beyond_the_palette_are_ids(tmp_path):
    whole = paint(tmp_path / "a.png", np.array([[7, 8]], np.uint8), GTA5_COLORS).read_bytes()
    cut = [(kind, content[:12] if kind == b"PLTE" else content) for kind, content in parts(whole)]
    (tmp_path / "a.png").write_bytes(assemble(cut))
    assert raw(tmp_path / "a.png").tolist() == [[0, 1]]


# Label maps of the user's own


def own(tmp_path: Path, text: str) -> label_map.LabelMap:
    (tmp_path / "map.yaml").write_text(text)
    return label_map.load(str(tmp_path / "map.yaml"))


BOTH = (
    'classes: [way, sea]\nids: {7: way, 9: sea, 0: ignore}\ncolors: {"1, 2, 3": way, "4, 5, 6": sea, "0, 0, 0": ignore}'
)


def test_a_map_of_ids_and_colours_reads_renumbered_palettes(tmp_path):
    found = own(tmp_path, BOTH)
    colors = {7: (1, 2, 3), 9: (4, 5, 6)}
    ids = np.array([[7, 9, 0], [9, 9, 7]], np.uint8)
    wanted = [[0, 1, 255], [1, 1, 0]]
    assert label_map.read_train_ids(paint(tmp_path / "a.png", ids, colors), found).tolist() == wanted
    path = renumber(tmp_path / "b.png", ids, {**colors, 0: (0, 0, 0)}, -1)
    assert label_map.read_train_ids(path, found).tolist() == wanted
    assert label_map.read_train_ids(paint(tmp_path / "c.png", ids, random_colors()), found).tolist() == wanted
    mixed = paint(tmp_path / "d.png", ids, {7: (4, 5, 6), 9: (8, 8, 9)})
    with pytest.raises(
        UserError, match=r"index 7 has the colour .4, 5, 6., which stands for sea, but as an id 7 is way"
    ):
        label_map.read_train_ids(mixed, found)


def test_a_map_of_colours_alone_reads_palettes_by_them(tmp_path):
    found = own(tmp_path, 'classes: [way, sea]\ncolors: {"1, 2, 3": way, "4, 5, 6": sea}')
    indices = np.array([[0, 5, 5]], np.uint8)
    path = paint(tmp_path / "a.png", indices, {0: (4, 5, 6), 5: (1, 2, 3)})
    assert label_map.read_train_ids(path, found).tolist() == [[1, 0, 0]]
    path = paint(tmp_path / "b.png", indices, {0: (4, 5, 6), 5: (1, 2, 9)})
    with pytest.raises(UserError, match=r"b.png has label colours \(1, 2, 9\)"):
        label_map.read_train_ids(path, found)


def test_a_map_of_ids_alone_takes_indices_and_masks_of_0_and_255(tmp_path):
    found = own(tmp_path, "classes: [no thing, thing]\nids: {0: no thing, 255: thing}")
    mask = np.array([[0, 255], [255, 255]], np.uint8)
    Image.fromarray(mask).convert("1").save(tmp_path / "a.png")  # 1 bit
    renumber(tmp_path / "b.png", mask, {0: (0, 0, 0), 255: (255, 255, 255)})
    save(tmp_path / "c.png", mask)
    for name in "abc":
        assert label_map.read_train_ids(tmp_path / f"{name}.png", found).tolist() == [[0, 1], [1, 1]]
    found = own(tmp_path, "classes: [no thing, thing]\nids: {0: no thing, 1: thing}")
    for name in "ab":
        assert label_map.read_train_ids(tmp_path / f"{name}.png", found).tolist() == [[0, 1], [1, 1]]


def test_a_gif_under_a_png_s_name_is_read_as_a_palette_too(tmp_path):
    stream = io.BytesIO()
    with Image.open(renumber(tmp_path / "a.png", IDS, GTA5_COLORS)) as picture:
        picture.save(stream, "GIF")
    (tmp_path / "b.png").write_bytes(stream.getvalue())
    np.testing.assert_array_equal(raw(tmp_path / "b.png"), TRUTH)


# RGB, and verify


def test_static_has_two_colours(tmp_path):
    pixels = np.array([[(20, 20, 20), (0, 0, 0), (128, 64, 128), (0, 0, 142)]], np.uint8)
    path = save(tmp_path / "a.png", pixels)
    for name in ("gta5", "cityscapes"):
        assert raw(path, name).tolist() == [[255, 255, 0, 13]]
        assert label_map.read_train_ids(path, label_map.load(name)).tolist() == [[255, 255, 0, 13]]
    assert published("gta5").colors[pack((20, 20, 20))] == labels.IGNORE


def test_verify_reads_palettes_alike_and_says_what_the_build_says(tmp_path):
    for k, order in ((1, 1), (2, -1)):
        save(tmp_path / "images" / f"{k}.png", scene("rendered", k)[0])
        renumber(tmp_path / "labels" / f"{k}.png", raw_ids(scene("rendered", k)[1], "gta5", 0), GTA5_COLORS, order)
    status, found = run(tmp_path, "--dataset=gta5", f"--raw={tmp_path}")
    assert status == 0 and surprising(found) == {}
    status, found = run(tmp_path, "--dataset=folders", f"--split=train={tmp_path}")
    assert status == 1 and list(surprising(found)) == ["unreadable-label"]
    assert "its palette contradicts its values: index" in found["unreadable-label"]["places"][0]["remark"]
    assert verify.main(["--dataset=folders", f"--split=train={tmp_path}", "--label_map=gta5"]) == 0


def test_a_palette_is_kept_with_the_values(tmp_path):
    found = read_values(paint(tmp_path / "a.png", np.array([[1, 0]], np.uint8), {1: (1, 2, 3)}, 2))
    assert found.values.tolist() == [[1, 0]] and found.palette == (0, 0x010203) and not found.colored
