"""Stopping and going on: an interrupted run, resumed, ends in the bytes of one that never was.

After each round state.safetensors holds all that the next one needs. Nothing is ever unpickled. A
round writes its rows and arrays first and its state last, whole or not at all; what a round left
without reaching its state is cut back when the run is resumed.
"""

import hashlib
import json
import os
from pathlib import Path

import numpy as np
import safetensors
import safetensors.numpy

import fpl
from lab.methods.baselines import MethodState
from lab.run import folder as run_folder
from lab.run.records import read_run
from lab.shell.errors import InputError
from lab.shell.files import write_whole

FILE = "state.safetensors"
SAME_COMMAND = "give the command that it was made with"
ANOTHER_NAME = "move it away or give another --name"
# what json and safetensors raise where something else is read than what was written
NOT_AS_WRITTEN = (
    safetensors.SafetensorError,
    ValueError,
    KeyError,
    TypeError,
    AttributeError,
    RecursionError,
)


# ---------------------------------------------------------------- the same terms


def facts(record):
    """What must be equal for results to stand side by side: field -> value, as JSON has it.

    record: what config.json says.
    """
    found = {field: record.get(field) for field in ("command", "variant", "method")}
    found |= record["config"]
    found |= {
        f"the data of {domain}, sha256": source["sha256"]
        for domain, source in record["sources"].items()
    }
    return json.loads(json.dumps(found))


def refuse_other(path, before, now, next_step):
    """before, now: facts. Raises InputError that names the first field in which they differ."""
    for field in {**now, **before}:
        if before.get(field) != now.get(field):
            raise InputError(
                f"{path} was made with {field} {before.get(field)}, this call has "
                f"{now.get(field)}; nothing was changed: {next_step}"
            )


def read_record(folder, next_step):
    """A folder's config.json -> (all that it says, its facts, its versions).

    Raises InputError where no run wrote it so.
    """
    try:
        record = json.loads(Path(folder, "config.json").read_text(encoding="utf-8"))
        return record, facts(record), {**record["versions"]}
    except (OSError, *NOT_AS_WRITTEN) as error:
        raise InputError(
            f"{folder} is there, but its config.json cannot be used "
            f"({type(error).__name__}: {error}); nothing was changed: {next_step}"
        ) from error


def check_same(folder, record, next_step):
    """Refuse a folder whose config.json tells of other terms than record. -> its versions.

    Raises InputError.
    """
    _, before, versions = read_record(folder, next_step)
    refuse_other(folder, before, facts(record), next_step)
    return versions


def warn_of_versions(folder, before, now):
    """A line for each version that is not what the folder was begun with."""
    for name in now:
        if before.get(name) != now[name]:
            print(
                f"Warning: {folder} was begun with {name} {before.get(name)}, "
                f"now it is {now[name]}."
            )


# ---------------------------------------------------------------- the state


def save(folder, state, record):
    """state.safetensors: every array of the state under a path such as params/stem.conv.

    What a method remembers are vectors such as memory/3/params, of client 3, and memory/server/m.
    """
    params, stats = run_folder.named(state)
    arrays = {f"params/{name}": value for name, value in params.items()}
    arrays |= {f"stats/{name}": value for name, value in stats.items()}
    arrays |= {f"prototypes/{name}": value for name, value in state.prototypes._asdict().items()}
    for holder, kept in getattr(state, "memory", {}).items():
        arrays |= {f"memory/{holder}/{kind}": value.asnumpy() for kind, value in kept.items()}
    arrays = {name: np.ascontiguousarray(value) for name, value in arrays.items()}
    about = {"round": state.round, "facts": facts(record)}
    about["sha256"] = digest(arrays, about)
    # One entry of metadata, because safetensors writes several
    # in an order that changes from process to process.
    metadata = {"fpl": json.dumps(about)}
    write_whole(
        f"{folder}/{FILE}", lambda part: safetensors.numpy.save_file(arrays, part, metadata)
    )


def digest(arrays, about):
    """sha256 over names, types, shapes and bytes, and over what is said about them: JSON."""
    total = hashlib.sha256(json.dumps(about, sort_keys=True).encode())
    for name in sorted(arrays):
        total.update(f"{name} {arrays[name].dtype} {arrays[name].shape} ".encode())
        total.update(np.ascontiguousarray(arrays[name]))
    return total.hexdigest()


def load(folder, record):
    """The state of the last whole round, None where no round came to its end.

    It is a ServerState, or a MethodState where the method remembers something. Raises InputError.
    """
    path = f"{folder}/{FILE}"
    if not os.path.lexists(path):
        return None
    try:
        arrays, about = read_state(path)
        whole = about.pop("sha256") == digest(arrays, about)
        number, before = about["round"], about["facts"]
    except OSError as error:
        raise InputError(
            f"{path} cannot be read ({error.strerror or error}); nothing was changed: "
            "look at its rights and its disk, then give the same command again"
        ) from error
    except NOT_AS_WRITTEN as error:
        raise damaged(path, f"{type(error).__name__}: {error}") from error
    if not whole:
        raise damaged(path, "its checksum is another")
    refuse_other(path, before, facts(record), SAME_COMMAND)
    try:
        return state_of(arrays, number)
    except (KeyError, ValueError, TypeError) as error:
        raise InputError(
            f"{path} is of another version ({type(error).__name__}: {error}); "
            "nothing was changed: go on with that version, or remove it to begin "
            "again with round 1"
        ) from error


def read_state(path):
    """(its arrays by name, what it says about them). Raises OSError, and NOT_AS_WRITTEN."""
    if not os.path.isfile(path):
        raise ValueError("it is no file")
    with open(path, "rb") as file:  # a disk or rights that fail are told as an OSError
        file.read(1)
    with safetensors.safe_open(path, "numpy") as file:
        names = file.keys()  # the file itself is no dict, and cannot be iterated over
        return {name: file.get_tensor(name) for name in names}, json.loads(file.metadata()["fpl"])


def damaged(path, reason):
    """The InputError for a state that is not as it was written."""
    return InputError(
        f"{path} is damaged ({reason}); nothing was changed: remove it to begin again with round 1"
    )


def state_of(arrays, number):
    """The state that `save` made arrays of. Raises KeyError and the like if it did not."""

    def part(prefix):
        return {
            name.removeprefix(prefix): value
            for name, value in arrays.items()
            if name.startswith(prefix)
        }

    params, stats = part("params/"), part("stats/")
    width = len(stats["stem.bn.mean"])
    memory = {}
    for name, value in part("memory/").items():
        holder, _, kind = name.partition("/")
        if value.ndim != 1 or "." in kind:
            raise ValueError(f"what its method remembers is not one vector but {kind}")
        memory.setdefault(int(holder) if holder.isdecimal() else holder, {})[kind] = fpl.joined(
            [value]
        )
    parts = (
        number,
        fpl.joined([params[name] for name, _ in fpl.param_shapes(width)]),
        fpl.joined([stats[name] for name, _ in fpl.stat_shapes(width)]),
        fpl.Prototypes(**part("prototypes/")),
    )
    return MethodState(*parts, memory) if memory else fpl.ServerState(*parts)


# ---------------------------------------------------------------- going on


def resume(folder, record):
    """Bring a folder, new or old, to its last whole round -> (its state or None, its rounds' logs).

    Raises InputError where it is of another config or other data, damaged, or not a run's.
    """
    if os.path.exists(f"{folder}/config.json"):
        warn_of_versions(folder, check_same(folder, record, SAME_COMMAND), record["versions"])
    state = load(folder, record)
    if state is None:
        refuse_to_begin(folder)
    if not os.path.exists(f"{folder}/config.json"):
        run_folder.write_config(folder, record)
    cut_back(folder, state.round if state else 0)
    logs = read_run(folder).rounds if state else []
    if state and len(logs) != state.round:
        raise InputError(
            f"{folder}/rounds.csv has {len(logs)} rounds, {FILE} is of round "
            f"{state.round}; they must agree: remove {FILE} to begin again with "
            "round 1"
        )
    return state, logs


def cut_back(folder, last):
    """Take the rounds after the last one out of rounds.csv and clusters.csv.

    A line that was not written whole goes too.
    """
    for path in (f"{folder}/rounds.csv", f"{folder}/clusters.csv"):
        if os.path.exists(path):
            head, *rows = Path(path).read_bytes().splitlines(keepends=True) or [b""]
            rows = [row for row in rows if row.endswith(b"\n") and not is_later(row, last)]
            kept = b"".join([head, *rows])
            if last == 0:
                os.remove(path)
            else:
                write_whole(path, lambda part, kept=kept: Path(part).write_bytes(kept))


def is_later(row, last):
    """Whether a row of bytes is of a round after the last one.

    A row without a number is left to its reader to refuse.
    """
    number = row.split(b",")[0].strip()
    return len(number) < 10 and number.isdigit() and int(number) > last


def refuse_to_begin(folder):
    """A folder without a state may hold what an interrupted round 1 leaves, and no more.

    Raises InputError.
    """
    others = sorted(name for name in os.listdir(folder) if not name.endswith(".part"))
    if others and not os.path.exists(f"{folder}/config.json"):
        raise InputError(
            f"{folder} holds {others[0]}, but no config.json; it is not the folder of "
            f"a run, nothing was changed: {ANOTHER_NAME}"
        )
    if not os.path.exists(f"{folder}/rounds.csv"):
        return
    for name in ("rounds.csv", "clusters.csv"):
        path = Path(folder, name)
        content = path.read_bytes() if path.exists() else b""
        head, *rows = content.splitlines(keepends=True) or [b""]
        known = head[:6] == b"round,"[: len(head)]  # the last line need not be whole
        if not known or any(row[:2] != b"1,"[: len(row)] for row in rows):
            numbers = {row.split(b",")[0] for row in rows}
            what = f"has rows of {len(numbers)} rounds" if known else "is not what a run writes"
            raise InputError(
                f"{path} {what}, and {folder} has no {FILE}; nothing was changed: "
                "give another --name, or remove rounds.csv to begin again"
            )
