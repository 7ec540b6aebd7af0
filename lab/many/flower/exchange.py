"""What travels between server and clients, without Flower: groups of arrays, group -> name -> NumPy array.

    down   params, stats (the network), prototypes (clusters, mask, unbiased); the round's number beside them
    up     params, stats, classes (class_means [K,d], counts [K]); the loss beside them

The images stay. The counts do travel: the server learns how many images of each class a client holds, and the class
means are features of them; nothing here hides either (no secure aggregation, no differential privacy).
"""

import numpy as np
from mindspore import Tensor

import fpl
from lab import cli

SERVER_ALONE = ("name", "data", "wait", "timeout")


def settings(run_config):
    """Flower's run config, key -> value, to a Config, by way of the flags of ./run.sh. Raises InputError."""
    given = {key: value for key, value in run_config.items() if key not in SERVER_ALONE and value != ""}
    task = given.pop("task", "digits")
    parser = cli.settings_parser("./run.sh digits", "")
    return cli.parse(parser, [str(task), *(f"--{key}={value}" for key, value in given.items())])[0]

LARGEST = 1e6  # of a weight, a statistic, a feature, a loss: beyond what training gives, and far below what overflows in others'


def network(tree):
    """name -> Tensor to name -> array."""
    return {name: value.asnumpy() for name, value in tree.items()}


def tensors(arrays):
    """name -> array to name -> Tensor."""
    return {name: Tensor(array) for name, array in arrays.items()}


def down(state):
    """ServerState -> the groups that the clients get."""
    return {"params": network(state.params), "stats": network(state.stats), "prototypes": state.prototypes._asdict()}


def state_of(groups, number):
    """The ServerState that a client works with in round number, from what `down` made."""
    return fpl.ServerState(number - 1, tensors(groups["params"]), tensors(groups["stats"]),
                           fpl.Prototypes(**groups["prototypes"]))


def up(update):
    """ClientUpdate -> the groups that the server gets."""
    return {"params": network(update.params), "stats": network(update.stats),
            "classes": {"class_means": update.class_means, "counts": update.counts}}


def update_of(groups, loss):
    """The ClientUpdate, from what `up` made and `refusal` has looked at."""
    return fpl.ClientUpdate(tensors(groups["params"]), tensors(groups["stats"]), groups["classes"]["class_means"],
                            groups["classes"]["counts"], loss)


def form(state):
    """group -> name -> (shape, dtype) of what a client has to send."""
    like = {**down(state), "classes": {"class_means": state.prototypes.unbiased,
                                       "counts": np.zeros(fpl.NUM_CLASSES, np.int64)}}
    return {group: {name: (array.shape, array.dtype) for name, array in like[group].items()}
            for group in ("params", "stats", "classes")}


def refusal(groups, loss, images, wanted):
    """Why a client's update cannot be used: what was seen and what is wanted. None if it can.

    images: how many the client said it holds; wanted: from `form`. It looks at form and size only: numbers that are
    false and not large are taken for true.
    """
    for group, names in wanted.items():
        sent = groups.get(group, {})
        if set(sent) != set(names):
            odd = sorted(set(sent) ^ set(names))[0]
            return f"{group} {'has' if odd in sent else 'lacks'} {odd!r}; it must have {len(names)} arrays, those of fpl.py"
        for name, (shape, dtype) in names.items():
            array = sent[name]
            if array.shape != shape or array.dtype != dtype:
                return f"{group} {name} is {array.dtype} {list(array.shape)}; it must be {dtype} {list(shape)}"
            if not np.isfinite(array).all():
                return f"{group} {name} has numbers that are not finite; all must be"
            if dtype.kind == "f" and np.abs(array).max() > LARGEST:
                return f"{group} {name} has {np.abs(array).max():g}; its numbers must be within {LARGEST:g}"
    for name, array in groups["stats"].items():
        if name.endswith("variance") and array.min() < 0:
            return f"stats {name} has {array.min()}; a variance must not be negative"
    class_means, counts = groups["classes"]["class_means"], groups["classes"]["counts"]
    if counts.min() < 0 or sum(map(int, counts)) != images:
        return f"classes counts is {counts.tolist()}; they must not be negative and add up to {images}, its number of images"
    if class_means[counts == 0].any():
        return f"classes class_means is not zero for class {int(np.flatnonzero((counts == 0) & class_means.any(1))[0])}, of " \
               "which it counts no image"
    if not (isinstance(loss, float) and abs(loss) <= LARGEST):
        return f"the loss is {loss!r}; it must be a number within {LARGEST:g}"
    return None
