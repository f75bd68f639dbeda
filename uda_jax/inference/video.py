"""Videos: an overlay of every frame, by PyAV (pip install "uda_jax[video]"), which brings FFmpeg along."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from tqdm import tqdm

from uda_jax.errors import UserError
from uda_jax.inference import drawing
from uda_jax.inference.model import Model
from uda_jax.inference.predictor import Settings, predict

SUFFIXES = (".mp4", ".mov", ".m4v", ".avi", ".mkv", ".webm")


def is_video(path: Path) -> bool:
    return path.suffix.lower() in SUFFIXES


def check(given: Path, out: Path, existing: str) -> None:
    """Raises UserError before a model is loaded: no PyAV, no such file, or a result that is there already."""
    _av()
    if not given.is_file():
        raise UserError(f"--input={given}: there is no such file")
    target = target_of(given, out)
    if target.exists() and existing != "overwrite":
        raise UserError(f"{target} is there already; choose another --out, or say --existing=overwrite")
    if target.suffix.lower() not in (".mp4", ".mkv", ".mov"):
        raise UserError(f"--out={out}: videos are written as .mp4, .mkv or .mov")


def target_of(given: Path, out: Path) -> Path:
    """`out` itself if it is named like a video, else a file in that folder."""
    return out if out.suffix else out / f"{given.stem}_overlay.mp4"


def predict_video(model: Model, given: Path, out: Path, settings: Settings) -> Path:
    """Writes the overlay of every frame, at the video's rate and without its sound; returns the file, there when whole.

    Raises:
      UserError: the video cannot be read.
    """
    av, target = _av(), target_of(given, out)
    target.parent.mkdir(parents=True, exist_ok=True)
    partial = target.with_name(f".{target.stem}.part{target.suffix}")
    try:
        with av.open(str(given)) as source, av.open(str(partial), "w") as sink:
            _write(av, sink, source, model, settings)
        partial.replace(target)
    except (av.FFmpegError, IndexError) as error:  # the latter without a stream of pictures
        raise UserError(f"{given}: cannot be read as a video ({error})") from error
    finally:
        partial.unlink(missing_ok=True)
    return target


def _write(av: Any, sink: Any, source: Any, model: Model, settings: Settings) -> None:
    shown = source.streams.video[0]
    stream = None
    for image in tqdm(_frames(source), total=shown.frames or None, unit="frame", mininterval=1):
        prediction = next(predict(model.segmenter, [image], settings))
        drawn = drawing.overlay(image, prediction.train_ids, model.segmenter.classes, every_class=True)
        frame = av.VideoFrame.from_ndarray(_even(np.asarray(drawn)), format="rgb24")
        if stream is None:
            stream = sink.add_stream("mpeg4", rate=shown.average_rate or 25)
            stream.width, stream.height, stream.pix_fmt = frame.width, frame.height, "yuv420p"
            stream.bit_rate = 8_000_000
        sink.mux(stream.encode(frame))
    if stream is None:
        raise IndexError("no frame in it")
    sink.mux(stream.encode())


def _frames(source: Any) -> Iterator[np.ndarray]:
    """RGB uint8 [H, W, 3], turned as the camera says that it was held."""
    for frame in source.decode(video=0):
        turned = np.rot90(frame.to_ndarray(format="rgb24"), getattr(frame, "rotation", 0) // 90)
        yield np.ascontiguousarray(turned)


def _even(image: np.ndarray) -> np.ndarray:
    """With an even number of rows and columns, which colours at half resolution need."""
    return np.pad(image, ((0, image.shape[0] % 2), (0, image.shape[1] % 2), (0, 0)), mode="edge")


def _av() -> Any:
    try:
        import av
    except ImportError:
        raise UserError('videos need PyAV: pip install "uda_jax[video]"') from None
    return av
