"""A round on several cores or machines.

engines.py     engines for fpl.run: the loop, and the workers of a Ray cluster
processes.py   the engine of this machine's cores
flower/        a Flower app, for clients that keep their data
"""
