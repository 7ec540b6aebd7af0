"""Groups of arrays (exchange.py) to Flower's records and back.

Arrays travel as .npy bytes; nothing is ever unpickled.
"""

import numpy as np
from flwr.app import Array, ArrayRecord, RecordDict


def record_of(arrays):
    """{name: array} to an ArrayRecord."""
    return ArrayRecord({name: Array(np.ascontiguousarray(array)) for name, array in arrays.items()})


def records_of(groups):
    """{group: {name: array}} to a RecordDict with one ArrayRecord for each group."""
    return RecordDict({group: record_of(arrays) for group, arrays in groups.items()})


def arrays_of(record):
    """What record_of was given."""
    # A hostile sender's bytes may be another file that NumPy reads, which is then not an array.
    return {name: np.asarray(array.numpy()) for name, array in record.items()}


def groups_of(content):
    """What records_of was given."""
    return {group: arrays_of(record) for group, record in content.array_records.items()}
