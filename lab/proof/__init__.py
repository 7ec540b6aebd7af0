"""Is it as fast as it says, and do the tests see what is wrong?

bench.py      `./run.sh bench`: what training costs, each figure a ratio that this machine measures
timing.py     two things in turn, how busy others are, what a ratio is worth
rivals.py     the same step and losses, written as they usually are, and in PyTorch
mutants.py    `./run.sh mutants`: faults in the mathematics, and whether the tests see each
mutants.toml  which functions get mutants, their tests, and why a survivor is left
"""
