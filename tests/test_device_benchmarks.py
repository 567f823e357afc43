"""Benchmarks on a device: both sides there on the same arrays, timed there; on the executor."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from types import SimpleNamespace

import numpy as np
import pytest
from benchmark_cases import load_peer, read_case

import benchmarks.__main__ as command_line
from benchmarks import cases, device, harness, ours, peers, runner, verification
from lamella import devices
from lamella.errors import CudaError

needs_executor = pytest.mark.skipif(
    bool(devices.why_unusable("simt")), reason="the executor for device kernels is not built"
)


@pytest.fixture(scope="module")
def executor():
    return device.load("simt")


def gates(count, units, terms, *bias):
    return {
        "x": [2, 3, terms],
        "kernel": [terms, count * units],
        "recurrent_kernel": [units, count * units],
        "bias": list(bias),
    }


def heads():
    arrays = {"query": [2, 5, 6], "key": "query", "value": "query"}
    arrays.update({f"{part}_kernel": [6, 2, 3] for part in ("query", "key", "value")})
    arrays["output_kernel"] = [2, 3, 6]
    arrays.update({f"{part}_bias": [2, 3] for part in ("query", "key", "value")})
    return {**arrays, "output_bias": [6]}


IMAGE = {"x": [2, 7, 6, 4]}
AFFINE = {"gamma": [4], "beta": [4]}
QUERY = {"query": [2, 7, 2, 4], "key": [2, 7, 2, 4], "value": [2, 7, 2, 4]}
TINY = {
    "matmul": ({"a": [5, 7], "b": [7, 3]}, {}),
    "dense": ({"x": [5, 7], "kernel": [7, 3], "bias": [3]}, {"activation": "relu"}),
    "conv2d": ({**IMAGE, "kernel": [3, 3, 4, 5], "bias": [5]}, {"padding": 1}),
    "conv1d": ({"x": [2, 9, 4], "kernel": [3, 4, 5]}, {}),
    "conv2d_transpose": ({**IMAGE, "kernel": [2, 2, 5, 4]}, {"strides": 2}),
    "max_pool2d": (IMAGE, {}),
    "avg_pool2d": (IMAGE, {}),
    "global_avg_pool2d": (IMAGE, {}),
    "simple_rnn": (gates(1, 4, 3, 4), {}),
    "gru": (gates(3, 4, 3, 2, 12), {}),
    "lstm": (gates(4, 4, 3, 16), {}),
    "attention": (QUERY, {"causal": True}),
    "additive_attention": (
        {"query": [2, 5, 4], "value": [2, 7, 3], "key": [2, 7, 4], "scale": [4]},
        {},
    ),
    "multi_head_attention": (heads(), {}),
    "rotary_embedding": ({"x": [2, 5, 3, 6], "cos": [5, 3], "sin": [5, 3]}, {}),
    "softmax": ({"x": [5, 7]}, {}),
    "batch_norm": ({**IMAGE, **AFFINE}, {}),
    "layer_norm": ({"x": [5, 4], **AFFINE}, {}),
    "rms_norm": ({"x": [5, 4], "gamma": [4]}, {}),
    "group_norm": ({**IMAGE, **AFFINE}, {"groups": 2}),
    "relu": ({"x": [33]}, {}),
    "gelu": ({"x": [33]}, {}),
    "add": ({"a": [33], "b": [33]}, {}),
    "embedding": ({"indices": {"shape": [2, 5], "below": 7}, "table": [7, 3]}, {}),
    "sparse_categorical_crossentropy": (
        {"y_pred": [5, 7], "labels": {"shape": [5], "below": 7}},
        {"from_logits": True},
    ),
}
NEEDS = {"rotary_embedding": [True, False, False]}


def tiny_case(tmp_path, op, direction):
    arrays, options = TINY[op]
    more = {"needs": NEEDS[op]} if op in NEEDS else {}
    return read_case(tmp_path, op, arrays=arrays, options=options, directions=[direction], **more)


def test_every_op_has_a_tiny_case():
    ops = {case.op for case in cases.load_cases() if case.direction in ("forward", "backward")}
    assert ops - set(TINY) == {"dropout", "lstm_step", "gru_step"}


@needs_executor
@pytest.mark.parametrize("direction", ["forward", "backward", "forward+backward"])
@pytest.mark.parametrize("op", TINY)
def test_both_sides_agree_on_a_device(tmp_path, executor, op, direction):
    checked = runner.check_case(tiny_case(tmp_path, op, direction), load_peer("torch"), executor)
    assert checked.error <= checked.tolerance < 1e-5
    assert checked.peer_error is None


@needs_executor
def test_both_sides_work_on_one_memory(executor):
    from benchmarks.peers.torch_layouts import as_array, as_tensor

    load_peer("torch")
    x = np.arange(6, dtype=np.float32).reshape(2, 3)
    placed = executor.place({"a": x, "b": x, "mask": x > 2})
    assert placed["a"] is placed["b"]
    tensor = as_tensor(placed["a"])
    tensor[0, 0] = 7
    assert placed["a"].numpy()[0, 0] == 7
    np.testing.assert_array_equal(as_array(as_tensor(placed["mask"])), x > 2)


@needs_executor
@pytest.mark.parametrize("case_id", ["adam_/CNN/step", "dropout/64K/forward"])
def test_other_cases_on_a_device(executor, case_id):
    (case,) = cases.select(cases.load_cases("simt"), [case_id])
    checked = runner.check_case(case, load_peer("torch"), executor)
    assert checked.error <= checked.tolerance


@needs_executor
def test_a_model_computes_on_the_device(tmp_path, executor):
    layer = {"kernel": [4, 16], "recurrent_kernel": [4, 16], "bias": [16]}
    first, second = ({f"{k}_{n}": v for k, v in layer.items()} for n in (1, 2))
    first["kernel_1"] = [5, 16]
    arrays = {"x": [3, 7, 5], "labels": {"shape": [3], "below": 3}}
    arrays.update({**first, **second, "kernel_3": [4, 3], "bias_3": [3]})
    case = read_case(tmp_path, "rnn", arrays=arrays, directions=["train"])
    checked = runner.check_case(case, load_peer("torch"), executor)
    assert checked.error <= checked.tolerance < 1e-5
    launched = devices.module_of("simt").memory_stats()["bytes_in_use"]
    assert launched > 0  # weights lie there


@needs_executor
def test_where_the_peer_is_the_one_that_is_off(tmp_path, executor, monkeypatch):
    """As a convolution by transforms is: lamella is compared with the peer in float64."""
    torch_peer = load_peer("torch")
    right = torch_peer.prepare

    def prepare(case, arrays, dy):
        side = right(case, arrays, dy)
        if arrays["x"].dtype == np.float64:
            return side
        return harness.Side("torch", side.run, lambda y: [side.arrays(y)[0] * 1.001], side.context)

    peer = SimpleNamespace(prepare=prepare)
    case = tiny_case(tmp_path, "conv2d", "forward")
    checked = runner.check_case(case, peer, executor)
    assert checked.error <= checked.tolerance < 1e-5
    assert checked.peer_error == pytest.approx(0.001, rel=0.1)
    with pytest.raises(verification.WrongResultError):  # as ever, on the CPU
        runner.check_case(case, peer)
    wrong = ours.prepare

    def prepare_wrong(*arguments):
        side = wrong(*arguments)
        return harness.Side("lamella", side.run, lambda y: [side.arrays(y)[0] * 1.001])

    monkeypatch.setattr(runner.ours, "prepare", prepare_wrong)
    with pytest.raises(verification.WrongResultError):
        runner.check_case(case, torch_peer, executor)


@needs_executor
def test_the_ceilings_of_a_device_are_measured():
    kernels = devices.module_of("simt")
    assert kernels.measure_fma_ceiling(0.001) > 0
    assert kernels.measure_read_bandwidth(1 << 16, 0.001) > 0
    assert kernels.measure_copy_bandwidth(1 << 16, 0.001) > 0
    with pytest.raises(ValueError, match="bytes must be at least 16, got 15"):
        kernels.measure_copy_bandwidth(15, 0.001)
    with pytest.raises(ValueError, match=r"seconds must lie in \(0, 60\], got 0"):
        kernels.measure_fma_ceiling(0)


# -- order, and the end of the time -------------------------------------------------------------


def test_larger_shapes_come_first_on_devices():
    found = cases.load_cases("cuda")
    assert len({case.id for case in found}) == len(found)
    large = {
        case.id for path in cases.DEVICE_SHAPES.glob("*.json") for case in cases.load_file(path)
    }
    assert {case.id for case in found[: len(large)]} == large
    # The first shape of every op before any op's second.
    names = [(case.op, case.name) for case in found[: len(large)]]
    turns = [list(dict.fromkeys(n for o, n in names if o == op)).index(name) for op, name in names]
    assert turns == sorted(turns)
    train = next(case for case in found if case.direction == "train")
    assert train.peers == ("torch", "torch-graph", "torch-compile")
    assert {p for case in found for p in case.peers} <= set(peers.ON_DEVICES)
    assert {p for case in cases.load_cases("simt") for p in case.peers} == {"torch"}


def test_what_has_to_be_compiled_comes_last():
    found = cases.select(cases.load_cases("cuda"), ["cnn", "softmax"])
    modules = {case.id: {name: SimpleNamespace() for name in case.peers} for case in found}
    pairs = command_line._in_order(found, modules, None)
    compiled = ["torch-compile" in against for _, against in pairs]
    assert compiled == sorted(compiled) and sum(compiled) == 1
    assert sum(len(against) for _, against in pairs) == sum(len(case.peers) for case in found)
    names = [command_line._name(*pair) for pair in pairs]
    assert command_line._in_order(found, modules, names[2]) == pairs[3:]
    with pytest.raises(ValueError, match="none of the selected cases"):
        command_line._in_order(found, modules, "softmax/none (torch)")
    alone = command_line._in_order(found, {case.id: {} for case in found}, None)
    assert [case for case, _ in alone] == found


@needs_executor
def test_rows_after_the_end_of_the_time_are_named(tmp_path, monkeypatch, capsys):
    load_peer("torch")
    path = tmp_path / "results.json"
    arguments = ["--device", "simt", "softmax/32x10/*", "--quick", "--json", str(path)]
    assert command_line.main([*arguments, "--minutes", "10"]) == 0
    document = json.loads(path.read_text())
    assert document["machine"]["device"]["name"] == "SIMT executor"
    assert document["machine"]["left_out"] == [] and len(document["rows"]) == 2
    monkeypatch.setattr(command_line, "_BEGAN", -1e9)
    assert command_line.main([*arguments, "--minutes", "10"]) == 0
    document = json.loads(path.read_text())
    names = [f"softmax/32x10/{direction} (torch)" for direction in ("forward", "backward")]
    assert document["machine"]["left_out"] == names and not document["rows"]
    assert "left out, as 10 minutes are over: 2 of 2 rows" in capsys.readouterr().out


@needs_executor
def test_the_rest_is_left_out_when_the_device_is_lost(tmp_path, monkeypatch, capsys):
    load_peer("torch")

    def fail(*arguments):
        raise CudaError("an illegal memory access was encountered")

    monkeypatch.setattr(runner.ours, "prepare", fail)
    monkeypatch.setattr(device._Kernels, "is_lost", lambda self: True)
    path = tmp_path / "results.json"
    arguments = ["--device", "simt", "softmax/32x10/*", "--quick", "--json", str(path)]
    assert command_line.main(arguments) == command_line.LOST
    document = json.loads(path.read_text())
    assert document["machine"]["lost_at"] == "softmax/32x10/forward (torch)"
    assert document["machine"]["left_out"] == ["softmax/32x10/backward (torch)"]
    assert "illegal memory access" in document["rows"][0]["problem"]


@needs_executor
def test_a_peer_for_the_cpu_is_refused_on_a_device(capsys):
    with pytest.raises(SystemExit):
        command_line.main(["--device", "simt", "softmax", "--peer", "onnxruntime"])
    assert "onnxruntime runs on the CPU only" in capsys.readouterr().err


@pytest.mark.skipif(not devices.why_unusable("cuda"), reason="there is a GPU")
def test_without_a_gpu_the_reason_is_given(capsys):
    with pytest.raises(SystemExit):
        command_line.main(["--device", "cuda", "softmax"])
    assert "device 'cuda' cannot be used: " in capsys.readouterr().err


# -- clocks -------------------------------------------------------------------------------------


class FakeCuda:
    """A GPU whose queue moves on when the host waits; seconds of work in the order queued."""

    def __init__(self, host):
        self.host = host
        self.queue: list[object] = []
        self.now = 0.0
        self.busy = 0.0

    def Event(self, enable_timing):
        assert enable_timing
        outer = self

        class Event:
            def record(self):
                outer.queue.append(self)

            def synchronize(self):
                outer.synchronize()

            def elapsed_time(self, other):
                return (other.at - self.at) * 1e3

        return Event()

    def _sleep(self, cycles):
        self.queue.append(cycles / 2e9)

    def work(self, seconds):
        self.queue.append(seconds)

    def synchronize(self):
        for each in self.queue:
            if isinstance(each, float):
                self.now += each
            else:
                each.at = self.now
        self.queue.clear()


def test_events_measure_the_device_and_not_the_host(monkeypatch):
    now = [0.0]
    monkeypatch.setattr(device.time, "perf_counter", lambda: now[0])
    cuda = FakeCuda(now)

    def run():
        now[0] += 0.001  # what queueing costs
        cuda.work(0.0002)

    clock = device.EventClock(SimpleNamespace(cuda=cuda))
    assert clock.seconds(run, 10) == pytest.approx(0.0002)
    side = harness.Side("fast", run, lambda result: [])
    (timing,) = harness.measure([side], harness.Protocol(blocks=2, block_seconds=1.0), clock)
    assert timing.calls == clock.most_calls == 200  # no more than the queue holds
    assert timing.median == pytest.approx(0.0002)


def test_the_clock_on_the_wall_waits_for_the_device(monkeypatch):
    now = [0.0]
    monkeypatch.setattr(device.time, "perf_counter", lambda: now[0])
    queued = []

    def synchronize():
        now[0] += sum(queued)
        queued.clear()

    clock = device.WaitingClock(synchronize)
    assert clock.seconds(lambda: queued.append(0.5), 4) == pytest.approx(0.5)


def test_work_on_a_gpu_is_done_on_one_stream(monkeypatch):
    """lamella's: so the events of one library see the work of both."""
    entered = []

    @contextmanager
    def stream(handle) -> Iterator[None]:
        entered.append(handle)
        yield

    cuda = SimpleNamespace(
        ExternalStream=lambda handle: ("stream", handle), stream=stream, synchronize=lambda: None
    )
    array = SimpleNamespace(__cuda_array_interface__={"stream": 77})
    module = SimpleNamespace(empty=lambda shape, dtype: array, synchronize=lambda: None)
    monkeypatch.setattr(devices, "module_of", lambda name: module)
    gpu = device._Cuda(SimpleNamespace(cuda=cuda))
    with gpu.at_work():
        assert entered == [("stream", 77)]
    model, op = SimpleNamespace(is_model=True), SimpleNamespace(is_model=False)
    assert isinstance(gpu.clock(model), device.WaitingClock)
    assert isinstance(gpu.clock(op), device.EventClock)
    assert not gpu.is_lost()
