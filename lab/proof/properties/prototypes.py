"""Class means, cluster and unbiased prototypes (Eq. 2, 4-6), against the oracle."""

import numpy as np
from hypothesis import strategies as st

import oracle_np as oracle
from lab.proof.properties.cases import (
    SEEDS,
    Holders,
    holders,
    ragged,
    small_holders,
    well_apart,
    whole_numbers,
)
from lab.proof.properties.failure import Property, demand, expect, mean_room

# ---------------------------------------------------------------- what is drawn


@st.composite
def small_features(draw):
    """(z [n,2], labels [n], K) of a few whole numbers."""
    n, classes = draw(st.integers(1, 4)), draw(st.integers(1, 3))
    labels = draw(st.lists(st.integers(0, classes - 1), min_size=n, max_size=n))
    return draw(whole_numbers((n, 2), -3, 3)), np.array(labels, np.int32), classes


@st.composite
def large_features(draw, sizes):
    """(z [n,d], labels [n], K); the last classes are often missing."""
    n, d = draw(st.sampled_from(sizes)), draw(st.sampled_from([1, 16, 512]))
    classes = draw(st.integers(1, 10))
    rng = np.random.default_rng(draw(SEEDS))
    z = (10.0 ** rng.uniform(-3, 3) * rng.standard_normal((n, d))).astype(np.float32)
    return z, rng.integers(0, rng.integers(1, classes + 1), n).astype(np.int32), classes


def features(settings):
    """A client's features; only at `strict` may it have no image at all."""
    return [small_features(), large_features([0, 1, 7, 300][settings.level != "strict" :])]


def in_no_doubt(sent):
    """Whether float32 leaves no doubt about any cluster of any class."""
    for k in range(sent.counts.shape[1]):
        rows = sent.class_means[sent.counts[:, k] > 0, k].astype(np.float64)
        if len(rows) > 1 and not well_apart(rows):
            return False
    return True


def sent_by_clients(settings):
    """Holders; at `equations` none whose first neighbours float32 could leave in doubt."""
    if settings.level == "strict":
        return [small_holders(), holders()]
    return [small_holders().filter(in_no_doubt), holders(widths=(3, 16)).filter(in_no_doubt)]


def with_partition(settings):
    """(Holders, "first" | "last"), as far as the implementation has both."""
    return [st.tuples(s, st.sampled_from(settings.partitions)) for s in sent_by_clients(settings)]


def with_junk(settings):
    """(Holders, what the means of clients without the class hold)."""
    junk = [7.0] + ([1e30, np.nan] if settings.level == "strict" else [])
    return [st.tuples(sent, st.sampled_from(junk)) for sent in sent_by_clients(settings)]


def with_order(settings):
    """(Holders in no doubt, seed of an order)."""
    return [
        st.tuples(sent.filter(in_no_doubt), st.integers(0, 20))
        for sent in (small_holders(), holders(widths=(3, 16)))
    ]


@st.composite
def small_clusters(draw):
    """(clusters [K,J,2], mask [K,J]) of a few whole numbers."""
    classes, most = draw(st.integers(1, 2)), draw(st.integers(1, 3))
    size = classes * most
    mask = np.array(draw(st.lists(st.booleans(), min_size=size, max_size=size)), bool)
    clusters = draw(whole_numbers((classes, most, 2), -3, 3))
    mask = mask.reshape(classes, most)
    return np.where(mask[:, :, None], clusters, np.float32(0)), mask


@st.composite
def large_clusters(draw):
    """(clusters [K,J,d], mask [K,J])."""
    classes, most = draw(st.integers(1, 10)), draw(st.integers(1, 12))
    rng = np.random.default_rng(draw(SEEDS))
    d = draw(st.sampled_from([1, 3, 16]))
    clusters = 10.0 ** rng.uniform(-3, 3) * rng.standard_normal((classes, most, d))
    mask = rng.random((classes, most)) < draw(st.sampled_from([0.0, 0.5, 1.0]))
    return np.where(mask[:, :, None], clusters, 0).astype(np.float32), mask


def some_clusters(settings):
    return [small_clusters(), large_clusters()]


def clusters_with_junk(settings):
    """((clusters, mask), what the padding holds)."""
    junk = [7.0] + ([1e30, np.nan] if settings.level == "strict" else [])
    return [st.tuples(some, st.sampled_from(junk)) for some in some_clusters(settings)]


def once(settings):
    return [st.none()]


# ---------------------------------------------------------------- Eq. 2


def class_means_are_the_oracles(impl, case):
    """A class mean is the plain mean of the client's features of that class (Eq. 2)."""
    z, labels, classes = case
    means, _ = impl.class_prototypes(z, labels, classes)
    for k, want in oracle.class_prototypes(z, labels, classes)[0].items():
        room = mean_room(impl.settings, want, np.abs(z[labels == k]).max(), (labels == k).sum())
        expect(f"the mean of class {k}", means[k], want, *room)


def counts_are_the_numbers_of_images(impl, case):
    """A count is the client's number of images of the class, 0 where it has none."""
    z, labels, classes = case
    _, counts = impl.class_prototypes(z, labels, classes)
    expect("counts", counts, oracle.class_prototypes(z, labels, classes)[1])


def a_class_that_nobody_holds_has_mean_zero(impl, case):
    """A class that the client does not hold has the mean zero."""
    z, labels, classes = case
    means, _ = impl.class_prototypes(z, labels, classes)
    for k in sorted(set(range(classes)) - set(labels.tolist())):
        expect(f"the mean of class {k}", means[k], np.zeros(z.shape[1]))


def a_class_mean_keeps_the_length_of_features(impl, _):
    """Features are averaged as they are, not scaled to length 1 before."""
    z = np.array([[3, 0], [0, 1]], np.float32)
    means, _ = impl.class_prototypes(z, np.array([0, 0], np.int32), 1)
    expect("the mean of (3,0) and (0,1)", means, [[1.5, 0.5]])


# ---------------------------------------------------------------- Eq. 4-5


def expect_same_rows(what, got, want, settings, largest):
    """Raise Failure unless the rows of got are those of want, in any order."""
    number = f"{what}: the number of prototypes is another"
    demand(len(got) == len(want), number, len(got), len(want))
    left = list(range(len(got)))
    for row in want:
        # the nearest of those that are left; where two are as near, they are as good
        nearest = min(left, key=lambda i: np.nan_to_num(np.abs(got[i] - row), nan=np.inf).max())
        left.remove(nearest)
        room = mean_room(settings, row, largest, 24)
        expect(f"{what}: the prototype nearest to {row.tolist()}", got[nearest], row, *room)


def cluster_prototypes_are_the_oracles(impl, drawn):
    """Per class, a cluster prototype is the plain mean of a FINCH cluster of the clients' means."""
    sent, partition = drawn
    means = sent.class_means.astype(np.float64)
    got = impl.cluster_prototypes(sent.class_means, sent.counts, partition)
    want = oracle.cluster_prototypes(means, sent.counts, partition)
    for k in range(sent.counts.shape[1]):
        what, largest = f"class {k}, partition {partition}", np.abs(means).max()
        expect_same_rows(what, got.get(k, []), want.get(k, []), impl.settings, largest)


def shapes_hang_on_the_clients_number_alone(impl, drawn):
    """The shapes of clusters and mask hang on the number of clients, not on who holds what."""
    sent, partition = drawn
    impl.cluster_prototypes(sent.class_means, sent.counts, partition)
    shape = impl.last_shape
    impl.cluster_prototypes(np.ones_like(sent.class_means), np.ones_like(sent.counts), partition)
    demand(shape == impl.last_shape, "the shapes are others", shape, impl.last_shape)


def a_class_of_one_holder_has_its_mean(impl, sent):
    """A class of one holder has its mean as prototype; one that nobody holds has none."""
    partition = impl.settings.partitions[0]
    got = impl.cluster_prototypes(sent.class_means, sent.counts, partition)
    for k, held_by in enumerate((sent.counts > 0).sum(axis=0)):
        if held_by <= 1:
            want = sent.class_means[sent.counts[:, k] > 0, k]
            rows = np.reshape(got.get(k, []), (-1, sent.class_means.shape[2]))
            expect(f"the prototypes of class {k}, which has {held_by} holders", rows, want)


def means_of_clients_without_the_class_are_ignored(impl, drawn):
    """What stands at a client that does not hold the class enters no prototype."""
    sent, junk = drawn
    partition = impl.settings.partitions[0]
    filled = np.where(sent.counts[:, :, None] > 0, sent.class_means, np.float32(junk))
    want = impl.cluster_prototypes(sent.class_means, sent.counts, partition)
    got = impl.cluster_prototypes(filled, sent.counts, partition)
    for k in range(sent.counts.shape[1]):
        expect(f"class {k}, {junk} where the class is not held", got.get(k, []), want.get(k, []))


def the_number_of_images_does_not_matter(impl, sent):
    """However many images stand behind a client's mean, it is one row."""
    partition = impl.settings.partitions[0]
    ones = np.minimum(sent.counts, 1)
    got = impl.cluster_prototypes(sent.class_means, sent.counts, partition)
    want = impl.cluster_prototypes(sent.class_means, ones, partition)
    for k in range(sent.counts.shape[1]):
        expect(f"class {k}", got.get(k, []), want.get(k, []))


def the_clients_order_decides_no_prototype(impl, drawn):
    """Clients in another order give the same prototypes, in some order."""
    sent, seed = drawn
    partition = impl.settings.partitions[0]
    order = np.random.default_rng(seed).permutation(len(sent.counts))
    want = impl.cluster_prototypes(sent.class_means, sent.counts, partition)
    got = impl.cluster_prototypes(sent.class_means[order], sent.counts[order], partition)
    largest = 2 * np.abs(sent.class_means).max()
    for k in range(sent.counts.shape[1]):
        expect_same_rows(f"class {k}", got.get(k, []), want.get(k, []), impl.settings, largest)


def the_last_partition_may_be_coarser(impl, _):
    """Four pairs on the circle have four prototypes at first, two in the last partition."""
    degrees = np.radians([0, 2, 10, 12, 90, 92, 100, 102])
    means = np.stack([np.cos(degrees), np.sin(degrees)], axis=1)[:, None].astype(np.float32)
    counts = np.ones((8, 1), np.int64)
    for partition in impl.settings.partitions:
        got = len(impl.cluster_prototypes(means, counts, partition)[0])
        want = {"first": 4, "last": 2}[partition]
        demand(got == want, f"partition {partition}: the number is another", got, want)


def each_class_is_clustered_by_itself(impl, _):
    """FINCH runs class by class: clients of two domains have two prototypes in each class."""
    degrees = np.radians([[0, 40], [2, 42], [20, 60], [22, 62]])  # [M,K]: two clients a domain
    means = np.stack([np.cos(degrees), np.sin(degrees)], axis=2).astype(np.float32)
    got = impl.cluster_prototypes(means, np.ones((4, 2), np.int64), "first")
    numbers = [len(got.get(k, [])) for k in range(2)]
    demand(numbers == [2, 2], "the numbers of prototypes are others", numbers, [2, 2])


# ---------------------------------------------------------------- Eq. 6


def unbiased_prototypes_are_the_oracles(impl, case):
    """The unbiased prototype is the plain mean of the class's cluster prototypes (Eq. 6)."""
    clusters, mask = case
    got = impl.unbiased_prototypes(clusters, mask)
    for k, want in oracle.unbiased_prototypes(ragged(clusters, mask)).items():
        largest, n = np.abs(clusters[k]).max(), mask.shape[1]
        room = mean_room(impl.settings, want, largest, n)
        expect(f"the unbiased prototype of class {k}", got[k], want, *room)


def a_class_without_cluster_has_unbiased_zero(impl, case):
    """A class without any cluster has the unbiased prototype zero."""
    clusters, mask = case
    got = impl.unbiased_prototypes(clusters, mask)
    for k in np.flatnonzero(~mask.any(axis=1)):
        expect(f"the unbiased prototype of class {k}", got[k], np.zeros(clusters.shape[2]))


def what_padding_holds_reaches_no_unbiased_prototype(impl, drawn):
    """What stands in a slot without a cluster reaches no unbiased prototype."""
    (clusters, mask), junk = drawn
    filled = np.where(mask[:, :, None], clusters, np.float32(junk))
    got, want = impl.unbiased_prototypes(filled, mask), impl.unbiased_prototypes(clusters, mask)
    for k in np.flatnonzero(mask.any(axis=1)):
        expect(f"class {k} with {junk} in the padding", got[k], want[k])


def three_clients_weigh_as_much_as_two(impl, _):
    """Two domains, of three clients and of two, weigh the same in the unbiased prototype."""
    # At (1,0) and at (0,1): the mean over clusters is (1/2, 1/2), over clients (3/5, 2/5).
    means = np.float32([[[1, 0]], [[1, 0]], [[1, 0]], [[0, 1]], [[0, 1]]])
    sent = Holders(means, np.full((5, 1), 9))
    clusters = impl.cluster_prototypes(*sent, impl.settings.partitions[0]).get(0, [])
    padded = np.array(clusters, np.float32).reshape(1, -1, 2)
    got = impl.unbiased_prototypes(padded, np.ones(padded.shape[:2], bool))
    expect("the unbiased prototype", got, [[0.5, 0.5]], 1e-6, "a few roundings of numbers up to 1")


# ---------------------------------------------------------------- usual causes

MEAN = "It is a plain mean of the features as they are: no weights, no scaling to length 1."
ABSENT_MEAN = "0 / 0 is NaN: divide by max(count, 1)."
CLUSTERS = (
    "Only the means of clients that hold the class are clustered, class by class and with the "
    "cosine, but the means themselves are averaged, not the unit vectors. The released code takes "
    "the last partition, Eq. 4 the first: --partition first, or last, judges one of them alone."
)
HOLDERS = "A client without the class has no mean; its zero row must be left out, not averaged."
WEIGHTS = "Cluster prototypes are plain means: neither images nor clients are weights."
UNBIASED = "Divide by the number of the class's clusters, which the mask tells, not by J or by M."
RAGGED = "Pad to a J that the number of clients alone decides, such as max(1, M // 2)."
TOGETHER = "All classes are clustered together; their means are so alike that domains are lost."


def prototypes(function, holds, cases, cause, **more):
    return Property(holds, (function,), cases, cause=cause, **more)


def means(holds, cases, cause, **more):
    return prototypes("class_prototypes", holds, cases, cause, **more)


def clusters(holds, cases, cause, **more):
    return prototypes("cluster_prototypes", holds, cases, cause, **more)


def unbiased(holds, cases, cause, **more):
    return prototypes("unbiased_prototypes", holds, cases, cause, **more)


PROPERTIES = [
    means(class_means_are_the_oracles, features, MEAN),
    means(counts_are_the_numbers_of_images, features, "A label is taken for another class."),
    means(a_class_mean_keeps_the_length_of_features, once, MEAN),
    means(a_class_that_nobody_holds_has_mean_zero, features, ABSENT_MEAN, level="strict"),
    clusters(cluster_prototypes_are_the_oracles, with_partition, CLUSTERS),
    clusters(a_class_of_one_holder_has_its_mean, sent_by_clients, HOLDERS),
    clusters(means_of_clients_without_the_class_are_ignored, with_junk, HOLDERS),
    clusters(the_number_of_images_does_not_matter, sent_by_clients, WEIGHTS),
    clusters(the_clients_order_decides_no_prototype, with_order, CLUSTERS),
    clusters(the_last_partition_may_be_coarser, once, CLUSTERS),
    clusters(each_class_is_clustered_by_itself, once, TOGETHER, choices=("first",)),
    clusters(shapes_hang_on_the_clients_number_alone, with_partition, RAGGED, level="strict"),
    unbiased(unbiased_prototypes_are_the_oracles, some_clusters, UNBIASED),
    unbiased(what_padding_holds_reaches_no_unbiased_prototype, clusters_with_junk, UNBIASED),
    unbiased(a_class_without_cluster_has_unbiased_zero, some_clusters, ABSENT_MEAN, level="strict"),
    Property(
        three_clients_weigh_as_much_as_two,
        ("cluster_prototypes", "unbiased_prototypes"),
        once,
        cause="A mean over clients is biased: the domain with the most clients draws it to itself.",
    ),
]
