"""What each setting may be, and the command line that is made from that."""

import argparse
import dataclasses
import operator

import numpy as np

from fpl import Config
from lab.data import tasks
from lab.shell.errors import InputError
from lab.shell.options import read_options, whole_numbers

MANY = 1_000_000_000  # more than any run has of anything that is counted
# field of Config -> its help, and its rule: choices, low (at least), above (more than), high
SETTINGS = {
    "task": {"help": "which domains", "choices": tasks.NAMES},
    "classes": {"help": "K, as the data have it", "low": 2, "high": 1000},
    "clients": {
        "help": "clients of each domain, e.g. 6,4,3,7, or one number for all; empty: as Table 2 "
        "(digits), Sec. 4.1 (office), 2 (folder)"
    },
    "fraction": {
        "help": "share of a domain that one client holds; 0: 0.01 (digits), 0.20 (office), "
        "Sec. 4.1, or the domain shared out whole (folder)",
        "low": 0,
        "high": 1,
    },
    "alpha": {
        "help": "share out each class of a domain among its clients by Dirichlet(ALPHA): the "
        "smaller, the more skewed their labels; 0: at random, Sec. 4.1",
        "low": 0,
    },
    "participation": {
        "help": "share of the clients that train in a round, at least one; Sec. 4.1: all",
        "above": 0,
        "high": 1,
    },
    "seed": {"help": "start of every random draw", "low": 0, "high": 1e100},
    "rounds": {"help": "E, Sec. 4.1", "low": 1, "high": MANY},
    "local_epochs": {"help": "T, Sec. 4.1", "low": 1, "high": MANY},
    "batch_size": {"help": "Sec. 4.1; a smaller last batch is kept", "low": 1, "high": MANY},
    "width": {
        "help": "channels of the first stage; the feature has d = 8 * width, Sec. 4.1: d = 512",
        "low": 1,
        "high": 512,
    },
    "lr": {"help": "SGD, Sec. 4.1", "above": 0},
    "momentum": {"help": "SGD, Sec. 4.1; starts at zero each round", "low": 0, "high": 1},
    "weight_decay": {"help": "SGD, Sec. 4.1; on every parameter", "low": 0},
    "tau": {"help": "temperature of Eq. 7, chosen in Fig. 4", "above": 0},
    "cpcl": {"help": "weight of Eq. 9 in Eq. 12; 0 switches it off", "low": 0},
    "upcr": {"help": "weight of Eq. 10 in Eq. 12; 0 switches it off", "low": 0},
    "partition": {
        "help": "FINCH's finest partition (Eq. 4) or its coarsest (released code)",
        "choices": ("first", "last"),
    },
    "upcr_reduce": {
        "help": "over the d dimensions: sum (Eq. 10) or mean (released code, Table 2)",
        "choices": ("mean", "sum"),
    },
    "prototypes_from": {
        "help": "class means of the trained model (Alg. 1) or of features met while training",
        "choices": ("final", "running"),
    },
    "augment": {
        "help": "or crop-flip: pad 4, random crop, horizontal flip (released PyTorch code)",
        "choices": ("none", "crop-flip"),
    },
    "test_images": {
        "help": "most test images of a domain, drawn by seed; 0: all, as Sec. 4.1",
        "low": 0,
        "high": MANY,
    },
    "size": {
        "help": "pixels a side, a multiple of 8; pictures are resized to it (folder alone)",
        "low": 16,
        "high": 224,
    },
    "device": {"help": "MindSpore's target", "choices": ("CPU", "GPU", "Ascend")},
}
BOUNDS = {
    "low": ("at least", operator.ge),
    "above": ("more than", operator.gt),
    "high": ("at most", operator.le),
}
FLOAT32 = np.finfo(np.float32)
THE_TASKS = {"clients": (), "fraction": 0.0}  # these stand for the task's own
NO_FLAGS = ("task", "classes")
READING = {  # how `folder` reads pictures: what there is, the first by default, and its help
    "fit": (
        ("stretch", "crop"),
        "how a picture becomes a square: stretched, or cropped to the middle of its longer side",
    ),
    "rotation": (("exif", "file"), "turn a picture as EXIF in it says, or leave it as stored"),
}
PRESETS = {  # --as
    "paper": {
        "partition": "first",
        "upcr_reduce": "sum",
        "prototypes_from": "final",
        "augment": "none",
    },
    "released": {
        "partition": "last",
        "upcr_reduce": "mean",
        "prototypes_from": "running",
        "augment": "crop-flip",
    },
}
# Without --paper: what ends within 5 minutes on 2 cores, chosen by measurement, docs/results.md.
# Smaller batches make more steps of an epoch. Office alone is augmented, which decides its level.
QUICK = {
    "digits": {"rounds": 10, "local_epochs": 3, "batch_size": 32, "width": 8, "test_images": 1000},
    "office": {
        "rounds": 21,
        "local_epochs": 10,
        "batch_size": 16,
        "width": 8,
        "augment": "crop-flip",
    },
    "folder": {"rounds": 15, "local_epochs": 4, "width": 8, "lr": 0.02},
}


def complete(cfg, task):
    """The Config with each value checked, for the Task whose name it has.

    classes becomes the number of the task's; clients () and fraction 0 become the task's own; one
    number of clients is every domain's. Raises InputError.
    """
    clients = cfg.clients or tuple(task.clients.values())
    if len(clients) == 1:
        clients *= len(task.clients)
    fraction = cfg.fraction or task.fraction or 1 / max(1, *clients)
    cfg = dataclasses.replace(cfg, classes=len(task.classes), clients=clients, fraction=fraction)
    for field in dataclasses.fields(cfg):
        check_setting(field, getattr(cfg, field.name))
    few = len(cfg.clients) != len(task.clients) or sum(cfg.clients) == 0
    if few or min(cfg.clients) < 0 or max(cfg.clients) > MANY:
        raise InputError(
            f"--clients is {','.join(map(str, cfg.clients))}; it must be one whole number, or "
            f"{len(task.clients)} for {', '.join(task.clients)}, "
            f"not negative, not all zero and at most {MANY}"
        )
    if cfg.size % 8:
        raise InputError(f"--size is {cfg.size}; it must be a multiple of 8, such as 64")
    if cfg.size != 32 and cfg.task != "folder":
        raise InputError(
            f"--size is {cfg.size}; the images of {cfg.task} have 32: leave it away, or give "
            "pictures to the task folder"
        )
    return cfg


def hold_out(cfg, task, domain):
    """The Config in which no client is of this domain. Raises InputError."""
    if domain not in task.clients:
        raise InputError(f"--hold-out is {domain!r}; it must be one of {', '.join(task.clients)}")
    clients = tuple(
        0 if name == domain else number for name, number in zip(task.clients, cfg.clients)
    )
    if not any(clients):
        raise InputError(f"--hold-out is {domain!r}; of the others none has a client")
    return dataclasses.replace(cfg, clients=clients)


def check_setting(field, value):
    """Refuse a value that a field of Config may not have. Raises InputError."""
    rule, flag = SETTINGS[field.name], flag_of(field)
    if "choices" in rule and value not in rule["choices"]:
        raise InputError(f"{flag} is {value!r}; it must be one of {', '.join(rule['choices'])}")
    if isinstance(field.default, float) and not fits_float32(value):
        raise InputError(
            f"{flag} is {value}; it must be a finite number, 0 or as float32 holds "
            f"it, {FLOAT32.tiny:.1e} to {FLOAT32.max:.1e}"
        )
    for name, (words, holds) in BOUNDS.items():
        if name in rule and not holds(value, rule[name]):
            raise InputError(f"{flag} is {value}; it must be {words} {rule[name]}")


def fits_float32(value):
    """Whether float32 holds a number as one that is finite and not rounded to 0."""
    return value == 0 or FLOAT32.tiny <= abs(value) <= FLOAT32.max


def flag_of(field):
    """The flag of a field of Config: --batch-size of batch_size."""
    return "--" + field.name.replace("_", "-")


def settings_parser(prog, description):
    """An argparse parser of the task, the options that are no settings, and a flag a setting."""
    parser = argparse.ArgumentParser(
        prog=prog, allow_abbrev=False, description=description, argument_default=argparse.SUPPRESS
    )
    parser.add_argument("task", choices=tasks.NAMES)
    parser.add_argument(
        "--data",
        metavar="DIR",
        help="folder of the published files, or of your own domains (folder); digits alone has a "
        "built-in default",
    )
    parser.add_argument("--name", help="results go to runs/NAME")
    parser.add_argument(
        "--paper",
        action="store_true",
        help="the full protocol of Sec. 4.1 instead of the quick preset",
    )
    parser.add_argument(
        "--engine",
        choices=("loop", "processes", "ray"),
        help="how a round goes over its clients: on the cores of this machine, a process with one "
        "thread on each (processes; the default where there is more than one core and client), one "
        "after another (loop), or on the Ray cluster at RAY_ADDRESS, without that one on this "
        "machine (ray; needs requirements-ray.txt)",
    )
    parser.add_argument(
        "--as",
        dest="preset",
        choices=PRESETS,
        help="where paper and released code disagree, take a side",
    )
    parser.add_argument(
        "--hold-out",
        metavar="DOMAIN",
        help="train without this domain and test on it as well; "
        "`compare` takes `each`: every domain in turn",
    )
    for name, (choices, text) in READING.items():
        parser.add_argument(f"--{name}", choices=choices, help=f"{text} ({choices[0]}; folder)")
    for field in dataclasses.fields(Config):
        if field.name not in NO_FLAGS:
            rule = SETTINGS[field.name]
            kind = whole_numbers if field.type is tuple else type(field.default)
            parser.add_argument(
                flag_of(field),
                type=kind,
                choices=rule.get("choices"),
                metavar=None if "choices" in rule else field.name.upper(),
                help=rule["help"] + default_of(field),
            )
    return parser


def default_of(field):
    """What a setting is without its flag, in brackets; nothing where its help has said it."""
    quick = {task: QUICK[task][field.name] for task in QUICK if field.name in QUICK[task]}
    if quick:
        values = ", ".join(f"{value} {task}" for task, value in quick.items())
        return f" ({values}; else {field.default})"
    return f" ({field.default})" if field.default and field.name not in THE_TASKS else ""


def parse(parser, argv, task=None):
    """The command line -> (Config, its Task, the other options).

    Weakest first: the quick preset, --as, single flags. task: in place of what --data shows.
    Raises InputError.
    """
    given = vars(read_options(parser, argv))
    settings = {
        field.name: given.pop(field.name)
        for field in dataclasses.fields(Config)
        if field.name in given
    }
    engine = given.get("engine", "loop")
    if engine != "loop" and settings.get("device", "CPU") != "CPU":
        raise InputError(
            f"--device is {settings['device']}; with --engine {engine} it must be CPU: "
            "leave one of the two away"
        )
    quick = {} if given.get("paper") else QUICK[settings["task"]]
    side = PRESETS.get(given.get("preset"), {})
    name = settings["task"]
    for flag in READING:
        if flag in given and name != "folder":
            raise InputError(f"--{flag} is for the task folder; leave it away with {name}")
    task = task or tasks.find(name, given.get("data"))
    cfg = complete(Config(**{**THE_TASKS, **quick, **side, **settings}), task)
    if given.get("hold_out", "each") != "each":
        cfg = hold_out(cfg, task, given["hold_out"])
    return cfg, task, given


def reading(cfg, given):
    """How `lab.data.load.load` is to read the task's pictures.

    given: the other options of a command line, or what config.json says of the reading.
    """
    if cfg.task != "folder":
        return {}
    return {"size": cfg.size, **{name: given.get(name, READING[name][0][0]) for name in READING}}
