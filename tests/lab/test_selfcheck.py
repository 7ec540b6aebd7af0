"""The self-check: its NumPy network, what it lets pass, and the faults that it names."""

import fpl  # first: it sets what MindSpore reads while it is loaded

# isort: split
import mindspore as ms
import numpy as np
import pytest
from mindspore import ops

import oracle_np as oracle
from lab.device import check_device, numpy_network, selfcheck, target
from lab.shell.errors import InputError


@pytest.fixture(scope="module")
def case():
    return selfcheck.drawn()


@pytest.fixture(scope="module")
def found(case):
    """What the CPU answers."""
    return selfcheck.answers(case)


@pytest.fixture(scope="module")
def right(case):
    return selfcheck.expected(case)


def wrong_ones(found, right):
    return {check.name for check in selfcheck.checks(found, right) if not check.right}


# ---------------------------------------------------------------- the network in NumPy


def test_the_gradient_by_hand_is_a_difference_quotient(case):
    """Two entries of each array of weights, in float64: h^2 f''' and 2^-53 f / h are below 1e-7."""
    p = selfcheck.named(case.state.params.asnumpy(), fpl.param_shapes(2, 3), np.float64)
    x = fpl.network_input(case.client.images).asnumpy().astype(np.float64)
    ragged, rng = selfcheck.ragged_prototypes(case), np.random.default_rng(1)
    made = numpy_network.step(p, x, case.client.labels, ragged, 0.3)
    for name, values in p.items():
        for entry in rng.choice(values.size, min(2, values.size), replace=False):
            where = np.unravel_index(entry, values.shape)

            def loss(value, name=name, values=values, where=where):
                moved = values.copy()
                moved[where] = value[0]
                return numpy_network.step(
                    p | {name: moved}, x, case.client.labels, ragged, 0.3
                ).loss

            slope = oracle.finite_difference(loss, [values[where]], 1e-5)[0]
            assert made.gradient[name][where] == pytest.approx(slope, rel=1e-6, abs=1e-7), name


def test_a_turn_by_numpy_is_the_oracles_sgd(case):
    """Of two batches, for one array of weights."""
    p = selfcheck.named(case.state.params.asnumpy(), fpl.param_shapes(2, 3), np.float64)
    s = selfcheck.named(case.state.stats.asnumpy(), fpl.stat_shapes(2), np.float64)
    x = fpl.network_input(case.client.images).asnumpy().astype(np.float64)
    batches = [(x[:4], case.client.labels[:4]), (x[4:], case.client.labels[4:])]
    ragged, numbers = selfcheck.ragged_prototypes(case), (0.1, 0.9, 0.01)
    trained, running = numpy_network.turn(p, s, batches, ragged, 0.3, numbers)
    halfway, _ = numpy_network.turn(p, s, batches[:1], ragged, 0.3, numbers)
    velocity = np.zeros(p["stem.conv"].shape)
    for weights, batch in (p, batches[0]), (halfway, batches[1]):
        made = numpy_network.step(weights, *batch, ragged, 0.3)
        moved, velocity = oracle.sgd_step(
            weights["stem.conv"], velocity, made.gradient["stem.conv"], *numbers
        )
    np.testing.assert_allclose(trained["stem.conv"], moved, rtol=1e-12)
    name = "stem.bn.variance"
    first, second = (
        numpy_network.step(weights, *batch, ragged, 0.3).stats[name]
        for weights, batch in ((p, batches[0]), (halfway, batches[1]))
    )
    want = 0.9 * (0.9 * s[name] + 0.1 * first) + 0.1 * second
    np.testing.assert_allclose(running[name], want, rtol=1e-12)


# ---------------------------------------------------------------- what passes


@pytest.mark.slow
def test_the_cpu_computes_right(found, right):
    assert wrong_ones(found, right) == set()
    assert set(found) - {"after a NaN"} == set(right)


def test_the_room_is_too_small_for_eleven_bits(right):
    """Nothing that is compared is zero, and TF32's rounding of its largest entry is beyond it."""
    for name, (want, room) in right.items():
        assert np.abs(want).max() > 1e-3, name
        assert room < 2**-11 * np.abs(want).max(), name


def test_elsewhere_the_variance_is_taken_from_the_images(case, monkeypatch):
    """The statistics of a batch, by the kernel's outputs and without them."""
    p = fpl.views(case.state.params, fpl.param_shapes(2, 3))
    x = fpl.network_input(case.client.images)
    by_kernel = fpl.network(p, None, x)[2].asnumpy()

    def elsewhere(name):
        return "GPU"

    def inverse(*arguments):
        y, a, b, mean, variance = kernel(*arguments)
        return y, a, b, mean, 1 / ops.sqrt(variance + fpl.BN_EPS)

    kernel = fpl.bn_train
    monkeypatch.setattr(fpl, "bn_train", inverse)
    assert np.abs(fpl.network(p, None, x)[2].asnumpy() - by_kernel).max() > 0.1
    monkeypatch.setattr(fpl, "setting_of_mindspore", elsewhere)
    room = selfcheck.expected(case)[VARIANCE][1]
    np.testing.assert_allclose(fpl.network(p, None, x)[2].asnumpy(), by_kernel, atol=10 * room)


# ---------------------------------------------------------------- what is refused

VARIANCE = "batch norm's running variance in a step"


def rounded(values, bits):
    """To so many bits of mantissa."""
    mantissa, exponent = np.frexp(values)
    return np.ldexp(np.round(mantissa * 2.0**bits) / 2.0**bits, exponent).astype(np.float32)


def inverse_deviation(case, found):
    old = selfcheck.of_statistics("in a step", case.state.stats.asnumpy())[VARIANCE]
    batch = (found[VARIANCE] - 0.9 * old) / 0.1
    return {VARIANCE: 0.9 * old + 0.1 / np.sqrt(batch + fpl.BN_EPS)}


def unmoved_statistics(case, found):
    return selfcheck.of_statistics("in a step", case.state.stats.asnumpy())


def float16_products(case, found):
    names = "features in training", "logits in evaluation", "a client's weights"
    return {name: found[name].astype(np.float16).astype(np.float32) for name in names}


def tf32_products(case, found):
    return {"the gradient": rounded(found["the gradient"], 11)}


def momentum_left_out(case, found):
    velocity = found["SGD's velocity"] - np.float32(0.9) * case.velocity
    moved = case.state.params.asnumpy() - np.float32(0.05) * velocity
    return {"SGD's velocity": velocity, "SGD's weights": moved}


def decay_left_out(case, found):
    return {"SGD's velocity": found["SGD's velocity"] - 0.01 * case.state.params.asnumpy()}


def a_relu_that_keeps_nan(case, found):
    return {"the ReLU of a NaN, -1 and 2": np.float32([np.nan, 0, 2])}


def a_class_mean_of_nan(case, found):
    means = found["a client's class means"].copy()
    means[0, 0] = np.nan
    return {"a client's class means": means}


def upcr_as_a_sum(case, found):
    return {"UPCR": 16 * found["UPCR"], "UPCR's gradient": 16 * found["UPCR's gradient"]}


@pytest.mark.slow
@pytest.mark.parametrize(
    "fault",
    [
        inverse_deviation, unmoved_statistics, float16_products, tf32_products, momentum_left_out,
        decay_left_out, a_relu_that_keeps_nan, a_class_mean_of_nan, upcr_as_a_sum,
    ],
)  # fmt: skip
def test_a_fault_is_named_and_nothing_else(case, found, right, fault):
    changed = fault(case, found)
    assert wrong_ones({**found, **changed}, right) == set(changed)


@pytest.mark.slow
def test_a_nan_that_is_hidden_is_named(found, right):
    hidden = {"after a NaN": np.nan_to_num(found["after a NaN"])}
    assert wrong_ones({**found, **hidden}, right) == {
        "a NaN in an image reaches what is sent (0: yes)"
    }


def test_a_refusal_says_what_is_off_and_how_much(monkeypatch):
    checks = [selfcheck.Check("the loss", 0.25, 1e-6), selfcheck.Check("UPCR", 0.0, 1e-6)]
    monkeypatch.setattr(selfcheck, "run", lambda device: checks)
    with pytest.raises(InputError) as caught:
        selfcheck.demand("GPU")
    assert str(caught.value) == (
        "--device is GPU, which computes wrong here; off are the loss by 0.25 (at most 1e-06); "
        "nothing was trained: leave the flag away"
    )
    monkeypatch.setattr(selfcheck, "run", lambda device: checks[1:])
    selfcheck.demand("GPU")


@pytest.mark.parametrize("device, asked", [("CPU", []), ("Ascend", ["Ascend"]), ("GPU", ["GPU"])])
def test_any_device_but_the_cpu_is_checked_first(monkeypatch, capsys, device, asked):
    devices, demanded = [], []
    monkeypatch.setattr(ms, "set_device", devices.append)
    monkeypatch.setattr(selfcheck, "demand", demanded.append)
    monkeypatch.setattr(target.cuda, "ready", lambda: None)
    target.use_device(device)
    assert devices == demanded == asked
    assert capsys.readouterr().out.startswith(f"device {device}: ") == bool(asked)


def test_check_device_shows_each_and_counts(monkeypatch, capsys):
    checks = [selfcheck.Check("the loss", 0.25, 1e-6), selfcheck.Check("UPCR", 0.0, 1e-6)]
    monkeypatch.setattr(selfcheck, "run", lambda device: checks)
    assert check_device.main([]) == 1
    lines = capsys.readouterr().out.splitlines()
    assert lines[1].split() == ["the", "loss", "0.25", "1e-06", "WRONG"]
    assert lines[2].split() == ["UPCR", "0", "1e-06", "right"] and lines[-1] == "CPU: 1 of 2 right"
    monkeypatch.setattr(selfcheck, "run", lambda device: checks[1:])
    assert check_device.main(["--device", "CPU"]) == 0
    assert check_device.main(["--device", "TPU"]) == 2
    assert "invalid choice: 'TPU'" in capsys.readouterr().err


# ---------------------------------------------------------------- faults in the kernels


@pytest.fixture
def compiled_anew():
    """Of what a test compiles nothing stays, and nothing of before is taken."""
    fpl.sgd_step.cache_clear()
    yield
    fpl.sgd_step.cache_clear()


@pytest.mark.slow
@pytest.mark.usefixtures("compiled_anew")
@pytest.mark.parametrize("fault", ["inverse deviation", "ReLU", "float16"])
def test_a_faulty_kernel_is_refused(monkeypatch, fault):
    batch_norm, convolution = fpl.bn_train, ops.conv2d

    def inverse(x, weight, bias, scratch, unused):
        y, a, b, mean, variance = batch_norm(x, weight, bias, scratch, unused)
        return y, a, b, mean, 1 / ops.sqrt(variance + 1e-5)

    def keeping(x):
        return ops.where(x < 0, 0.0, x)

    def halves(x, kernel, **how):
        x, kernel = (part.astype(ms.float16).astype(ms.float32) for part in (x, kernel))
        return convolution(x, kernel, **how)

    if fault == "inverse deviation":
        monkeypatch.setattr(fpl, "bn_train", inverse)
    elif fault == "ReLU":
        monkeypatch.setattr(ops, "relu", keeping)
    else:
        monkeypatch.setattr(ops, "conv2d", halves)
    named = {
        "inverse deviation": "running variance in a step by",
        "ReLU": "the ReLU of a NaN, -1 and 2 by nan",
        "float16": "the gradient by",
    }
    with pytest.raises(InputError, match=named[fault]):
        selfcheck.demand("GPU")
