"""The ClientApp: says which client it is, and trains on its own images when the server asks.

--node-config of its SuperNode: client=M, its number; and where its images are: own="FILE.npz" with
images [n,s,s,3] uint8 and labels [n], or data="DIR", the published files, of which it takes the
share that fpl.split gives client M (neither: the built-in stand-in). Flower starts a process for
each message, so the images are read once, when the server asks who is there, and kept in the
SuperNode's memory.
"""

import zipfile

import exchange
import numpy as np
from flwr.app import ConfigRecord, Message, MetricRecord, RecordDict
from flwr.clientapp import ClientApp
from records import arrays_of, groups_of, record_of, records_of

import fpl
from lab.data import load
from lab.device.target import use_device
from lab.run.clients import check_images, share_out
from lab.shell.errors import InputError

app = ClientApp()


def read_own(path, cfg):
    """The images and labels of an npz file, as fpl.Client has them. Raises InputError."""
    try:
        with np.load(path, allow_pickle=False) as file:
            images, labels = np.asarray(file["images"]), np.asarray(file["labels"])
    except (
        OSError,
        ValueError,
        KeyError,
        TypeError,
        AttributeError,
        zipfile.BadZipFile,
    ) as error:
        raise InputError(
            f"own={path}: {error}; it must be an npz file with images and labels"
        ) from error
    check_images(f"own={path}", images, labels, cfg)
    return fpl.Client(images, labels.astype(np.int32), "")


def own_client(node_config, run_config):
    """--node-config -> (the client's number, its Client). Raises InputError."""
    data = node_config.get("data")
    cfg, task, reading = exchange.settings(run_config, data)
    m, most = node_config.get("client"), sum(cfg.clients) - 1
    if type(m) is not int or not 0 <= m <= most:
        raise InputError(
            f"--node-config has client={m!r}; it must be a whole number from 0 to {most}: "
            "see --clients"
        )
    if "own" in node_config:
        return m, read_own(node_config["own"], cfg)
    *images, _ = load.load(cfg.task, data, **reading)
    return m, share_out(images, task, cfg)[0][m]


@app.query()
def who(message, context):
    """Which client this is and how many images it holds, which are its weight."""
    m, client = own_client(context.node_config, context.run_config)
    context.state["own"] = record_of({"images": client.images, "labels": client.labels})
    answer = ConfigRecord({"number": m, "images": len(client.labels)})
    return Message(RecordDict({"client": answer}), reply_to=message)


@app.train()
def train(message, context):
    """client_update of Algorithm 1, on what the server sent."""
    data, m = context.node_config.get("data"), context.node_config["client"]
    cfg, _, _ = exchange.settings(context.run_config, data)
    use_device(cfg.device)
    number = message.content["round"]["number"]
    state = exchange.state_of(groups_of(message.content), number)
    client = fpl.Client(**arrays_of(context.state["own"]), domain="")
    update = fpl.client_update(state, client, fpl.stream(cfg, "client", number, m), cfg)
    content = records_of(exchange.up(update))
    content["loss"] = MetricRecord({"loss": update.loss})
    return Message(content, reply_to=message)
