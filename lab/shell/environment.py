"""What a run takes from the variables that it inherits; all that packages would read goes.

A notebook, a cluster's queue or a shell's profile sets variables that stop a package from loading,
or change what it computes. `settle` removes them before anything is imported, so that the processes
which a run starts do not inherit them either. docs/machines.md has the list for users.
"""

import os
import tempfile

# Everything that begins so is read by a package and not by us.
OF_PACKAGES = (
    *("MS_", "MINDSPORE_", "GLOG_", "VLOG_", "MSRUN_", "STREE_", "logger_"),  # MindSpore
    *("RANK_", "OMPI_", "PMIX_", "CONTEXT_MODELCOMPILING", "GC_COLLECT_IN_CELL"),  # MindSpore too
    *("ONEDNN_", "DNNL_", "MKL", "OPENBLAS_", "GOTO_", "BLIS_", "OMP_", "KMP_", "GOMP_"),
    *("NPY_", "NUMPY_", "SCIPY_", "SKLEARN_", "SCIKIT_", "JOBLIB_", "LOKY_", "TQDM_"),
    *("MPL", "MATPLOTLIB", "RAY_"),
)
OF_PYTHON = ("PYTHON", "PROTOCOL_BUFFERS_", "HYPOTHESIS_", "PYTEST_")
KEPT = {
    "OMP_NUM_THREADS": "threads of MindSpore, 1 to 999",
    "RAY_ADDRESS": "a cluster to join",
    "RAY_AUTH_MODE": "how that cluster lets one in",
    "RAY_AUTH_TOKEN": "what that cluster lets one in by",
    "RAY_AUTH_TOKEN_PATH": "where the token lies",
}


def settle():
    """Leave in os.environ what this product is to see, for itself and for what it starts."""
    remove(*OF_PACKAGES, *OF_PYTHON)
    # An empty file of settings instead of one in the home.
    os.environ["MATPLOTLIBRC"] = os.devnull
    # A proxy cannot reach what is on this machine itself.
    for name in ("no_proxy", "NO_PROXY"):
        given = os.environ.get(name, "")
        os.environ[name] = ",".join(filter(None, [given, "127.0.0.1,localhost"]))


def remove(*beginnings):
    """Take the variables that begin so out of os.environ, but for those in KEPT."""
    for name in list(os.environ):
        if name.startswith(beginnings) and name not in KEPT:
            del os.environ[name]


def short_folder(longest=30):
    """The folder of temporary files, or /tmp where that one's path is too long for Ray's sockets.

    A socket's path has at most 107 letters, of which Ray adds 64 and our folder 13.
    """
    folder = tempfile.gettempdir()
    return "/tmp" if len(folder) > longest and os.access("/tmp", os.W_OK | os.X_OK) else folder
