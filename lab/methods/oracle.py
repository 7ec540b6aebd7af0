"""The mathematics of the other methods (baselines.py) again, slowly, as oracle_np.py has FPL's.

A network is a dict name -> array. What a method adds up round by round is here one sum over all its
rounds.
"""

import math

import numpy as np

from oracle_np import cosine, length, mean_of, unit


def combined(f, *trees):
    """f of the entries that stand at the same place, place by place. -> dict name -> array"""
    result = {}
    for name in trees[0]:
        result[name] = np.zeros(np.shape(trees[0][name]))
        for i in np.ndindex(result[name].shape):
            result[name][i] = f(*(float(tree[name][i]) for tree in trees))
    return result


def total(tree):
    """The sum of all entries of all arrays, rounded once."""
    return math.fsum(float(v) for value in tree.values() for v in np.asarray(value).ravel())


def cross_entropy(row, k):
    """-log softmax(row)[k] = log sum_i e^(row_i - row_k); the largest is taken out of the
    exponents."""
    largest = max(map(float, row))
    return math.log(math.fsum(math.exp(float(v) - largest) for v in row)) + largest - float(row[k])


def cross_entropy_grad(row, k):
    """softmax(row), less 1 at k."""
    return np.array([math.exp(-cross_entropy(row, i)) - (i == k) for i in range(len(row))])


def proximal_term(w, start, mu):
    """FedProx (Li et al. 2020, Eq. 2): mu/2 |w - start|^2 over all parameters."""
    return mu / 2 * total(combined(lambda a, b: (a - b) ** 2, w, start))


def proximal_grad(w, start, mu):
    """mu (w - start), once."""
    return combined(lambda a, b: mu * (a - b), w, start)


def moon_of_one(row, towards, away, temperature):
    """MOON (Li et al. 2021, Eq. 3) for one sample: -log(G / (G + P)); G, P = e^(cos(z, z_global or
    z_previous) / T).

    Right for T > 2/700, below which G or P leaves float64.
    """
    G, P = (math.exp(cosine(row, reference) / temperature) for reference in (towards, away))
    return math.log1p(P / G)


def moon_term(z, z_global, z_previous, temperature):
    """The mean over the batch."""
    return math.fsum(
        moon_of_one(*rows, temperature) for rows in zip(z, z_global, z_previous)
    ) / len(z)


def moon_grad(z, z_global, z_previous, temperature):
    """Derivative of moon_term with respect to z. -> [B,d]

    dL/dcos_previous = P / (T (G + P)) = -dL/dcos_global; dcos_c/dz = (unit c - cos_c unit z) /
    |z|; 0 where z = 0.
    """
    grad = np.zeros((len(z), len(z[0])))
    for b, (row, towards, away) in enumerate(zip(z, z_global, z_previous)):
        if length(row) > 0:
            share = -math.expm1(-moon_of_one(row, towards, away, temperature))  # P / (G + P)
            apart = cosine(row, away) - cosine(row, towards)
            for i in range(len(row)):
                across = (
                    float(unit(away)[i]) - float(unit(towards)[i]) - apart * float(unit(row)[i])
                )
                grad[b, i] = share * across / (temperature * length(row) * len(z))
    return grad


def dynamic_term(w, start, h, alpha):
    """FedDyn (Acar et al. 2021, Eq. 1): -<h, w> + alpha/2 |w - start|^2 over all parameters."""
    return total(combined(lambda a, b, c: alpha / 2 * (a - b) ** 2 - c * a, w, start, h))


def dynamic_grad(w, start, h, alpha):
    """alpha (w - start) - h."""
    return combined(lambda a, b, c: alpha * (a - b) - c, w, start, h)


def feddyn_client_memory(turns, alpha):
    """A client's h after its turns [(trained, start), ...]: -alpha times all that it has moved."""
    moves = [combined(lambda a, b: a - b, trained, start) for trained, start in turns]
    return combined(lambda *moved: -alpha * math.fsum(moved), *moves)


def feddyn_server(rounds):
    """The server's network after its rounds [(mean, start, share), ...]; mean and start are
    networks.

    h = -alpha sum_r share_r (mean_r - start_r) and the network is mean - h/alpha: alpha cancels.
    """
    moves = [
        combined(lambda a, b, share=share: share * (a - b), mean, start)
        for mean, start, share in rounds
    ]
    return combined(lambda mean, *moved: math.fsum((mean, *moved)), rounds[-1][0], *moves)


def fedopt_server(params, deltas, lr, momentum, optimizer):
    """The server's network after rounds with these deltas (mean of the clients - network), Reddi
    et al. 2021, Alg. 2.

    Round t moves it by lr m_t, m_t = sum_s momentum^(t-s) delta_s ("sgd"), or by lr m_t /
    (sqrt(v_t) + 1e-3), m_t =
    (1 - momentum) sum_s momentum^(t-s) delta_s, v_t = 0.99^t 1e-6 + 0.01 sum_s 0.99^(t-s)
    delta_s^2 ("adam"); rounds
    count from 1, there is no bias correction.
    """

    def decayed(keep, values):
        return math.fsum(keep ** (len(values) - 1 - s) * value for s, value in enumerate(values))

    def moved(start, *steps):
        moves = []
        for t in range(1, len(steps) + 1):
            if optimizer == "sgd":
                moves.append(lr * decayed(momentum, steps[:t]))
            else:
                squares = [step * step for step in steps[:t]]
                v = 0.99**t * 1e-6 + 0.01 * decayed(0.99, squares)
                moves.append(
                    lr * (1 - momentum) * decayed(momentum, steps[:t]) / (math.sqrt(v) + 1e-3)
                )
        return math.fsum((start, *moves))

    return combined(moved, params, *deltas)


def global_prototypes(class_means, counts):
    """FPL's Eq. 3: per class, the plain mean over the clients that hold it. -> {class: [d]} of the
    classes held."""
    held = {
        k: [row[k] for row, count in zip(class_means, counts) if count[k] > 0]
        for k in range(len(counts[0]))
    }
    return {k: mean_of(rows) for k, rows in held.items() if rows}


def fedproc_weight(number, rounds):
    """The weight of the contrastive loss in round number, from 1 to rounds: 0 in the last (Mu et
    al. 2023)."""
    return 1 - number / rounds


def fedproc_loss(logits, z, labels, prototypes, tau, a):
    """a GPC + (1 - a) CE, GPC being cross-entropy over cos(z, prototype)/tau of the known classes;
    CE alone if unknown.

    prototypes: {class: [d]}; the mean over the batch.
    """
    costs = []
    for scores, row, k in zip(logits, z, map(int, labels)):
        ce = cross_entropy(scores, k)
        if k in prototypes:
            known = sorted(prototypes)
            gpc = cross_entropy([cosine(row, prototypes[i]) / tau for i in known], known.index(k))
            costs.append(a * gpc + (1 - a) * ce)
        else:
            costs.append(ce)
    return math.fsum(costs) / len(z)


def fedproc_grad(logits, z, labels, prototypes, tau, a):
    """Derivatives of fedproc_loss with respect to logits [B,K] and z [B,d].

    GPC's: sum_i (softmax_i - [i = k]) (unit G_i - cos_i unit z) / (tau |z|).
    """
    to_logits, to_z = np.zeros(np.shape(logits)), np.zeros(np.shape(z))
    for b, (scores, row, k) in enumerate(zip(logits, z, map(int, labels))):
        is_known = k in prototypes
        to_logits[b] = (1 - a if is_known else 1) * cross_entropy_grad(scores, k) / len(z)
        if is_known and length(row) > 0:
            known = sorted(prototypes)
            cosines = [cosine(row, prototypes[i]) for i in known]
            slopes = cross_entropy_grad([cos / tau for cos in cosines], known.index(k))
            parts = [
                slope * (unit(prototypes[i]) - cos * unit(row))
                for slope, cos, i in zip(slopes, cosines, known)
            ]
            to_z[b] = (
                a
                * np.array([math.fsum(column) for column in zip(*parts)])
                / (tau * length(row) * len(z))
            )
    return to_logits, to_z
