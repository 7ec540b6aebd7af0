"""What --summary DIR leaves for MindSpore Insight: loss, accuracies and clusters by round, and the network's graph.

Each run adds one file as mindspore.SummaryRecord would, by the same SummaryWriter, but in this process. SummaryRecord's
own process never sleeps and takes a core for itself (rounds of 2.0 s take 6.0 s; 2 cores, MindSpore 2.10.0), only logs a
write that fails, and overwrites a file begun in the same second. Insight draws a folder's runs over each other: one each.
"""
import contextlib
import os
import tempfile
import time

import mindspore as ms
import numpy as np
from mindspore.train.anf_ir_pb2 import ModelProto
from mindspore.train.summary.writer import SummaryWriter
from mindspore.train.summary_pb2 import Event

import fpl


class Network(ms.nn.Cell):
    """fpl.network in evaluation mode as a Cell: MindSpore gives the graph of nothing else. It is compiled, never run."""

    def __init__(self, width):
        super().__init__()
        shapes = fpl.parameter_shapes(width)
        shapes |= {name: shapes[name.rsplit(".", 1)[0] + ".weight"] for name in fpl.STATS}
        self.values = {name: ms.Parameter(ms.Tensor(np.zeros(shape, np.float32)), name) for name, shape in shapes.items()}

    def construct(self, x):
        return fpl.network(self.values, self.values, x, False)[0]


def scalars(log):
    """A round's numbers: tag -> float. log: from fpl.run."""
    return {"loss": log["loss"], **{f"accuracy/{domain}": value for domain, value in log["accuracy"].items()},
            "accuracy/avg": log["avg"], "clusters/mean": float(np.mean(log["clusters_per_class"]))}


@contextlib.contextmanager
def writer(folder, width):
    """with writer(folder, width) as write: the graph is on disk; write(log) returns when the round is, too.

    Without a folder (None) write does nothing.
    """
    if folder is None:
        yield lambda log: None
        return
    try:
        os.makedirs(folder, exist_ok=True)
        handle, path = tempfile.mkstemp("_MS", f"fpl.out.events.summary.{int(time.time())}.", folder)  # Insight's pattern
        os.close(handle)
    except OSError as error:
        raise fpl.InputError(f"--summary is {folder!r} ({error.strerror}); it must be a folder to write to") from error

    def put(**content):
        file.writer.Write(Event(wall_time=time.time(), **content).SerializeToString())
        if not file.writer.Flush():
            raise OSError(f"{path} cannot be written; is the disk full?")
    with contextlib.closing(SummaryWriter(path)) as file:
        cell = Network(width)
        cell.compile(ms.Tensor(np.zeros((fpl.PREDICT_BATCH, 3, 32, 32), np.float32)))
        put(graph_def=ModelProto.FromString(cell.get_func_graph_proto()).graph)
        yield lambda log: put(step=log["round"], summary={"value": [
            {"tag": tag, "scalar_value": value} for tag, value in scalars(log).items()]})
