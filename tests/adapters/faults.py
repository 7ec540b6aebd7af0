"""Functions with one fault each, such as published code has or had, and what must see it."""

from typing import NamedTuple

import numpy as np
import numpy_vectorised as right
from numpy_vectorised import log_sum_exp, unit


class Fault(NamedTuple):
    """One function of the contract, wrong in one way."""

    function: str
    wrong: object
    fails: set  # the properties that must fail
    may: frozenset = frozenset()  # those that may, as the cases are drawn; all others must hold
    level: str = "equations"


def similarities(z, labels, clusters, mask, tau):
    """s [B,K,J], own and other [B,K,J]."""
    prototypes = unit(np.where(mask[:, :, None], clusters, 0))
    s = np.einsum("bd,kjd->bkj", unit(z), prototypes) / np.float32(tau)
    mine = (labels[:, None] == np.arange(len(mask)))[:, :, None]
    return s, mine & mask, ~mine & mask


def mean_loss(log_n, log_p, known):
    """log(1 + N/P) where the class is known, else 0; the mean over the batch."""
    gap = np.where(known, log_n - np.where(known, log_p, 0), -np.inf)
    return np.where(known, np.logaddexp(0, gap), 0).mean()


# ---------------------------------------------------------------- CPCL


def first_positive_only(z, labels, clusters, mask, tau):
    """FPL_MS."""
    s, own, other = similarities(z, labels, clusters, mask, tau)
    first = own & (np.cumsum(own.reshape(len(z), -1), axis=1).reshape(own.shape) == 1)
    all_of_it = log_sum_exp(s, own | other)
    known = own.any(axis=(1, 2))
    return np.where(known, all_of_it - np.where(known, log_sum_exp(s, first), 0), 0).mean()


def a_log_for_each_positive(z, labels, clusters, mask, tau):
    """As in supervised contrastive learning."""
    s, own, other = similarities(z, labels, clusters, mask, tau)
    all_of_it = log_sum_exp(s, own | other)[:, None, None]
    terms = np.where(own, np.where(own, all_of_it, 0) - s, 0).sum(axis=(1, 2))
    return (terms / np.maximum(own.sum(axis=(1, 2)), 1)).mean()


def unshifted_exponentials(z, labels, clusters, mask, tau):
    s, own, other = similarities(z, labels, clusters, mask, tau)
    e = np.exp(s.astype(np.float32))
    p, n = (np.where(some, e, 0).sum(axis=(1, 2)) for some in (own, other))
    known = own.any(axis=(1, 2))
    return np.where(known, -np.log(np.where(known, p / (p + n), 1)), 0).mean()


def no_gradient(z, labels, clusters, mask, tau):
    """FPL_MS: the value is right, and a constant to the framework."""
    value, gradient = right.cpcl(z, labels, clusters, mask, tau)
    return value, np.zeros_like(gradient)


def gradient_of_the_sum(z, labels, clusters, mask, tau):
    value, gradient = right.cpcl(z, labels, clusters, mask, tau)
    return value, gradient * len(z)


def temperature_on_the_negatives_only(z, labels, clusters, mask, tau):
    s, own, other = similarities(z, labels, clusters, mask, tau)
    log_p = log_sum_exp(s * np.float32(tau), own)
    return mean_loss(log_sum_exp(s, other), log_p, own.any(axis=(1, 2)))


def times_tau(z, labels, clusters, mask, tau):
    """Eq. 7 as it is printed."""
    return right.cpcl(z, labels, clusters, mask, 1 / tau)[0]


def dot_product(z, labels, clusters, mask, tau):
    _, own, other = similarities(z, labels, clusters, mask, tau)
    s = np.einsum("bd,kjd->bkj", z, np.where(mask[:, :, None], clusters, 0)) / np.float32(tau)
    known = own.any(axis=(1, 2))
    return mean_loss(log_sum_exp(s, other), log_sum_exp(s, own), known)


def sum_over_the_batch(z, labels, clusters, mask, tau):
    return right.cpcl(z, labels, clusters, mask, tau)[0] * len(z)


def mean_over_the_known(z, labels, clusters, mask, tau):
    known = mask.any(axis=1)[labels].sum()
    return right.cpcl(z, labels, clusters, mask, tau)[0] * len(z) / max(known, 1)


def padding_counts(z, labels, clusters, mask, tau):
    return right.cpcl(z, labels, clusters, np.ones_like(mask), tau)[0]


def labels_from_1(z, labels, clusters, mask, tau):
    return right.cpcl(z, labels - 1, clusters, mask, tau)[0]


def known_classes_renumbered(z, labels, clusters, mask, tau):
    """The classes that there are become 0, 1, ..., the labels stay."""
    known = mask.any(axis=1)
    order = np.argsort(~known, kind="stable")
    return right.cpcl(z, labels, clusters[order], mask[order], tau)[0]


def no_case_for_unknown_classes(z, labels, clusters, mask, tau):
    """The log of no positive is minus infinity."""
    s, own, other = similarities(z, labels, clusters, mask, tau)
    return (log_sum_exp(s, own | other) - log_sum_exp(s, own)).mean()


def only_negatives_below(z, labels, clusters, mask, tau):
    """-log(P / N)."""
    s, own, other = similarities(z, labels, clusters, mask, tau)
    some = own.any(axis=(1, 2)) & other.any(axis=(1, 2))
    log_n, log_p = log_sum_exp(s, other), log_sum_exp(s, own)
    return np.where(some, np.where(some, log_n, 0) - np.where(some, log_p, 0), 0).mean()


def epsilon_in_the_length(z, labels, clusters, mask, tau):
    length = np.sqrt((z * z).sum(axis=1, keepdims=True) + 1e-10)
    z = np.hstack([z / length, np.sqrt(np.maximum(1 - ((z / length) ** 2).sum(1), 0))[:, None]])
    clusters = np.pad(clusters, [(0, 0), (0, 0), (0, 1)])
    return right.cpcl(z.astype(np.float32), labels, clusters, mask, tau)[0]


def difference_of_logs(z, labels, clusters, mask, tau):
    """log(P + N) - log P loses a tiny N."""
    s, own, other = similarities(z, labels, clusters, mask, tau)
    s, known = s.astype(np.float32), own.any(axis=(1, 2))
    both = np.where(known, log_sum_exp(s, own | other), 0)
    return (both - np.where(known, log_sum_exp(s, own), 0)).mean()


def zero_rows_divided(z, labels, clusters, mask, tau):
    """x / |x| is NaN at 0."""
    value, gradient = right.cpcl(z, labels, clusters, mask, tau)
    zero = ~z.any(axis=1) & mask.any(axis=1)[labels]
    gradient = np.where(zero[:, None], np.nan, gradient)
    return value + (np.nan if zero.any() else 0), gradient


# ---------------------------------------------------------------- UPCR


def always_the_mean(z, labels, unbiased, known, reduce):
    """nn.MSELoss, whatever was asked for."""
    return right.upcr(z, labels, unbiased, known, "mean")


def upcr_over_the_known(z, labels, unbiased, known, reduce):
    value, gradient = right.upcr(z, labels, unbiased, known, reduce)
    share = len(z) / max(known[labels].sum(), 1)
    return value * share, gradient * share


def unknown_classes_drawn_to_zero(z, labels, unbiased, known, reduce):
    unbiased = np.where(known[:, None], unbiased, 0)
    return right.upcr(z, labels, unbiased, np.ones_like(known), reduce)


def half_the_gradient(z, labels, unbiased, known, reduce):
    value, gradient = right.upcr(z, labels, unbiased, known, reduce)
    return value, gradient / 2


def distance_for_its_square(z, labels, unbiased, known, reduce):
    off = np.where(known[labels][:, None], z - unbiased[labels], 0)
    return (np.sqrt((off * off).sum(axis=1)) / (z.shape[1] if reduce == "mean" else 1)).mean()


# ---------------------------------------------------------------- prototypes


def normalised_before_averaging(z, labels, num_classes):
    return right.class_prototypes(unit(z), labels, num_classes)


def classes_from_1(z, labels, num_classes):
    means, counts = right.class_prototypes(z, labels + 1, num_classes + 1)
    return means[:-1], counts[:-1]


def divided_by_all_images(z, labels, num_classes):
    means, counts = right.class_prototypes(z, labels, num_classes)
    return means * (counts / max(len(z), 1))[:, None], counts


def absent_classes_divided(z, labels, num_classes):
    means, counts = right.class_prototypes(z, labels, num_classes)
    return np.where(counts[:, None] > 0, means, np.nan), counts


def no_clusters(class_means, counts, partition):
    """Each client's mean is a prototype: their mean is the one over clients, called unbiased."""
    held = counts.T > 0
    return class_means.transpose(1, 0, 2) * held[:, :, None], held


def absent_clients_are_zero(class_means, counts, partition):
    means = np.where(counts[:, :, None] > 0, class_means, 0)
    everyone = np.broadcast_to((counts > 0).any(axis=0), counts.shape)
    return right.cluster_prototypes(means, everyone, partition)


def always_the_coarsest(class_means, counts, partition):
    """Both releases."""
    return right.cluster_prototypes(class_means, counts, "last")


def clusters_as(change, class_means, counts, partition):
    """Another mean of a cluster's rows: change(rows, their counts)."""
    prototypes = {}
    for k in range(counts.shape[1]):
        held = counts[:, k] > 0
        rows, images = class_means[held, k], counts[held, k]
        if len(rows):
            labels = right.finch(rows)[0 if partition == "first" else -1]
            some = range(labels.max() + 1)
            prototypes[k] = [change(rows[labels == j], images[labels == j]) for j in some]
    return prototypes


def unit_vectors_averaged(*given):
    return clusters_as(lambda rows, images: unit(rows).mean(axis=0), *given)


def weighted_by_images(*given):
    return clusters_as(lambda rows, images: images @ rows / images.sum(), *given)


def all_classes_together(class_means, counts, partition):
    held = np.argwhere(counts > 0)
    prototypes = {}
    if len(held):
        rows = class_means[tuple(held.T)]
        labels = right.finch(rows)[0 if partition == "first" else -1]
        for j in range(labels.max() + 1):
            for k in sorted(set(held[labels == j, 1])):
                mine = (labels == j) & (held[:, 1] == k)
                prototypes.setdefault(k, []).append(rows[mine].mean(axis=0))
    return prototypes


def ragged_j(class_means, counts, partition):
    """As many slots as the class with the most clusters needs this time."""
    clusters, mask = right.cluster_prototypes(class_means, counts, partition)
    most = max(1, mask.sum(axis=1).max())
    return clusters[:, :most], mask[:, :most]


def class_ids_reordered(class_means, counts, partition):
    """{position among the classes that are held: ...} for {class: ...}."""
    clusters, mask = right.cluster_prototypes(class_means, counts, partition)
    held = [k for k in range(len(mask)) if mask[k].any()]
    return {i: clusters[k][mask[k]] for i, k in enumerate(held)}


def absent_clusters_are_zero(clusters, mask):
    return np.where(mask[:, :, None], clusters, 0).mean(axis=1)


def padding_is_averaged(clusters, mask):
    return clusters.sum(axis=1) / np.maximum(mask.sum(axis=1), 1)[:, None]


# ---------------------------------------------------------------- FINCH


def partitions_of(x, neighbours, is_linked=lambda a: a + a.T > 0):
    """finch by other first neighbours, or by another reading of the links."""

    def link(x):
        a = np.zeros((len(x), len(x)), int)
        a[np.arange(len(x)), neighbours(x)] = 1
        reach = (is_linked(a) | np.eye(len(x), dtype=bool)).astype(int)
        for _ in range(len(x)):
            reach = (reach @ reach > 0).astype(int)
        return np.unique(reach.argmax(axis=1), return_inverse=True)[1]

    if len(x) < 2:
        return right.finch(x)
    partitions = [link(x)]
    while partitions[-1].max() > 0:
        fine = partitions[-1]
        means = np.stack([x[fine == j].mean(axis=0) for j in range(fine.max() + 1)])
        coarse = link(means)[fine]
        if coarse.max() == 0 or coarse.max() == fine.max():
            break
        partitions.append(coarse)
    return partitions


def by_cosine(x):
    similarity = unit(x) @ unit(x).T - 9 * np.eye(len(x))
    return (similarity >= similarity.max(axis=1, keepdims=True) - 2.0**-40).argmax(axis=1)


def by_distance(x):
    distance = ((x[:, None] - x) ** 2).sum(axis=2) + 1e9 * np.eye(len(x))
    return distance.argmin(axis=1)


def by_cosine_with_filler_0(x):
    """The diagonal is filled with similarity 0, which beats opposite rows."""
    similarity = unit(x) @ unit(x).T
    np.fill_diagonal(similarity, 0)
    return (similarity >= similarity.max(axis=1, keepdims=True) - 2.0**-40).argmax(axis=1)


def by_cosine_in_float32(x):
    single = unit(np.float32(x))
    similarity = single @ single.T - 9 * np.eye(len(x), dtype=np.float32)
    return similarity.argmax(axis=1)


def neighbours_by_distance(x):
    return partitions_of(x, by_distance)


def diagonal_filled_with_0(x):
    return partitions_of(x, by_cosine_with_filler_0)


def similarities_in_float32(x):
    return partitions_of(x, by_cosine_in_float32)


def links_not_binary(x):
    """A mutual link is 2 in a + a.T, and only a 1 is taken for a link."""
    return partitions_of(x, by_cosine, lambda a: a + a.T == 1)


def mutual_links_alone(x):
    return partitions_of(x, by_cosine, lambda a: a + a.T == 2)


def clusters_from_1(x):
    return [labels + 1 for labels in right.finch(x)]


def one_cluster_at_the_end(x):
    partitions = right.finch(x)
    if len(partitions) and partitions[-1].max() > 0:
        partitions.append(np.zeros(len(x), int))
    return partitions


def the_finest_alone(x):
    return right.finch(x)[:1]


# ---------------------------------------------------------------- server, SGD, batch norm


def equal_clients(trees, weights):
    return right.weighted_mean(trees, [1] * len(trees))


def sum_for_mean(trees, weights):
    return {name: sum(w * t[name] for w, t in zip(weights, trees)) for name in trees[0]}


def another_clients_weight(trees, weights):
    """FPL_MS under partial participation."""
    return right.weighted_mean(trees, [*weights[1:], weights[0]])


def decoupled_decay(param, velocity, grad, lr, momentum, weight_decay):
    velocity = momentum * velocity + grad
    return param - lr * (velocity + weight_decay * param), velocity


def nesterov(param, velocity, grad, lr, momentum, weight_decay):
    slope = grad + weight_decay * param
    velocity = momentum * velocity + slope
    return param - lr * (slope + momentum * velocity), velocity


def dampening(param, velocity, grad, lr, momentum, weight_decay):
    velocity = momentum * velocity + (1 - momentum) * (grad + weight_decay * param)
    return param - lr * velocity, velocity


def step_in_place(param, velocity, grad, lr, momentum, weight_decay):
    velocity *= momentum
    velocity += grad + weight_decay * param
    return param - lr * velocity, velocity


def unbiased_variance(x, weight, bias, eps):
    y, mean, variance = right.batch_norm(x, weight, bias, eps)
    n = x.size / x.shape[1]
    return y, mean, variance * n / (n - 1)


def epsilon_outside_the_root(x, weight, bias, eps):
    _, mean, variance = right.batch_norm(x, weight, bias, eps)
    scale = (weight / (np.sqrt(variance) + eps))[:, None, None]
    return scale * (x - mean[:, None, None]) + bias[:, None, None], mean, variance


def each_image_by_itself(x, weight, bias, eps):
    images = [right.batch_norm(image[None], weight, bias, eps) for image in x]
    y, mean, variance = zip(*images)
    return np.concatenate(y), np.mean(mean, axis=0), np.mean(variance, axis=0)


FAULTS = [
    Fault(
        "cpcl",
        first_positive_only,
        {
            "cpcl_of_the_worked_example_is_0_0943",
            "tau_divides_every_similarity",
            "cpcl_is_the_oracles",
            "every_positive_counts_not_only_the_first",
            "a_second_positive_lowers_the_loss",
            "a_single_known_class_costs_no_cpcl",
        },
    ),
    Fault(
        "cpcl",
        a_log_for_each_positive,
        {
            "cpcl_of_the_worked_example_is_0_0943",
            "tau_divides_every_similarity",
            "cpcl_is_the_oracles",
            "a_second_positive_lowers_the_loss",
            "a_single_known_class_costs_no_cpcl",
        },
    ),
    Fault(
        "cpcl",
        unshifted_exponentials,
        {
            "cpcl_is_the_oracles",
            "every_positive_counts_not_only_the_first",
            "what_padding_holds_does_not_reach_cpcl",
            "cpcl_sees_only_the_angle_of_z",
            "the_length_of_a_prototype_changes_no_cpcl",
            "the_numbering_of_the_classes_is_free",
            "a_batch_twice_over_costs_the_same_cpcl",
            "at_tau_0_005_nothing_overflows",
            "a_tiny_loss_keeps_its_digits",
        },
        may={"a_single_known_class_costs_no_cpcl"},
        level="strict",
    ),
    Fault("cpcl", no_gradient, {"the_gradient_of_cpcl_is_the_oracles"}),
    Fault("cpcl", gradient_of_the_sum, {"the_gradient_of_cpcl_is_the_oracles"}),
    Fault(
        "cpcl",
        temperature_on_the_negatives_only,
        {"tau_divides_every_similarity", "cpcl_is_the_oracles"},
    ),
    Fault("cpcl", times_tau, {"tau_divides_every_similarity", "cpcl_is_the_oracles"}),
    Fault(
        "cpcl",
        dot_product,
        {
            "cpcl_is_the_oracles",
            "cpcl_sees_only_the_angle_of_z",
            "the_length_of_a_prototype_changes_no_cpcl",
        },
    ),
    Fault(
        "cpcl",
        sum_over_the_batch,
        {
            "cpcl_is_the_oracles",
            "a_batch_twice_over_costs_the_same_cpcl",
            "samples_of_an_unknown_class_count_as_0",
        },
    ),
    Fault(
        "cpcl",
        mean_over_the_known,
        {"cpcl_is_the_oracles", "samples_of_an_unknown_class_count_as_0"},
    ),
    Fault(
        "cpcl",
        padding_counts,
        {
            "cpcl_of_the_worked_example_is_0_0943",
            "tau_divides_every_similarity",
            "cpcl_is_the_oracles",
            "a_second_positive_lowers_the_loss",
            "what_padding_holds_does_not_reach_cpcl",
            "a_mask_without_any_cluster_costs_no_cpcl",
            "a_single_known_class_costs_no_cpcl",
            "a_batch_of_unknown_classes_costs_no_cpcl",
            "samples_of_an_unknown_class_count_as_0",
        },
    ),
    Fault(
        "cpcl",
        labels_from_1,
        {
            "cpcl_of_the_worked_example_is_0_0943",
            "tau_divides_every_similarity",
            "cpcl_is_the_oracles",
            "a_second_positive_lowers_the_loss",
            "the_numbering_of_the_classes_is_free",
            "samples_of_an_unknown_class_count_as_0",
        },
        may={"a_batch_of_unknown_classes_costs_no_cpcl"},
    ),
    Fault(
        "cpcl",
        known_classes_renumbered,
        {
            "cpcl_is_the_oracles",
            "the_numbering_of_the_classes_is_free",
            "a_batch_of_unknown_classes_costs_no_cpcl",
        },
    ),
    Fault(
        "cpcl",
        no_case_for_unknown_classes,
        {
            "cpcl_is_the_oracles",
            "every_positive_counts_not_only_the_first",
            "what_padding_holds_does_not_reach_cpcl",
            "cpcl_sees_only_the_angle_of_z",
            "the_length_of_a_prototype_changes_no_cpcl",
            "the_numbering_of_the_classes_is_free",
            "a_batch_twice_over_costs_the_same_cpcl",
            "a_mask_without_any_cluster_costs_no_cpcl",
            "a_single_known_class_costs_no_cpcl",
            "a_batch_of_unknown_classes_costs_no_cpcl",
            "samples_of_an_unknown_class_count_as_0",
        },
    ),
    Fault(
        "cpcl",
        only_negatives_below,
        {
            "cpcl_of_the_worked_example_is_0_0943",
            "tau_divides_every_similarity",
            "cpcl_is_the_oracles",
            "a_second_positive_lowers_the_loss",
            "samples_of_an_unknown_class_count_as_0",
        },
    ),
    Fault(
        "cpcl",
        epsilon_in_the_length,
        {"cpcl_sees_only_the_angle_of_z"},
        may={"cpcl_is_the_oracles"},
        level="strict",
    ),
    Fault(
        "cpcl",
        difference_of_logs,
        {"a_tiny_loss_keeps_its_digits"},
        may={"cpcl_is_the_oracles"},
        level="strict",
    ),
    Fault(
        "cpcl",
        zero_rows_divided,
        {
            "cpcl_is_the_oracles",
            "the_gradient_of_cpcl_is_the_oracles",
            "every_positive_counts_not_only_the_first",
            "what_padding_holds_does_not_reach_cpcl",
            "cpcl_sees_only_the_angle_of_z",
            "the_length_of_a_prototype_changes_no_cpcl",
            "the_numbering_of_the_classes_is_free",
            "a_batch_twice_over_costs_the_same_cpcl",
            "a_single_known_class_costs_no_cpcl",
            "at_tau_0_005_nothing_overflows",
            "a_zero_feature_has_gradient_zero",
        },
        level="strict",
    ),
    Fault(
        "upcr",
        always_the_mean,
        {
            "upcr_of_the_worked_example_is_0_25",
            "upcr_is_the_oracles",
            "the_gradient_of_upcr_is_the_oracles",
            "an_unknown_sample_counts_in_the_mean_of_upcr",
            "the_sum_is_d_times_the_mean",
        },
    ),
    Fault(
        "upcr",
        upcr_over_the_known,
        {
            "upcr_is_the_oracles",
            "the_gradient_of_upcr_is_the_oracles",
            "an_unknown_sample_counts_in_the_mean_of_upcr",
        },
    ),
    Fault(
        "upcr",
        unknown_classes_drawn_to_zero,
        {
            "upcr_is_the_oracles",
            "the_gradient_of_upcr_is_the_oracles",
            "with_no_class_known_upcr_is_exactly_zero",
            "an_unknown_sample_counts_in_the_mean_of_upcr",
        },
    ),
    Fault("upcr", half_the_gradient, {"the_gradient_of_upcr_is_the_oracles"}),
    Fault(
        "upcr",
        distance_for_its_square,
        {
            "upcr_of_the_worked_example_is_0_25",
            "upcr_is_the_oracles",
            "an_unknown_sample_counts_in_the_mean_of_upcr",
        },
    ),
    Fault(
        "class_prototypes",
        normalised_before_averaging,
        {"class_means_are_the_oracles", "a_class_mean_keeps_the_length_of_features"},
    ),
    Fault(
        "class_prototypes",
        classes_from_1,
        {
            "class_means_are_the_oracles",
            "counts_are_the_numbers_of_images",
            "a_class_mean_keeps_the_length_of_features",
        },
    ),
    Fault("class_prototypes", divided_by_all_images, {"class_means_are_the_oracles"}),
    Fault(
        "class_prototypes",
        absent_classes_divided,
        {"a_class_that_nobody_holds_has_mean_zero"},
        level="strict",
    ),
    Fault(
        "cluster_prototypes",
        no_clusters,
        {
            "cluster_prototypes_are_the_oracles",
            "the_last_partition_may_be_coarser",
            "each_class_is_clustered_by_itself",
            "three_clients_weigh_as_much_as_two",
        },
    ),
    Fault(
        "cluster_prototypes",
        absent_clients_are_zero,
        {
            "cluster_prototypes_are_the_oracles",
            "a_class_of_one_holder_has_its_mean",
            "the_clients_order_decides_no_prototype",
        },
    ),
    Fault(
        "cluster_prototypes",
        always_the_coarsest,
        {"cluster_prototypes_are_the_oracles", "the_last_partition_may_be_coarser"},
    ),
    Fault(
        "cluster_prototypes",
        unit_vectors_averaged,
        {"cluster_prototypes_are_the_oracles", "a_class_of_one_holder_has_its_mean"},
        may={"the_clients_order_decides_no_prototype"},
    ),
    Fault(
        "cluster_prototypes",
        weighted_by_images,
        {"cluster_prototypes_are_the_oracles", "the_number_of_images_does_not_matter"},
    ),
    Fault(
        "cluster_prototypes",
        all_classes_together,
        {"cluster_prototypes_are_the_oracles"},
        may={"the_clients_order_decides_no_prototype"},
    ),
    Fault(
        "cluster_prototypes", ragged_j, {"shapes_hang_on_the_clients_number_alone"}, level="strict"
    ),
    Fault(
        "cluster_prototypes",
        class_ids_reordered,
        {"cluster_prototypes_are_the_oracles", "a_class_of_one_holder_has_its_mean"},
    ),
    Fault("unbiased_prototypes", absent_clusters_are_zero, {"unbiased_prototypes_are_the_oracles"}),
    Fault(
        "unbiased_prototypes",
        padding_is_averaged,
        {"what_padding_holds_reaches_no_unbiased_prototype"},
    ),
    Fault(
        "finch",
        neighbours_by_distance,
        {
            "the_finest_partition_is_the_oracles",
            "every_partition_is_the_oracles",
            "only_the_angles_of_the_rows_count",
            "the_order_of_the_rows_is_free",
        },
        may={"scaling_by_a_power_of_two_changes_no_partition"},
    ),
    Fault(
        "finch",
        diagonal_filled_with_0,
        {
            "the_finest_partition_is_the_oracles",
            "every_partition_is_the_oracles",
            "two_or_three_rows_are_one_cluster",
            "no_cluster_has_fewer_than_two_rows",
        },
        may={"the_order_of_the_rows_is_free"},
    ),
    Fault(
        "finch",
        similarities_in_float32,
        {"scaling_by_a_power_of_two_changes_no_partition"},
        may={"the_finest_partition_is_the_oracles", "every_partition_is_the_oracles"},
        level="strict",
    ),
    Fault(
        "finch",
        links_not_binary,
        {
            "finch_of_the_worked_example_is_0_0_1_1",
            "the_finest_partition_is_the_oracles",
            "every_partition_is_the_oracles",
            "two_or_three_rows_are_one_cluster",
            "no_cluster_has_fewer_than_two_rows",
        },
        may={"the_order_of_the_rows_is_free"},
    ),
    Fault(
        "finch",
        mutual_links_alone,
        {
            "the_finest_partition_is_the_oracles",
            "every_partition_is_the_oracles",
            "two_or_three_rows_are_one_cluster",
            "no_cluster_has_fewer_than_two_rows",
        },
        {"the_order_of_the_rows_is_free"},
    ),
    Fault("finch", clusters_from_1, {"clusters_are_numbered_from_0"}),
    Fault(
        "finch",
        one_cluster_at_the_end,
        {
            "finch_of_the_worked_example_is_0_0_1_1",
            "every_partition_is_the_oracles",
            "one_cluster_is_an_answer_only_at_first",
        },
    ),
    Fault("finch", the_finest_alone, {"every_partition_is_the_oracles"}),
    Fault(
        "weighted_mean",
        equal_clients,
        {"the_weighted_mean_is_the_oracles", "a_client_without_weight_changes_nothing"},
    ),
    Fault(
        "weighted_mean",
        sum_for_mean,
        {
            "the_weighted_mean_is_the_oracles",
            "only_the_ratio_of_the_weights_counts",
            "the_clients_order_shows_in_the_last_place",
        },
    ),
    Fault(
        "weighted_mean",
        another_clients_weight,
        {
            "the_weighted_mean_is_the_oracles",
            "a_client_without_weight_changes_nothing",
            "the_clients_order_shows_in_the_last_place",
        },
    ),
    Fault(
        "sgd_step",
        decoupled_decay,
        {"an_sgd_step_is_the_oracles", "weight_decay_alone_shrinks_by_lr_times_decay"},
    ),
    Fault(
        "sgd_step",
        nesterov,
        {
            "an_sgd_step_is_the_oracles",
            "weight_decay_alone_shrinks_by_lr_times_decay",
            "constant_gradients_move_sgd_by_geometric_series",
        },
    ),
    Fault(
        "sgd_step",
        dampening,
        {
            "an_sgd_step_is_the_oracles",
            "weight_decay_alone_shrinks_by_lr_times_decay",
            "constant_gradients_move_sgd_by_geometric_series",
        },
    ),
    Fault("sgd_step", step_in_place, {"sgd_step_leaves_its_input_as_it_was"}),
    Fault("batch_norm", unbiased_variance, {"the_variance_of_batch_norm_is_biased"}),
    Fault("batch_norm", epsilon_outside_the_root, {"batch_norm_agrees_with_the_oracle"}),
    Fault(
        "batch_norm",
        each_image_by_itself,
        {"batch_norm_agrees_with_the_oracle", "the_variance_of_batch_norm_is_biased"},
    ),
]
