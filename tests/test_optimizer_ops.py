"""The optimizer kernels: steps in place, norms, clipping, what they refuse."""

from __future__ import annotations

import itertools

import awkward_arrays
import hypothesis
import numpy as np
import pytest
from hypothesis import strategies as st
from reference import optimizers as reference
from tolerances import assert_close

from lamella import ops, utils

# (kernel, reference, names of the slots, options); every slot and every option crossed.
CASES = [
    *(
        ("sgd_", "sgd", slots, {"momentum": momentum, "nesterov": nesterov, "weight_decay": decay})
        for slots, momentum in ((("velocity",), 0.9), (("velocity",), 0.0), ((), 0.0))
        for nesterov in (False, True)
        for decay in (0.0, 0.05)
    ),
    *(
        (
            "rmsprop_",
            "rmsprop",
            ("square", *mean, *slot),
            {"rho": rho, "momentum": momentum, "epsilon": epsilon, "weight_decay": decay},
        )
        for mean in ((), ("mean",))
        for slot, momentum in (((), 0.0), (("momentum_slot",), 0.0), (("momentum_slot",), 0.8))
        for rho, epsilon in ((0.9, 1e-7), (0.5, 1e-3), (0.0, 0.1))
        for decay in (0.0, 0.05)
        # The variance of one gradient is 0, whatever the rounding: epsilon decides the step.
        if not (mean and rho == 0.0)
    ),
    *(
        (
            "adam_",
            "adam",
            ("m", "v", *vhat),
            {"beta_1": b1, "beta_2": b2, "epsilon": epsilon, "weight_decay": decay, "step": step},
        )
        for vhat in ((), ("vhat",))
        for b1, b2, epsilon in ((0.9, 0.999, 1e-7), (0.0, 0.5, 1e-3), (0.5, 0.0, 1e-8))
        for decay in (0.0, 0.05)
        for step in (1, 2, 1000, 2**40)
    ),
]
SLOTS = {
    "sgd_": ("velocity",),
    "rmsprop_": ("square", "mean", "momentum_slot"),
    "adam_": ("m", "v", "vhat"),
}
OPTIONS = {
    "sgd_": {"learning_rate": 0.1, "momentum": 0.9},
    "rmsprop_": {"learning_rate": 0.1, "momentum": 0.9},
    "adam_": {
        "step": 3,
        "learning_rate": 0.1,
        "beta_1": 0.9,
        "beta_2": 0.999,
        "epsilon": 1e-7,
    },
}
STEPS = sorted(SLOTS)

each_step = pytest.mark.parametrize("name", STEPS)


def make_arrays(name, used, size, rng):
    """param, grad and every slot of the kernel, None where it is not in `used`."""
    arrays = [rng.standard_normal((2, size)).astype(np.float32) * 0.1]
    param, grad = arrays[0]
    slots = []
    for slot in SLOTS[name]:
        if slot not in used:
            slots.append(None)
        elif slot in ("square", "v", "vhat"):
            # Not below the squared mean, as a mean square is.
            slots.append(rng.uniform(0.1, 1.0, size).astype(np.float32))
        else:
            slots.append(rng.uniform(-0.3, 0.3, size).astype(np.float32))
    return [param.copy(), grad.copy(), *slots]


def run(name, arrays, options):
    """The kernel's results, with the arrays left as they are."""
    copies = [None if array is None else array.copy() for array in arrays]
    assert getattr(ops, name)(*copies, **options) is None
    np.testing.assert_array_equal(copies[1], arrays[1])
    return [copies[0], *copies[2:]]


def check(name, expected_by, arrays, options):
    results = run(name, arrays, options)
    expected = getattr(reference, expected_by)(*arrays, **options)
    olds = [arrays[0], *arrays[2:]]
    for result, right, old in zip(results, expected, olds, strict=True):
        if right is None:
            assert result is None
        else:
            # old and step, which may cancel.
            scale = max(np.max(np.abs(right), initial=0.0), np.max(np.abs(old), initial=0.0))
            assert_close(result, right, name, "forward", scale=scale)


@pytest.mark.parametrize(("name", "expected_by", "used", "options"), CASES, ids=str)
def test_one_step(name, expected_by, used, options, backend, rng):
    arrays = make_arrays(name, used, 1003, rng)
    check(name, expected_by, arrays, {"learning_rate": 0.01, **options})


@each_step
@pytest.mark.parametrize("size", [0, 1, 3, 16, 17, 40001])
def test_sizes(name, size, backend, rng):
    check(name, name[:-1], make_arrays(name, SLOTS[name], size, rng), OPTIONS[name])


@each_step
@hypothesis.settings(
    max_examples=30,
    deadline=None,
    suppress_health_check=[hypothesis.HealthCheck.function_scoped_fixture],
)
@hypothesis.given(data=st.data())
def test_any_options(name, backend, data):
    share = st.floats(0, 0.999)
    options = {
        "learning_rate": data.draw(st.floats(1e-6, 10)),
        "weight_decay": data.draw(st.floats(0, 0.05)),
    }
    if name == "sgd_":
        options |= {"momentum": data.draw(share), "nesterov": data.draw(st.booleans())}
    else:
        options["epsilon"] = data.draw(st.floats(1e-8, 1))
    if name == "rmsprop_":
        options |= {"rho": data.draw(st.floats(0.5, 0.999)), "momentum": data.draw(share)}
    if name == "adam_":
        options |= {"beta_1": data.draw(share), "beta_2": data.draw(share)}
        options["step"] = data.draw(st.integers(1, 2**62))
    size = data.draw(st.integers(0, 70))
    arrays = make_arrays(name, SLOTS[name], size, np.random.default_rng(size))
    if name == "rmsprop_":
        arrays[2] += 1.0  # far from cancelling
    check(name, name[:-1], arrays, options)


@each_step
def test_many_steps_from_zero(name, backend, rng):
    size, options = 501, dict(OPTIONS[name])
    param = (rng.standard_normal(size) * 0.1).astype(np.float32)
    slots = [np.zeros(size, np.float32) for _ in SLOTS[name]]
    right = [param.astype(np.float64), *(slot.astype(np.float64) for slot in slots)]
    options |= {"learning_rate": 1e-3, "weight_decay": 0.01}
    for step in range(1, 31):
        grad = rng.standard_normal(size).astype(np.float32)
        if name == "adam_":
            options["step"] = step
        getattr(ops, name)(param, grad, *slots, **options)
        right = getattr(reference, name[:-1])(right[0], grad, *right[1:], **options)
    for result, expected in zip((param, *slots), right, strict=True):
        np.testing.assert_allclose(result, expected, rtol=2e-5, atol=2e-6)


@pytest.mark.parametrize("name", ["sgd_", "adam_"])
def test_parity_with_torch(name, backend, rng):
    torch = pytest.importorskip("torch")
    param = rng.standard_normal(333).astype(np.float32)
    leaf = torch.from_numpy(param.copy()).double().requires_grad_()
    slots = [np.zeros_like(param) for _ in SLOTS[name]]
    if name == "sgd_":
        # PyTorch multiplies by the learning rate after the momentum; the same at a constant rate.
        theirs = torch.optim.SGD([leaf], lr=0.05, momentum=0.9, nesterov=True)
        options = {"learning_rate": 0.05, "momentum": 0.9, "nesterov": True}
    else:
        # Adam's epsilon is another one in PyTorch: under the corrected root. Near 0 it acts alike.
        theirs = torch.optim.AdamW([leaf], lr=0.01, weight_decay=0.1, eps=1e-12)
        slots[2] = None
        options = {"learning_rate": 0.01, "beta_1": 0.9, "beta_2": 0.999, "epsilon": 1e-12}
        options["weight_decay"] = 0.1
    for step in range(1, 11):
        grad = rng.standard_normal(333).astype(np.float32)
        leaf.grad = torch.from_numpy(grad).double()
        theirs.step()
        counted = {"step": step} if name == "adam_" else {}
        getattr(ops, name)(param, grad, *slots, **options, **counted)
    np.testing.assert_allclose(param, leaf.detach().numpy(), rtol=1e-5, atol=1e-6)


def test_centered_variance_below_zero_by_rounding_gives_no_nan(backend):
    # A steady large gradient: s and a^2 agree but for their rounding, which is far above epsilon.
    param = np.zeros(64, np.float32)
    grad = np.linspace(100, 5000, 64, dtype=np.float32)
    square, mean = np.zeros((2, 64), np.float32)
    for _ in range(200):
        ops.rmsprop_(param, grad, square, mean, None, learning_rate=1e-6)
    assert np.isfinite(param).all()


@each_step
def test_padding_stays_zero_and_nan_stays_in_its_place(name, backend, rng):
    arrays = make_arrays(name, SLOTS[name], 48, rng)
    for array in arrays:
        array[10:20] = 0.0
    arrays[1][30] = np.nan
    arrays[1][31] = np.inf
    clean = [array.copy() for array in arrays]
    clean[1][30:32] = 1.0
    results, right = run(name, arrays, OPTIONS[name]), run(name, clean, OPTIONS[name])
    for result, expected in zip(results, right, strict=True):
        assert not np.any(result[10:20])
        np.testing.assert_array_equal(np.delete(result, [30, 31]), np.delete(expected, [30, 31]))
    assert np.isnan(results[0][30])


@each_step
def test_same_bits_for_any_number_of_threads(name, backend, rng):
    arrays = make_arrays(name, SLOTS[name], 70001, rng)
    results = []
    for threads in (1, 2, 5):
        utils.set_num_threads(threads)
        results.append([part.tobytes() for part in run(name, arrays, OPTIONS[name])])
    assert results[0] == results[1] == results[2]


@each_step
@pytest.mark.parametrize("index", range(5))
def test_arrays_that_do_not_fit_are_refused_and_nothing_is_changed(name, index, rng):
    if index >= 2 + len(SLOTS[name]):
        pytest.skip("fewer arrays")
    label = ("param", "grad", *SLOTS[name])[index]
    arrays = make_arrays(name, SLOTS[name], 6, rng)
    before = [array.copy() for array in arrays]

    def refused(wrong, error, match):
        given = [*arrays[:index], wrong, *arrays[index + 1 :]]
        with pytest.raises(error, match=match):
            getattr(ops, name)(*given, **OPTIONS[name])
        for array, kept in zip(arrays, before, strict=True):
            np.testing.assert_array_equal(array, kept)

    for kind, wrong in awkward_arrays.NOT_FLOAT32_ARRAYS.items():
        if kind != "None" or label in ("param", "grad", "square", "m", "v"):
            refused(wrong, TypeError, f"^{name}: {label} must be")
    for kind, wrong in awkward_arrays.NOT_WRITABLE_IN_PLACE.items():
        if label != "grad":
            refused(wrong, ValueError, f"^{name}: {label} is written in place")
        elif kind != "read-only":
            refused(wrong, ValueError, f"^{name}: grad must be C-contiguous and aligned")
    for shape in ((2, 3), (1, 6), ()):
        refused(np.ones(shape, np.float32), ValueError, f"^{name}: {label} must be flat")
    sized = "grad" if label == "param" else label
    for size in (0, 1, 5, 7):
        match = rf"^{name}: {sized} must have shape \("
        refused(np.ones(size, np.float32), ValueError, match)
    for other in range(len(arrays)):
        if other != index:
            refused(arrays[other], ValueError, f"^{name}: .* is written and must not overlap")
    if label != "grad":
        # One float shared at an end.
        memory = np.zeros(11, np.float32)
        given = list(arrays)
        given[index], given[1] = memory[:6], memory[5:]
        with pytest.raises(ValueError, match="must not overlap"):
            getattr(ops, name)(*given, **OPTIONS[name])
        assert not np.any(memory)


@each_step
def test_neighbours_in_one_buffer_are_accepted(name, rng):
    arrays = make_arrays(name, SLOTS[name], 6, rng)
    right = run(name, arrays, OPTIONS[name])
    memory = np.concatenate(arrays)
    views = [memory[6 * i : 6 * i + 6] for i in range(len(arrays))]
    views[1].flags.writeable = False
    getattr(ops, name)(*views, **OPTIONS[name])
    for view, expected in zip([views[0], *views[2:]], right, strict=True):
        np.testing.assert_array_equal(view, expected)


SHARE = (-0.1, 1.1, np.nan, np.inf, "0.9", None, True, [0.9])
BELOW_ONE = (*SHARE, 1, 1.0)
NOT_NEGATIVE = (-1e-9, np.nan, np.inf, 1e39, "1", None, False)
POSITIVE = (*NOT_NEGATIVE, 0, 0.0, 1e-60)
BAD_OPTIONS = {
    ("sgd_", "learning_rate"): NOT_NEGATIVE,
    ("sgd_", "momentum"): SHARE,
    ("sgd_", "nesterov"): (1, 0, None, "yes"),
    ("sgd_", "weight_decay"): (*NOT_NEGATIVE, 1e38 * 100),
    ("rmsprop_", "learning_rate"): NOT_NEGATIVE,
    ("rmsprop_", "rho"): BELOW_ONE,
    ("rmsprop_", "momentum"): SHARE,
    ("rmsprop_", "epsilon"): POSITIVE,
    ("rmsprop_", "weight_decay"): NOT_NEGATIVE,
    ("adam_", "step"): (0, -1, 1.0, 2**63, None, True),
    ("adam_", "learning_rate"): NOT_NEGATIVE,
    ("adam_", "beta_1"): BELOW_ONE,
    ("adam_", "beta_2"): BELOW_ONE,
    ("adam_", "epsilon"): POSITIVE,
    ("adam_", "weight_decay"): NOT_NEGATIVE,
}


@pytest.mark.parametrize(("name", "option"), BAD_OPTIONS, ids=str)
def test_bad_options(name, option, rng):
    arrays = make_arrays(name, SLOTS[name], 6, rng)
    before = [array.copy() for array in arrays]
    for value in BAD_OPTIONS[name, option]:
        with pytest.raises(ValueError, match=f"^{name}: {option} (must|does not)"):
            getattr(ops, name)(*arrays, **{**OPTIONS[name], option: value})
    for array, kept in zip(arrays, before, strict=True):
        np.testing.assert_array_equal(array, kept)


def test_products_of_options_that_leave_float32(rng):
    arrays = make_arrays("adam_", SLOTS["adam_"], 6, rng)
    options = {**OPTIONS["adam_"], "learning_rate": 3e38}
    with pytest.raises(ValueError, match=r"adam_: learning_rate \* weight_decay must fit float32"):
        ops.adam_(*arrays, **{**options, "weight_decay": 10.0})
    with pytest.raises(ValueError, match="adam_: learning_rate must keep the step's factor finite"):
        ops.adam_(*arrays, **{**options, "step": 1, "beta_1": 0.999, "beta_2": 0.0})


@pytest.mark.parametrize(("name", "slot"), [("sgd_", "velocity"), ("rmsprop_", "momentum_slot")])
def test_momentum_needs_its_slot(name, slot, rng):
    arrays = make_arrays(name, ("square",), 6, rng)
    before = arrays[0].copy()
    with pytest.raises(ValueError, match=f"{name}: momentum needs {slot}, got None"):
        getattr(ops, name)(*arrays, **OPTIONS[name])
    np.testing.assert_array_equal(arrays[0], before)


@pytest.mark.parametrize("shape", [(), (0,), (1,), (3, 5), (16384,), (16385,), (100003,)], ids=str)
def test_squared_norm(shape, backend, rng):
    x = np.asarray(rng.standard_normal(shape) * 1e3, np.float32)
    result = ops.squared_norm(x)
    assert type(result) is float
    assert_close(result, reference.squared_norm(x), "squared_norm", "forward", max(1, x.size))


def test_squared_norm_is_the_same_everywhere(rng):
    from lamella import _cpu

    x = rng.standard_normal(200003).astype(np.float32)
    before, results = _cpu.cpu_isa(), set()
    for isa, threads in itertools.product(_cpu.supported_cpu_isas(), (1, 2, 5)):
        _cpu.set_cpu_isa(isa)
        utils.set_num_threads(threads)
        results.add(ops.squared_norm(x))
    _cpu.set_cpu_isa(before)
    assert len(results) == 1


def test_squared_norm_of_extremes(backend):
    big = np.full(1000, 3e38, np.float32)
    np.testing.assert_allclose(ops.squared_norm(big), 1000 * float(big[0]) ** 2, rtol=1e-15)
    small = np.full(1000, 1e-45, np.float32)
    np.testing.assert_allclose(ops.squared_norm(small), 1000 * float(small[0]) ** 2, rtol=1e-15)
    assert np.isnan(ops.squared_norm(np.float32([1, np.nan])))
    assert ops.squared_norm(np.float32([1, -np.inf])) == np.inf


@pytest.mark.parametrize("shape", [(), (0,), (7,), (3, 5), (40001,)], ids=str)
def test_scale_and_clip(shape, backend, rng):
    x = np.asarray(rng.standard_normal(shape) * 2, np.float32)
    for factor in (0.3, -2, 0.0, 1e-30):
        scaled = x.copy()
        assert ops.scale_(scaled, factor) is None
        assert_close(scaled, reference.scale(x, factor), "scale_", "forward")
    for low, high in ((-1, 1), (-0.3, 5.0), (0.1, 0.1)):
        clipped = x.copy()
        assert ops.clip_(clipped, low, high) is None
        assert_close(clipped, reference.clip(x, low, high), "clip_", "forward")


def test_clip_and_scale_of_nan_and_infinity(backend):
    x = np.float32([np.nan, np.inf, -np.inf, 0.5] * 9)
    clipped = x.copy()
    ops.clip_(clipped, -1, 1)
    np.testing.assert_array_equal(clipped, np.clip(x, -1, 1))
    ops.scale_(x, 2.0)
    np.testing.assert_array_equal(x, np.float32([np.nan, np.inf, -np.inf, 1.0] * 9))


def test_same_bits_of_scale_for_any_number_of_threads(rng):
    x = rng.standard_normal(70001).astype(np.float32)
    results = set()
    for threads in (1, 2, 5):
        utils.set_num_threads(threads)
        scaled = x.copy()
        ops.scale_(scaled, 1 / 3)
        ops.clip_(scaled, -0.2, 0.2)
        results.add(scaled.tobytes())
    assert len(results) == 1


@pytest.mark.parametrize("kind", awkward_arrays.NOT_FLOAT32_ARRAYS)
def test_only_float32_arrays(kind):
    wrong = awkward_arrays.NOT_FLOAT32_ARRAYS[kind]
    for name, options in (("squared_norm", ()), ("scale_", (2.0,)), ("clip_", (0.0, 1.0))):
        with pytest.raises(TypeError, match=f"^{name}: x must be"):
            getattr(ops, name)(wrong, *options)


@pytest.mark.parametrize("kind", awkward_arrays.NOT_WRITABLE_IN_PLACE)
def test_scale_and_clip_need_memory_they_can_write(kind):
    x = awkward_arrays.NOT_WRITABLE_IN_PLACE[kind]
    before = x.copy()
    with pytest.raises(ValueError, match=r"^scale_: x is written in place"):
        ops.scale_(x, 2.0)
    with pytest.raises(ValueError, match=r"^clip_: x is written in place"):
        ops.clip_(x, 0.0, 0.5)
    np.testing.assert_array_equal(x, before)
    assert ops.squared_norm(x) == 6.0


def test_bad_numbers_for_scale_and_clip():
    x = np.ones(3, np.float32)
    for wrong in (np.nan, np.inf, 1e39, "1", None, True):
        with pytest.raises(ValueError, match="scale_: factor must"):
            ops.scale_(x, wrong)
        with pytest.raises(ValueError, match="clip_: low must"):
            ops.clip_(x, wrong, 1.0)
        with pytest.raises(ValueError, match="clip_: high must"):
            ops.clip_(x, 0.0, wrong)
    with pytest.raises(ValueError, match="clip_: low must not exceed high, got 1 and 0"):
        ops.clip_(x, 1.0, 0.0)
    np.testing.assert_array_equal(x, np.ones(3))
