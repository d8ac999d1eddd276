"""Words of a caption, and the words that carry little meaning."""

from __future__ import annotations

import re
from collections.abc import Iterator

# The 179 English stop words of NLTK's corpus (release of 2021, the one of NLTK 3.7), from the Snowball project's list.
STOP_WORDS = frozenset(
    """
    i me my myself we our ours ourselves you you're you've you'll you'd your yours yourself yourselves he him his
    himself she she's her hers herself it it's its itself they them their theirs themselves what which who whom this
    that that'll these those am is are was were be been being have has had having do does did doing a an the and but
    if or because as until while of at by for with about against between into through during before after above below
    to from up down in out on off over under again further then once here there when where why how all any both each
    few more most other some such no nor not only own same so than too very s t can will just don don't should
    should've now d ll m o re ve y ain aren aren't couldn couldn't didn didn't doesn doesn't hadn hadn't hasn hasn't
    haven haven't isn isn't ma mightn mightn't mustn mustn't needn needn't shan shan't shouldn shouldn't wasn wasn't
    weren weren't won won't wouldn wouldn't
    """.split()  # noqa: SIM905 (a list of 179 lines)
)

# A period after these does not end a sentence.
ABBREVIATIONS = frozenset("mr mrs ms dr prof st jr sr vs etc no co corp inc ltd fig gen col sgt rev ft mt ave".split())  # noqa: SIM905

FUSED = {"cannot": 3, "gonna": 3, "gotta": 3, "gimme": 3, "lemme": 3}  # letters of the first word

_ALONE = r"""\[\]();@#$%&?!*{}<>"“”„«»\u2018\u2019`\u2012-\u2015"""
_PIECE = re.compile(
    rf"""
      \.{{2,}}                        # dots
    | --
    | (?:``|'')
    | [{_ALONE}]
    | [,:](?!\d)
    | (?P<word> (?: [^\s{_ALONE},:.'-]  # anything else
        | [,:](?=\d) | \.(?!\.)         # commas and colons before digits, single periods,
        | '(?!') | -(?!-) )+ )          # single quotes and hyphens
    """,
    re.VERBOSE,
)
_CLITIC = re.compile(r"(?<=[^'])(?:n't|'(?:s|m|d|ll|re|ve))$", re.IGNORECASE)
_QUOTED = re.compile(r"'(?!(?:re|ve|ll|m|t|s|d|n)\b)(?=\w)", re.IGNORECASE)
_LAST = re.compile(r"[\])}>\"'”\u2019»\s]*\Z")


def split_words(text: str) -> list[str]:
    """Words, numbers, clitics and punctuation marks, after the Penn Treebank's conventions.

    Follows NLTK's `word_tokenize`; `docs/text.md` names the differences. Straight double quotes become two back-quotes
    or two apostrophes, as there.

    >>> split_words("The dog's ball isn't red, it's 3.5 cm.")
    ['The', 'dog', "'s", 'ball', 'is', "n't", 'red', ',', 'it', "'s", '3.5', 'cm', '.']
    """
    words: list[str] = []
    for match in _PIECE.finditer(text):
        piece = match.group()
        if piece.isalpha() and piece.lower() not in FUSED:
            words.append(piece)  # most are plain
        elif match["word"]:
            words.extend(_parts(piece, text, match.end()))
        elif piece == '"':
            words.append("``" if _opens(text, match.start()) else "''")
        else:
            words.append(piece)
    return words


def _parts(piece: str, text: str, end: int) -> Iterator[str]:
    """A piece with its quotes, its clitic and the sentence's period apart; it ends at `end` of the text."""
    if _QUOTED.match(piece):
        yield "'"
        piece = piece[1:]
    after: list[str] = []
    if len(piece) > 1 and piece[-1] == "." and _ends_sentence(piece, text, end):
        piece, after = piece[:-1], ["."]
    if len(piece) > 1 and piece[-1] == "'":
        piece, after = piece[:-1], ["'", *after]
    if clitic := _CLITIC.search(piece):
        piece, after = piece[: clitic.start()], [clitic.group(), *after]
    first = FUSED.get(piece.lower(), 0)
    yield from (part for part in (piece[:first], piece[first:], *after) if part)


def _opens(text: str, start: int) -> bool:
    """Whether a quote at `start` opens: it is the first letter, or after a blank or a bracket."""
    return start == 0 or text[start - 1].isspace() or text[start - 1] in "([{<"


def _ends_sentence(piece: str, text: str, end: int) -> bool:
    """Whether the period that ends `piece` is a mark of its own: the text's last, or not an abbreviation's."""
    if _LAST.match(text, end):
        return True
    word = piece[:-1].lower()
    follows = text[end : end + 1]
    return (
        follows.isspace() and "." not in word and not (len(word) == 1 and word.isalpha()) and word not in ABBREVIATIONS
    )
