"""`./run.sh digits`, `office` and `folder`: one run of FPL, on the screen and in its folder."""

import os
import sys

from tqdm import tqdm

import fpl
from lab.data.load import load
from lab.device.target import use_device
from lab.many import engines
from lab.run import checkpoint, screen, summary
from lab.run import folder as run_folder
from lab.run.clients import share_out
from lab.run.loop import rounds
from lab.run.settings import parse, reading, settings_parser
from lab.shell.errors import InputError
from lab.shell.files import alone_in
from lab.shell.program import guarded


def main(argv=None):
    """argv: the task and the flags. -> exit status, see `lab.shell.program.guarded`."""
    return guarded(train_and_report, argv)


def train_and_report(argv):
    """What `main` does when all goes well: read, split, run, show, write."""
    parser = settings_parser(
        "./run.sh", "Train FPL. Defaults are the paper's with --paper, else a quick preset."
    )
    parser.add_argument(
        "--resume",
        action="store_true",
        help="go on with runs/NAME, by default the task's newest run; more --rounds make it longer",
    )
    parser.add_argument(
        "--summary",
        metavar="DIR",
        help="also write MindSpore Insight summaries there, one DIR for each run",
    )
    cfg, task, options = parse(parser, argv)
    if options.get("hold_out") == "each":
        raise InputError("--hold-out is each, which is for `compare`; give one domain")
    find = run_folder.old_folder if options.get("resume") else run_folder.free_folder
    folder, logs = find(cfg.task, options.get("name")), []
    try:
        train_in(folder, cfg, task, options, logs)
        print(f"\n{folder}: {', '.join(sorted(os.listdir(folder)))}")
        print(f"FedAvg beside FPL: {run_folder.comparing(argv)}")
        return 0
    except KeyboardInterrupt:
        if not os.path.isdir(folder):
            raise
        so_far = f" after {len(logs)} of {cfg.rounds} rounds" if logs else ""
        print(f"\nStopped{so_far}; to go on: {run_folder.resuming(argv, folder)}", file=sys.stderr)
        return 130


def train_in(folder, cfg, task, options, logs):
    """A run, new or resumed, from its files to its pictures.

    logs: takes those of its rounds, as they get done.
    """
    use_device(cfg.device)
    turns = len(fpl.participants(cfg, sum(cfg.clients), 1))
    name, workers, line = engines.chosen(options.get("engine"), turns, cfg)
    with engines.opened(name, workers, cfg) as engine:  # first: its workers compile
        read_as = reading(cfg, options)
        *data, sources = load(cfg.task, options.get("data"), **read_as)
        clients, tests = share_out(data, task, cfg)
        record = run_folder.record_of(cfg, task, sources, read_as)
        with (
            summary.writer(options.get("summary"), cfg) as summarise,
            alone_in(folder),
        ):
            start, done = checkpoint.resume(folder, record)
            logs += done
            run_folder.write_clients(folder, clients, task.classes)
            print(f"{screen.describe(sources, clients, task, cfg)}{line}\n", flush=True)
            if logs:
                print(f"{len(logs)} of {cfg.rounds} rounds are done already.\n")
            with progress(cfg.rounds * turns, len(logs) * turns) as bar:
                for _, log in rounds(
                    clients, tests, cfg, folder, record, counting(bar, engine), state=start
                ):
                    summarise(log)
                    logs.append(log)  # what is counted and shown is on disk
                    bar.write(screen.round_line(log))
                    sys.stdout.flush()
            print("\n" + screen.final_table(logs, screen.unseen(task, cfg)))
            run_folder.pictures(folder, logs, [client.domain for client in clients], task.classes)


def progress(turns, done=0):
    """A progress bar over the clients' turns; there is none where the output is not a screen."""
    return tqdm(total=turns, initial=done, unit="client", disable=None)


def counting(bar, engine):
    """The engine for fpl.run, moving a progress bar by one with each client that has trained."""

    def counted(function, items):
        if function is fpl.count_right:  # no client: a test set
            return engine(function, items)
        return engine(function, items, bar.update)

    return counted
