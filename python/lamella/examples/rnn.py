"""Read handwritten digits row by row with two LSTM layers, or text with a bidirectional one.

Run it with ``python -m lamella.examples.rnn``; ``--help`` lists its options. A digit of 28x28
pixels is a sequence of 28 steps, from the top row to the bottom one, of 28 features each. It needs
no download, takes a few seconds and ends above 95% on digits the network has not seen.

With ``--text`` it reads passages of the Python documentation, which comes with every interpreter,
and tells which part of it they are from: statements, expressions, the data model, ... Passages
differ in length; a mask keeps the padding behind them out of the network.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Sequence

import numpy as np

from lamella.datasets import load_digits, load_documentation
from lamella.examples._plot import check_plotting, plot_history
from lamella.layers import LSTM, Bidirectional, Dense, Dropout, Embedding
from lamella.models import Sequential
from lamella.utils import set_random_seed


def build_model(timesteps: int = 28, input_dim: int = 28, output_dim: int = 10) -> Sequential:
    """Return the network, ready to be trained."""
    model = Sequential([
        LSTM(64, return_sequences=True, input_shape=(timesteps, input_dim)),
        LSTM(64),
        Dense(output_dim, activation='softmax')
    ])  # fmt: skip

    model.compile(optimizer='adam',
                  loss='sparse_categorical_crossentropy',
                  metrics=['accuracy'])  # fmt: skip
    return model


def build_text_model(vocabulary: int, groups: int) -> Sequential:
    """Return the network that reads passages, ready to be trained."""
    model = Sequential([
        Embedding(vocabulary, 64, mask_zero=True),
        Dropout(0.3),
        Bidirectional(LSTM(64)),
        Dropout(0.3),
        Dense(groups, activation='softmax')
    ])  # fmt: skip
    model.compile(optimizer='adam',
                  loss='sparse_categorical_crossentropy',
                  metrics=['accuracy'])  # fmt: skip
    return model


def main(arguments: Sequence[str] | None = None) -> None:
    """Train, test, and report."""
    options = parse_options(arguments)
    if options.plot:
        check_plotting()
    set_random_seed(options.seed)

    if options.text:
        # x: the numbers of a passage's words (n, 60), 0 behind its last; y: its group (n,).
        (x_train, y_train), (x_test, y_test), words, groups = load_documentation()
        model = build_text_model(len(words), len(groups))
        things = "passages"
    else:
        # x: images (n, 28, 28, 1), each a sequence of its rows; y: which digit it shows (n,).
        (x_train, y_train), (x_test, y_test) = load_digits(size=28)
        x_train, x_test = x_train[..., 0], x_test[..., 0]
        model = build_model()
        things = "digits"

    began = time.perf_counter()
    history = model.fit(
        x_train,
        y_train,
        epochs=options.epochs,
        batch_size=options.batch_size,
        verbose=options.verbose,
    )
    seconds = time.perf_counter() - began

    loss, accuracy = model.evaluate(x_test, y_test, verbose=0)
    print(f"test accuracy: {accuracy:.2%} of {len(x_test)} {things}, test loss: {loss:.4f}")
    if options.text:
        most = np.bincount(y_test).max() / len(y_test)
        print(f"always naming the largest group would get {most:.2%} right")
    print(f"training: {options.epochs * len(x_train) / seconds:,.0f} sequences/s")
    if options.plot:
        plot_history(history.history, accuracy, options.plot)
        print(f"curves drawn to {options.plot}")


def parse_options(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(
        prog="python -m lamella.examples.rnn",
        description="Read handwritten digits row by row, or passages of text, with LSTM layers.",
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    parser.add_argument("--text", action="store_true", help="read the Python documentation")
    parser.add_argument("--epochs", type=int, default=30, help="times to go through the data")
    parser.add_argument("--batch-size", type=int, default=32, help="sequences a step")
    parser.add_argument("--seed", type=int, default=1, help="another one, another network")
    parser.add_argument("--plot", metavar="FILE", help="draw loss and accuracy to this file")
    parser.add_argument(
        "--verbose",
        type=int,
        choices=(0, 1, 2),
        default=1,
        help="0: only the result, 1: a progress bar, 2: a line an epoch",
    )
    options = parser.parse_args(arguments)
    if options.epochs < 1 or options.batch_size < 1:
        parser.error("--epochs and --batch-size must be at least 1")
    return options


if __name__ == "__main__":
    main()
