"""Recognise handwritten digits with a small convolutional network.

Run it with ``python -m lamella.examples.cnn``; ``--help`` lists its options. It needs no download:
the digits come with lamella. Training takes a few seconds and ends above 98% on digits the network
has not seen. There are only 1,438 to learn from, so it goes through them 30 times.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Sequence

import numpy as np

from lamella.datasets import load_digits
from lamella.examples._plot import check_plotting, plot_history
from lamella.layers import Conv2D, Dense, Flatten, MaxPooling2D
from lamella.models import Sequential
from lamella.utils import set_random_seed


def build_model() -> Sequential:
    """Return the network, ready to be trained."""
    model = Sequential([
        Conv2D(32, (3, 3), activation='relu', input_shape=(28, 28, 1)),
        MaxPooling2D((2, 2)),
        Conv2D(64, (3, 3), activation='relu'),
        MaxPooling2D((2, 2)),
        Flatten(),
        Dense(64, activation='relu'),
        Dense(10, activation='softmax')
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

    # The same seed gives the same network, down to the last bit.
    set_random_seed(options.seed)

    # x: images (n, 28, 28, 1), y: which digit each one shows (n,).
    (x_train, y_train), (x_test, y_test) = load_digits(size=28)

    model = build_model()
    began = time.perf_counter()
    history = model.fit(
        x_train,
        y_train,
        epochs=options.epochs,
        batch_size=options.batch_size,
        verbose=options.verbose,
    )
    training_seconds = time.perf_counter() - began

    loss, accuracy = model.evaluate(x_test, y_test, verbose=0)
    prediction_seconds = time_prediction(model, x_train, options.batch_size)

    trained = options.epochs * len(x_train)
    print(f"test accuracy: {accuracy:.2%} of {len(x_test)} digits, test loss: {loss:.4f}")
    print(f"training:   {trained / training_seconds:9,.0f} images/s")
    print(f"prediction: {len(x_train) / prediction_seconds:9,.0f} images/s")
    if options.plot:
        plot_history(history.history, accuracy, options.plot)
        print(f"curves drawn to {options.plot}")


def time_prediction(model: Sequential, x: np.ndarray, batch_size: int) -> float:
    """Return the seconds that predicting ``x`` takes: the best of five times, to be fair."""
    seconds = []
    for _ in range(5):
        began = time.perf_counter()
        model.predict(x, batch_size=batch_size, verbose=0)
        seconds.append(time.perf_counter() - began)
    return min(seconds)


def parse_options(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(
        prog="python -m lamella.examples.cnn",
        description="Recognise handwritten digits with a small convolutional network.",
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    parser.add_argument("--epochs", type=int, default=30, help="times to go through the images")
    parser.add_argument("--batch-size", type=int, default=32, help="images a step")
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
