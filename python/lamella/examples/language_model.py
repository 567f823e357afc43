"""Write text with a small Transformer that has read the Python documentation, letter by letter.

Run it with ``python -m lamella.examples.language_model``; ``--help`` lists its options. It learns
to tell the next character from those before it, in the documentation that comes with every
interpreter, and needs no download. Its perplexity is the number of characters between which it
would have to guess; beside it stands that of a table which counts how often one follows another.

Then it writes. Each character is one step through the blocks, whose caches keep the keys and values
of those before; with ``--check`` the same text is written without caches, by going through all of
it for each character, and compared.
"""

from __future__ import annotations

import argparse
import re
import time
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from lamella.layers import Dense, Embedding, Input, Layer, TransformerDecoder
from lamella.models import Model
from lamella.optimizers import Adam
from lamella.utils import set_random_seed

UNKNOWN = "\N{REPLACEMENT CHARACTER}"


class Positions(Layer):
    """Add a learned vector to each step, that of its position: y = x + table[: steps]."""

    def __init__(self, max_length: int, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.max_length = max_length

    def build(self, input_shape: Any) -> None:
        self.table = self.add_weight("table", (self.max_length, input_shape[-1]), "uniform")

    def forward(self, x: np.ndarray, training: bool) -> Any:
        steps = x.shape[1]

        def pullback(dy: np.ndarray) -> np.ndarray:
            gradient = np.zeros_like(self.table.value)
            gradient[:steps] = dy.sum(axis=0)
            self.table.add_gradient(gradient)
            return dy

        return x + self.table.value[:steps], pullback

    def compute_output_shape(self, input_shape: Any) -> Any:
        return input_shape

    def get_config(self) -> dict[str, Any]:
        return {**super().get_config(), "max_length": self.max_length}


class LanguageModel:
    """Tells the next character; `model` is trained, `start` and `proceed` write with its layers.

    Parameters
    ----------
    vocabulary : int
        Number of characters.
    context : int
        The longest text it reads at once.
    width, heads, blocks : int
    """

    def __init__(
        self, vocabulary: int, context: int, width: int = 96, heads: int = 4, blocks: int = 2
    ) -> None:
        self.context = context
        self._embedding = Embedding(vocabulary, width)
        self._positions = Positions(context)
        self._blocks = [TransformerDecoder(4 * width, heads) for _ in range(blocks)]
        self._head = Dense(vocabulary, activation="softmax")
        tokens = Input((None,), dtype="int32")
        x = self._positions(self._embedding(tokens))
        for block in self._blocks:
            x = block(x)
        self.model = Model(tokens, self._head(x))
        self.model.compile(optimizer=Adam(0.002), loss="sparse_categorical_crossentropy")

    def with_cache(self) -> Callable[[list[int]], np.ndarray]:
        """Return a function of a text that gives the next character's probabilities.

        Each text must go on from the one before: only what is new is read.
        """
        caches = [block.make_cache(1, self.context) for block in self._blocks]

        def read(text: list[int]) -> np.ndarray:
            before = caches[0].length
            x = self._embedding.call(np.array([text[before:]]))
            x = x + self._positions.table.value[before : len(text)]
            for block, cache in zip(self._blocks, caches, strict=True):
                x = block.step(x, cache)
            return self._head.call(x[:, -1])[0]

        return read

    def without_cache(self) -> Callable[[list[int]], np.ndarray]:
        """Return a function like that of `with_cache` which reads the whole text each time."""
        return lambda text: self.model.predict_on_batch(np.array([text]))[0, -1]


def write(
    read: Callable[[list[int]], np.ndarray],
    prompt: Sequence[int],
    length: int,
    temperature: float,
    top_k: int | None,
    seed: int,
) -> list[int]:
    """Return the prompt and so many characters after it, drawn one by one.

    Parameters
    ----------
    read : callable
        Gives the probabilities of what comes after a text.
    prompt : sequence of int
    length : int
        How many characters to write.
    temperature : float
        Below 1 the likely becomes likelier; 0 takes the likeliest.
    top_k : int, optional
        Draw from the k likeliest only.
    seed : int
    """
    rng = np.random.default_rng(seed)
    text = list(prompt)
    for _ in range(length):
        p = read(text).astype(np.float64)
        if top_k is not None:
            p[np.argsort(p)[:-top_k]] = 0
        if temperature == 0:
            text.append(int(p.argmax()))
            continue
        p = (p / p.max()) ** (1 / temperature)
        text.append(int(rng.choice(len(p), p=p / p.sum())))
    return text


def load_text(test_share: float = 0.1, seed: int = 0) -> tuple[str, str]:
    """Return text to train on and text to test on: the documentation's paragraphs, each once."""
    from pydoc_data.topics import topics

    paragraphs = list(
        dict.fromkeys(p for name in sorted(topics) for p in re.split(r"\n\s*\n", topics[name]) if p)
    )
    order = np.random.default_rng(seed).permutation(len(paragraphs))
    held_back = round(test_share * len(paragraphs))
    test, train = ("\n\n".join(paragraphs[i] for i in sorted(part)) for part in
                   (order[:held_back], order[held_back:]))  # fmt: skip
    return train, test


def count_pairs(train: np.ndarray, test: np.ndarray, vocabulary: int) -> float:
    """Return the perplexity on `test` of how often one character follows another in `train`."""
    counts = np.full((vocabulary, vocabulary), 0.1)  # what never occurred is not impossible
    np.add.at(counts, (train[:-1], train[1:]), 1)
    p = counts / counts.sum(axis=1, keepdims=True)
    return float(np.exp(-np.log(p[test[:-1], test[1:]]).mean()))


def windows(text: np.ndarray, length: int) -> tuple[np.ndarray, np.ndarray]:
    """Return the text in rows of so many characters, and what comes after each of these."""
    rows = (len(text) - 1) // length
    return (
        text[: rows * length].reshape(rows, length),
        text[1 : rows * length + 1].reshape(rows, length),
    )


def main(arguments: Sequence[str] | None = None) -> None:
    """Train, test, write, and report."""
    options = parse_options(arguments)
    set_random_seed(options.seed)
    train_text, test_text = load_text()
    train_text = train_text[: options.characters]
    characters = [UNKNOWN, *sorted(set(train_text))]
    numbers = {character: number for number, character in enumerate(characters)}
    train, test = (np.array([numbers.get(c, 0) for c in text], np.int32)
                   for text in (train_text, test_text))  # fmt: skip

    network = LanguageModel(len(characters), options.context)
    x, y = windows(train, options.context)
    x_test, y_test = windows(test, options.context)
    print(f"perplexity of pairs, counted: {count_pairs(train, test, len(characters)):.2f}")
    began = time.perf_counter()
    for epoch in range(options.epochs):
        network.model.fit(x, y, batch_size=options.batch_size, verbose=options.verbose)
        loss = network.model.evaluate(x_test, y_test, batch_size=64, verbose=0)
        print(f"perplexity after epoch {epoch + 1}: {np.exp(loss):.2f}")
    seconds = time.perf_counter() - began
    print(f"training: {options.epochs * x.size / seconds:,.0f} characters/s")

    prompt = [numbers.get(character, 0) for character in options.prompt]
    how = (prompt, options.length, options.temperature, options.top_k, options.seed)
    began = time.perf_counter()
    written = write(network.with_cache(), *how)
    seconds = time.perf_counter() - began
    print("".join(characters[number] for number in written))
    print(f"writing: {options.length / seconds:,.0f} characters/s")
    if options.check:
        if write(network.without_cache(), *how) != written:
            raise SystemExit("without caches it writes another text")
        print("without caches it writes the same")


def parse_options(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(
        prog="python -m lamella.examples.language_model",
        description="Write text with a small Transformer that has read the Python documentation.",
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    parser.add_argument("--epochs", type=int, default=8, help="times to go through the data")
    parser.add_argument("--batch-size", type=int, default=32, help="texts a step")
    parser.add_argument("--context", type=int, default=128, help="characters of a text")
    parser.add_argument("--characters", type=int, help="train on so many only")
    parser.add_argument("--prompt", default="The ", help="what the written text begins with")
    parser.add_argument("--length", type=int, default=120, help="characters to write")
    parser.add_argument("--temperature", type=float, default=0.7, help="0: always the likeliest")
    parser.add_argument("--top-k", type=int, help="draw from so many likeliest characters only")
    parser.add_argument("--seed", type=int, default=1, help="another one, another network and text")
    parser.add_argument("--check", action="store_true", help="write again, without caches")
    parser.add_argument(
        "--verbose",
        type=int,
        choices=(0, 1, 2),
        default=0,
        help="0: only the result, 1: a progress bar, 2: a line an epoch",
    )
    options = parser.parse_args(arguments)
    for name in ("epochs", "batch_size", "context", "length"):
        if getattr(options, name) < 1:
            parser.error(f"--{name.replace('_', '-')} must be at least 1")
    if options.characters is not None and options.characters <= options.context:
        parser.error("--characters must be more than --context")
    if options.top_k is not None and options.top_k < 1:
        parser.error("--top-k must be at least 1")
    if not 0 <= options.temperature < float("inf"):
        parser.error("--temperature must be 0 or more")
    if not options.prompt or len(options.prompt) + options.length > options.context:
        parser.error("--prompt must not be empty, and with --length must fit into --context")
    return options


if __name__ == "__main__":
    main()
