"""Starts nodes as real processes, talks to them, and cleans up after itself.

Promises: no fixed port, only processes that it started are ever killed, nothing waits for a guessed time (it polls for
what it waits for, with a generous limit), and what a node said is kept in a file that is shown if a test fails.
"""

import atexit
import os
import random
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
import unittest
import zlib
from pathlib import Path

import redis
from redis.backoff import NoBackoff
from redis.retry import Retry

ROOT = Path(__file__).resolve().parents[2]
TARGET = Path(os.environ.get("CARGO_TARGET_DIR", ROOT / "target"))
BINARY = Path(os.environ.get("HAYPILE", TARGET / "release" / "haypile"))
SCRATCH = Path(os.environ.get("HAYPILE_SCRATCH", TARGET / "interop"))
LONG = os.environ.get("HAYPILE_LONG", "") == "1"
SLOT_COUNT = 1024
START_S = 60
STOP_S = 60

_running = set()
_running_lock = threading.Lock()


def seed():
    """The seed of this run: always the same, unless HAYPILE_SEED says another (`tests/run` draws one to search)."""
    return int(os.environ.get("HAYPILE_SEED") or 1)


def kill_all():
    """Kills every process that this one started and that still runs."""
    with _running_lock:
        processes = list(_running)
    for process in processes:
        if process.poll() is None:
            process.kill()
            process.wait()


atexit.register(kill_all)


def slot_of(key):
    """The slot of a key: CRC-32 of what stands between the first `{` and the next `}`, else of all of it."""
    key = key if isinstance(key, bytes) else key.encode()
    start = key.find(b"{")
    if start >= 0:
        end = key.find(b"}", start + 1)
        if end >= 0:
            key = key[start + 1 : end]
    return zlib.crc32(key) % SLOT_COUNT


def _tags():
    tags, number = {}, 0
    while len(tags) < SLOT_COUNT:
        tags.setdefault(slot_of(b"%d" % number), b"%d" % number)
        number += 1
    return [tags[slot] for slot in range(SLOT_COUNT)]


TAGS = _tags()


def key_in(slot, name):
    """A key that belongs to the slot."""
    return b"%s{%s}" % (name if isinstance(name, bytes) else name.encode(), TAGS[slot])


def eventually(check, what, within=60.0):
    """Polls until `check` gives something true, and returns that."""
    deadline = time.monotonic() + within
    pause = 0.002
    while True:
        answer = check()
        if answer:
            return answer
        if time.monotonic() > deadline:
            raise AssertionError(f"not within {within:.0f} s: {what() if callable(what) else what}")
        time.sleep(pause)
        pause = min(pause * 1.5, 0.05)


def free_port():
    """A port that nobody has now, below those that the system hands out to outgoing connections: else a node that
    tries to reach one that is down may get that very port."""
    chance = random.SystemRandom()
    for _ in range(1000):
        port = chance.randrange(10_000, 32_000)
        with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as probe:
            try:
                probe.bind(("127.0.0.1", port))
            except OSError:
                continue
            return port
    raise AssertionError("no free port found")


class StartFailed(Exception):
    """The process ended before it listened; holds what it said and its exit status."""

    def __init__(self, output, status):
        super().__init__(f"exit status {status}: {output.strip()}")
        self.output = output
        self.status = status


class Node:
    """One `haypile serve` process, with its folder and its log. Survives kill and restart on the same port."""

    def __init__(self, folder, name, *flags, wrap=(), password=None):
        self.name = name
        self.flags = list(flags)
        self.wrap = list(wrap)
        self.password = password
        self.may_end_with = {0, -signal.SIGKILL}
        self.dir = folder / name
        self.log = folder / f"{name}.log"
        self.port = None
        self.process = None

    @property
    def address(self):
        return f"127.0.0.1:{self.port}"

    @property
    def pid(self):
        return self.process.pid

    def start(self):
        """Starts the process and waits for its start line, which it returns."""
        assert self.process is None or self.process.poll() is not None, f"{self.name} runs already"
        first = self.port is None
        deadline = time.monotonic() + START_S
        while True:
            if first:
                self.port = free_port()
            try:
                return self._start_once()
            except StartFailed as failed:
                if "port is taken" not in failed.output or time.monotonic() > deadline:
                    raise

    def _start_once(self):
        self.log.parent.mkdir(parents=True, exist_ok=True)
        # Two workers, whatever the machine: what clients do at the same time is to happen at the same time.
        command = [*self.wrap, str(BINARY), "serve", "--port", str(self.port), "--dir", str(self.dir), "--worker-threads", "2"]
        command += self.flags
        with open(self.log, "ab") as log:
            log.write(f"--- {' '.join(command)}\n".encode())
            log.flush()
            begin = log.tell()
            self.process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=log, stderr=log)
        with _running_lock:
            _running.add(self.process)
        deadline = time.monotonic() + START_S
        while True:
            ended = self.process.poll()
            said = self.said(begin)
            for line in said.splitlines():
                if "listens at" in line:
                    return line
            if ended is not None:
                raise StartFailed(said, ended)
            if time.monotonic() > deadline:
                self.kill()
                raise AssertionError(f"{self.name} does not listen after {START_S} s; it said: {said}")
            time.sleep(0.003)

    def said(self, begin=0):
        """What the process wrote to stdout and stderr."""
        with open(self.log, "rb") as log:
            log.seek(begin)
            return log.read().decode(errors="replace")

    def alive(self):
        return self.process is not None and self.process.poll() is None

    def ended_by_itself(self):
        """Whether the process is gone with a status that the test did not foresee: it crashed."""
        return self.process is not None and self.process.poll() not in {None, *self.may_end_with}

    def kill(self):
        """kill -9."""
        if self.process is not None:
            self.process.kill()
            self.process.wait()
            self._forget()

    def stop(self):
        """SIGTERM; returns the exit status."""
        return self.stop_by(signal.SIGTERM)

    def stop_by(self, number):
        self.process.send_signal(number)
        try:
            status = self.process.wait(timeout=STOP_S)
        except subprocess.TimeoutExpired:
            self.kill()
            raise AssertionError(f"{self.name} did not stop within {STOP_S} s of {signal.Signals(number).name}") from None
        self._forget()
        return status

    def _forget(self):
        with _running_lock:
            _running.discard(self.process)

    def client(self, protocol=2, timeout=60, **more):
        """A client of its own connections. It never repeats a command by itself."""
        more.setdefault("password", self.password)
        return redis.Redis(
            host="127.0.0.1",
            port=self.port,
            protocol=protocol,
            socket_timeout=timeout,
            socket_connect_timeout=timeout,
            retry=Retry(NoBackoff(), 0),
            **more,
        )

    def do(self, *words):
        """Runs one command on a fresh connection."""
        client = self.client()
        try:
            return client.execute_command(*words)
        finally:
            client.close()

    def error(self, *words):
        """Runs one command that must be refused; the error's text."""
        try:
            answer = self.do(*words)
        except redis.ResponseError as error:
            return str(error)
        raise AssertionError(f"{self.name} answered {answer!r} to {words!r}, an error was due")

    def pkcluster(self, *words):
        return self.do("PKCLUSTER", *words)

    def slots(self, group=None):
        """`PKCLUSTER INFO SLOT`, read as its consumers do: slot -> Info."""
        words = ["INFO", "SLOT"] + ([str(group)] if group is not None else [])
        text = self.pkcluster(*words)
        text = text.decode() if isinstance(text, bytes) else text
        return {info.slot: info for info in map(Info, filter(None, text.split("\r\n\r\n")))}

    def slot(self, number):
        """The information about one slot; None if the node does not have it."""
        return self.slots(number).get(number)

    def rss_bytes(self):
        """Memory that the process has in RAM now."""
        return self._status("VmRSS")

    def peak_bytes(self):
        """The most memory that the process ever had in RAM."""
        return self._status("VmHWM")

    def _status(self, name):
        for line in Path(f"/proc/{self.pid}/status").read_text().splitlines():
            if line.startswith(name + ":"):
                return int(line.split()[1]) * 1024
        raise AssertionError(f"{self.name} has no {name}")


class Slave:
    """A replica as its master's `info slot` shows it."""

    def __init__(self, address, status, lag):
        self.address, self.status, self.lag = address, status, lag

    def caught_up(self):
        return self.status == "SlaveBinlogSync" and self.lag == 0


class Info:
    """One slot's part of `info slot`. Reading it holds the layout: three lines a slave, a number as lag."""

    def __init__(self, text):
        self.text = text
        lines = text.split("\r\n")
        head, _, offsets = lines[0].partition(" binlog_offset=")
        assert head.startswith("(db0:") and head.endswith(")"), text
        self.slot = int(head[5:-1])
        file, offset = offsets.partition(",")[0].split(" ")
        self.term, self.seq = int(file), int(offset)
        assert ",safety_purge=" in lines[0], text
        pairs = [line.strip().partition(": ")[::2] for line in lines[1:] if ": " in line]
        values = dict(pairs)
        self.role = values["Role"]
        assert self.role in ("Master", "Slave"), text
        self.state = values.get("state")
        self.master = values.get("master")
        self.status = values.get("slave status")
        self.slaves = []
        if "connected_slaves" in values:
            names = [name for name, _ in pairs]
            start = names.index("connected_slaves") + 1
            for number in range(int(values["connected_slaves"])):
                three = pairs[start + 3 * number : start + 3 * number + 3]
                assert [name for name, _ in three] == [f"slave[{number}]", "replication_status", "lag"], text
                self.slaves.append(Slave(three[0][1], three[1][1], int(three[2][1])))

    def slave_at(self, address):
        return next((slave for slave in self.slaves if slave.address == address), None)


class Case(unittest.TestCase):
    """A test with a folder, nodes that are stopped at its end, and their logs shown if it failed."""

    longMessage = True

    def setUp(self):
        self.folder = SCRATCH / self.id().replace("__main__.", "")
        shutil.rmtree(self.folder, ignore_errors=True)
        self.folder.mkdir(parents=True)
        self.nodes = []
        self.random = random.Random(f"{seed()} {self.id()}")

    def node(self, name="node", *flags, start=True, **more):
        """A node whose folder and log lie in the test's folder."""
        node = Node(self.folder, name, *flags, **more)
        self.nodes.append(node)
        if start:
            node.start()
        return node

    def wait(self, check, what, within=60.0):
        return eventually(check, what, within)

    def stop(self, node):
        """Stops a process as if its machine hung; it goes on at the test's end at the latest."""
        os.kill(node.pid, signal.SIGSTOP)

        def stands():
            # The third word of a thread's stat, after its name in brackets, is its state.
            stats = (path.read_text() for path in Path(f"/proc/{node.pid}/task").glob("*/stat"))
            return all(stat.rpartition(")")[2].split()[0] == "T" for stat in stats)

        self.wait(stands, "all its threads stand")
        self.addCleanup(lambda: node.alive() and os.kill(node.pid, signal.SIGCONT))

    def wait_until_slave_has_all(self, master, replica, slots):
        """Waits until the master says that the replica has applied everything of these slots."""
        pending = set(slots)

        def done():
            infos = master.slots()
            for slot in list(pending):
                slave = infos[slot].slave_at(replica.address) if slot in infos else None
                if slave and slave.caught_up():
                    pending.discard(slot)
            return not pending

        def what():
            first = min(pending)
            return f"{replica.name} has all of {master.name}'s slots; {len(pending)} lack, the first: {master.slot(first).text}"

        self.wait(done, what, 120)

    def tearDown(self):
        died = [node for node in self.nodes if node.ended_by_itself()]
        for node in self.nodes:
            node.kill()
        if died or _has_problem(self._outcome.result, self):
            for node in self.nodes:
                show_tail(node)
            print(f"    everything is kept in {self.folder}", file=sys.stderr)
        else:
            shutil.rmtree(self.folder, ignore_errors=True)
        self.assertEqual([node.name for node in died], [], "ended by themselves")


def _has_problem(result, test):
    problems = getattr(result, "failures", []) + getattr(result, "errors", [])
    return any(case is test or getattr(case, "test_case", None) is test for case, _ in problems)


def show_tail(node, lines=25):
    """The last lines of what a node said."""
    if node.log.exists():
        print(f"    --- {node.name}: the end of {node.log}", file=sys.stderr)
        for line in node.said().splitlines()[-lines:]:
            print(f"    {line}", file=sys.stderr)


def is_root():
    return os.geteuid() == 0
