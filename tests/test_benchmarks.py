"""The benchmarks: statistics, the lists of shapes, and one tiny case measured from end to end."""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
from types import SimpleNamespace

import numpy as np
import pytest
from benchmark_cases import ROOT, load_peer, read_case

import benchmarks.__main__ as command_line
from benchmarks import (
    cases,
    ceilings,
    harness,
    import_time,
    ours,
    peers,
    report,
    runner,
    verification,
    work,
)


def run_benchmarks(*arguments: str) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    return subprocess.run(
        [sys.executable, "-m", "benchmarks", *arguments],
        cwd=ROOT,
        env=environment,
        capture_output=True,
        text=True,
        timeout=60,
    )


def case_of(case_id: str) -> cases.Case:
    (case,) = cases.select(cases.load_cases(), [case_id])
    return case


def timing(*seconds: float) -> harness.Timing:
    return harness.Timing(seconds, calls=1)


# -- statistics -------------------------------------------------------------------------------


def test_timing_is_the_median_and_its_spread_the_quartiles():
    measured = timing(3.0, 1.0, 2.0, 4.0, 1000.0)
    assert measured.median == 3.0
    assert measured.spread == pytest.approx((4.0 - 2.0) / 3.0)
    assert timing(5.0).spread == 0.0


def test_geometric_mean():
    assert harness.geometric_mean([4.0, 0.25, 8.0]) == pytest.approx(2.0)
    with pytest.raises(ValueError, match="at least one"):
        harness.geometric_mean([])


def test_measure_interleaves_blocks_with_an_uncounted_call(monkeypatch):
    """Against a clock that only the calls move on, times are exact."""
    now = [0.0]
    order = []
    monkeypatch.setattr(harness.time, "perf_counter", lambda: now[0])
    monkeypatch.setattr(harness, "come_to_rest", lambda: order.append("rest"))

    def side(name, seconds):
        def run():
            order.append(name)
            now[0] += seconds

        return harness.Side(name, run, lambda result: [])

    protocol = harness.Protocol(blocks=2, block_seconds=0.03)
    fast, slow = harness.measure([side("fast", 0.01), side("slow", 0.1)], protocol)
    assert (fast.calls, slow.calls) == (3, 1)
    assert fast.seconds == pytest.approx((0.01, 0.01))
    assert slow.seconds == pytest.approx((0.1, 0.1))
    one_round = ["rest"] + 4 * ["fast"] + ["rest"] + 2 * ["slow"]
    assert order[-2 * len(one_round) :] == 2 * one_round


def make_row(ratio: float, share: float = 0.5, **fields: object) -> report.Row:
    floor = ceilings.Floor(share, "compute", "GFLOP", 1.0)
    return report.Row(
        case_of("matmul/64^3/forward"), "torch", timing(1.0), timing(ratio), floor, **fields
    )


def test_summary_names_losing_rows_and_leaves_out_rows_in_error():
    rows = [make_row(2.0), make_row(0.5), make_row(100.0, share=1.2), make_row(9.0, problem="bad")]
    text = "\n".join(report.summary(rows))
    assert "against torch: 1.00x (geometric mean), 1 of 2 rows at least as fast" in text
    assert "losing rows against torch:\n    0.50x matmul/64^3/forward" in text
    assert "measurement suspect: lamella at 120% of the ceiling" in text
    assert "(torch): bad" in text


def test_the_cost_of_ragged_sequences_is_that_of_a_step_over_a_full_batch_s():
    full = report.FullBatch((4, 5, 3), timing(2.0), steps=10)  # 0.1 a step
    row = make_row(2.0, full_batch=full)  # 1.0 for 10 steps
    assert row.relative_cost == pytest.approx(1.0)
    slow = make_row(2.0, full_batch=report.FullBatch((4, 5, 3), timing(0.5), steps=10))
    assert slow.relative_cost == pytest.approx(4.0)
    text = "\n".join(report.summary([row, slow, make_row(3.0)]))
    assert "ragged sequences cost 2.00 of their valid steps" in text
    assert "at most 4.00 (matmul/64^3/forward)" in text
    assert "4.00 of valid steps" in report.Table([row.case.id]).row(slow)
    assert report.as_json(slow)["full_batch"]["relative_cost"] == pytest.approx(4.0)
    assert "full_batch" not in report.as_json(make_row(3.0))


def test_durations_have_three_digits():
    assert [report.duration(s) for s in (1.234, 0.0123, 0.000456, 7.89e-6)] == [
        "1.23 s",
        "12.3 ms",
        "456 us",
        "7.89 us",
    ]


# -- cases ------------------------------------------------------------------------------------


def test_every_case_can_be_drawn_and_counted():
    found = cases.load_cases()
    assert len({case.id for case in found}) == len(found) > 100
    for case in found:
        counted = work.work(case)
        assert counted.bytes_read > 0 and counted.bytes_written > 0 and counted.terms >= 1, case.id
        if counted.bytes_read < 1e6:
            for name, array in case.arrays().items():
                assert array.shape == case.shape(name) and np.any(array != 0), case.id


@pytest.mark.parametrize(
    ("entry", "message"),
    [
        ({"name": "a", "arrays": {"x": [1]}}, "keys"),
        ({"name": "a", "arrays": {"x": [1]}, "directions": ["forward"], "option": {}}, "keys"),
        ({"name": "a", "arrays": {"x": [0]}, "directions": ["forward"]}, "positive"),
        ({"name": "a", "arrays": {"x": [1]}, "directions": ["sideways"]}, "directions"),
        ({"name": "a", "arrays": {"x": [1]}, "directions": ["forward"], "needs": []}, "needs"),
        (
            {"name": "a", "arrays": {"x": {"below": 1}}, "directions": ["forward"]},
            "x: has the keys",
        ),
        (
            {"name": "a", "arrays": {"x": {"shape": [1], "true": "x"}}, "directions": ["forward"]},
            "x: a mask",
        ),
        (
            {"name": "a", "arrays": {"x": "y"}, "directions": ["forward"]},
            "x: is the same as one of",
        ),
    ],
)
def test_a_malformed_entry_is_refused(tmp_path, entry, message):
    path = tmp_path / "relu.json"
    path.write_text(json.dumps([entry]))
    with pytest.raises(ValueError, match=message):
        cases.load_file(path)


def test_arrays_of_other_kinds(tmp_path):
    arrays = {
        "query": [3, 4],
        "key": "query",
        "lengths": {"shape": [500], "from": 1, "below": 4},
        "mask": {"shape": [40, 1, 9], "true": "prefix"},
        "hole": {"shape": [30, 40], "true": "half"},
    }
    case = read_case(tmp_path, arrays=arrays, peers=["torch", "onnxruntime"])
    drawn = case.arrays()
    assert drawn["key"] is drawn["query"]
    assert set(drawn["lengths"]) == {1, 2, 3}
    mask, hole = drawn["mask"], drawn["hole"]
    assert mask.dtype == hole.dtype == bool
    assert mask[..., 0].all() and not np.any(~mask[..., :-1] & mask[..., 1:])
    assert len(set(mask.sum(axis=-1).ravel())) > 1
    assert 0.4 < hole.mean() < 0.6
    np.testing.assert_array_equal(case.array("mask"), mask)
    assert case.needs == (True, True, False, False, False)  # those of float32
    assert case.wanted == ("query",)  # which is one array with key
    assert case.peers == ("torch", "onnxruntime")
    assert [a.nbytes for a in case.arguments.values()] == [48, 0, 4000, 360, 1200]


def test_selection_by_op_alias_and_pattern():
    found = cases.load_cases()
    assert {case.op for case in cases.select(found, ["gemm", "relu"])} == {"matmul", "relu"}
    chosen = cases.select(found, ["conv2d/3x3*/backward"])
    assert chosen and all(case.direction == "backward" for case in chosen)
    with pytest.raises(ValueError, match="no case matches 'conv3d'"):
        cases.select(found, ["conv3d"])


@pytest.mark.parametrize(
    ("case_id", "flops"),
    [
        ("matmul/32x256x64/forward", 2 * 32 * 256 * 64),
        ("conv2d/3x3-56x56x64/forward", 2 * 8 * 56 * 56 * 64 * 9 * 64),
        ("conv2d/3x3-56x56x64/backward", 4 * 8 * 56 * 56 * 64 * 9 * 64),
        ("conv2d/cnn-1/backward", 2 * 32 * 26 * 26 * 32 * 9),  # a first layer: no gradient of x
        ("conv2d/stem-7x7-s2/forward", 2 * 8 * 112 * 112 * 64 * 49 * 3),
        ("conv2d/depthwise-56x56x144/forward", 2 * 8 * 56 * 56 * 144 * 9),
        ("conv2d_transpose/4x4-s2-7x7x256-128/forward", 2 * 8 * 7 * 7 * 256 * 16 * 128),
        ("attention/8x8x512x64/forward", 4 * 8 * 8 * 512 * 512 * 64),
        ("attention/2x12x1024x64-causal/forward+backward", 7 * 2 * 12 * 1024 * 1024 * 64),
        ("attention/1x32x1x128-decode-4096/forward", 4 * 32 * 4096 * 128),
        ("multi_head_attention/32x100x64-8/forward", 3200 * (8 * 64 * 64 + 4 * 100 * 64)),
        ("relu/1M/forward", 0),
    ],
)
def test_flops(case_id, flops):
    assert work.work(case_of(case_id)).flops == flops


def test_flops_of_a_training_step_of_the_cnn():
    layers = 2 * 32 * np.array([26 * 26 * 32 * 9, 11 * 11 * 64 * 9 * 32, 1600 * 64, 64 * 10])
    assert work.work(case_of("cnn/b32/predict")).flops == layers.sum()
    assert work.work(case_of("cnn/b32/train")).flops == 3 * layers.sum() - layers[0]


def test_both_passes_cost_what_each_of_them_costs(tmp_path):
    arrays = {"x": [3, 5], "kernel": [5, 7], "bias": [7]}
    directions = ["forward", "backward", "forward+backward"]
    path = tmp_path / "dense.json"
    path.write_text(json.dumps([{"name": "a", "arrays": arrays, "directions": directions}]))
    forward, backward, both = (work.work(case) for case in cases.load_file(path))
    assert both.flops == forward.flops + backward.flops == 6 * 3 * 5 * 7
    assert both.bytes_read == 4 * (3 * 5 + 5 * 7 + 7 + 3 * 7)
    assert both.bytes_written == forward.bytes_written + backward.bytes_written
    assert both.terms == max(forward.terms, backward.terms)


# -- what there is ---------------------------------------------------------------------------


def test_cases_that_lamella_cannot_run_are_named(monkeypatch):
    from lamella import layers, ops

    found = {case.op: case for case in cases.load_cases()}
    assert ours.missing(found["lstm"]) is None
    assert ours.missing(found["lstm_step"]) is None
    assert ours.missing(found["adam_"]) is None
    assert ours.missing(found["rnn"]) is None
    monkeypatch.delattr(ops, "lstm")
    monkeypatch.delattr(layers, "MultiHeadAttention", raising=False)
    monkeypatch.delattr(layers, "TransformerEncoder", raising=False)
    assert ours.missing(found["lstm"]) == "ops.lstm"
    assert ours.missing(found["transformer"]) == "layers.MultiHeadAttention"
    assert ours.missing(found["encoder"]) == "layers.TransformerEncoder"


def test_absent_peers_are_named_and_those_asked_for_are_needed(monkeypatch, capsys):
    def load(name):
        if name != "torch":
            raise ModuleNotFoundError(f"the peer {name} needs the package {name}")
        return SimpleNamespace(set_threads=lambda threads: None)

    monkeypatch.setattr(peers, "load", load)
    parser = argparse.ArgumentParser()
    train, relu = case_of("rnn/b32/train"), case_of("relu/64K/forward")
    found = command_line.load_peers(parser, None, [train, relu])
    assert {case: list(modules) for case, modules in found.items()} == {
        train.id: ["torch"],
        relu.id: ["torch"],
    }
    assert capsys.readouterr().out == "without keras: the peer keras needs the package keras\n"
    for chosen, case in ((["keras"], train), (["torch", "onnxruntime"], relu)):
        with pytest.raises(SystemExit):
            command_line.load_peers(parser, chosen, [case])
        assert "measure alone with --peer none" in capsys.readouterr().err
    monkeypatch.setattr(peers, "load", lambda name: load("other"))
    with pytest.raises(SystemExit):  # nobody is left to compare with
        command_line.load_peers(parser, None, [train])


# -- verification -----------------------------------------------------------------------------


def test_a_wrong_result_is_noticed():
    right = np.linspace(-1, 1, 1000, dtype=np.float32)
    allowed = verification.tolerance(1000)
    assert verification.check([right], [right.astype(np.float64)], allowed) == 0
    lower_precision = right.astype(np.float16).astype(np.float32)
    for wrong in (lower_precision, right[:-1], np.where(right > 0.9, np.nan, right)):
        with pytest.raises(verification.WrongResultError):
            verification.check([wrong], [right], allowed)


@pytest.mark.parametrize("peer", [None, "torch", "onnxruntime"])
@pytest.mark.parametrize(
    "case_id",
    [
        "dense/cnn-2/forward",
        "dense/cnn-2/backward",
        "conv2d/cnn-1/backward",
        "batch_norm/training-14x14x256/backward",
        "layer_norm/128x768/forward",
        "layer_norm/residual-4096x512/backward",
        "rms_norm/residual-4096x512/forward",
        "rms_norm/heads-8x512x8x64/backward",
        "group_norm/8x14x14x256-32/forward",
        "group_norm/8x14x14x256-32/backward",
        "dropout/64K/forward",
        "softmax/32x10/backward",
        "adam_/CNN/step",
        "cnn/b1/predict",
        "cnn/b32/train",
    ],
)
def test_both_sides_of_a_case_agree(case_id, peer):
    module = load_peer(peer) if peer else None
    case = case_of(case_id)
    if peer is None and case.op == "cnn":
        pytest.skip("a model is checked against peers")
    checked = runner.check_case(case, module)
    if checked is None:
        assert peer == "onnxruntime"
        pytest.skip("ONNX Runtime has no such case")
    assert checked.sides[0].name == "lamella"
    assert checked.error <= checked.tolerance < 1e-4


# -- the command line -------------------------------------------------------------------------


def test_list_prints_the_selected_cases():
    done = run_benchmarks("--list", "softmax")
    assert done.returncode == 0, done.stderr
    assert "softmax/32x10/forward" in done.stdout.splitlines()


def test_a_wrong_argument_is_explained():
    done = run_benchmarks("--list", "conv3d")
    assert done.returncode == 2
    assert "no case matches 'conv3d'" in done.stderr


def test_a_quick_run_without_a_peer(tmp_path):
    results = tmp_path / "results.json"
    done = run_benchmarks("relu/64K/*", "--quick", "--peer", "none", "--json", str(results))
    assert done.returncode == 0, done.stdout + done.stderr
    document = json.loads(results.read_text())
    assert [row["case"] for row in document["rows"]] == ["relu/64K/forward", "relu/64K/backward"]
    for row in document["rows"]:
        assert row["error"] == 0
        assert row["ours"]["median_seconds"] > 0
        assert row["bound_by"] == "memory"
    assert document["machine"]["threads"] >= 1
    assert document["ceilings"]["fma_gflops"] > 0


def test_import_costs_are_measured():
    costs = import_time.measure(repetitions=1)
    assert costs["numpy, lamella"].resident_bytes > 0
    assert len(import_time.table(costs)) == 1 + len(import_time.PROGRAMS)
