"""Figures, not tests: `python -m benchmarks.NAME --json` prints one line a figure.

Each line is {"figure", "value", "unit", "ratio", "baseline"}; the ratio is to a baseline run in the same process, in
rounds shuffled together with the contender's, per CPU-second, because the machines are shared and noisy. Simulated
figures are the same on every machine.
"""
