"""data_prep.pictures: what image and label files hold, in every encoding that data sets and tools write."""

import io
from pathlib import Path

import numpy as np
import pytest
import tensorflow as tf
from PIL import Image

from data_prep.pictures import encode_image, grey_ids, pack, png_depth, read_image, read_values, unpack
from tests.data_prep import picture_files
from tests.data_prep.raw_trees import save, save_16_bit
from uda_jax.errors import UserError

NOISE = np.random.default_rng(0).integers(0, 256, (12, 16, 3), np.uint8)
IDS = np.random.default_rng(1).integers(0, 23, (12, 16)).astype(np.uint8)


def ids_of(path: Path, first_channel: bool = False) -> np.ndarray:
    found = read_values(path, first_channel)
    assert not found.colored and found.values.dtype == np.int32
    return found.values


def test_jpeg_and_png_are_kept_byte_for_byte(tmp_path):
    for suffix in ("jpg", "png"):
        path = save(tmp_path / f"a.{suffix}", NOISE)
        encoded, pixels = read_image(path)
        assert encoded == path.read_bytes()
        np.testing.assert_array_equal(pixels, np.asarray(Image.open(path)))


@pytest.mark.parametrize("mode", ["L", "P", "RGBA", "LA", "CMYK"])
def test_other_modes_become_rgb(tmp_path, mode):
    path = tmp_path / ("a.jpg" if mode == "CMYK" else "a.png")
    picture = Image.fromarray(NOISE).convert(mode)
    picture.save(path)
    encoded, pixels = read_image(path)
    assert encoded is None and pixels.shape == NOISE.shape and pixels.dtype == np.uint8
    if mode == "RGBA":
        np.testing.assert_array_equal(pixels, NOISE)


def test_16_bit_images_are_scaled_not_clipped(tmp_path):
    wide = NOISE.astype(np.uint16) * 257
    encoded, pixels = read_image(save_16_bit(tmp_path / "rgb.png", wide))
    assert encoded is None
    np.testing.assert_array_equal(pixels, NOISE)
    encoded, pixels = read_image(save_16_bit(tmp_path / "grey.png", wide[..., :1]))
    assert encoded is None
    np.testing.assert_array_equal(pixels, NOISE[..., :1].repeat(3, axis=2))


def test_the_orientation_tag_is_applied(tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 6  # turned by a quarter
    stream = io.BytesIO()
    Image.fromarray(NOISE).save(stream, "PNG", exif=exif)
    (tmp_path / "a.png").write_bytes(stream.getvalue())
    encoded, pixels = read_image(tmp_path / "a.png")
    assert encoded is None
    np.testing.assert_array_equal(pixels, np.rot90(NOISE, -1))


@pytest.mark.parametrize("content", [b"", b"no image", b"\x89PNG\r\n\x1a\n"])
def test_what_is_no_image_is_named(tmp_path, content):
    (tmp_path / "a b ü.png").write_bytes(content)
    with pytest.raises(UserError, match=r"cannot read the image .*a b ü.png"):
        read_image(tmp_path / "a b ü.png")


def test_a_file_cut_short_is_refused(tmp_path):
    path = save(tmp_path / "a.png", NOISE)
    path.write_bytes(path.read_bytes()[:-60])
    with pytest.raises(UserError, match=r"cannot read the image .*a.png"):
        read_values(path)


@pytest.mark.parametrize("mode", ["L", "P", "LA"])
def test_ids_in_8_bits(tmp_path, mode):
    picture = Image.fromarray(IDS)
    if mode == "P":
        picture.putpalette([200, 100, 50] * 256)  # a palette says nothing about ids
    else:
        picture = picture.convert(mode)
    picture.save(tmp_path / "a.png")
    np.testing.assert_array_equal(ids_of(tmp_path / "a.png"), IDS)


def test_ids_in_all_three_channels(tmp_path):
    for mode in ("RGB", "RGBA"):
        Image.fromarray(IDS).convert(mode).save(tmp_path / "a.png")
        found = read_values(tmp_path / "a.png")
        ids = grey_ids(found.values)
        assert found.colored and ids is not None
        np.testing.assert_array_equal(ids, IDS)
    assert grey_ids(read_values(save(tmp_path / "b.png", NOISE)).values) is None


@pytest.mark.parametrize("bits", [1, 2, 4])
def test_ids_in_fewer_bits_are_not_stretched(tmp_path, bits):
    ids = IDS % 2**bits
    packed = np.packbits(np.unpackbits(ids[..., None], axis=-1)[..., -bits:].reshape(len(ids), -1), axis=-1)
    path = tmp_path / "a.png"
    path.write_bytes(picture_files.grey(ids.shape, bits, [row.tobytes() for row in packed]))
    assert png_depth(path.read_bytes()) == (bits, 0)
    np.testing.assert_array_equal(ids_of(path), ids)


@pytest.mark.parametrize("channels", [1, 2, 3, 4])
def test_ids_in_16_bits_come_from_the_first_channel(tmp_path, channels):
    wide = np.stack([IDS, *[1000 + IDS.astype(np.uint16)] * 3], axis=-1)[..., :channels]
    path = save_16_bit(tmp_path / "a.png", wide)
    np.testing.assert_array_equal(ids_of(path), IDS)
    if channels == 3:
        assert not np.asarray(Image.open(path))[..., 0].any()  # what a plain 8-bit read makes of it


def test_ids_beyond_8_bits_survive(tmp_path):
    path = save_16_bit(tmp_path / "a.png", np.full((2, 2, 1), 26_003))
    assert (ids_of(path) == 26_003).all()


def test_colours_are_packed_and_alpha_is_dropped(tmp_path):
    for mode in ("RGB", "RGBA"):
        Image.fromarray(NOISE).convert(mode).save(tmp_path / "a.png")
        found = read_values(tmp_path / "a.png")
        assert found.colored
        np.testing.assert_array_equal([unpack(int(value)) for value in found.values[0]], NOISE[0])
        np.testing.assert_array_equal(ids_of(tmp_path / "a.png", first_channel=True), NOISE[..., 0])
    assert unpack(pack((128, 64, 7))) == (128, 64, 7)


def test_a_jpeg_is_no_label(tmp_path):
    with pytest.raises(UserError, match=r"a.jpg is a JPEG"):
        read_values(save(tmp_path / "a.jpg", IDS))


def test_encodings():
    assert np.array_equal(tf.io.decode_png(encode_image(NOISE, "png")), NOISE)
    smooth = np.full((16, 16, 3), 90, np.uint8)
    jpeg = encode_image(smooth, "jpeg")
    assert jpeg.startswith(b"\xff\xd8") and np.abs(tf.io.decode_jpeg(jpeg).numpy().astype(int) - smooth).max() <= 2
    assert encode_image(np.zeros((1, 65_501, 3), np.uint8), "jpeg").startswith(b"\x89PNG")
    assert encode_image(np.zeros((1, 65_500, 3), np.uint8), "jpeg").startswith(b"\xff\xd8")
