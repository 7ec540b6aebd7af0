"""The report's tables, with the paper's numbers below ours.

What counts is the mean of a run's last five rounds; the spread is the standard deviation over
seeds, with n - 1 below the line. A difference is taken seed by seed, since runs of a seed share
split and initial weights, and then averaged. A run that diverged is named and is in no number.
"""

import statistics
from collections import Counter
from typing import NamedTuple

import fpl
from lab.data.tasks import TASKS
from lab.report import paper
from lab.report.folders import domains_of, finished, seeds_in, unseen
from lab.run.folder import LAST
from lab.run.settings import PRESETS, THE_TASKS, complete
from lab.shell.words import plural


class Table(NamedTuple):
    title: str
    head: list
    rows: list  # of texts; the first column is flush left
    note: str
    records: (
        list  # the same numbers one by one: (source, variant, seeds, column, mean, spread), for CSV
    )


# -- numbers


def by_variant(runs):
    """variant -> its runs, seeds ascending; the variants in the order of LABELS, then by tau."""
    groups, order = {}, list(LABELS)
    for run in sorted(
        runs,
        key=lambda run: (
            order.index(run.variant) if run.variant in LABELS else len(order),
            run.config["tau"],
            run.variant,
            run.seed,
        ),
    ):
        groups.setdefault(run.variant, []).append(run)
    return groups


def recent(run):
    """Means of the last five rounds, or of all where there are fewer: domain or AVG -> percent."""
    logs = run.rounds[-LAST:]
    return {
        **{
            domain: statistics.fmean(log["accuracy"][domain] for log in logs)
            for domain in logs[0]["accuracy"]
        },
        "AVG": statistics.fmean(log["avg"] for log in logs),
    }


def differences(runs, base):
    """AVG minus that of the base's run with the same seed, for each seed that both finished."""
    base = {run.seed: recent(run)["AVG"] for run in finished(base)}
    return [recent(run)["AVG"] - base[run.seed] for run in finished(runs) if run.seed in base]


def spread(values):
    """Standard deviation over seeds; None for a single one."""
    return statistics.stdev(values) if len(values) > 1 else None


def numbers(values, sign=""):
    """(mean, spread) as texts with two decimals; "" where there is none."""
    mean, sd = statistics.fmean(values) if values else None, spread(values)
    return ("" if mean is None else f"{mean:{sign}.2f}"), ("" if sd is None else f"{sd:.2f}")


def cell(values, sign="", empty="-"):
    mean, sd = numbers(values, sign)
    return f"{mean} ± {sd}" if sd else mean or empty


def seeds_text(runs):
    """How many seeds stand behind a row, and which do not."""
    good = finished(runs)
    parts = [plural(len(good), "seed")] if good else []
    for word, bad in (
        ("diverged", [run for run in runs if run.diverged]),
        ("without a round", [run for run in runs if not run.rounds and not run.diverged]),
    ):
        if bad:
            parts.append(f"{seed_list(bad)} {word}")
    return "; ".join(parts)


def seed_list(runs):
    seeds = sorted({run.seed for run in runs})
    return f"seed{'' if len(seeds) == 1 else 's'} {', '.join(map(str, seeds))}"


# -- tables

LABELS = {
    "fedavg": "FedAvg",
    "fedprox": "FedProx",
    "moon": "MOON",
    "feddyn": "FedDyn",
    "fedopt": "FedOPT",
    "fedproc": "FedProc",
    "fedproto": "FedProto",
    "fpl": "FPL",
    "neither": "neither term (FedAvg)",
    "cpcl": "CPCL only",
    "upcr": "UPCR only",
    "both": "both terms (FPL)",
    "upcr-global": "UPCR, global prototype",
    "cpcl-global": "CPCL, global prototypes",
}


def label_of(name):
    return f"tau = {name[4:]}" if name.startswith("tau-") else LABELS.get(name, name)


class Plan(NamedTuple):
    """One table: which variants, in their order, the base of the differences, the paper's rows."""

    title: str
    variants: tuple
    base: str
    printed: dict  # task -> variant -> numbers
    address: str
    labels: dict = LABELS


TABLE_2 = Plan(
    "Methods, as in Table 2", tuple(paper.TABLE_2["digits"]), "fedavg", paper.TABLE_2, "Table 2"
)
TABLE_1 = Plan(
    "The two terms, as in Table 1",
    ("neither", "cpcl", "upcr", "both"),
    "neither",
    paper.TABLE_1,
    "Table 1",
)
TABLE_3 = Plan(
    "What UPCR pulls to, as in Table 3",
    ("upcr-global", "upcr"),
    "upcr-global",
    paper.TABLE_3,
    "Table 3",
    {**LABELS, "upcr": "UPCR, unbiased prototype"},
)
FIGURE_5 = Plan(
    "What CPCL contrasts with, as in Figure 5",
    ("cpcl-global", "cpcl"),
    "cpcl-global",
    paper.FIGURE_5,
    "Fig. 5",
    {**LABELS, "cpcl": "CPCL, cluster prototypes"},
)
TAU_ADDRESS = "Fig. 4"  # its values are drawn, not printed


def tau_runs(groups):
    """tau -> the runs of both terms with it, ascending."""
    return dict(
        sorted(
            (runs[0].config["tau"], runs)
            for name, runs in groups.items()
            if name == "both" or name.startswith("tau-")
        )
    )


def plans(groups):
    """The tables that these variants fill: those of the paper, then one of all others."""
    chosen = []
    for plan in (TABLE_2, TABLE_1, TABLE_3, FIGURE_5):
        needed = 2 if plan in (TABLE_3, FIGURE_5) else 1
        if sum(name in groups for name in plan.variants) >= needed:
            chosen.append(plan)
    if len(tau_runs(groups)) > 1:
        names = [runs[0].variant for runs in tau_runs(groups).values()]
        labels = {runs[0].variant: f"tau = {tau:g}" for tau, runs in tau_runs(groups).items()}
        chosen.append(
            Plan("The temperature, as in Figure 4", tuple(names), "both", {}, TAU_ADDRESS, labels)
        )
    shown = {name for plan in chosen for name in plan.variants}
    if rest := tuple(name for name in groups if name not in shown):
        chosen.append(
            Plan("Other variants", rest, "neither" if "neither" in groups else "fedavg", {}, "")
        )
    return chosen


def difference_of(plan):
    """The name of the column of differences."""
    return f"AVG minus {plan.base}"


def printed_row(plan, task, name, columns):
    """The paper's numbers of a variant, minus the base's beside them: (row, records), or None."""
    rows = plan.printed.get(task, {})
    if name not in rows:
        return None
    if isinstance(rows[name], float):  # only the difference is printed
        values = {difference_of(plan): f"{rows[name]:+.2f}"}
    else:
        values = dict(zip((*paper.DOMAINS[task], "AVG"), (f"{value:.2f}" for value in rows[name])))
        if name != plan.base:
            values[difference_of(plan)] = f"{rows[name][-1] - rows[plan.base][-1]:+.2f}"
    row = [
        f"   the paper, {plan.address}",
        *(values.get(column, "") for column in columns),
        plural(paper.SEEDS, "seed"),
    ]
    return row, [
        ("paper", name, paper.SEEDS, column, value, "") for column, value in values.items()
    ]


def our_row(plan, groups, name, columns):
    """A variant's means, spreads and difference to the base: (row, records)."""
    runs, difference = groups[name], difference_of(plan)
    means = [recent(run) for run in finished(runs)]
    values = {
        column: [mean[column] for mean in means] for column in columns if column != difference
    }
    if difference in columns and name != plan.base:
        values[difference] = differences(runs, groups[plan.base])
    signs = {difference: "+"}
    empty = "diverged" if not means and any(run.diverged for run in runs) else "-"
    cells = [
        cell(values[column], signs.get(column, ""), empty) if column in values else ""
        for column in columns
    ]
    pairs = len(values.get(difference, means))
    note = f" ({plural(pairs, 'pair')})" if 0 < pairs < len(means) else ""
    records = [
        ("here", name, len(some), column, *numbers(some, signs.get(column, "")))
        for column, some in values.items()
    ]
    records += [("here", name, "", "diverged", str(run.seed), "") for run in runs if run.diverged]
    return [plan.labels.get(name) or label_of(name), *cells, seeds_text(runs) + note], records


def accuracy_table(plan, groups, columns):
    """columns: the domains and AVG.

    Top-1 accuracy in percent of each variant, its spread, the difference to the base.
    """
    first = next(iter(groups.values()))[0]
    task, there = first.config["task"], [name for name in plan.variants if name in groups]
    compared = plan.base in groups and there != [plan.base]
    columns = columns + [difference_of(plan)] * compared
    parts = [
        part
        for name in there
        for part in (our_row(plan, groups, name, columns), printed_row(plan, task, name, columns))
        if part
    ]
    base = f"AVG minus {plan.labels.get(plan.base) or label_of(plan.base)}"
    titles = [f"{column} (unseen)" if column in unseen(first) else column for column in columns]
    head = [
        "top-1 accuracy (%)",
        *(base if column == difference_of(plan) else column for column in titles),
        "seeds",
    ]
    note = last_rounds(groups, there) + (
        " Differences are taken seed by seed, then averaged." if compared else ""
    )
    return Table(
        plan.title,
        head,
        [row for row, _ in parts],
        note,
        [record for _, records in parts for record in records],
    )


def leave_one_out(experiments):
    """Accuracy on the domain that a run did not train on, each in turn; None for other experiments.

    experiments: the runs of each, among them two or more that lack one domain each.
    """
    by_domain = {}
    for runs in experiments:
        if len(held := unseen(runs[0])) == 1:
            by_domain.setdefault(held[0], []).extend(runs)
    tasks = {tuple(runs[0].task.clients) for runs in by_domain.values()}
    if len(by_domain) < 2 or len(tasks) > 1:
        return None
    rows, records = [], []
    for name in by_variant(runs_of_all := [run for runs in by_domain.values() for run in runs]):
        own = {
            domain: {run.seed: recent(run)[domain] for run in finished(runs) if run.variant == name}
            for domain, runs in by_domain.items()
        }
        whole = set.intersection(*(set(values) for values in own.values()))
        columns = {domain: list(values.values()) for domain, values in own.items()}
        columns["AVG"] = [
            statistics.fmean(values[seed] for values in own.values()) for seed in sorted(whole)
        ]
        rows.append([label_of(name), *map(cell, columns.values()), plural(len(whole), "seed")])
        records += [
            ("here", name, len(some), column, *numbers(some)) for column, some in columns.items()
        ]
    return Table(
        "Accuracy on the domain that nobody trained on",
        ["left out", *by_domain, "AVG", "seeds"],
        rows,
        last_rounds({"": runs_of_all}, [""])
        + " Each column is of runs without that domain's clients, tested on its test images.",
        records,
    )


def last_rounds(groups, names):
    """What the numbers of a table are means of."""
    lengths = {
        min(LAST, len(run.rounds)) for name in names for run in finished(groups.get(name, []))
    }
    if not lengths:
        return ""
    words = " or ".join(
        plural(length, "round").replace("1 round", "round") for length in sorted(lengths)
    )
    several = any(len(finished(groups.get(name, []))) > 1 for name in names)
    return f"Mean of the last {words}" + (
        "; behind ± the standard deviation over seeds (n - 1)." if several else "."
    )


def cluster_table(groups):
    """Clusters per class, how many are of one domain, which domains the others mix; last rounds."""
    shown = {
        name: good
        for name, runs in groups.items()
        if (good := [run for run in finished(runs) if run.clusters])
    }
    if not shown:
        return None
    rows, records = [], []
    for name, runs in shown.items():
        values = {"clusters per class": [], "pure (%)": []}
        mixed = Counter()
        for run in runs:
            last = [run.clusters[number] for number in sorted(run.clusters)[-LAST:]]
            values["clusters per class"].append(
                statistics.fmean(len(some) / len({k for k, _ in some}) for some in last)
            )
            values["pure (%)"].append(statistics.fmean(map(pure_share, last)))
            mixed.update(
                " + ".join(members) for some in last for _, members in some if len(members) > 1
            )
        ranked, total = (
            sorted(mixed.items(), key=lambda item: (-item[1], item[0])),
            sum(mixed.values()),
        )
        most = ", ".join(f"{names} {100 * n / total:.0f} %" for names, n in ranked[:3]) or "none"
        rows.append([label_of(name), *map(cell, values.values()), most, seeds_text(groups[name])])
        records += [
            ("here", name, len(runs), column, *numbers(some)) for column, some in values.items()
        ]
    return Table(
        "Clusters of local prototypes",
        ["variant", *values, "mixed clusters gather", "seeds"],
        rows,
        f"Mean of the last {LAST} rounds, or of all where there are fewer. Pure: all members are "
        "of one domain; the share is of all clusters of all classes. The last column but one: "
        "the commonest sets of domains among the mixed clusters. FINCH clusters the class means "
        "of every method here; only FPL and its terms train with the clusters.",
        records,
    )


def pure_share(rows):
    """[(class, {domain: members})] -> percent of one domain."""
    return 100 * sum(len(members) == 1 for _, members in rows) / len(rows)


def tables(runs):
    """All tables of a section."""
    groups = by_variant(runs)
    made = [accuracy_table(plan, groups, [*domains_of(runs), "AVG"]) for plan in plans(groups)]
    return made + [table for table in (cluster_table(groups),) if table]


# -- sentences

COMPARED = (
    "rounds",
    "local_epochs",
    "width",
    "lr",
    "batch_size",
    "momentum",
    "weight_decay",
    "clients",
    "fraction",
    "participation",
    "tau",
    "cpcl",
    "upcr",
    "partition",
    "upcr_reduce",
    "prototypes_from",
    "augment",
    "test_images",
)


def shown(field, value):
    """A setting's value as the reader would write it."""
    if field == "test_images" and value == 0:
        return "all"
    if isinstance(value, (list, tuple)):
        return ",".join(map(str, value))
    return f"{value:g}" if isinstance(value, float) else str(value)


def varied(run, field):
    """Does the variant itself stand for this value, as a switched-off term does?"""
    return (
        field in ("cpcl", "upcr")
        and run.config[field] == 0
        or field == "tau"
        and run.variant.startswith("tau-")
    )


def why_different(runs):
    """What in the set-up keeps the accuracies from being the paper's, from the recorded settings.

    Where the paper's text and the released code part, its tables were made with the code.
    """
    task, reasons = runs[0].config["task"], []
    published = fpl.Config(task=task, **THE_TASKS, **PRESETS["released"])
    published, sizes = complete(published, TASKS[task]), TASKS[task].published
    for field in COMPARED:
        values = {
            shown(field, run.config[field])
            for run in runs
            if field in run.config and not varied(run, field)
        }
        wanted = shown(field, getattr(published, field))
        if values - {wanted}:
            reasons.append(f"{field.replace('_', ' ')} {' or '.join(sorted(values))} ({wanted})")
    for domain, source in runs[0].sources.items():
        if source.get("kind") == "stand-in":
            reasons.append(
                f"{domain} is the built-in stand-in, {source.get('train', 0):,} training images"
            )
        elif source.get("train") != sizes.get(domain, source.get("train")):
            reasons.append(
                f"{domain} has {source.get('train', 0):,} training images ({sizes[domain]:,})"
            )
        elif domain == "syn":
            reasons.append(
                "syn is the paper's only if its files are Kaggle's prasunroy/synthetic-digits"
            )
    reasons += [
        f"{variant}: {reason}"
        for variant, reason in paper.REASONS.items()
        if variant in by_variant(runs)
    ]
    reasons.append(f"{plural(len({run.seed for run in runs}), 'seed')} ({paper.SEEDS})")
    return (
        "Why these numbers may differ from the paper's, whose values stand in brackets: "
        + "; ".join(reasons)
        + "; split, initial weights and order of the batches are other draws."
    )


def facts(folder, runs):
    """What was run, on which data, and what is not whole."""
    config, rounds = runs[0].config, sorted({run.config["rounds"] for run in runs})
    variants = list(by_variant(runs))
    lines = [
        f"{config['task']}: {plural(len(runs), 'run')} of {plural(len(variants), 'variant')} "
        f"({', '.join(variants)}), {seed_list(runs)}; "
        f"{' or '.join(plural(number, 'round') for number in rounds)} of "
        f"{plural(config.get('local_epochs', 0), 'local epoch')}."
    ]
    lines += [
        f"{domain}: {source.get('what', 'unknown files')}, {source.get('train', 0):,} training and "
        f"{source.get('test', 0):,} test images, sha256 {str(source.get('sha256', ''))[:12]}."
        for domain, source in runs[0].sources.items()
    ]
    lines += [
        f"{run.variant}, seed {run.seed}, diverged after {plural(len(run.rounds), 'round')} and is "
        f"in no mean: {run.diverged}"
        for run in runs
        if run.diverged
    ]
    lines += [
        f"{run.variant}, seed {run.seed}, has {plural(len(run.rounds), 'round')} of "
        f"{run.config['rounds']}."
        for run in runs
        if not run.diverged and len(run.rounds) < run.config["rounds"]
    ]
    unfinished = len(seeds_in(folder, ".part"))
    lines += [f"{plural(unfinished, 'run')} not finished yet, not counted."] if unfinished else []
    return lines + ([why_different(runs)] if config["task"] in TASKS else [])
