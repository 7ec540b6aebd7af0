"""The ServerApp: waits for the clients; then, round by round, sends the network and the prototypes, refuses what cannot be
used, and hands the rest to fpl.aggregate, the server's half of Algorithm 1.

A client that is refused, fails or does not answer in time is named with the reason, and the round goes on without it: the
average is over the others. It is asked again in the next round. A round without any usable update ends the run; the
files are those of the round before.
"""
import dataclasses
import os
import time

import httpx
import numpy as np
from flwr.app import ConfigRecord, Message, MessageType, RecordDict
from flwr.serverapp import ServerApp

import exchange
import fpl
from lab import checkpoint, cli, data, report
from records import groups_of, records_of

app = ServerApp()
PAUSE = 0.2  # seconds between two looks for answers


def say(text):
    """A line for `flwr run --stream`, `flwr log` and the SuperLink's screen."""
    print(text, flush=True)


def one_line(text):
    """What another machine wrote, fit for the screen."""
    return " ".join("".join(c if c.isprintable() else " " for c in str(text)).split())[:300]


def ask(grid, nodes, kind, content, seconds):
    """Send content to each node and wait for the answers. -> node -> (what read made of its answer, None) or (None, why not)."""
    # twice the time, or Flower's own word about an expired message would come in place of ours
    sent = grid.push_messages([Message(content, node, kind, ttl=2 * seconds + 60) for node in nodes])
    waiting = {message: node for message, node in zip(sent, nodes) if message}
    answers, end = {}, time.monotonic() + seconds
    while waiting and time.monotonic() < end:
        for message, node in list(waiting.items()):
            answer = pull(grid, message)
            if answer:
                answers[node] = answer
                del waiting[message]
        time.sleep(PAUSE)
    return {node: answers.get(node, (None, f"there is no answer after {seconds:.0f} s")) for node in nodes}


def pull(grid, message):
    """The answer to one message: None if there is none yet, else (its content, None) or (None, why there is none).

    One at a time, so that an answer which cannot be read does not take others with it.
    """
    try:
        replies = list(grid.pull_messages([message]))
    except httpx.HTTPError:  # of the SuperLink, not of the node
        raise
    except Exception as error:  # objects that do not fit together raise nearly anything here, Flower names no common class
        return None, f"its answer cannot be read ({type(error).__name__}: {one_line(error)})"
    if not replies:
        return None
    return (None, one_line(replies[0].error.reason)) if replies[0].has_error() else (replies[0].content, None)


def introduced(content, clients, joined):
    """(client number, images) from a node's answer to "who". Raises InputError."""
    try:
        number, images = content["client"]["number"], content["client"]["images"]
    except (KeyError, TypeError) as error:
        raise fpl.InputError(f"its answer has no {error}") from error
    if type(number) is not int or not 0 <= number < clients or number in joined:
        raise fpl.InputError(f"it says that it is client {number!r}; wanted one of "
                             f"{', '.join(str(m) for m in range(clients) if m not in joined)}")
    if type(images) is not int or not 1 <= images <= fpl.MANY:
        raise fpl.InputError(f"it says that it holds {images!r} images; it must be 1 to {fpl.MANY}")
    return number, images


def join(grid, clients, seconds):
    """Ask every SuperNode who it is, until all clients are there. -> client number -> (node, images). Raises InputError."""
    joined, asked, end = {}, set(), time.monotonic() + seconds
    while len(joined) < clients:
        new = sorted(set(grid.get_node_ids()) - asked)
        if not new and time.monotonic() > end:
            missing = ", ".join(str(m) for m in range(clients) if m not in joined)
            raise fpl.InputError(f"{len(joined)} of {clients} clients joined within {seconds} s; missing: {missing}; start "
                                 "their SuperNodes, or change clients or wait")
        asked |= set(new)
        for node, (content, reason) in ask(grid, new, MessageType.QUERY, RecordDict(), seconds).items():
            try:
                if content is None:
                    raise fpl.InputError(reason)
                number, images = introduced(content, clients, joined)
            except fpl.InputError as error:
                say(f"node {node} is not let in: {one_line(error)}")
            else:
                joined[number] = node, images
                say(f"node {node} is client {number} with {images} images")
        time.sleep(PAUSE)
    return joined


def usable(content, reason, images, wanted):
    """(the ClientUpdate, None) or (None, why it is refused)."""
    if content is None:
        return None, reason
    try:
        groups, loss = groups_of(content), content["loss"]["loss"]
    except Exception as error:  # bytes that are no array raise nearly anything, NumPy names no common class
        return None, f"its arrays cannot be read ({type(error).__name__}: {one_line(error)})"
    reason = exchange.refusal(groups, loss, images, wanted)
    return (None, one_line(reason)) if reason else (exchange.update_of(groups, loss), None)


def collect(grid, state, joined, cfg, seconds):
    """The updates of the clients that take part in the next round, those that can be used. -> client number -> ClientUpdate."""
    number, wanted, updates = state.round + 1, exchange.form(state), {}
    chosen = fpl.participants(cfg, len(joined), number)
    content = records_of(exchange.down(state))
    content["round"] = ConfigRecord({"number": number})
    answers = ask(grid, [joined[m][0] for m in chosen], MessageType.TRAIN, content, seconds)
    for m in chosen:
        node, images = joined[m]
        update, reason = usable(*answers.pop(node), images, wanted)  # so that its bytes are not held beside it
        if update is None:
            say(f"round {number}: client {m} (node {node}) is refused: {reason}")
        else:
            updates[m] = update
    return updates


def seconds_of(run_config, key):
    """A time from the run config. Raises InputError."""
    value = run_config[key]
    if type(value) not in (int, float) or not 0 < value < 1e6:
        raise fpl.InputError(f"{key} is {value!r}; it must be a number of seconds, more than 0")
    return value


def test_data(run_config, cfg):
    """(domain -> (images, labels), sources) to measure accuracy on; both empty where data is "none". Raises InputError."""
    if run_config["data"] == "none":
        return {}, {}
    _, tests, sources = data.load(cfg.task, str(run_config["data"]) or None)
    return fpl.test_sets(tests, cfg), sources


def finish_round(folder, state, diagnostics, tests, domains, cfg, start):
    """Measure, write and show what a round gave: without test images the network, the prototypes and the loss alone."""
    if not tests:
        arrays = {**state.prototypes._asdict(), "class_means": diagnostics["class_means"], "counts": diagnostics["counts"]}
        report.save_arrays(folder, exchange.network(state.params | state.stats), arrays)
        loss = np.mean(list(diagnostics["losses"].values()))
        say(f"round {state.round:3d}  loss {loss:7.4f}  {time.perf_counter() - start:.1f} s")
        return
    log = fpl.round_log(state, diagnostics, tests, start)
    report.write_round(folder, state, log, domains, cfg.partition)
    say(report.round_line(log))


def serve(grid, run_config):
    """The whole run; writes runs/NAME as `./run.sh digits` does. Raises InputError, FloatingPointError."""
    cfg = exchange.settings(run_config)
    wait, seconds = seconds_of(run_config, "wait"), seconds_of(run_config, "timeout")
    folder = report.free_folder(cfg.task, str(run_config["name"]) or None)
    cli.use_device(cfg.device)
    tests, sources = test_data(run_config, cfg)
    joined = join(grid, sum(cfg.clients), wait)
    sizes = [joined[m][1] for m in range(len(joined))]
    domains = [domain for domain, n in zip(fpl.TASKS[cfg.task].clients, cfg.clients) for _ in range(n)]
    state = fpl.init_state(cfg)
    with checkpoint.alone_in(folder):
        if tests:  # a folder with config.json is one that `./run.sh report` reads
            report.write_config(folder, {"config": dataclasses.asdict(cfg), "sources": sources, "versions": report.versions()})
        while state.round < cfg.rounds:
            start = time.perf_counter()
            updates = collect(grid, state, joined, cfg, seconds)
            if not updates:
                raise fpl.InputError(f"round {state.round + 1}: no client sent an update that can be used, see above; "
                                     f"{folder} holds what {state.round} rounds gave")
            chosen = sorted(updates)
            state, diagnostics = fpl.aggregate(state, chosen, (updates[m] for m in chosen), sizes, cfg)
            finish_round(folder, state, diagnostics, tests, domains, cfg, start)
    say(f"{folder}: {', '.join(sorted(os.listdir(folder)))}")


@app.main()
def main(grid, context):
    """Flower ends the run as failed on what this raises; the line that says why stands before its traceback."""
    try:
        serve(grid, context.run_config)
    except (fpl.InputError, FloatingPointError) as error:
        say(f"fpl: {error}")
        raise
