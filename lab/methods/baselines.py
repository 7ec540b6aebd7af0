"""The methods of Table 2 that FPL is compared with. Each is another server_round for `fpl.run`.

Common to all: T epochs of SGD as in FPL, averages weighted by the numbers of images, batch norm's
running statistics averaged. FedDyn, FedOPT and FedProc are written with plain averages in some of
their papers, and FedProto averages no networks; the weights here are FedAvg's, so that the rows of
a table differ in the method alone. For the same reason an image is classified by the logits in all
of them, also in FedProto, whose paper takes the class of the nearest prototype. The numbers are
those published for this comparison (FedProx, MOON), those of a public fork of its code (FedOPT's
lr, FedProto's weight), else those of a method's own paper. None is tuned.

A local loss is given the weights by name, a batch, and what the method sends to the client:
loss(p, x, labels, *received, *constants) -> scalar, z [B,d], batch norm's statistics [S].
"""

from collections.abc import Callable
from typing import NamedTuple

import fpl  # first: it sets what MindSpore reads while it is loaded

# isort: split
import numpy as np
from mindspore import Tensor, ops


class Method(NamedTuple):
    """A method under its name, with the numbers of its own, for the record."""

    name: str
    server_round: Callable  # (state, clients, cfg, engine) -> the next state, what the round tells
    numbers: dict


class MethodState(NamedTuple):
    """fpl.ServerState and what a method remembers from round to round.

    memory: {client number or "server": {name: vector}}. It is replaced, never written to.
    """

    round: int
    params: Tensor
    stats: Tensor
    prototypes: fpl.Prototypes
    memory: dict


# ---- what the methods have in common


def local_training(state, client, rng, cfg, loss, constants, received):
    """T epochs of SGD on a method's local loss, as fpl.client_update has them on FPL's."""
    params, stats, velocity = state.params, state.stats, ops.zeros_like(state.params)
    step = fpl.sgd_step(loss, cfg.width, cfg.classes, *constants)
    sgd = fpl.tensors(cfg.lr, cfg.momentum, cfg.weight_decay)
    losses = []
    for _ in range(cfg.local_epochs):
        features = []
        for images, labels in fpl.batches(client, cfg, rng):
            batch = fpl.network_input(images), Tensor(labels)
            params, velocity, stats, value, z = step(
                params, velocity, stats, *batch, *sgd, *received
            )
            losses.append(value)
            features.append((z, labels))
    class_means, counts = fpl.local_prototypes(params, stats, client, features, cfg)
    value = float(np.mean([*map(float, losses)]))
    return fpl.ClientUpdate(params, stats, class_means, counts, value)


def method_turn(arguments):
    """local_training of a tuple of its arguments, because an engine's items are single things."""
    return local_training(*arguments)


def train(state, clients, cfg, engine, loss, received, constants=(), memory=None, keep=None):
    """The chosen clients train and are averaged -> params, stats, what the round tells.

    received: {client number: what its loss is given}, see `same_for_all`.
    keep(m, update) -> what client m's memory becomes; it is put into memory, a dict.
    """
    chosen = fpl.participants(cfg, len(clients), state.round + 1)
    bare = fpl.ServerState(*state[:4])  # the memory of all clients need not travel to each
    turns = []
    for m in chosen:
        rng = fpl.stream(cfg, "client", state.round + 1, m)
        turns.append((bare, clients[m], rng, cfg, loss, constants, received[m]))
    updates = engine(method_turn, turns)
    if keep:
        updates = remembering(updates, chosen, memory, keep)
    return fpl.weighted_mean(updates, chosen, [len(client.labels) for client in clients])


def remembering(updates, chosen, memory, keep):
    """The same updates, one at a time; what is kept of each is in memory when it was taken."""
    for m, update in zip(chosen, updates, strict=True):
        memory[m] = keep(m, update)
        yield update


def same_for_all(clients, *values):
    """What every client is given: {client number: tensors of the values}."""
    return dict.fromkeys(range(len(clients)), fpl.tensors(*values))


def memory_of(state):
    """A copy of what the method remembers; nothing in round 0."""
    return dict(getattr(state, "memory", {}))


def checked(vector):
    """A vector that a server step has made. Raises FloatingPointError where it is not finite."""
    if not np.isfinite(vector.asnumpy()).all():
        raise FloatingPointError("the server's network is not finite")
    return vector


def cross_entropy_and_features(p, x, labels):
    """The part that all local losses share: CE [B] of each image, z [B,d], statistics [S]."""
    logits, z, batch_stats = fpl.network(p, None, x)
    return fpl.cross_entropy(logits, labels), z, batch_stats


def vector_of(p):
    """The vector of which p, the weights by name, are the views."""
    return ops.cat([value.reshape(-1) for value in p.values()])


# ---- FedAvg
# McMahan, Moore, Ramage, Hampson, Aguera y Arcas,
# "Communication-Efficient Learning of Deep Networks from Decentralized Data",
# AISTATS 2017, Alg. 1: T epochs of SGD on CE, then the mean weighted by n_m / n.


def fedavg_loss(p, x, labels):
    """CE."""
    ce, z, batch_stats = cross_entropy_and_features(p, x, labels)
    return ce.mean(), z, batch_stats


def fedavg_round(state, clients, cfg, engine=map):
    """FedAvg's round."""
    params, stats, told = train(state, clients, cfg, engine, fedavg_loss, same_for_all(clients))
    return fpl.ServerState(state.round + 1, params, stats, state.prototypes), told


FEDAVG = Method("fedavg", fedavg_round, {})


# ---- FedProx
# Li, Sahu, Zaheer, Sanjabi, Talwalkar, Smith, "Federated Optimization in Heterogeneous Networks",
# MLSys 2020, Eq. 2: CE + mu/2 |w - w_server|^2. mu = 0 is FedAvg.


def proximal_term(params, start, mu):
    """params, start: vectors [P]."""
    return mu / 2 * ((params - start) ** 2).sum()


def fedprox_loss(p, x, labels, start, mu):
    """CE and the proximal term."""
    ce, z, batch_stats = cross_entropy_and_features(p, x, labels)
    return ce.mean() + proximal_term(vector_of(p), start, mu), z, batch_stats


def fedprox(mu=0.01):
    """FedProx with a weight of its term."""

    def server_round(state, clients, cfg, engine=map):
        received = dict.fromkeys(range(len(clients)), [state.params, *fpl.tensors(mu)])
        params, stats, told = train(state, clients, cfg, engine, fedprox_loss, received)
        return fpl.ServerState(state.round + 1, params, stats, state.prototypes), told

    return Method("fedprox", server_round, {"mu": mu})


# ---- MOON
# Li, He, Song, "Model-Contrastive Federated Learning", CVPR 2021, Eq. 3: CE + mu * contrast of z
# with the features that the server's network (positive) and the client's network of its turn
# before (negative) give the same images. z stands where the paper has a projection head, as in
# this comparison. mu = 0 is FedAvg, and so is every client's first turn.


def cosine(a, b):
    """Row by row [B,d], [B,d] -> [B]; 0 where one of them is zero."""
    square = (a * a).sum(1) * (b * b).sum(1)
    length = ops.sqrt(ops.where(square > 0, square, 1.0))
    return ops.where(square > 0, (a * b).sum(1) / length, 0.0)


def moon_term(z, z_server, z_before, temperature):
    """-log(e^s / (e^s + e^b)) with s, b = cos(z, .) / temperature; mean over the batch."""
    both = ops.stack((cosine(z, z_server), cosine(z, z_before)), 1) / temperature
    return (fpl.logsumexp(both) - both[:, 0]).mean()


def reference_features(params, stats, x, p_shapes, s_shapes):
    """z [B,d] of a network that is not trained here: in evaluation mode, without gradient."""
    p, s = fpl.views(params, p_shapes), fpl.views(stats, s_shapes)
    return ops.stop_gradient(fpl.network(p, s, x)[1])


def moon_loss(
    p, x, labels, server, server_stats, before, before_stats, mu, temperature, p_shapes, s_shapes
):
    """CE and the contrast; server, before: params [P], each with its stats [S]."""
    ce, z, batch_stats = cross_entropy_and_features(p, x, labels)
    term = moon_term(
        z,
        reference_features(server, server_stats, x, p_shapes, s_shapes),
        reference_features(before, before_stats, x, p_shapes, s_shapes),
        temperature,
    )
    return ce.mean() + mu * term, z, batch_stats


def moon(mu=5.0, temperature=0.5):
    """MOON with the weight and the temperature of its contrast."""

    def server_round(state, clients, cfg, engine=map):
        memory, received = memory_of(state), {}
        for m in range(len(clients)):
            before = memory.get(m, {"params": state.params, "stats": state.stats})
            received[m] = [
                state.params,
                state.stats,
                before["params"],
                before["stats"],
                *fpl.tensors(mu, temperature),
            ]
        shapes = fpl.param_shapes(cfg.width, cfg.classes), fpl.stat_shapes(cfg.width)
        params, stats, told = train(
            state, clients, cfg, engine, moon_loss, received, shapes, memory, keep_network
        )
        return MethodState(state.round + 1, params, stats, state.prototypes, memory), told

    return Method("moon", server_round, {"mu": mu, "temperature": temperature})


def keep_network(m, update):
    """What MOON remembers of a client's turn."""
    return {"params": update.params, "stats": update.stats}


# ---- FedDyn
# Acar, Zhao, Navarro, Mattina, Whatmough, Saligrama, "Federated Learning Based on Dynamic
# Regularization", ICLR 2021, Alg. 1: CE - <h_m, w> + alpha/2 |w - w_server|^2,
# h_m <- h_m - alpha (w - w_server) at the client; h <- h - alpha * share * (mean - w_server),
# w_server = mean - h / alpha at the server. alpha = 0 is FedAvg (h = 0) by a branch, not as a
# limit: alpha cancels in the server's step.


def dynamic_term(p, start, h, alpha):
    """p: weights by name; start, h: vectors [P]."""
    # The weights are joined for each sum anew: the gradients of the two are then added to that of
    # CE one after the other, and not the sum of the two at once, which rounds otherwise.
    linear = (vector_of(p) * h).sum()
    return proximal_term(vector_of(p), start, alpha) - linear


def feddyn_loss(p, x, labels, start, h, alpha):
    """CE and the dynamic regulariser."""
    ce, z, batch_stats = cross_entropy_and_features(p, x, labels)
    return ce.mean() + dynamic_term(p, start, h, alpha), z, batch_stats


def feddyn(alpha=0.1):
    """FedDyn with the weight of its regulariser."""

    def server_round(state, clients, cfg, engine=map):
        memory, zero = memory_of(state), ops.zeros_like(state.params)
        before = {m: memory.get(m, {"h": zero})["h"] for m in range(len(clients))}
        received = {m: [state.params, h, *fpl.tensors(alpha)] for m, h in before.items()}

        def keep(m, update):
            return {"h": before[m] - alpha * (update.params - state.params)}

        params, stats, told = train(
            state, clients, cfg, engine, feddyn_loss, received, (), memory, keep
        )
        if alpha != 0:
            images = [len(client.labels) for client in clients]
            share = sum(images[m] for m in told["losses"]) / sum(images)
            h = memory.get("server", {"h": zero})["h"]
            h = h - alpha * share * (params - state.params)
            params, memory["server"] = checked(params - h / alpha), {"h": h}
        return MethodState(state.round + 1, params, stats, state.prototypes, memory), told

    return Method("feddyn", server_round, {"alpha": alpha})


# ---- FedOPT
# Reddi, Charles, Zaheer, Garrett, Rush, Konecny, Kumar, McMahan, "Adaptive Federated
# Optimization", ICLR 2021, Alg. 1-2: the clients' mean step is a gradient for an optimiser at the
# server. SGD with lr 1, momentum 0 is FedAvg.


def server_step(params, mean, memory, lr, momentum, optimizer):
    """params, mean: vectors [P]; memory: what this returned before, {} at first -> both anew.

    "sgd": m <- momentum m + delta, params + lr m. "adam" (FedAdam, without bias correction):
    m <- momentum m + (1 - momentum) delta, v <- 0.99 v + 0.01 delta^2 from v = tau^2 on,
    params + lr m / (sqrt(v) + tau), tau = 1e-3. Everything is added up in float64.
    """
    tau, new = 1e-3, {}
    old = params.asnumpy().astype(np.float64)
    delta = mean.asnumpy() - old
    m = momentum * (memory["m"].asnumpy() if memory else 0.0)
    m = m + (delta if optimizer == "sgd" else (1 - momentum) * delta)
    step = m
    if optimizer == "adam":
        v = 0.99 * (memory["v"].asnumpy() if memory else tau**2) + 0.01 * delta**2
        step = m / (np.sqrt(v) + tau)
        new["v"] = Tensor(v.astype(np.float32))
    new["m"] = Tensor(m.astype(np.float32))
    return Tensor((old + lr * step).astype(np.float32)), new


def fedopt(lr=0.25, momentum=0.9, optimizer="sgd"):
    """FedOPT with the numbers of the server's optimiser, "sgd" or "adam"."""

    def server_round(state, clients, cfg, engine=map):
        memory = memory_of(state)
        mean, stats, told = train(state, clients, cfg, engine, fedavg_loss, same_for_all(clients))
        params, memory["server"] = server_step(
            state.params, mean, memory.get("server", {}), lr, momentum, optimizer
        )
        return MethodState(state.round + 1, checked(params), stats, state.prototypes, memory), told

    numbers = {"lr": lr, "momentum": momentum, "optimizer": optimizer}
    return Method("fedopt", server_round, numbers)


# ---- global prototypes: FedProc, FedProto, FPL's ablations


def global_prototypes(class_means, counts):
    """The plain mean over the clients that hold the class (FPL's Eq. 3).

    class_means [M,K,d], counts [M,K] -> [K,d] float32, known [K].
    """
    held = np.asarray(counts) > 0
    sums = np.where(held[..., None], np.asarray(class_means, np.float64), 0).sum(axis=0)
    means = sums / np.maximum(held.sum(axis=0), 1)[:, None]
    return means.astype(np.float32), held.any(axis=0)


def with_global_prototypes(state, params, stats, told):
    """The next ServerState: a class's only cluster prototype, in slot 0, is the global one."""
    means, known = global_prototypes(told["class_means"], told["counts"])
    clusters = np.zeros_like(state.prototypes.clusters)
    mask = np.zeros_like(state.prototypes.mask)
    clusters[:, 0], mask[:, 0] = means, known
    prototypes = fpl.Prototypes(clusters, mask, means)
    return fpl.ServerState(state.round + 1, params, stats, prototypes)


def fpl_global_round(state, clients, cfg, engine=map):
    """FPL's round, whose prototypes are then replaced: Table 3, Fig. 5."""
    after, told = fpl.server_round(state, clients, cfg, engine)
    return with_global_prototypes(state, after.params, after.stats, told), told


FPL_GLOBAL = Method("fpl-global", fpl_global_round, {})


# FedProc: Mu, Shen, Cheng, Geng, Fu, Zhang, Zhang, "FedProc: Prototypical Contrastive Federated
# Learning on Non-IID Data", FGCS 2023: a * contrast with the global prototypes + (1 - a) * CE,
# a = 1 - round / rounds. The contrast is by cosine over tau (1, as in this comparison); an image
# whose class has no prototype yet trains on CE alone.


def fedproc_loss(p, x, labels, prototypes, known, a, tau):
    """(1 - a) * CE + a * the contrast with the global prototypes [K,d]."""
    ce, z, batch_stats = cross_entropy_and_features(p, x, labels)
    contrast = fpl.cpcl_loss(z, labels, prototypes.expand_dims(1), known.expand_dims(1), tau)
    return (ops.where(known[labels], 1 - a, 1.0) * ce).mean() + a * contrast, z, batch_stats


def fedproc(tau=1.0):
    """FedProc with the temperature of its contrast."""

    def server_round(state, clients, cfg, engine=map):
        a = 1 - (state.round + 1) / cfg.rounds
        _, mask, means = state.prototypes
        received = same_for_all(clients, means, mask[:, 0], a, tau)
        averaged = train(state, clients, cfg, engine, fedproc_loss, received)
        return with_global_prototypes(state, *averaged), averaged[2]

    return Method("fedproc", server_round, {"tau": tau})


# FedProto: Tan, Long, Liu, Zhou, Lu, Jiang, Zhang, "FedProto: Federated Prototype Learning across
# Heterogeneous Clients", AAAI 2022, Eq. 7, as this comparison has it: networks are averaged too,
# each image's z stands for the client's mean, and G_k is a plain mean over the clients. An image
# is classified by the logits, as in this comparison; the paper takes the nearest prototype.
# CE + weight * mean over d of (z - G_k)^2; weight = 0 is FedAvg.


def fedproto_loss(p, x, labels, prototypes, known, weight):
    """CE and the distance to the global prototypes [K,d]."""
    ce, z, batch_stats = cross_entropy_and_features(p, x, labels)
    return ce.mean() + weight * fpl.upcr_loss(z, labels, prototypes, known, "mean"), z, batch_stats


def fedproto(weight=1.0):
    """FedProto with the weight of its term."""

    def server_round(state, clients, cfg, engine=map):
        _, mask, means = state.prototypes
        received = same_for_all(clients, means, mask[:, 0], weight)
        averaged = train(state, clients, cfg, engine, fedproto_loss, received)
        return with_global_prototypes(state, *averaged), averaged[2]

    return Method("fedproto", server_round, {"weight": weight})


FPL = Method("fpl", fpl.server_round, {})
METHODS = {
    method.name: method
    for method in (FEDAVG, fedprox(), moon(), feddyn(), fedopt(), fedproc(), fedproto(), FPL)
}
