"""Where the images of a task come from. `lab.data.load.load(task, folder)` is the way in.

    load.py     files or stand-in -> training images, test images, where they are from
    tasks.py    the tasks: domains, classes, clients, fractions
    find.py     where the files of each domain may lie
    digits.py   readers of MNIST, USPS, SVHN and SYN
    office.py   Office-Caltech10's folders, and its exchange of images
    matlab.py, npz.py, images.py   one file format each
    domains.py  the user's own domains: what lies in a folder, and its images
    pictures.py, cache.py   many pictures on all cores, and what is kept of them
    limits.py   how much memory a file may take
    standin.py  digits for a machine without files
    fetch.py    `./run.sh fetch`: the published digit files

Every reader distrusts its file: it checks sizes before it allocates,
and says which file is wrong and what was wanted.
"""
