"""Files with their split and class, which every layout returns; names of splits in six languages, names of classes."""

import functools
import re
import unicodedata
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from operator import itemgetter
from typing import NamedTuple

from pupila._arguments import counted, first_few
from pupila.data.dataset import SkippedFiles, first_notes
from pupila.data.sources.archive import check_memory
from pupila.data.sources.files import LONGEST, SourceFile, composed, display_name, is_plain, plain_name
from pupila.errors import DataError
from pupila.manifest import MAX_CLASSES, MAX_TEXT

NAME_BYTES = 20
"""What a letter of a picture's name takes at most, with those of the folders: it is kept in several texts of four bytes
a letter, and written into the cache. Measured were 13 to 17."""
WORDS = {
    "train": ("train", "training"),
    "validation": ("valid", "val", "validation", "dev", "eval", "evaluation", "publictest"),
    "test": ("test", "testing", "tests", "holdout", "privatetest"),
}
OTHER_WORDS = {
    "train": (
        "treino", "treinamento", "treinar", "entrenamiento", "entreno", "entrenar", "entrainement", "entrainer",
        "apprentissage", "trainings", "trainieren", "lernen", "lern", "addestramento", "allenamento",
    ),
    "validation": (
        "validacao", "validar", "validacion", "avaliacao", "evaluacion", "valider", "validierung", "validierungs",
        "validieren", "validazione",
    ),
    "test": (
        "teste", "testes", "testar", "prueba", "pruebas", "probar", "essai", "essais", "tester", "prova", "pruefung",
        "prufung", "testen", "prove",
    ),
}  # fmt: skip
"""Portuguese, Spanish, French, German and Italian, without accents. Some of them are ordinary words, too."""
ENDS = ("", "set", "data", "daten", "datensatz", "menge", "dataset")
SPLIT_NAMES = {
    word + end: split
    for words in (WORDS, OTHER_WORDS) for split, known in words.items() for word in known for end in ENDS
}  # fmt: skip
"""What folders, tables and parquet files call the three splits, in small letters; see split_of()."""
ENGLISH = {word + end for words in WORDS.values() for word in words for end in ENDS}
WITHIN = re.compile(
    r"(?P<before>(?:.*[\s_.()\[-])?)"
    rf"(?P<split>{'|'.join(f'{word}(?:[ _-]?set)?' for w in (WORDS, OTHER_WORDS) for k in w.values() for word in k)})"
    r"(?P<after>(?:[\s_.()\]-].*|[ab])?)"
)
"""The name of a split between two marks or ends: seg_train, test-images; trainA and testB are class A and B.

In small letters: to find them whatever the capitals takes three times as long."""
STRUCTURE = frozenset(
    (
        "images", "image", "img", "imgs", "jpegimages", "labels", "label", "annotations", "annotation", "masks", "mask",
        "imagesets", "segmentationclass", "segmentationobject", "groundtruth", "gt", "segmentation", "segmentations",
        "annots", "bboxes", "boxes", "data", "trainimages", "valimages", "testimages", "train2017", "val2017",
        "test2017", "trimaps", "train2014", "val2014", "test2014",
    )
)  # fmt: skip
"""Names of folders of data sets for another task, which are no classes, without marks between words."""
MASKS = frozenset(
    (
        "mask", "masks", "seg", "segs", "segmentation", "segmentations", "segmented", "segmentationclass", "trimap",
        "trimaps", "gt", "truth", "groundtruth", "label", "labels", "annotation", "annotations", "anno", "annots",
        "matte", "mattes", "target", "targets", "output", "outputs", "semantic", "annot", "gtfine", "gtcoarse",
    )
)  # fmt: skip
GLUED = re.compile(rf"(train|val|test)({'|'.join(sorted(MASKS))})")
"""The name of a split, and of masks without a mark between."""
PIECES = STRUCTURE | MASKS | {
    "raw", "original", "originals", "input", "inputs", "png", "jpg", "tif", "rgb", "color", "binary", "ground", "photo",
    "photos", "picture", "pictures", "class", "instance", "training", "validation", "fine", "coarse", "resized",
    "obj", "leftimg8bit",
}  # fmt: skip
"""Words that such names are put together from: mask_png, gtFine, segmentation-masks, original_images."""
FIX = "Pupila learns one class for a whole picture: cut the {things} out and put them into class folders."
"""What to do with a data set for another task."""
HINT = "Put them into one folder a class, like cat/1.jpg and dog/1.jpg."


class LabelledFile(NamedTuple):
    """A file with its class and its name within the class."""

    category: str
    name: str
    entry: SourceFile


@dataclass(frozen=True)
class DetectedLayout:
    """Labelled files by split, sorted by class, then by name, and what was left out."""

    layout: str
    """What the arrangement was recognised as, in a few words for the user."""
    splits: Mapping[str, Sequence[LabelledFile]]
    strays: Sequence[SourceFile] = ()
    """Pictures that have no label."""
    notes: Sequence[str] = field(default=())
    """What was passed over on purpose, one sentence each."""
    skipped: SkippedFiles = field(default_factory=SkippedFiles)
    """What could not be used before it was even read."""


def sort_labelled(splits: Mapping[str, Iterable[LabelledFile]]) -> dict[str, list[LabelledFile]]:
    """Sort each split by class, then by name: the order that a seed's split depends on.

    Names of classes get normal form C.
    """

    def normal(item: LabelledFile) -> LabelledFile:
        return item if item.category.isascii() else item._replace(category=composed(item.category))

    return {split: sorted(map(normal, splits[split]), key=itemgetter(0, 1)) for split in sorted(splits)}


def class_names(splits: Mapping[str, Sequence[LabelledFile]], where: str) -> tuple[str, ...]:
    """Return the classes of train, sorted, numbers in them as numbers.

    Raises DataError if another split has one more, or if a name is no text.
    """
    classes = {item.category for item in splits["train"]}
    for name in classes:
        if name.encode("utf-8", "backslashreplace").decode() != name:  # answers could not be written down
            raise DataError(f"{where}: the name of the class {display_name(name)} is not in UTF-8. Rename its folder.")
    for split, members in splits.items():
        own = {item.category for item in members}
        if own - classes:
            missing = f" It lacks {some(classes - own)}." if classes - own else ""
            same = {plain_name(name) for name in own - classes} & {plain_name(name) for name in classes - own}
            why = " They differ in spaces or invisible letters only." if same else ""
            raise DataError(
                f"{where}: {split} has classes that train lacks: {some(own - classes)}.{missing}{why} Name them alike."
            )
    return tuple(sorted(classes, key=natural_order))


def check_names(letters: int, pictures: int, each: int = NAME_BYTES) -> None:
    """Raise DataError if so many letters, which take so many bytes each, do not fit into memory."""
    fix = "Use fewer pictures, or shorter names."
    check_memory(each * letters, f"The names of {counted(pictures, 'picture')}", fix)


def check_class_count(classes: Collection[str], where: str, one_class: bool = False) -> None:
    """Raise DataError for one class only, unless that is enough, and for more or longer ones than a model may have."""
    if len(classes) > MAX_CLASSES:
        raise DataError(f"{where}: has over {MAX_CLASSES:,} classes, and a model has no more. Leave some out.")
    longest = max(map(len, classes), default=0)
    if longest > MAX_TEXT:
        raise DataError(
            f"{where}: the name of a class has {longest:,} letters, and a model has {MAX_TEXT:,} at most. Shorten it."
        )
    if len(classes) < 2 and not one_class:
        only = next(iter(classes), "")
        raise DataError(f"{where}: has one class only, {_quoted(only)}. Put a folder of another class beside it.")


def natural_order(name: str) -> tuple[str, str]:
    """Return the sort key that puts 2 before 10, and class2 before class10; it has three times the letters at most.

    Before a number stand a sign that is before all letters, and how many digits it has.
    """
    return re.sub(r"\d{1,18}", _by_length, name), name


def _by_length(number: re.Match[str]) -> str:
    digits = str(int(number[0]))
    return f"\0{chr(len(digits))}{digits}"


def alike(classes: Iterable[str]) -> list[str]:
    """Return a sentence on each group of classes that differ in capitals, accents' spelling, spaces or marks only."""
    groups: dict[str, list[str]] = {}
    for name in classes:
        key = composed(plain_name(name), "NFKC")
        groups.setdefault(re.sub(r"[\s_.-]+", "", key).casefold() or name, []).append(name)
    return first_notes(
        f"{joined(group, _quoted)} are different classes: name them alike if they are one."
        for group in groups.values()
        if len(group) > 1
    )


def joined(names: Sequence[str], show: Callable[[str], str] = str) -> str:
    """Join two or three names with `and`, the first few of more with commas."""
    return " and ".join(map(show, names)) if len(names) < 4 else first_few(names, show=show)


def odd_names(classes: Iterable[str]) -> list[str]:
    """Return a sentence on classes with spaces at an end, or with invisible letters."""
    odd = sorted(name for name in classes if not is_plain(name))
    return [f"Names of classes with spaces at an end or invisible letters: {some(odd)}."] if odd else []


def _quoted(name: str) -> str:
    shown = display_name(name)
    return f"'{shown}'" if is_plain(name) else shown


def some(names: Iterable[str]) -> str:
    """Join the first five names, as messages show them, and count the others."""
    return first_few(sorted(names), show=display_name)


def folded(name: str) -> str:
    """Return a name in small letters without accents, letter for letter."""
    if name.isascii():
        return name.casefold()
    return "".join(unicodedata.normalize("NFD", letter)[0].lower()[:1] or letter for letter in name)


def split_of(name: str) -> str | None:
    """Return the split that a name means, however it is written: Test, test_set, Validação; None if it means none."""
    return SPLIT_NAMES.get(_word(name)) if len(name) <= LONGEST else None


def _word(name: str) -> str:
    return re.sub(r"[\s_-]+", "", folded(composed(name)))


def splits_among(names: Iterable[str]) -> dict[str, str]:
    """Map those names that mean a split to it.

    Where none does, all may have one beginning or end in common, as seg_train, seg_test and seg_pred have, numbers
    apart, as in 1_train and 2_test: what stands between counts then, if train and another split are among them.
    """
    names = sorted(set(names))
    plain = {name: split for name in names if (split := split_of(name))}
    alone = len(plain) == len(names) and "train" in plain.values()
    if any(_word(name) in ENGLISH for name in plain) or len(set(plain.values())) > 1 or alone:
        return plain
    if len(names) < 2:
        return {}
    found = _by_common_ends({name: folded(name) for name in names})
    if not found:
        found = _by_common_ends({name: _unnumbered(name) for name in names})
        found = found if len(set(found.values())) == len(found) else {}  # train1 and train2 are two of one kind
    return found


def _unnumbered(name: str) -> str:
    """Return a name in small letters without numbers and shares, with `de` for the French d' before a vowel."""
    return re.sub("d['\u2019]", "de ", re.sub(r"[\d%]+", "", folded(name)))


def _by_common_ends(readings: Mapping[str, str]) -> dict[str, str]:
    """Map names to splits where what stands before and behind those is the same."""
    groups: dict[tuple[str, str], dict[str, str]] = {}
    for name, text in readings.items():
        match = WITHIN.fullmatch(text)
        if match and (split := split_of(match["split"])):
            groups.setdefault((match["before"], match["after"]), {})[name] = split
    ahead = [end(readings.values(), default="") for end in (min, max)]  # what these two begin with, all others do
    back = [end((text[::-1] for text in readings.values()), default="") for end in (min, max)]
    for (before, after), found in groups.items():
        shared = all(text.startswith(before) for text in ahead)
        shared = shared and all(text.startswith(after[::-1]) for text in back)
        if shared and len(set(found.values())) > 1 and "train" in found.values():
            return found
    return {}


def is_structure(folder: str) -> bool:
    """Return whether a folder's name is that of a part of a data set, like images, and of no class."""
    plain = re.sub(r"[\s_-]+", "", folder.casefold())
    known = plain in STRUCTURE or plain.startswith("voc20")
    known = known or all(word in PIECES or word in ENGLISH for word in words_of(folder))
    return known or bool(splits_among([folder]))


@functools.lru_cache(2**10)
def words_of(folder: str) -> frozenset[str]:
    """Return the words of a name in small letters: those of gt_fine and of gtFine are the same, as of trainannot."""
    words = {word.lower() for word in re.findall(r"[A-Z]*[a-z]+|[A-Z]+|[^\W_]+", folder)}
    glued = {GLUED.fullmatch(word) for word in words}
    parts = {part for match in glued if match for part in match.groups()}
    return frozenset(parts | {word for word in words if not GLUED.fullmatch(word)})


def splits_in_classes(names: Iterable[str]) -> dict[str, tuple[str, str]]:
    """Map names like cat_train and dog-test to class and split; none unless train shares a class with another split."""
    matches = {name: match for name in names if (match := WITHIN.fullmatch(folded(name)))}
    found = {
        n: ((n[: m.end("before")] + n[m.start("after") :]).strip(" _.-"), split_of(m["split"]) or "")
        for n, m in matches.items()
    }
    found = {name: (category, split) for name, (category, split) in found.items() if category}
    trained = {category for category, split in found.values() if split == "train"}
    return found if any(category in trained and split != "train" for category, split in found.values()) else {}


def splits_of_files(files: Sequence[SourceFile]) -> list[str | None]:
    """Return the split that the name of each file tells, or of the folder that it lies in; None where neither does."""
    stems = [re.sub(r"(-\d+-of-\d+)?\.\w+$", "", file.file) for file in files]
    among = splits_among(stems)
    return [
        split_named(stem) or among.get(stem) or (split_of(file.parts[-2]) if len(file.parts) > 1 else None)
        for file, stem in zip(files, stems, strict=True)
    ]


def split_named(name: str) -> str | None:
    """Return the split that a file's name begins with, as in train-00000-of-00002 or testLabels; None if with none."""
    small = folded(name)
    known = sorted((word for word in SPLIT_NAMES if small.startswith(word)), key=len)
    rest = name[len(known[-1]) :] if known else ""
    begins = not rest or not rest[0].isalpha() or rest[0].isupper() or rest.casefold() in ("labels", "ing")
    return SPLIT_NAMES[known[-1]] if known and begins else None
