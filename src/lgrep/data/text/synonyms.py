"""Synonyms of English words, from WordNet 3.0 or from a file of the user's."""

from __future__ import annotations

import bisect
import lzma
from array import array
from collections.abc import Callable, Iterator
from functools import cache, lru_cache
from importlib import resources
from pathlib import Path

import numpy as np

from lgrep.errors import DataError

WORDNET = "wordnet"
WORDS_KEPT = 1 << 15  # words whose synonyms are kept per process
PARTS = ("noun", "verb", "adj", "adv")
LETTERS = frozenset(" abcdefghijklmnopqrstuvwxyz")
# Endings that WordNet's morphology takes away, and what it puts there (morphy of the WordNet manual).
ENDINGS: dict[str, tuple[tuple[str, str], ...]] = {
    "noun": (
        *(("s", ""), ("ses", "s"), ("ves", "f"), ("xes", "x"), ("zes", "z"), ("ches", "ch")),
        *(("shes", "sh"), ("men", "man"), ("ies", "y")),
    ),
    "verb": (
        *(("s", ""), ("ies", "y"), ("es", "e"), ("es", ""), ("ed", "e"), ("ed", "")),
        *(("ing", "e"), ("ing", "")),
    ),
    "adj": (("er", ""), ("est", ""), ("er", "e"), ("est", "e")),
    "adv": (),
}

Synonyms = Callable[[str], tuple[str, ...]]


@cache
def load_synonyms(where: str = WORDNET) -> Synonyms:
    """The function from a word to its synonyms; loaded once per process.

    Args:
        where: `wordnet` (the packaged WordNet 3.0), a folder of WordNet's own files (`data.noun`, `noun.exc`, ...;
            NLTK's `corpora/wordnet` is one), or a UTF-8 file of lines `word<TAB>synonym,synonym`.

    Raises:
        DataError: it is missing or cannot be read.

    >>> sorted(load_synonyms()("puppies"))
    ['pup', 'puppy']
    """
    if where == WORDNET:
        packed = (resources.files("lgrep.data.text") / "wordnet" / "synonyms.txt.xz").read_bytes()
        return WordNet(lzma.decompress(packed))
    path = Path(where)
    try:
        return WordNet(read_wordnet(path)) if path.is_dir() else _from_file(path)
    except (OSError, UnicodeDecodeError, ValueError, IndexError) as error:
        raise DataError(
            f"synonyms={where} cannot be read ({error}). Type synonyms={WORDNET} for the packaged ones"
        ) from error


class WordNet:
    """Synonyms of a word: the names of all senses of all its base forms, as the EDA of `textaugment` takes them.

    Args:
        text: UTF-8 lines `lemma<TAB>part:name,name<TAB>...` in the order of their bytes. Names are spelled as they are
            put into captions; those of the part `exc` are `<base form>/<part of speech>` for irregular forms.
    """

    def __init__(self, text: bytes) -> None:
        # one text and the places of its lines: a dict of so many words would cost each loading process 30 MB
        self._text = text
        ends = np.flatnonzero(np.frombuffer(text, dtype=np.uint8) == ord("\n"))
        self._starts = array("q", np.concatenate([[0], ends + 1]).astype(np.int64).tobytes())
        self._find = lru_cache(maxsize=WORDS_KEPT)(self._names)

    def __call__(self, word: str) -> tuple[str, ...]:
        return self._find(word)

    def _names(self, word: str) -> tuple[str, ...]:
        """Names in small letters and blanks, without the word itself; empty ones (of numbers) are left out."""
        form, found = word.lower(), dict[str, None]()
        exceptions = [item.rpartition("/") for item in self._entry(form).get("exc", ())]
        for part in PARTS:
            bases = [base for base, _, kind in exceptions if kind == part] or list(_stripped(form, part))
            for base in dict.fromkeys((form, *bases)):
                names = self._entry(base).get(part)
                if names is not None:
                    found.update(dict.fromkeys((_spelled(base), *names)))
        return tuple(name for name in found if name.strip() and name != word)

    def _entry(self, lemma: str) -> dict[str, list[str]]:
        """Names by part of speech; empty when the lemma is not there."""
        head = lemma.encode("utf-8", "replace") + b"\t"
        place = bisect.bisect_left(self._starts, head, hi=len(self._starts) - 1, key=self._head)
        start = self._starts[place]
        if not self._text.startswith(head, start):
            return {}
        line = self._text[start : self._starts[place + 1] - 1].decode()
        fields = (field.partition(":") for field in line.split("\t")[1:])
        return {part: names.split(",") if names else [] for part, _, names in fields}

    def _head(self, start: int) -> bytes:
        return self._text[start : self._text.index(b"\t", start) + 1]


def _stripped(form: str, part: str) -> Iterator[str]:
    """Possible base forms."""
    return (form[: -len(old)] + new for old, new in ENDINGS[part] if form.endswith(old))


def _spelled(name: str) -> str:
    """A name as it is put into a caption: small letters and blanks only."""
    return "".join(letter for letter in name.replace("_", " ").replace("-", " ").lower() if letter in LETTERS)


def read_wordnet(folder: Path) -> bytes:
    """Text for `WordNet` from WordNet's own files.

    Raises:
        OSError, ValueError, IndexError: files are missing or of another format.
    """
    entries: dict[str, dict[str, list[str]]] = {}
    for part in PARTS:
        exceptions = [
            line.split() for line in (folder / f"{part}.exc").read_text("latin-1").splitlines() if line.strip()
        ]
        irregular = {form: bases for form, *bases in exceptions if "_" not in form}
        for form, bases in irregular.items():
            entries.setdefault(form, {}).setdefault("exc", []).extend(f"{base}/{part}" for base in bases)
        # captions are looked up word by word, so phrases matter only where a word is a form of one
        phrases = {base for bases in irregular.values() for base in bases}
        for lemma, names in _senses(folder / f"data.{part}"):
            if "_" not in lemma or lemma in phrases:
                known = entries.setdefault(lemma, {}).setdefault(part, [])
                known.extend(name for name in names if name not in known and name != _spelled(lemma))
    lines = [
        "\t".join([lemma, *(f"{part}:{','.join(names)}" for part, names in entry.items())])
        for lemma, entry in entries.items()
    ]
    return b"".join(sorted(f"{line}\n".encode() for line in lines))


def _senses(path: Path) -> Iterator[tuple[str, list[str]]]:
    """Each lemma of each set of synonyms, with all names of the set."""
    with path.open(encoding="latin-1") as lines:
        for line in lines:
            if line.startswith("  "):  # the licence
                continue
            fields = line.split(" ")
            words = [word.split("(")[0] for word in fields[4 : 4 + 2 * int(fields[3], 16) : 2]]  # off(p): a position
            names = list(dict.fromkeys(_spelled(word) for word in words))
            yield from ((word.lower(), names) for word in words)


def _from_file(path: Path) -> Synonyms:
    table: dict[str, tuple[str, ...]] = {}
    for number, line in enumerate(path.read_text(encoding="utf-8-sig").splitlines(), 1):
        word, tab, rest = line.partition("\t")
        names = tuple(name.strip() for name in rest.split(",") if name.strip())
        if not line.strip() or line.startswith("#"):
            continue
        if not tab or not word.strip() or not names:
            raise ValueError(f"line {number} is not word<TAB>synonym,synonym: {line[:60]!r}")
        table[word.strip().lower()] = names
    return lambda word: tuple(name for name in table.get(word.lower(), ()) if name != word)
