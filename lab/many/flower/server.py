"""The ServerApp: the round loop of every run, whose clients are SuperNodes.

It waits for the clients; then, round by round, it sends the network and the prototypes, refuses
what cannot be used, and does the server's half of Algorithm 1 with the rest.

A client that is refused, fails or does not answer in time is named with the reason, and the round
goes on without it: the average is over the others. It is asked again in the next round. A round
without any usable update ends the run; the files are those of the round before.
"""

import os
import time
from typing import NamedTuple

import exchange
import httpx
from flwr.app import ConfigRecord, Message, MessageType, RecordDict
from flwr.serverapp import ServerApp
from records import groups_of, records_of

import fpl
from lab.data import load
from lab.device.target import use_device
from lab.run import folder as run_folder
from lab.run import screen
from lab.run.clients import hold_back, test_sets
from lab.run.loop import rounds
from lab.run.settings import MANY
from lab.shell.errors import InputError
from lab.shell.files import alone_in

app = ServerApp()
PAUSE = 0.2  # seconds between two looks for answers


class Joined(NamedTuple):
    """A client as the server knows it: no image of it."""

    node: int
    images: int  # how many it says that it holds
    domain: str


def say(text):
    """A line for `flwr run --stream`, `flwr log` and the SuperLink's screen."""
    print(text, flush=True)


def one_line(text):
    """What another machine wrote, fit for the screen."""
    return " ".join("".join(c if c.isprintable() else " " for c in str(text)).split())[:300]


def ask(grid, nodes, kind, content, seconds):
    """Send content to each node and wait -> {node: (its answer, None) or (None, why not)}."""
    # twice the time, or Flower's own word about an expired message would come in place of ours
    sent = grid.push_messages(
        [Message(content, node, kind, ttl=2 * seconds + 60) for node in nodes]
    )
    waiting = {message: node for message, node in zip(sent, nodes) if message}
    answers, end = {}, time.monotonic() + seconds
    while waiting and time.monotonic() < end:
        for message, node in list(waiting.items()):
            answer = pull(grid, message)
            if answer:
                answers[node] = answer
                del waiting[message]
        time.sleep(PAUSE)
    return {
        node: answers.get(node, (None, f"there is no answer after {seconds:.0f} s"))
        for node in nodes
    }


def pull(grid, message):
    """The answer to one message: None if there is none yet, else (its content, None).

    (None, why) where there will be none. One at a time,
    so that an answer which cannot be read does not take others with it.
    """
    try:
        replies = list(grid.pull_messages([message]))
    except httpx.HTTPError:  # of the SuperLink, not of the node
        raise
    except Exception as error:
        # Objects that do not fit together raise nearly anything; Flower names no common class.
        return None, f"its answer cannot be read ({type(error).__name__}: {one_line(error)})"
    if not replies:
        return None
    if replies[0].has_error():
        return None, one_line(replies[0].error.reason)
    return replies[0].content, None


def introduced(content, clients, joined):
    """(client number, images) from a node's answer to "who". Raises InputError."""
    try:
        number, images = content["client"]["number"], content["client"]["images"]
    except (KeyError, TypeError) as error:
        raise InputError(f"its answer has no {error}") from error
    if type(number) is not int or not 0 <= number < clients or number in joined:
        raise InputError(
            f"it says that it is client {number!r}; wanted one of "
            f"{', '.join(str(m) for m in range(clients) if m not in joined)}"
        )
    if type(images) is not int or not 1 <= images <= MANY:
        raise InputError(f"it says that it holds {images!r} images; it must be 1 to {MANY}")
    return number, images


def join(grid, domains, seconds):
    """Ask every SuperNode who it is, until all clients are there. Raises InputError.

    domains: that of each client -> a Joined for each.
    """
    clients, joined, asked, end = len(domains), {}, set(), time.monotonic() + seconds
    while len(joined) < clients:
        new = sorted(set(grid.get_node_ids()) - asked)
        if not new and time.monotonic() > end:
            missing = ", ".join(str(m) for m in range(clients) if m not in joined)
            raise InputError(
                f"{len(joined)} of {clients} clients joined within {seconds} s; missing: "
                f"{missing}; start their SuperNodes, or change clients or wait"
            )
        asked |= set(new)
        answers = ask(grid, new, MessageType.QUERY, RecordDict(), seconds)
        for node, (content, reason) in answers.items():
            try:
                if content is None:
                    raise InputError(reason)
                number, images = introduced(content, clients, joined)
            except InputError as error:
                say(f"node {node} is not let in: {one_line(error)}")
            else:
                joined[number] = Joined(node, images, domains[number])
                say(f"node {node} is client {number} with {images} images")
        time.sleep(PAUSE)
    return [joined[m] for m in range(clients)]


def usable(content, reason, images, wanted):
    """(the ClientUpdate, None) or (None, why it is refused)."""
    if content is None:
        return None, reason
    try:
        groups, loss = groups_of(content), content["loss"]["loss"]
    except Exception as error:
        # Bytes that are no array raise nearly anything; NumPy names no common class.
        return None, f"its arrays cannot be read ({type(error).__name__}: {one_line(error)})"
    reason = exchange.refusal(groups, loss, images, wanted)
    return (None, one_line(reason)) if reason else (exchange.update_of(groups, loss), None)


def collect(grid, state, clients, cfg, seconds):
    """The updates that can be used of those who take part in the next round: {client: update}."""
    number, wanted, updates = state.round + 1, exchange.form(state), {}
    chosen = fpl.participants(cfg, len(clients), number)
    content = records_of(exchange.down(state))
    content["round"] = ConfigRecord({"number": number})
    answers = ask(grid, [clients[m].node for m in chosen], MessageType.TRAIN, content, seconds)
    for m in chosen:
        node, images, _ = clients[m]
        # Taken out, so that its bytes are not held beside the updates.
        update, reason = usable(*answers.pop(node), images, wanted)
        if update is None:
            say(f"round {number}: client {m} (node {node}) is refused: {reason}")
        else:
            updates[m] = update
    return updates


def round_over(grid, seconds, folder):
    """fpl.server_round, whose clients are SuperNodes; those that cannot be used count as absent."""

    def server_round(state, clients, cfg, engine):
        updates = collect(grid, state, clients, cfg, seconds)
        if not updates:
            raise InputError(
                f"round {state.round + 1}: no client sent an update that can be used, see above; "
                f"{folder} holds what {state.round} rounds gave"
            )
        chosen, sizes = sorted(updates), [client.images for client in clients]
        sent_by = (updates[m] for m in chosen)
        params, stats, sent = fpl.weighted_mean(sent_by, chosen, sizes)
        members = fpl.cluster_members(sent["class_means"], sent["counts"], cfg.partition)
        clusters, mask = fpl.cluster_means(sent["class_means"], members)
        prototypes = fpl.Prototypes(clusters, mask, fpl.unbiased_prototypes(clusters, mask))
        after = fpl.ServerState(state.round + 1, params, stats, prototypes)
        return after, {**sent, "members": members}

    return server_round


def seconds_of(run_config, key):
    """A time from the run config. Raises InputError."""
    value = run_config[key]
    if type(value) not in (int, float) or not 0 < value < 1e6:
        raise InputError(f"{key} is {value!r}; it must be a number of seconds, more than 0")
    return value


def test_data(data, cfg, reading):
    """({domain: (images, labels)}, sources) to measure accuracy on; both empty for data "none".

    Raises InputError.
    """
    if data == "none":
        return {}, {}
    train, tests, sources = load.load(cfg.task, data or None, **reading)
    return test_sets(hold_back(train, tests, cfg)[1], cfg), sources


def line(log):
    """A round on the screen; without test images the loss alone is known."""
    if log["accuracy"]:
        return screen.round_line(log)
    return f"round {log['round']:3d}  loss {log['loss']:7.4f}  {log['seconds']:.1f} s"


def serve(grid, run_config):
    """The whole run; writes runs/NAME as `./run.sh digits` does.

    Raises InputError, FloatingPointError.
    """
    data = str(run_config["data"])
    cfg, task, reading = exchange.settings(run_config, data if data != "none" else None)
    wait, seconds = seconds_of(run_config, "wait"), seconds_of(run_config, "timeout")
    folder = run_folder.free_folder(cfg.task, str(run_config["name"]) or None)
    use_device(cfg.device)
    tests, sources = test_data(data, cfg, reading)
    pairs = zip(task.clients, cfg.clients)
    clients = join(grid, [domain for domain, n in pairs for _ in range(n)], wait)
    server_round = round_over(grid, seconds, folder)
    with alone_in(folder):
        if tests:  # a folder with config.json is one that `./run.sh report` reads
            run_folder.write_config(folder, run_folder.record_of(cfg, task, sources, reading))
        for _, log in rounds(clients, tests, cfg, folder, None, server_round=server_round):
            say(line(log))
    say(f"{folder}: {', '.join(sorted(os.listdir(folder)))}")


@app.main()
def main(grid, context):
    """Flower ends the run as failed on what this raises; the line that says why comes first."""
    try:
        serve(grid, context.run_config)
    except (InputError, FloatingPointError) as error:
        say(f"fpl: {error}")
        raise
