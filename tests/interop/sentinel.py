"""Debian's redis-sentinel as it is: its processes, and a load whose clients go where the sentinels say that the master is."""

import shutil
import subprocess
import time

import redis

import harness
from load import Load, Router

NAME = "haypile-1"
SENTINEL = shutil.which("redis-sentinel")
DOWN_AFTER_MS = 1500
# As the default, times ten: all else is asked for and published more often than by default, so that a test takes less than a minute.
PERIODS = {"info-period": 500, "publish-period": 500, "ask-period": 500, "tilt-trigger": 60_000}


class Sentinel(harness.Node):
    """One process. It writes its own configuration file, as it always does."""

    def __init__(self, folder, name, master, quorum, password=None):
        super().__init__(folder, name)
        self.file = folder / f"{name}.conf"
        self.port = harness.free_port()
        lines = [f"port {self.port}", "bind 127.0.0.1", f"dir {folder}"]
        lines += [f"sentinel monitor {NAME} 127.0.0.1 {master.port} {quorum}"]
        lines += [f"sentinel down-after-milliseconds {NAME} {DOWN_AFTER_MS}", f"sentinel failover-timeout {NAME} 10000"]
        if password:
            lines.append(f"sentinel auth-pass {NAME} {password}")
        self.file.write_text("\n".join(lines) + "\n")

    def start(self):
        command = [SENTINEL or "redis-server", str(self.file), *([] if SENTINEL else ["--sentinel"])]
        with open(self.log, "ab") as log:
            self.process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=log, stderr=log)
        with harness._running_lock:
            harness._running.add(self.process)
        harness.eventually(self.answers, lambda: f"{self.name} answers; it said: {self.said()}")
        self.do("SENTINEL", "DEBUG", *(word for pair in PERIODS.items() for word in pair))

    def answers(self):
        assert self.alive(), self.said()
        try:
            return self.do("PING")
        except redis.ConnectionError:
            return False

    def master(self):
        """The port that it says the master listens at."""
        return int(self.do("SENTINEL", "GET-MASTER-ADDR-BY-NAME", NAME)[1])

    def known(self):
        """What it knows of the group: (replicas, other sentinels) by port, as field -> value."""
        both = []
        for what in ("SLAVES", "SENTINELS"):
            entries = self.do("SENTINEL", what, NAME)
            entries = [entry if isinstance(entry, dict) else dict(zip(entry[::2], entry[1::2])) for entry in entries]
            entries = [{text(name): text(value) for name, value in entry.items()} for entry in entries]
            both.append({int(entry["port"]): entry for entry in entries})
        return both


def text(value):
    return value.decode() if isinstance(value, bytes) else str(value)


class Group:
    """Nodes and the sentinels that watch them."""

    def __init__(self, nodes, sentinels):
        self.nodes, self.sentinels = nodes, sentinels

    def master(self):
        """The node that all sentinels call the master, and that calls itself so; None if they don't agree yet."""
        ports = {sentinel.master() for sentinel in self.sentinels}
        node = next((node for node in self.nodes if {node.port} == ports), None)
        if node is None or not node.alive():
            return None
        try:
            return node if node.client(timeout=5).info("replication")["role"] == "master" else None
        except redis.RedisError:
            return None

    def promoted(self, former):
        """The new master, once all agree about it."""
        node = self.master()
        return node if node is not former else None

    def follows(self, node, master):
        """Whether a node is a slave of the master in its own words, connected, and with all that there is."""
        try:
            told = node.client(timeout=5).info("replication")
        except redis.RedisError:
            return False
        return (told["role"], told.get("master_port"), told.get("master_link_status")) == ("slave", master.port, "up")


class SentinelLoad(Load):
    """Writers that wait, when their connection is lost, until the master is another or is back."""

    def lost_connection(self, node):
        deadline = time.monotonic() + 120
        while not self.stopping.wait(0.01):
            if self.router.node(self.slots[0]) is not node:
                return
            try:
                node.do("PING")
                return
            except (redis.RedisError, OSError):
                assert time.monotonic() < deadline, f"nobody took {node.name}'s place"


__all__ = ["NAME", "Group", "Router", "Sentinel", "SentinelLoad"]
