"""The examples: they run, reach what they promise, and draw."""

from __future__ import annotations

import builtins
import re

import pytest

from lamella.examples import _plot, cnn, rnn


def run(capsys, *options):
    cnn.main(["--verbose", "0", *options])
    return capsys.readouterr().out


def accuracy(text):
    return float(re.search(r"test accuracy: ([\d.]+)% of 359 digits", text).group(1))


def test_cnn_learns_the_digits(capsys):
    text = run(capsys)
    assert accuracy(text) >= 98
    assert re.search(r"training: +[\d,]+ images/s\nprediction: +[\d,]+ images/s", text)


def test_cnn_repeats_itself(capsys):
    def results(*options):
        return run(capsys, "--epochs", "1", "--batch-size", "64", *options).splitlines()[0]

    assert results() == results()
    assert results() != results("--seed", "2")


def test_cnn_shows_a_line_an_epoch(capsys):
    cnn.main(["--epochs", "2", "--verbose", "2"])
    lines = capsys.readouterr().out.splitlines()
    assert re.match(r"Epoch 1/2 - 45/45 - .*/step - accuracy: 0\.\d+ - loss: ", lines[0])
    assert lines[1].startswith("Epoch 2/2")


def test_cnn_draws_curves(capsys, tmp_path):
    pytest.importorskip("matplotlib")
    file = tmp_path / "curves.png"
    text = run(capsys, "--epochs", "2", "--plot", str(file))
    assert file.read_bytes().startswith(b"\x89PNG") and str(file) in text


def test_drawing_without_matplotlib(monkeypatch):
    monkeypatch.setattr(_plot, "find_spec", lambda name: None)
    monkeypatch.setattr(builtins, "print", lambda *texts: pytest.fail("trained all the same"))
    with pytest.raises(SystemExit, match=r"pip install 'lamella\[plot\]'"):
        cnn.main(["--plot", "curves.png"])


@pytest.mark.parametrize("options", [["--epochs", "0"], ["--batch-size", "0"], ["--verbose", "3"]])
def test_cnn_refuses(options, capsys):
    with pytest.raises(SystemExit):
        cnn.main(options)
    assert options[0] in capsys.readouterr().err


def test_rnn_learns_the_digits(capsys):
    rnn.main(["--verbose", "0"])
    text = capsys.readouterr().out
    assert accuracy(text) >= 95
    assert re.search(r"training: [\d,]+ sequences/s", text)


def test_rnn_refuses(capsys):
    with pytest.raises(SystemExit):
        rnn.main(["--epochs", "0"])


def test_rnn_reads_text(capsys):
    rnn.main(["--text", "--epochs", "12", "--verbose", "0"])
    text = capsys.readouterr().out
    found = float(re.search(r"test accuracy: ([\d.]+)% of \d+ passages", text).group(1))
    most = float(re.search(r"largest group would get ([\d.]+)% right", text).group(1))
    assert found > most + 20
