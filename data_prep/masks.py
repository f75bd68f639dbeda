"""Which pictures are label maps of others, by their names alone: 1_mask.png beside 1.png, labels/1.png beside 1.png."""

import re
from collections.abc import Collection, Iterator

# What labelling tools and other projects' converters append to the name of the picture.
_KIND = r"(?:gt|gtfine|gtcoarse|ground[ _-]?truth|groundtruth)"
_IDS = r"(?:(?:label|instance|inv|panoptic|class|semantic)[ _-]?(?:cs|level\d)?(?:train)?[ _-]?ids?|train[ _-]?ids?)"
_MASK = r"(?:masks?|labels?|labelmap|seg|segm|segmentations?|semantics?|annotations?|annot|annos?|instances?|panoptic)"
_LOOK = r"(?:(?:label|train|class|mask)?[ _-]?colou?rs?(?:ed)?|overlay|blend|pred|prediction|predictions|palette)"
_SENSOR = r"(?:depth|disp|disparity|normals|parts)"
_WORD = rf"(?:{_IDS}|{_KIND}|{_LOOK}|{_MASK}|{_SENSOR})"
_ADDED = re.compile(rf"[ _.-](?:{_WORD}|(?-i:L))\d*(?:[ _.-]?{_WORD}\d*|[ _.-]\d+)*$", re.I)
_BEFORE = re.compile(rf"^{_WORD}[ _.-]", re.I)
_MORE = rf"(?:{_WORD}|rgb|raw|aug|human|machine|class|object)"
_FOLDER = re.compile(rf"(?:(?:{_KIND}|{_IDS}|{_MASK})s?(?:[ _-]?{_MORE})*|depth|disparity|normals)", re.I)
_CERTAIN = re.compile(rf"(?:^|[ _.-]){_IDS}$", re.I)
_LIKELY = re.compile(rf"(?:^|[ _.-])(?:{_KIND}|masks?|labels?|{_KIND}[ _.-]{_LOOK})$", re.I)
# What the picture that belongs to a label may have around the same name.
_STARTS = ("", "image_", "img_", "rgb_")
_ENDINGS = ("", "_leftImg8bit", "_rgb_anon", "_rgb", "_image", "_img")


def among(ids: Collection[str]) -> set[str]:
    """Those ids (relative paths without suffix) that another one shows to be label maps.

    That is: another id with a word such as mask or labelTrainIds added, or in a folder of such a name beside it.
    """
    found = {name for name in ids if any(base in ids for base in _bases(name)) and not _left(name, ids)}
    inside = [name for name in set(ids) - found if _label_folders(name)]
    if inside:
        homes = {home for name in ids if not _label_folders(name) for home in _homes(name)}
        found |= {name for name in inside if _home_of_label(name) & homes}
    return found


def certain(ids: Collection[str]) -> set[str]:
    """Those ids that end as no photograph does, such as in labelIds."""
    return {name for name in ids if _CERTAIN.search(name.rpartition("/")[2])}


def doubtful(ids: Collection[str]) -> set[str]:
    """Those ids that end as labels do, or lie in a folder of such a name, although nothing beside them says so."""
    return {name for name in ids if _LIKELY.search(name.rpartition("/")[2]) or _label_folders(name)}


def _bases(name: str) -> Iterator[str]:
    """The ids that `name` would be a label map of."""
    folder, slash, stem = name.rpartition("/")
    added, before = _ADDED.search(stem), _BEFORE.match(stem)
    bare = ([stem[: added.start()]] if added else []) + ([stem[before.end() :]] if before else [])
    for base in filter(None, bare):
        yield from (f"{folder}{slash}{start}{base}{ending}" for start in _STARTS for ending in _ENDINGS)


def _left(name: str, ids: Collection[str]) -> bool:
    """Whether it is the left picture of two cameras, and not the label map of CamVid."""
    return name.endswith("_L") and f"{name[:-1]}R" in ids


def _label_folders(name: str) -> list[int]:
    return [at for at, part in enumerate(name.split("/")[:-1]) if _FOLDER.fullmatch(part)]


def _homes(name: str) -> Iterator[tuple[str, ...]]:
    """Where a folder of labels could lie beside a picture: its path with any one folder taken out, or none."""
    parts = tuple(name.split("/"))
    yield parts
    yield from ((*parts[:at], "", *parts[at + 1 :]) for at in range(len(parts) - 1))


def _home_of_label(name: str) -> set[tuple[str, ...]]:
    """The same for a picture in a folder of labels, whose own name may have the addition of a label too."""
    *folders, stem = name.split("/")
    stems = {stem, _ADDED.sub("", stem)}
    ends = {end + ending for end in stems for ending in _ENDINGS}
    places = [(folders[:at], folders[at + 1 :]) for at in _label_folders(name)]
    return {(*a, *put, *b, end) for a, b in places for put in ((), ("",)) for end in ends}
