"""Shards in threads of the tests: a real executor and real messages, without the seconds that a process needs to start."""

from __future__ import annotations

import asyncio
import io
from concurrent.futures import ThreadPoolExecutor
from queue import Empty, SimpleQueue

from bmsota_sim.run.given import RunGiven, prepare
from bmsota_sim.run.outputs.run_json import run_document
from bmsota_sim.run.outputs.watch import RunProgress
from bmsota_sim.run.shards.carrying import carry_out_shard
from bmsota_sim.run.shards.coordinating import Coordinator
from rich.console import Console


class LostError(Exception):
    pass


class ThreadHost:
    """*loses*: index of a shard -> how many messages until it is lost, each time that it is begun."""

    def __init__(self, loses=None):
        self.loses = dict(loses or {})
        self.executor = ThreadPoolExecutor(8)
        self.told, self.commands, self.futures = SimpleQueue(), {}, {}
        self.starts = []

    def start(self, shard):
        self.starts.append(shard.index)
        self.commands[shard.index] = commands = SimpleQueue()
        channel = Channel(self.told, commands, shard.index, self.loses.get(shard.index, [None]).pop(0))
        self.loses = {index: lives for index, lives in self.loses.items() if lives}
        self.futures[shard.index] = self.executor.submit(carry_out_shard, shard, channel)

    def poll(self):
        return drained(self.told)

    def send(self, index, command):
        self.commands[index].put(command)

    def future(self, index):
        return self.futures[index]

    def is_lost(self, error):
        return "it was lost" if isinstance(error, LostError) else ""

    def close(self):
        self.executor.shutdown()


class Channel:
    def __init__(self, told, commands, index, lives):
        self.told, self.commands, self.index, self.lives = told, commands, index, lives

    def send(self, message):
        if self.lives is not None:
            self.lives -= 1
            if self.lives < 0:
                raise LostError
        self.told.put((self.index, message))

    def receive(self):
        return drained(self.commands)


def drained(queue):
    found = []
    try:
        while True:
            found.append(queue.get_nowait())
    except Empty:
        return found


def given(text, **values):
    return RunGiven(**{"scenario_text": text, "scenario_name": "test", "seed": 1, "to": None, **values})


class Sharded:
    """A run over *count* shards, carried out."""

    def __init__(self, text, count, *, loses=None, is_stopped=lambda: False, look=lambda _coordinator: None, **values):
        self.output = io.StringIO()
        self.host = ThreadHost(loses)
        self.coordinator = Coordinator(
            prepare(given(text, **values)), count, self.host, RunProgress(Console(file=self.output, width=200))
        )
        self.result = asyncio.run(
            self.coordinator.carry_out(is_stopped=is_stopped, look=lambda: look(self.coordinator))
        )

    def document(self):
        return document_of(self.coordinator.run, self.result, self.coordinator.series())


def document_of(run, result, series):
    return run_document(run, result, given={}, generator={}, exit_code=0, series=series)
