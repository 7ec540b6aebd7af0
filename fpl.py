"""FPL: clients of several domains train one network together, guided by prototypes.

After Huang, Ye, Shi, Li, Du, "Rethinking Federated Learning with Domain Shift: A Prototype View",
CVPR 2023. Sections 1 to 7 are FPL, sections 8 and 9 its equipment.

Algorithm 1                                                                here
    for each of E rounds:                                                  run
        for each client that takes part:                                   server_round
            start from the server's network, T epochs of SGD on            client_update
                cross-entropy (CE) + CPCL + UPCR                           local_loss
            send the network and, per class, the mean feature              class_prototypes
        average the networks, weighted by numbers of images                weighted_mean
        per class: cluster the clients' mean features                      cluster_members
        per class: average each cluster                                    cluster_means
        per class: average the averages of its clusters                    unbiased_prototypes

There are M clients, K classes and B images in a batch. A feature z, of width d, is what the last
linear layer reads. A domain is where images come from, such as photographs of house numbers. A
class mean is the mean feature of a client's images of a class. A cluster prototype, the mean of a
cluster of class means, gives a domain its voice. The plain mean of a class's cluster prototypes is
its unbiased prototype: no domain dominates it by its number of clients. CPCL is the loss that draws
z to the cluster prototypes of its class, away from all others; UPCR draws it to the unbiased one.

Two rounds from Python, on small stand-ins for the digits that come with lab/ (see `sources`):

    import fpl
    from lab.data.load import load

    train, tests, sources = load("digits")
    cfg = fpl.Config(rounds=2, local_epochs=1, width=4, lr=0.02, fraction=0.05)
    clients = fpl.split(train, cfg)
    for state, log in fpl.run(clients, tests, cfg):
        print(log["round"], log["loss"], log["accuracy"])
    print(state.prototypes.mask.sum(axis=1), "cluster prototypes of each class")
"""
import dataclasses
import functools
import math
import os
import time
from typing import NamedTuple

# Both are read while MindSpore is loaded. With AVX-512 oneDNN takes 46 times as long for a
# convolution in MindSpore's layout as with AVX2. The other one keeps MindSpore's log to errors.
os.environ.setdefault("ONEDNN_MAX_CPU_ISA", "AVX2")
os.environ.setdefault("GLOG_v", "3")

import mindspore as ms
import numpy as np
from mindspore import Tensor, ops

from finch import finch

# On a CPU the calling thread would spin while a kernel runs, on a core that the kernel could use.
# MindSpore's own threads do not read OMP_NUM_THREADS. A number beyond 999 is a slip, not taken.
if ms.get_context("device_target") == "CPU":
    ms.runtime.launch_blocking()
if (threads := os.environ.get("OMP_NUM_THREADS", "")).isdecimal() and len(threads) < 4:
    ms.set_context(runtime_num_threads=max(1, int(threads)))

# ---------------------------------------------------------------- 1. settings
@dataclasses.dataclass(frozen=True)
class Config:
    """The numbers of a run, by default of Sec. 4.1. Where sources disagree, "text" is the paper's
    text and "code" the released code. Only lab/ reads task, alpha, size, test_images, device."""
    task: str = "digits"            # the set of domains, here MNIST, USPS, SVHN and SYN
    classes: int = 10               # K
    clients: tuple = (6, 4, 3, 7)   # of each domain (code, Table 2); 3, 7, 6, 4 (text)
    fraction: float = 0.01          # of a domain's images, for each client
    alpha: float = 0.0              # of Dirichlet, which skews the clients' labels; 0: no skew
    participation: float = 1.0      # share of the clients that train in a round
    seed: int = 0
    rounds: int = 100               # E
    local_epochs: int = 10          # T
    batch_size: int = 64
    width: int = 64                 # channels of the network's first stage; d = 8 * width
    lr: float = 0.01
    momentum: float = 0.9           # of SGD; it starts at zero in each turn of a client
    weight_decay: float = 1e-5
    tau: float = 0.02               # temperature of CPCL (Eq. 7)
    cpcl: float = 1.0               # weight of CPCL in Eq. 12; 0 switches it off
    upcr: float = 1.0               # weight of UPCR in Eq. 12; 0 switches it off
    partition: str = "first"        # of FINCH, the clustering: its finest (Eq. 4); "last" (code)
    upcr_reduce: str = "mean"       # over the d dimensions (code, Table 2); "sum" (Eq. 10)
    prototypes_from: str = "final"  # class means: trained (Alg. 1); "running": in training (code)
    augment: str = "none"           # the text is silent; "crop-flip" (the PyTorch code)
    test_images: int = 0            # most test images of a domain; 0: all
    size: int = 32                  # pixels a side
    device: str = "CPU"             # of MindSpore

# ---------------------------------------------------------------- 2. what travels, what stays
class Client(NamedTuple):
    """Stays where it is."""
    images: np.ndarray  # [n,h,w,3] uint8
    labels: np.ndarray  # [n] int32
    domain: str

class Prototypes(NamedTuple):
    """Server to clients. A class has at most J = max(1, M // 2) clusters, see `cluster_members`.
    The mask says which of them there are. It is False for a class that no client of the round
    before held, and so for every class in round 1."""
    clusters: np.ndarray  # [K,J,d]
    mask: np.ndarray      # [K,J] bool
    unbiased: np.ndarray  # [K,d]

class ServerState(NamedTuple):
    """Server to clients, and all that goes from one round to the next."""
    round: int      # how many are done
    params: Tensor  # [P] float32: all weights, one after another; `views` names them
    stats: Tensor   # [S] float32: batch norm's running means and variances
    prototypes: Prototypes

class ClientUpdate(NamedTuple):
    """Client to server."""
    params: Tensor           # [P]
    stats: Tensor            # [S]
    class_means: np.ndarray  # [K,d]; zero for a class that the client does not hold
    counts: np.ndarray       # [K] images of each class
    loss: float              # mean over the client's batches

# ---------------------------------------------------------------- 3. prototypes
def class_prototypes(z, labels, num_classes):
    """A client's mean feature of each class (Eq. 2). z [n,d] -> class_means [K,d], counts [K]."""
    z, labels = np.asarray(z, np.float64), np.asarray(labels, int)
    counts = np.bincount(labels, minlength=num_classes)
    sums = np.zeros((num_classes, z.shape[1]))
    np.add.at(sums, labels, z)
    return (sums / np.maximum(counts, 1)[:, None]).astype(np.float32), counts

def cluster_prototypes(class_means, counts, partition):
    """Cluster the clients' means of each class and average each cluster (Eq. 4-5), at once.
    class_means [M,K,d], counts [M,K], partition "first" | "last" -> clusters [K,J,d], mask [K,J].
    """
    return cluster_means(class_means, cluster_members(class_means, counts, partition))

def cluster_members(class_means, counts, partition):
    """Which cluster of its class each client's mean belongs to (Eq. 4): [M,K] int, -1 for none.

    FINCH runs class by class: mean features of one class are so alike, whatever the domain, that
    all classes together would give a cluster for each class. Within a class the domain is what is
    left to tell them apart, so that a cluster is about a domain.

    FINCH links each mean to the one that is most similar to it, by the cosine, and whatever hangs
    together by links is a cluster: if A is linked to B and B to C, the three are one. Every mean
    has a link, so a cluster has two members or more, and M clients make at most M // 2 clusters.
    Only the sole holder of a class is a cluster alone. This partition is the finest, "first".
    FINCH goes on by linking the clusters' means in the same way, and stops before all become one
    cluster, unless they did at first; that partition is the coarsest, "last".
    """
    class_means, counts = np.asarray(class_means, np.float64), np.asarray(counts)
    members = np.full(counts.shape, -1)
    for k in range(counts.shape[1]):
        holders = np.flatnonzero(counts[:, k] > 0)
        if len(holders):
            partitions = finch(class_means[holders, k])  # of each row its cluster, finest first
            members[holders, k] = partitions[0 if partition == "first" else -1]
    return members

def cluster_means(class_means, members):
    """The mean of each cluster (Eq. 5). class_means [M,K,d], members [M,K] -> clusters, mask."""
    class_means = np.asarray(class_means, np.float64)
    num_clients, num_classes, d = class_means.shape
    clusters = np.zeros((num_classes, max(1, num_clients // 2), d), np.float32)
    mask = np.zeros(clusters.shape[:2], bool)
    for k in range(num_classes):
        for j in range(members[:, k].max() + 1):
            clusters[k, j] = class_means[members[:, k] == j, k].mean(axis=0)
            mask[k, j] = True
    return clusters, mask

def unbiased_prototypes(clusters, mask):
    """The plain mean of a class's cluster prototypes (Eq. 6). clusters [K,J,d] -> unbiased [K,d].

    A mean over the clients is biased: the domain with the most clients draws it to itself. In this
    mean each cluster counts once, however many clients stand behind it. A domain that has several
    clusters still counts several times: the bias is reduced, not removed.
    """
    clusters, mask = np.asarray(clusters, np.float64), np.asarray(mask)
    sums = np.where(mask[..., None], clusters, 0).sum(axis=1)
    return (sums / np.maximum(mask.sum(axis=1), 1)[:, None]).astype(np.float32)

# ---------------------------------------------------------------- 4. losses
def cpcl_loss(z, labels, clusters, mask, tau):
    """Cluster prototypes contrastive loss (Eq. 8-9).
    z [B,d], labels [B], clusters [K,J,d], mask [K,J] bool, tau > 0 -> scalar.
    With s = cos(z, prototype) / tau, let P be the sum of e^s over the cluster prototypes of the
    sample's own class, and N the sum over those of all other classes. The sample costs
    -log(P / (P + N)) = log(1 + N / P). All of P stands inside one log: it is enough that z is near
    one prototype of its class, that of its domain, and no domain is dragged onto another. A small
    tau lets the prototypes most similar to z decide alone; with a large tau all count alike.
    A sample whose class has no prototype costs 0 and counts in the mean over the batch.
    Example: z = (1,0), own (1,0) and (0,1), other (-1,0), tau = 1: ln(1 + e^-1 / (e + 1)) = 0.0943.
    """
    num_classes, most, d = clusters.shape
    exists = mask.reshape(1, num_classes * most)
    clusters = unit(ops.where(mask.expand_dims(-1), clusters, 0.0))      # padding may hold anything
    similarity = ops.matmul(unit(z), clusters.reshape(num_classes * most, d).T) / tau      # Eq. 7
    class_of_column = ops.arange(num_classes * most).expand_dims(0) // most
    own = labels.expand_dims(1) == class_of_column                       # [B,K*J]
    positive, negative = own & exists, ~own & exists
    log_p = logsumexp(ops.where(positive, similarity, -3e38))            # -inf - -inf is NaN
    log_n = logsumexp(ops.where(negative, similarity, -3e38))
    return ops.where(positive.any(1), softplus(log_n - log_p), 0.0).mean()

def upcr_loss(z, labels, unbiased, known, reduce):
    """Unbiased prototypes consistent regularisation (Eq. 10).
    z [B,d], labels [B], unbiased [K,d], known [K] bool: the class has a prototype, reduce "mean" |
    "sum" over the d dimensions -> scalar. A sample costs the squared distance to its class's
    unbiased prototype. CPCL sees only angles and lets every domain keep a place of its own; UPCR
    adds one point, the same for all domains, that the features of a class are held to, their
    length included. A sample whose class is not known costs 0 and counts in the batch's mean.
    Example: z = (1,0), unbiased (0.5,0.5): 0.25 (mean), 0.5 (sum).
    """
    square = (z - ops.where(known.expand_dims(-1), unbiased, 0.0)[labels]) ** 2
    distance = square.sum(1) if reduce == "sum" else square.mean(1)
    return ops.where(known[labels], distance, 0.0).mean()

def local_loss(p, x, labels, clusters, mask, unbiased, tau, cpcl, upcr, upcr_reduce):
    """Eq. 12: CE + cpcl * CPCL + upcr * UPCR. In round 1, where the mask is False, it is CE alone.
    p: weights by name, x [B,3,h,w], labels [B] -> scalar, z [B,d], batch norm's statistics [S]."""
    logits, z, batch_stats = network(p, None, x)  # None: batch norm is in training mode
    loss = cross_entropy(logits, labels).mean()
    loss = loss + cpcl * cpcl_loss(z, labels, clusters, mask, tau)
    loss = loss + upcr * upcr_loss(z, labels, unbiased, mask.any(1), upcr_reduce)
    return loss, z, batch_stats

# ---------------------------------------------------------------- 5. a client's turn
def client_update(state, client, rng, cfg):
    """LocalUpdating of Algorithm 1: T epochs of SGD on Eq. 12, then the class means (Eq. 2).
    By default the class means are taken with the trained network in evaluation mode: batch norm
    then uses the running statistics, which this client has just trained along with the weights.
    """
    params, stats, velocity = state.params, state.stats, ops.zeros_like(state.params)
    step = sgd_step(local_loss, cfg.width, cfg.classes, cfg.upcr_reduce)
    sgd = tensors(cfg.lr, cfg.momentum, cfg.weight_decay)
    received = tensors(*state.prototypes, cfg.tau, cfg.cpcl, cfg.upcr)  # as local_loss takes them
    losses = []
    for _ in range(cfg.local_epochs):
        features = []
        for images, labels in batches(client, cfg, rng):
            params, velocity, stats, loss, z = step(
                params, velocity, stats, network_input(images), Tensor(labels), *sgd, *received)
            losses.append(loss)
            features.append((z, labels))
    means_and_counts = local_prototypes(params, stats, client, features, cfg)
    return ClientUpdate(params, stats, *means_and_counts, float(np.mean([*map(float, losses)])))

@functools.cache
def sgd_step(loss, width, num_classes, *constants):
    """One step of SGD with momentum and weight decay, compiled at its first call for all batches.

    loss(p, x, labels, *received, *constants) -> scalar, z [B,d], batch norm's statistics [S].
    received are Tensors, new ones at each call; constants are compiled in, such as upcr_reduce.
    step(params [P], velocity [P], stats [S], x, labels, lr, momentum, weight_decay, *received)
    -> params, velocity and stats after the step, the loss before it, z.
    """
    shapes = param_shapes(width, num_classes)

    def loss_of_parts(parts, x, labels, *received):
        p = {name: part for (name, _), part in zip(shapes, parts)}
        return loss(p, x, labels, *received, *constants)

    # By each array, then joined: faster than by the vector, which would go back through `views`.
    loss_and_gradient = ms.value_and_grad(loss_of_parts, 0, has_aux=True)
    @ms.enable_dynamic(x=ANY_BATCH, labels=ANY_LABELS)
    @ms.jit
    def step(params, velocity, stats, x, labels, lr, momentum, weight_decay, *received):
        parts = tuple(views(params, shapes).values())
        (value, z, batch_stats), gradient = loss_and_gradient(parts, x, labels, *received)
        gradient = ops.cat([part.reshape(-1) for part in gradient])
        velocity = momentum * velocity + (gradient + weight_decay * params)
        stats = (1 - BN_MOMENTUM) * stats + BN_MOMENTUM * batch_stats
        return params - lr * velocity, velocity, stats, value, z

    return step

def local_prototypes(params, stats, client, features, cfg):
    """The class means that a client sends. features: z and labels of the last epoch's batches."""
    if cfg.prototypes_from == "final":
        z = predict(params, stats, client.images)[1]
        return class_prototypes(z, client.labels, cfg.classes)
    z = np.concatenate([z.asnumpy() for z, _ in features])  # the weights moved, batch by batch
    return class_prototypes(z, np.concatenate([labels for _, labels in features]), cfg.classes)

# ---------------------------------------------------------------- 6. the server's round
def server_round(state, clients, cfg, engine=map):
    """One round of Algorithm 1 -> the next ServerState, and what the round tells of itself.
    engine(function, items) applies the function to each item, a tuple of the state, a Client and
    more, and yields the results in order: map does it here, lab/many has engines for more cores."""
    chosen = participants(cfg, len(clients), state.round + 1)
    turns = [(state, clients[m], stream(cfg, "client", state.round + 1, m), cfg) for m in chosen]
    # each client trains, and the networks are averaged
    sizes = [len(client.labels) for client in clients]
    params, stats, told = weighted_mean(engine(client_turn, turns), chosen, sizes)
    # per class: the clients' means are clustered, and each cluster is averaged
    members = cluster_members(told["class_means"], told["counts"], cfg.partition)
    clusters, mask = cluster_means(told["class_means"], members)
    # per class: the cluster prototypes are averaged
    prototypes = Prototypes(clusters, mask, unbiased_prototypes(clusters, mask))
    return ServerState(state.round + 1, params, stats, prototypes), {**told, "members": members}

def participants(cfg, num_clients, round_number):
    """The clients that train in this round, ascending: a share drawn by seed, at least one."""
    how_many = max(1, round(cfg.participation * num_clients))
    drawn = stream(cfg, "participants", round_number).permutation(num_clients)[:how_many]
    return sorted(drawn.tolist())

def client_turn(arguments):
    """client_update of a tuple of its arguments, since an engine's items are single things."""
    return client_update(*arguments)

def weighted_mean(updates, chosen, sizes):
    """The average network: the sum of |D_m| / |D| * network_m over the chosen clients (Alg. 1).
    updates: their ClientUpdates, taken one at a time, so that memory does not grow with M, and
    added up in float64 in this order; sizes: |D_m| of all M clients; |D|: the chosen ones' sum.
    -> params, stats, told: class_means [M,K,d] and counts [M,K], zero for a client that did not
    take part, and losses {client: loss}.
    Raises FloatingPointError that names the first client with a number that is not finite.
    """
    params, stats, class_means, counts, losses = 0.0, 0.0, {}, {}, {}
    total = sum(sizes[m] for m in chosen)
    for m, update in zip(chosen, updates, strict=True):
        sent = update._replace(params=update.params.asnumpy(), stats=update.stats.asnumpy())
        if not all(np.isfinite(numbers).all() for numbers in sent):
            raise FloatingPointError(f"client {m}: not every number that it sends is finite")
        params = params + sizes[m] / total * sent.params.astype(np.float64)
        stats = stats + sizes[m] / total * sent.stats.astype(np.float64)
        class_means[m], counts[m], losses[m] = sent.class_means, sent.counts, sent.loss
    told = {"losses": losses}
    for name, of_client in ("class_means", class_means), ("counts", counts):
        absent = np.zeros_like(of_client[chosen[0]])
        told[name] = np.stack([of_client.get(m, absent) for m in range(len(sizes))])
    return Tensor(params.astype(np.float32)), Tensor(stats.astype(np.float32)), told

# ---------------------------------------------------------------- 7. run
def run(clients, tests, cfg, state=None, engine=map, server_round=server_round):
    """Train from state, by default round 0, to round cfg.rounds; yield (state, log) after each.
    clients: M Clients; tests: {domain: (images, labels)}; engine: see `server_round`. The log is a
    dict: round, loss (mean over the clients), accuracy {domain: percent}, avg (plain mean over the
    domains), clusters_per_class [K], seconds, and what server_round tells. Another method is
    another server_round (see lab/methods): it gives a ServerState, its mask False if the method has
    no prototypes, and a dict with losses. Raises FloatingPointError if the training diverges."""
    state = state or init_state(cfg)
    while state.round < cfg.rounds:
        start, number = time.perf_counter(), state.round + 1
        try:
            state, told = server_round(state, clients, cfg, engine)
            accuracy = evaluate(state, tests, engine)
        except FloatingPointError as error:
            raise FloatingPointError(f"round {number}, {error}; the training diverges: try a "
                                     "smaller --lr or a larger --tau") from error
        yield state, {
            "round": number, "loss": float(np.mean([*told["losses"].values()])),
            "accuracy": accuracy, "avg": float(np.mean([*accuracy.values()] or [math.nan])),
            "clusters_per_class": state.prototypes.mask.sum(axis=1).tolist(),
            "seconds": time.perf_counter() - start, **told}

def init_state(cfg):
    """Round 0: weights uniform within 1 / sqrt(fan-in), PyTorch's default, and no prototype."""
    rng, weights = stream(cfg, "init"), []
    for name, shape in param_shapes(cfg.width, cfg.classes):
        if ".bn." in name:
            weights.append(np.full(shape, float(name.endswith("weight"))))
        else:
            fan_in = 8 * cfg.width if name == "linear.bias" else math.prod(shape[1:])
            weights.append(rng.uniform(-1, 1, shape) / math.sqrt(fan_in))
    stats = [np.full(s, float(name.endswith("variance"))) for name, s in stat_shapes(cfg.width)]
    clusters = np.zeros((cfg.classes, max(1, sum(cfg.clients) // 2), 8 * cfg.width), np.float32)
    prototypes = Prototypes(clusters, np.zeros(clusters.shape[:2], bool), clusters[:, 0].copy())
    return ServerState(0, joined(weights), joined(stats), prototypes)

# ---------------------------------------------------------------- 8. the split, the images
PURPOSES = {"init": 1, "split": 2, "participants": 3, "client": 4, "test": 5}  # "test": in lab/

def stream(cfg, purpose, *which):
    """A random generator for one purpose, round and client: each can be repeated alone."""
    return np.random.default_rng((cfg.seed, PURPOSES[purpose], *which))

def split(train, cfg, published=None, exchange=None):
    """Share each domain out among its clients, at random and without overlap (Sec. 4.1).
    train: {domain: (images [n,h,w,3] uint8, labels [n])} -> the M Clients, domain by domain.
    published: {domain: number of images that cfg.fraction is of}, where only a part of it is at
    hand. exchange(mine, rest, labels) -> mine, rest: may swap a client's indices with free ones, so
    that it holds all classes. Raises ValueError for too few images."""
    clients = []
    for index, (domain, how_many) in enumerate(zip(train, cfg.clients, strict=True)):
        images, labels = train[domain]
        all_of_it = (published or {}).get(domain, len(labels))
        each = int(cfg.fraction * all_of_it + 1e-9)  # 0.29 * 100 is a little less than 29
        if how_many and (each < 1 or each * how_many > len(labels)):
            raise ValueError(f"{domain} has {len(labels)} training images, but {how_many} clients "
                             f"want {each} each; change --clients or --fraction")
        rest = stream(cfg, "split", index).permutation(len(labels))
        for _ in range(how_many):
            mine, rest = rest[:each], rest[each:]
            if exchange:
                mine, rest = exchange(mine, rest, labels)
            mine = np.sort(mine)
            clients.append(Client(images[mine], labels[mine].astype(np.int32), domain))
    return clients

def batches(client, cfg, rng):
    """One epoch: (images [B,h,w,3], labels [B]) in a new order; the remainder is a batch too."""
    order = rng.permutation(len(client.labels))
    for start in range(0, len(order), cfg.batch_size):
        batch = order[start:start + cfg.batch_size]
        images, labels = client.images[batch], client.labels[batch].astype(np.int32)
        yield crop_flip(images, rng) if cfg.augment == "crop-flip" else images, labels

def crop_flip(images, rng):
    """Pad by 4 black pixels, crop back at random, flip half of them. images [B,h,w,3] uint8."""
    padded, side = np.pad(images, ((0, 0), (4, 4), (4, 4), (0, 0))), images.shape[1]
    tops, lefts = rng.integers(0, 9, len(images)), rng.integers(0, 9, len(images))
    flips = rng.integers(0, 2, len(images))
    cropped = [image[top:, left:][:side, :side] for image, top, left in zip(padded, tops, lefts)]
    return np.stack([image[:, ::-1] if flip else image for image, flip in zip(cropped, flips)])

def network_input(images):
    """uint8 [B,h,w,3] -> Tensor float32 [B,3,h,w]: 0 to 1, then ImageNet's mean and std."""
    mean, std = np.float32([0.485, 0.456, 0.406]), np.float32([0.229, 0.224, 0.225])
    scaled = (images.astype(np.float32) / np.float32(255) - mean) / std
    return Tensor(np.ascontiguousarray(scaled.transpose(0, 3, 1, 2)))

# ---------------------------------------------------------------- 9. the network: ResNet-10
# name, channels in and out as multiples of the width, stride
STAGES = (("stage1", 1, 1, 1), ("stage2", 1, 2, 2), ("stage3", 2, 4, 2), ("stage4", 4, 8, 2))
BN_EPS, BN_MOMENTUM = 1e-5, 0.1  # PyTorch's, in its meaning: running = 0.9 * running + 0.1 * batch
bn_train = ops.operations.BatchNorm(is_training=True, epsilon=BN_EPS)
setting_of_mindspore = ops.constexpr(ms.get_context)  # read while a function is compiled
bn_eval = ops.operations.BatchNorm(is_training=False, epsilon=BN_EPS)
split_with_size = ops.auto_generate.SplitWithSize()  # ops.split is a kernel a part: slow to compile
ANY_BATCH = Tensor(shape=[None, 3, None, None], dtype=ms.float32)  # one compile for all sizes
ANY_LABELS = Tensor(shape=[None], dtype=ms.int32)

@functools.cache
def param_shapes(width, num_classes):
    """((name, shape), ...): in this order all weights make one vector [P]."""
    def layer(name, c_out, c_in, size):
        return ((name + ".conv", (c_out, c_in, size, size)),
                (name + ".bn.weight", (c_out,)), (name + ".bn.bias", (c_out,)))

    shapes = layer("stem", width, 3, 3)
    for stage, times_in, times_out, stride in STAGES:
        c_in, c_out = times_in * width, times_out * width
        shapes += layer(stage + ".a", c_out, c_in, 3) + layer(stage + ".b", c_out, c_out, 3)
        if stride != 1:
            shapes += layer(stage + ".shortcut", c_out, c_in, 1)
    return *shapes, ("linear.weight", (num_classes, 8 * width)), ("linear.bias", (num_classes,))

@functools.cache
def stat_shapes(width):
    """((name, shape), ...): in this order batch norm's running statistics make one vector [S]."""
    return tuple((name.replace("weight", kind), shape) for name, shape in param_shapes(width, 0)
                 if name.endswith(".bn.weight") for kind in ("mean", "variance"))

def views(vector, shapes):
    """The arrays that make a vector, by name. vector [P], shapes from param_shapes -> dict."""
    parts = split_with_size(vector, tuple(math.prod(shape) for _, shape in shapes), 0)
    return {name: part.reshape(shape) for part, (name, shape) in zip(parts, shapes)}

def joined(arrays):
    """The vector that arrays make, in the order of their shapes' table."""
    return Tensor(np.concatenate([np.ravel(array) for array in arrays]).astype(np.float32))

def tensors(*values):
    """Arrays and numbers as Tensors: a compiled function would keep a Python number for good."""
    return [Tensor(x, None if isinstance(x, np.ndarray) else ms.float32) for x in values]

def network(p, s, x):
    """ResNet-10: a 3x3 stem, four stages of a basic block, a linear layer. x [B,3,h,w].
    p, s: weights and running statistics by name. s is None in training: batch norm then uses the
    batch's own statistics. -> logits [B,K], z [B,d], the statistics that batch norm used [S]."""
    x, used = conv_bn(x, p, s, "stem", 1)
    x = ops.relu(x)
    for stage, _, _, stride in STAGES:
        y, used_a = conv_bn(x, p, s, stage + ".a", stride)
        y, used_b = conv_bn(ops.relu(y), p, s, stage + ".b", 1)
        used = used + used_a + used_b
        if stride != 1:
            x, used_shortcut = conv_bn(x, p, s, stage + ".shortcut", stride)
            used = used + used_shortcut
        x = ops.relu(x + y)
    z = x.mean((2, 3))
    return ops.matmul(z, p["linear.weight"].T) + p["linear.bias"], z, ops.cat(used)

def conv_bn(x, p, s, name, stride):
    """Convolution, then batch norm. x [B,c_in,h,w] -> [B,c_out,h',w'], (mean, variance) [c_out]."""
    kernel = p[name + ".conv"]
    x = ops.conv2d(x, kernel, stride=stride, pad_mode="pad", padding=kernel.shape[2] // 2)
    weight, bias = p[name + ".bn.weight"], p[name + ".bn.bias"]
    if s is not None:
        mean, variance = s[name + ".bn.mean"], s[name + ".bn.variance"]
        return bn_eval(x, weight, bias, mean, variance)[0], (mean, variance)
    # The kernel writes into the running statistics that it is given, so it gets a tensor that
    # nobody reads. On the CPU its last two outputs are the batch's mean and biased variance.
    scratch = weight + bias
    y, _, _, mean, variance = bn_train(x, weight, bias, scratch, scratch)
    if setting_of_mindspore("device_target") != "CPU":  # there they may be something else
        mean, variance = x.mean((0, 2, 3)), ops.var(x, (0, 2, 3))
    n = x.shape[0] * x.shape[2] * x.shape[3]
    return y, (mean, variance * (n / (n - 1)))  # a running variance is the unbiased one

# From here on logarithms are in float64: how MindSpore's float32 log rounds depends on the clock.
def cross_entropy(logits, labels):
    """-log softmax(logits) at the label. logits [B,K], labels [B] -> [B]."""
    return ops.cross_entropy(logits.astype(ms.float64), labels, reduction="none").astype(ms.float32)

def logsumexp(x):
    """log of the sum of e^x over the last axis, shifted: e^89 is beyond float32. [B,n] -> [B]."""
    return ops.logsumexp(x.astype(ms.float64), 1).astype(ms.float32)

def softplus(x):
    """log(1 + e^x), right where it is tiny: MindSpore's own softplus and log1p are 0 below -17."""
    small = ops.exp(ops.where(x > 0, -x, x))  # with -abs(x) the gradient at 0 would not be 0.5
    return ops.where(x > 0, x, 0.0) + 2 * ops.atanh(small / (2 + small))  # = log(1 + small)

def unit(x):
    """x scaled to length 1 along its last axis; a zero row stays zero, and so does its gradient."""
    # Powers of two round nothing, and keep the squares of tiny and huge rows within float32. With
    # the two products written apart, the gradients of x add up in the same order as of x * x.
    largest = ops.abs(x).max(-1, keepdims=True)
    scale = ops.where(largest < 2.0**-48, 2.0**75, ops.where(largest > 2.0**56, 2.0**-72, 1.0))
    square = ((scale * x) * (x * scale)).sum(-1, keepdims=True)
    return scale * (x / ops.sqrt(ops.where(square > 0, square, math.inf)))

@ms.enable_dynamic(x=ANY_BATCH)
@ms.jit
def predict_batch(params, stats, x, width, num_classes):
    """The network in evaluation mode, compiled: params [P], stats [S], x -> logits, z."""
    p, s = views(params, param_shapes(width, num_classes)), views(stats, stat_shapes(width))
    return network(p, s, x)[:2]

def predict(params, stats, images):
    """The network in evaluation mode. images [n,h,w,3] uint8 -> logits [n,K], z [n,d], NumPy."""
    width = len(stats) // sum(math.prod(shape) for _, shape in stat_shapes(1))  # as S grows with it
    below = sum(math.prod(shape) for _, shape in param_shapes(width, 0))  # below the linear layer
    sizes, outputs = (width, (len(params) - below) // (8 * width + 1)), []
    for start in range(0, len(images), 128):
        logits, z = predict_batch(params, stats, network_input(images[start:start + 128]), *sizes)
        outputs.append((logits.asnumpy(), z.asnumpy()))  # a caller with a queue would spin
    return tuple(np.concatenate(parts) for parts in zip(*outputs))

def evaluate(state, tests, engine=map):
    """Top-1 accuracy in percent. tests: {domain: (images, labels)} -> {domain: percent}. engine: as
    in `server_round`, here over parts of the test sets. Raises FloatingPointError where an output
    is not finite, which would count as class 0."""
    parts = [(state, Client(*test, domain), slice(start, start + 1024))
             for domain, test in tests.items() for start in range(0, len(test[1]), 1024)]
    right = dict.fromkeys(tests, 0)
    for (_, test, _), number in zip(parts, engine(count_right, parts), strict=True):
        right[test.domain] += number
    return {domain: 100 * (right[domain] / len(labels)) for domain, (_, labels) in tests.items()}

def count_right(arguments):
    """How many images of a part of a test set the network gets right, in evaluation mode."""
    state, test, part = arguments
    logits, _ = predict(state.params, state.stats, test.images[part])
    if not np.isfinite(logits).all():
        raise FloatingPointError(f"test set of {test.domain}: the network's output is not finite")
    return int(np.sum(logits.argmax(axis=1) == test.labels[part]))
