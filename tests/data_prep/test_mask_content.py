"""data_prep.mask_content: label maps among images are named, and nothing else is."""

import numpy as np
import pytest
from PIL import Image, ImageDraw

from data_prep import build, mask_content, palettes
from data_prep.pictures import unpack
from tests.data_prep.raw_trees import raw_ids, save, save_palette, scene
from tests.data_prep.test_verify import run, surprising
from uda_jax.data import labels

TRUTH = scene("camera", 1, (96, 192))[1]
IDS = raw_ids(TRUTH, "cityscapes", 0)


def grey(values: np.ndarray) -> np.ndarray:
    return np.repeat(values[..., None], 3, axis=2)


VOC = np.array([unpack(palettes.voc(index)) for index in range(256)], np.uint8)
MASKS = {
    "train ids": grey(TRUTH),
    "label ids": grey(IDS),
    "red ids": IDS[..., None] * np.array([1, 0, 0], np.uint8),  # of simulators
    "colours": labels.palette()[TRUTH],
    "colours of VOC": VOC[TRUTH],
}


@pytest.mark.parametrize("kind", MASKS)
def test_label_maps_are_told(kind):
    assert mask_content.masklike(MASKS[kind])


def drawing() -> np.ndarray:
    picture = Image.new("L", (192, 96), 255)
    for k in range(6):
        ImageDraw.Draw(picture).line((10 + 25 * k, 5, 180 - 20 * k, 90), 0, 2)
    return grey(np.asarray(picture))


def thermal() -> np.ndarray:
    """A warm spot before a cold ground, in steps, with a little noise."""
    y, x = np.mgrid[:96, :192]
    heat = 40 + 180 * np.exp(-((x - 90) ** 2 + (y - 40) ** 2) / 900)
    return grey((heat // 8 * 8 + np.random.default_rng(0).integers(0, 2, heat.shape)).astype(np.uint8))


def dark() -> np.ndarray:
    """A photograph at night: next to black, and smooth."""
    y, x = np.mgrid[:96, :192]
    return grey(((x + y) // 40).astype(np.uint8))


OTHERS = {
    "photograph": scene("camera", 1, (96, 192))[0],
    "black": np.zeros((96, 192, 3), np.uint8),
    "white": np.full((96, 192, 3), 255, np.uint8),
    "half black": grey(np.repeat(np.repeat([[0, 255]], 96, axis=0), 96, axis=1).astype(np.uint8)),
    "drawing": drawing(),
    "thermal": thermal(),
    "dark": dark(),
    "dark noise": grey(np.random.default_rng(0).integers(0, 12, (96, 192)).astype(np.uint8)),
    "poster": np.asarray(Image.fromarray(scene("camera", 1, (96, 192))[0]).quantize(8).convert("RGB")),
}


@pytest.mark.parametrize("kind", OTHERS)
def test_pictures_are_no_label_maps(kind):
    assert not mask_content.masklike(OTHERS[kind])


def test_build_and_verify_name_a_label_map_among_photographs(tmp_path, capsys):
    for k in range(3):
        save(tmp_path / "photos" / f"{k}.png", scene("camera", k)[0])
    odd = save_palette(tmp_path / "photos" / "street.png", IDS, labels.CITYSCAPES[1:])
    arguments = ["--dataset=folders", f"--split=train={tmp_path / 'photos'}"]
    assert build.main([*arguments, "--name=x", f"--out={tmp_path}", "--workers=1"]) == 0
    error = capsys.readouterr().err
    assert f"warning: 1 of 4 images look like label maps; are they among them by mistake?\n  {odd}\n" in error
    status, found = run(tmp_path, *arguments)
    assert status == 0 and surprising(found)["label-among-images"] == ("warning", [str(odd)])
    for k in range(1, 3):
        (tmp_path / "photos" / f"{k}.png").unlink()
    assert build.main([*arguments, "--name=half", f"--out={tmp_path}", "--workers=1"]) == 0
    assert (
        f"warning: 1 of 2 images look like label maps; are they among them by mistake?\n  {odd}\n"
        in capsys.readouterr().err
    )
    for k in range(3):
        save(tmp_path / "photos" / f"{k}.png", raw_ids(scene("camera", k)[1], "cityscapes", 0))
    assert build.main([*arguments, "--name=y", f"--out={tmp_path}", "--workers=1"]) == 0
    assert "look like" not in capsys.readouterr().err  # if all are, they are meant
