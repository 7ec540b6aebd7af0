"""`./run.sh predict runs/NAME --nearest` draws what each cluster prototype is like.

A row is a class, a panel one of its cluster prototypes with the training images whose features are
nearest to it by the cosine.
"""

import numpy as np
from matplotlib.figure import Figure

import fpl
from lab.data.load import load
from lab.run import checkpoint, pictures
from lab.run.clients import share_out
from lab.run.folder import save_picture
from lab.run.settings import reading

SHOWN = 3  # images a prototype
MOST = 8  # prototypes a class


def draw(run, cfg, trained, data_folder):
    """Write nearest.png into the run's folder -> its path. Raises InputError."""
    record, facts, _ = checkpoint.read_record(run.folder, "give the folder of another run")
    *data, sources = load(cfg.task, data_folder, **reading(cfg, run.reading))
    now = checkpoint.facts({**record, "sources": sources})
    checkpoint.refuse_other(run.folder, facts, now, "give the --data that it was made from")
    clients, _ = share_out(data, run.task, cfg)
    found = nearest(trained, clients)
    path = f"{run.folder}/nearest.png"
    save_picture(
        path, picture(trained, found, f"{run.folder}: the training images nearest to each")
    )
    return path


def nearest(trained, clients):
    """[(image, domain), ...] of the SHOWN nearest images of each prototype, the nearest first."""
    best = [[] for _ in trained.prototypes]
    for client in clients:  # one at a time, so that memory does not grow with their number
        z = fpl.predict(trained.params, trained.stats, client.images)[1]
        cosines = trained.prototypes @ pictures.unit(z.astype(np.float64)).T
        for own, row in zip(best, cosines):
            for i in np.argsort(-row, kind="stable")[:SHOWN]:
                own.append((row[i], client.images[i], client.domain))
            own.sort(key=lambda item: -item[0])
            del own[SHOWN:]
    return [[(image, domain) for _, image, domain in own] for own in best]


def picture(trained, found, title):
    """The Figure: a row for each class that has a prototype."""
    classes = sorted({k for k, _, _ in trained.whose})[: pictures.MOST_CLASSES]
    columns = min(MOST, max(of for _, _, of in trained.whose))
    figure = Figure(figsize=(2.4 * columns + 1, 1.35 * len(classes) + 0.6), layout="constrained")
    panels = figure.subplots(len(classes), columns, squeeze=False)
    for axes in panels.flat:
        axes.set_axis_off()
    for (k, j, _), images, gathers in zip(trained.whose, found, trained.gathers):
        if k in classes and j < columns:
            axes = panels[classes.index(k), j]
            axes.imshow(strip([image for image, _ in images]))
            inside = ", ".join(f"{domain} {n}" for domain, n in gathers.items())
            axes.set_title(f"{pictures.short(trained.classes[k])}: {inside}", fontsize=8)
            names = list(dict.fromkeys(domain for _, domain in images))
            axes.text(0, -0.05, f"images of {', '.join(names)}", transform=axes.transAxes,
                      va="top", fontsize=7)  # fmt: skip
    figure.suptitle(
        f"{title}: the training images nearest to each cluster prototype;\n"
        "above them its class and the clients that it gathers",
        fontsize=9,
    )
    return figure


def strip(images):
    """Images side by side, with a white line between."""
    line = np.full((len(images[0]), max(1, len(images[0]) // 16), 3), 255, np.uint8)
    parts = [part for image in images for part in (image, line)]
    return np.concatenate(parts[:-1], axis=1)
