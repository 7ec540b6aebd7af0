"""The command line of one run: `python fpl.py digits ...`. Flags -> Config, files -> clients, rounds -> screen and files."""
import argparse
import dataclasses
import errno
import os
import signal
import sys
import time

import mindspore as ms
from tqdm import tqdm

import fpl
from fpl import TASKS, Config, InputError
from lab import checkpoint, data, engines, report, summary

PRESETS = {  # --as
    "paper": {"partition": "first", "upcr_reduce": "sum", "prototypes_from": "final", "augment": "none"},
    "released": {"partition": "last", "upcr_reduce": "mean", "prototypes_from": "running", "augment": "crop-flip"},
}
QUICK = {  # without --paper: what ends within 6 minutes on 2 cores; fewer steps than the paper, hence a larger lr
    "digits": {"rounds": 10, "local_epochs": 2, "width": 8, "lr": 0.02, "test_images": 1000},
    "office": {"rounds": 15, "local_epochs": 4, "width": 8, "lr": 0.02},
}


def one_line(error):
    """What is said as one line of bounded length, whatever flags and paths it quotes."""
    text = " ".join(str(error).splitlines()).encode(errors="backslashreplace").decode()  # a path need not be UTF-8
    return text if len(text) <= 2000 else f"{text[:1900]} ... {text[-90:]}"


def read_options(parser, argv):
    """parser.parse_args(argv); what is wrong raises InputError, where argparse itself would print several lines and exit."""
    def refuse(message):
        raise InputError(one_line(f"{message}; {parser.prog} --help lists what there is"))
    parser.error = refuse
    for word in argv:
        if word.startswith("-") and word.endswith("=--"):  # trap: argparse makes an empty list of it
            parser.error(f"{word[:-3]} has no value")
    return parser.parse_args(argv)


def whole_numbers(text):
    """"6,4,3,7" -> (6, 4, 3, 7)."""
    if not all(number.strip().isdecimal() for number in text.split(",")):
        raise argparse.ArgumentTypeError(f"{text!r} is not whole numbers with commas between them, such as 6,4,3,7")
    return tuple(int(number) for number in text.split(","))


def defaults(field):
    """What a setting is without its flag; nothing where the help text has said it."""
    quick = {task: QUICK[task][field.name] for task in TASKS if field.name in QUICK[task]}
    if quick:
        return f" ({', '.join(f'{value} {task}' for task, value in quick.items())}, {field.default} with --paper)"
    return f" ({field.default})" if field.default else ""


def settings_parser(prog, description):
    """An argparse parser of the task, the options that are not settings, and a flag for each field of Config."""
    parser = argparse.ArgumentParser(prog=prog, allow_abbrev=False, argument_default=argparse.SUPPRESS,
                                     description=description)
    parser.add_argument("task", choices=TASKS)
    parser.add_argument("--data", metavar="DIR", help="folder of the published files; digits alone has a built-in default")
    parser.add_argument("--name", help="results go to runs/NAME")
    parser.add_argument("--paper", action="store_true", help="the full protocol of Sec. 4.1 instead of the quick preset")
    parser.add_argument("--engine", choices=("loop", "ray"), help="how a round goes over its clients: one after another (loop), or "
                        "on the cores of this machine or of the Ray cluster at RAY_ADDRESS (needs requirements-ray.txt)")
    parser.add_argument("--as", dest="preset", choices=PRESETS, help="where paper and released code disagree, take a side")
    for field in dataclasses.fields(Config):
        kind = whole_numbers if field.type is tuple else type(field.default)
        if field.name != "task":
            parser.add_argument("--" + field.name.replace("_", "-"), type=kind, choices=field.metadata.get("choices"),
                                metavar=None if "choices" in field.metadata else field.name.upper(),
                                help=field.metadata["help"] + defaults(field))
    return parser


def parse(parser, argv):
    """The command line -> (Config, the other options). Weakest first: the quick preset, --as, single flags."""
    given = vars(read_options(parser, argv))
    settings = {field.name: given.pop(field.name) for field in dataclasses.fields(Config) if field.name in given}
    if given.get("engine") == "ray" and settings.get("device", "CPU") != "CPU":
        raise InputError(f"--device is {settings['device']}; with --engine ray it must be CPU: leave one of the two away")
    base = {} if given.get("paper") else QUICK[settings["task"]]
    return fpl.complete(Config(**{**base, **PRESETS.get(given.get("preset"), {}), **settings})), given


def use_device(name):
    """Hand MindSpore its target, which it takes once, before the first computation. Raises InputError."""
    try:
        if ms.get_context("device_target") != name:
            ms.set_device(name)
    except RuntimeError as error:
        raise InputError(f"--device is {name}, which MindSpore does not find here; install it for {name} or leave the flag "
                         "away") from error


def counting(bar, engine=map):
    """The engine for fpl.run, moving a progress bar by one with each client."""
    def counted(function, items):
        for result in engine(function, items):
            bar.update()  # first: who asks for these knows their number and never comes back after the last
            yield result
    return counted


def train_and_report(argv):
    """What `main` does when all goes well: read, split, run, show, write."""
    parser = settings_parser("./run.sh", "Train FPL. Defaults are the paper's with --paper, else a quick preset.")
    parser.add_argument("--resume", action="store_true", help="go on with runs/NAME, by default the task's newest run")
    parser.add_argument("--summary", metavar="DIR", help="also write MindSpore Insight summaries there, one DIR for each run")
    cfg, options = parse(parser, argv)

    find_folder = report.old_folder if options.get("resume") else report.free_folder
    folder, logs = find_folder(cfg.task, options.get("name")), []
    try:
        train_in(folder, cfg, options, logs)
        print(f"\n{folder}: {', '.join(sorted(os.listdir(folder)))}")
        return 0
    except KeyboardInterrupt:
        if not os.path.isdir(folder):
            raise
        so_far = f" after {len(logs)} of {cfg.rounds} rounds" if logs else ""
        print(f"\nStopped{so_far}; to go on: {report.resuming(argv, folder)}", file=sys.stderr)
        return 130


def train_in(folder, cfg, options, logs):
    """A run, new or resumed, from its files to its pictures. logs: takes those of its rounds, as they get done."""
    use_device(cfg.device)
    train, tests, sources = data.load(cfg.task, options.get("data"))
    clients, tests = fpl.split(train, cfg), fpl.test_sets(tests, cfg)
    domains, turns = [client.domain for client in clients], len(fpl.participants(cfg, len(clients), 1))
    record = {"config": dataclasses.asdict(cfg), "sources": sources, "versions": report.versions()}
    with (engines.opened(options.get("engine", "loop")) as engine, summary.writer(options.get("summary"), cfg.width) as summarise,
          checkpoint.alone_in(folder)):
        start, done = checkpoint.resume(folder, record)
        logs += done
        print(report.describe(sources, clients, cfg), flush=True)
        if logs:
            print(f"{len(logs)} of {cfg.rounds} rounds are done already.\n")
        # disable=None: no bar where the output is not a screen
        with tqdm(total=cfg.rounds * turns, initial=len(logs) * turns, unit="client", disable=None) as bar:
            for state, log in fpl.run(clients, tests, cfg, start, counting(bar, engine)):
                report.write_round(folder, state, log, domains, cfg.partition)
                checkpoint.save(folder, state, record)
                summarise(log)
                logs.append(log)  # what is counted and shown is on disk
                bar.write(report.round_line(log))
                sys.stdout.flush()
        print("\n" + report.final_table(logs))
        report.pictures(folder, logs, domains)


def guarded(command, argv, stopped="Stopped.", prefix="fpl: "):
    """What goes wrong in command(argv) as one line after the prefix and an exit status; 0 or what it returns if nothing does."""
    try:
        return command(sys.argv[1:] if argv is None else list(argv))
    except InputError as error:
        print(f"{prefix}{one_line(error)}", file=sys.stderr)
        return 2
    except BrokenPipeError:
        print(f"{prefix}nobody reads the output any more; what is finished is kept", file=sys.stderr)
        return 2
    except OSError as error:
        full = error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
        step = ("make room, what is finished is kept" if full else
                "look at what is there, move it away and give the same command again")
        print(f"{prefix}{one_line(error)}; {step}", file=sys.stderr)
        return 2
    except MemoryError as error:
        print(f"{prefix}{one_line(error) or 'the memory does not suffice'}; take less data or a smaller network", file=sys.stderr)
        return 2
    except FloatingPointError as error:
        print(f"{prefix}{error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print(f"\n{stopped}", file=sys.stderr)
        return 130


def main(argv=None):
    """Exit status: 0 done, 1 the training diverged, 2 bad input or a file that cannot be written, 130 interrupted."""
    return guarded(train_and_report, argv)


def interrupter():
    """A handler of signals that raises KeyboardInterrupt; within 2 s another signal does nothing, so that the ending is whole."""
    last = -10.0

    def interrupt(number, frame):
        nonlocal last
        if time.monotonic() - last > 2:
            last = time.monotonic()
            raise KeyboardInterrupt
    return interrupt


def as_program(main):
    """End the process with main's exit status."""
    # trap: with 0, 1 or 2 closed (`>&-`), the next file that is opened takes the number, and MindSpore's log goes into it
    while (number := os.open(os.devnull, os.O_RDWR)) < 3:
        pass
    os.close(number)
    sys.stdout, sys.stderr = sys.stdout or open(os.devnull, "w"), sys.stderr or open(os.devnull, "w")
    for stream in (sys.stdout, sys.stderr):
        stream.reconfigure(errors="backslashreplace")  # a path need not be spelled in the terminal's letters
    # trap: once it has compiled, MindSpore answers Ctrl-C (SIGINT) by sending its own process SIGTERM
    handler = interrupter()
    signal.signal(signal.SIGTERM, handler)
    signal.signal(signal.SIGINT, handler)
    try:
        status = main()
    except SystemExit as stop:  # --help
        status = stop.code
    except KeyboardInterrupt:  # while main told of the first one
        status = 130
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, signal.SIG_IGN)  # or the end of the packages would be interrupted, which they tell in many lines
    try:
        sys.stdout.flush()
    except OSError as error:
        if status == 0:
            print(f"fpl: the output cannot be written ({error.strerror})", file=sys.stderr)
        status = status or 2
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # or Python's own last flush would fail again
    sys.exit(status)
