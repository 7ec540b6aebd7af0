"""FPL: clients of several domains train one network together, guided by prototypes that give each domain a voice.

After Huang, Ye, Shi, Li, Du, "Rethinking Federated Learning with Domain Shift: A Prototype View", CVPR 2023. Read
down; sections 2 and 5 to 8 are FPL, the others its equipment.

Algorithm 1                                                                 here
    for each of E rounds:                                                   run
        for each client m that takes part:                                  server_round, train_client
            start from the server's network, T epochs of SGD on             client_update, local_training, step_on
                CE + CPCL(cluster prototypes) + UPCR(unbiased prototypes)   local_loss, cpcl_loss, upcr_loss
            send the network and, per class, count and mean feature         class_prototypes
        average the networks, each weighted by its number of images         aggregate, weighted_mean
        per class: cluster the clients' means with FINCH, average each      prototypes_update, cluster_prototypes
        per class: average its cluster prototypes                           unbiased_prototypes

Symbols: M clients, K classes, B images in a batch, tau the temperature; a feature z of width d is what the last linear
layer reads. CE is cross-entropy; CPCL pulls z to the cluster prototypes of its class, UPCR to their mean. FINCH joins
each client's mean of a class to the most similar other one, so that no cluster is a single client's unless it alone
holds the class: there are at most J = max(1, M // 2) clusters. Shapes stand in brackets: z [B,d].

Where the paper's text and the released code part, there is a setting with both values. * is the default: the text's,
but for the two with which the paper's Table 2 was made. --as (lab/cli.py) takes one side of the first four.
                     the paper's text                                  the released code
    partition        * "first": one FINCH step, the finest (Eq. 4)     "last": FINCH's coarsest partition
    prototypes_from  * "final": of the trained model (Alg. 1)          "running": of features met in the last epoch
    augment          * "none": it is silent                            "crop-flip": its PyTorch version
    upcr_reduce      "sum" over the d dimensions (Eq. 10)              * "mean" over them (Table 2)
    clients          3,7,6,4 of mnist,usps,svhn,syn (Sec. 4.1)         * 6,4,3,7 (Table 2)
README lists the faults of the released code that are not repeated here.
"""
if __name__ == "__main__":
    from lab import starting  # noqa: F401  (one line instead of an abort while the packages load)

import dataclasses
import functools
import math
import operator
import os
import time
from collections.abc import Callable
from typing import NamedTuple

# With AVX-512 oneDNN takes its reference convolution for this layout [B,c,h,w], 46 times slower (0.55 s against
# 0.012 s for 64 images, 16 channels, a 3x3 kernel; AMD EPYC, MindSpore 2.10.0). It reads the variable when it is
# loaded, hence before the import. It means nothing on other devices.
os.environ.setdefault("ONEDNN_MAX_CPU_ISA", "AVX2")
os.environ.setdefault("GLOG_v", "3")  # MindSpore's log: errors only

import mindspore as ms
import numpy as np
from mindspore import Tensor, ops

from finch import finch

# Without this the calling thread spins while a kernel runs, and takes the core from it or from another process (a client's
# turn at width 8 on one core: 2.4 s against 1.3 s). Same bits. On the CPU only: other devices compute beside the caller.
if ms.get_context("device_target") == "CPU":
    ms.runtime.launch_blocking()
# OMP_NUM_THREADS=1 lets several runs share the cores, each on one of its own
threads = os.environ.get("OMP_NUM_THREADS", "")
if threads.isdecimal() and len(threads) < 4:  # a number beyond that is none of a machine's
    ms.set_context(runtime_num_threads=max(1, int(threads)))  # MindSpore's own pool ignores it


class InputError(Exception):
    """What the user gave cannot be used. One line: the value seen, the value wanted, the next step."""

    def __init__(self, message):
        super().__init__(" ".join(message.splitlines()))  # a value that it quotes may have several


# ---------------------------------------------------------------- 1. settings

class Task(NamedTuple):
    """A set of domains with the same ten classes, and how it is shared out among clients."""
    clients: dict    # domain -> clients
    fraction: float  # of a domain's training images, for each client
    published: dict  # domain -> size of the published training set; the fraction is of that, even if a subset is at hand;
    #                  empty: of what is at hand
    swaps: bool      # whether a client without an image of some class is given one; see `one_of_each_class`


TASKS = {
    "digits": Task({"mnist": 6, "usps": 4, "svhn": 3, "syn": 7}, 0.01,
                   {"mnist": 60000, "usps": 7291, "svhn": 73257, "syn": 10000}, False),
    "office": Task({"caltech": 3, "amazon": 2, "webcam": 1, "dslr": 4}, 0.20, {}, True),
}


MANY = 1_000_000_000  # more than any run has of anything that is counted


def setting(default, help_text, **rule):
    """A Config field; rule: choices=, low= (at least), above= (more than), high= (at most)."""
    return dataclasses.field(default=default, metadata={"help": help_text, **rule})


@dataclasses.dataclass(frozen=True)
class Config:
    """Every number of a run. The defaults are those of Table 2; the command line is made from these fields."""
    task: str = setting("digits", "which domains", choices=tuple(TASKS))
    clients: tuple = setting((), "clients of each domain, e.g. 6,4,3,7; empty: as Table 2 (digits), Sec. 4.1 (office)")
    fraction: float = setting(0.0, "share of a domain that one client holds; 0: 0.01 (digits), 0.20 (office), Sec. 4.1",
                              low=0, high=1)
    participation: float = setting(1.0, "share of the clients that train in a round, at least one; Sec. 4.1: all",
                                   above=0, high=1)
    seed: int = setting(0, "start of every random draw", low=0, high=1e100)
    rounds: int = setting(100, "E, Sec. 4.1", low=1, high=MANY)
    local_epochs: int = setting(10, "T, Sec. 4.1", low=1, high=MANY)
    batch_size: int = setting(64, "Sec. 4.1; a smaller last batch is kept", low=1, high=MANY)
    width: int = setting(64, "channels of the first stage; the feature has d = 8 * width, Sec. 4.1: d = 512", low=1, high=512)
    lr: float = setting(0.01, "SGD, Sec. 4.1", above=0)
    momentum: float = setting(0.9, "SGD, Sec. 4.1; starts at zero each round", low=0, high=1)
    weight_decay: float = setting(1e-5, "SGD, Sec. 4.1; on every parameter", low=0)
    tau: float = setting(0.02, "temperature of Eq. 7, chosen in Fig. 4", above=0)
    cpcl: float = setting(1.0, "weight of Eq. 9 in Eq. 12; 0 switches it off", low=0)
    upcr: float = setting(1.0, "weight of Eq. 10 in Eq. 12; 0 switches it off", low=0)
    partition: str = setting("first", "FINCH's finest partition (Eq. 4) or its coarsest (released code)",
                             choices=("first", "last"))
    upcr_reduce: str = setting("mean", "over the d dimensions: sum (Eq. 10) or mean (released code, Table 2)",
                               choices=("mean", "sum"))
    prototypes_from: str = setting("final", "class means of the trained model (Alg. 1) or of features met while training",
                                   choices=("final", "running"))
    augment: str = setting("none", "or crop-flip: pad 4, random crop, horizontal flip (released PyTorch code)",
                           choices=("none", "crop-flip"))
    test_images: int = setting(0, "most test images of a domain, drawn by seed; 0: all, as Sec. 4.1", low=0, high=MANY)
    device: str = setting("CPU", "MindSpore's target", choices=("CPU", "GPU", "Ascend"))


NUM_CLASSES = 10  # both tasks, Sec. 4.1
FLOAT32 = np.finfo(np.float32)
BOUNDS = {"low": ("at least", operator.ge), "above": ("more than", operator.gt), "high": ("at most", operator.le)}


def complete(cfg):
    """The Config with its task's clients and fraction filled in, each value checked. Raises InputError."""
    for field in dataclasses.fields(cfg):
        value, rule, flag = getattr(cfg, field.name), field.metadata, "--" + field.name.replace("_", "-")
        if "choices" in rule and value not in rule["choices"]:
            raise InputError(f"{flag} is {value!r}; it must be one of {', '.join(rule['choices'])}")
        if isinstance(field.default, float) and not (value == 0 or FLOAT32.tiny <= abs(value) <= FLOAT32.max):
            raise InputError(f"{flag} is {value}; it must be a finite number, 0 or as float32 holds it, {FLOAT32.tiny:.1e} to "
                             f"{FLOAT32.max:.1e}")
        for name, (words, holds) in BOUNDS.items():
            if name in rule and not holds(value, rule[name]):
                raise InputError(f"{flag} is {value}; it must be {words} {rule[name]}")
    task = TASKS[cfg.task]
    cfg = dataclasses.replace(cfg, clients=cfg.clients or tuple(task.clients.values()),
                              fraction=cfg.fraction or task.fraction)
    if len(cfg.clients) != len(task.clients) or min(cfg.clients) < 0 or sum(cfg.clients) == 0 or max(cfg.clients) > MANY:
        raise InputError(f"--clients is {','.join(map(str, cfg.clients))}; it must be {len(task.clients)} whole numbers "
                         f"for {', '.join(task.clients)}, not negative, not all zero and at most {MANY}")
    return cfg


# the numbers are part of every seed: a change of them changes every run
PURPOSES = {"init": 1, "split": 2, "participants": 3, "client": 4, "test": 5}


def stream(cfg, purpose, *which):
    """A random generator of its own for each purpose, round and client: any of them can be repeated alone."""
    return np.random.default_rng((cfg.seed, PURPOSES[purpose], *which))


# ---------------------------------------------------------------- 2. records: what stays and what travels

class Client(NamedTuple):
    """Stays on the client. images [n,32,32,3] uint8, labels [n] int32."""
    images: np.ndarray
    labels: np.ndarray
    domain: str


class Prototypes(NamedTuple):
    """Server -> clients. clusters [K,J,d], mask [K,J] says which of them are there, unbiased [K,d].

    In round 1, and for a class that no client of the round before held, the mask is False.
    """
    clusters: np.ndarray
    mask: np.ndarray
    unbiased: np.ndarray


class ServerState(NamedTuple):
    """All that goes from one round to the next. params and stats: name -> Tensor float32."""
    round: int
    params: dict
    stats: dict  # batch norm's running means and variances
    prototypes: Prototypes
    memory: dict = {}  # of other methods than FPL: client number or "server" -> name -> Tensor; replaced, never written to


class ClientUpdate(NamedTuple):
    """Client -> server. class_means [K,d] float32 (Eq. 2), counts [K] int, loss: mean over the steps."""
    params: dict
    stats: dict
    class_means: np.ndarray
    counts: np.ndarray
    loss: float
    memory: dict = {}  # of other methods than FPL: what the client keeps for its next turn


# ---------------------------------------------------------------- 3. split, batches, input

def one_of_each_class(mine, rest, labels):
    """Swap images between mine and rest, both shuffled indices, so that mine has each class of which rest has an image.

    The client's most frequent class gives up an image. The released code does the same for Office, but from the images of all
    clients, so that two may hold the same one.
    """
    mine, rest = mine.copy(), rest.copy()
    for k in range(NUM_CLASSES):
        counts, spare = np.bincount(labels[mine], minlength=NUM_CLASSES), np.flatnonzero(labels[rest] == k)
        if counts[k] == 0 and len(spare) and counts.max() > 1:
            surplus = np.flatnonzero(labels[mine] == counts.argmax())
            mine[surplus[0]], rest[spare[0]] = rest[spare[0]], mine[surplus[0]]
    return mine, rest


def split(train, cfg):
    """Share each domain out among its clients, at random and without overlap (Sec. 4.1).

    cfg: from `complete`; train: domain -> (images [n,32,32,3] uint8, labels [n] int32).
    Returns the M Clients in the order of the domains.
    Raises InputError where a domain has fewer images than its clients want.
    """
    task, clients = TASKS[cfg.task], []
    for index, (domain, how_many) in enumerate(zip(task.clients, cfg.clients, strict=True)):
        images, labels = train[domain]
        each = int(cfg.fraction * task.published.get(domain, len(labels)) + 1e-9)  # 0.29 * 100 is 28.999999999999996
        if how_many and (each < 1 or each * how_many > len(labels)):
            raise InputError(f"{domain} has {len(labels)} training images, but {how_many} clients want {each} each; "
                             "change --clients or --fraction")
        rest = stream(cfg, "split", index).permutation(len(labels))
        for _ in range(how_many):
            mine, rest = rest[:each], rest[each:]
            if task.swaps:
                mine, rest = one_of_each_class(mine, rest, labels)
            mine = np.sort(mine)
            clients.append(Client(images[mine], labels[mine], domain))
    return clients


def test_sets(tests, cfg):
    """The test sets, each cut to at most cfg.test_images images drawn by seed. domain -> (images, labels)."""
    def cut(index, images, labels):
        chosen = stream(cfg, "test", index).permutation(len(labels))[:cfg.test_images or None]
        return images[np.sort(chosen)], labels[np.sort(chosen)]
    return {domain: cut(index, *test) for index, (domain, test) in enumerate(tests.items())}


def check_images(who, images, labels):
    """Refuse other shapes and types than images [n,32,32,3] uint8, labels [n], n > 0. Raises InputError that names who."""
    if labels.ndim != 1 or labels.size == 0 or images.shape != (labels.size, 32, 32, 3) or images.dtype != np.uint8:
        raise InputError(f"{who} has labels {labels.shape} and images {images.shape} {images.dtype}; it needs labels (n,), one at "
                         "least, and images (n, 32, 32, 3) uint8: look at its files")
    if not np.issubdtype(labels.dtype, np.integer):
        raise InputError(f"{who} has labels of type {labels.dtype}; they must be whole numbers: look at its files")
    # a label out of range is a segmentation fault inside MindSpore's cross-entropy
    if labels.min() < 0 or labels.max() >= NUM_CLASSES:
        raise InputError(f"{who} has labels from {labels.min()} to {labels.max()}; they must be 0 to {NUM_CLASSES - 1}: "
                         "look at its files")


def check_clients(clients, cfg):
    """Refuse what would crash or mislead MindSpore later. Raises InputError."""
    if len(clients) != sum(cfg.clients):
        raise InputError(f"{len(clients)} clients were given, but --clients adds up to {sum(cfg.clients)}; make them agree")
    for m, client in enumerate(clients):
        check_images(f"client {m}", client.images, client.labels)


def check_tests(tests):
    """Refuse what has no accuracy or a misleading one. Raises InputError."""
    if not tests:
        raise InputError("no test set was given; at least one domain must have one")
    for domain, test in tests.items():
        check_images(f"the test set of {domain}", *test)


def batches(n, batch_size, rng):
    """One epoch: the indices 0..n-1 shuffled and cut; the remainder is a batch too."""
    order = rng.permutation(n)
    return [order[start:start + batch_size] for start in range(0, n, batch_size)]


def crop_flip(images, rng):
    """Pad by 4 black pixels, crop back at random, flip half of them. images [B,32,32,3] uint8 -> the same shape."""
    padded = np.pad(images, ((0, 0), (4, 4), (4, 4), (0, 0)))
    tops, lefts, flips = rng.integers(0, 9, len(images)), rng.integers(0, 9, len(images)), rng.integers(0, 2, len(images))
    cropped = [image[top:top + 32, left:left + 32] for image, top, left in zip(padded, tops, lefts)]
    return np.stack([image[:, ::-1] if flip else image for image, flip in zip(cropped, flips)])


def network_input(images):
    """uint8 [B,32,32,3] -> Tensor float32 [B,3,32,32], scaled to 0..1, then normalised by ImageNet's mean and std."""
    mean, std = np.float32([0.485, 0.456, 0.406]), np.float32([0.229, 0.224, 0.225])
    scaled = (images.astype(np.float32) / np.float32(255) - mean) / std
    return Tensor(np.ascontiguousarray(scaled.transpose(0, 3, 1, 2)))


# ---------------------------------------------------------------- 4. model: ResNet-10

# name, channels in and out as multiples of the width, stride
STAGES = (("stage1", 1, 1, 1), ("stage2", 1, 2, 2), ("stage3", 2, 4, 2), ("stage4", 4, 8, 2))


def parameter_shapes(width):
    """name -> shape, in a fixed order: one 3x3 stem, four stages of one basic block, one linear layer (Sec. 4.1)."""
    def layer(name, c_out, c_in, size):
        return {name + ".conv": (c_out, c_in, size, size), name + ".bn.weight": (c_out,), name + ".bn.bias": (c_out,)}

    shapes = layer("stem", width, 3, 3)
    for stage, times_in, times_out, stride in STAGES:
        c_in, c_out = times_in * width, times_out * width
        shapes |= layer(stage + ".a", c_out, c_in, 3)
        shapes |= layer(stage + ".b", c_out, c_out, 3)
        if stride != 1:
            shapes |= layer(stage + ".shortcut", c_out, c_in, 1)
    return shapes | {"linear.weight": (NUM_CLASSES, 8 * width), "linear.bias": (NUM_CLASSES,)}


PARAMS = tuple(parameter_shapes(1))
STATS = tuple(name.removesuffix("weight") + kind for name in PARAMS if name.endswith(".bn.weight")
              for kind in ("mean", "variance"))  # in the order in which `network` meets them
BN_EPS, BN_MOMENTUM = 1e-5, 0.1  # PyTorch's defaults, in its meaning: running = 0.9 * running + 0.1 * batch
bn_train = ops.operations.BatchNorm(is_training=True, epsilon=BN_EPS)
bn_eval = ops.operations.BatchNorm(is_training=False, epsilon=BN_EPS)


def flat(tree, names):
    """A dictionary's values in the order of names."""
    return tuple(tree[name] for name in names)


def conv_bn(x, p, s, name, stride, training):
    """Convolution without bias, then batch norm. x [B,c_in,h,w] -> ([B,c_out,h',w'], (mean, variance) of the channels)."""
    kernel = p[name + ".conv"]
    x = ops.conv2d(x, kernel, stride=stride, pad_mode="pad", padding=kernel.shape[2] // 2)
    weight, bias = p[name + ".bn.weight"], p[name + ".bn.bias"]
    if training:
        # trap: the kernel overwrites the running statistics that it is given, so it gets a fresh tensor [c] that nobody
        # reads. On the CPU its last two outputs are the batch's mean and biased variance; check that on another device.
        scratch = weight + bias
        y, _, _, mean, variance = bn_train(x, weight, bias, scratch, scratch)
        n = x.shape[0] * x.shape[2] * x.shape[3]
        return y, (mean, variance * (n / (n - 1)))  # the running variance is the unbiased one
    mean, variance = s[name + ".bn.mean"], s[name + ".bn.variance"]
    return bn_eval(x, weight, bias, mean, variance)[0], (mean, variance)


def network(p, s, x, training):
    """ResNet-10. p, s: params and stats by name; x [B,3,32,32] -> logits [B,K], z [B,d], statistics in STATS' order.

    training: batch norm uses the batch's own statistics (s is then not read), else the running ones in s.
    """
    x, seen = conv_bn(x, p, s, "stem", 1, training)
    x = ops.relu(x)
    for stage, _, _, stride in STAGES:
        y, seen_a = conv_bn(x, p, s, stage + ".a", stride, training)
        y, seen_b = conv_bn(ops.relu(y), p, s, stage + ".b", 1, training)
        seen = seen + seen_a + seen_b
        if stride != 1:
            x, seen_shortcut = conv_bn(x, p, s, stage + ".shortcut", stride, training)
            seen = seen + seen_shortcut
        x = ops.relu(x + y)
    z = x.mean((2, 3))
    return ops.matmul(z, p["linear.weight"].T) + p["linear.bias"], z, seen


PREDICT_BATCH = 128  # images at a time: more take memory, not less time


# trap: what a compiled function (ms.jit) may be given, here and in `step_on`. Tuples of tensors, not dictionaries, for which
# it would call back into Python. Each tuple within ms.mutable, and each number as a tensor: else their values are compiled in,
# and other values compile anew (8 s). Plain Python values only where they choose code. enable_dynamic leaves B open: one
# compile serves batches of all sizes, with the same bits.
@ms.enable_dynamic(x=Tensor(shape=[None, 3, 32, 32], dtype=ms.float32))
@ms.jit
def predict_batch(params, stats, x):
    """Tuples in PARAMS' and STATS' order, x [B,3,32,32] -> logits [B,K], z [B,d]."""
    p = {name: value for name, value in zip(PARAMS, params)}
    s = {name: value for name, value in zip(STATS, stats)}
    logits, z, _ = network(p, s, x, False)
    return logits, z


def predict(params, stats, images):
    """The network in evaluation mode. images [n,32,32,3] uint8 -> logits [n,K], z [n,d], numpy float32."""
    flat_params, flat_stats = ms.mutable(flat(params, PARAMS)), ms.mutable(flat(stats, STATS))
    logits, z = [], []
    for start in range(0, len(images), PREDICT_BATCH):
        outputs = predict_batch(flat_params, flat_stats, network_input(images[start:start + PREDICT_BATCH]))
        logits.append(outputs[0].asnumpy())
        z.append(outputs[1].asnumpy())
    return np.concatenate(logits), np.concatenate(z)


# ---------------------------------------------------------------- 5. prototypes

def class_prototypes(z, labels, num_classes):
    """A client's mean feature of each class (Eq. 2). z [n,d], labels [n] -> class_means [K,d] float32, counts [K].

    A class that the client does not hold has count 0 and a zero mean.
    """
    z, labels = np.asarray(z, np.float64), np.asarray(labels)
    counts = np.bincount(labels, minlength=num_classes)
    sums = np.zeros((num_classes, z.shape[1]))
    np.add.at(sums, labels, z)
    return (sums / np.maximum(counts, 1)[:, None]).astype(np.float32), counts


def cluster_prototypes(class_means, counts, partition):
    """Cluster the clients' means of each class with FINCH and average each cluster (Eq. 4-5).

    Clients of one domain have means that tend to point the same way, so a cluster tends to hold one domain, which may have
    several clusters. Each counts once, however many clients stand behind it. class_means [M,K,d], counts [M,K]; a count of
    0 means the client does not hold the class; partition "first" (finest) | "last" (coarsest).
    Returns clusters [K,J,d] float32 and mask [K,J], J = max(1, M // 2), filled from slot 0 on, the rest zero and False.
    """
    class_means, counts = np.asarray(class_means), np.asarray(counts)
    num_clients, num_classes, d = class_means.shape
    clusters = np.zeros((num_classes, max(1, num_clients // 2), d), np.float32)
    mask = np.zeros(clusters.shape[:2], bool)
    for k in range(num_classes):
        means = class_means[counts[:, k] > 0, k].astype(np.float64)
        if len(means):
            partitions = finch(means)  # by cosine, finest first: arrays [n] of cluster numbers; one row is one cluster
            cluster_of = partitions[0 if partition == "first" else -1]
            for j in range(cluster_of.max() + 1):
                clusters[k, j], mask[k, j] = means[cluster_of == j].mean(axis=0), True
    return clusters, mask


def unbiased_prototypes(clusters, mask):
    """The plain mean of a class's cluster prototypes (Eq. 6): a domain of many clients weighs less than in a mean over clients.

    clusters [K,J,d], mask [K,J] -> unbiased [K,d] float32, zero where a class has none.
    """
    clusters, mask = np.asarray(clusters, np.float64), np.asarray(mask)
    sums = np.where(mask[..., None], clusters, 0).sum(axis=1)
    return (sums / np.maximum(mask.sum(axis=1), 1)[:, None]).astype(np.float32)


# ---------------------------------------------------------------- 6. losses

# trap: the next two functions compute in float64, forwards and backwards. MindSpore's float32 log rounds differently in the
# vectorised part of a tensor and in its remainder, and MindSpore cuts tensors up as its clock says is fastest. So the last
# bit of a loss, and of the weights, would change from run to run (seen at B = 13; of no other operator of a step).

def cross_entropy(logits, labels):
    """-log softmax(logits) at the label. logits [B,K], labels [B] -> [B]."""
    return ops.cross_entropy(logits.astype(ms.float64), labels, reduction="none").astype(ms.float32)


def logsumexp(x):
    """log of the sum of e^x over the last axis, the exponents shifted by their largest. x [B,n] -> [B]."""
    return ops.logsumexp(x.astype(ms.float64), 1).astype(ms.float32)


def unit(x):
    """x scaled to length 1 along its last axis; a zero row stays zero and has gradient zero, not NaN."""
    square = (x * x).sum(-1, keepdims=True)
    nonzero = square > 0
    return ops.where(nonzero, x / ops.sqrt(ops.where(nonzero, square, 1.0)), 0.0)


def softplus(x):
    """log(1 + e^x), accurate in relative terms where it is tiny: a sample near its prototype costs far less than 1e-7.

    MindSpore's softplus and log1p return 0 below x = -17. where, not abs: at x = 0 the gradient is 0.5; with abs it would be 0.
    """
    small = ops.exp(ops.where(x > 0, -x, x))
    return ops.where(x > 0, x, 0.0) + 2 * ops.atanh(small / (2 + small))  # 2 atanh(y / (2 + y)) = log(1 + y)


def cpcl_loss(z, labels, clusters, mask, tau):
    """Cluster prototypes contrastive loss (Eq. 8-9): pull z to its class's cluster prototypes, away from all others.

    z [B,d], labels [B], clusters [K,J,d], mask [K,J] bool, tau > 0 -> scalar.
    With P = sum of e^(cos/tau) over the own class's cluster prototypes and N the same sum over all other classes', a sample
    costs -log(P / (P + N)) = log(1 + N / P), computed as softplus(log N - log P). All positives stand inside one log: it is
    enough that z is near one of them, the one of its domain, and no domain is dragged onto another. A sample whose class
    has no prototype costs 0 and counts in the mean.
    Example: z = (1,0), own (1,0) and (0,1), other (-1,0), tau = 1: ln(1 + e^-1 / (e + 1)) = 0.0943.
    """
    classes, slots, d = clusters.shape
    filled = mask.reshape(1, classes * slots)
    clusters = ops.where(mask.expand_dims(-1), clusters, 0.0)  # another caller's padding may hold anything, even NaN
    similarity = ops.matmul(unit(z), unit(clusters).reshape(classes * slots, d).T) / tau  # Eq. 7
    own = labels.expand_dims(1) == ops.arange(classes * slots).expand_dims(0) // slots
    positive, negative = own & filled, ~own & filled
    hidden = -1e30  # not -inf, whose differences are NaN
    # logsumexp shifts the exponents by their largest: the released code does not, and overflows below tau = 0.0113
    log_p = logsumexp(ops.where(positive, similarity, hidden))
    log_n = logsumexp(ops.where(negative, similarity, hidden))
    return ops.where(positive.any(1), softplus(log_n - log_p), 0.0).mean()


def upcr_loss(z, labels, unbiased, known, reduce):
    """Unbiased prototypes consistent regularisation (Eq. 10): the squared distance to the class's unbiased prototype.

    z [B,d], labels [B], unbiased [K,d], known [K] bool, reduce over the d dimensions: "sum" (Eq. 10) | "mean" (released
    code) -> scalar, the mean over the batch; a sample of an unknown class costs 0 and counts in the mean.
    Example: z = (1,0), clusters (1,0) and (0,1), hence unbiased (0.5,0.5): 0.5 (sum), 0.25 (mean).
    """
    square = (z - ops.where(known.expand_dims(-1), unbiased, 0.0)[labels]) ** 2
    distance = square.sum(1) if reduce == "sum" else square.mean(1)
    return ops.where(known[labels], distance, 0.0).mean()


# ---------------------------------------------------------------- 7. client

def local_loss(params, x, labels, clusters, mask, unbiased, tau, cpcl, upcr, upcr_reduce):
    """Eq. 12: CE + cpcl * CPCL + upcr * UPCR; CE alone in round 1, whose mask is all False.

    Also returns z [B,d] and the batch norm statistics that were met.
    """
    p = {name: value for name, value in zip(PARAMS, params)}
    logits, z, seen = network(p, {}, x, True)
    loss = cross_entropy(logits, labels).mean()
    loss = loss + cpcl * cpcl_loss(z, labels, clusters, mask, tau)
    loss = loss + upcr * upcr_loss(z, labels, unbiased, mask.any(1), upcr_reduce)
    return loss, z, seen


@functools.cache
def step_on(loss, *constants):
    """The compiled step of SGD with momentum and weight decay on a local loss, kept so that it compiles once.

    loss(params, x, labels, *received, *constants) -> (scalar, z [B,d], batch norm statistics). It is a function of a
    module, like local_loss: one made anew for each call would be compiled anew. received: tensors or tuples of them,
    at least one (MindSpore takes no empty tuple); constants: Python values that choose code, such as upcr_reduce.
    """
    loss_and_gradient = ms.value_and_grad(loss, 0, has_aux=True)

    # jit is required, not only a speed-up: outside of it MindSpore returns an empty gradient for a tuple of tensors
    @ms.enable_dynamic(x=Tensor(shape=[None, 3, 32, 32], dtype=ms.float32), labels=Tensor(shape=[None], dtype=ms.int32))
    @ms.jit
    def train_step(params, velocity, stats, x, labels, received, sgd):
        """Tuples of tensors in PARAMS' and STATS' order, x [B,3,32,32], labels [B] -> the three tuples after the step, the
        loss before it (NaN if that, or a weight or a statistic after it, is not finite), z [B,d]. sgd [3].
        """
        lr, momentum, weight_decay = ops.unstack(sgd)
        (value, z, batch_stats), gradient = loss_and_gradient(params, x, labels, *received, *constants)
        new_params, new_velocity, new_stats = (), (), ()
        for param, v, g in zip(params, velocity, gradient):
            v = momentum * v + (g + weight_decay * param)
            new_velocity = new_velocity + (v,)
            new_params = new_params + (param - lr * v,)
        for old, batch in zip(stats, batch_stats):
            new_stats = new_stats + ((1 - BN_MOMENTUM) * old + BN_MOMENTUM * batch,)
        finite = ops.isfinite(value)
        for new in new_params + new_stats:
            finite = ops.logical_and(finite, ops.isfinite(new).all())
        # a bad weight is told here, since later losses may look good: MindSpore's ReLU turns NaN into 0
        return new_params, new_velocity, new_stats, ops.where(finite, value, math.nan), z

    return train_step


def local_training(step, received, params, stats, client, rng, cfg):
    """T epochs of SGD from the server's network, then the class means. step: from step_on. -> ClientUpdate."""
    labels = client.labels.astype(np.int32)  # MindSpore's cross-entropy takes no smaller type, a larger one compiles anew
    weights, bn_stats = flat(params, PARAMS), flat(stats, STATS)
    velocity = tuple(ops.zeros_like(weight) for weight in weights)
    sgd = Tensor([cfg.lr, cfg.momentum, cfg.weight_decay], ms.float32)
    losses = []  # tensors until the end: to look at one is to wait for its step, which makes a step take twice as long
    for _ in range(cfg.local_epochs):
        epoch_z, order = [], []  # started anew each epoch: only the last one's are used, for prototypes_from = "running"
        for batch in batches(len(labels), cfg.batch_size, rng):
            images = client.images[batch] if cfg.augment == "none" else crop_flip(client.images[batch], rng)
            weights, velocity, bn_stats, loss, z = step(
                ms.mutable(weights), ms.mutable(velocity), ms.mutable(bn_stats), network_input(images),
                Tensor(labels[batch]), ms.mutable(received), sgd)
            losses.append(loss)
            epoch_z.append(z)
            order.append(batch)
    params, stats = dict(zip(PARAMS, weights)), dict(zip(STATS, bn_stats))
    if cfg.prototypes_from == "final":
        features = predict(params, stats, client.images)[1]
    else:
        features = np.concatenate([z.asnumpy() for z in epoch_z])
        labels = labels[np.concatenate(order)]
    class_means, counts = class_prototypes(features, labels, NUM_CLASSES)
    return ClientUpdate(params, stats, class_means, counts, mean_loss([float(loss) for loss in losses], cfg.local_epochs))


def mean_loss(losses, epochs):
    """losses: of each step, all epochs in order. Raises FloatingPointError that names the first that is not finite."""
    wrong = np.flatnonzero(~np.isfinite(losses))
    if len(wrong):
        epoch, batch = divmod(int(wrong[0]), len(losses) // epochs)
        raise FloatingPointError(f"local epoch {epoch + 1}, batch {batch + 1}: the loss or a weight is not finite")
    return float(np.mean(losses))


def client_update(params, stats, prototypes, client, rng, cfg):
    """LocalUpdating of Algorithm 1 with the three terms of Eq. 12. -> ClientUpdate."""
    scalars = tuple(Tensor(number, ms.float32) for number in (cfg.tau, cfg.cpcl, cfg.upcr))
    received = tuple(Tensor(array) for array in prototypes) + scalars  # the order of local_loss's arguments
    return local_training(step_on(local_loss, cfg.upcr_reduce), received, params, stats, client, rng, cfg)


# ---------------------------------------------------------------- 8. server

def weighted_mean(trees, weights):
    """sum of weight / total * tree, name by name, added up in float64 in the order given. -> name -> Tensor.

    A tree is a dictionary name -> array. trees: an iterable of them with the same names; they are taken one at a time, none is kept.
    """
    total, mean = math.fsum(weights), {}
    for tree, weight in zip(trees, weights, strict=True):
        for name, value in tree.items():
            mean[name] = mean.get(name, 0) + weight / total * np.asarray(value, np.float64)
    return {name: Tensor(np.asarray(value, np.float32)) for name, value in mean.items()}


def participants(cfg, num_clients, round_number):
    """The clients that train in this round, in ascending order: a share drawn by seed, at least one."""
    how_many = max(1, round(cfg.participation * num_clients))
    return sorted(stream(cfg, "participants", round_number).permutation(num_clients)[:how_many].tolist())


class Method(NamedTuple):
    """The two steps in which federated methods differ, as server_round asks for them; lab/baselines.py has others.

    client_update(state, memory, client, rng, cfg) -> ClientUpdate; state is the server's, memory the client's own.
    server_update(state, averaged, share, class_means, counts, cfg) -> ServerState; averaged is the state after FedAvg,
    still with the prototypes before; share: of all clients' images, those of the clients that took part (FPL does not need
    it); class_means [M,K,d] and counts [M,K] are zero for clients that did not take part.
    """
    name: str
    client_update: Callable
    server_update: Callable
    numbers: dict  # its own settings, for the record; FPL's are in Config


def prototypes_update(state, averaged, share, class_means, counts, cfg):
    """FPL's server_update: take the averaged network as it is and make new prototypes of what the clients sent."""
    clusters, mask = cluster_prototypes(class_means, counts, cfg.partition)
    return averaged._replace(prototypes=Prototypes(clusters, mask, unbiased_prototypes(clusters, mask)))


FPL = Method("fpl", lambda state, memory, *rest: client_update(state.params, state.stats, state.prototypes, *rest),
             prototypes_update, {})


DIVERGED = "the training diverges: try a smaller --lr or a larger --tau"


def checked(update):
    """A client's update, if all that it sends is finite: train_step has looked at each step's weights, not at class means."""
    values = [value.asnumpy() for value in (update.params | update.stats).values()]
    if not all(np.isfinite(value).all() for value in (*values, update.class_means)):
        raise FloatingPointError("after its last batch: not every number that it sends is finite")
    return update


def train_client(state, clients, method, cfg, m):
    """Client m's turn in the round after state, the server's. -> ClientUpdate."""
    round_number = state.round + 1
    try:
        return checked(method.client_update(state, state.memory.get(m, {}), clients[m], stream(cfg, "client", round_number, m), cfg))
    except FloatingPointError as error:
        raise FloatingPointError(f"round {round_number}, client {m}, {error}; {DIVERGED}") from error


def aggregate(state, chosen, updates, sizes, cfg, method=FPL):
    """The server's half of a round: average what the chosen clients sent, make new prototypes of it.

    chosen: client numbers, ascending; updates: an iterable of their ClientUpdates in that order, taken one at a time;
    sizes: images of each of the M clients. Returns the next ServerState and {losses, class_means, counts} of the round.
    Raises FloatingPointError where the new network is not finite.
    Prototypes come from the clients of this round alone; a class that none of them holds has none in the next round, for
    an older one would be a feature of another network.
    """
    number = state.round + 1
    class_means = np.zeros((len(sizes), NUM_CLASSES, 8 * cfg.width), np.float32)
    counts = np.zeros((len(sizes), NUM_CLASSES), int)
    losses, memory = {}, dict(state.memory)

    def networks():  # one at a time: whatever M is, one client's network is in memory
        for m, update in zip(chosen, updates):
            class_means[m], counts[m], losses[m] = update.class_means, update.counts, update.loss
            if update.memory:
                memory[m] = update.memory
            yield update.params | update.stats

    # this runs all of `networks`, so that class_means and counts are full afterwards; sizes, |D_m| of the paper, are known before
    mean = weighted_mean(networks(), [sizes[m] for m in chosen])
    averaged = ServerState(number, {name: mean[name] for name in PARAMS}, {name: mean[name] for name in STATS},
                           state.prototypes, memory)
    share = sum(sizes[m] for m in chosen) / sum(sizes)
    state = method.server_update(state, averaged, share, class_means, counts, cfg)
    if not all(np.isfinite(value.asnumpy()).all() for value in state.params.values()):
        raise FloatingPointError(f"round {number}: the server's network is not finite; {DIVERGED}")
    return state, {"losses": losses, "class_means": class_means, "counts": counts}


def server_round(state, clients, cfg, engine=map, method=FPL):
    """One round of Algorithm 1 -> (the next state, diagnostics), see aggregate.

    engine(function, items) applies the function to each item and yields the results in the items' order, as map does.
    Raises FloatingPointError where a loss, or anything that travels, is not finite.
    """
    chosen = participants(cfg, len(clients), state.round + 1)
    train = functools.partial(train_client, state, clients, method, cfg)  # not a closure: an engine may send its parts apart
    return aggregate(state, chosen, engine(train, chosen), [len(client.labels) for client in clients], cfg, method)


# ---------------------------------------------------------------- 9. evaluation

def evaluate(state, tests):
    """Top-1 accuracy in percent of the server's network on each domain. tests: domain -> (images, labels).

    Raises FloatingPointError where the network gives a number that is not finite: it would count as class 0.
    """
    def accuracy(domain, images, labels):
        logits = predict(state.params, state.stats, images)[0]
        if not np.isfinite(logits).all():
            raise FloatingPointError(f"round {state.round}, test set of {domain}: the network's output is not finite; {DIVERGED}")
        return 100 * float(np.mean(logits.argmax(axis=1) == labels))
    return {domain: accuracy(domain, *test) for domain, test in tests.items()}


def round_log(state, diagnostics, tests, start):
    """What `run` yields beside the state: aggregate's diagnostics, their mean loss, accuracies, clusters, seconds since start."""
    accuracy = evaluate(state, tests)
    return {"round": state.round, "loss": float(np.mean(list(diagnostics["losses"].values()))),
            "accuracy": accuracy, "avg": float(np.mean(list(accuracy.values()))),
            "clusters_per_class": state.prototypes.mask.sum(axis=1).tolist(),
            "seconds": time.perf_counter() - start, **diagnostics}


# ---------------------------------------------------------------- 10. run

def init_state(cfg):
    """Round 0: random weights (uniform within 1 / sqrt(fan-in), PyTorch's default), fresh statistics, no prototype."""
    rng, params, stats = stream(cfg, "init"), {}, {}
    for name, shape in parameter_shapes(cfg.width).items():
        if ".bn." in name:
            value = np.ones(shape) if name.endswith("weight") else np.zeros(shape)
        else:
            fan_in = 8 * cfg.width if name == "linear.bias" else math.prod(shape[1:])
            value = rng.uniform(-1, 1, shape) / math.sqrt(fan_in)
        params[name] = Tensor(value.astype(np.float32))
    for name in STATS:
        shape = params[name.rsplit(".", 1)[0] + ".weight"].shape
        stats[name] = Tensor((np.ones(shape) if name.endswith("variance") else np.zeros(shape)).astype(np.float32))
    most = max(1, sum(cfg.clients) // 2)
    nothing = Prototypes(np.zeros((NUM_CLASSES, most, 8 * cfg.width), np.float32), np.zeros((NUM_CLASSES, most), bool),
                         np.zeros((NUM_CLASSES, 8 * cfg.width), np.float32))
    return ServerState(0, params, stats, nothing)


def run(clients, tests, cfg, state=None, engine=map, method=FPL):
    """Train from state (default: init_state) to round cfg.rounds; yields (state, log) after each round, prints nothing.

    clients: M Clients, tests: domain -> (images, labels); log: see round_log. Bad input is
    refused when the first round is asked for.
    """
    cfg = complete(cfg)
    check_clients(clients, cfg)
    check_tests(tests)
    state = state or init_state(cfg)
    while state.round < cfg.rounds:
        start = time.perf_counter()
        state, diagnostics = server_round(state, clients, cfg, engine, method)
        yield state, round_log(state, diagnostics, tests, start)


def main(argv=None):
    """The command line; lab/cli.py does the work. Returns the exit status."""
    from lab import cli

    return cli.main(argv)


if __name__ == "__main__":
    from lab import cli  # which imports this file as fpl: one module to work with, one InputError

    cli.as_program(cli.main)
