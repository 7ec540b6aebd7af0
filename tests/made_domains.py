"""Folders of the user's own domains, tiny, for tests/lab/test_domains.py and tests/hostile."""

import numpy as np
from PIL import Image


def picture(seed, width=20, height=12):
    """A Pillow image of noise; no two seeds give the same."""
    shape = (height, width, 3)
    return Image.fromarray(np.random.default_rng(seed).integers(0, 256, shape).astype(np.uint8))


def write_picture(path, seed=0, width=20, height=12, **options):
    path.parent.mkdir(parents=True, exist_ok=True)
    picture(seed, width, height).save(path, **options)
    return path


def write_domains(root, layout, count=2, ending=".png"):
    """layout: {"a": "cat dog", "b/train": "cat"}; count pictures for each class -> root."""
    seed = 0
    for place, classes in layout.items():
        for name in classes.split():
            for i in range(count):
                seed += 1
                write_picture(root / place / name / f"{i:03}{ending}", seed)
    return root
