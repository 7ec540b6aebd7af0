"""The methods of Table 2 that FPL is compared with. Each is an fpl.Method: what a client does, what the server does.

Common to all: fpl.local_training's T epochs of SGD, averages weighted by the numbers of images, batch norm's running
statistics averaged. FedDyn, FedOPT and FedProc are written with plain averages in some of their papers, and FedProto
averages no networks; the weights here are FedAvg's, so that the rows of a table differ in the method alone. The numbers
are those published for this comparison (FedProx, MOON), those of a public fork of its code (FedOPT's lr, FedProto's
weight), else those of a method's own paper; none is tuned.
"""

import mindspore as ms
import numpy as np
from mindspore import Tensor, ops

from fpl import (FPL, PARAMS, STATS, Method, Prototypes, cpcl_loss, cross_entropy, flat, local_training, logsumexp, network,
                 step_on, upcr_loss)


def number(value):
    """A tensor, because a compiled function would keep a Python number for good."""
    return Tensor(value, ms.float32)


def cross_entropy_and_features(params, x, labels):
    """The part that all local losses share: CE [B] of each image, z [B,d], batch norm statistics."""
    logits, z, seen = network({name: value for name, value in zip(PARAMS, params)}, {}, x, True)
    return cross_entropy(logits, labels), z, seen


def square_distance(params, others):
    """|params - others|^2 over all tensors of two tuples."""
    total = number(0.0)
    for a, b in zip(params, others):
        total = total + ((a - b) ** 2).sum()
    return total


def keep_average(state, averaged, share, class_means, counts, cfg):
    """The server_update of methods that differ from FedAvg on the clients alone."""
    return averaged


# ---------------------------------------------------------------- FedAvg
# McMahan, Moore, Ramage, Hampson, Aguera y Arcas, "Communication-Efficient Learning of Deep Networks from
# Decentralized Data", AISTATS 2017, Alg. 1: T epochs of SGD on CE, then the mean weighted by n_m / n.

def fedavg_loss(params, x, labels, nothing):
    ce, z, seen = cross_entropy_and_features(params, x, labels)
    return ce.mean(), z, seen


def fedavg_client(state, memory, client, rng, cfg):
    nothing = (number(0.0),)  # a compiled function does not take an empty tuple
    return local_training(step_on(fedavg_loss), nothing, state.params, state.stats, client, rng, cfg)


FEDAVG = Method("fedavg", fedavg_client, keep_average, {})


# ---------------------------------------------------------------- FedProx
# Li, Sahu, Zaheer, Sanjabi, Talwalkar, Smith, "Federated Optimization in Heterogeneous Networks", MLSys 2020, Eq. 2:
# CE + mu/2 |w - w_server|^2. mu = 0 is FedAvg.

def proximal_term(params, start, mu):
    """params, start: tuples of tensors in PARAMS' order."""
    return mu / 2 * square_distance(params, start)


def fedprox_loss(params, x, labels, start, mu):
    ce, z, seen = cross_entropy_and_features(params, x, labels)
    return ce.mean() + proximal_term(params, start, mu), z, seen


def fedprox(mu=0.01):
    def client(state, memory, client, rng, cfg):
        received = (flat(state.params, PARAMS), number(mu))
        return local_training(step_on(fedprox_loss), received, state.params, state.stats, client, rng, cfg)

    return Method("fedprox", client, keep_average, {"mu": mu})


# ---------------------------------------------------------------- MOON
# Li, He, Song, "Model-Contrastive Federated Learning", CVPR 2021, Eq. 3: CE + mu * contrast of z with the features that
# the server's network (positive) and the client's network of its turn before (negative) give the same images. z stands
# where the paper has a projection head, as in this comparison. mu = 0 is FedAvg, and so is every client's first turn.

def cosine(a, b):
    """Row by row [B,d], [B,d] -> [B]; 0 where one of them is zero."""
    square = (a * a).sum(1) * (b * b).sum(1)
    return ops.where(square > 0, (a * b).sum(1) / ops.sqrt(ops.where(square > 0, square, 1.0)), 0.0)


def moon_term(z, z_server, z_before, temperature):
    """-log(e^s / (e^s + e^b)) with s, b = cos(z, .) / temperature; mean over the batch."""
    both = ops.stack((cosine(z, z_server), cosine(z, z_before)), 1) / temperature
    return (logsumexp(both) - both[:, 0]).mean()


def reference_features(params, stats, x):
    """z [B,d] of a network that is not trained here: in evaluation mode, without gradient."""
    p = {name: value for name, value in zip(PARAMS, params)}
    s = {name: value for name, value in zip(STATS, stats)}
    return ops.stop_gradient(network(p, s, x, False)[1])


def moon_loss(params, x, labels, server_params, server_stats, params_before, stats_before, mu, temperature):
    ce, z, seen = cross_entropy_and_features(params, x, labels)
    term = moon_term(z, reference_features(server_params, server_stats, x),
                     reference_features(params_before, stats_before, x), temperature)
    return ce.mean() + mu * term, z, seen


def moon(mu=5.0, temperature=0.5):
    def client(state, memory, client, rng, cfg):
        server = state.params | state.stats
        before = memory or server
        received = (flat(server, PARAMS), flat(server, STATS), flat(before, PARAMS), flat(before, STATS),
                    number(mu), number(temperature))
        update = local_training(step_on(moon_loss), received, state.params, state.stats, client, rng, cfg)
        return update._replace(memory=update.params | update.stats)

    return Method("moon", client, keep_average, {"mu": mu, "temperature": temperature})


# ---------------------------------------------------------------- FedDyn
# Acar, Zhao, Navarro, Mattina, Whatmough, Saligrama, "Federated Learning Based on Dynamic Regularization", ICLR 2021,
# Alg. 1: CE - <h_m, w> + alpha/2 |w - w_server|^2, h_m <- h_m - alpha (w - w_server) at the client;
# h <- h - alpha * share * (mean - w_server), w_server = mean - h / alpha at the server. alpha = 0 is
# FedAvg (h = 0) by a branch, not as a limit: alpha cancels in the server's step.

def dynamic_term(params, start, h, alpha):
    """params, start, h: tuples of tensors in PARAMS' order."""
    linear = number(0.0)
    for value, slope in zip(params, h):
        linear = linear + (value * slope).sum()
    return alpha / 2 * square_distance(params, start) - linear


def feddyn_loss(params, x, labels, start, h, alpha):
    ce, z, seen = cross_entropy_and_features(params, x, labels)
    return ce.mean() + dynamic_term(params, start, h, alpha), z, seen


def feddyn(alpha=0.1):
    def client(state, memory, client, rng, cfg):
        h = memory or {name: ops.zeros_like(value) for name, value in state.params.items()}
        received = (flat(state.params, PARAMS), flat(h, PARAMS), number(alpha))
        update = local_training(step_on(feddyn_loss), received, state.params, state.stats, client, rng, cfg)
        return update._replace(memory={name: h[name] - alpha * (update.params[name] - state.params[name]) for name in PARAMS})

    def server(state, averaged, share, class_means, counts, cfg):
        if alpha == 0:
            return averaged
        old = state.memory.get("server") or {name: ops.zeros_like(value) for name, value in state.params.items()}
        h = {name: old[name] - alpha * share * (averaged.params[name] - state.params[name]) for name in PARAMS}
        return averaged._replace(params={name: averaged.params[name] - h[name] / alpha for name in PARAMS},
                                 memory=averaged.memory | {"server": h})

    return Method("feddyn", client, server, {"alpha": alpha})


# ---------------------------------------------------------------- FedOPT
# Reddi, Charles, Zaheer, Garrett, Rush, Konecny, Kumar, McMahan, "Adaptive Federated Optimization", ICLR 2021,
# Alg. 1-2: the clients' mean step is a gradient for an optimiser at the server. SGD with lr 1, momentum 0 is FedAvg.

def server_step(params, mean, memory, lr, momentum, optimizer):
    """params, mean: name -> Tensor; memory: what this returned before, {} at first -> (params, memory). Adds in float64.

    "sgd": m <- momentum m + delta, params + lr m. "adam" (FedAdam, without bias correction): m <- momentum m +
    (1 - momentum) delta, v <- 0.99 v + 0.01 delta^2 from v = tau^2 on, params + lr m / (sqrt(v) + tau), tau = 1e-3.
    """
    tau, new_params, new_memory = 1e-3, {}, {}
    for name in PARAMS:
        old, m_name, v_name = params[name].asnumpy().astype(np.float64), "m " + name, "v " + name
        delta = mean[name].asnumpy() - old
        m = momentum * (memory[m_name].asnumpy() if memory else 0.0) + (delta if optimizer == "sgd" else (1 - momentum) * delta)
        step = m
        if optimizer == "adam":
            v = 0.99 * (memory[v_name].asnumpy() if memory else tau ** 2) + 0.01 * delta ** 2
            step = m / (np.sqrt(v) + tau)
            new_memory[v_name] = Tensor(v.astype(np.float32))
        new_memory[m_name] = Tensor(m.astype(np.float32))
        new_params[name] = Tensor((old + lr * step).astype(np.float32))
    return new_params, new_memory


def fedopt(lr=0.25, momentum=0.9, optimizer="sgd"):
    def server(state, averaged, share, class_means, counts, cfg):
        params, memory = server_step(state.params, averaged.params, state.memory.get("server", {}), lr, momentum, optimizer)
        return averaged._replace(params=params, memory=averaged.memory | {"server": memory})

    return Method("fedopt", fedavg_client, server, {"lr": lr, "momentum": momentum, "optimizer": optimizer})


# ---------------------------------------------------------------- global prototypes: FedProc, FedProto, FPL's ablations

def global_prototypes(class_means, counts):
    """The plain mean over the clients that hold the class (FPL's Eq. 3). [M,K,d], [M,K] -> [K,d] float32, known [K]."""
    held = np.asarray(counts) > 0
    sums = np.where(held[..., None], np.asarray(class_means, np.float64), 0).sum(axis=0)
    return (sums / np.maximum(held.sum(axis=0), 1)[:, None]).astype(np.float32), held.any(axis=0)


def global_update(state, averaged, share, class_means, counts, cfg):
    """A class's only cluster prototype and its unbiased one are the global one: [K,J,d] with slot 0 filled."""
    means, known = global_prototypes(class_means, counts)
    clusters, mask = np.zeros_like(state.prototypes.clusters), np.zeros_like(state.prototypes.mask)
    clusters[:, 0], mask[:, 0] = means, known
    return averaged._replace(prototypes=Prototypes(clusters, mask, means))


FPL_GLOBAL = Method("fpl-global", FPL.client_update, global_update, {})  # Table 3, Fig. 5: FPL without the clusters


# FedProc: Mu, Shen, Cheng, Geng, Fu, Zhang, Zhang, "FedProc: Prototypical Contrastive Federated Learning on Non-IID
# Data", FGCS 2023: a * contrast with the global prototypes + (1 - a) * CE, a = 1 - round / rounds. The contrast is by
# cosine over tau (1, as in this comparison); an image whose class has no prototype yet trains on CE alone.

def fedproc_loss(params, x, labels, prototypes, known, a, tau):
    ce, z, seen = cross_entropy_and_features(params, x, labels)
    contrast = cpcl_loss(z, labels, prototypes.expand_dims(1), known.expand_dims(1), tau)
    return (ops.where(known[labels], 1 - a, 1.0) * ce).mean() + a * contrast, z, seen


def fedproc(tau=1.0):
    def client(state, memory, client, rng, cfg):
        _, mask, means = state.prototypes
        received = (Tensor(means), Tensor(mask[:, 0]), number(1 - (state.round + 1) / cfg.rounds), number(tau))
        return local_training(step_on(fedproc_loss), received, state.params, state.stats, client, rng, cfg)

    return Method("fedproc", client, global_update, {"tau": tau})


# FedProto: Tan, Long, Liu, Zhou, Lu, Jiang, Zhang, "FedProto: Federated Prototype Learning across Heterogeneous
# Clients", AAAI 2022, Eq. 7, as this comparison has it: networks are averaged too, each image's z stands for the client's
# mean, and G_k is a plain mean over the clients. CE + weight * mean over d of (z - G_k)^2; weight = 0 is FedAvg.

def fedproto_loss(params, x, labels, prototypes, known, weight):
    ce, z, seen = cross_entropy_and_features(params, x, labels)
    return ce.mean() + weight * upcr_loss(z, labels, prototypes, known, "mean"), z, seen


def fedproto(weight=1.0):
    def client(state, memory, client, rng, cfg):
        _, mask, means = state.prototypes
        received = (Tensor(means), Tensor(mask[:, 0]), number(weight))
        return local_training(step_on(fedproto_loss), received, state.params, state.stats, client, rng, cfg)

    return Method("fedproto", client, global_update, {"weight": weight})


METHODS = {method.name: method for method in (FEDAVG, fedprox(), moon(), feddyn(), fedopt(), fedproc(), fedproto(), FPL)}
