"""The report's page says what the runs gave:
numbers by hand, the paper's beside them, nothing dropped in silence.
"""

import csv
import io
import json
import os
import re
import shutil
import time
import xml.etree.ElementTree
from pathlib import Path

import made_runs
import numpy as np
import pytest

from lab.data.tasks import own
from lab.report import charts, folders, paper, report, tables
from lab.run import records
from lab.run.records import read_run
from lab.run.settings import PRESETS
from lab.shell.errors import InputError

DIGITS = ("mnist", "usps", "svhn", "syn")


def flat(*averages):
    """Rounds in which all domains have the same accuracy
    but for mnist's +8 and usps' -8. averages: of each round.
    """
    return [{"mnist": avg + 8, "usps": avg - 8, "svhn": avg, "syn": avg} for avg in averages]


def write(folder, variant, seed, averages, task="digits", **more):
    changes = {"rounds": max(1, len(averages)), **more.pop("changes", {})}
    return made_runs.write_run(
        f"{folder}/{variant}/seed-{seed}",
        made_runs.config_of(task, seed=seed, **changes),
        flat(*averages),
        variant,
        **more,
    )


@pytest.fixture
def small(tmp_path):
    """Two methods; the means of the last five of six rounds are 40, 50 and 46, 52, 60."""
    folder = f"{tmp_path}/small"
    for seed, avg in ((0, 40), (1, 50)):
        write(folder, "fedavg", seed, [10, avg - 2, avg - 1, avg, avg + 1, avg + 2])
    for seed, avg in ((0, 46), (1, 52), (2, 60)):
        write(folder, "fpl", seed, [10, avg + 4, avg, avg, avg, avg - 4])
    return folder


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """Folders that are full, with their reports: (folder of compare, of ablate)."""
    root = tmp_path_factory.mktemp("runs")
    made_runs.made_experiment(f"{root}/compare", ["fedavg", "fpl"], seeds=(0, 1), rounds=2)
    made_runs.made_experiment(
        f"{root}/ablate",
        ["neither", "cpcl", "upcr", "both", "upcr-global", "cpcl-global", "tau-0.1", "tau-0.005"],
        seeds=(0,),
        rounds=1,
    )
    report.write_report(root)
    return root


def table_of(folder, title):
    """The table whose title ends so: first cell -> the other
    cells by column; (first cell, "paper") -> the paper's row.
    """
    ((_, runs),) = folders.find_sections(folder)
    table = next(table for table in tables.tables(runs) if table.title.endswith(title))
    rows, above = {}, None
    for first, *rest in table.rows:
        key = (above, "paper") if first.startswith(" ") else first
        above = above if first.startswith(" ") else first
        rows[key] = dict(zip(table.head[1:], rest))
    return rows, table


# -- numbers


def test_a_row_is_the_mean_over_seeds(small):
    """It is the mean of the means of the last five rounds, with its spread."""
    rows, table = table_of(small, "Table 2")
    # FedAvg: 40 and 50, so 45 and sqrt((5^2 + 5^2) / 1) = 7.07;
    # FPL: 46, 52, 60, so 52.67 and sqrt(98.67 / 2) = 7.02
    assert rows["FedAvg"] == {
        "mnist": "53.00 ± 7.07",
        "usps": "37.00 ± 7.07",
        "svhn": "45.00 ± 7.07",
        "syn": "45.00 ± 7.07",
        "AVG": "45.00 ± 7.07",
        "AVG minus FedAvg": "",
        "seeds": "2 seeds",
    }
    assert rows["FPL"]["AVG"] == "52.67 ± 7.02" and rows["FPL"]["mnist"] == "60.67 ± 7.02"
    assert table.note.startswith("Mean of the last 5 rounds; ")


def test_the_difference_pairs_runs_of_one_seed(small):
    """The difference is taken between runs of one seed and then averaged."""
    rows, table = table_of(small, "Table 2")
    # seed 0: 46 - 40 = 6, seed 1: 52 - 50 = 2; seed 2 has no FedAvg.
    # The difference of the means would be 7.67.
    assert rows["FPL"]["AVG minus FedAvg"] == "+4.00 ± 2.83"
    assert rows["FPL"]["seeds"] == "3 seeds (2 pairs)"
    assert ("here", "fpl", 2, "AVG minus fedavg", "+4.00", "2.83") in table.records


def test_one_seed_has_no_spread(tmp_path):
    """Few rounds are said to be few."""
    write(tmp_path, "fedavg", 3, [30, 40, 50])
    write(tmp_path, "fpl", 3, [30, 43, 50])
    rows, table = table_of(tmp_path, "Table 2")
    assert rows["FedAvg"]["AVG"] == "40.00" and rows["FPL"]["AVG minus FedAvg"] == "+1.00"
    assert rows["FedAvg"]["seeds"] == "1 seed" and table.note.startswith(
        "Mean of the last 3 rounds."
    )


def test_a_single_round_is_not_called_rounds(tmp_path):
    write(tmp_path, "fpl", 0, [30])
    assert table_of(tmp_path, "Table 2")[1].note.startswith("Mean of the last round.")


def test_a_diverged_run_is_named_and_not_counted(small):
    """It is in no number."""
    write(small, "fpl", 3, [10, 91, 91, 91, 91, 91], diverged="round 7, client 2: the loss is nan")
    write(small, "moon", 0, [10, 91], diverged="the loss is inf")
    write(small, "moon", 1, [], diverged="the loss is inf")
    rows, table = table_of(small, "Table 2")
    assert (
        rows["FPL"]["AVG"] == "52.67 ± 7.02"
        and rows["FPL"]["seeds"] == "3 seeds; seed 3 diverged (2 pairs)"
    )
    assert [rows["MOON"][column] for column in (*DIGITS, "AVG", "AVG minus FedAvg")] == [
        "diverged"
    ] * 6
    assert rows["MOON"]["seeds"] == "seeds 0, 1 diverged"
    text = report.summary_text(small)
    assert (
        "fpl, seed 3, diverged after 6 rounds and is in no mean: round 7, client 2: the loss is nan"
        in text
    )
    assert "moon, seed 0, diverged after 2 rounds" in text and "91.0" not in text
    assert ("here", "moon", "", "diverged", "1", "") in table.records


def test_a_base_that_diverged_makes_no_pair(small):
    Path(small, "fedavg/seed-0/diverged.txt").write_text("the loss is nan\n")
    assert table_of(small, "Table 2")[0]["FPL"]["AVG minus FedAvg"] == "+2.00"


def test_unfinished_runs_are_not_read(small):
    """Short ones are named."""
    os.rename(f"{small}/fpl/seed-2", f"{small}/fpl/seed-2.part")
    write(small, "fpl", 4, [10, 52], changes={"rounds": 6})
    rows, table = table_of(small, "Table 2")
    assert (
        rows["FPL"]["seeds"] == "3 seeds (2 pairs)" and rows["FPL"]["AVG"] == "43.00 ± 10.82"
    )  # 46, 52, 31
    text = report.summary_text(small)
    assert (
        "fpl, seed 4, has 2 rounds of 6." in text and "1 run not finished yet, not counted." in text
    )
    assert table.note.startswith("Mean of the last 2 rounds or 5 rounds")


# -- the paper's numbers


def test_papers_numbers_stand_below_ours(small):
    """They stand there with their own difference."""
    rows, _ = table_of(small, "Table 2")
    assert rows["FPL", "paper"] == {
        "mnist": "98.31",
        "usps": "92.71",
        "svhn": "80.27",
        "syn": "61.20",
        "AVG": "83.12",
        "AVG minus FedAvg": "+2.98",
        "seeds": "3 seeds",
    }
    assert (
        rows["FedAvg", "paper"]["AVG"] == "80.14"
        and rows["FedAvg", "paper"]["AVG minus FedAvg"] == ""
    )


@pytest.mark.parametrize("task", ["digits", "office"])
def test_printed_averages_are_means_of_their_domains(task):
    assert (
        len(paper.TABLE_2[task]) == 8
        and len(paper.TABLE_1[task]) == 4
        and len(paper.TABLE_3[task]) == 2
    )
    for rows in (paper.TABLE_2[task], paper.TABLE_1[task], paper.TABLE_3[task]):
        for name, (*domains, avg) in rows.items():
            # MOON on Office: 49.75, printed as 49.74; FedProc on digits 77.90, printed as 77.89
            assert np.mean(domains) == pytest.approx(avg, abs=0.0151), name


def test_an_ablation_makes_the_papers_tables_and_figures(made):
    rows, _ = table_of(f"{made}/ablate", "Table 1")
    assert list(rows) == [
        key
        for name in ("neither term (FedAvg)", "CPCL only", "UPCR only", "both terms (FPL)")
        for key in (name, (name, "paper"))
    ]
    assert (
        rows["UPCR only", "paper"]["AVG"] == "81.98"
        and rows["both terms (FPL)", "paper"]["AVG"] == "83.12"
    )
    rows, _ = table_of(f"{made}/ablate", "Table 3")
    assert list(rows)[::2] == ["UPCR, global prototype", "UPCR, unbiased prototype"]
    assert rows["UPCR, global prototype", "paper"]["AVG"] == "81.16"  # the FedProto row
    rows, _ = table_of(f"{made}/ablate", "Figure 5")
    assert list(rows) == ["CPCL, global prototypes", "CPCL, cluster prototypes"]
    rows, _ = table_of(f"{made}/ablate", "Figure 4")
    assert list(rows) == ["tau = 0.005", "tau = 0.02", "tau = 0.1"]  # 0.02 is the variant both
    ours = {run.variant: tables.recent(run)["AVG"] for run in folders.find_runs(f"{made}/ablate")}
    assert rows["tau = 0.02"]["AVG"] == f"{ours['both']:.2f}"
    assert rows["tau = 0.005"]["AVG minus tau = 0.02"] == f"{ours['tau-0.005'] - ours['both']:+.2f}"


def test_figure_5_on_office_has_one_number(tmp_path):
    """It is the one number that the paper prints."""
    for variant, avg in (("cpcl-global", 40), ("cpcl", 43)):
        accuracy = dict.fromkeys(made_runs.SOURCES["office"], avg)
        made_runs.write_run(
            f"{tmp_path}/{variant}/seed-0",
            made_runs.config_of("office", rounds=1),
            [accuracy],
            variant,
        )
    rows, _ = table_of(tmp_path, "Figure 5")
    assert rows["CPCL, cluster prototypes"]["AVG minus CPCL, global prototypes"] == "+3.00"
    printed = rows["CPCL, cluster prototypes", "paper"]
    assert printed["AVG minus CPCL, global prototypes"] == "+2.08" and printed["AVG"] == ""


@pytest.mark.parametrize(
    "variants, titles",
    [
        (["fpl"], ["Table 2"]),
        (["cpcl"], ["Table 1"]),
        (["upcr", "upcr-global"], ["Table 1", "Table 3"]),
        (["cpcl-global"], ["Other variants"]),
        (["fedavg", "my own"], ["Table 2", "Other variants"]),
        (["both", "tau-0.1"], ["Table 1", "Figure 4"]),
        (["tau-0.1"], ["Other variants"]),
    ],
)
def test_an_incomplete_set_makes_tables_it_can(variants, titles, tmp_path):
    """It leaves no variant out."""
    for variant in variants:
        write(tmp_path, variant, 0, [20], changes={"tau": 0.1} if "tau" in variant else {})
    ((_, runs),) = folders.find_sections(tmp_path)
    made = tables.tables(runs)
    assert [table.title.split(", as in ")[-1] for table in made] == titles
    assert {record[1] for table in made for record in table.records if record[0] == "here"} == set(
        variants
    )


def why(tmp_path, task="digits", sources=None, **changes):
    config = made_runs.config_of(task, **{"rounds": 100, **changes})
    folder = made_runs.write_run(
        f"{tmp_path}/run", config, [dict.fromkeys(made_runs.SOURCES[task], 20)], sources=sources
    )
    return tables.why_different([read_run(folder)])


def test_reasons_for_other_numbers_have_two_sources(tmp_path):
    """They come from the settings and the data."""
    text = why(
        tmp_path, rounds=10, width=8, test_images=1000, clients=(3, 7, 6, 4), upcr_reduce="sum"
    )
    for words in (
        "rounds 10 (100)",
        "width 8 (64)",
        "test images 1000 (all)",
        "clients 3,7,6,4 (6,4,3,7)",
        "sum (mean)",
        "partition first (last)",
        "prototypes from final (running)",
        "augment none (crop-flip)",
        "svhn has 4,434 training images (73,257)",
        "syn has 2,000 training images (10,000)",
        "1 seed (3)",
    ):
        assert words in text
    shutil.rmtree(tmp_path / "run")
    assert "batch size 1000000 (64)" in why(tmp_path, batch_size=10**6)
    assert (
        "mnist" not in text
        and "local epochs" not in text
        and "lr" not in text
        and "tau" not in text
    )


def test_a_faithful_run_differs_in_its_draws_alone(tmp_path):
    text = why(tmp_path, task="office", device="GPU", **PRESETS["released"])
    assert text.endswith(
        "in brackets: 1 seed (3); split, initial weights and order of the batches are other draws."
    )


def test_syn_of_published_size_is_named(tmp_path):
    """A method with numbers of its own is named, too."""
    sources = made_runs.sources_of("digits")
    sources["syn"]["train"] = 10_000
    assert "syn is the paper's only if its files are Kaggle's prasunroy/synthetic-digits" in why(
        tmp_path, sources=sources
    )
    made_runs.write_run(
        f"{tmp_path}/feddyn",
        made_runs.config_of("digits"),
        [dict.fromkeys(made_runs.SOURCES["digits"], 20)],
        variant="feddyn",
    )
    text = tables.why_different([read_run(f"{tmp_path}/feddyn")])
    assert (
        "feddyn: works here, while the released one trains as FedAvg" in text and "moon" not in text
    )


def test_the_stand_in_is_a_reason(tmp_path):
    text = why(tmp_path, sources=made_runs.sources_of("digits", "stand-in"))
    assert "usps is the built-in stand-in, 7,291 training images" in text


def test_a_term_switched_off_is_no_reason(tmp_path):
    """The variant switches it off. Another weight is a reason."""
    assert "cpcl" not in why(tmp_path, cpcl=0.0)
    shutil.rmtree(tmp_path / "run")
    assert "cpcl 0.5 (1)" in why(tmp_path, cpcl=0.5)


# -- clusters

ROWS = [
    (0, 0, {"mnist": 2}),
    (0, 1, {"mnist": 1, "usps": 1}),
    (0, 2, {"svhn": 2}),
    (1, 0, {"usps": 1, "syn": 2}),
]


def test_cluster_figures_are_those_of_clusters_csv(tmp_path):
    """The figures are clusters per class, purity and mixtures."""
    others = [(0, 0, {"usps": 3, "syn": 1}), (1, 0, {"syn": 2})]
    write(tmp_path, "fpl", 0, [20, 30], clusters=[ROWS, others])
    rows, _ = table_of(tmp_path, "local prototypes")
    # round 1: 4 clusters of 2 classes, 2 of them pure; round 2:
    # 2 of 2 classes, 1 pure. Mixed: usps + syn twice in three.
    assert rows["FPL"] == {
        "clusters per class": "1.50",
        "pure (%)": "50.00",
        "seeds": "1 seed",
        "mixed clusters gather": "usps + syn 67 %, mnist + usps 33 %",
    }


def test_the_heat_table_shows_members_by_class(tmp_path):
    """They are the last round's members, class by class."""
    write(tmp_path, "fpl", 0, [20, 30], clusters=[[(0, 0, {"mnist": 6})], ROWS])
    (run,) = folders.find_runs(tmp_path)
    figure, caption = charts.heat(run)
    first, second = [axes for axes in figure.axes if axes.get_visible()]
    assert (
        first.get_title() == "class 0: 1 of 3 mixed"
        and second.get_title() == "class 1: 1 of 1 mixed"
    )
    assert [label.get_text() for label in first.get_yticklabels()] == list(DIGITS)
    numbers = {(text.get_position(), text.get_text()) for text in first.texts}
    assert numbers == {((0, 0), "2"), ((1, 0), "1"), ((1, 1), "1"), ((2, 2), "2")}
    assert {(text.get_position(), text.get_text()) for text in second.texts} == {
        ((0, 1), "1"),
        ((0, 3), "2"),
    }
    assert "FPL, seed 0, round 2" in caption


def test_cluster_curves_are_fpls_and_fedavgs(made):
    figure, caption = charts.cluster_curves(tables.by_variant(folders.find_runs(f"{made}/compare")))
    left, right = figure.axes
    assert [line.get_label() for line in right.lines] == ["FPL", "FedAvg"]
    runs = [run for run in folders.find_runs(f"{made}/compare") if run.variant == "fpl"]
    recorded = [[log["purity"] for log in run.rounds] for run in runs]
    np.testing.assert_allclose(right.lines[0].get_ydata(), np.mean(recorded, axis=0))
    assert "mean of 2 seeds" in caption and left.get_ylim()[0] == 0


# -- pictures


def test_curves_are_means_over_seeds_with_bands(small):
    """The band reaches from the lowest to the highest."""
    groups = tables.by_variant(folders.find_runs(small))
    figure, caption = charts.curves(groups, ["AVG"])
    (axes,) = figure.axes
    assert [line.get_label() for line in axes.lines] == ["FedAvg", "FPL"]
    np.testing.assert_allclose(axes.lines[0].get_ydata(), [10, 43, 44, 45, 46, 47])
    for band, lowest, highest in zip(axes.collections, (40, 46), (50, 60), strict=True):
        heights = band.get_paths()[0].vertices
        assert (
            heights[heights[:, 0] == 4, 1].min() == lowest
            and heights[heights[:, 0] == 4, 1].max() == highest
        )
    assert "mean of 2 or 3 seeds; bands: lowest to highest seed" in caption
    figure, _ = charts.curves(groups, list(DIGITS))
    assert [axes.get_title() for axes in figure.axes] == list(DIGITS)
    np.testing.assert_allclose(
        figure.axes[1].lines[0].get_ydata(), np.array([10, 43, 44, 45, 46, 47]) - 8
    )


def test_bars_have_seed_dots_and_start_at_zero(small):
    """There is a dot for each seed."""
    groups = tables.by_variant(folders.find_runs(small))
    figure, _ = charts.bars(groups, tables.plans(groups))
    (axes,) = figure.axes
    assert [bar.get_width() for bar in axes.patches] == pytest.approx(
        [45, 158 / 3]
    ) and axes.get_xlim() == (0, 100)
    assert [sorted(line.get_xdata()) for line in axes.lines] == [[40, 50], [46, 52, 60]]
    assert [text.get_text() for text in axes.texts] == ["45.00", "52.67"]


def test_tau_lies_on_a_logarithmic_axis(tmp_path):
    """A tau without a number is named."""
    for tau, averages in ((0.005, [33, 31]), (0.02, [50, 40]), (0.5, [20, 22]), (0.01, [])):
        for seed, avg in enumerate(averages or [0]):
            write(
                tmp_path,
                "both" if tau == 0.02 else f"tau-{tau}",
                seed,
                [avg] if averages else [],
                changes={"tau": tau},
                diverged=None if averages else "nan",
            )
    figure, caption = charts.tau_curve(tables.by_variant(folders.find_runs(tmp_path)))
    (axes,) = figure.axes
    assert axes.get_xscale() == "log" and "No finished run with tau 0.01." in caption
    assert list(axes.lines[0].get_xdata()) == [0.005, 0.02, 0.5] and list(
        axes.lines[0].get_ydata()
    ) == [32, 45, 21]
    assert len(axes.lines[1].get_xdata()) == 6


def test_prototypes_are_shown_for_kept_rounds(tmp_path):
    """They are shown for the last round, too."""
    config = made_runs.config_of(rounds=7)
    run = read_run(made_runs.made_run(f"{tmp_path}/run", "fpl", config))
    figure, caption = charts.snapshots(run, report.client_domains(run), False)
    shown = [axes for axes in figure.axes if axes.get_visible()]
    assert [axes.get_title().split(":")[0] for axes in shown] == ["round 1", "round 5", "round 7"]
    assert all(
        {str(k) for k in range(10)} == {text.get_text() for text in axes.texts} for axes in shown
    )
    assert (
        sum(len(points.get_offsets()) for points in shown[0].collections[:4]) == 200
    )  # 20 clients hold ten classes each
    assert "two principal axes" in caption and "FPL, seed 0 (20 clients)" in caption


def test_t_sne_gives_the_same_places_again(tmp_path):
    """It is asked for, and is said to be used."""
    config = made_runs.config_of(rounds=1, clients=(1, 1, 1, 1))
    run = read_run(made_runs.made_run(f"{tmp_path}/run", "fpl", config))
    pngs, captions = zip(
        *[
            (report.png(figure), caption)
            for figure, caption in (
                charts.snapshots(run, report.client_domains(run), tsne)
                for tsne in (True, True, False)
            )
        ]
    )
    assert pngs[0] == pngs[1] != pngs[2] and "t-SNE" in captions[0] and "t-SNE" not in captions[2]
    rows = np.random.default_rng(0).random((12, 5)).astype(np.float32)
    project = charts.tsne(rows)
    assert project(rows[3:5]).shape == (2, 2) and project(rows[:0]).shape == (0, 2)
    assert len({tuple(place) for place in project(rows)}) == 12


def test_without_scikit_learn_t_sne_is_refused(small, monkeypatch, capsys):
    """It is refused in one line."""
    monkeypatch.setattr(report.importlib.util, "find_spec", lambda name: None)
    assert report.main([small, "--tsne"]) == 2
    error = capsys.readouterr().err
    assert (
        "scikit-learn" in error
        and error.count("\n") == 1
        and not os.path.exists(f"{small}/report.html")
    )


def test_clusters_of_another_number_of_clients_are_refused(tmp_path):
    folder = made_runs.made_run(f"{tmp_path}/run", "fpl", made_runs.config_of(rounds=1))
    about = json.loads(Path(folder, "config.json").read_text())
    about["config"]["clients"] = [1, 1, 1, 1]
    Path(folder, "config.json").write_text(json.dumps(about))
    with pytest.raises(
        InputError, match="clusters.csv has 4 members of mnist .*, where .* has 1 client;"
    ):
        report.write_report(folder)
    os.remove(f"{folder}/clusters.csv")
    with pytest.raises(InputError, match="prototypes.npz is not what a run of 4 clients writes"):
        report.write_report(folder)


@pytest.mark.parametrize("name", ["$\\frac$", "$x$", "数据", "a" * 100, "%s {}"])
@pytest.mark.filterwarnings("error")
def test_a_name_is_drawn_as_it_stands(name, tmp_path):
    """And what this font has not, as boxes."""
    folder = write(tmp_path, name, 0, [20, 30], clusters=[ROWS, ROWS])
    figure, _ = charts.curves(tables.by_variant(folders.find_runs(folder)), ["AVG"])
    assert report.png(figure) and [text.get_text() for text in figure.legends[0].get_texts()] == [
        name
    ]
    assert not figure.legends[0].get_texts()[0].get_parse_math()
    assert name in Path(report.write_report(folder)).read_text()


@pytest.mark.parametrize("count", [40, 3000])
def test_many_clusters_are_drawn_without_hiding(count, small):
    """They are clusters of one class, drawn in a moment, and never hide one another."""
    run = folders.find_runs(small)[0]
    run = run._replace(clusters={1: [(0, {"mnist": 2}), (0, {"usps": 1, "syn": 1})] * (count // 2)})
    start = time.process_time()
    figure, caption = charts.heat(run)
    report.png(figure)
    assert time.process_time() - start < 3
    axes = figure.axes[0]
    assert len(axes.texts) == (60 if count == 40 else 0) and ("the shade alone" in caption) == (
        count > 40
    )
    assert len(axes.get_xticks()) == 20 and axes.get_xticklabels()[0].get_text() == "1"
    assert axes.images[0].get_array().shape == (3, count)


# -- the page


def test_the_page_is_well_formed_and_self_contained(made):
    """It needs no other file."""
    text = Path(made, "report.html").read_text()
    root = xml.etree.ElementTree.fromstring(text.removeprefix("<!DOCTYPE html>\n"))
    images = root.findall(".//img")
    assert len(images) == 7 + 8  # compare has no picture of tau
    assert all(
        image.get("src").startswith("data:image/png;base64,iVBOR") and len(image.get("alt")) > 10
        for image in images
    )
    assert all(
        len("".join(figure.find("figcaption").itertext())) > 60
        for figure in root.findall(".//figure")
    )
    assert not root.findall(".//script") and not root.findall(".//link")
    assert not re.search(r"https?:|url\(|@import|file:", text)
    assert root.find(".//title").text and {"utf-8"} == {
        meta.get("charset") for meta in root.findall(".//meta")
    } - {None}


def test_the_page_has_the_day_of_the_runs(made):
    assert "Runs of 2023-11-14 (UTC)." in Path(made, "report.html").read_text()
    assert "Runs of 2023-11-14 (UTC)." in Path(made, "report.md").read_text()


def test_the_same_folders_give_the_same_bytes(made):
    contents = []
    for _ in range(2):
        report.write_report(made / "compare")
        contents.append(
            [Path(made, f"compare/report.{kind}").read_bytes() for kind in ("html", "md", "csv")]
        )
    assert contents[0] == contents[1] and not list(Path(made, "compare").glob("*.part"))


def test_page_markdown_csv_and_screen_agree(made):
    """They have the same numbers."""
    rows = list(csv.DictReader(io.StringIO(Path(made, "report.csv").read_text())))
    texts = [
        Path(made, "report.html").read_text(),
        Path(made, "report.md").read_text(),
        report.summary_text(made),
    ]
    in_csv = {
        row["mean"] + (f" ± {row['spread']}" if row["spread"] else "")
        for row in rows
        if row["mean"]
    }
    assert len(rows) > 100 and {row["source"] for row in rows} == {"here", "paper"}
    cells = [
        set(
            re.findall(
                r'<td class="(?:number|text)">([-+]?\d+\.\d\d(?: ± \d+\.\d\d)?)</td>', texts[0]
            )
        ),
        set(re.findall(r"(?<=\| )[-+]?\d+\.\d\d(?: ± \d+\.\d\d)?(?= \|)", texts[1])),
    ]
    assert cells[0] == cells[1] == in_csv
    assert all(re.search(rf"(?<![\d.]){re.escape(number)}(?!\d)", texts[2]) for number in in_csv)


def test_page_tables_have_headers_and_aligned_numbers(made):
    """The numbers of the tables stand to the right."""
    root = xml.etree.ElementTree.fromstring(
        Path(made, "report.html").read_text().removeprefix("<!DOCTYPE html>\n")
    )
    for table in root.findall(".//table"):
        width = len(table.findall("thead/tr/th"))
        assert all(
            row[0].text.startswith("the paper") == (row.get("class") == "paper")
            for row in table.findall("tbody/tr")
        )
        for row in table.findall("tbody/tr"):
            assert len(list(row)) == width and row[0].get("scope") == "row"
            numbers = [
                cell
                for cell in row[1:]
                if re.fullmatch(r"[-+]?\d+\.\d\d( \W .*)?", cell.text or "")
            ]
            assert len(numbers) >= 1 and all(cell.get("class") == "number" for cell in numbers)
    assert "th, td { padding: .3rem .7rem; text-align: right" in report.CSS


def test_text_from_the_folders_cannot_become_markup(tmp_path):
    sources = made_runs.sources_of("digits")
    sources["mnist"]["what"] = "<script>alert(1)</script> & | `x`"
    folder = f'{tmp_path}/a<b> & "c"'
    write(folder, "x|y<i>", 0, [20], sources=sources, diverged="<b>nan</b>")
    text = Path(report.write_report(folder)).read_text()
    root = xml.etree.ElementTree.fromstring(text.removeprefix("<!DOCTYPE html>\n"))
    assert not root.findall(".//script") and not root.findall(".//b") and not root.findall(".//i")
    assert root.find(
        ".//h2"
    ).text == 'a<b> & "c"' and "<script>alert(1)</script> & | `x`" in "".join(root.itertext())
    markdown = Path(folder, "report.md").read_text()
    assert "<script>" not in markdown and "x\\|y&lt;i&gt;" in markdown
    for table in re.findall(r"(?:^\|.*\n)+", markdown, re.M):
        assert len({len(re.findall(r"(?<!\\)\|", line)) for line in table.splitlines()}) == 1


# -- folders


@pytest.mark.parametrize(
    "changes, label",
    [
        ({}, "FPL"),
        ({"cpcl": 0.0, "upcr": 0.0}, "FedAvg"),
        ({"upcr": 0.0}, "CPCL only"),
        ({"cpcl": 0.0}, "UPCR only"),
    ],
)
def test_a_run_made_alone_has_its_page(changes, label, tmp_path):
    """The page is its own and has the name of what was trained."""
    folder = made_runs.write_run(
        f"{tmp_path}/digits-1", made_runs.config_of(rounds=2, **changes), flat(20, 30)
    )
    assert report.write_report(folder) == f"{folder}/report.html"
    assert f'<th scope="row">{label}</th>' in Path(folder, "report.html").read_text()
    assert {"report.html", "report.md", "report.csv"} <= set(os.listdir(folder))


def test_without_folder_every_run_has_its_section(small, tmp_path, monkeypatch, capsys):
    """So has every experiment below runs/."""
    monkeypatch.chdir(tmp_path)
    os.makedirs("runs/empty")
    shutil.move(small, "runs/b-experiment")
    made_runs.write_run("runs/a-run", made_runs.config_of(rounds=1), flat(20))
    made_runs.write_run(
        "runs/c-begun/fpl/seed-0.part", made_runs.config_of(rounds=1), flat(20), "fpl"
    )
    shutil.copy("runs/a-run/config.json", "runs/c-begun/config.json")
    assert report.main([]) == 0
    assert re.findall("<h2>(.*)</h2>", Path("runs/report.html").read_text()) == [
        "a-run",
        "b-experiment",
    ]
    out = capsys.readouterr().out
    assert "a-run: Methods" in out and "52.67 ± 7.02" in out and "runs/report.html" in out


def test_the_screen_has_aligned_tables(small):
    lines = report.summary_text(small).splitlines()
    head = next(line for line in lines if line.startswith("top-1"))
    row = next(line for line in lines if line.startswith("FPL"))
    assert head.index("mnist") + len("mnist") == row.index("60.67 ± 7.02") + len("60.67 ± 7.02")


@pytest.mark.parametrize(
    "name, content, words",
    [
        ("rounds.csv", "round,loss,mnist,avg\n1,2.0,30", "cut off in its last line"),
        ("rounds.csv", "round,loss,mnist,avg\n1,2.0,30\n", "line 2 has 3 cells, its header 4"),
        ("rounds.csv", "round,loss,mnist,avg\n1,2.0,30,30\n2,2.0,many,30\n", "line 3"),
        ("rounds.csv", "round,loss,mnist,avg\n1,2.0,300,30\n", "300 is no percentage"),
        ("rounds.csv", "round,loss,mnist,avg\n1,2.0,nan,30\n", "nan is no percentage"),
        ("rounds.csv", "round,loss,mnist\n1,2.0,30\n", "line 2"),
        (
            "rounds.csv",
            "round,loss,mnist,avg\n1,2.0,30,30\n3,2.0,30,30\n",
            "does not count its rounds",
        ),
        ("rounds.csv", "round,loss,mnist,avg\n1,2.0,1_0,30\n", "1_0 is no percentage"),
        ("rounds.csv", "round,loss,mnist,avg\n1,2_0,30,30\n", "2_0 is no number"),
        ("rounds.csv", "round,loss,mnist,avg\n1_0,2.0,30,30\n", "'1_0' is no whole number"),
        ("rounds.csv", "name,price\napple,3\n", "begins with 'name,price'"),
        ("rounds.csv", "", "begins with ''"),
        ("rounds.csv", "\x00\x01\xff", "begins with"),
        ("clusters.csv", "round,class,cluster,clients,mnist\n1,0,0,2,x\n", "line 2"),
        ("config.json", "{", "is not what a run writes"),
        ("config.json", '{"config": {"task": "digits"}}', "lacks seed, rounds"),
        (
            "config.json",
            '{"config": {"task": "digits", "seed": 0, "rounds": 1, "cpcl": 1, "upcr": 1, '
            '"tau": 1}}',
            "lacks clients",
        ),
        (
            "config.json",
            '{"config": {"task": "cats", "seed": 0, "rounds": 1, "cpcl": 1, "upcr": 1, "tau": 1}}',
            "lacks a task",
        ),
        ("config.json", '{"config": 3}', "is not what a run writes"),
    ],
)
def test_strange_files_are_named_in_one_line(name, content, words, small, capsys):
    """A file that no run left so is named."""
    path = f"{small}/fpl/seed-1/{name}"
    Path(path).write_bytes(content.encode("latin-1"))
    assert report.main([small]) == 2
    error = capsys.readouterr().err
    assert error.startswith(f"report: {path} ") and words in error and error.count("\n") == 1
    assert not os.path.exists(f"{small}/report.html")


@pytest.mark.parametrize(
    "arguments, words",
    [
        (["nowhere"], "nowhere is no folder"),
        (["."], "holds no finished run"),
        (["--colour"], "--colour"),
        ([], "runs is no folder"),
    ],
)
def test_nothing_to_show_is_one_line(arguments, words, tmp_path, monkeypatch, capsys):
    """Where there is nothing to show, one line says so."""
    monkeypatch.chdir(tmp_path)
    assert report.main(arguments) == 2
    captured = capsys.readouterr()
    assert (
        words in captured.err
        and captured.err.count("\n") == 1
        and not captured.out
        and not os.listdir()
    )


def test_runs_without_a_round_say_so(tmp_path):
    """A run without a finished round is said to have none."""
    folder = made_runs.write_run(f"{tmp_path}/digits-1", made_runs.config_of(rounds=2), [])
    report.write_report(folder)
    rows, _ = table_of(folder, "Table 2")
    assert rows["FPL"]["AVG"] == "-" and rows["FPL"]["seeds"] == "seed 0 without a round"
    assert "fpl, seed 0, has 0 rounds of 2." in report.summary_text(folder)


def test_seed_folders_without_config_are_not_passed_over(small, capsys):
    """A seed's folder without its config is not passed over."""
    os.remove(f"{small}/fpl/seed-1/config.json")
    assert report.main([small]) == 2
    error = capsys.readouterr().err
    assert f"{small}/fpl/seed-1/config.json" in error and error.count("\n") == 1


def test_repeats_leftovers_are_no_run(small):
    """What --repeat leaves beside a run is no run."""
    before = report.summary_text(small)
    for name in ("seed-1.repeat", "seed-1.repeat.part"):
        shutil.copytree(f"{small}/fpl/seed-1", f"{small}/fpl/{name}")
    assert report.summary_text(small) == before
    shutil.copytree(f"{small}/fpl/seed-1", f"{small}/fpl/seed-3.part")
    assert "1 run not finished yet, not counted." in report.summary_text(small)


def test_two_runs_of_a_seed_are_refused(small):
    """The runs are of one variant and seed."""
    shutil.copytree(f"{small}/fpl/seed-1", f"{small}/fpl/seed-7")
    with pytest.raises(InputError, match="two runs of fpl with seed 1"):
        report.summary_text(small)


def left_out(variant, seed, domain, accuracy):
    """A run on three domains, of which one has no client."""
    names = ("a", "b", "c")
    clients = [0 if name == domain else 2 for name in names]
    log = {"accuracy": dict.fromkeys(names, 50.0) | {domain: accuracy}, "avg": 50.0}
    config = {"task": "folder", "clients": clients, "seed": seed, "tau": 0.02, "rounds": 1}
    task = own(names, ("x", "y"))
    return records.Run("", variant, config, {}, [log], {}, task, {}, "")


def test_each_domain_left_out_is_a_column():
    """Of the runs without it; AVG is a mean over domains, of seeds that have them all."""
    experiments = [
        [
            left_out(name, seed, domain, start + 10 * seed + i)
            for name, start in (("fedavg", 20), ("fpl", 30))
            for seed in (0, 1)
        ]
        for i, domain in enumerate("abc")
    ]
    table = tables.leave_one_out(experiments)
    assert table.head == ["left out", "a", "b", "c", "AVG", "seeds"]
    assert table.rows == [
        ["FedAvg", "25.00 ± 7.07", "26.00 ± 7.07", "27.00 ± 7.07", "26.00 ± 7.07", "2 seeds"],
        ["FPL", "35.00 ± 7.07", "36.00 ± 7.07", "37.00 ± 7.07", "36.00 ± 7.07", "2 seeds"],
    ]
    assert ("here", "fpl", 2, "c", "37.00", "7.07") in table.records
    del experiments[2][-1]  # FPL's seed 1 without c is not there
    row = tables.leave_one_out(experiments).rows[1]
    assert row == ["FPL", "35.00 ± 7.07", "36.00 ± 7.07", "32.00", "31.00", "1 seed"]


def test_one_domain_left_out_makes_no_table():
    runs = [left_out("fpl", 0, "a", 20.0)]
    whole = [left_out("fpl", 0, "none", 20.0)]
    assert tables.leave_one_out([runs]) is None and tables.leave_one_out([runs, whole]) is None
