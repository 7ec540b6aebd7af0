"""Stopping and going on: an interrupted run, resumed, ends in the bytes of one that never was.

After each round state.safetensors holds all that the next one needs. Nothing is ever unpickled. A
round writes its rows and arrays first and its state last, whole or not at all; what a round left
without reaching its state is cut back when the run is resumed.

A run of FPL may be resumed with more rounds than it was begun with: what a round computes does not
depend on how many there will be, so that it ends in the bytes of one run of that length.
"""

import dataclasses
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
from lab.shell.files import is_there, read_file, write_whole

FILE = "state.safetensors"
# what runs lack that were begun before there were these settings
BEFORE = {field.name: field.default for field in dataclasses.fields(fpl.Config)}
BEFORE = {name: BEFORE[name] for name in ("classes", "alpha", "size")}
SAME_COMMAND = "give the command that it was made with, in which --rounds alone may be larger"
ANOTHER_NAME = "move it away or give another --name"
BEGIN_AGAIN = "begin again under another --name"
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


def made_longer(before, now):
    """The facts before, with the rounds of the facts now if these are more.

    Only for FPL itself: another method's rounds may depend on their number, as FedProc's do.
    """
    rounds = before.get("rounds"), now.get("rounds")
    is_longer = all(type(number) is int for number in rounds) and rounds[0] < rounds[1]
    return {**before, "rounds": rounds[1]} if is_longer and now["method"] is None else before


def refuse_other(path, before, now, next_step):
    """before, now: facts. Raises InputError that names the first field in which they differ."""
    before, now = {**BEFORE, **before}, {**BEFORE, **now}
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
    if not os.path.lexists(f"{folder}/config.json"):
        raise InputError(
            f"{folder} is there, but its config.json cannot be used (there is none); "
            f"nothing was changed: {next_step}"
        )
    content = read_file(f"{folder}/config.json")
    try:
        record = json.loads(content.decode())
        return record, facts(record), {**record["versions"]}
    except NOT_AS_WRITTEN as error:
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
    if not is_there(path):
        return None
    content = read_file(path)
    try:
        arrays, about = read_state(content)
        whole = about.pop("sha256") == digest(arrays, about)
        number, before = about["round"], about["facts"]
    except NOT_AS_WRITTEN as error:
        raise damaged(path, f"{type(error).__name__}: {error}") from error
    if not whole:
        raise damaged(path, "its checksum is another")
    now = facts(record)
    refuse_other(path, made_longer(before, now), now, SAME_COMMAND)
    try:
        return state_of(arrays, number)
    except (KeyError, ValueError, TypeError) as error:
        raise InputError(
            f"{path} is of another version ({type(error).__name__}: {error}); "
            f"nothing was changed: go on with that version, or {BEGIN_AGAIN}"
        ) from error


def read_state(content):
    """The bytes of a state -> (its arrays by name, what it says about them).

    Raises NOT_AS_WRITTEN. Not by safe_open, which maps the file into memory: some network disks
    cannot do that, and a file that is cut meanwhile would end the process.
    """
    arrays = safetensors.numpy.load(content)
    head = json.loads(content[8 : 8 + int.from_bytes(content[:8], "little")])
    return arrays, json.loads(head["__metadata__"]["fpl"])


def damaged(path, reason):
    """The InputError for a state that is not as it was written."""
    return InputError(
        f"{path} is damaged ({reason}); nothing was changed: put a whole copy in its place, or "
        f"{BEGIN_AGAIN}"
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
    width, num_classes = len(stats["stem.bn.mean"]), len(params["linear.bias"])
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
        fpl.joined([params[name] for name, _ in fpl.param_shapes(width, num_classes)]),
        fpl.joined([stats[name] for name, _ in fpl.stat_shapes(width)]),
        fpl.Prototypes(**part("prototypes/")),
    )
    return MethodState(*parts, memory) if memory else fpl.ServerState(*parts)


# ---------------------------------------------------------------- going on


def resume(folder, record):
    """Bring a folder, new or old, to its last whole round -> (its state or None, its rounds' logs).

    Raises InputError where it is of another config or other data, damaged, or not a run's.
    """
    now, said = facts(record), None
    if is_there(f"{folder}/config.json"):
        said, before, versions = read_record(folder, SAME_COMMAND)
        refuse_other(folder, made_longer(before, now), now, SAME_COMMAND)
        warn_of_versions(folder, versions, record["versions"])
        record = {**said, "config": {**said["config"], "rounds": now["rounds"]}}
    state = load(folder, record)
    if state is None:
        refuse_to_begin(folder)
    if record != said:
        run_folder.write_config(folder, record)
    cut_back(folder, state.round if state else 0)
    logs = read_run(folder).rounds if state else []
    if state and len(logs) != state.round:
        raise InputError(
            f"{folder}/rounds.csv has {len(logs)} rounds, {FILE} is of round "
            f"{state.round}; they must agree: put the right one in its place, or {BEGIN_AGAIN}"
        )
    return state, logs


def cut_back(folder, last):
    """Take the rounds after the last one out of rounds.csv and clusters.csv.

    A line that was not written whole goes too.
    """
    for path in (f"{folder}/rounds.csv", f"{folder}/clusters.csv"):
        if is_there(path):
            head, *rows = read_file(path).splitlines(keepends=True) or [b""]
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
    if others and not is_there(f"{folder}/config.json"):
        raise InputError(
            f"{folder} holds {others[0]}, but no config.json; it is not the folder of "
            f"a run, nothing was changed: {ANOTHER_NAME}"
        )
    if not is_there(f"{folder}/rounds.csv"):
        return
    for name in ("rounds.csv", "clusters.csv"):
        path = f"{folder}/{name}"
        content = read_file(path) if is_there(path) else b""
        head, *rows = content.splitlines(keepends=True) or [b""]
        known = head[:6] == b"round,"[: len(head)]  # the last line need not be whole
        if not known or any(row[:2] != b"1,"[: len(row)] for row in rows):
            numbers = {row.split(b",")[0] for row in rows}
            what = f"has rows of {len(numbers)} rounds" if known else "is not what a run writes"
            raise InputError(
                f"{path} {what}, and {folder} has no {FILE}; nothing was changed: "
                f"put its {FILE} back, or {BEGIN_AGAIN}"
            )
