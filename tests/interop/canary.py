"""A tiny RESP server that keeps its data in a file, and can be told to break its promise: food for the crash tester.

`canary.py PORT DIR FAULT`: a command is in the file before it is answered, one JSON line each; a start reads the file.
`honest` does just that. The faults: `drops` does not write down every 50th command, `forgets` those of the last moments,
`halves` writes down a half of some commands of several parts, `revives` forgets deletions, `invents` writes down
another value, `unexpires` forgets deadlines, `lies` counts wrongly, `dies` ends by itself,
`hangs` does not end when asked to, `lame` does not start again. `rarely` does not write down one command in a thousand,
`lags` writes down what is five seconds old, `swaps` writes down two commands on one key in the wrong order now and then,
`ages` starts with former values of some keys, `repeats` does some commands once more when it starts, `strays` lets a value
turn up at another key, `stretches` doubles deadlines at a start, `refuses` answers some commands with an error and does them.
"""

import json
import os
import signal
import socketserver
import sys
import threading
import time
import zlib

PORT, DIR, FAULT = int(sys.argv[1]), sys.argv[2], sys.argv[3]


class Error(Exception):
    pass


class Store:
    def __init__(self):
        self.data, self.deadlines, self.lock = {}, {}, threading.RLock()
        self.commands, self.former, self.held = 0, {}, None
        # Nothing expires between the lines of the log: that a key did is written there as its deletion.
        self.loading, self.expired = True, []
        path = os.path.join(DIR, "log")
        if os.path.exists(path):
            if FAULT == "lame":
                sys.exit("the log is damaged")
            with open(path) as log:
                for line in log:
                    if line.endswith("\n"):
                        self.replay(json.loads(line))
            if FAULT == "ages":
                self.data.update({key: old for key, old in self.former.items() if zlib.crc32(key.encode()) % 8 == 0})
        self.loading = False
        self.log = open(path, "a")
        self.kept = []

    def replay(self, batch):
        for words in batch:
            if FAULT == "ages" and words[0] == "SET" and words[1] in self.data:
                self.former[words[1]] = self.data[words[1]]
            if FAULT == "stretches" and words[0] == "PEXPIRE" and float(words[2]) > time.time():
                words = [*words[:2], str(2 * float(words[2]) - time.time())]
            self.run(words)
            self.commands += 1
            if FAULT == "repeats" and self.commands % 50 == 0:
                self.run(words)

    def alive(self, key):
        if not self.loading and self.deadlines.get(key, float("inf")) <= time.time():
            self.data.pop(key, None)
            self.deadlines.pop(key, None)
            self.expired.append(["DEL", key])

    def run(self, words):
        """Does one command; the answer."""
        name, key, *rest = words[0].upper(), words[1] if len(words) > 1 else "", *words[2:]
        self.alive(key)
        data = self.data
        if name == "PING":
            return "PONG"
        if name == "SET":
            data[key] = rest[0]
            self.deadlines.pop(key, None)
            if len(rest) > 1 and FAULT != "unexpires":
                self.deadlines[key] = float(rest[2])
            return "OK"
        if name == "MSET":
            for pair in range(1, len(words), 2):
                self.run(["SET", words[pair], words[pair + 1]])
            return "OK"
        if name == "GET":
            return [data.get(key)]
        if name == "DEL":
            self.deadlines.pop(key, None)
            return 1 if data.pop(key, None) is not None else 0
        if name in ("INCR", "INCRBY", "DECRBY"):
            by = int(rest[0]) if rest else 1
            data[key] = str(int(data.get(key, "0")) + (-by if name == "DECRBY" else by))
            return int(data[key])
        if name == "APPEND":
            data[key] = data.get(key, "") + rest[0]
            return len(data[key])
        if name in ("RPUSH", "LPUSH"):
            items = data.setdefault(key, [])
            for item in rest:
                items.insert(len(items) if name == "RPUSH" else 0, item)
            return len(items)
        if name == "LRANGE":
            return [list(data.get(key, []))]
        if name == "HSET":
            fields = data.setdefault(key, {})
            before = len(fields)
            fields.update(zip(rest[::2], rest[1::2]))
            return len(fields) - before
        if name == "HDEL":
            fields = data.get(key, {})
            gone = len([fields.pop(field) for field in rest if field in fields])
            if key in data and not fields:
                del data[key]
            return gone
        if name == "HGETALL":
            return [[part for pair in data.get(key, {}).items() for part in pair]]
        if name == "PEXPIRE":
            if key not in data:
                return 0
            self.deadlines[key] = float(rest[0])
            return 1
        if name == "PERSIST":
            return 1 if self.deadlines.pop(key, None) else 0
        if name == "PTTL":
            if key not in data:
                return -2
            return int((self.deadlines[key] - time.time()) * 1000) if key in self.deadlines else -1
        raise Error(f"ERR unknown command '{words[0]}'")

    def absolute(self, words):
        """Times to live as times of day, so that they mean the same when they are read from the log."""
        now = time.time()
        if words[0] == "SET" and len(words) > 3:
            return [*words[:4], str(now + int(words[4]) / 1000)]
        if words[0] == "PEXPIRE":
            return [*words[:2], str(now + int(words[2]) / 1000)]
        return words

    WRITES = {"SET", "MSET", "DEL", "INCR", "INCRBY", "DECRBY", "APPEND", "RPUSH", "LPUSH", "HSET", "HDEL", "PEXPIRE", "PERSIST"}

    def perform(self, batch):
        """Does one command, or those of a transaction, and writes them down together."""
        with self.lock:
            batch = [self.absolute(words) for words in batch]
            answers = []
            for words in batch:
                try:
                    answers.append(self.run(words))
                except Error as error:
                    answers.append(error)
            if self.expired:
                self.write(self.expired if FAULT != "revives" else [])
                self.expired = []
            written = [words for words in batch if words[0].upper() in self.WRITES and "{probe}" not in words[1]]
            if written:
                self.commands += 1
                self.write(self.spoilt(written))
                if FAULT == "refuses" and self.commands % 200 == 0:
                    answers = [Error("ERR busy") for _ in answers]
                if FAULT == "dies" and self.commands > 500:
                    os._exit(7)
                if FAULT == "lies" and self.commands % 200 == 0 and isinstance(answers[0], int):
                    answers[0] += 1
            return answers

    def spoilt(self, batch):
        every = self.commands % 50 == 0
        if FAULT == "drops" and every or FAULT == "rarely" and self.commands % 1000 == 0:
            return []
        if FAULT == "strays" and every and batch[-1][0] == "SET":
            return [*batch, ["SET", self.held, batch[-1][2]]] if self.held else batch
        if FAULT == "strays" and batch[-1][0] == "SET":
            self.held = batch[-1][1]
        if FAULT == "swaps":
            # Held back until the next command, which is written down before it if it is on the same key.
            held, self.held = self.held, None
            if held:
                return batch + held if held[0][1] == batch[0][1] else held + batch
            if self.commands % 10 == 0:
                self.held = batch
                return []
        if FAULT == "halves" and every:
            words = batch[-1]
            if len(batch) > 1:
                return batch[:-1]
            if words[0] == "HSET" and len(words) > 4:
                return [words[:4]]
            if words[0] == "MSET":
                return [words[:3]]
        if FAULT == "revives":
            return [words for words in batch if words[0] != "DEL"]
        if FAULT == "invents" and every:
            return [[*words[:2], "nonsense", *words[3:]] if words[0] == "SET" else words for words in batch]
        return batch

    def write(self, batch):
        line = json.dumps(batch) + "\n" if batch else ""
        if FAULT == "forgets":
            # What a buffer in the process would do.
            self.kept.append(line)
            if len(self.kept) < 40:
                return
            line = ""
            self.log.write("".join(self.kept))
            self.kept = []
        if FAULT == "lags":
            self.kept.append((time.time(), line))
            line = ""
            while self.kept and self.kept[0][0] < time.time() - 5:
                line += self.kept.pop(0)[1]
        self.log.write(line)
        self.log.flush()


def encoded(answer):
    if isinstance(answer, Error):
        return f"-{answer}\r\n"
    if isinstance(answer, int):
        return f":{answer}\r\n"
    if isinstance(answer, str):
        return f"+{answer}\r\n"
    return bulk(answer[0])


def bulk(value):
    if value is None:
        return "$-1\r\n"
    if isinstance(value, list):
        return f"*{len(value)}\r\n" + "".join(map(bulk, value))
    return f"${len(value)}\r\n{value}\r\n"


class Connection(socketserver.StreamRequestHandler):
    disable_nagle_algorithm = True

    def words(self):
        head = self.rfile.readline()
        if not head.startswith(b"*"):
            return None
        words = []
        for _ in range(int(head[1:])):
            size = int(self.rfile.readline()[1:])
            words.append(self.rfile.read(size + 2)[:size].decode())
        return words

    def handle(self):
        queue = None
        while words := self.words():
            name = words[0].upper()
            if name == "MULTI":
                queue, answer = [], "+OK\r\n"
            elif name == "EXEC" and queue is not None:
                answers = store.perform(queue)
                queue, answer = None, f"*{len(answers)}\r\n" + "".join(map(encoded, answers))
            elif queue is not None:
                queue.append(words)
                answer = "+QUEUED\r\n"
            else:
                answer = encoded(store.perform([words])[0])
            self.wfile.write(answer.encode())


class Server(socketserver.ThreadingTCPServer):
    allow_reuse_address = True
    daemon_threads = True
    request_queue_size = 128


if __name__ == "__main__":
    if FAULT == "hangs":
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
    store = Store()
    print("the canary sings", flush=True)
    with Server(("127.0.0.1", PORT), Connection) as server:
        server.serve_forever()
