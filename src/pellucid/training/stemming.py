"""Porter's stemmer, with the changes that NLTK makes and that `rouge_score` thereby uses.

M. F. Porter, An algorithm for suffix stripping, Program 14.3 (1980). Words are in small letters of ASCII.
"""

from __future__ import annotations

from functools import lru_cache

IRREGULAR = {
    "skies": "sky",
    "dying": "die",
    "lying": "lie",
    "tying": "tie",
    "innings": "inning",
    "outings": "outing",
    "cannings": "canning",
} | {word: word for word in ("sky", "news", "inning", "outing", "canning", "howe", "proceed", "exceed", "succeed")}
TURNED = (
    "ational:ate tional:tion enci:ence anci:ance izer:ize bli:ble alli:al entli:ent eli:e ousli:ous ization:ize "
    "ation:ate ator:ate alism:al iveness:ive fulness:ful ousness:ous aliti:al iviti:ive biliti:ble fulli:ful"
)
"""Endings that are turned into others, in the order in which they are tried; step 2 of the paper."""
SHORTENED = "icate:ic ative: alize:al iciti:ic ical:ic ful: ness:"
"""The same for step 3."""
DROPPED = "al ance ence er ic able ible ant ement ment ent ion ou ism ate iti ous ive ize"
"""Endings that are dropped from long words; step 4."""


def _shape(word: str) -> str:
    """`v` for each vowel and `c` for each other character; y is a vowel behind a consonant."""
    shape = ""
    for letter in word:
        is_vowel = letter in "aeiou" or (letter == "y" and shape[-1:] == "c")
        shape += "v" if is_vowel else "c"
    return shape


def _measure(word: str) -> int:
    """How many times vowels are followed by consonants."""
    return _shape(word).count("vc")


def _is_short(word: str) -> bool:
    """Whether it ends in consonant, vowel, consonant, so that a silent e may have stood behind it."""
    shape = _shape(word)
    return shape == "vc" or (shape[-3:] == "cvc" and word[-1] not in "wxy")


def _replaced(word: str, rules: str) -> str:
    """The first ending that fits is replaced, if what is before it is no mere syllable."""
    for rule in rules.split():
        ending, _, other = rule.partition(":")
        if word.endswith(ending):
            rest = word.removesuffix(ending)
            return rest + other if _measure(rest) > 0 else word
    return word


def _singular(word: str) -> str:
    if word.endswith("ies"):
        return word[:-1] if len(word) == 4 else word[:-2]
    if word.endswith("sses"):
        return word[:-2]
    return word[:-1] if word.endswith("s") and not word.endswith("ss") else word


def _present(word: str) -> str:
    """Without -ed and -ing, and with the e that they took away."""
    if word.endswith("ied"):
        return word[:-1] if len(word) == 4 else word[:-2]
    if word.endswith("eed"):
        return word[:-1] if _measure(word[:-3]) > 0 else word
    ending = next((ending for ending in ("ed", "ing") if word.endswith(ending)), "")
    rest = word.removesuffix(ending)
    if not ending or "v" not in _shape(rest):
        return word
    if rest.endswith(("at", "bl", "iz")):
        return rest + "e"
    if rest[-2:-1] == rest[-1] and _shape(rest)[-1] == "c":
        return rest if rest[-1] in "lsz" else rest[:-1]
    return rest + "e" if _measure(rest) == 1 and _is_short(rest) else rest


def _derived(word: str) -> str:
    """Step 2: endings that make nouns and adverbs."""
    if word.endswith("alli") and _measure(word[:-4]) > 0:
        return _derived(word[:-2])
    if word.endswith("logi"):
        return word[:-1] if _measure(word[:-3]) > 0 else word
    return _replaced(word, TURNED)


def _bare(word: str) -> str:
    """Step 4: long words without their endings."""
    ending = next((ending for ending in DROPPED.split() if word.endswith(ending)), "")
    rest = word.removesuffix(ending)
    if not ending or _measure(rest) < 2 or (ending == "ion" and rest[-1] not in "st"):
        return word
    return rest


@lru_cache(maxsize=1 << 16)
def stem(word: str) -> str:
    """The stem of a word, as `nltk.stem.PorterStemmer().stem`."""
    if word in IRREGULAR or len(word) <= 2:
        return IRREGULAR.get(word, word)
    word = _present(_singular(word))
    if word.endswith("y") and len(word) > 2 and _shape(word)[-2] == "c":
        word = word[:-1] + "i"
    word = _bare(_replaced(_derived(word), SHORTENED))
    if word.endswith("e"):
        measure = _measure(word[:-1])
        if measure > 1 or (measure == 1 and not _is_short(word[:-1])):
            word = word[:-1]
    return word[:-1] if word.endswith("ll") and _measure(word[:-1]) > 1 else word
