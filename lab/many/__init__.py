"""A round on several cores or machines.

engines.py     which engine a run takes: the loop, processes or Ray
processes.py   the engine of this machine's cores
cluster.py     the engine of a Ray cluster
worker.py      a worker's first act, with either: it takes a core
compiled.py    what a run compiles is kept for the next one
flower/        a Flower app, for clients that keep their data
"""
