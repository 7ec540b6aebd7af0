"""Many pictures, decoded on all cores. All that are damaged are named in one line."""

import warnings
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from PIL import Image
from tqdm import tqdm

from lab.data.images import FORMATS, DamagedPicture, read_picture
from lab.shell import cores
from lab.shell.errors import InputError
from lab.shell.words import plural

MOST_THREADS = 8  # each may hold a photo of 64 million pixels twice, 512 MB
DAMAGED = Path("runs/damaged.txt")
MOST_NAMED = 1500  # characters of a line that names damaged pictures


def decode_all(folder, paths, images, fit, rotation):
    """Each picture into its place in images, on all cores. Raises InputError for all bad ones.

    folder: in which they all lie, or None; paths are named below it.
    """

    def decode_one(i):
        try:
            images[i] = read_picture(paths[i], images.shape[1], fit, rotation)
        except (DamagedPicture, OSError) as error:
            return error

    Image.init()  # here, so that no two threads load Pillow's plugins
    if lacking := [name for name in FORMATS if name not in Image.OPEN]:
        raise InputError(
            f"Pillow cannot open {', '.join(lacking)} here; wanted all of {', '.join(FORMATS)}: "
            "install the Pillow of requirements.txt again"
        )
    pool = ThreadPoolExecutor(min(cores.granted(), MOST_THREADS))
    with warnings.catch_warnings():  # here, for threads share the filters
        warnings.simplefilter("ignore")
        try:
            done = pool.map(decode_one, range(len(paths)))
            bar = tqdm(done, total=len(paths), unit="picture", disable=None)
            errors = {path: error for path, error in zip(paths, bar) if error}
        finally:
            pool.shutdown(cancel_futures=True)  # after Ctrl-C nobody waits for the others
    if errors:
        raise InputError(line_about(errors, folder, len(paths)))


def line_about(errors, folder, total):
    """One line that names all bad pictures, or as many as fit and the file that names all."""
    damaged = sum(isinstance(error, DamagedPicture) for error in errors.values())
    names = [
        f"{path.relative_to(folder) if folder else path} ({reason_of(error)})"
        for path, error in errors.items()
    ]
    where = f" in {folder}" if folder else ""
    counts = [
        f"{plural(number, 'picture')} of {total:,}{where} {what}"
        for number, what in (
            (damaged, "cannot be used: put good copies in their place or move them away"),
            (len(errors) - damaged, "cannot be read, but may be whole: look at rights and disk"),
        )
        if number
    ]
    line, shown = "; ".join(counts) + ": ", 0
    while shown < len(names) and (not shown or len(line) + len(names[shown]) < MOST_NAMED):
        line += f"{', ' if shown else ''}{names[shown]}"
        shown += 1
    return line if shown == len(names) else f"{line} and {len(names) - shown:,} more{listed(names)}"


def reason_of(error):
    return error.reason if isinstance(error, DamagedPicture) else error.strerror or str(error)


def listed(names):
    """Write all names to a file -> the words that say so; none where it cannot be written."""
    text = "".join(" ".join(name.splitlines()) + "\n" for name in names)
    try:
        DAMAGED.parent.mkdir(exist_ok=True)
        DAMAGED.write_bytes(text.encode(errors="backslashreplace"))
    except OSError:
        return ""
    return f"; {DAMAGED} lists all"
