"""The mathematics of fpl.py and finch.py again, slowly: float64, loops, dicts, another route.

Nothing here imports what it checks. Where fpl.py pads a class's clusters to a mask, this file keeps a ragged
{class: [prototype, ...]}; where it differentiates automatically, this file has the derivative worked out by hand;
where finch.py joins edges by a library, this file fills Eq. 4's adjacency matrix and walks through it.

    >>> own, other = [np.array([1.0, 0.0]), np.array([0.0, 1.0])], [np.array([-1.0, 0.0])]
    >>> z, labels = np.array([[1.0, 0.0]]), [0]
    >>> round(cpcl_loss(z, labels, {0: own, 1: other}, tau=1.0), 4)
    0.0943
    >>> unbiased = unbiased_prototypes({0: own, 1: other})
    >>> upcr_loss(z, labels, unbiased, "mean"), upcr_loss(z, labels, unbiased, "sum")
    (0.25, 0.5)
"""
import math

import numpy as np


# ---- vectors -------------------------------------------------------------------------------------------------------

def dot(a, b):
    """<a, b>, rounded once at the end."""
    return math.fsum(float(p) * float(q) for p, q in zip(a, b))


def length(a):
    """|a|; math.hypot neither overflows nor loses small entries."""
    return math.hypot(*(float(p) for p in a))


def unit(a):
    """a / |a|, and 0 for a = 0."""
    size = length(a)
    return np.array([float(p) / size if size else 0.0 for p in a])


def cosine(a, b):
    """<a, b> / (|a| |b|); a zero vector has cosine 0 to everything."""
    return dot(unit(a), unit(b))


def mean_of(rows):
    """(1/n) sum of the rows, entry by entry."""
    return np.array([math.fsum(map(float, column)) / len(rows) for column in zip(*rows)])


# ---- prototypes ----------------------------------------------------------------------------------------------------

def class_prototypes(z, labels, num_classes):
    """Eq. 2: the mean feature of each class. -> ({class: [d]} of the classes that occur, [K] counts)."""
    members = {k: [] for k in range(num_classes)}
    for row, k in zip(z, labels):
        members[int(k)].append(row)
    means = {k: mean_of(rows) for k, rows in members.items() if rows}
    return means, [len(members[k]) for k in range(num_classes)]


def cluster_prototypes(class_means, counts, partition):
    """Eq. 4-5: per class, FINCH over its holders' means, then the mean of each cluster. -> {class: [prototype, ...]}.

    A class's prototypes stand in the order of the lowest client of each cluster; a class nobody holds is not a key.
    """
    ragged = {}
    for k in range(len(counts[0])):
        rows = [class_means[m][k] for m in range(len(counts)) if counts[m][k] > 0]
        if rows:
            labels = finch(rows)[{"first": 0, "last": -1}[partition]]
            ragged[k] = cluster_means(rows, labels)
    return ragged


def cluster_means(rows, labels):
    """The mean of the rows of label 0, of label 1, ..."""
    return [mean_of([row for row, j in zip(rows, labels) if j == c]) for c in range(max(labels) + 1)]


def unbiased_prototypes(ragged):
    """Eq. 6: U_k = (1/J_k) sum_j c_kj, every cluster weighing the same however many clients it has."""
    return {k: mean_of(prototypes) for k, prototypes in ragged.items()}


# ---- losses --------------------------------------------------------------------------------------------------------

def shares(row, k, ragged, tau):
    """Every cluster's e^(cos/tau), the largest divided out. -> (own [(unit c, cos, e)], other the same).

    Right for tau > 2/700: a smaller one lets a class opposite to the largest underflow even in float64.
    """
    entries = [(i, unit(c), cosine(row, c)) for i, prototypes in ragged.items() for c in prototypes]
    largest = max(cos for _, _, cos in entries)
    weighed = [(i, c, cos, math.exp((cos - largest) / tau)) for i, c, cos in entries]
    return [entry[1:] for entry in weighed if entry[0] == k], [entry[1:] for entry in weighed if entry[0] != k]


def cpcl_of_one(row, k, ragged, tau):
    """Eq. 9 for one sample: -log(P / (P + N)) = log(1 + N/P); 0 where its class has no prototype."""
    if not ragged.get(k):
        return 0.0
    own, other = shares(row, k, ragged, tau)
    P, N = math.fsum(e for _, _, e in own), math.fsum(e for _, _, e in other)
    return math.log1p(N / P)


def cpcl_loss(z, labels, ragged, tau):
    """Eq. 8-9, mean over the batch; samples without a prototype add 0 and count."""
    return math.fsum(cpcl_of_one(row, int(k), ragged, tau) for row, k in zip(z, labels)) / len(z)


def cpcl_grad_of_one(row, k, ragged, tau):
    """d log(1 + N/P) / dz.

    With L = log(P + N) - log(P): dL/dcos_j = e_j / (tau (P + N)) for another class's cluster, and for an own one
    e_j / (tau (P + N)) - e_j / (tau P) = -e_j N / (tau P (P + N)). dcos_j/dz = (unit c_j - cos_j unit z) / |z|.
    """
    size = length(row)
    if not ragged.get(k) or size == 0:
        return np.zeros(len(row))
    own, other = shares(row, k, ragged, tau)
    P, N = math.fsum(e for _, _, e in own), math.fsum(e for _, _, e in other)
    slopes = [(c, cos, -e / P * N / (P + N)) for c, cos, e in own] + [(c, cos, e / (P + N)) for c, cos, e in other]
    towards = [slope * (c - cos * unit(row)) for c, cos, slope in slopes]
    return np.array([math.fsum(column) for column in zip(*towards)]) / (tau * size)


def cpcl_grad(z, labels, ragged, tau):
    """Derivative of cpcl_loss with respect to z. -> [B,d]"""
    return np.array([cpcl_grad_of_one(row, int(k), ragged, tau) / len(z) for row, k in zip(z, labels)])


def upcr_loss(z, labels, unbiased, reduce):
    """Eq. 10: the sum (or the mean) over d of (z - U_k)^2, mean over the batch; an unknown class adds 0."""
    total = []
    for row, k in zip(z, labels):
        if int(k) in unbiased:
            squares = math.fsum((float(a) - float(b)) ** 2 for a, b in zip(row, unbiased[int(k)]))
            total.append(squares / {"sum": 1, "mean": len(row)}[reduce])
    return math.fsum(total) / len(z)


def upcr_grad(z, labels, unbiased, reduce):
    """Derivative of upcr_loss with respect to z: 2 (z - U_k) / B; the mean divides by d as well. -> [B,d]"""
    grad = np.zeros((len(z), len(z[0])))
    for b, (row, k) in enumerate(zip(z, labels)):
        if int(k) in unbiased:
            for i in range(len(row)):
                scale = len(z) * {"sum": 1, "mean": len(row)}[reduce]
                grad[b, i] = 2 * (float(row[i]) - float(unbiased[int(k)][i])) / scale
    return grad


# ---- server, optimiser, batch norm ---------------------------------------------------------------------------------

def weighted_mean(trees, weights):
    """theta = sum_m w_m theta_m / sum_m w_m, entry by entry, rounded once in the sum. trees: dicts name -> array."""
    total = math.fsum(map(float, weights))
    mean = {}
    for name in trees[0]:
        columns = zip(*(np.asarray(tree[name], np.float64).ravel() for tree in trees))
        entries = [math.fsum(float(w) * float(v) for w, v in zip(weights, column)) / total for column in columns]
        mean[name] = np.array(entries).reshape(np.shape(trees[0][name]))
    return mean


def sgd_step(param, velocity, grad, lr, momentum, weight_decay):
    """g <- g + wd p; v <- momentum v + g; p <- p - lr v (PyTorch's order). Arrays of one shape -> (param, velocity)."""
    new_param, new_velocity = np.zeros(np.shape(param)), np.zeros(np.shape(param))
    for i in np.ndindex(np.shape(param)):
        slope = float(grad[i]) + weight_decay * float(param[i])
        new_velocity[i] = momentum * float(velocity[i]) + slope
        new_param[i] = float(param[i]) - lr * new_velocity[i]
    return new_param, new_velocity


def batch_norm(x, weight, bias, eps):
    """y = weight (x - mean) / sqrt(var + eps) + bias per channel. x [N,C,H,W] -> (y, mean [C], biased var [C])."""
    y, means, variances = np.zeros(np.shape(x)), [], []
    for c in range(np.shape(x)[1]):
        values = [float(v) for v in np.asarray(x)[:, c].ravel()]
        mean = math.fsum(values) / len(values)
        variance = math.fsum((v - mean) ** 2 for v in values) / len(values)
        scaled = [float(weight[c]) * (v - mean) / math.sqrt(variance + eps) + float(bias[c]) for v in values]
        y[:, c] = np.reshape(scaled, y[:, c].shape)
        means.append(mean)
        variances.append(variance)
    return y, np.array(means), np.array(variances)


def running_statistics(running_mean, running_var, mean, var, n, momentum=0.1):
    """running <- 0.9 running + 0.1 new, the new variance unbiased: var n / (n - 1), n = N H W values a channel."""
    keep = 1 - momentum
    new_mean = [keep * float(old) + momentum * float(new) for old, new in zip(running_mean, mean)]
    new_var = [keep * float(old) + momentum * float(new) * n / (n - 1) for old, new in zip(running_var, var)]
    return np.array(new_mean), np.array(new_var)


# ---- FINCH ---------------------------------------------------------------------------------------------------------

def first_neighbour(m, units):
    """v_m of Eq. 4: the most similar other row; similarities within 4 d 2^-53 of the largest tie, the lowest row wins."""
    similarity = {n: dot(units[m], units[n]) for n in range(len(units)) if n != m}
    margin = 4 * len(units[m]) * 2.0**-53
    return min(n for n, s in similarity.items() if s >= max(similarity.values()) - margin)


def adjacency(rows):
    """Eq. 4: A[m][n] is true if n = v_m, or m = v_n, or v_m = v_n."""
    units = [unit(row) for row in rows]
    v = [first_neighbour(m, units) for m in range(len(rows))]
    everyone = range(len(rows))
    return [[n == v[m] or m == v[n] or v[m] == v[n] for n in everyone] for m in everyone]


def components(linked):
    """Connected components by breadth-first search from the lowest row not yet reached. -> [n] labels"""
    labels = [None] * len(linked)
    count = 0
    for start in range(len(linked)):
        if labels[start] is not None:
            continue
        labels[start], queue = count, [start]
        for m in queue:
            for n, is_linked in enumerate(linked[m]):
                if is_linked and labels[n] is None:
                    labels[n] = count
                    queue.append(n)
        count += 1
    return labels


def finch(x):
    """Partitions of the rows of x, finest first; never ends in one cluster unless it starts there. -> list of [n]"""
    if len(x) < 2:
        return [np.zeros(1, int)] if len(x) else []
    partitions = [components(adjacency(x))]
    while True:
        finer = partitions[-1]
        joined = components(adjacency(cluster_means(x, finer))) if max(finer) > 0 else finer
        if max(joined) == 0 or max(joined) == max(finer):
            return [np.array(p) for p in partitions]
        partitions.append([joined[j] for j in finer])


# ---- the compared methods ------------------------------------------------------------------------------------------
# A network is a dict name -> array. What a method adds up round by round is here one sum over all its rounds.

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
    """-log softmax(row)[k] = log sum_i e^(row_i - row_k); the largest is taken out of the exponents."""
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
    """MOON (Li et al. 2021, Eq. 3) for one sample: -log(G / (G + P)); G, P = e^(cos(z, z_global or z_previous) / T).

    Right for T > 2/700, below which G or P leaves float64.
    """
    G, P = (math.exp(cosine(row, reference) / temperature) for reference in (towards, away))
    return math.log1p(P / G)


def moon_term(z, z_global, z_previous, temperature):
    """The mean over the batch."""
    return math.fsum(moon_of_one(*rows, temperature) for rows in zip(z, z_global, z_previous)) / len(z)


def moon_grad(z, z_global, z_previous, temperature):
    """Derivative of moon_term with respect to z. -> [B,d]

    dL/dcos_previous = P / (T (G + P)) = -dL/dcos_global; dcos_c/dz = (unit c - cos_c unit z) / |z|; 0 where z = 0.
    """
    grad = np.zeros((len(z), len(z[0])))
    for b, (row, towards, away) in enumerate(zip(z, z_global, z_previous)):
        if length(row) > 0:
            share = -math.expm1(-moon_of_one(row, towards, away, temperature))  # P / (G + P)
            apart = cosine(row, away) - cosine(row, towards)
            for i in range(len(row)):
                across = float(unit(away)[i]) - float(unit(towards)[i]) - apart * float(unit(row)[i])
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
    """The server's network after its rounds [(mean, start, share), ...]; mean and start are networks.

    h = -alpha sum_r share_r (mean_r - start_r) and the network is mean - h/alpha: alpha cancels.
    """
    moves = [combined(lambda a, b, share=share: share * (a - b), mean, start) for mean, start, share in rounds]
    return combined(lambda mean, *moved: math.fsum((mean, *moved)), rounds[-1][0], *moves)


def fedopt_server(params, deltas, lr, momentum, optimizer):
    """The server's network after rounds with these deltas (mean of the clients - network), Reddi et al. 2021, Alg. 2.

    Round t moves it by lr m_t, m_t = sum_s momentum^(t-s) delta_s ("sgd"), or by lr m_t / (sqrt(v_t) + 1e-3), m_t =
    (1 - momentum) sum_s momentum^(t-s) delta_s, v_t = 0.99^t 1e-6 + 0.01 sum_s 0.99^(t-s) delta_s^2 ("adam"); rounds
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
                v = 0.99 ** t * 1e-6 + 0.01 * decayed(0.99, squares)
                moves.append(lr * (1 - momentum) * decayed(momentum, steps[:t]) / (math.sqrt(v) + 1e-3))
        return math.fsum((start, *moves))

    return combined(moved, params, *deltas)


def global_prototypes(class_means, counts):
    """FPL's Eq. 3: per class, the plain mean over the clients that hold it. -> {class: [d]} of the classes held."""
    held = {k: [row[k] for row, count in zip(class_means, counts) if count[k] > 0] for k in range(len(counts[0]))}
    return {k: mean_of(rows) for k, rows in held.items() if rows}


def fedproc_weight(number, rounds):
    """The weight of the contrastive loss in round number, from 1 to rounds: 0 in the last (Mu et al. 2023)."""
    return 1 - number / rounds


def fedproc_loss(logits, z, labels, prototypes, tau, a):
    """a GPC + (1 - a) CE, GPC being cross-entropy over cos(z, prototype)/tau of the known classes; CE alone if unknown.

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
            parts = [slope * (unit(prototypes[i]) - cos * unit(row)) for slope, cos, i in zip(slopes, cosines, known)]
            to_z[b] = a * np.array([math.fsum(column) for column in zip(*parts)]) / (tau * length(row) * len(z))
    return to_logits, to_z


# ---- derivatives ---------------------------------------------------------------------------------------------------

def finite_difference(f, x, h):
    """(f(x + h e_i) - f(x - h e_i)) / 2h for every entry i; the error is of order h^2 f''' + 2^-53 |f| / h."""
    x = np.array(x, np.float64)
    slope = np.zeros(x.shape)
    for i in np.ndindex(x.shape):
        up, down = x.copy(), x.copy()
        up[i] += h
        down[i] -= h
        slope[i] = (f(up) - f(down)) / (up[i] - down[i])
    return slope
