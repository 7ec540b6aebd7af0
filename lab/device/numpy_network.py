"""The network of fpl.py and a step of its training in NumPy, in the type of what they are given.

The gradient is worked out by hand, layer by layer. In float64 it says what is right; in float32 it
shows what rounding alone does to the same numbers. Sizes are tiny, so no loop here is too slow.
p and s are weights and running statistics by name, as `fpl.views` gives them.
"""

from typing import NamedTuple

import numpy as np

import fpl
import oracle_np as oracle


class Step(NamedTuple):
    """What a step of training gives before anything moves."""

    loss: float
    z: np.ndarray  # [B,d]
    gradient: dict  # of the loss, by the names of the weights
    stats: dict  # batch norm's mean and unbiased variance of this batch, by name


def windows(x, size, stride):
    """What each output of a convolution sees, with zeros around. -> [B,c,h',w',size,size]"""
    border = size // 2
    padded = np.pad(x, ((0, 0), (0, 0), (border, border), (border, border)))
    seen = np.lib.stride_tricks.sliding_window_view(padded, (size, size), axis=(2, 3))
    return seen[:, :, ::stride, ::stride]


# ---------------------------------------------------------------- convolution and batch norm


def layer(p, s, x, name, stride):
    """fpl.conv_bn. s is None in training. -> y, what `layer_back` needs, {statistic: value}"""
    kernel, weight, bias = (p[f"{name}.{part}"] for part in ("conv", "bn.weight", "bn.bias"))
    y = np.einsum("bchwij,ocij->bohw", windows(x, kernel.shape[2], stride), kernel)
    n = np.array(y[:, 0].size, y.dtype)
    if s is None:
        mean, variance = y.mean((0, 2, 3)), y.var((0, 2, 3))
    else:
        mean, variance = s[name + ".bn.mean"], s[name + ".bn.variance"]
    deviation = np.sqrt(variance + y.dtype.type(fpl.BN_EPS))
    normal = (y - mean[:, None, None]) / deviation[:, None, None]
    used = {name + ".bn.mean": mean, name + ".bn.variance": variance * (n / (n - 1))}
    kept = x, kernel, stride, normal, weight / deviation
    return normal * weight[:, None, None] + bias[:, None, None], kept, used


def layer_back(dy, kept, name, gradient):
    """The derivative by the layer's input, from that by its output; the weights' go to gradient."""
    x, kernel, stride, normal, slope = kept
    gradient[name + ".bn.weight"] = (dy * normal).sum((0, 2, 3))
    gradient[name + ".bn.bias"] = dy.sum((0, 2, 3))
    # mean and deviation move with the outputs too
    dy = dy - dy.mean((0, 2, 3), keepdims=True)
    dy = dy - normal * (dy * normal).mean((0, 2, 3), keepdims=True)
    dy = dy * slope[:, None, None]
    size = kernel.shape[2]
    gradient[name + ".conv"] = np.einsum("bchwij,bohw->ocij", windows(x, size, stride), dy)
    border = size // 2
    dx = np.zeros((*x.shape[:2], x.shape[2] + 2 * border, x.shape[3] + 2 * border), x.dtype)
    for i in range(size):
        for j in range(size):
            seen = (..., slice(i, i + stride * dy.shape[2], stride))
            seen += (slice(j, j + stride * dy.shape[3], stride),)
            dx[seen] += np.einsum("bohw,oc->bchw", dy, kernel[:, :, i, j])
    return dx[:, :, border : border + x.shape[2], border : border + x.shape[3]]


# ---------------------------------------------------------------- the network


def forward(p, s, x):
    """fpl.network -> logits [B,K], z [B,d], what `backward` needs, {statistic: value met}"""
    x, kept_stem, met = layer(p, s, x, "stem", 1)
    x = np.maximum(x, 0)
    kept = [(x, kept_stem)]
    for stage, _, _, stride in fpl.STAGES:
        inner, kept_a, met_a = layer(p, s, x, stage + ".a", stride)
        inner = np.maximum(inner, 0)
        y, kept_b, met_b = layer(p, s, inner, stage + ".b", 1)
        met |= met_a | met_b
        kept_shortcut = None
        if stride != 1:
            x, kept_shortcut, met_shortcut = layer(p, s, x, stage + ".shortcut", stride)
            met |= met_shortcut
        x = np.maximum(x + y, 0)
        kept.append((x, inner, kept_a, kept_b, kept_shortcut))
    z = x.mean((2, 3))
    return z @ p["linear.weight"].T + p["linear.bias"], z, kept, met


def backward(p, z, kept, dlogits, dz):
    """The derivatives by all weights, by name, from those by logits and, beside them, by z."""
    gradient = {"linear.weight": dlogits.T @ z, "linear.bias": dlogits.sum(0)}
    dz = dz + dlogits @ p["linear.weight"]
    (stem_out, kept_stem), *kept_stages = kept
    out = kept_stages[-1][0]
    dx = np.broadcast_to(dz[:, :, None, None] / (out.shape[2] * out.shape[3]), out.shape)
    for (stage, *_), kept_stage in reversed(list(zip(fpl.STAGES, kept_stages))):
        out, inner, kept_a, kept_b, kept_shortcut = kept_stage
        dx = dx * (out > 0)
        dinner = layer_back(dx, kept_b, stage + ".b", gradient) * (inner > 0)
        if kept_shortcut:
            dx = layer_back(dx, kept_shortcut, stage + ".shortcut", gradient)
        dx = dx + layer_back(dinner, kept_a, stage + ".a", gradient)
    layer_back(dx * (stem_out > 0), kept_stem, "stem", gradient)
    return gradient


# ---------------------------------------------------------------- training


def step(p, x, labels, ragged, tau):
    """Eq. 12 with both weights 1 and UPCR's mean, and its gradient -> Step.

    x [B,3,h,w], labels [B], ragged: {class: cluster prototypes}, as oracle_np has them.
    """
    logits, z, kept, met = forward(p, None, x)
    unbiased = oracle.unbiased_prototypes(ragged)
    shares = np.exp(logits - logits.max(1, keepdims=True))
    shares /= shares.sum(1, keepdims=True)
    rows = np.arange(len(labels))
    loss = -np.log(shares[rows, labels]).mean()
    loss += oracle.cpcl_loss(z, labels, ragged, tau)
    loss += oracle.upcr_loss(z, labels, unbiased, "mean")
    dz = oracle.cpcl_grad(z, labels, ragged, tau) + oracle.upcr_grad(z, labels, unbiased, "mean")
    dlogits = shares.copy()
    dlogits[rows, labels] -= 1
    dlogits, dz = dlogits / z.dtype.type(len(labels)), dz.astype(z.dtype)
    return Step(loss, z, backward(p, z, kept, dlogits, dz), met)


def turn(p, s, batches, ragged, tau, numbers):
    """Steps of SGD on one batch after another -> weights and running statistics by name.

    numbers: lr, momentum, weight decay.
    """
    lr, momentum, decay = numbers
    velocity = {name: np.zeros_like(value) for name, value in p.items()}
    for x, labels in batches:
        made = step(p, x, labels, ragged, tau)
        for name, slope in made.gradient.items():
            velocity[name] = momentum * velocity[name] + (slope + decay * p[name])
        p = {name: value - lr * velocity[name] for name, value in p.items()}
        keep, new = 1 - fpl.BN_MOMENTUM, fpl.BN_MOMENTUM
        s = {name: keep * value + new * made.stats[name] for name, value in s.items()}
    return p, s
