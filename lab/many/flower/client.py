"""The ClientApp: says which client it is, and trains on its own images when the server sends a network and prototypes.

--node-config of its SuperNode: client=M, its number; and where its images are: own="FILE.npz" with images [n,32,32,3]
uint8 and labels [n], or data="DIR", the published files, of which it takes the share that fpl.split gives client M
(neither: the built-in stand-in). Flower starts a process for each message, so the images are read once, when the server
asks who is there, and kept in the SuperNode's memory.
"""
import zipfile

import numpy as np
from flwr.app import ConfigRecord, Message, MetricRecord, RecordDict
from flwr.clientapp import ClientApp

import exchange
import fpl
from lab import cli, data
from records import arrays_of, groups_of, record_of, records_of

app = ClientApp()


def read_own(path):
    """The images and labels of an npz file, as fpl.Client has them. Raises InputError."""
    try:
        with np.load(path, allow_pickle=False) as file:
            client = fpl.Client(file["images"], file["labels"], "")
    except (OSError, ValueError, KeyError, TypeError, AttributeError, zipfile.BadZipFile) as error:
        raise fpl.InputError(f"own={path}: {error}; it must be an npz file with images and labels") from error
    try:
        fpl.check_clients([client], fpl.Config(clients=(1,)))
    except fpl.InputError as error:
        raise fpl.InputError(f"own={path}: {error}") from error
    return client._replace(labels=client.labels.astype(np.int32))


def own_client(node_config, cfg):
    """--node-config -> (the client's number, its Client). Raises InputError."""
    m, most = node_config.get("client"), sum(cfg.clients) - 1
    if type(m) is not int or not 0 <= m <= most:
        raise fpl.InputError(f"--node-config has client={m!r}; it must be a whole number from 0 to {most}: see --clients")
    if "own" in node_config:
        return m, read_own(node_config["own"])
    clients = fpl.split(data.load(cfg.task, node_config.get("data"))[0], cfg)
    fpl.check_clients(clients, cfg)
    return m, clients[m]


@app.query()
def who(message, context):
    """Which client this is and how many images it holds, which are its weight."""
    m, client = own_client(context.node_config, exchange.settings(context.run_config))
    context.state["own"] = record_of({"images": client.images, "labels": client.labels})
    return Message(RecordDict({"client": ConfigRecord({"number": m, "images": len(client.labels)})}), reply_to=message)


@app.train()
def train(message, context):
    """client_update of Algorithm 1, on what the server sent."""
    cfg, m = exchange.settings(context.run_config), context.node_config["client"]
    cli.use_device(cfg.device)
    number = message.content["round"]["number"]
    state = exchange.state_of(groups_of(message.content), number)
    client = fpl.Client(**arrays_of(context.state["own"]), domain="")
    update = fpl.train_client(state, {m: client}, fpl.FPL, cfg, m)
    content = records_of(exchange.up(update))
    content["loss"] = MetricRecord({"loss": update.loss})
    return Message(content, reply_to=message)
