"""`./run.sh fetch digits [--data DIR]`: the published MNIST, USPS and SVHN files, checked by MD5.

Names and sums are those of torchvision's datasets. A download goes to NAME.part, resumes there, and
takes the name NAME only once its sum is right; another file that has this name is kept as
NAME.old-1. One call at a time works in a folder. SYN and Office-Caltech10 cannot be fetched without
a login or a form: the command says what to do.
"""

import argparse
import hashlib
import http.client
import itertools
import os
import urllib.error
import urllib.request
from pathlib import Path

from tqdm import tqdm

from lab.shell.errors import InputError
from lab.shell.files import locked
from lab.shell.options import read_options
from lab.shell.program import guarded

BASE_URLS = {
    "MNIST": "https://ossci-datasets.s3.amazonaws.com/mnist/",
    "USPS": "https://www.csie.ntu.edu.tw/~cjlin/libsvmtools/datasets/multiclass/",
    "SVHN": "http://ufldl.stanford.edu/housenumbers/",
}
FILES = (  # set, place below the data folder, MD5
    ("MNIST", "MNIST/raw/train-images-idx3-ubyte.gz", "f68b3c2dcbeaaa9fbdd348bbdeb94873"),
    ("MNIST", "MNIST/raw/train-labels-idx1-ubyte.gz", "d53e105ee54ea40749a09fcbcd1e9432"),
    ("MNIST", "MNIST/raw/t10k-images-idx3-ubyte.gz", "9fb629c4189551a2d022fa330f9573f3"),
    ("MNIST", "MNIST/raw/t10k-labels-idx1-ubyte.gz", "ec29112dd5afa0611ce80d1b7f02629c"),
    ("USPS", "USPS/usps.bz2", "ec16c51db3855ca6c91edd34d0e9b197"),
    ("USPS", "USPS/usps.t.bz2", "8ea070ee2aca1ac39742fdd1ef5ed118"),
    ("SVHN", "SVHN/train_32x32.mat", "e26dedcc434d2e4c54c9b2d4a06d8373"),
    ("SVHN", "SVHN/test_32x32.mat", "eb5a983be6a315427106f1b164d9cef3"),
)
CHUNK, SECONDS = 1 << 18, 30
MOST = 1 << 30  # bytes of a download, so that an endless one leaves room; the largest has 182 MB


def main(argv=None):
    """Exit status: 0 done, 2 bad input or a file that cannot be had or written, 130 interrupted."""
    stopped = "stopped; the same command goes on from here"
    return guarded(fetch_and_tell, argv, stopped, prefix="")


def fetch_and_tell(argv):
    """What `main` does when all goes well."""
    parser = argparse.ArgumentParser(
        prog="./run.sh fetch", allow_abbrev=False, description="download the published data files"
    )
    parser.add_argument("task", choices=("digits", "office"))
    parser.add_argument(
        "--data", default="data", metavar="DIR", help="where they go (default: data)"
    )
    args = read_options(parser, argv)
    if not args.data:
        raise InputError("--data is empty; give the folder where the files shall go")
    if args.task == "office":
        print(
            "Office-Caltech10 is fetched by hand: https://github.com/med-air/FedBN links a copy. "
            f"Unpack it so that {args.data} holds amazon, caltech10, dslr and webcam, each with "
            f"one folder per class; then: ./run.sh office --data {args.data}"
        )
        return 0
    fetch(args.data)
    print(
        f"MNIST, USPS and SVHN are in {args.data}. SYN needs a login: get "
        "https://www.kaggle.com/datasets/prasunroy/synthetic-digits and unpack it so that "
        f"{args.data}/syn/imgs_train/0 ... 9 and {args.data}/syn/imgs_valid/0 ... 9 hold the "
        f"pictures; then: ./run.sh digits --data {args.data}"
    )
    return 0


def fetch(folder, base_urls=BASE_URLS, files=FILES):
    """Bring every file below folder -> their paths. One that is there and right is left alone."""
    folder, paths = Path(folder), []
    for source, name, md5 in files:
        path, part = folder / name, folder / f"{name}.part"
        for place in (path, part):
            # Path.resolve fails on a link to itself, which opening the file refuses anyway.
            real = Path(os.path.realpath(place))
            if not real.is_relative_to(os.path.realpath(folder)):
                raise InputError(
                    f"file name {name!r} leads out of {folder}, for {place} is in "
                    f"{real.parent}; wanted a place below it"
                )
        if md5_of(path) != md5:
            url = base_urls[source] + path.name
            try:
                path.parent.mkdir(parents=True, exist_ok=True)
                with locked(path.parent, wait=False) as mine:
                    if not mine:
                        raise InputError(
                            f"another fetch is at work in {path.parent}; wait for its end"
                        )
                    download(url, path, part, md5)
            except InputError:
                raise
            except (OSError, http.client.HTTPException, ValueError) as error:
                raise InputError(
                    f"{url} -> {path}: {error}; check the network and the folder, "
                    "then run the same command again, or put the file there by "
                    "hand"
                ) from error
        paths.append(path)
    return paths


def md5_of(path):
    """Hex MD5 of a file, "" if there is none."""
    total = hashlib.md5(usedforsecurity=False)
    if not path.is_file():
        return ""
    with open(path, "rb") as file:
        while chunk := file.read(CHUNK):
            total.update(chunk)
    return total.hexdigest()


def download(url, path, part, md5):
    """url -> path by way of part, going on where an earlier attempt stopped."""
    for place in (path, part):
        if os.path.lexists(place) and not place.is_file():
            raise OSError(f"{place} is there and no file")
    if md5_of(part) != md5:  # else an earlier attempt stopped just before the renaming
        append(url, part)
    if (seen := md5_of(part)) != md5:
        part.unlink()
        raise InputError(
            f"{url}: MD5 {seen}; wanted {md5}; the download was removed, "
            f"{path} is as it was; run the command again"
        )
    with open(part, "rb") as file:
        os.fsync(file.fileno())
    keep_old(path)
    part.replace(path)


def keep_old(path):
    """What has the name of a published file, and is another one, may be all that there is of it."""
    if path.exists():
        names = (path.with_name(f"{path.name}.old-{number}") for number in itertools.count(1))
        old = next(name for name in names if not os.path.lexists(name))
        path.rename(old)
        print(f"{path} was not the published file; it is {old.name} now")


def append(url, part):
    """Add to part what it lacks of url."""
    start = part.stat().st_size if part.is_file() else 0
    request = urllib.request.Request(url, headers={"Range": f"bytes={start}-"} if start else {})
    try:
        reply = urllib.request.urlopen(request, timeout=SECONDS)
    except urllib.error.HTTPError as error:
        # Nothing lies beyond part: it is whole, or wrong and its sum will tell.
        if start and error.code == 416:
            return
        raise
    with reply:
        resumed = reply.headers.get("Content-Range", "").startswith(f"bytes {start}-")
        # A server may ignore Range and send everything.
        start = start if reply.status == 206 and resumed else 0
        length = reply.headers.get("Content-Length")
        total = start + int(length) if length else None
        bar = tqdm(desc=part.stem, initial=start, total=total, unit="B", unit_scale=True)
        with open(part, "ab" if start else "wb") as file, bar:
            while chunk := reply.read(CHUNK):
                start += len(chunk)
                if start > MOST:
                    part.unlink()
                    raise OSError(f"more than {MOST} bytes came, the download was removed")
                file.write(chunk)
                bar.update(len(chunk))
    if total is not None and part.stat().st_size != total:
        raise OSError(f"the connection ended at {part.stat().st_size} of {total} bytes")
