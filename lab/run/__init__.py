"""One run of a method on one task: from the command line to its folder, and back.

train.py       `./run.sh digits`, `./run.sh office` and `./run.sh folder`
settings.py    what a setting may be, presets, the flags of the command line
clients.py     images -> clients and test sets, checked
loop.py        the rounds, each on disk before it is told
folder.py      what a run leaves: config.json, rounds.csv, clusters.csv, arrays, pictures
checkpoint.py  state.safetensors, from which a run goes on
records.py     a folder that was left, read back
repeat.py      `./run.sh repeat`: do the same bytes come out again?
predict.py     `./run.sh predict`: what a trained network says of pictures
nearest.py     the training images that are nearest to each cluster prototype
screen.py      the tables and lines of the screen
pictures.py    accuracy by round, prototypes in the plane
summary.py     what --summary leaves for MindSpore Insight
"""
