"""FINCH (Eq. 4) against the oracle and against its own definition."""

import numpy as np
from hypothesis import strategies as st

import oracle_np as oracle
from lab.proof.properties.cases import SEEDS, rows_to_cluster, small_rows, well_apart
from lab.proof.properties.failure import Property, demand

# ---------------------------------------------------------------- what is drawn


def some_rows(settings, least=0, most=60):
    """Rows to cluster; at `equations` none whose first neighbour float32 could leave in doubt."""
    kinds = [small_rows(least, most), rows_to_cluster(least, most)]
    if settings.level == "strict":
        return kinds
    return [rows.filter(lambda x: x.any(axis=1).all() and well_apart(x)) for rows in kinds]


def two_rows_or_more(settings):
    return some_rows(settings, 2)


def two_or_three_rows(settings):
    return some_rows(settings, 2, 3)


def four_rows_or_more(settings):
    return some_rows(settings, 4)


def with_power(settings):
    """(rows, a power of two to scale by)."""
    # The squares of such rows overflow or vanish, so lengths cannot be taken naively either.
    powers = st.integers(-900, 990) if settings.level == "strict" else st.integers(-8, 8)
    return [st.tuples(rows, powers) for rows in two_rows_or_more(settings)]


def with_order(settings):
    """(rows in no doubt, seed of an order)."""
    return [st.tuples(rows.filter(well_apart), SEEDS) for rows in some_rows(settings, 2)]


def random_rows(settings):
    """Rows with lengths of their own: (seed, how many)."""
    return [st.tuples(SEEDS, st.integers(4, 30))]


def once(settings):
    return [st.none()]


# ---------------------------------------------------------------- what must hold


def clusters_of(labels):
    """The clusters, whatever their numbers: in the order of their lowest rows."""
    seen = {}
    return [seen.setdefault(label, len(seen)) for label in np.asarray(labels).tolist()]


def listed(partitions):
    return [np.asarray(p).tolist() for p in partitions]


def finch_of_the_worked_example_is_0_0_1_1(impl, _):
    """FINCH of rows at 0, 10, 90, 95 degrees is [0, 0, 1, 1]."""
    degrees = np.radians([0, 10, 90, 95])
    got = impl.finch(np.stack([np.cos(degrees), np.sin(degrees)], axis=1))
    demand(
        [clusters_of(p) for p in got] == [[0, 0, 1, 1]],
        "the partitions are others",
        listed(got),
        [[0, 0, 1, 1]],
    )


def the_finest_partition_is_the_oracles(impl, x):
    """The first partition links each row to its most similar other row (Eq. 4)."""
    got, want = impl.finch(x), listed(oracle.finch(x))
    first = [clusters_of(p) for p in got[:1]]
    demand(first == want[:1], "the first partition is another", listed(got[:1]), want[:1])


def every_partition_is_the_oracles(impl, x):
    """Each further partition links the means of the clusters before it, until nothing merges."""
    got, want = impl.finch(x), listed(oracle.finch(x))
    same = [clusters_of(p) for p in got] == want
    demand(same, "the partitions are others", listed(got), want)


def clusters_are_numbered_from_0(impl, x):
    """The C clusters of a partition are numbered 0 to C - 1."""
    for labels in impl.finch(x):
        want = list(range(len(set(labels.tolist()))))
        got = sorted(set(labels.tolist()))
        demand(got == want, "the numbers of the clusters are others", got, want)


def labels_count_up_as_they_first_appear(impl, x):
    """Clusters are numbered in the order of their lowest rows."""
    got = impl.finch(x)
    want = [clusters_of(p) for p in got]
    demand(listed(got) == want, "the numbers come in another order", listed(got), want)


def no_row_gives_no_partition(impl, _):
    """No row gives no partition, and one row gives one cluster."""
    for rows, want in (0, []), (1, [[0]]):
        got = impl.finch(np.ones((rows, 4)))
        demand(listed(got) == want, f"rows: {rows}; the partitions are others", listed(got), want)


def two_or_three_rows_are_one_cluster(impl, x):
    """Two or three rows are one cluster, and there is no other partition."""
    got = impl.finch(x)
    want = [[0] * len(x)]
    same = [clusters_of(p) for p in got] == want
    demand(same, "they are not one cluster", listed(got), want)


def no_cluster_has_fewer_than_two_rows(impl, x):
    """Every row has a first neighbour, so no cluster has fewer than two rows."""
    for labels in impl.finch(x):
        sizes = np.unique(labels, return_counts=True)[1]
        demand(sizes.min() >= 2, "a row is a cluster alone", labels.tolist())


def a_later_partition_never_splits_a_cluster(impl, x):
    """A later partition is coarser, and each cluster lies in one of its clusters."""
    partitions = impl.finch(x)
    for fine, coarse in zip(partitions, partitions[1:]):
        few, many = len(set(coarse.tolist())), len(set(fine.tolist()))
        demand(few < many, "a later partition has no fewer clusters", few, many)
        pairs = set(zip(fine.tolist(), coarse.tolist()))
        demand(len(pairs) == many, "a cluster is split", coarse.tolist(), fine.tolist())


def one_cluster_is_an_answer_only_at_first(impl, x):
    """FINCH ends in one cluster of all rows only where it starts there."""
    got = impl.finch(x)
    fine = all(len(set(p.tolist())) > 1 for p in got[1:])
    demand(fine, "a later partition is one cluster", listed(got))


def scaling_by_a_power_of_two_changes_no_partition(impl, drawn):
    """All rows times a power of two, which is exact, give the same partitions."""
    x, power = drawn
    want, got = listed(impl.finch(x)), listed(impl.finch(x * 2.0**power))
    demand(got == want, f"the partitions of the rows times 2^{power} are others", got, want)


def only_the_angles_of_the_rows_count(impl, drawn):
    """In the first partition only the angles of the rows count, not their lengths."""
    seed, n = drawn
    rng = np.random.default_rng(seed)
    x = rng.standard_normal((n, 5))
    # Powers of two: the scaled row has the very same direction.
    # Later partitions are of means, where lengths do count.
    lengths = 2.0 ** rng.integers(-8, 9, (n, 1))
    got, want = impl.finch(x * lengths)[0].tolist(), impl.finch(x)[0].tolist()
    demand(got == want, "rows of other lengths are clustered otherwise", got, want)


def the_order_of_the_rows_is_free(impl, drawn):
    """Rows in another order give the same clusters."""
    x, seed = drawn
    order = np.random.default_rng(seed).permutation(len(x))
    want = [clusters_of(p[order]) for p in impl.finch(x)]
    got = [clusters_of(p) for p in impl.finch(x[order])]
    demand(got == want, "rows in another order are clustered otherwise", got, want)


def float32_rows_are_clustered_as_in_float64(impl, x):
    """Rows of float32 give what the same numbers in float64 give."""
    single = x.astype(np.float32)
    got, want = listed(impl.finch(single)), listed(impl.finch(single.astype(np.float64)))
    demand(got == want, "float32 rows are clustered otherwise", got, want)


def of_equally_similar_neighbours_the_lowest_row_wins(impl, _):
    """Of equally similar neighbours the lowest row wins."""
    # Row 2 is as similar to rows 0 and 1 (cosine 0.6 each):
    # it goes to row 0. Rows 3 and 4 keep row 1 apart from row 0.
    x = np.array(
        [[1, 0, 0.0], [0, 1, 0], [0.6, 0.6, 0.529150262212918], [0, 1, -0.1], [0, 1, -0.2]]
    )
    got = clusters_of(impl.finch(x)[0])
    demand(got == [0, 1, 0, 1, 1], "row 2 is in the wrong cluster", got, [0, 1, 0, 1, 1])


# ---------------------------------------------------------------- usual causes

NEIGHBOUR = (
    "Similarity is the cosine, and the neighbour is another row: the diagonal must be out of reach "
    "of any similarity. Links join directly or through others."
)
LATER = (
    "A further step clusters the plain means of the rows of each cluster; it stops when nothing "
    "merges, and a step that leaves a single cluster is left out."
)
NUMBERS = "Labels count from 0, one for each cluster."
TIES = "A tie, within rounding, goes to the lowest row; float32 decides it by chance."


def finch(holds, cases, cause, **more):
    return Property(holds, ("finch",), cases, cause=cause, **more)


PROPERTIES = [
    finch(finch_of_the_worked_example_is_0_0_1_1, once, NEIGHBOUR),
    finch(the_finest_partition_is_the_oracles, two_rows_or_more, NEIGHBOUR),
    finch(every_partition_is_the_oracles, two_rows_or_more, LATER),
    finch(clusters_are_numbered_from_0, two_rows_or_more, NUMBERS),
    finch(two_or_three_rows_are_one_cluster, two_or_three_rows, NEIGHBOUR),
    finch(no_cluster_has_fewer_than_two_rows, two_rows_or_more, NEIGHBOUR),
    finch(a_later_partition_never_splits_a_cluster, two_rows_or_more, LATER),
    finch(one_cluster_is_an_answer_only_at_first, four_rows_or_more, LATER),
    finch(scaling_by_a_power_of_two_changes_no_partition, with_power, NEIGHBOUR),
    finch(only_the_angles_of_the_rows_count, random_rows, NEIGHBOUR),
    finch(the_order_of_the_rows_is_free, with_order, NEIGHBOUR),
    finch(labels_count_up_as_they_first_appear, two_rows_or_more, NUMBERS, level="strict"),
    finch(
        no_row_gives_no_partition, once, "Fewer than two rows have no neighbour.", level="strict"
    ),
    finch(float32_rows_are_clustered_as_in_float64, two_rows_or_more, TIES, level="strict"),
    finch(of_equally_similar_neighbours_the_lowest_row_wins, once, TIES, level="strict"),
]
