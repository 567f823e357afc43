"""Tell passages of text apart with self-attention between two LSTM layers.

Run it with ``python -m lamella.examples.attention``; ``--help`` lists its options. It reads
passages of the Python documentation, which comes with every interpreter, and tells which part of it
they are from: statements, expressions, the data model, ... Passages differ in length; a mask keeps
the padding behind them out of the network.
"""

from __future__ import annotations

from collections.abc import Sequence

from lamella.examples import _passages
from lamella.layers import LSTM, Attention, Dense, Embedding
from lamella.models import Sequential


def build_model(input_dim: int, output_dim: int, max_length: int) -> Sequential:
    """Return the network, ready to be trained."""
    model = Sequential([
        Embedding(input_dim, 64, input_length=max_length, mask_zero=True),
        LSTM(64, return_sequences=True),
        Attention(),
        LSTM(64),
        Dense(output_dim, activation='softmax')
    ])  # fmt: skip

    model.compile(optimizer='adam',
                  loss='sparse_categorical_crossentropy',
                  metrics=['accuracy'])  # fmt: skip
    return model


def main(arguments: Sequence[str] | None = None) -> None:
    """Train, test, and report."""
    description = "Tell passages of text apart with self-attention between two LSTM layers."
    _passages.run("lamella.examples.attention", description, build_model, arguments)


if __name__ == "__main__":
    main()
