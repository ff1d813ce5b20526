"""Runs of words that texts have in common, in any script.

Texts are compared as lists of units: Unicode NFKC, case folded (NFKC_Casefold of the Unicode standard), punctuation and
symbols between words, invisible format characters nowhere. A unit is a word where words are written apart. Scripts that
run words together (Chinese, Japanese, Thai, Lao, Khmer, Burmese, Tibetan) give a unit for each character; a word of
another script inside such a text is one unit, so that a long Latin name is not taken for a long run.
"""

from __future__ import annotations

import unicodedata
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from hybrid_ir import languages
from hybrid_ir.data.plan import mix

LISTED = 10
"""Indexed texts that are named for one text at most: a phrase may stand in thousands."""

UNITS_PER_WORD = {
    "Hans": 1.6, "Hant": 1.6, "Jpan": 2.4, "Thai": 5.3, "Laoo": 5.3, "Khmr": 5.3, "Mymr": 5.3, "Tibt": 5.3,
}  # fmt: skip
"""Units that say as much as one English word, in scripts that run words together: counted on parallel text (XQuAD's
questions and paragraphs in Chinese and Thai; Japanese by its ratio to Chinese in parallel documentation; the other
alphabets as Thai)."""

_RUN_TOGETHER = (
    (0x0E00, 0x0FFF),  # Thai, Lao, Tibetan
    (0x1000, 0x109F),  # Burmese
    (0x1780, 0x17FF),  # Khmer
    (0x2E80, 0x2FDF),  # radicals of Han
    (0x3005, 0x3007),  # iteration mark and zero of Han
    (0x3040, 0x30FF),  # Hiragana, Katakana
    (0x31F0, 0x31FF),  # Katakana
    (0x3400, 0x4DBF),  # Han
    (0x4E00, 0x9FFF),
    (0xA9E0, 0xA9FF),  # Burmese
    (0xAA60, 0xAA7F),
    (0xF900, 0xFAFF),  # Han
    (0x20000, 0x3FFFF),
)
"""Code points of scripts that run words together; Korean is written with spaces."""

_U64 = np.uint64
_MULTIPLIER = _U64(0x9E3779B97F4A7C15)


class _Characters(dict[int, str]):
    """What each character becomes, filled as characters occur."""

    def __missing__(self, code: int) -> str:
        character = chr(code)
        category = unicodedata.category(character)
        if category == "Cf":  # joiners, soft hyphens, marks of direction
            kept = ""
        elif category[0] not in "LMN":
            kept = " "
        elif any(low <= code <= high for low, high in _RUN_TOGETHER):
            kept = f" {character} "
        else:
            kept = character
        self[code] = kept
        return kept


_CHARACTERS = _Characters()


def units(text: str) -> list[str]:
    """The units of a text, in order."""
    folded = unicodedata.normalize("NFKC", unicodedata.normalize("NFKC", text).casefold())
    return folded.translate(_CHARACTERS).split()


def run_length(language: str, words: int) -> int:
    """Units of a language that say as much as a number of English words; the number itself where words are written
    apart."""
    return max(2, round(words * UNITS_PER_WORD.get(languages.get(language).script, 1.0)))


def as_text(shared: Sequence[str]) -> str:
    """Units as they are shown: apart, but for neighbours of a script that runs words together."""
    text = ""
    for unit in shared:
        together = len(unit) == 1 and _CHARACTERS[ord(unit)] != unit
        text += unit if not text or (together and _CHARACTERS[ord(text[-1])] != text[-1]) else f" {unit}"
    return text


class Found(NamedTuple):
    """Texts that share a run with indexed ones: each pair once, at most ``LISTED`` pairs for a text."""

    texts: np.ndarray
    """[pairs] place of the text among those that were looked at, ascending."""
    indexed: np.ndarray
    """[pairs] place of the indexed text."""
    runs: list[str]
    """The first run of the text that the two share."""


class RunIndex:
    """The runs of some texts, for finding them in others.

    A text of fewer units than a run has is found where another text is equal to it as a whole. Units and runs are
    numbers: a run is looked up by a hash of 64 bits and then compared unit by unit, so that nothing is found that is
    not there. Memory goes with the indexed texts alone.

    Args:
        texts: what is looked for.
        length: units of a run.
    """

    def __init__(self, texts: Sequence[str], length: int) -> None:
        self.length = length
        self._vocabulary: dict[str, int] = {}
        self._short: dict[tuple[str, ...], list[int]] = {}
        numbered = []
        for place, text in enumerate(texts):
            split = units(text)
            if len(split) < length:
                if split:
                    self._short.setdefault(tuple(split), []).append(place)
                split = []
            numbered.append([self._vocabulary.setdefault(unit, len(self._vocabulary) + 1) for unit in split])
        self._units = ["", *self._vocabulary]
        self._salt = mix(np.arange(1, len(self._units) + 1, dtype=_U64) * _MULTIPLIER)
        self._ids, first = _joined(numbered)
        starts = self._starts(self._ids)
        hashes = self._hashes(self._ids, starts)
        order = np.argsort(hashes, kind="stable")
        self._known, begin = np.unique(hashes[order], return_index=True)
        self._begin = np.append(begin, len(order))
        self._start = starts[order]
        """Of each occurrence of a run, by hash."""
        self._text = np.searchsorted(first, self._start, side="right") - 1
        self._touched = np.zeros(len(texts), dtype=bool)

    def touched(self) -> np.ndarray:
        """[texts] bool: which of the indexed texts share a run with any text that was looked at."""
        return self._touched.copy()

    def find(self, texts: Sequence[str]) -> Found:
        """Which of these texts share a run with which of the indexed ones."""
        look_up = self._vocabulary.get
        numbered: list[list[int]] = []
        pairs: list[tuple[int, int, str]] = []
        for place, text in enumerate(texts):
            split = units(text)
            if len(split) < self.length:
                equal = self._short.get(tuple(split), [])
                self._touched[equal] = True
                pairs += [(place, indexed, as_text(split)) for indexed in equal[:LISTED]]
                split = []
            numbered.append([look_up(unit, 0) for unit in split])
        ids, first = _joined(numbered)
        starts = self._starts(ids)
        run = self._look_up(ids, starts)
        starts, run = starts[run >= 0], run[run >= 0]
        for each in np.unique(run).tolist():
            self._touched[self._text[self._begin[each] : self._begin[each + 1]]] = True
        places = np.searchsorted(first, starts, side="right") - 1
        named: dict[int, set[int]] = {}
        for place, start, each in zip(places.tolist(), starts.tolist(), run.tolist(), strict=True):
            there = named.setdefault(place, set())
            for indexed in self._text[self._begin[each] : self._begin[each + 1]][:LISTED].tolist():
                if indexed not in there and len(there) < LISTED:
                    there.add(indexed)
                    shared = as_text([self._units[unit] for unit in ids[start : start + self.length]])
                    pairs.append((place, indexed, shared))
        pairs.sort(key=lambda pair: pair[:2])
        return Found(
            np.array([place for place, _, _ in pairs], dtype=np.int64),
            np.array([indexed for _, indexed, _ in pairs], dtype=np.int64),
            [shared for _, _, shared in pairs],
        )

    def _starts(self, ids: np.ndarray) -> np.ndarray:
        """Where a run of known units begins: none holds a 0, which is an unknown unit or the end of a text."""
        zeros = np.concatenate([[0], np.cumsum(ids == 0)])
        return np.flatnonzero(zeros[self.length :] == zeros[: max(0, len(zeros) - self.length)])

    def _hashes(self, ids: np.ndarray, starts: np.ndarray) -> np.ndarray:
        hashes = np.zeros(len(starts), dtype=_U64)
        for offset in range(self.length):
            hashes = hashes * _MULTIPLIER + self._salt[ids[starts + offset]]
        return hashes

    def _look_up(self, ids: np.ndarray, starts: np.ndarray) -> np.ndarray:
        """[starts] number of the indexed run that stands there, -1 where there is none."""
        hashes = self._hashes(ids, starts)
        run = np.searchsorted(self._known, hashes)
        run[run == len(self._known)] = 0
        same = self._known[run] == hashes if len(self._known) else np.zeros(len(starts), dtype=bool)
        there = np.flatnonzero(same)
        begin = self._start[self._begin[run[there]]]
        for offset in range(self.length):
            same[there] &= self._ids[begin + offset] == ids[starts[there] + offset]
        return np.where(same, run, -1)


def _joined(numbered: Sequence[Sequence[int]]) -> tuple[np.ndarray, np.ndarray]:
    """Units of all texts with a 0 behind each text, and where each text begins."""
    sizes = np.array([len(each) + 1 for each in numbered], dtype=np.int64)
    ids = np.zeros(int(sizes.sum()), dtype=np.int32)
    first = np.cumsum(sizes) - sizes
    for begin, each in zip(first.tolist(), numbered, strict=True):
        ids[begin : begin + len(each)] = each
    return ids, first
