"""An implementation as one writes it in JAX: float32, compiled, gradients by jax.grad."""

import functools

import jax
import jax.numpy as jnp
from numpy_vectorised import cluster_prototypes, finch  # noqa: F401  (FINCH stays NumPy's)

SETTINGS = {"level": "strict"}


@functools.partial(jax.jit, static_argnums=2)
def class_prototypes(z, labels, num_classes):
    sums = jax.ops.segment_sum(z, labels, num_classes)
    counts = jnp.bincount(labels, length=num_classes)
    return sums / jnp.maximum(counts, 1)[:, None], counts


@jax.jit
def unbiased_prototypes(clusters, mask):
    sums = jnp.where(mask[..., None], clusters, 0).sum(1)
    return sums / jnp.maximum(mask.sum(1), 1)[:, None]


def unit(x):
    """x scaled to length 1; a zero row stays zero, and so does its gradient."""
    square = (x * x).sum(-1, keepdims=True)
    return jnp.where(square > 0, x / jnp.sqrt(jnp.where(square > 0, square, 1)), 0)


def cpcl_loss(z, labels, clusters, mask, tau):
    prototypes = unit(jnp.where(mask[..., None], clusters, 0))
    s = jnp.einsum("bd,kjd->bkj", unit(z), prototypes).reshape(len(z), -1) / tau
    own = jnp.repeat(labels[:, None] == jnp.arange(len(mask)), mask.shape[1], axis=1)
    exists = mask.reshape(1, -1)
    known = (own & exists).any(1)
    log_p = jax.nn.logsumexp(jnp.where(own & exists, s, -1e30), axis=1)
    log_n = jax.nn.logsumexp(jnp.where(~own & exists, s, -1e30), axis=1)
    return jnp.where(known, jax.nn.softplus(log_n - log_p), 0).mean()


def upcr_loss(z, labels, unbiased, known, reduce):
    square = (z - jnp.where(known[:, None], unbiased, 0)[labels]) ** 2
    distance = square.sum(1) if reduce == "sum" else square.mean(1)
    return jnp.where(known[labels], distance, 0).mean()


cpcl = jax.jit(jax.value_and_grad(cpcl_loss))
upcr = jax.jit(jax.value_and_grad(upcr_loss), static_argnums=4)


@jax.jit
def weighted_mean(trees, weights):
    total = sum(weights)
    return jax.tree.map(lambda *v: sum(w / total * x for w, x in zip(weights, v)), *trees)


@jax.jit
def sgd_step(param, velocity, grad, lr, momentum, weight_decay):
    velocity = momentum * velocity + grad + weight_decay * param
    return param - lr * velocity, velocity


@jax.jit
def batch_norm(x, weight, bias, eps):
    mean, variance = x.mean((0, 2, 3)), x.var((0, 2, 3))
    scale = (weight / jnp.sqrt(variance + eps))[:, None, None]
    return scale * (x - mean[:, None, None]) + bias[:, None, None], mean, variance
