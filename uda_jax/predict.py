"""`python -m uda_jax.predict --checkpoint=RUN_OR_FILE --input=PICTURE_OR_FOLDER_OR_VIDEO --out=DIR` says what it shows.

Label maps, coloured maps and overlays, each in a folder of its own below DIR; docs/predict.md has all that can be asked
for. Nothing that is there is overwritten unless told to.
"""

import argparse
import io
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from itertools import groupby
from pathlib import Path

import numpy as np
from PIL import Image
from tqdm import tqdm

from data_prep.build import parse_size
from uda_jax import cli
from uda_jax.data import labels
from uda_jax.errors import UserError
from uda_jax.export import add_select
from uda_jax.files import make_directory, write_whole
from uda_jax.inference import drawing, layouts, pictures, video
from uda_jax.inference.layouts import KINDS, LAYOUTS, Layout
from uda_jax.inference.model import Model, load_model
from uda_jax.inference.pictures import Picture
from uda_jax.inference.predictor import Prediction, Settings, check_settings, looked_at, predict
from uda_jax.paths import local, user_path

USUAL = ("labels", "color", "overlay")
Files = dict[Path, dict[str, Path]]


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the command line; returns the exit status (2: the user can mend it, as what is no picture)."""
    args = _parser().parse_args(argv)
    return cli.answered(lambda: run(args))


def run(args: argparse.Namespace) -> None:
    """Raises UserError for what cannot work, before anything is written, and at the end for what could not be read."""
    settings = settings_of(args)
    given, out = local(args.input, "--input"), local(args.out, "--out")
    if video.is_video(given):
        video.check(given, out, args.existing)
        model = load_model(user_path(args.checkpoint, "--checkpoint"), args.step, args.select)
        print(model)
        print(f"wrote {video.predict_video(model, given, out, settings)}")
        return
    layout, kinds = _what(args)
    found = pictures.find(given)
    files = layouts.targets(layout, kinds, out, [name for _, name in found])
    if args.existing == "refuse":
        layouts.check_free(files)
    elif args.existing == "skip":
        found = [item for item in found if not all(path.exists() for path in files[item[1]].values())]
    model = load_model(user_path(args.checkpoint, "--checkpoint"), args.step, args.select)
    print(model)
    save = saver(model, args.ids or layout.ids, files)
    started = time.perf_counter()
    faults = predict_all(model, found, settings, layout, kinds, save)
    seconds, count = time.perf_counter() - started, len(found) - len(faults)
    print(f"{count} pictures in {seconds:.1f} s ({count / max(seconds, 1e-9):.2f} a second): {out}")
    if faults:
        raise UserError(f"{len(faults)} of {len(found)} pictures could not be used:\n  " + "\n  ".join(faults))


def predict_all(
    model: Model,
    found: Sequence[tuple[Path, Path]],
    settings: Settings,
    layout: Layout,
    kinds: Sequence[str],
    save: Callable[[Picture, Prediction], None],
) -> list[str]:
    """Predicts and saves every picture; returns what is wrong with those that could not be used."""
    faults, waiting, said = list[str](), list[Future[None]](), set[tuple[int, int]]()
    with ThreadPoolExecutor(2) as pool, tqdm(total=len(found), unit="image", mininterval=1) as bar:
        for batch in batches(pictures.read_all(found), settings.batch_size):
            images = [picture.image for picture in batch if picture.image is not None]
            if not images:
                faults += [picture.error for picture in batch]
                bar.update(len(batch))
                continue
            size = images[0].shape[:2]
            if size not in said:
                said.add(size)
                bar.write(how(model, size, settings))
            try:
                predictions = list(
                    predict(
                        model.segmenter,
                        images,
                        settings,
                        sizes=[layout.size] * len(images) if layout.size else (),
                        confidence="confidence" in kinds,
                        entropy="entropy" in kinds,
                    )
                )
            except UserError as error:
                faults += [f"{picture.path}: {error}" for picture in batch]
            else:
                while len(waiting) > 2 * settings.batch_size + 2:
                    waiting.pop(0).result()
                waiting += [pool.submit(save, *pair) for pair in zip(batch, predictions, strict=True)]
            bar.update(len(batch))
        for future in waiting:
            future.result()
    return faults


def batches(read: Iterable[Picture], size: int) -> Iterator[list[Picture]]:
    """Neighbours of one size, at most `size` of them together; one that could not be read stands alone."""
    numbered = enumerate(read)
    for _, group in groupby(numbered, key=lambda item: _alike(*item)):
        batch = []
        for _, picture in group:
            batch.append(picture)
            if len(batch) == size:
                yield batch
                batch = []
        if batch:
            yield batch


def _alike(number: int, picture: Picture) -> tuple[tuple[int, ...] | None, int]:
    return (None, number) if picture.image is None else (picture.image.shape, 0)


def how(model: Model, size: tuple[int, int], settings: Settings) -> str:
    """What is said of pictures of this size, (height, width)."""
    height, width = looked_at(size, model.segmenter.size, settings)
    why = "as --scale says" if settings.scale else "the scale that the model was scored at; --scale is for another"
    return f"{size[1]}x{size[0]} is looked at as {width}x{height}, {why}"


def saver(model: Model, ids: str, files: Files) -> Callable[[Picture, Prediction], None]:
    """What writes a picture's files, each whole or not at all."""
    to_ids, palette = layouts.id_writer(ids, model.segmenter.classes, model.about.get("ids"))
    colors = labels.palette(model.segmenter.classes)

    def save(picture: Picture, prediction: Prediction) -> None:
        for kind, path in files[picture.name].items():
            if kind == "labels":
                drawn = drawing.indexed(to_ids(prediction.train_ids), palette)
            elif kind == "color":
                drawn = Image.fromarray(colors[prediction.train_ids])
            elif kind == "overlay":
                assert picture.image is not None
                drawn = drawing.overlay(picture.image, prediction.train_ids, model.segmenter.classes)
            else:
                drawn = drawing.heat(np.asarray(getattr(prediction, kind)))
            encoded = io.BytesIO()
            drawn.save(encoded, "jpeg" if KINDS[kind] == ".jpg" else "png", quality=90)
            make_directory(path.parent)
            write_whole(path, encoded.getvalue())

    return save


def settings_of(args: argparse.Namespace) -> Settings:
    settings = Settings(
        scale=args.scale,
        window=parse_size(args.window) if args.window else None,
        overlap=args.overlap,
        flip=args.flip,
        scales=tuple(args.scales),
        batch_size=args.batch,
    )
    check_settings(settings)
    return settings


def _what(args: argparse.Namespace) -> tuple[Layout, list[str]]:
    layout, kinds = LAYOUTS[args.layout], args.write or (USUAL if args.layout == "folders" else ("labels",))
    unknown = [kind for kind in kinds if kind not in KINDS]
    if unknown:
        raise UserError(f"--write: {unknown[0]!r} is not one of {', '.join(KINDS)}")
    if layout.folder is not None and list(kinds) != ["labels"]:
        raise UserError(f"--layout={args.layout} has label maps alone; leave --write out")
    return layout, list(kinds)


def add_settings(parser: argparse.ArgumentParser) -> None:
    """Flags of how pictures are looked at, which evaluate has, too."""
    parser.add_argument("--scale", type=float, help="of the pictures; default: that which the model was scored at")
    parser.add_argument("--window", metavar="WIDTHxHEIGHT", help="slide a window of this size, after scaling")
    parser.add_argument("--overlap", type=float, default=1 / 3, help="share of a window that the next covers, too")
    parser.add_argument("--flip", action="store_true", help="average with the mirrored picture")
    parser.add_argument(
        "--scales", type=_numbers, default=[1.0], metavar="A,B", help="average over factors on the scale"
    )
    parser.add_argument("--batch", type=int, default=1, help="pictures of one size, or windows, at a time")


def _numbers(text: str) -> list[float]:
    return [float(part) for part in text.split(",")]


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m uda_jax.predict", description="Says what pictures show.")
    parser.add_argument(
        "--checkpoint", required=True, metavar="RUN_OR_FILE", help="a run's workdir or an exported file"
    )
    parser.add_argument("--step", type=int, help="which of a run's checkpoints; default: the newest")
    add_select(parser)
    parser.add_argument("--input", required=True, help="a picture, a folder of them, or a video")
    parser.add_argument("--out", required=True, metavar="DIR", help="where the results go; of a video, the file")
    parser.add_argument("--write", type=lambda text: text.split(","), metavar="KINDS", help=", ".join(KINDS))
    parser.add_argument("--ids", help="of label maps: train (the default), cityscapes, own, or a label map's file")
    parser.add_argument(
        "--layout", choices=list(LAYOUTS), default="folders", help="names and ids that a server expects"
    )
    parser.add_argument("--existing", choices=["refuse", "skip", "overwrite"], default="refuse", help="files, that is")
    add_settings(parser)
    return parser


if __name__ == "__main__":
    sys.exit(main())
