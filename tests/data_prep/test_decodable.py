"""Whatever an image or label file is, training decodes what was built of it, to the right pixels; or it is named."""

import io
import struct
import zlib
from pathlib import Path

import numpy as np
import pytest
import tensorflow as tf
from PIL import Image, ImageOps

from data_prep import build, decoding, pictures
from data_prep.pictures import TURNS, check_whole, read_image, read_values
from data_prep.prepare import Recipe, prepare
from tests.data_prep.picture_files import ODD_EXIF, assemble, encoded, exif, interlaced, parts, with_part
from tests.data_prep.raw_trees import save, save_16_bit, scene
from tests.data_prep.test_verify import run, surprising
from uda_jax.errors import UserError

NOISE = np.random.default_rng(0).integers(0, 256, (24, 32, 3), np.uint8)
IDS = np.random.default_rng(1).integers(0, 19, (24, 32)).astype(np.uint8)
SMOOTH = scene("camera", 3)[0]


def stored(path: Path, content: bytes) -> tuple[np.ndarray, bytes]:
    """What training decodes of the image file, and the bytes that are stored."""
    path.write_bytes(content)
    image = prepare(("a", path, None), Recipe(lambda _: IDS)).image
    return tf.io.decode_image(image, channels=3, expand_animations=False).numpy(), image


# Damage


def fewer_rows(whole: bytes) -> bytes:
    """A sound PNG with half of its rows, as tools that mend cut files leave it; decoders fill the others with 0."""
    rows = zlib.decompress(b"".join(content for kind, content in parts(whole) if kind == b"IDAT"))
    header, *_, end = parts(whole)
    return assemble([header, (b"IDAT", zlib.compress(rows[: len(rows) // 2])), end])


WHOLE = with_part(encoded(NOISE), b"tEXt", b"Comment\0x")
PALETTE = encoded(NOISE, mode="P")
DAMAGED = {
    **{f"{kind.decode()} checksum": assemble(parts(WHOLE), kind) for kind in (b"IHDR", b"tEXt", b"IDAT", b"IEND")},
    "PLTE checksum": assemble(parts(PALETTE), b"PLTE"),
    "no end": assemble(parts(WHOLE)[:-1]),
    "half an end": WHOLE[:-5],
    "a byte short": WHOLE[:-1],
    "samples short": assemble([(k, c[:-40] if k == b"IDAT" else c) for k, c in parts(WHOLE)]),
    "rows short": fewer_rows(encoded(NOISE)),
    "rows of ids short": fewer_rows(encoded(IDS)),
    "interlaced rows short": fewer_rows(interlaced(NOISE)),
    "empty": b"",
    "a web page": b"<html>",
    "JPEG without end": encoded(SMOOTH, "JPEG")[:-2],
    "half a JPEG": encoded(SMOOTH, "JPEG")[:900],
    "12-bit JPEG": encoded(SMOOTH, "JPEG").replace(b"\xff\xc0\x00\x11\x08", b"\xff\xc1\x00\x11\x0c"),
}


@pytest.mark.parametrize("case", DAMAGED)
def test_a_damaged_file_is_refused_by_name_as_image_and_as_label(tmp_path, capsys, case):
    path = tmp_path / "images" / "a b.png"
    save(path, NOISE).write_bytes(DAMAGED[case])
    assert (
        build.main(["--dataset=folders", "--name=x", f"--split=t={tmp_path}", f"--out={tmp_path}", "--workers=1"]) == 2
    )
    error = capsys.readouterr().err
    assert f"cannot read the image {path}: " in error and "Replace or remove it" in error
    with pytest.raises(UserError, match=r"cannot read the image .*a b.png|a b.png is a JPEG"):
        read_values(path)
    status, found = run(tmp_path, "--dataset=folders", f"--split=t={tmp_path / 'images'}")
    assert status == 1 and surprising(found) == {"unreadable-image": ("fault", [str(path)])}


def test_a_png_is_refused_wherever_it_is_cut_or_changed(tmp_path):
    rng = np.random.default_rng(0)
    for at in rng.integers(0, len(WHOLE), 60).tolist():
        changed = bytearray(WHOLE)
        changed[at] ^= 1 << int(rng.integers(8))
        for content in (WHOLE[:at], bytes(changed)):
            (tmp_path / "a.png").write_bytes(content)
            for read in (read_image, read_values):
                with pytest.raises(UserError, match=r"cannot read the image .*a.png"):
                    read(tmp_path / "a.png")
    check_whole(WHOLE + b"what some tools write behind the end")


def test_16_bit_labels_whose_samples_are_short_are_refused(tmp_path):
    whole = save_16_bit(tmp_path / "a.png", np.stack([IDS, IDS, IDS + 7], axis=-1)).read_bytes()
    cut = assemble([(kind, content[:-9] if kind == b"IDAT" else content) for kind, content in parts(whole)])
    (tmp_path / "a.png").write_bytes(cut)
    with pytest.raises(UserError, match=r"cannot read the image .*a.png"):
        read_values(tmp_path / "a.png")


# What is right but unusual

GAMMA, TRANSPARENT = struct.pack(">I", 100_000), struct.pack(">HHH", *NOISE[0, 0].tolist())
BYTE_FOR_BYTE = {
    "plain": WHOLE,
    "bytes behind the end": WHOLE + b"\0garbage",
    "gamma": with_part(WHOLE, b"gAMA", GAMMA),
    "significant bits": with_part(WHOLE, b"sBIT", bytes([5, 5, 5])),
    "a transparent colour": with_part(WHOLE, b"tRNS", TRANSPARENT),
    "sRGB": with_part(WHOLE, b"sRGB", b"\0"),
    "interlaced": interlaced(NOISE),
    "animated": encoded(NOISE, save_all=True, append_images=[Image.fromarray(255 - NOISE)]),
}


@pytest.mark.parametrize("case", BYTE_FOR_BYTE)
def test_pngs_that_both_decoders_read_alike_stay_as_they_are(tmp_path, case):
    pixels, kept = stored(tmp_path / "a.png", BYTE_FOR_BYTE[case])
    assert kept == BYTE_FOR_BYTE[case]
    np.testing.assert_array_equal(pixels, NOISE)


@pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "RGBA", "I;16"])
def test_other_pngs_are_stored_as_pillow_reads_them(tmp_path, mode):
    picture = (
        Image.fromarray(NOISE).convert(mode) if mode != "I;16" else Image.fromarray(NOISE[..., 0] * np.uint16(257))
    )
    alpha = {"transparency": bytes([0, 99])} if mode == "P" else {}
    picture.save(tmp_path / "b.png", **alpha)
    pixels, _ = stored(tmp_path / "a.png", (tmp_path / "b.png").read_bytes())
    shown = NOISE[..., :1].repeat(3, axis=2) if mode == "I;16" else np.asarray(picture.convert("RGB"))
    np.testing.assert_array_equal(pixels, shown)


JPEGS = {
    "baseline": {},
    "progressive": {"progressive": True},
    "RGB": {"keep_rgb": True},
    "grey": {"mode": "L"},
    "CMYK": {"mode": "CMYK"},
    "several pictures": {"form": "MPO", "save_all": True, "append_images": [Image.fromarray(255 - SMOOTH)]},
}


@pytest.mark.parametrize("case", JPEGS)
def test_jpegs_of_every_kind(tmp_path, case):
    content = encoded(SMOOTH, **{"form": "JPEG", "quality": 95, **JPEGS[case]})
    pixels, kept = stored(tmp_path / "a.jpg", content)
    assert (kept == content) == (case in ("baseline", "progressive", "RGB"))
    with Image.open(io.BytesIO(content)) as picture:
        difference = np.abs(pixels.astype(int) - np.asarray(picture.convert("RGB")))
    assert difference.max() <= 10 if kept == content else not difference.any()  # TensorFlow rounds more


def test_what_tensorflow_reads_otherwise_is_told():
    content = encoded(SMOOTH, "JPEG", quality=95)
    pixels = tf.io.decode_jpeg(content).numpy()
    assert decoding.disagreement(content, pixels) == ""
    assert decoding.disagreement(content, 255 - pixels) == "TensorFlow decodes other pixels from it"
    assert decoding.disagreement(content, pixels[:, 1:]) == "TensorFlow decodes it as 64x32"
    assert decoding.disagreement(assemble(parts(WHOLE)[:-1]), NOISE) == "TensorFlow cannot decode it"
    assert decoding.disagreement(encoded(IDS), IDS) == ""
    assert decoding.disagreement(WHOLE, NOISE ^ 1) == "TensorFlow decodes other pixels from it"


def test_a_png_that_tensorflow_alone_cannot_decode_is_stored_anew(tmp_path):
    content = with_part(WHOLE, b"FOOB", b"a part that libpng should know, to go by its name")
    with pytest.raises(tf.errors.InvalidArgumentError):
        tf.io.decode_image(content)
    pixels, kept = stored(tmp_path / "a.png", content)
    assert kept != content
    np.testing.assert_array_equal(pixels, NOISE)


def test_pictures_that_are_too_large_are_refused(tmp_path):
    (tmp_path / "a.png").write_bytes(encoded(np.zeros((1, 1_000_001), np.uint8)))
    with pytest.raises(UserError, match=r"a.png: it is 1000001x1, but no side may exceed 1,000,000 pixels"):
        read_image(tmp_path / "a.png")
    header = struct.pack(">IIBBBBB", 60_000, 60_000, 8, 2, 0, 0, 0)
    (tmp_path / "b.png").write_bytes(assemble([(b"IHDR", header), *parts(WHOLE)[1:]]))
    with pytest.raises(UserError, match=r"cannot read the image .*b.png: Image size \(3600000000 pixels\) exceeds"):
        read_image(tmp_path / "b.png")


# Orientation


def test_an_orientation_given_twice_counts_once(tmp_path):
    pixels, _ = stored(tmp_path / "a.png", encoded(NOISE, exif=exif(6, count=2)))
    np.testing.assert_array_equal(pixels, np.rot90(NOISE, -1))


@pytest.mark.parametrize("turned", TURNS)
def test_the_orientation_tag_is_applied_to_images_and_labels_of_all_depths(tmp_path, turned):
    with Image.open(io.BytesIO(encoded(NOISE, exif=exif(turned)))) as picture:
        upright = np.asarray(ImageOps.exif_transpose(picture))
    pixels, _ = stored(tmp_path / "rgb.png", encoded(NOISE, exif=exif(turned)))
    np.testing.assert_array_equal(pixels, upright)
    wide = encoded(NOISE[..., 0].astype(np.uint16) * 257, exif=exif(turned))
    pixels, _ = stored(tmp_path / "grey.png", wide)
    np.testing.assert_array_equal(pixels, upright[..., :1].repeat(3, axis=2))
    (tmp_path / "label.png").write_bytes(encoded(NOISE[..., 0], exif=exif(turned)))
    np.testing.assert_array_equal(read_values(tmp_path / "label.png").values, upright[..., 0])


def profile(block: bytes) -> bytes:
    """EXIF as ImageMagick keeps it in a PNG's text."""
    return b"Raw profile type exif\0\nexif\n" + f"{len(block):8}\n{block.hex()}\n".encode()


def test_exif_in_the_text_of_a_png_counts_and_xmp_does_not(tmp_path):
    content = with_part(encoded(NOISE), b"tEXt", profile(exif(6)))
    pixels, _ = stored(tmp_path / "a.png", content)
    np.testing.assert_array_equal(pixels, np.rot90(NOISE, -1))
    xmp = b'XML:com.adobe.xmp\0\0\0\0\0<x:xmpmeta><rdf:Description tiff:Orientation="6"/></x:xmpmeta>'
    pixels, _ = stored(tmp_path / "b.png", with_part(encoded(NOISE), b"iTXt", xmp))
    np.testing.assert_array_equal(pixels, NOISE)


@pytest.mark.parametrize("case", ODD_EXIF)
@pytest.mark.parametrize("form", ["PNG", "JPEG"])
def test_odd_exif_is_as_good_as_none(tmp_path, case, form):
    pixels, _ = stored(tmp_path / "a.png", encoded(NOISE, form, exif=ODD_EXIF[case]))
    plain = np.asarray(Image.open(io.BytesIO(encoded(NOISE, form))))
    assert pixels.shape == NOISE.shape and np.abs(pixels.astype(int) - plain).max() <= (0 if form == "PNG" else 4)
    (tmp_path / "b.png").write_bytes(encoded(IDS, exif=ODD_EXIF[case]))
    np.testing.assert_array_equal(read_values(tmp_path / "b.png").values, IDS)
    for k in range(2):
        save(tmp_path / "t" / f"{k}.png", SMOOTH[k:])
    (tmp_path / "t" / "a.png").write_bytes(encoded(NOISE, form, exif=ODD_EXIF[case]))
    status, found = run(tmp_path, "--dataset=folders", f"--split=t={tmp_path / 't'}")
    assert status == 0 and "EXIF" not in str(found)


# Labels that hold no ids


def test_labels_of_fractions_and_of_lossy_formats_are_refused(tmp_path):
    for name, pixels in (("half", 0.5), ("none", np.nan), ("huge", 3e9), ("endless", np.inf)):
        path = tmp_path / f"{name}.png"
        path.write_bytes(encoded(np.full((2, 2), pixels, np.float32), "TIFF"))
        with pytest.raises(UserError, match=rf"{name}.png holds numbers that are no ids"):
            read_values(path)
        with pytest.raises(UserError, match=rf"{name}.png holds 32-bit numbers, not a picture"):
            read_image(path)
    for form, options in (("JPEG", {}), ("MPO", {}), ("WEBP", {}), ("TIFF", {"compression": "jpeg"})):
        (tmp_path / "a.png").write_bytes(encoded(IDS, form, **options))
        with pytest.raises(UserError, match=r"a.png is a .*: its compression changes label ids. Labels must be PNG"):
            read_values(tmp_path / "a.png")
    (tmp_path / "a.png").write_bytes(encoded(IDS, "TIFF", mode="CMYK"))
    with pytest.raises(UserError, match=r"a.png is a CMYK picture"):
        read_values(tmp_path / "a.png")


@pytest.mark.parametrize("kind", [np.float32, np.int32])
def test_whole_numbers_of_32_bits_are_ids(tmp_path, kind):
    ids = np.array([[-1, 7, 70_000]])
    (tmp_path / "a.png").write_bytes(encoded(ids.astype(kind), "TIFF"))
    np.testing.assert_array_equal(read_values(tmp_path / "a.png").values, ids)


def test_colours_in_16_bits_are_colours(tmp_path):
    path = save_16_bit(tmp_path / "a.png", NOISE.astype(np.uint16) * 257)
    found = read_values(path)
    assert found.colored and found.values[0, 0] == pictures.pack(tuple(NOISE[0, 0].tolist()))
    np.testing.assert_array_equal(read_values(path, first_channel=True).values, NOISE[..., 0] * np.int32(257))
