"""Fleet runs: scenario files of the second version, what they say, and what a run makes of them."""
