"""The functions that an implementation may have, NumPy in and NumPy out, and all properties.

M clients, K classes, B images in a batch, d feature width, at most J clusters of a class.
"""

from lab.proof.properties import clustering, losses, prototypes, training
from lab.proof.properties.failure import Property, demand

FUNCTIONS = {
    "class_prototypes": "(z [n,d], labels [n], num_classes) -> (means [K,d], counts [K])",
    "finch": "(x [n,d]) -> list of label arrays [n], finest first",
    "cluster_prototypes": "(class_means [M,K,d], counts [M,K], partition) -> "
    "(clusters [K,J,d], mask [K,J]), or {class: array [n,d]}",
    "unbiased_prototypes": "(clusters [K,J,d], mask [K,J]) -> [K,d]",
    "cpcl": "(z [B,d], labels [B], clusters [K,J,d], mask [K,J], tau) -> "
    "value, or (value, gradient [B,d])",
    "upcr": "(z [B,d], labels [B], unbiased [K,d], known [K], reduce) -> "
    "value, or (value, gradient [B,d])",
    "weighted_mean": "(trees [{name: array}], weights) -> {name: array}",
    "sgd_step": "(param, velocity, grad, lr, momentum, weight_decay) -> (param, velocity)",
    "batch_norm": "(x [N,C,H,W], weight, bias, eps) -> (y, mean [C], biased variance [C])",
}


def leaves_its_input(function, arguments):
    """A property: the function changes nothing that it is given.

    arguments: of a drawn case and the settings, what the function is called with.
    """

    def holds(impl, case):
        getattr(impl, function)(*arguments(case, impl.settings))
        changed = impl.calls[-1].changed
        demand(not changed, f"{function} changed its argument {changed}")

    holds.__name__ = f"{function}_leaves_its_input_as_it_was"
    holds.__doc__ = f"{function} leaves what it is given as it was."
    return holds


def unbiased_arguments(drawn, settings):
    case, reduce = drawn
    unbiased, known, _ = losses.unbiased_of(case)
    return case.z, case.labels, unbiased, known, reduce


INPUTS = {  # function: what is drawn, and the arguments made of it
    "class_prototypes": (prototypes.features, lambda case, settings: case),
    "finch": (clustering.two_rows_or_more, lambda x, settings: (x,)),
    "cluster_prototypes": (
        prototypes.with_partition,
        lambda drawn, settings: (*drawn[0], drawn[1]),
    ),
    "unbiased_prototypes": (prototypes.some_clusters, lambda case, settings: case),
    "cpcl": (losses.some_losses, lambda case, settings: case),
    "upcr": (losses.with_reduce, unbiased_arguments),
    "weighted_mean": (training.networks, lambda case, settings: case),
    "sgd_step": (training.steps, lambda case, settings: (*case[:3], *case[3])),
    "batch_norm": (training.images, lambda case, settings: (*case, training.EPS)),
}
COPY = "An operator that writes in place (+=, out=, sort) meets the caller's own array."

PROPERTIES = [
    *prototypes.PROPERTIES,
    *clustering.PROPERTIES,
    *losses.PROPERTIES,
    *training.PROPERTIES,
    *(
        Property(leaves_its_input(function, arguments), (function,), cases, cause=COPY)
        for function, (cases, arguments) in INPUTS.items()
    ),
]
