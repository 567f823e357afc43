"""lamella.cuda.Array, on each device that there is."""

from __future__ import annotations

import gc
import re

import numpy as np
import pytest
from device_backend import STORED

from lamella import cuda, devices, ops
from lamella.errors import CudaError, OutOfMemoryError

NAMES = [
    pytest.param(name, marks=[pytest.mark.cuda] if name == "cuda" else [])
    for name in ("simt", "cuda")
    if not devices.why_unusable(name)
]


@pytest.fixture(params=NAMES)
def device(request):
    """The module of a device."""
    return devices.module_of(request.param)


@pytest.mark.parametrize("dtype", sorted(STORED))
def test_elements_come_back_as_they_went(device, dtype, rng):
    given = rng.integers(0, 2 if dtype == "bool" else 100, (3, 0, 5)).astype(dtype)
    for x in (given, rng.integers(0, 2, (4, 3)).astype(dtype), np.array(1, dtype)):
        array = device.asarray(x)
        assert (array.shape, array.ndim, array.size) == (x.shape, x.ndim, x.size)
        assert (array.dtype, array.nbytes) == (x.dtype, x.nbytes)
        back = array.numpy()
        assert back.dtype == x.dtype and back.tobytes() == x.tobytes()


def test_layouts_and_dtypes_that_arrays_have_not(device):
    x = np.arange(24.0, dtype=np.float32).reshape(4, 6)
    np.testing.assert_array_equal(device.asarray(x.T[::-1]).numpy(), x.T[::-1])
    for wrong in (x.astype(">f4"), x.astype(complex), np.array(["a"]), np.array([None])):
        with pytest.raises(TypeError, match="no elements of dtype"):
            device.asarray(wrong)
    for wrong in ([1.0], 1.0, np.float32(1), None):
        with pytest.raises(TypeError, match="asarray: the argument must be a NumPy array, got"):
            device.asarray(wrong)
    with pytest.raises(TypeError, match="no elements of dtype complex"):
        device.empty(3, "complex64")


KEYS = [
    np.s_[1], np.s_[-1], np.s_[1:], np.s_[1, 2], np.s_[:, 1], np.s_[..., 1], np.s_[::2, 1:, ::-1],
    np.s_[:, :, 2:1], np.s_[...], np.s_[1, ..., ::-2], np.s_[-2, 1:3], np.s_[0, 0, 0],
]  # fmt: skip


@pytest.mark.parametrize("key", KEYS, ids=str)
def test_parts_are_those_of_numpy(device, key, rng):
    x = rng.standard_normal((3, 4, 5)).astype(np.float32)
    array = device.asarray(x)
    np.testing.assert_array_equal(array[key].numpy(), x[key])
    value = rng.standard_normal(x[key].shape).astype(np.float32)
    x[key] = value
    array[key] = value
    np.testing.assert_array_equal(array.numpy(), x)
    array[key] = device.asarray(np.asarray(value * 2))
    x[key] = value * 2
    np.testing.assert_array_equal(array.numpy(), x)
    array[key] = 0.5
    x[key] = 0.5
    np.testing.assert_array_equal(array.numpy(), x)


def test_parts_in_one_piece_are_views(device):
    array = device.zeros((3, 4), "float32")
    array[1][2] = 7
    array.reshape(-1)[0:2] = np.float32([1, 2])
    array.reshape(2, 6)[1] = np.arange(6, dtype=np.float32)
    expected = [[1, 2, 0, 0], [0, 0, 0, 1], [2, 3, 4, 5]]
    np.testing.assert_array_equal(array.numpy(), expected)
    array[:2] = array[1:]
    array.reshape(-1)[2:] = array.reshape(-1)[:-2]
    np.testing.assert_array_equal(array.numpy(), [[0, 0, 0, 0], [0, 1, 2, 3], [4, 5, 2, 3]])
    array[2] = np.arange(2, 6, dtype=np.float32)
    view = array[2]
    del array
    gc.collect()
    np.testing.assert_array_equal(view.numpy(), [2, 3, 4, 5])


def test_keys_that_name_nothing(device):
    array = device.zeros((3, 4), "float32")
    for key in (3, -4, (0, 4), (0, 0, 0), (..., ...), None, 1.5, [0], "a", (slice(None), True)):
        with pytest.raises(IndexError):
            array[key]
    with pytest.raises(ValueError, match=r"value must have shape \(4,\), got \(3,\)"):
        array[0] = np.zeros(3, np.float32)
    with pytest.raises(TypeError, match="value must be float32, got float64"):
        array[0] = np.zeros(4)


def test_reshape_and_transpose(device, rng):
    x = rng.standard_normal((2, 3, 4)).astype(np.float32)
    array = device.asarray(x)
    for shape in ((6, 4), (-1,), (4, -1, 2), (24,)):
        np.testing.assert_array_equal(array.reshape(*shape).numpy(), x.reshape(shape))
        np.testing.assert_array_equal(array.reshape(shape).numpy(), x.reshape(shape))
    for axes in ((2, 0, 1), (0, 1, 2), (-1, 1, 0)):
        np.testing.assert_array_equal(array.transpose(*axes).numpy(), x.transpose(axes))
    for wrong in ((5, 5), (-1, -1), (-2, 12)):
        with pytest.raises(ValueError, match="cannot reshape"):
            array.reshape(*wrong)
    for axes in ((0, 1), (0, 0, 1), (0, 1, 3)):
        with pytest.raises(ValueError, match="transpose takes each axis"):
            array.transpose(*axes)


def test_float_types_are_converted_to_nearest(device, rng):
    x = np.float32([1 / 3, 65504, 1e-7, -2.5, np.inf, np.nan, 1 + 2**-9, 1 + 3 * 2**-9])
    half = device.asarray(x).astype("float16")
    with np.errstate(over="ignore"):
        np.testing.assert_array_equal(half.numpy(), x.astype(np.float16))
    np.testing.assert_array_equal(half.astype("float32").numpy(), x.astype(np.float16))
    brain = device.asarray(x).astype("bfloat16")
    assert brain.dtype == "bfloat16" and brain.nbytes == 16
    bits = x.view(np.uint32)
    rounded = ((bits + 0x7FFF + ((bits >> 16) & 1)) & 0xFFFF0000).view(np.float32)
    got = brain.astype("float32").numpy()
    np.testing.assert_array_equal(got[~np.isnan(x)], rounded[~np.isnan(x)])
    assert np.isnan(got[np.isnan(x)]).all()
    with pytest.raises(TypeError, match="NumPy has no bfloat16"):
        brain.numpy()
    with pytest.raises(TypeError, match="only float32, float16 and bfloat16"):
        device.zeros(3, "int32").astype("float32")


def test_numpy_does_not_convert_arrays_by_itself(device):
    array = device.zeros(3, "float32")
    with pytest.raises(TypeError, match="numpy\\(\\) copies it to the host"):
        np.asarray(array)
    with pytest.raises(TypeError):
        np.add(array, 1)
    with pytest.raises(TypeError):
        iter(array)
    assert float(device.asarray(np.float32([3]))) == 3
    with pytest.raises(ValueError, match="only an array of one element"):
        array.item()
    assert repr(array) == "lamella.cuda.Array(shape=(3,), dtype=float32)"


def test_dlpack_shares_memory(device):
    array = device.asarray(np.arange(6, dtype=np.float32).reshape(2, 3))
    for producer in (array, _Unversioned(array)):
        other = device.from_dlpack(producer)
        other[0] = np.float32([7, 8, 9])
        np.testing.assert_array_equal(array.numpy()[0], [7, 8, 9])
    del array, producer
    gc.collect()
    np.testing.assert_array_equal(other.numpy(), [[7, 8, 9], [3, 4, 5]])
    with pytest.raises(TypeError, match="has no __dlpack__"):
        device.from_dlpack([1.0])


class _Unversioned:
    """A producer from before DLPack 1.0."""

    def __init__(self, array):
        self._array = array

    def __dlpack__(self, stream=None):
        return self._array.__dlpack__(stream=stream)

    def __dlpack_device__(self):
        return self._array.__dlpack_device__()


# NumPy takes part in DLPack with memory of the host only, where the executor's arrays are.
@pytest.mark.skipif(bool(devices.why_unusable("simt")), reason="no executor in this build")
def test_dlpack_with_numpy_through_the_executor():
    device = devices.module_of("simt")
    x = np.arange(12, dtype=np.float32).reshape(3, 4)
    array = device.from_dlpack(x)
    np.testing.assert_array_equal(ops.relu(array).numpy(), x)
    shared = np.from_dlpack(array)
    x[1, 2] = 50
    assert shared[1, 2] == 50 and array[1].numpy()[2] == 50
    for wrong in (x.T, x[:, ::2]):
        with pytest.raises(ValueError, match="must be C-contiguous, got strides"):
            device.from_dlpack(wrong)
    x.setflags(write=False)
    frozen = device.from_dlpack(x)
    with pytest.raises(ValueError, match="read-only"):
        frozen[0] = 1
    with pytest.raises(ValueError, match="read-only"):
        ops.scale_(frozen, 2.0)


def test_memory_is_counted_and_runs_out(device):
    before = device.memory_stats()["bytes_in_use"]
    array = device.zeros(1000, "float32")
    assert device.memory_stats()["bytes_in_use"] >= before + 4000
    with pytest.raises(OutOfMemoryError, match="out of memory, could not allocate 400000000000000"):
        device.empty(10**14, "float32")
    with pytest.raises(ValueError, match="overflows 63 bits"):
        device.empty((2**40, 2**40), "float32")
    with pytest.raises(ValueError, match="at least 0"):
        device.empty((2, -1), "float32")
    np.testing.assert_array_equal(ops.relu(array).numpy(), 0)
    del array
    gc.collect()
    assert device.memory_stats()["bytes_in_use"] == before


def test_ops_refuse_arrays_of_the_host(device):
    x = np.ones((2, 3), np.float32)
    array = device.asarray(x)
    with pytest.raises(TypeError, match=r"dense: kernel must be a lamella.cuda.Array, got ndarray"):
        ops.dense(array, np.ones((3, 2), np.float32))
    with pytest.raises(TypeError, match="dense: kernel must be a NumPy array, got Array"):
        ops.dense(x, device.asarray(np.ones((3, 2), np.float32)))
    with pytest.raises(TypeError, match="relu: x must be float32, got an array of float16"):
        ops.relu(array.astype("float16"))


def test_the_module_cuda_says_what_there_is():
    why = cuda.why_unavailable()
    assert cuda.is_available() == (not why) == bool(cuda.devices())
    if why:
        for call in (
            cuda.synchronize,
            cuda.memory_stats,
            lambda: cuda.zeros(3),
            lambda: cuda.Array,
        ):
            with pytest.raises(CudaError, match=f"device 'cuda' cannot be used: {re.escape(why)}"):
                call()
    else:
        assert isinstance(cuda.zeros(3), cuda.Array)
    with pytest.raises(AttributeError, match="has no attribute 'array'"):
        cuda.array  # noqa: B018


def test_an_absent_device_says_why(monkeypatch):
    with pytest.raises(ValueError, match="a device is 'cpu' or 'cuda', got 'tpu'"):
        devices.module_of("tpu")
    why = devices.why_unusable("cuda")
    if why:
        with pytest.raises(CudaError, match="device 'cuda' cannot be used: "):
            devices.module_of("cuda")
    monkeypatch.setenv("LAMELLA_DEVICE", "gpu")
    with pytest.raises(ValueError, match="LAMELLA_DEVICE: a device is 'cpu' or 'cuda', got 'gpu'"):
        devices.default()
    monkeypatch.setenv("LAMELLA_DEVICE", "cpu")
    assert devices.default() == "cpu"
