"""What any program needs, whatever it computes: the bottom room. Nothing here loads MindSpore.

starting.py  imported first: a signal while the packages load ends in one line
environment.py  what is read of the variables that a run inherits
plotting.py  matplotlib without a user's settings
cores.py     cores and memory that may be used
mend.py      programs of an environment whose folder was moved
program.py   exit status, signals, what goes wrong as one line
options.py   the command line
errors.py    InputError, for what the user can set right
files.py     files that appear whole, folders that belong to one process
words.py     plurals, percents, aligned tables
"""
