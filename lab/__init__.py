"""What surrounds the method: data, runs, the methods beside FPL, reports, engines, proofs.

fpl.py and finch.py, one folder up, are the method and know nothing of this package. Its rooms:

    shell/    program, command line, files, words: the bottom, on which all other rooms stand
    data/     find, read, draw or fetch the images of a task
    run/      train one run: write, resume, repeat, pictures
    methods/  the methods that FPL is compared with, and the comparisons
    report/   tables, charts and the page of many runs
    many/     engines that share a round out: processes, Ray, Flower
    proof/    what it costs, and whether the tests see faults

`./run.sh COMMAND` goes through lab/__main__.py, which knows the module of each command.
"""
