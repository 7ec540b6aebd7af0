"""Stopping and going on: after each round state.safetensors holds all that the next one needs, so that a run which was
interrupted and resumed ends in the same bytes as one that never was. Nothing is ever unpickled.

A round writes its rows and arrays first and its state last, whole or not at all; what a round left without reaching its
state is cut back when the run is resumed.
"""
import contextlib
import fcntl
import hashlib
import json
import os
from pathlib import Path

import numpy as np
import safetensors
import safetensors.numpy
from mindspore import Tensor

import fpl
from lab import report

FILE = "state.safetensors"
SAME_COMMAND = "give the command that it was made with"


def facts(record):
    """What must be equal for results to stand side by side: field -> value, as JSON has it. record: a config.json."""
    found = {**{field: record.get(field) for field in ("command", "variant", "method")}, **record["config"],
             **{f"the data of {domain}, sha256": source["sha256"] for domain, source in record["sources"].items()}}
    return json.loads(json.dumps(found))


def refuse_other(path, before, now, next_step):
    """before, now: facts. Raises InputError that names the first field in which they differ."""
    for field in {**now, **before}:
        if before.get(field) != now.get(field):
            raise fpl.InputError(f"{path} was made with {field} {before.get(field)}, this call has {now.get(field)}; "
                                 f"nothing was changed: {next_step}")


def read_record(folder, next_step):
    """A folder's config.json -> (all that it says, its facts, its versions). Raises InputError where no run wrote it so."""
    try:
        record = json.loads(Path(folder, "config.json").read_text(encoding="utf-8"))
        return record, facts(record), {**record["versions"]}
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise fpl.InputError(f"{folder} is there, but its config.json cannot be used ({type(error).__name__}: {error}); "
                             f"nothing was changed: {next_step}") from error


def check_same(folder, record, next_step):
    """Refuse a folder whose config.json tells of other terms than record. Returns its versions. Raises InputError."""
    _, before, versions = read_record(folder, next_step)
    refuse_other(folder, before, facts(record), next_step)
    return versions


def warn_of_versions(folder, before, now):
    for name in now:
        if before.get(name) != now[name]:
            print(f"Warning: {folder} was begun with {name} {before.get(name)}, now it is {now[name]}.")


def digest(arrays, about):
    """sha256 over names, types, shapes and bytes, and over what is said about them: JSON."""
    total = hashlib.sha256(json.dumps(about, sort_keys=True).encode())
    for name in sorted(arrays):
        total.update(f"{name} {arrays[name].dtype} {arrays[name].shape} ".encode())
        total.update(np.ascontiguousarray(arrays[name]))
    return total.hexdigest()


def save(folder, state, record):
    """state.safetensors: every array of the state under a path such as params/stem.conv or memory/3/stem.conv."""
    arrays = {f"params/{name}": value.asnumpy() for name, value in state.params.items()}
    arrays |= {f"stats/{name}": value.asnumpy() for name, value in state.stats.items()}
    arrays |= {f"prototypes/{name}": value for name, value in state.prototypes._asdict().items()}
    arrays |= {f"memory/{holder}/{name}": value.asnumpy()
               for holder, kept in state.memory.items() for name, value in kept.items()}
    arrays = {name: np.ascontiguousarray(value) for name, value in arrays.items()}
    about = {"round": state.round, "facts": facts(record)}
    about["sha256"] = digest(arrays, about)
    # one entry of metadata, because safetensors writes several in an order that changes from process to process
    report.write_whole(f"{folder}/{FILE}", lambda part: safetensors.numpy.save_file(arrays, part, {"fpl": json.dumps(about)}))


def load(folder, record):
    """The ServerState of the last whole round, None where no round came to its end. Raises InputError."""
    path = f"{folder}/{FILE}"
    if not os.path.lexists(path):
        return None
    try:
        if not os.path.isfile(path):
            raise ValueError("it is no file")
        with safetensors.safe_open(path, "numpy") as file:
            about = json.loads(file.metadata()["fpl"])
            arrays = {name: file.get_tensor(name) for name in file.keys()}
        whole = about.pop("sha256") == digest(arrays, about)
        number, before = about["round"], about["facts"]
    except (safetensors.SafetensorError, OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        whole, reason = False, f"{type(error).__name__}: {error}"
    else:
        reason = "its checksum is another"
    if not whole:
        raise fpl.InputError(f"{path} is damaged ({reason}); nothing was changed: remove it to begin again with round 1")
    refuse_other(path, before, facts(record), SAME_COMMAND)

    def part(prefix):
        return {name.removeprefix(prefix): value for name, value in arrays.items() if name.startswith(prefix)}
    memory = {}
    for name, value in part("memory/").items():
        holder, _, name = name.partition("/")
        memory.setdefault(int(holder) if holder.isdecimal() else holder, {})[name] = Tensor(value)
    params, stats = part("params/"), part("stats/")
    return fpl.ServerState(number, {name: Tensor(params[name]) for name in fpl.PARAMS},
                           {name: Tensor(stats[name]) for name in fpl.STATS}, fpl.Prototypes(**part("prototypes/")), memory)


def is_later(row, last):
    """Whether a row of bytes is of a round after the last one. A row without a number is left to its reader to refuse."""
    number = row.split(b",")[0].strip()
    return len(number) < 10 and number.isdigit() and int(number) > last


def cut_back(folder, last):
    """Take the rounds after the last one out of rounds.csv and clusters.csv, and a line that was not written whole."""
    for path in (f"{folder}/rounds.csv", f"{folder}/clusters.csv"):
        if os.path.exists(path):
            head, *rows = Path(path).read_bytes().splitlines(keepends=True) or [b""]
            rows = [row for row in rows if row.endswith(b"\n") and not is_later(row, last)]
            if last == 0:
                os.remove(path)
            else:
                report.write_whole(path, lambda part, kept=(head, *rows): Path(part).write_bytes(b"".join(kept)))


def refuse_to_begin(folder):
    """A folder without a state begins with round 1, so it may hold what an interrupted round 1 leaves, and no more."""
    others = sorted(name for name in os.listdir(folder) if not name.endswith(".part"))
    if others and not os.path.exists(f"{folder}/config.json"):
        raise fpl.InputError(f"{folder} holds {others[0]}, but no config.json; it is not the folder of a run, nothing was changed: "
                             "move it away or give another --name")
    if not os.path.exists(f"{folder}/rounds.csv"):
        return
    for name in ("rounds.csv", "clusters.csv"):
        path = Path(folder, name)
        head, *rows = (path.read_bytes() if path.exists() else b"").splitlines(keepends=True) or [b""]
        known = head[:6] == b"round,"[:len(head)]  # the last line need not be whole
        if not known or any(row[:2] != b"1,"[:len(row)] for row in rows):
            what = f"has rows of {len({row.split(b',')[0] for row in rows})} rounds" if known else "is not what a run writes"
            raise fpl.InputError(f"{path} {what}, and {folder} has no {FILE}; nothing was changed: give another --name, or remove "
                                 "rounds.csv to begin again")


def resume(folder, record):
    """Bring a folder, new or old, to its last whole round. -> (its ServerState or None, logs of its rounds).

    Raises InputError where it is of another config or other data, damaged, or not a run's.
    """
    from lab import folders

    if os.path.exists(f"{folder}/config.json"):
        warn_of_versions(folder, check_same(folder, record, SAME_COMMAND), record["versions"])
    state = load(folder, record)
    if state is None:
        refuse_to_begin(folder)
    if not os.path.exists(f"{folder}/config.json"):
        report.write_config(folder, record)
    cut_back(folder, state.round if state else 0)
    logs = folders.read_run(folder).rounds if state else []
    if state and len(logs) != state.round:
        raise fpl.InputError(f"{folder}/rounds.csv has {len(logs)} rounds, {FILE} is of round {state.round}; they must agree: "
                             f"remove {FILE} to begin again with round 1")
    return state, logs


@contextlib.contextmanager
def locked(folder, wait):
    """Whether this process alone holds the folder, made if need be, until the end of the `with`."""
    try:
        os.makedirs(folder, exist_ok=True)
        handle = os.open(folder, os.O_RDONLY)
    except OSError as error:
        raise fpl.InputError(f"{folder} cannot be made or opened ({error.strerror}); look at the rights of "
                             f"{os.path.dirname(folder) or '.'} in {os.getcwd()} and at what is there") from error
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
        mine = True
    except BlockingIOError:
        mine = False
    try:
        yield mine
    finally:
        os.close(handle)


@contextlib.contextmanager
def alone_in(folder):
    """Two runs never write into one folder. Raises InputError."""
    with locked(folder, wait=False) as mine:
        if not mine:
            raise fpl.InputError(f"another run is at work in {folder}; wait for its end or give another --name")
        yield
