"""What all builders share: a plan of scenes -> TFRecords with an index and class statistics, whole or not at all."""

import contextlib
import errno
import importlib
import io
import os
import shutil
import sys
import tempfile
import unicodedata
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from pathlib import Path
from types import MappingProxyType
from typing import Any, ClassVar, NamedTuple

import tensorflow_datasets as tfds
from tqdm import tqdm

from data_prep import features, index, mask_content
from data_prep.files import Scene
from data_prep.left_out import first
from data_prep.prepare import Recipe, in_parallel, prepare
from data_prep.raw import RawSet
from uda_jax.data import labels
from uda_jax.data.statistics import Statistics
from uda_jax.errors import UserError
from uda_jax.files import alone
from uda_jax.paths import read_text, records_dir

SCRATCH = ".building-"
# What a disk, or the permissions on it, may answer while a set is written.
REFUSALS = (errno.EDQUOT, errno.EROFS, errno.EACCES, errno.EPERM, errno.ENAMETOOLONG, errno.EIO, errno.ENOENT)


class Plan(NamedTuple):
    """What to build: the scenes of every split, how each split is stored, and the classes by train id.

    Attributes:
      ids: class -> what the label files hold for it, for those who want such ids back.
    """

    scenes: Mapping[str, list[Scene]]
    recipes: Mapping[str, Recipe]
    classes: tuple[str, ...]
    workers: int = 1
    ids: Mapping[str, int] = MappingProxyType({})

    def labelled(self) -> dict[str, bool]:
        return {split: all(label is not None for _, _, label in scenes) for split, scenes in self.scenes.items()}


class IndexedBuilder(tfds.core.GeneratorBasedBuilder):
    """A builder that leaves an index of every split and class_statistics.json beside its records."""

    VERSION = tfds.core.Version("1.0.0")
    url_infos = None  # nothing is downloaded (and TFDS 4.9.10 needs importlib_resources to look for checksums)

    def __init_subclass__(cls, **options: Any) -> None:
        """Stays out of TFDS's registry, which has a "cityscapes" of its own."""
        super().__init_subclass__(skip_registration=True, **options)  # type: ignore[call-arg]

    def _download_and_prepare(
        self, dl_manager: tfds.download.DownloadManager, download_config: tfds.download.DownloadConfig
    ) -> None:
        super()._download_and_prepare(dl_manager, download_config)
        # The directory is still the temporary one here: these files appear together with the records.
        self._check_statistics(index.write(self))

    def _check_statistics(self, statistics: Mapping[str, Statistics]) -> None:
        """Raises UserError where the counts of the labelled splits show that the labels cannot be meant."""


class SceneBuilder(IndexedBuilder):
    """Builds a `Plan`."""

    plan: Plan | None

    def __init__(self, *, plan: Plan | None = None, **options: Any) -> None:
        self.plan = plan
        super().__init__(**options)

    def _info(self) -> tfds.core.DatasetInfo:
        plan = self.plan or Plan({}, {}, ())
        return tfds.core.DatasetInfo(
            builder=self,
            description=" ".join((type(self).__doc__ or "").split()),
            features=features.features(),
            metadata=features.metadata(plan.labelled(), plan.classes, plan.ids),
        )

    def _make_plan(self, dl_manager: tfds.download.DownloadManager) -> Plan:
        raise UserError(f"{self.name} needs a plan: build it with python -m data_prep.build")

    def _download_and_prepare(
        self, dl_manager: tfds.download.DownloadManager, download_config: tfds.download.DownloadConfig
    ) -> None:
        plan = self.plan = self.plan or self._make_plan(dl_manager)
        self.info.metadata.update(features.metadata(plan.labelled(), plan.classes, plan.ids))
        self._use_beam = bool(download_config.beam_runner or download_config.beam_options)
        super()._download_and_prepare(dl_manager, download_config)

    def _check_statistics(self, statistics: Mapping[str, Statistics]) -> None:
        for split, counts in statistics.items():
            if not counts.pixels.sum():
                raise UserError(
                    f"{self.name} ({split}): all pixels of all its labels are ignored. Are they its labels?"
                )

    def _split_generators(self, dl_manager: tfds.download.DownloadManager) -> dict[str, Any]:
        plan = self._planned()
        if not self._use_beam:
            return {split: self._generate_examples(split) for split in plan.scenes}
        from data_prep.beam import Examples

        return {split: Examples(plan.scenes[split], plan.recipes[split]) for split in plan.scenes}

    def _generate_examples(self, split: str) -> Iterator[tuple[str, dict[str, Any]]]:
        plan, warnings, masklike = self._planned(), [], []
        scenes = plan.scenes[split]
        prepared = in_parallel(partial(prepare, recipe=plan.recipes[split]), scenes, plan.workers)
        for scene in tqdm(prepared, total=len(scenes), desc=f"{self.name} {split}", unit=" images"):
            warnings += [scene.warning] if scene.warning else []
            masklike += [scene.masklike] if scene.masklike else []
            yield scene.name, features.encoded_example(scene)
        if warnings:
            print(f"warning: {len(warnings)} labels are not of their image's size:\n{first(warnings)}", file=sys.stderr)
        if among := mask_content.among_photographs(masklike, len(scenes)):
            what = (
                f"warning: {len(among)} of {len(scenes)} images look like label maps; are they among them by mistake?"
            )
            print(f"{what}\n{first(among)}", file=sys.stderr)

    def _planned(self) -> Plan:
        assert self.plan is not None
        return self.plan


class RawBuilder(SceneBuilder):
    """Builds a published set; `tfds build data_prep/NAME.py --manual_dir=RAW` works too, at the published size."""

    raw: ClassVar[RawSet]
    MANUAL_DOWNLOAD_INSTRUCTIONS = "Unpack the archives below --manual_dir as docs/data.md shows."

    def _make_plan(self, dl_manager: tfds.download.DownloadManager) -> Plan:
        return raw_plan(self.raw, self.raw.find(Path(dl_manager.manual_dir)), self.raw.default_size)

    def _check_statistics(self, statistics: Mapping[str, Statistics]) -> None:
        super()._check_statistics(statistics)
        for split, counts in statistics.items():
            if not counts.pixels[labels.NAMES.index("light") :].sum():
                raise UserError(
                    f"{self.name} ({split}): no sky, vegetation, person or car in {counts.images} images. These labels "
                    "look like train ids, not like the ids of the download. Take the published label files, or build "
                    "with --dataset=folders --label_map=train."
                )


def raw_plan(
    raw: RawSet,
    scenes: Mapping[str, list[Scene]],
    size: tuple[int, int] | None,
    encoding: str = "png",
    workers: int | None = None,
) -> Plan:
    """The plan of a published set.

    Args:
      scenes: from `raw.find`.
      size: (height, width) to store; None: as they are.
      encoding: "png" or "jpeg", of the images that are resized.
      workers: processes; None means one a core.
    """
    recipe = Recipe(partial(read_raw_label, raw), size, encoding, mixed_sizes=raw.mixed_sizes)
    recipes = {split: recipe._replace(full_labels=split in raw.full_label_splits) for split in scenes}
    return Plan(scenes, recipes, raw.names, workers or os.cpu_count() or 1)


def read_raw_label(raw: RawSet, path: Path) -> Any:
    """The train ids of a label file of `raw`, uint8 [H, W]; raises UserError for ids that the set does not have."""
    train_ids, unknown = raw.to_train_ids(raw.read_label(path))
    if unknown:
        raise UserError(
            f"{path} has label ids {', '.join(map(str, unknown[:10]))}, which {raw.name} does not have. Is it another "
            f"data set's? python -m data_prep.verify --dataset={raw.name} --raw=... looks at all files."
        )
    return train_ids


def choose(scenes: Mapping[str, list[Scene]], lists: Mapping[str, Path]) -> dict[str, list[Scene]]:
    """New splits from text files that list ids, one a line, in any Unicode form.

    Raises:
      UserError: a list is missing, empty or no text, or names an id that is not among the scenes.
    """
    known = {scene[0]: scene for found in scenes.values() for scene in found}
    chosen = {}
    for split, path in lists.items():
        if not path.is_file():
            what = "a directory" if path.is_dir() else "no such file"
            raise UserError(f"--split {split}={path}: {what}; expected a text file of ids, one a line")
        names = [unicodedata.normalize("NFC", line.strip()) for line in read_text(path).split("\n") if line.strip()]
        if not names:
            raise UserError(f"{path} lists nothing; expected ids, one a line")
        missing = [name for name in names if name not in known]
        if missing:
            examples = ", ".join(list(known)[:3])
            raise UserError(
                f"{path}: {len(missing)} of {len(names)} ids are not in the data set; ids look like {examples}\n"
                f"{first(missing)}"
            )
        chosen[split] = [known[name] for name in sorted(set(names))]
    return chosen


def build_raw(out: str | Path, plan: Plan, name: str, overwrite: bool = False, beam: str | None = None) -> Path:
    """Writes `<out>/<name>/1.0.0` and returns it; see `write`.

    Args:
      plan: from `raw_plan`.
      name: a key of `RAW_SETS`.
      beam: Apache Beam's command-line options, such as "--runner=DirectRunner"; None builds without Beam.
    """
    module = importlib.import_module(f"data_prep.{name}")
    builder = getattr(module, name.capitalize())
    options = None if beam is None else _beam_options(beam)
    target = Path(out) / name / str(builder.VERSION)
    return write(lambda scratch: builder(data_dir=scratch, plan=plan), target, overwrite, options)


def _beam_options(text: str) -> Any:
    try:
        from apache_beam.options.pipeline_options import PipelineOptions
    except ImportError as error:
        raise UserError('--beam needs Apache Beam: pip install "uda_jax[beam]" (or pip install apache-beam)') from error
    return PipelineOptions(text.split())


def write(
    make: Callable[[str], tfds.core.DatasetBuilder],
    target: Path,
    overwrite: bool = False,
    beam_options: Any = None,
    num_shards: int | None = None,
) -> Path:
    """Builds into a scratch directory beside `target` and renames it when it is complete.

    What an interrupted build left is removed first. Readers see the old set, or none, until the new one is whole.

    Args:
      make: scratch data directory -> builder.
      target: `<data_dir>/<dataset>/<version>`.
      overwrite: replace what is there.
      beam_options: Apache Beam's PipelineOptions, to build with Beam.
      num_shards: files a split; None leaves it to TFDS.
    Raises:
      UserError: the set exists and `overwrite` is false, another process builds it right now, or the disk refuses.
    """
    records_dir(target, "--out")
    how = tfds.download.DownloadConfig(try_download_gcs=False, beam_options=beam_options, num_shards=num_shards)
    try:
        if target.exists() and not overwrite:
            raise UserError(f"{target} exists. Give --overwrite to replace it, or choose another --name or --out.")
        _make_directory(target.parent)
        with alone(target.parent, "building") as locked, _scratch(target.parent, locked) as scratch:
            builder = make(scratch)
            tfds.disable_progress_bar()  # the builder has a bar of its own
            with contextlib.redirect_stdout(io.StringIO()):  # it would praise the scratch directory
                _generate(builder, how)
            if target.exists():
                target.rename(Path(scratch) / "old")
            Path(builder.data_dir).rename(target)
    except OSError as error:
        raise UserError(_refusal(error, target)) from error
    return target


def _refusal(error: OSError, target: Path) -> str:
    """What the disk said, of the place to write to or of a file to read."""
    place = Path(error.filename or target)
    ours = place in target.parents or place.is_relative_to(target.parent)
    verb, advice = ("written", " Choose another --out.") if ours else ("read", "")
    return f"{place} cannot be {verb}: {error.strerror or error}. Nothing was kept.{advice}"


def _make_directory(path: Path) -> None:
    """Makes a directory and those above it, or none of them."""
    new = [one for one in (path, *path.parents) if not os.path.lexists(one)]
    try:
        path.mkdir(parents=True, exist_ok=True)
    except OSError:
        for one in new:
            with contextlib.suppress(OSError):
                one.rmdir()
        raise


def _generate(builder: tfds.core.DatasetBuilder, how: tfds.download.DownloadConfig) -> None:
    """Writes the records.

    Raises:
      UserError: the disk is full, however that was put.
      OSError: a file cannot be read or written.
    """
    try:
        builder.download_and_prepare(download_config=how, file_format="tfrecord")
    except Exception as error:  # TFDS wraps Python's and TensorFlow's errors in several of its own
        if os.strerror(errno.ENOSPC) in str(error):
            raise UserError(
                f"no space left for {builder.data_dir}; nothing was kept. Free some (while a set is written it takes "
                "about twice its size), give a smaller --size, or --encoding=jpeg."
            ) from error
        refusal = _of_disk(error)
        if refusal is None:
            raise
        raise OSError(refusal.errno, refusal.strerror, refusal.filename or str(builder.data_dir)) from error


def _of_disk(error: BaseException) -> OSError | None:
    """The answer of a disk that led to an error: it, what caused it, or what its text says."""
    if isinstance(error, OSError) and error.errno in REFUSALS:
        return error
    if error.__cause__ is not None:
        return _of_disk(error.__cause__)
    number = next((number for number in REFUSALS if os.strerror(number) in str(error)), None)
    return None if number is None else OSError(number, os.strerror(number))


@contextlib.contextmanager
def _scratch(directory: Path, locked: bool) -> Iterator[str]:
    """A directory to build in, removed at the end; what killed builds left is removed first, if nobody else builds."""
    for left in directory.glob(f"{SCRATCH}*") if locked else ():
        shutil.rmtree(left, ignore_errors=True)
    with tempfile.TemporaryDirectory(prefix=SCRATCH, dir=directory) as scratch:
        yield scratch
