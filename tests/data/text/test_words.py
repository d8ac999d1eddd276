"""Words, stop words and synonyms against hand-made cases (NLTK's answers are noted in docs/text.md)."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lgrep.data.text.synonyms import WordNet, load_synonyms, read_wordnet
from lgrep.data.text.words import STOP_WORDS, split_words
from lgrep.errors import DataError

SPLIT = {  # the right sides were made with NLTK's NLTKWordTokenizer
    'he said "hello there" (really) and left!': "he said `` hello there '' ( really ) and left !",
    "it's 3,36 euros: $5 & 20% off; 10:30 am": "it 's 3,36 euros : $ 5 & 20 % off ; 10:30 am",
    "don't stop... now -- ok": "do n't stop ... now -- ok",
    "'quoted words' here, students' books": "' quoted words ' here , students ' books",
    "rock 'n' roll in the '90s": "rock 'n ' roll in the ' 90s",
    "cannot gonna do it": "can not gon na do it",
    "email me@x.com a/b c_d #tag": "email me @ x.com a/b c_d # tag",
    "“curly” ‘single’": "“ curly ” ‘ single ’",
    "what?! (no!!) [ok] no–dash": "what ? ! ( no ! ! ) [ ok ] no – dash",
    'end." ': "end . ''",
    "...start": "... start",
    "U.S. flag, l'amour": "U.S. flag , l'amour",
    "``q'' ''double''": "`` q '' '' double ''",
}


@pytest.mark.parametrize("text", SPLIT)
def test_words_are_split_as_nltk_does(text: str) -> None:
    assert split_words(text) == SPLIT[text].split()


def test_where_a_period_ends_a_sentence() -> None:
    assert split_words("A dog. A cat.") == ["A", "dog", ".", "A", "cat", "."]
    assert " ".join(split_words("Mr. Smith vs. J. Doe etc. and e.g. co.")) == "Mr. Smith vs. J. Doe etc. and e.g. co ."
    assert split_words("at 3.5 m. high") == ["at", "3.5", "m.", "high"]


@given(st.text(max_size=80))
def test_splitting_loses_no_letter(text: str) -> None:
    words = ['"' if word in ("``", "''") else word for word in split_words(text)]
    assert "".join(words) == "".join(part.replace("``", '"').replace("''", '"') for part in text.split())


def test_stop_words() -> None:
    assert len(STOP_WORDS) == 179  # of NLTK 3.7's English list
    assert {"the", "don't", "won", "y", "i"} <= STOP_WORDS
    assert not {"dog", "n't", "'s", ""} & STOP_WORDS


def test_synonyms_of_the_packaged_wordnet() -> None:
    names = load_synonyms()
    assert set(names("car")) == {
        *("auto", "automobile", "machine", "motorcar", "railcar", "railway car", "railroad car"),
        *("gondola", "elevator car", "cable car"),
    }
    assert set(names("puppies")) == {"puppy", "pup"}  # a regular plural
    assert set(names("mice")) == {"mouse", "computer mouse", "shiner", "black eye"}  # an irregular one
    assert "comic strip" in names("comics")  # an irregular form of a phrase
    assert "dog" in names("Dog") and "Dog" not in names("Dog")
    assert set(names("5")) == {"five", "v", "cinque", "quint", "quintet", "fivesome", "quintuplet", "pentad", "fin"} | {
        *("phoebe", "little phoebe")
    }  # but no empty name
    assert names("zzyzx") == names("") == names("dog\tnoun") == names("\ud800é") == ()


def test_wordnet_files_in_any_folder(tmp_path: Path) -> None:
    licence = "  1 licence\n"
    (tmp_path / "data.noun").write_text(
        licence
        + "00000001 03 n 02 Hound 0 hunting_dog 0 001 @ 00000009 n 0000 | a dog\n"
        + "00000002 03 n 01 rascal 0 000 | no other name\n"
    )
    (tmp_path / "data.adj").write_text(licence + "00000003 00 a 02 off(p) 0 x-ray 0 000 | with a place\n")
    for part in ("verb", "adv"):
        (tmp_path / f"data.{part}").write_text(licence)
    for part in ("noun", "verb", "adj", "adv"):
        (tmp_path / f"{part}.exc").write_text("hounden hound\nhunting_dogs hunting_dog\n" if part == "noun" else "")
    names = WordNet(read_wordnet(tmp_path))
    assert names("hounds") == ("hound", "hunting dog")
    assert names("hounden") == ("hound", "hunting dog")
    assert names("HOUND") == ("hound", "hunting dog")
    assert names("rascal") == () and names("rascals") == ("rascal",)
    assert names("off") == ("x ray",) and names("x-ray") == ("x ray", "off")
    assert load_synonyms(str(tmp_path))("hounds") == ("hound", "hunting dog")
    script = Path(__file__).parents[3] / "scripts" / "build_synonyms.py"
    out = tmp_path / "out.txt.xz"
    subprocess.run([sys.executable, script, tmp_path, out], check=True)
    assert out.read_bytes().startswith(b"\xfd7zXZ")


def test_a_users_list(tmp_path: Path) -> None:
    path = tmp_path / "words.tsv"
    path.write_text("\ufeff# mine\nhund\tköter, wau wau\n\nKatze\tmieze\n", encoding="utf-8")
    names = load_synonyms(str(path))
    assert names("Hund") == ("köter", "wau wau")
    assert names("katze") == ("mieze",) and names("mieze") == ()


@pytest.mark.parametrize(
    ("content", "message"), [(b"dog,cat\n", "line 1 is not"), (b"a\tb\nc\t ,\n", "line 2"), (b"a\t\xff\n", "utf-8")]
)
def test_a_broken_list_is_named(tmp_path: Path, content: bytes, message: str) -> None:
    path = tmp_path / "broken.tsv"
    path.write_bytes(content)
    with pytest.raises(DataError, match=f"broken.tsv.*{message}"):
        load_synonyms(str(path))


def test_a_folder_without_wordnet(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"noun\.exc|data\.noun"):
        load_synonyms(str(tmp_path))
