"""The examples: they run, reach what they promise, and draw."""

from __future__ import annotations

import builtins
import re

import numpy as np
import pytest

from lamella.examples import _plot, attention, cnn, language_model, rnn, transformer


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


@pytest.mark.parametrize("program", [attention, transformer])
def test_programs_with_attention_read_text(program, capsys):
    program.main(["--epochs", "6", "--verbose", "0"])
    text = capsys.readouterr().out
    found = float(re.search(r"test accuracy: ([\d.]+)% of \d+ passages", text).group(1))
    most = float(re.search(r"largest group would get ([\d.]+)% right", text).group(1))
    assert found > most + 20
    assert re.search(r"training: [\d,]+ sequences/s", text)
    with pytest.raises(SystemExit):
        program.main(["--batch-size", "0"])
    assert f"lamella.examples.{program.__name__.rpartition('.')[2]}" in capsys.readouterr().err


SHORT = ["--characters", "60000", "--context", "64", "--length", "40", "--batch-size", "8"]


def test_language_model_learns_and_writes(capsys):
    language_model.main([*SHORT, "--epochs", "4", "--prompt", "The ", "--check"])
    text = capsys.readouterr().out
    counted = float(re.search(r"perplexity of pairs, counted: ([\d.]+)", text).group(1))
    reached = [float(p) for p in re.findall(r"perplexity after epoch \d: ([\d.]+)", text)]
    assert len(reached) == 4 and reached[3] < reached[1] < reached[0]
    assert reached[3] < counted
    assert re.search(r"^The .{36}", text, re.M | re.S)
    assert "without caches it writes the same" in text


def test_language_model_draws(capsys):
    rng = np.random.default_rng(0)
    p = rng.random((7, 7)).astype(np.float32)

    def read(text):
        return p[text[-1]] / p[text[-1]].sum()

    def written(temperature, top_k, seed=1):
        return language_model.write(read, [3], 30, temperature, top_k, seed)

    likeliest = written(0, None)
    assert likeliest[:2] == [3, int(p[3].argmax())]
    assert written(1.0, 1) == likeliest == written(1e-3, None)
    assert written(1.0, None) == written(1.0, None) != written(1.0, None, seed=2)
    followers = {(a, b) for a, b in zip(*[written(2.0, 2)[i:] for i in (0, 1)], strict=False)}
    assert all(b in np.argsort(p[a])[-2:] for a, b in followers)
    assert len(set(written(5.0, None))) > len(set(likeliest))


@pytest.mark.parametrize(
    "options",
    [
        ["--epochs", "0"],
        ["--top-k", "0"],
        ["--temperature", "-1"],
        ["--characters", "20"],
        ["--prompt", ""],
        ["--length", "500"],
    ],
)
def test_language_model_refuses(options, capsys):
    with pytest.raises(SystemExit):
        language_model.main(options)
    assert options[0] in capsys.readouterr().err
