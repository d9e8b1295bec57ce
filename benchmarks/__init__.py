"""How fast it is, against whom, measured fairly. `python -m benchmarks.suite` runs all that a CPU can run.

`driver` keeps every contender in a process of its own and takes turns; `stats` judges the turns; `tables` writes them
down; `contenders/` speaks each library's language; `peers` installs them. The other files are one question each.
"""
