"""The methods that FPL is compared with, and the comparisons.

baselines.py   the other seven methods of Table 2, each another server_round for fpl.run
oracle.py      their mathematics again, slowly, as oracle_np.py has FPL's
experiment.py  several variants on the same terms: what the next two share
compare.py     the command `compare`: all methods on the same terms (Table 2)
ablate.py      the command `ablate`: FPL without its parts (Tables 1 and 3, Fig. 4 and 5)
"""
