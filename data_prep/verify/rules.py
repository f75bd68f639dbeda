"""Judges what was measured: facts of scenes in, findings out. One function a rule, nothing is read here.

A *fault* spoils training or stops the builder, a *warning* should be looked at, a *note* is good to know.
"""

from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import NamedTuple

from data_prep import left_out, mask_content
from data_prep.files import Files
from data_prep.left_out import FAULT, NOTE, WARNING
from data_prep.verify import ids
from data_prep.verify.scan import Facts, Spec
from data_prep.verify.sheet import Scene
from uda_jax.data import labels

SEVERITIES = (FAULT, WARNING, NOTE)
DOMINANT = ("road", "building", "vegetation", "sky")  # 65..71 % of all pixels in the published sets
LEAST_DOMINANT = 0.3
MOST_IGNORED = 0.5
ENOUGH = 100  # labels from which on the shares of a set are compared with the published ones
TYPICAL = 0.01  # published share from which on a class is compared
FEW = 0.02  # share of labels below which strange ones are a warning
FACTOR = 2.0  # by which its share may be off


class Place(NamedTuple):
    """A file, or the name of a prepared scene, and what about it."""

    file: str
    remark: str = ""


class Finding(NamedTuple):
    """One thing found; `places` are all the files that it concerns, empty if it concerns the whole set."""

    severity: str
    kind: str
    what: str
    places: tuple[Place, ...]
    advice: str


class Report(NamedTuple):
    """What was looked at and what was found; `images` and `labels` count all files of each split."""

    spec: Spec
    where: str
    images: Mapping[str, int]
    labels: Mapping[str, int]
    facts: Sequence[Facts]
    findings: Sequence[Finding]
    scenes: Sequence[Scene]  # for the contact sheet


def findings(spec: Spec, facts: Sequence[Facts]) -> list[Finding]:
    """All that the rules find in the scenes that were read, the worst first."""
    rules: tuple[Callable[[Spec, Sequence[Facts]], Iterable[Finding]], ...] = (
        unreadable,
        coloured,
        wrong_ids,
        unknown_ids,
        different_sizes,
        unusual_sizes,
        duplicates,
        empty,
        masks_among,
        shares,
        oddities,
    )
    return by_severity(finding for rule in rules for finding in rule(spec, facts))


def sampled(count: int, total: int) -> list[Finding]:
    """The note that not every scene was read."""
    what = f"{count:,} of {total:,} scenes were read"
    advice = "Leave out --limit to read them all; files that were not read were not compared either."
    return [] if count == total else [Finding(NOTE, "sample", what, (), advice)]


def by_severity(found: Iterable[Finding]) -> list[Finding]:
    return sorted(found, key=lambda finding: SEVERITIES.index(finding.severity))


def counts(spec: Spec, found: Mapping[str, int], complete: bool) -> list[Finding]:
    """Images found in each split against the published numbers; a fault only if the set should be complete."""
    wrong = {s: n for s, n in spec.published.items() if found.get(s, 0) != n}
    if not wrong:
        return []
    what = ", ".join(f"{split}: {found.get(split, 0):,} of {n:,} images" for split, n in wrong.items())
    advice = "Fine for a subset" if not complete else "Complete the download, or leave out --complete for a subset"
    return [Finding(FAULT if complete else WARNING, "count", what, (), f"{advice}.")]


def pairing(split: str, files: Files, strict: bool) -> list[Finding]:
    """Images without labels and labels without images of a split.

    Args:
      strict: labels without images are a fault too (the builders of published sets refuse them).
    """
    if files.labels is None:
        return []
    bare = [Place(str(path)) for name, path in files.images.items() if name not in files.labels]
    spare = [Place(str(path)) for name, path in files.labels.items() if name not in files.images]
    return [
        *_found(
            bare,
            FAULT,
            "image-without-label",
            f"{split}: {_of(bare, files.images, 'images')} without a label",
            "Complete the labels (PNG files of the same name), or remove the images.",
        ),
        *_found(
            spare,
            FAULT if strict else WARNING,
            "label-without-image",
            f"{split}: {_of(spare, files.labels, 'labels')} without an image",
            "Complete the images, or remove the labels.",
        ),
    ]


def others(files: Iterable[Files]) -> list[Finding]:
    """What lies in the folders and was not taken, one finding a kind."""
    groups = left_out.by_kind(one for found in files for one in found.left)
    return [
        Finding(
            left_out.KINDS[kind].severity,
            kind,
            left_out.what(kind, paths),
            tuple(Place(str(path)) for path in paths),
            left_out.KINDS[kind].advice,
        )
        for kind, paths in groups.items()
    ]


def unreadable(spec: Spec, facts: Sequence[Facts]) -> list[Finding]:
    """Files that are broken, cut short or of a form that cannot be a label map."""
    images = [Place(f.image, f.image_error) for f in facts if f.image_error]
    label_maps = [Place(f.label, f.label_error) for f in facts if f.label_error]
    advice = "Download or copy them again, or remove both files of the scene."
    what = f"{_of(label_maps, _labels(facts), 'labels')} cannot be read"
    return [
        *_found(images, FAULT, "unreadable-image", f"{_of(images, facts, 'images')} cannot be read", advice),
        *_found(label_maps, FAULT, "unreadable-label", what, advice),
    ]


def coloured(spec: Spec, facts: Sequence[Facts]) -> list[Finding]:
    """Labels that are pictures in class colours where ids are expected."""
    found = [
        Place(f.label, f"{f.colors[1]} colours, {100 * f.colors[0]:.0f} % of the pixels in the Cityscapes palette")
        for f in facts
        if f.colors
    ]
    what = f"{_of(found, _labels(facts), 'labels')} are coloured pictures, not class ids"
    advice = "Take the files of ids (labelIds, GT/LABELS), or map the colours with a label map of the folders builder."
    return _found(found, FAULT, "coloured-label", what, advice)


def wrong_ids(spec: Spec, facts: Sequence[Facts]) -> list[Finding]:
    """Labels that look like another kind of ids than the set's; a few among many may only be unusual scenes."""
    groups: dict[str, list[Place]] = defaultdict(list)
    for f in facts:
        if f.mistaken:
            groups[f.mistaken].append(Place(f.label))
    labelled = sum(bool(f.classes) for f in facts)
    wanted = ids.TABLES.get(spec.ids or "", "Cityscapes labelIds")
    return [
        Finding(
            WARNING if len(places) < FEW * labelled else FAULT,
            "wrong-ids",
            f"{len(places):,} of {labelled:,} labels: these look like {ids.TABLES[mistaken]}, not {wanted}",
            tuple(places),
            _other_ids_advice(mistaken, spec.ids or ""),
        )
        for mistaken, places in groups.items()
    ]


def _other_ids_advice(found: str, expected: str) -> str:
    if expected == "train":
        return f'Convert them: uda_jax.data.labels.id_table("{found}")[label].'
    if found == "train":
        return "Take the original label files; train ids are for --dataset=folders."
    return "Take this set's own label files; perhaps two data sets were mixed up."


def unknown_ids(spec: Spec, facts: Sequence[Facts]) -> list[Finding]:
    """Labels with values that the set does not have, unless all of their ids are of another kind."""
    files = [
        Place(f.label, f"{_few(list(f.unknown))} ({100 * sum(f.unknown.values()) / _area(f):.2g} % of the pixels)")
        for f in facts
        if f.unknown and not f.mistaken
    ]
    what = f"{_of(files, _labels(facts), 'labels')} hold values that are no ids of this set"
    return _found(files, FAULT, "unknown-ids", what, "Were they resized with interpolation, or drawn on? Replace them.")


def different_sizes(spec: Spec, facts: Sequence[Facts]) -> list[Finding]:
    """Labels of another size than their image."""
    files = [
        Place(f.image, f"{_size(f.size)}, its label {_size(f.label_size)}")
        for f in facts
        if f.size and f.label_size and f.label_size not in (f.size, f.raw_size)
    ]
    what = f"{_of(files, facts, 'images')} are of another size than their label"
    advice = "Make them of one size, or remove the scenes."
    if spec.mixed_sizes:
        advice = "The published set has some; the builder resizes both to one size."
    return _found(files, WARNING if spec.mixed_sizes else FAULT, "different-sizes", what, advice)


def unusual_sizes(spec: Spec, facts: Sequence[Facts]) -> list[Finding]:
    """Images of other sizes than published, or than most images have."""
    sizes = Counter(f.size for f in facts if f.size)
    usual = spec.sizes or tuple(size for size, _ in sizes.most_common(1))
    unusual = [f for f in facts if f.size and f.size not in usual]
    if not unusual:
        return []
    usual_text = " or ".join(map(_size, usual))
    severity, other = (WARNING, "the published size is") if spec.sizes else (NOTE, "most are")
    odd = Counter(f.size for f in unusual)
    what = f"{_of(unusual, facts, 'images')} of unusual size ({other} {usual_text}): "
    what += ", ".join(f"{n} of {_size(size)}" for size, n in odd.most_common(5)) + (", ..." if len(odd) > 5 else "")
    same = len(unusual) == sum(sizes.values()) and len(odd) == 1
    files = () if same else tuple(Place(f.image, _size(f.size)) for f in unusual)
    return [Finding(severity, "unusual-size", what, files, "Right if you resized the set; the builder can resize too.")]


def duplicates(spec: Spec, facts: Sequence[Facts]) -> list[Finding]:
    """Images of one content: within a split, and, worse, in more than one."""
    groups: dict[str, list[Facts]] = defaultdict(list)
    for f in facts:
        if f.digest and not f.blank:
            groups[f.digest].append(f)
    within: list[Place] = []
    between: list[Place] = []
    for group in groups.values():
        if len(group) > 1:
            place = Place(group[0].image, "= " + " = ".join(f.image for f in group[1:]))
            (between if len({f.split for f in group}) > 1 else within).append(place)
    return [
        *_found(
            between,
            FAULT,
            "duplicate-between-splits",
            f"{_of(between, facts, 'pictures')} are in more than one split",
            "Scores on them would be too good: remove them from the training split.",
        ),
        *_found(
            within,
            WARNING,
            "duplicate",
            f"{_of(within, facts, 'pictures')} occur more than once in a split",
            "They count double in training and in scores: remove all but one.",
        ),
    ]


def empty(spec: Spec, facts: Sequence[Facts]) -> list[Finding]:
    """Images of one colour, labels without a single class, labels of one class only."""
    blank = [Place(f.image) for f in facts if f.blank]
    labelled = [f for f in facts if f.classes]
    void = [Place(f.label) for f in labelled if set(f.classes) == {labels.IGNORE} and not f.mistaken]
    single = [
        Place(f.label, _name(spec, min(f.classes)))
        for f in labelled
        if len(f.classes) == 1 and labels.IGNORE not in f.classes
    ]
    one_class = f"{_of(single, labelled, 'labels')} hold one class only"
    return [
        *_found(blank, WARNING, "blank-image", f"{_of(blank, facts, 'images')} are of one colour", "Remove them."),
        *_found(
            void,
            FAULT if len(void) == len(labelled) else WARNING,
            "ignored-label",
            f"{_of(void, labelled, 'labels')} have no class at all",
            "They teach nothing. Were 16-bit files cut to 8 bits? A split without labels needs no label files.",
        ),
        *_found(single, NOTE, "single-class", one_class, "Look at them."),
    ]


def masks_among(spec: Spec, facts: Sequence[Facts]) -> list[Finding]:
    """Images that look like label maps among others of their split that do not."""
    places: list[Place] = []
    for split in sorted({f.split for f in facts}):
        images = [f for f in facts if f.split == split]
        places += [
            Place(f.image) for f in mask_content.among_photographs([f for f in images if f.masklike], len(images))
        ]
    what = f"{_of(places, facts, 'images')} look like label maps"
    return _found(places, WARNING, "label-among-images", what, "Are they among the images by mistake? Remove them.")


def shares(spec: Spec, facts: Sequence[Facts]) -> list[Finding]:
    """The class shares of the whole set against the published ones, or against what street scenes look like."""
    sound = [f for f in facts if f.classes and not f.mistaken]
    pixels = ids.add(f.classes for f in sound)
    total = sum(pixels.values())
    if not total or set(pixels) == {labels.IGNORE}:
        return []
    found = []
    if pixels.get(labels.IGNORE, 0) > MOST_IGNORED * total:
        share = 100 * pixels[labels.IGNORE] / total
        advice = "Check the label map: are classes left out?"
        found.append(Finding(WARNING, "ignored-share", f"{share:.0f} % of the pixels are ignored", (), advice))
    if spec.ids is not None:
        found += _street_shares(spec, pixels, len(sound))
    return found


def _street_shares(spec: Spec, pixels: Mapping[int, int], count: int) -> list[Finding]:
    published = ids.SHARES.get(spec.name, ())
    total = sum(pixels.values())
    classes = total - pixels.get(labels.IGNORE, 0)
    share = {name: pixels.get(i, 0) / total for i, name in enumerate(spec.names)}
    advice = "Look at --sheet: do labels and images fit?"
    found = []
    dominant = sum(share[name] for name in DOMINANT) * total / classes
    if dominant < LEAST_DOMINANT:
        what = (
            f"{', '.join(DOMINANT)} are {100 * dominant:.0f} % of the labelled pixels; in street scenes they are most"
        )
        found.append(Finding(WARNING, "unlike-streets", what, (), advice))
    absent = [n for i, n in enumerate(spec.names) if not share[n] and (not published or published[i])]
    if absent:
        what = f"classes without a pixel in {count} labels: {', '.join(absent)}"
        severity = WARNING if published and count >= ENOUGH else NOTE
        found.append(Finding(severity, "missing-class", what, (), "Usual in a small set, or are they not labelled?"))
    expected = {n: published[i] / 100 for i, n in enumerate(spec.names) if published and count >= ENOUGH}
    off = [
        f"{n} {100 * share[n]:.1f} % (published {100 * p:.1f} %)"
        for n, p in expected.items()
        if p >= TYPICAL and share[n] and not p / FACTOR <= share[n] <= p * FACTOR
    ]
    if off:
        what = f"class shares unlike the published ones: {', '.join(off)}"
        found.append(Finding(WARNING, "class-shares", what, (), advice))
    return found


def oddities(spec: Spec, facts: Sequence[Facts]) -> list[Finding]:
    """Images stored in an unusual way, by kind; all of them are handled."""
    groups = defaultdict(list)
    for f in facts:
        for oddity in f.oddities:
            groups[oddity].append(Place(f.image))
    advice = "Nothing to do: the builder stores upright 8-bit RGB without alpha."
    return [
        Finding(NOTE, "stored-form", f"{_of(files, facts, 'images')}: {oddity}", tuple(files), advice)
        for oddity, files in sorted(groups.items())
    ]


def _found(files: Sequence[Place], severity: str, kind: str, what: str, advice: str) -> list[Finding]:
    return [Finding(severity, kind, what, tuple(files), advice)] if files else []


def _of(some: Sequence, everything: Iterable, things: str) -> str:
    return f"{len(some):,} of {sum(1 for _ in everything):,} {things}"


def _labels(facts: Sequence[Facts]) -> list[Facts]:
    return [f for f in facts if f.label]


def _few(values: Sequence[str], count: int = 8) -> str:
    return ", ".join(values[:count]) + (", ..." if len(values) > count else "")


def _area(f: Facts) -> int:
    return max(sum(f.classes.values()), 1)


def _size(size: tuple[int, int] | None) -> str:
    return f"{size[1]}x{size[0]}" if size else "?"


def _name(spec: Spec, train_id: int) -> str:
    return spec.names[train_id] if train_id < len(spec.names) else "ignored"
