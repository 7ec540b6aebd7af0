"""What many runs gave, on one page. `./run.sh report` is report.py; nothing here trains.

folders.py  finds runs and experiments among folders
tables.py   their numbers, below them those of the paper
charts.py   their pictures
paper.py    the numbers that the paper prints
report.py   the command: report.html, report.md, report.csv
"""
