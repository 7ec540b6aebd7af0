"""The mathematics of fpl.py and finch.py again, slowly: float64, loops, dicts, another route.

Nothing here imports what it checks. Where fpl.py pads a class's clusters to a mask, this file keeps
a ragged {class: [prototype, ...]}; where it differentiates automatically, this file has the
derivative worked out by hand; where finch.py joins edges by a library, this file fills Eq. 4's
adjacency matrix and walks through it.

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

# ---- vectors

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


# ---- prototypes

def class_prototypes(z, labels, num_classes):
    """Eq. 2: the mean feature of each class. -> {class: [d]} of those that occur, counts [K]."""
    members = {k: [] for k in range(num_classes)}
    for row, k in zip(z, labels):
        members[int(k)].append(row)
    means = {k: mean_of(rows) for k, rows in members.items() if rows}
    return means, [len(members[k]) for k in range(num_classes)]

def cluster_prototypes(class_means, counts, partition):
    """Eq. 4-5: per class, FINCH over its holders' means, then the mean of each cluster.

    -> {class: [prototype, ...]}, in the order of the lowest client
    of each cluster; a class that nobody holds is not a key.
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
    of_label = [[row for row, j in zip(rows, labels) if j == c] for c in range(max(labels) + 1)]
    return [mean_of(members) for members in of_label]

def unbiased_prototypes(ragged):
    """Eq. 6: U_k = (1/J_k) sum_j c_kj, whatever number of clients each cluster has."""
    return {k: mean_of(prototypes) for k, prototypes in ragged.items()}


# ---- losses

def log_sum_exp(values):
    """log of the sum of e^value, the largest taken out; minus infinity for no value."""
    largest = max(values, default=-math.inf)
    if largest == -math.inf:
        return -math.inf
    return largest + math.log(math.fsum(math.exp(value - largest) for value in values))

def similarities(row, k, ragged, tau):
    """(unit c, cos, cos / tau) of every cluster prototype: of class k, of the others."""
    own, other = [], []
    for i, prototypes in ragged.items():
        for c in prototypes:
            cos = cosine(row, c)
            (own if i == k else other).append((unit(c), cos, cos / tau))
    return own, other

def cpcl_of_one(row, k, ragged, tau):
    """Eq. 9 for one sample: -log(P / (P + N)) = log(1 + N/P); 0 where its class has no prototype.

    Only log N - log P is needed, so that no tau is too small.
    """
    if not ragged.get(k):
        return 0.0
    own, other = similarities(row, k, ragged, tau)
    gap = log_sum_exp([s for _, _, s in other]) - log_sum_exp([s for _, _, s in own])
    return max(gap, 0.0) + math.log1p(math.exp(-abs(gap)))

def cpcl_loss(z, labels, ragged, tau):
    """Eq. 8-9, mean over the batch; samples without a prototype add 0 and count."""
    return math.fsum(cpcl_of_one(row, int(k), ragged, tau) for row, k in zip(z, labels)) / len(z)

def cpcl_grad_of_one(row, k, ragged, tau):
    """d log(1 + N/P) / dz = N / (P + N) * (d log N / dz - d log P / dz).

    d log P / dcos_j = e^(cos_j / tau) / (tau P), likewise for N, and dcos_j / dz =
    (unit c_j - cos_j unit z) / |z|. A zero feature has gradient zero.
    """
    size = length(row)
    if not ragged.get(k) or size == 0:
        return np.zeros(len(row))
    own, other = similarities(row, k, ragged, tau)
    log_p, log_n = (log_sum_exp([s for _, _, s in some]) for some in (own, other))
    share = math.exp(-log_sum_exp([0.0, log_p - log_n])) if other else 0.0  # N / (P + N)
    slopes = [(c, cos, -share * math.exp(s - log_p)) for c, cos, s in own]
    slopes += [(c, cos, share * math.exp(s - log_n)) for c, cos, s in other]
    towards = [slope * (c - cos * unit(row)) for c, cos, slope in slopes]
    return np.array([math.fsum(column) for column in zip(*towards)]) / (tau * size)

def cpcl_grad(z, labels, ragged, tau):
    """Derivative of cpcl_loss with respect to z. -> [B,d]"""
    rows = [cpcl_grad_of_one(row, int(k), ragged, tau) for row, k in zip(z, labels)]
    return np.array(rows) / len(z)

def upcr_loss(z, labels, unbiased, reduce):
    """Eq. 10: the sum or mean over d of (z - U_k)^2, mean over the batch; 0 without a U_k."""
    total = []
    for row, k in zip(z, labels):
        if int(k) in unbiased:
            squares = math.fsum((float(a) - float(b)) ** 2 for a, b in zip(row, unbiased[int(k)]))
            total.append(squares / {"sum": 1, "mean": len(row)}[reduce])
    return math.fsum(total) / len(z)

def upcr_grad(z, labels, unbiased, reduce):
    """Derivative of upcr_loss by z: 2 (z - U_k) / B; the mean divides by d as well. -> [B,d]"""
    grad = np.zeros((len(z), len(z[0])))
    scale = len(z) * {"sum": 1, "mean": len(z[0])}[reduce]
    for b, (row, k) in enumerate(zip(z, labels)):
        if int(k) in unbiased:
            grad[b] = [2 * (float(p) - float(q)) / scale for p, q in zip(row, unbiased[int(k)])]
    return grad


# ---- server, optimiser, batch norm

def weighted_mean(trees, weights):
    """theta = sum_m w_m theta_m / sum_m w_m, entry by entry. trees: dicts name -> array."""
    total = math.fsum(map(float, weights))
    mean = {}
    for name in trees[0]:
        columns = zip(*(np.asarray(tree[name], np.float64).ravel() for tree in trees))
        weighted = [[float(w) * float(v) for w, v in zip(weights, column)] for column in columns]
        entries = [math.fsum(products) / total for products in weighted]
        mean[name] = np.array(entries).reshape(np.shape(trees[0][name]))
    return mean

def sgd_step(param, velocity, grad, lr, momentum, weight_decay):
    """g <- g + wd p; v <- momentum v + g; p <- p - lr v (PyTorch's order). -> param, velocity"""
    new_param, new_velocity = np.zeros(np.shape(param)), np.zeros(np.shape(param))
    for i in np.ndindex(np.shape(param)):
        slope = float(grad[i]) + weight_decay * float(param[i])
        new_velocity[i] = momentum * float(velocity[i]) + slope
        new_param[i] = float(param[i]) - lr * new_velocity[i]
    return new_param, new_velocity

def batch_norm(x, weight, bias, eps):
    """y = weight (x - mean) / sqrt(var + eps) + bias, channel by channel.

    x [N,C,H,W] -> y, mean [C], biased variance [C].
    """
    y, means, variances = np.zeros(np.shape(x)), [], []
    for c in range(np.shape(x)[1]):
        values = [float(v) for v in np.asarray(x)[:, c].ravel()]
        mean = math.fsum(values) / len(values)
        variance = math.fsum((v - mean) ** 2 for v in values) / len(values)
        slope = float(weight[c]) / math.sqrt(variance + eps)
        scaled = [slope * (v - mean) + float(bias[c]) for v in values]
        y[:, c] = np.reshape(scaled, y[:, c].shape)
        means.append(mean)
        variances.append(variance)
    return y, np.array(means), np.array(variances)

def running_statistics(running_mean, running_var, mean, var, n, momentum=0.1):
    """running <- 0.9 running + 0.1 new, the new variance unbiased: var n / (n - 1), n = N H W."""
    keep = 1 - momentum
    new_mean = [keep * float(old) + momentum * float(new) for old, new in zip(running_mean, mean)]
    unbiased = [float(new) * n / (n - 1) for new in var]
    new_var = [keep * float(old) + momentum * new for old, new in zip(running_var, unbiased)]
    return np.array(new_mean), np.array(new_var)


# ---- FINCH

def first_neighbour(m, units):
    """v_m of Eq. 4: the most similar other row.

    Similarities within 4 d 2^-53 of the largest are a tie, which the lowest row wins.
    """
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
    """Connected components: breadth first from the lowest row not yet reached. -> labels [n]"""
    labels, count = [None] * len(linked), 0
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
    """Partitions of x's rows, finest first; one cluster of all rows only as the finest. -> [[n]]"""
    if len(x) < 2:
        return [np.zeros(1, int)] if len(x) else []
    partitions = [components(adjacency(x))]
    while True:
        finer = partitions[-1]
        joined = components(adjacency(cluster_means(x, finer))) if max(finer) > 0 else finer
        if max(joined) == 0 or max(joined) == max(finer):
            return [np.array(p) for p in partitions]
        partitions.append([joined[j] for j in finer])


# ---- derivatives

def finite_difference(f, x, h):
    """(f(x + h e_i) - f(x - h e_i)) / 2h for every entry i.

    The error is of order h^2 f''' + 2^-53 |f| / h.
    """
    x = np.array(x, np.float64)
    slope = np.zeros(x.shape)
    for i in np.ndindex(x.shape):
        up, down = x.copy(), x.copy()
        up[i] += h
        down[i] -= h
        slope[i] = (f(up) - f(down)) / (up[i] - down[i])
    return slope
