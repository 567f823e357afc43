"""Passages of the Python documentation that every interpreter brings along.

``help("for")`` and its like read their text from `pydoc_data.topics` of the standard library. Here
it is cut into passages, and what is to be told of each is which part of the documentation it comes
from. Text and counts differ a little from one version of Python to the next.
"""

from __future__ import annotations

import re
from collections import Counter
from typing import Any, NamedTuple

import numpy as np

Array = np.ndarray[Any, Any]

# The topics of each group; what a version of Python lacks is left out.
GROUPS: dict[str, tuple[str, ...]] = {
    "statements": (
        "assert", "assignment", "async", "augassign", "break", "class", "compound", "continue",
        "del", "else", "for", "function", "global", "if", "import", "nonlocal", "pass", "raise",
        "return", "try", "while", "with", "yield",
    ),
    "expressions": (
        "atom-identifiers", "atom-literals", "attribute-references", "await", "binary", "bitwise",
        "booleans", "calls", "comparisons", "conversions", "exprlists", "in", "lambda", "lists",
        "operator-summary", "power", "shifting", "slicings", "subscriptions", "unary",
    ),
    "data model": (
        "attribute-access", "context-managers", "customization", "objects", "sequence-types",
        "specialnames", "types",
    ),
    "built-in types": (
        "bltin-code-objects", "bltin-ellipsis-object", "bltin-null-object", "bltin-type-objects",
        "callable-types", "dict", "numeric-types", "specialattrs", "string-methods", "truth",
        "typesfunctions", "typesmapping", "typesmethods", "typesmodules", "typesseq",
        "typesseq-mutable",
    ),
    "text and literals": (
        "floating", "formatstrings", "id-classes", "identifiers", "imaginary", "integers",
        "numbers", "strings",
    ),
    "execution": ("debugger", "dynamic-features", "exceptions", "execmodel", "naming"),
}  # fmt: skip

PADDING, UNKNOWN = 0, 1
_FEWEST_WORDS = 20


class Documentation(NamedTuple):
    """What `load_documentation` returns.

    Attributes
    ----------
    train, test : (x, y)
        x int32 (n, max_words): the numbers of a passage's words, 0 behind its last one; y int64
        (n,): its group.
    words : tuple of str
        The word of each number; the first two stand for padding and for all rarer words.
    groups : tuple of str
        The names of the groups.
    """

    train: tuple[Array, Array]
    test: tuple[Array, Array]
    words: tuple[str, ...]
    groups: tuple[str, ...]


def load_documentation(
    *, max_words: int = 60, vocabulary: int = 2000, test_share: float = 0.2, seed: int = 0
) -> Documentation:
    """Return passages of the Python documentation and the part of it each comes from.

    Parameters
    ----------
    max_words : int
        Longer paragraphs are cut into passages of at most so many words, 20 at least.
    vocabulary : int
        So many numbers are used: the most frequent words of the training passages have one each.
    test_share : float
        The share of the passages that are kept for testing, between 0 and 1.
    seed : int
        Which ones: the same seed gives the same split.

    Returns
    -------
    Documentation
        ``(train, test, words, groups)``.

    Raises
    ------
    ValueError
        A number outside its range.

    Examples
    --------
    >>> from lamella.datasets import load_documentation
    >>> (x_train, y_train), (x_test, y_test), words, groups = load_documentation()
    >>> x_train.shape[1], groups[0], words[:2]
    (60, 'statements', ('', '[unknown]'))
    """
    if max_words < _FEWEST_WORDS:
        raise ValueError(
            f"load_documentation: max_words must be at least {_FEWEST_WORDS}, got {max_words}"
        )
    if vocabulary < 3:
        raise ValueError(f"load_documentation: vocabulary must be at least 3, got {vocabulary}")
    if not 0 < test_share < 1:
        raise ValueError(f"load_documentation: test_share must lie in (0, 1), got {test_share}")
    passages, labels = _passages(max_words)
    order = np.random.default_rng(seed).permutation(len(passages))
    held_back = round(test_share * len(passages))
    parts = order[held_back:], order[:held_back]
    counts = Counter(word for i in parts[0] for word in passages[i])
    words = ("", "[unknown]", *(word for word, _ in counts.most_common(vocabulary - 2)))
    numbers = {word: number for number, word in enumerate(words)}

    def part(chosen: Array) -> tuple[Array, Array]:
        x = np.full((len(chosen), max_words), PADDING, np.int32)
        for row, i in enumerate(chosen):
            x[row, : len(passages[i])] = [numbers.get(word, UNKNOWN) for word in passages[i]]
        return x, np.array([labels[i] for i in chosen], np.int64)

    return Documentation(part(parts[0]), part(parts[1]), words, tuple(GROUPS))


def _passages(max_words: int) -> tuple[list[list[str]], list[int]]:
    """The words of each passage, and its group; a passage that several topics have comes once."""
    from pydoc_data.topics import topics

    passages: list[list[str]] = []
    labels: list[int] = []
    seen: set[tuple[str, ...]] = set()
    for label, names in enumerate(GROUPS.values()):
        for name in names:
            for paragraph in re.split(r"\n\s*\n", topics.get(name, "")):
                words = re.findall(r"[a-z_]+|[^\sa-z_]", paragraph.lower())
                for begin in range(0, len(words), max_words):
                    passage = words[begin : begin + max_words]
                    if len(passage) < _FEWEST_WORDS or tuple(passage) in seen:
                        continue
                    seen.add(tuple(passage))
                    passages.append(passage)
                    labels.append(label)
    return passages, labels
