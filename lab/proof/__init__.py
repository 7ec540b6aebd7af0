"""Is it right, whoever wrote it; is it as fast as it says; do the tests see what is wrong?

check.py           `./run.sh check FILE`: judge an implementation, which may be anybody's
properties/        what must hold of it
implementation.py  its functions: read from the file, called, their answers read
judge.py           a verdict on each property, with the smallest case that shows a fault
verdict.py         what is told of the verdicts, on the screen and as JSON
snippet.py         a failing call as code that can be pasted
page.py            the same as one HTML page
lesson.py          `./run.sh lesson`: runs the blocks of docs/lesson.md, draws its pictures
bench.py           `./run.sh bench`: what training costs, as ratios that this machine measures
measures.py        what its rows measure
timing.py          two things in turn, how busy others are, what a ratio is worth
rivals.py          the same step and losses, written as they usually are, and in PyTorch
mutants.py         `./run.sh mutants`: faults in the mathematics, and whether the tests see each
mutants.toml       which functions get mutants, their tests, and why a survivor is left
"""
