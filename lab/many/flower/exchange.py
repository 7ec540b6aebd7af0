"""What travels between server and clients, without Flower: {group: {name: NumPy array}}.

    down   params, stats (the network), prototypes (clusters, mask, unbiased); beside them the round
    up     params, stats, classes (class_means [K,d], counts [K]); beside them the loss

The images stay. The counts do travel: the server learns how many images
of each class a client holds, and the class means are features of them;
nothing here hides either (no secure aggregation, no differential privacy).
"""

import numpy as np

import fpl
from lab.data import tasks
from lab.run import settings as run_settings

SERVER_ALONE = ("name", "data", "wait", "timeout")
NAMES = ("domains", "classes")  # of the task folder, for a machine that has no such folder
# Of a weight, a statistic, a feature, a loss: beyond what training gives, and so far below what
# overflows that no average and no loss of another client does.
LARGEST = 1e6


def settings(run_config, data=None):
    """Flower's run config, {key: value}, by way of ./run.sh's flags.

    -> (Config, Task, how pictures are read). data: the folder of images on this machine, if there
    is one. Raises InputError.
    """
    given = {
        key: value for key, value in run_config.items() if key not in SERVER_ALONE and value != ""
    }
    task = str(given.pop("task", "digits"))
    names, named = [str(given.pop(key, "")).split(",") for key in NAMES], None
    if task == "folder" and not data and all(map(all, names)):
        named = tasks.own(*names)
    parser = run_settings.settings_parser("./run.sh digits", "")
    flags = [f"--{key}={value}" for key, value in given.items()]
    flags += [f"--data={data}"] if data else []
    cfg, task, options = run_settings.parse(parser, [task, *flags], named)
    return cfg, task, run_settings.reading(cfg, options)


def shapes_of(num_classes, d):
    """The tables of weights and of statistics of the network with K classes and features [d]."""
    return {"params": fpl.param_shapes(d // 8, num_classes), "stats": fpl.stat_shapes(d // 8)}


def network(source, num_classes, d):
    """The groups params and stats of a ServerState or a ClientUpdate."""
    return {
        group: {
            name: value.asnumpy()
            for name, value in fpl.views(getattr(source, group), shapes).items()
        }
        for group, shapes in shapes_of(num_classes, d).items()
    }


def vectors(groups, num_classes, d):
    """params [P] and stats [S], from what `network` made."""
    return (
        fpl.joined([groups[group][name] for name, _ in shapes])
        for group, shapes in shapes_of(num_classes, d).items()
    )


def down(state):
    """ServerState -> the groups that the clients get."""
    sent = network(state, *state.prototypes.unbiased.shape)
    return {**sent, "prototypes": state.prototypes._asdict()}


def state_of(groups, number):
    """The ServerState that a client works with in round number, from what `down` made."""
    prototypes = fpl.Prototypes(**groups["prototypes"])
    params, stats = vectors(groups, *prototypes.unbiased.shape)
    return fpl.ServerState(number - 1, params, stats, prototypes)


def up(update):
    """ClientUpdate -> the groups that the server gets."""
    classes = {"class_means": update.class_means, "counts": update.counts}
    return {**network(update, *update.class_means.shape), "classes": classes}


def update_of(groups, loss):
    """The ClientUpdate, from what `up` made and `refusal` has looked at."""
    class_means, counts = groups["classes"]["class_means"], groups["classes"]["counts"]
    return fpl.ClientUpdate(*vectors(groups, *class_means.shape), class_means, counts, loss)


def form(state):
    """{group: {name: (shape, dtype)}} of what a client has to send."""
    counts = np.zeros(len(state.prototypes.unbiased), np.int64)
    like = {**down(state), "classes": {"class_means": state.prototypes.unbiased, "counts": counts}}
    return {
        group: {name: (array.shape, array.dtype) for name, array in like[group].items()}
        for group in ("params", "stats", "classes")
    }


def refusal(groups, loss, images, wanted):
    """Why a client's update cannot be used: what was seen and what is wanted. None if it can.

    images: how many the client said it holds; wanted: from `form`. It looks at form and size only:
    numbers that are false and not large are taken for true.
    """
    for group, names in wanted.items():
        sent = groups.get(group, {})
        if set(sent) != set(names):
            odd = sorted(set(sent) ^ set(names))[0]
            return (
                f"{group} {'has' if odd in sent else 'lacks'} {odd!r}; "
                f"it must have {len(names)} arrays, those of fpl.py"
            )
        for name, form_of_it in names.items():
            if reason := wrong(sent[name], *form_of_it):
                return f"{group} {name} {reason}"
    for name, array in groups["stats"].items():
        if name.endswith("variance") and array.min() < 0:
            return f"stats {name} has {array.min()}; a variance must not be negative"
    if reason := contradiction(**groups["classes"], images=images):
        return f"classes {reason}"
    if not (isinstance(loss, float) and abs(loss) <= LARGEST):
        return f"the loss is {loss!r}; it must be a number within {LARGEST:g}"
    return None


def wrong(array, shape, dtype):
    """What is wrong with one array, by itself; None if nothing is."""
    if array.shape != shape or array.dtype != dtype:
        return f"is {array.dtype} {list(array.shape)}; it must be {dtype} {list(shape)}"
    if not np.isfinite(array).all():
        return "has numbers that are not finite; all must be"
    if dtype.kind == "f" and np.abs(array).max() > LARGEST:
        return f"has {np.abs(array).max():g}; its numbers must be within {LARGEST:g}"
    return None


def contradiction(class_means, counts, images):
    """How the counts contradict the number of images or the means; None if they do not."""
    if counts.min() < 0 or sum(map(int, counts)) != images:
        return (
            f"counts is {counts.tolist()}; they must not be negative and add up to {images}, "
            "its number of images"
        )
    if class_means[counts == 0].any():
        k = int(np.flatnonzero((counts == 0) & class_means.any(1))[0])
        return f"class_means is not zero for class {k}, of which it counts no image"
    return None
