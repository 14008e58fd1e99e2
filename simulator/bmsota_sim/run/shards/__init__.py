"""A run in several processes, here or on other machines: its units in shards, carried out apart and judged together.

A shard is (what the run was given, index, count) and needs nothing else: any process that has it works out which units are its own, and
one that was lost is begun again as itself. Units share nothing, so each does in any shard what it does in one process.

* `part`: what a shard is, and what it tells of its units;
* `carrying`: a shard in a process of its own, and the channel to who started it;
* `processes`, `cluster`: where shards run, each a future of a `concurrent.futures` executor or of a dask.distributed cluster;
* `together`: the run put together from its parts, judged as any other;
* `coordinating`: start, live figures, steering, loss and end;
* `files`: a part as a file, for shards that nobody coordinates.
"""
