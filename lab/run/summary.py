"""What --summary DIR leaves for MindSpore Insight: numbers by round, and the network's graph.

Each run adds one file as mindspore.SummaryRecord would, by the same SummaryWriter, but in this
process. SummaryRecord's own process never sleeps and takes a core for itself, only logs a write
that fails, and overwrites a file begun in the same second. Insight draws a folder's runs over each
other, so each run has one of its own.
"""

import contextlib
import os
import tempfile
import time

import fpl  # first: it sets what MindSpore reads while it is loaded

# isort: split
import mindspore as ms
import numpy as np
from mindspore.train.anf_ir_pb2 import ModelProto
from mindspore.train.summary.writer import SummaryWriter
from mindspore.train.summary_pb2 import Event

from lab.shell.errors import InputError

BATCH = 128  # images in the graph's input, as in fpl.predict


class Network(ms.nn.Cell):
    """fpl.network in evaluation mode as a Cell: MindSpore gives the graph of nothing else.

    It is compiled, never run.
    """

    def __init__(self, cfg):
        super().__init__()

        def zeros(shapes):
            return {
                name: ms.Parameter(ms.Tensor(np.zeros(shape, np.float32)), name)
                for name, shape in shapes
            }

        self.p, self.s = (
            zeros(shapes)
            for shapes in (
                fpl.param_shapes(cfg.width, cfg.classes),
                fpl.stat_shapes(cfg.width),
            )
        )

    def construct(self, x):
        return fpl.network(self.p, self.s, x)[0]


def scalars(log):
    """A round's numbers: tag -> float. log: from fpl.run."""
    accuracies = {f"accuracy/{domain}": value for domain, value in log["accuracy"].items()}
    return {
        "loss": log["loss"],
        **accuracies,
        "accuracy/avg": log["avg"],
        "clusters/mean": float(np.mean(log["clusters_per_class"])),
    }


@contextlib.contextmanager
def writer(folder, cfg):
    """with writer(folder, cfg) as write: the graph is on disk; each write(log) adds a round.

    A round is on disk when write returns. Without a folder (None) write does nothing.
    Raises InputError.
    """
    if folder is None:
        yield lambda log: None
        return
    try:
        os.makedirs(folder, exist_ok=True)
        start = f"fpl.out.events.summary.{int(time.time())}."  # what Insight looks for
        handle, path = tempfile.mkstemp("_MS", start, folder)
        os.close(handle)
    except OSError as error:
        raise InputError(
            f"--summary is {folder!r} ({error.strerror}); it must be a folder to write to"
        ) from error

    def put(**content):
        file.writer.Write(Event(wall_time=time.time(), **content).SerializeToString())
        if not file.writer.Flush():
            raise OSError(f"{path} cannot be written; is the disk full?")

    with contextlib.closing(SummaryWriter(path)) as file:
        cell = Network(cfg)
        cell.compile(ms.Tensor(np.zeros((BATCH, 3, cfg.size, cfg.size), np.float32)))
        put(graph_def=ModelProto.FromString(cell.get_func_graph_proto()).graph)
        yield lambda log: put(
            step=log["round"],
            summary={
                "value": [
                    {"tag": tag, "scalar_value": value} for tag, value in scalars(log).items()
                ]
            },
        )
