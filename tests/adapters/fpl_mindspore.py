"""fpl.py and finch.py by the contract: NumPy in, MindSpore within, NumPy out."""

import fpl  # first: it sets what MindSpore reads while it is loaded

# isort: split
import mindspore as ms
import numpy as np
from mindspore import Tensor

from finch import finch  # noqa: F401  (as it is)

SETTINGS = {"level": "strict", "sums": "float64"}

class_prototypes = fpl.class_prototypes
cluster_prototypes = fpl.cluster_prototypes
unbiased_prototypes = fpl.unbiased_prototypes

# Compiled, as in training, and once for each shape: 2 ms a call, not 100 ms as one by one.
cpcl_and_gradient = ms.jit(ms.value_and_grad(fpl.cpcl_loss, 0))
upcr_and_gradient = ms.jit(ms.value_and_grad(fpl.upcr_loss, 0))


def cpcl(z, labels, clusters, mask, tau):
    given = Tensor(z), Tensor(labels), Tensor(clusters), Tensor(mask), Tensor(tau, ms.float32)
    value, gradient = cpcl_and_gradient(*given)
    return float(value.asnumpy()), gradient.asnumpy()


def upcr(z, labels, unbiased, known, reduce):
    given = Tensor(z), Tensor(labels), Tensor(unbiased), Tensor(known), reduce
    value, gradient = upcr_and_gradient(*given)
    return float(value.asnumpy()), gradient.asnumpy()


def weighted_mean(trees, weights):
    """fpl averages vectors of weights and of statistics; the first array stands for the latter."""
    first, *others = trees[0]
    updates = [
        fpl.ClientUpdate(
            fpl.joined([tree[name] for name in others]),
            fpl.joined([tree[first]]),
            np.zeros((1, 1), np.float32),
            np.ones(1, int),
            0.0,
        )
        for tree in trees
    ]
    params, stats, _ = fpl.weighted_mean(iter(updates), list(range(len(trees))), weights)
    shapes = [(name, trees[0][name].shape) for name in others]
    views = {name: view.asnumpy() for name, view in fpl.views(params, shapes).items()}
    return {first: stats.asnumpy().reshape(trees[0][first].shape), **views}


SHAPES = fpl.param_shapes(1, 10)
NAME, SHAPE = SHAPES[0]  # 27 numbers: the step moves all weights, the first array is enough here
ALL_WEIGHTS = sum(int(np.prod(shape)) for _, shape in SHAPES)
STATISTICS = 90  # of a network of width 1


def slope(p, x, labels, gradient):
    """A loss whose gradient is given; its z and its statistics are of no interest."""
    return (p[NAME] * gradient).sum(), x, fpl.ops.zeros(STATISTICS, ms.float32)


def sgd_step(param, velocity, grad, lr, momentum, weight_decay):
    """By the step of fpl, which moves all weights of a network: those given are its first."""

    def padded(array, size):
        return np.append(array.ravel(), np.zeros(size - array.size)).astype(np.float32)

    weights, velocities = (Tensor(padded(array, ALL_WEIGHTS)) for array in (param, velocity))
    gradient = padded(grad, int(np.prod(SHAPE))).reshape(SHAPE)
    numbers = fpl.tensors(lr, momentum, weight_decay, gradient)
    x, labels = Tensor(np.zeros((1, 3, 32, 32), np.float32)), Tensor([0], ms.int32)
    stats = Tensor(np.zeros(STATISTICS, np.float32))
    step = fpl.sgd_step(slope, 1, 10)
    moved = step(weights, velocities, stats, x, labels, *numbers)[:2]
    return [vector.asnumpy()[: param.size].reshape(param.shape) for vector in moved]


def batch_norm(x, weight, bias, eps):
    """By the layer of fpl, whose convolution lets x through and whose variance is the unbiased."""
    assert eps == fpl.BN_EPS
    through = np.eye(x.shape[1], dtype=np.float32)[:, :, None, None]
    p = {"a.conv": Tensor(through), "a.bn.weight": Tensor(weight), "a.bn.bias": Tensor(bias)}
    y, (mean, variance) = fpl.conv_bn(Tensor(x), p, None, "a", 1)
    n = x.size / x.shape[1]
    return y.asnumpy(), mean.asnumpy(), variance.asnumpy() * ((n - 1) / n)
