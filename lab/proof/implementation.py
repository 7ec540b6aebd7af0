"""Somebody's functions of the contract: read from a file, called with copies, their answers read.

What a function returns has to have the contract's shapes, in anything that NumPy reads as numbers;
otherwise it is Unusable, and one line says which call showed it. A function that raises an error
where it should answer fails the property that asked.
"""

import contextlib
import importlib.machinery
import importlib.util
import inspect
import os
import sys
import traceback
import warnings
from typing import Any, NamedTuple

import numpy as np

from lab.proof.properties.contract import FUNCTIONS
from lab.proof.properties.failure import Failure
from lab.proof.snippet import call_text

CHOICES = {
    "level": ("equations", "strict"),
    "partition": ("first", "last"),
    "reduce": ("mean", "sum"),
    "sums": ("float32", "float64"),
}


class Settings(NamedTuple):
    """What the implementation stands for."""

    level: str = "equations"
    partitions: tuple = CHOICES["partition"]  # those of FINCH that it has
    reduces: tuple = CHOICES["reduce"]  # those of UPCR that it has
    sums: str = "float32"  # "float64": means are summed in float64 and rounded once


class Call(NamedTuple):
    """One call, as it was made."""

    function: str
    arguments: dict  # name: value, before the call
    returned: Any
    changed: str  # the argument that the call changed, or ""


class Unusable(Exception):
    """The file cannot be judged: one line. function: whose answer showed it, or ""."""

    def __init__(self, message, function=""):
        super().__init__(message)
        self.function = function


class NotWritten(Exception):
    """The function raises NotImplementedError."""


# ---------------------------------------------------------------- the file


def reason(error):
    """The last line of an error, and where in which file it was raised."""
    text = traceback.format_exception_only(type(error), error)[-1].strip()
    text = " ".join(text.split())
    if isinstance(error, SyntaxError) and error.lineno:
        return f"{text} (line {error.lineno})"
    frame = traceback.extract_tb(error.__traceback__)[-1]
    return f"{text} ({os.path.basename(frame.filename)}, line {frame.lineno})"


def load(path):
    """The module that a file is. Its folder comes first on the path. Raises Unusable."""
    folder, name = os.path.split(os.path.abspath(path))
    name = "judged_" + os.path.splitext(name)[0].replace(".", "_")
    sys.path.insert(0, folder)
    spec = importlib.util.spec_from_loader(
        name, importlib.machinery.SourceFileLoader(name, os.path.abspath(path))
    )
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    try:
        spec.loader.exec_module(module)
    except KeyboardInterrupt:
        raise
    except BaseException as error:  # SystemExit too
        raise Unusable(f"it cannot be imported: {reason(error)}") from error
    return module


def settings_of(module, given):
    """The settings: those given, or else SETTINGS of the module. Raises Unusable."""
    named = getattr(module, "SETTINGS", {})
    if not isinstance(named, dict) or set(named) - set(CHOICES):
        raise Unusable(f"SETTINGS is {named!r}; it must be a dict of {', '.join(CHOICES)}")
    chosen = {**named, **{key: value for key, value in given.items() if value}}
    for key, value in chosen.items():
        if value not in CHOICES[key]:
            raise Unusable(f"{key} is {value!r}; it must be {' or '.join(CHOICES[key])}")
    partition, reduce = chosen.get("partition"), chosen.get("reduce")
    return Settings(
        chosen.get("level", "equations"),
        (partition,) if partition else CHOICES["partition"],
        (reduce,) if reduce else CHOICES["reduce"],
        chosen.get("sums", "float32"),
    )


# ---------------------------------------------------------------- reading what comes back


def as_numbers(value, what):
    """value as float64. Raises Unusable."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error")  # ragged lists, on NumPy before 1.24
            array = np.asarray(value)
        if array.dtype.kind not in "biuf":
            raise TypeError(f"its dtype would be {array.dtype}")
        return array.astype(np.float64)
    except Exception as error:
        kind, seen = type(value).__name__, " ".join(str(error).split())[:200]
        raise Unusable(f"{what} is a {kind} that NumPy does not read as numbers: {seen}") from error


def numbers(value, shape, what):
    """value as float64 of that shape; None in the shape is any length. Raises Unusable."""
    array = as_numbers(value, what)
    fits = len(array.shape) == len(shape)
    if not fits or any(n is not None and have != n for have, n in zip(array.shape, shape)):
        wanted = f"[{','.join('any' if n is None else str(n) for n in shape)}]"
        have = f"[{','.join(map(str, array.shape))}]"
        raise Unusable(f"{what} has the shape {have}; it must have {wanted}")
    return array


def whole_numbers(value, shape, what):
    array = numbers(value, shape, what)
    if not (np.isfinite(array).all() and (array == np.floor(array)).all()):
        raise Unusable(f"{what} has {array.tolist()}; it must have whole numbers")
    return array.astype(np.int64)


def parts(value, number, what):
    """value as a tuple of so many parts. Raises Unusable."""
    if not isinstance(value, (tuple, list)) or len(value) != number:
        many = f" of {len(value)}" if isinstance(value, (tuple, list)) else ""
        raise Unusable(f"it is a {type(value).__name__}{many}; it must be {what}")
    return value


def loss_and_gradient(value, shape):
    """value, or (value, gradient) -> value, gradient or None."""
    gradient = None
    if isinstance(value, (tuple, list)):
        value, gradient = parts(value, 2, "value, or (value, gradient [B,d])")
    value = as_numbers(value, "the value")
    value = float(value.reshape(()) if value.size == 1 else numbers(value, (), "the value"))
    return value, None if gradient is None else numbers(gradient, shape, "the gradient")


def same(before, after):
    """Whether an argument is what it was."""
    if isinstance(before, dict):
        return before.keys() == after.keys() and all(same(before[k], after[k]) for k in before)
    if isinstance(before, (list, tuple)):
        return len(before) == len(after) and all(map(same, before, after))
    return np.array_equal(before, after, equal_nan=np.asarray(before).dtype.kind == "f")


def copied(value):
    if isinstance(value, dict):
        return {key: copied(part) for key, part in value.items()}
    if isinstance(value, (list, tuple)):
        return type(value)(map(copied, value))
    return value.copy() if isinstance(value, np.ndarray) else value


# ---------------------------------------------------------------- the functions


class Implementation:
    """The functions of a module, by the contract: NumPy in, float64 and whole numbers out.

    calls: those that were made, the last one last; the judge empties it. told: called with the
    name and the arguments before each call.
    """

    def __init__(self, module, settings, told=lambda function, arguments: None):
        self.module, self.settings, self.told = module, settings, told
        self.calls = []
        self.last_shape = None  # of the clusters that cluster_prototypes gave last; None for a dict

    def has(self, function):
        return callable(getattr(self.module, function, None))

    def call(self, function, **arguments):
        """What the function returns. Raises Failure where it raises, Unusable, NotWritten."""
        called = getattr(self.module, function)
        given = copied(arguments)
        try:
            inspect.signature(called).bind(*given.values())
        except TypeError as error:
            want = f"{function}({', '.join(arguments)})"
            message = f"{function} cannot be called as {want}: {error}"
            raise Unusable(message, function) from error
        except ValueError:
            pass  # compiled functions do not tell
        self.told(function, arguments)
        self.calls.append(Call(function, arguments, None, ""))
        try:
            with warnings.catch_warnings(), np.errstate(all="ignore"):
                warnings.simplefilter("ignore")
                returned = called(*given.values())
        except NotImplementedError as error:
            raise NotWritten(f"{function} raises NotImplementedError") from error
        except (Exception, SystemExit) as error:
            raise Failure(f"{function} raises {reason(error)}") from error
        changed = next((n for n in arguments if not same(arguments[n], given[n])), "")
        self.calls[-1] = Call(function, arguments, returned, changed)
        return returned

    @contextlib.contextmanager
    def read(self):
        """Unusable within it names the call."""
        try:
            yield
        except Unusable as error:
            call = self.calls[-1]
            message = f"{call.function} returns what cannot be used: {error}; "
            message += f"the call was {call_text(call.function, call.arguments)}"
            raise Unusable(message, call.function) from error

    def class_prototypes(self, z, labels, num_classes):
        returned = self.call("class_prototypes", z=z, labels=labels, num_classes=num_classes)
        with self.read():
            means, counts = parts(returned, 2, "(means [K,d], counts [K])")
            means = numbers(means, (num_classes, z.shape[1]), "means")
            return means, whole_numbers(counts, (num_classes,), "counts")

    def finch(self, x):
        returned = self.call("finch", x=x)
        with self.read():
            if not isinstance(returned, (list, tuple)):
                kind = type(returned).__name__
                raise Unusable(f"it is a {kind}; it must be a list of label arrays [n]")
            return [whole_numbers(p, (len(x),), f"partition {i}") for i, p in enumerate(returned)]

    def cluster_prototypes(self, class_means, counts, partition):
        """-> {class: array [n,d]} of the classes that have any."""
        returned = self.call(
            "cluster_prototypes", class_means=class_means, counts=counts, partition=partition
        )
        _, num_classes, d = class_means.shape
        with self.read():
            self.last_shape = None
            if isinstance(returned, dict):
                rows = {int(k): numbers(v, (None, d), f"class {k}") for k, v in returned.items()}
                return {k: v for k, v in rows.items() if len(v)}
            clusters, mask = parts(returned, 2, "(clusters [K,J,d], mask [K,J]) or a dict")
            clusters = numbers(clusters, (num_classes, None, d), "clusters")
            mask = numbers(mask, clusters.shape[:2], "mask")
            if not np.isin(mask, (0, 1)).all():
                raise Unusable(f"mask has {mask.tolist()}; it must have False and True")
            self.last_shape = clusters.shape
            mask = mask.astype(bool)
            return {k: clusters[k][mask[k]] for k in range(num_classes) if mask[k].any()}

    def unbiased_prototypes(self, clusters, mask):
        returned = self.call("unbiased_prototypes", clusters=clusters, mask=mask)
        with self.read():
            return numbers(returned, (clusters.shape[0], clusters.shape[2]), "the array")

    def cpcl(self, z, labels, clusters, mask, tau):
        """-> value, gradient [B,d] or None."""
        returned = self.call("cpcl", z=z, labels=labels, clusters=clusters, mask=mask, tau=tau)
        with self.read():
            return loss_and_gradient(returned, z.shape)

    def upcr(self, z, labels, unbiased, known, reduce):
        """-> value, gradient [B,d] or None."""
        returned = self.call(
            "upcr", z=z, labels=labels, unbiased=unbiased, known=known, reduce=reduce
        )
        with self.read():
            return loss_and_gradient(returned, z.shape)

    def weighted_mean(self, trees, weights):
        returned = self.call("weighted_mean", trees=trees, weights=weights)
        with self.read():
            if not isinstance(returned, dict) or returned.keys() != trees[0].keys():
                have = list(returned) if isinstance(returned, dict) else type(returned).__name__
                raise Unusable(f"it has {have}; it must be a dict of {list(trees[0])}")
            return {k: numbers(v, trees[0][k].shape, repr(k)) for k, v in returned.items()}

    def sgd_step(self, param, velocity, grad, lr, momentum, weight_decay):
        returned = self.call(
            "sgd_step",
            param=param,
            velocity=velocity,
            grad=grad,
            lr=lr,
            momentum=momentum,
            weight_decay=weight_decay,
        )
        with self.read():
            names = parts(returned, 2, "(param, velocity)")
            return [numbers(v, param.shape, n) for v, n in zip(names, ("param", "velocity"))]

    def batch_norm(self, x, weight, bias, eps):
        returned = self.call("batch_norm", x=x, weight=weight, bias=bias, eps=eps)
        with self.read():
            y, mean, variance = parts(returned, 3, "(y, mean [C], biased variance [C])")
            of_channels = (x.shape[1],)
            return (
                numbers(y, x.shape, "y"),
                numbers(mean, of_channels, "mean"),
                numbers(variance, of_channels, "the variance"),
            )


def missing(module):
    """One line where a module has no function of the contract, else ""."""
    if any(callable(getattr(module, name, None)) for name in FUNCTIONS):
        return ""
    there = [n for n, v in vars(module).items() if inspect.isfunction(v) and n[0] != "_"]
    return (
        f"it has none of the functions {', '.join(FUNCTIONS)}; "
        f"it has {', '.join(there[:12]) or 'no function at all'}"
    )
