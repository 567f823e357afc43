"""Callbacks on a model that only counts, so that each is tested without training."""

from __future__ import annotations

import csv
import io
import math
import os
import sys

import numpy as np
import pytest

from lamella import callbacks, metrics, optimizers, progress, schedules


class CountingModel:
    """What callbacks use of a model: its weight is the number of the epoch."""

    def __init__(self):
        self.stop_training = False
        self.optimizer = optimizers.SGD(1.0)
        self.metrics = [metrics.Mean(name="loss"), metrics.get("accuracy")]
        self.weight = 0.0
        self.saved = []

    def get_weights(self):
        return [np.float32([self.weight])]

    def set_weights(self, weights):
        self.weight = float(weights[0][0])

    def save(self, path):
        self.saved.append(os.fspath(path))

    def save_weights(self, path):
        self.saved.append(f"weights:{path}")


def run(callback, values, name="val_loss", batches=0, model=None, **params):
    """Run epochs whose logs are ``values``; return the model and the history."""
    model = model or CountingModel()
    given = callback if isinstance(callback, list) else [callback]
    calls = callbacks.CallbackList(
        given, add_history=True, model=model, **{"verbose": 0, "epochs": len(values), **params}
    )
    calls.on_train_begin()
    for epoch, value in enumerate(values):
        calls.on_epoch_begin(epoch)
        for batch in range(batches):
            calls.on_train_batch_begin(batch)
            calls.on_train_batch_end(batch, {"loss": value})
        model.weight = float(epoch)
        calls.on_epoch_end(epoch, {name: value})
        if model.stop_training:
            break
    calls.on_train_end()
    return model, calls.history


class Recorder(callbacks.Callback):
    def __init__(self):
        super().__init__()
        self.calls = []

    def on_epoch_end(self, epoch, logs=None):
        self.calls.append(("epoch", epoch, dict(logs)))

    def on_batch_end(self, batch, logs=None):
        self.calls.append(("batch", batch, dict(logs)))


def test_list_calls_what_is_overridden():
    recorder = Recorder()
    calls = callbacks.CallbackList([recorder])
    assert calls.has("on_epoch_end") and calls.has("on_train_batch_end")  # through its alias
    assert not calls.has("on_train_batch_begin") and not calls.has("on_predict_end")
    for hook in callbacks.base.HOOKS:
        if hook.startswith("on_batch"):
            continue
        first = [0] if "batch" in hook or "epoch" in hook else []
        getattr(calls, hook)(*first, {"loss": 1.0})
    assert recorder.calls == [("epoch", 0, {"loss": 1.0}), ("batch", 0, {"loss": 1.0})]


def test_list_hands_on_model_and_params():
    recorder, model = Recorder(), CountingModel()
    calls = callbacks.CallbackList(recorder, add_history=True, model=model, epochs=3, verbose=0)
    assert recorder.model is model and recorder.params == {"epochs": 3, "verbose": 0}
    assert model.history is calls.history
    own = callbacks.History()
    assert callbacks.CallbackList([own], add_history=True).history is own


def test_list_refuses_what_is_no_callback():
    with pytest.raises(TypeError, match="not the class"):
        callbacks.CallbackList([callbacks.History])
    with pytest.raises(TypeError, match="Callback objects"):
        callbacks.CallbackList([print])


def test_history():
    _, history = run([], [3.0, 2.0, 1.0])
    assert history.history == {"val_loss": [3.0, 2.0, 1.0]} and history.epoch == [0, 1, 2]


@pytest.mark.parametrize(
    ("options", "values", "epochs", "weight"),
    [
        ({"patience": 2}, [3, 2, 2.5, 2.4, 1], 4, 3),
        ({"patience": 2, "restore_best_weights": True}, [3, 2, 2.5, 2.4, 1], 4, 1),
        ({"patience": 1, "min_delta": 0.5}, [3, 2.7, 1], 2, 1),
        ({"patience": 1, "mode": "max"}, [3, 2, 4], 2, 1),
        ({"patience": 2, "start_from_epoch": 2}, [1, 2, 3, 3, 3], 5, 4),
        ({"patience": 2, "baseline": 1.0}, [3, 2, 1.5, 1.6, 0.5], 4, 3),
        ({"patience": 1}, [math.nan, 2, 3, 4], 3, 2),
        ({}, [3, 2, 1], 3, 2),
    ],
)
def test_early_stopping(options, values, epochs, weight):
    model, history = run(callbacks.EarlyStopping(**options), values)
    assert len(history.epoch) == epochs and model.weight == weight


def test_early_stopping_restores_without_stopping(capsys):
    callback = callbacks.EarlyStopping(patience=9, restore_best_weights=True, verbose=1)
    model, _ = run(callback, [3, 1, 2])
    assert model.weight == 1.0
    assert "best epoch: 2" in capsys.readouterr().out


def test_early_stopping_is_used_again():
    callback = callbacks.EarlyStopping(patience=1)
    assert len(run(callback, [1, 2, 3])[1].epoch) == 2
    assert len(run(callback, [5, 4, 3])[1].epoch) == 3


def test_a_value_that_is_not_logged_is_warned_of():
    with pytest.warns(UserWarning, match="'val_loss', which is not among accuracy"):
        run(callbacks.EarlyStopping(), [0.5], name="accuracy")


def test_direction_by_the_metric():
    callback = callbacks.EarlyStopping(monitor="val_accuracy", patience=1)
    assert len(run(callback, [0.5, 0.6, 0.7, 0.6], name="val_accuracy")[1].epoch) == 4
    callback = callbacks.EarlyStopping(monitor="val_output_accuracy", patience=1)
    assert len(run(callback, [0.5, 0.6, 0.5], name="val_output_accuracy")[1].epoch) == 3
    with pytest.raises(ValueError, match="mode='max' or mode='min'"):
        run(callbacks.EarlyStopping(monitor="fitness"), [1.0], name="fitness")


def test_checkpoints(tmp_path, capsys):
    path = tmp_path / "new" / "model-{epoch:02d}-{val_loss:.1f}.safetensors"
    model, _ = run(callbacks.ModelCheckpoint(path), [0.5, 0.25])
    folder = tmp_path / "new"
    assert folder.is_dir()
    assert model.saved == [
        str(folder / "model-01-0.5.safetensors"),
        str(folder / "model-02-0.2.safetensors"),
    ]
    best = callbacks.ModelCheckpoint("best", save_best_only=True, save_weights_only=True, verbose=1)
    assert run(best, [0.5, 0.7, 0.3])[0].saved == ["weights:best"] * 2
    assert "did not improve" in capsys.readouterr().out
    limited = callbacks.ModelCheckpoint("a", save_best_only=True, initial_value_threshold=0.4)
    assert run(limited, [0.5, 0.3])[0].saved == ["a"]


def test_checkpoints_by_batches():
    checkpoint = callbacks.ModelCheckpoint("{epoch}-{batch}", save_freq=3)
    assert run(checkpoint, [0.5, 0.4], batches=4)[0].saved == ["1-3", "2-2"]


def test_checkpoint_names_that_are_not_logged():
    with pytest.raises(ValueError, match="'accuracy'"):
        run(callbacks.ModelCheckpoint("{accuracy}"), [0.5])


def test_learning_rate_scheduler():
    callback = callbacks.LearningRateScheduler(lambda epoch, rate: rate / 2)
    model, history = run(callback, [1, 1, 1])
    assert history.history["learning_rate"] == [0.5, 0.25, 0.125]
    model, _ = run(callbacks.LearningRateScheduler(lambda epoch: 0.1 * (epoch + 1)), [1, 1])
    assert model.optimizer.learning_rate == pytest.approx(0.2)
    with pytest.raises(ValueError, match="learning_rate"):
        run(callbacks.LearningRateScheduler(lambda epoch: None), [1])


def test_reduce_on_plateau():
    callback = callbacks.ReduceLROnPlateau(factor=0.1, patience=2, cooldown=1, min_lr=0.05)
    model, history = run(callback, [5, 5, 5, 5, 5, 5, 5, 5, 5])
    assert history.history["learning_rate"] == pytest.approx([1, 1, 1, *[0.1] * 2, *[0.05] * 4])
    assert model.optimizer.learning_rate == pytest.approx(0.05)
    model = CountingModel()
    model.optimizer = optimizers.SGD(schedules.CosineDecay(0.1, 10))
    with pytest.raises(TypeError, match="LearningRateSchedule"):
        run(callbacks.ReduceLROnPlateau(patience=1), [5, 5, 5], model=model)


def test_csv_logger(tmp_path):
    file = tmp_path / "log.csv"

    def read_rows():
        return list(csv.reader(file.read_text().splitlines()))

    run(callbacks.CSVLogger(file), [0.5, 0.25], name="loss")
    assert read_rows() == [["epoch", "loss", "val_loss"], ["0", "0.5", "NA"], ["1", "0.25", "NA"]]
    run(callbacks.CSVLogger(file, append=True), [0.125], name="loss")
    assert read_rows()[3:] == [["0", "0.125", "NA"]]
    run(callbacks.CSVLogger(file, separator=";"), [1.0], name="val_loss")
    assert file.read_text().splitlines() == ["epoch;val_loss", "0;1.0"]


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_terminate_on_nan(value, capsys):
    model, history = run(callbacks.TerminateOnNaN(), [1.0, value, 1.0], batches=2)
    assert len(history.epoch) == 2 and model.stop_training
    assert "training stops" in capsys.readouterr().out
    with pytest.raises(RuntimeError, match="batch 0"):
        run(callbacks.TerminateOnNaN(raise_error=True), [value], batches=1)


def test_lambda_callback():
    seen = []
    callback = callbacks.LambdaCallback(
        on_epoch_end=lambda epoch, logs: seen.append((epoch, logs["val_loss"])),
        on_batch_end=lambda batch, logs: seen.append(batch),
        on_train_end=None,
    )
    run(callback, [0.5], batches=2)
    assert seen == [0, 1, (0, 0.5)]
    with pytest.raises(ValueError, match="on_epoch_finish"):
        callbacks.LambdaCallback(on_epoch_finish=print)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: callbacks.EarlyStopping(mode="down"), "'min', 'max'"),
        (lambda: callbacks.ReduceLROnPlateau(factor=1.0), "factor"),
        (lambda: callbacks.ModelCheckpoint("a", save_freq=0), "save_freq"),
        (lambda: callbacks.LearningRateScheduler(0.1), "schedule"),
        (lambda: progress.make_display(3), "verbose"),
    ],
)
def test_errors(call, message):
    with pytest.raises(ValueError, match=message):
        call()


def show(verbose, stream, epochs=2, steps=3):
    """Run a training's progress into ``stream``."""
    before, sys.stdout = sys.stdout, stream
    try:
        model = CountingModel()
        calls = callbacks.CallbackList(
            [], add_progbar=True, model=model, verbose=verbose, epochs=epochs, steps=steps
        )
        calls.on_train_begin()
        for epoch in range(epochs):
            calls.on_epoch_begin(epoch)
            for batch in range(steps):
                calls.on_train_batch_end(batch, {"loss": 0.5})
            calls.on_test_begin()
            calls.on_test_batch_end(0, {"loss": 0.7})
            calls.on_test_end({"loss": 0.7})
            calls.on_epoch_end(epoch, {"accuracy": 0.9, "loss": 0.00001, "val_loss": 0.7})
        calls.on_train_end()
    finally:
        sys.stdout = before


class Terminal(io.StringIO):
    encoding = "utf-8"

    def isatty(self):
        return True


@pytest.mark.parametrize("verbose", [1, 2, "auto"])
def test_progress_into_a_pipe_is_a_line_an_epoch(verbose):
    stream = io.StringIO()
    show(verbose, stream)
    lines = stream.getvalue().splitlines()
    assert len(lines) == 2
    assert lines[0].startswith("Epoch 1/2 - 3/3 - 0s ")
    assert lines[1].endswith("/step - accuracy: 0.9000 - loss: 1.0000e-05 - val_loss: 0.7000")


def test_progress_silent():
    stream = Terminal()
    show(0, stream)
    assert stream.getvalue() == ""


def test_progress_on_a_terminal_ends_in_clean_lines(monkeypatch):
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setattr(progress, "REDRAW_SECONDS", 0.0)
    stream = Terminal()
    show(1, stream)
    text = stream.getvalue()
    assert "Epoch 1/2 - 2/3 |" in text and "left, loss: 0.5000" in text
    # What remains visible: each line after its last return to the first column.
    visible = [line.rsplit("\r", 1)[-1].strip() for line in text.split("\n")]
    visible = [line for line in visible if line]
    assert len(visible) == 2 and all("/step - accuracy: 0.9000" in line for line in visible)


def test_progress_is_drawn_seldom(monkeypatch):
    monkeypatch.setenv("TERM", "xterm")
    stream = Terminal()
    show(1, stream, epochs=1, steps=2000)
    assert len(stream.getvalue()) < 2000


def test_a_dumb_terminal_gets_lines(monkeypatch):
    monkeypatch.setenv("TERM", "dumb")
    stream = Terminal()
    show(1, stream)
    assert len(stream.getvalue().splitlines()) == 2


def test_progress_of_unknown_length_and_of_prediction(capsys):
    calls = callbacks.CallbackList([], add_progbar=True, verbose=1, steps=None)
    calls.on_predict_begin()
    for batch in range(4):
        calls.on_predict_batch_end(batch, {"outputs": np.zeros(3)})
    calls.on_predict_end()
    assert capsys.readouterr().out.startswith("4/4 - 0s ")
