"""The mathematics of the other methods (baselines.py) again, slowly, as oracle_np.py has FPL's.

A network is a dict name -> array. What a method adds
up round by round is here one sum over all its rounds.
"""

import math

import numpy as np

from oracle_np import cosine, length, log_sum_exp, mean_of, unit


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
    """-log softmax(row)[k] = log sum_i e^(row_i - row_k)."""
    return log_sum_exp([float(value) for value in row]) - float(row[k])


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
    """MOON (Li et al. 2021, Eq. 3) for one sample: -log(G / (G + P)) = log(1 + P / G).

    G, P = e^(cos / T) to the features of the server's and of the previous network.
    """
    gap = (cosine(row, away) - cosine(row, towards)) / temperature  # log P - log G
    return max(gap, 0.0) + math.log1p(math.exp(-abs(gap)))


def moon_term(z, z_global, z_previous, temperature):
    """The mean over the batch."""
    costs = [moon_of_one(*rows, temperature) for rows in zip(z, z_global, z_previous)]
    return math.fsum(costs) / len(z)


def moon_grad(z, z_global, z_previous, temperature):
    """Derivative of moon_term with respect to z. -> [B,d]

    dL/dcos_previous = P / (T (G + P)) = -dL/dcos_global, and
    dcos_c/dz = (unit c - cos_c unit z) / |z|, or 0 where z = 0.
    """
    grad = np.zeros((len(z), len(z[0])))
    for b, (row, towards, away) in enumerate(zip(z, z_global, z_previous)):
        if length(row) > 0:
            share = -math.expm1(-moon_of_one(row, towards, away, temperature))  # P / (G + P)
            apart = cosine(row, away) - cosine(row, towards)
            across = unit(away) - unit(towards) - apart * unit(row)
            grad[b] = share * across / (temperature * length(row) * len(z))
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
    """The server's network after its rounds [(mean, start, share), ...], of networks and a number.

    h = -alpha sum_r share_r (mean_r - start_r) and the network is mean - h/alpha: alpha cancels.
    """
    moves = [
        combined(lambda a, b, share=share: share * (a - b), mean, start)
        for mean, start, share in rounds
    ]
    return combined(lambda mean, *moved: math.fsum((mean, *moved)), rounds[-1][0], *moves)


def fedopt_server(params, deltas, lr, momentum, optimizer):
    """The server's network after rounds with these deltas, Reddi et al. 2021, Alg. 2.

    A delta is the mean of the clients, less the network; rounds count from 1.
    "sgd": round t moves the network by lr m_t, m_t = sum_s momentum^(t-s) delta_s.
    "adam", without bias correction: by lr m_t / (sqrt(v_t) + 1e-3), with
    m_t = (1 - momentum) sum_s momentum^(t-s) delta_s and
    v_t = 0.99^t 1e-6 + 0.01 sum_s 0.99^(t-s) delta_s^2.
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
    """FPL's Eq. 3: per class that is held, the plain mean over its holders. -> {class: [d]}"""
    held = {
        k: [row[k] for row, count in zip(class_means, counts) if count[k] > 0]
        for k in range(len(counts[0]))
    }
    return {k: mean_of(rows) for k, rows in held.items() if rows}


def fedproc_weight(number, rounds):
    """FedProc's weight of the contrast in round number, 1 to rounds: 0 in the last (Mu 2023)."""
    return 1 - number / rounds


def fedproc_loss(logits, z, labels, prototypes, tau, a):
    """a GPC + (1 - a) CE, and CE alone for an unknown class; the mean over the batch.

    GPC is cross-entropy over cos(z, prototype) / tau
    of the known classes, prototypes {class: [d]}.
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
            to_z[b] = a * sum(parts) / (tau * length(row) * len(z))
    return to_logits, to_z
