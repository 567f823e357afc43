"""Tell passages of the Python documentation apart: what the examples with attention share."""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable, Sequence

import numpy as np

from lamella.datasets import load_documentation
from lamella.examples._plot import check_plotting, plot_history
from lamella.models import Sequential
from lamella.utils import set_random_seed


def run(
    program: str,
    description: str,
    build_model: Callable[[int, int, int], Sequential],
    arguments: Sequence[str] | None,
) -> None:
    """Train the network on passages, test it on others, and report.

    Parameters
    ----------
    program : str
        The module's name, for ``--help``.
    description : str
    build_model : callable
        ``build_model(input_dim, output_dim, max_length)``: how many words and groups there are, and
        how many words a passage has at most.
    arguments : sequence of str, optional
        The command line.
    """
    options = _parse_options(program, description, arguments)
    if options.plot:
        check_plotting()
    set_random_seed(options.seed)

    # x: the numbers of a passage's words (n, 60), 0 behind its last; y: its group (n,).
    (x_train, y_train), (x_test, y_test), words, groups = load_documentation()
    model = build_model(len(words), len(groups), x_train.shape[1])

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
    most = np.bincount(y_test).max() / len(y_test)
    print(f"test accuracy: {accuracy:.2%} of {len(x_test)} passages, test loss: {loss:.4f}")
    print(f"always naming the largest group would get {most:.2%} right")
    print(f"training: {options.epochs * len(x_train) / seconds:,.0f} sequences/s")
    if options.plot:
        plot_history(history.history, accuracy, options.plot)
        print(f"curves drawn to {options.plot}")


def _parse_options(
    program: str, description: str, arguments: Sequence[str] | None
) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog=f"python -m {program}",
        description=description,
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    parser.add_argument("--epochs", type=int, default=10, help="times to go through the data")
    parser.add_argument("--batch-size", type=int, default=32, help="passages a step")
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
