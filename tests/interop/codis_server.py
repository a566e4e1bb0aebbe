"""A small codis-server: a Redis whose keys go to another node one by one, and come from one, in the real one's words.

It knows what the tests' load writes and reads, SLOTSRESTORE and SLOTSRESTORE-ASYNC with all their forms, and the commands by
which a dashboard and a proxy move slots. Payloads are read and written as codis-server 3.2 does it for plain types, checksum
and version included; what it does not know it refuses, as a test's mistake or the node's.
"""

import socket
import socketserver
import struct
import threading
import time
import zlib

import redis
from redis.backoff import NoBackoff
from redis.retry import Retry

VERSION = 7
ACK = b"SLOTSRESTORE-ASYNC-ACK"


def _table():
    polynomial, table = int(f"{0xAD93D23594C935A9:064b}"[::-1], 2), []
    for byte in range(256):
        for _ in range(8):
            byte = byte >> 1 ^ (polynomial if byte & 1 else 0)
        table.append(byte)
    return table


TABLE = _table()


def crc64(data):
    crc = 0
    for byte in data:
        crc = TABLE[(crc ^ byte) & 0xFF] ^ crc >> 8
    return crc


class Refused(Exception):
    """An error reply."""


def tag_of(key):
    begin = key.find(b"{")
    end = key.find(b"}", begin + 1) if begin >= 0 else -1
    return key[begin + 1 : end] if end >= 0 else None


def slot_of(key):
    tag = tag_of(key)
    return zlib.crc32(key if tag is None else tag) % 1024


def dump(value):
    """The payload of a value: str, list, set, dict (hash), Scores (sorted set)."""

    def length(number):
        if number < 64:
            return bytes([number])
        return struct.pack(">H", 0x4000 | number) if number < 1 << 14 else b"\x80" + struct.pack(">I", number)

    def text(item):
        return length(len(item)) + item

    if isinstance(value, bytes):
        body = b"\x00" + text(value)
    elif isinstance(value, list):
        body = b"\x01" + length(len(value)) + b"".join(map(text, value))
    elif isinstance(value, set):
        body = b"\x02" + length(len(value)) + b"".join(map(text, value))
    elif isinstance(value, Scores):
        scores = (text(member) + text(b"%.17g" % score) for member, score in value.items())
        body = b"\x03" + length(len(value)) + b"".join(scores)
    else:
        body = b"\x04" + length(len(value)) + b"".join(text(field) + text(item) for field, item in value.items())
    body += struct.pack("<H", VERSION)
    return body + struct.pack("<Q", crc64(body))


def load(payload):
    body, crc = payload[:-8], payload[-8:]
    if struct.pack("<Q", crc64(body)) != crc or struct.unpack("<H", body[-2:])[0] > VERSION:
        raise Refused("ERR dump payload version or checksum are wrong")
    at = 1

    def take(count):
        nonlocal at
        at += count
        assert at <= len(body) - 2, payload
        return body[at - count : at]

    def length():
        first = take(1)[0]
        if first >> 6 == 0:
            return first
        if first >> 6 == 1:
            return (first & 0x3F) << 8 | take(1)[0]
        assert first == 0x80, f"codis-server reads no length that begins with {first}"
        return struct.unpack(">I", take(4))[0]

    def text():
        return take(length())

    kind = body[0]
    if kind == 0:
        value = text()
    elif kind == 1:
        value = [text() for _ in range(length())]
    elif kind == 2:
        value = {text() for _ in range(length())}
    elif kind == 3:
        value = Scores((text(), float(take(take(1)[0]))) for _ in range(length()))
    else:
        assert kind == 4, f"codis-server has no type {kind}"
        value = {text(): text() for _ in range(length())}
    assert at == len(body) - 2, "bytes are left"
    return value


class Scores(dict):
    """A sorted set."""


class CodisServer:
    """Listens until it is closed. All commands run under one lock, as in the real one's single thread."""

    def __init__(self, password=None):
        self.name, self.password = "codis-server", password
        self.data, self.expiry = {}, {}
        self.heard = {}
        self.lock = threading.RLock()
        outer = self

        class Handler(socketserver.BaseRequestHandler):
            def handle(self):
                self.request.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                outer.serve(self.request)

        class Server(socketserver.ThreadingTCPServer):
            daemon_threads = True
            allow_reuse_address = True
            request_queue_size = 64

        self.server = Server(("127.0.0.1", 0), Handler)
        self.port = self.server.server_address[1]
        self.address = f"127.0.0.1:{self.port}"
        threading.Thread(target=self.server.serve_forever, daemon=True).start()

    def close(self):
        self.server.shutdown()
        self.server.server_close()

    def client(self, timeout=60, **more):
        more.setdefault("password", self.password)
        return redis.Redis(host="127.0.0.1", port=self.port, protocol=2, socket_timeout=timeout,
                           retry=Retry(NoBackoff(), 0), **more)

    def do(self, *words):
        client = self.client()
        try:
            return client.execute_command(*words)
        finally:
            client.close()

    def keys(self, slot=None):
        with self.lock:
            return [key for key in list(self.data) if self.get(key) is not None and slot in (None, slot_of(key))]

    # What is between a socket and a command.

    def serve(self, sock):
        stream = sock.makefile("rb")
        session = {"auth": self.password is None}
        while line := stream.readline():
            if not line.startswith(b"*"):
                return
            words = []
            for _ in range(int(line[1:])):
                words.append(stream.read(int(stream.readline()[1:]) + 2)[:-2])
            with self.lock:
                closes = False
                name = words[0].upper().decode()
                self.heard[name] = self.heard.get(name, 0) + 1
                try:
                    answer = self.run(session, name, words[1:])
                except Refused as why:
                    answer = why
                    if name.startswith("SLOTSRESTORE-ASYNC"):
                        answer, closes = [ACK, b"-1", str(why).encode()], True
            try:
                sock.sendall(encode(answer))
            except OSError:
                return
            if closes:
                return

    def run(self, session, name, args):
        if name in ("AUTH", "SLOTSRESTORE-ASYNC-AUTH"):
            if self.password is None:
                raise Refused("ERR Client sent AUTH, but no password is set")
            session["auth"] = args[0].decode() == self.password
            if not session["auth"]:
                raise Refused("ERR invalid password")
            return [ACK, b"0", b"OK"] if "ASYNC" in name else "OK"
        if not session["auth"]:
            raise Refused("NOAUTH Authentication required.")
        method = getattr(self, "do_" + name.lower().replace("-", "_"), None)
        if method is None:
            raise Refused(f"ERR unknown command '{name}'")
        return method(*args)

    def get(self, key, kind=None):
        if self.expiry.get(key, float("inf")) <= time.time():
            self.drop(key)
        value = self.data.get(key)
        if value is not None and kind and type(value) is not kind:
            raise Refused("WRONGTYPE Operation against a key holding the wrong kind of value")
        return value

    def drop(self, key):
        self.expiry.pop(key, None)
        return self.data.pop(key, None) is not None

    def put(self, key, value, ttl_ms=0):
        self.data[key] = value
        self.expiry.pop(key, None)
        if ttl_ms:
            self.expiry[key] = time.time() + ttl_ms / 1000

    # What clients send.

    def do_ping(self):
        return "PONG"

    def do_select(self, _):
        return "OK"

    def do_info(self, *_):
        return b"# Keyspace\r\ndb0:keys=%d,expires=0,avg_ttl=0\r\n" % len(self.data)

    def do_slotsinfo(self, *_):
        slots = [slot_of(key) for key in self.keys()]
        return [[slot, slots.count(slot)] for slot in sorted(set(slots))]

    def do_get(self, key):
        return self.get(key, bytes)

    def do_set(self, key, value):
        self.put(key, value)
        return "OK"

    def do_getset(self, key, value):
        old = self.get(key, bytes)
        self.put(key, value)
        return old

    def do_del(self, key):
        return int(self.get(key) is not None and self.drop(key))

    def do_incr(self, key):
        self.data[key] = b"%d" % (int(self.get(key, bytes) or 0) + 1)
        return int(self.data[key])

    def do_rpush(self, key, *items):
        self.get(key, list)
        self.data.setdefault(key, []).extend(items)
        return len(self.data[key])

    def do_sadd(self, key, *members):
        self.get(key, set)
        self.data.setdefault(key, set()).update(members)
        return len(members)

    def do_hset(self, key, field, value):
        self.get(key, dict)
        self.data.setdefault(key, {})[field] = value
        return 1

    def do_zadd(self, key, score, member):
        self.get(key, Scores)
        self.data.setdefault(key, Scores())[member] = float(score)
        return 1

    def do_lrange(self, key, *_):
        return list(self.get(key, list) or [])

    def do_smembers(self, key):
        return sorted(self.get(key, set) or [])

    def do_hgetall(self, key):
        return [part for pair in (self.get(key, dict) or {}).items() for part in pair]

    def do_zrange(self, key, *_):
        pairs = sorted((self.get(key, Scores) or {}).items(), key=lambda pair: (pair[1], pair[0]))
        return [part for member, score in pairs for part in (member, b"%.17g" % score)]

    def do_pexpire(self, key, ttl):
        found = self.get(key) is not None
        if found:
            self.expiry[key] = time.time() + int(ttl) / 1000
        return int(found)

    def do_pttl(self, key):
        if self.get(key) is None:
            return -2
        return round((self.expiry[key] - time.time()) * 1000) if key in self.expiry else -1

    # What another node sends whose keys come here.

    def do_slotsrestore(self, *triples):
        loaded = [(triples[at], int(triples[at + 1]), load(triples[at + 2])) for at in range(0, len(triples), 3)]
        for key, ttl, value in loaded:
            self.put(key, value, ttl)
        return "OK"

    def do_slotsrestore_async_select(self, db):
        return [ACK, b"0", b"OK"]

    def do_slotsrestore_async(self, what, key, *rest):
        what, there = what.lower(), self.get(key)
        if what == b"delete":
            return [ACK, b"0", b"%d" % self.drop(key)]
        ttl = int(rest[0])
        if what in (b"string", b"object"):
            if there is not None:
                raise Refused("ERR the specified key already exists")
            self.put(key, rest[1] if what == b"string" else load(rest[1]), ttl)
            return [ACK, b"0", b"1"]
        kind = {b"list": list, b"hash": dict, b"dict": set, b"zset": Scores}.get(what)
        if what == b"expire":
            if there is None:
                raise Refused("ERR the specified key doesn't exist")
            value = there
        elif kind is None or (there is not None and type(there) is not kind):
            raise Refused("ERR unknown command, or wrong type")
        else:
            value, parts = there if there is not None else kind(), rest[2:]
            if kind is list:
                value.extend(parts)
            elif kind is set:
                value.update(parts)
            elif kind is dict:
                value.update(zip(parts[::2], parts[1::2], strict=True))
            else:
                raw = (struct.unpack("<d", score)[0] for score in parts[1::2])
                value.update(zip(parts[::2], raw, strict=True))
        self.put(key, value, ttl)
        return [ACK, b"0", b"%d" % len(value)]

    # What a dashboard and proxies send while its keys go elsewhere.

    def do_slotsmgrttagslot(self, host, port, _timeout, slot):
        return self.send_away(host, port, self.keys(int(slot))[:1], False), len(self.keys(int(slot)))

    def do_slotsmgrttagone(self, host, port, _timeout, key):
        return self.send_away(host, port, [key], False)

    def do_slotsmgrttagslot_async(self, host, port, _timeout, maxbulks, _maxbytes, slot, numkeys):
        keys = self.keys(int(slot))[: int(numkeys)]
        return self.send_away(host, port, keys, True, int(maxbulks)), len(self.keys(int(slot)))

    def do_slotsmgrt_exec_wrapper(self, key, name, *args):
        if self.get(key) is None:
            return [0, Refused("ERR the specified key doesn't exist")]
        try:
            return [2, self.run({"auth": True}, name.upper().decode(), args)]
        except Refused as why:
            return [2, why]

    def send_away(self, host, port, keys, in_pieces, maxbulks=200):
        tags = {tag_of(key) for key in keys} - {None}
        keys = {key for key in self.keys() if key in keys or tag_of(key) in tags}
        if not keys:
            return 0
        with socket.create_connection((host.decode(), int(port)), 30) as sock:
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            stream = sock.makefile("rb")
            said = list(self.greeting(in_pieces))
            if in_pieces:
                for key in keys:
                    said.extend(self.pieces(key, maxbulks))
            else:
                said.append([b"SLOTSRESTORE", *(part for key in keys for part in (key, self.ttl(key), dump(self.data[key])))])
            for words in said:
                sock.sendall(command(words))
            for words in said:
                answer = read(stream)
                good = answer[:2] == [ACK, b"0"] if in_pieces else answer == b"+OK"
                if not good:
                    raise Refused(f"ERR {words[:3]} was answered {answer!r}")
        for key in keys:
            self.drop(key)
        return len(keys)

    def ttl(self, key):
        return b"%d" % max(self.do_pttl(key), 0)

    def greeting(self, in_pieces):
        prefix = b"SLOTSRESTORE-ASYNC-" if in_pieces else b""
        if self.password:
            yield [prefix + b"AUTH", self.password.encode()]
        yield [prefix + b"SELECT", b"0"]

    def pieces(self, key, maxbulks):
        name, value = b"SLOTSRESTORE-ASYNC", self.data[key]
        yield [name, b"delete", key]
        if isinstance(value, bytes):
            yield [name, b"string", key, self.ttl(key), value]
            return
        what, parts = b"list", list(value)
        if isinstance(value, set):
            what = b"dict"
        elif isinstance(value, Scores):
            what, parts = b"zset", [part for member, score in value.items() for part in (member, struct.pack("<d", score))]
        elif isinstance(value, dict):
            what, parts = b"hash", [part for pair in value.items() for part in pair]
        if len(parts) <= maxbulks:
            yield [name, b"object", key, self.ttl(key), dump(value)]
            return
        for at in range(0, len(parts), maxbulks):
            yield [name, what, key, b"15000", b"%d" % len(value), *parts[at : at + maxbulks]]
        yield [name, b"expire", key, self.ttl(key)]


def command(words):
    return b"*%d\r\n" % len(words) + b"".join(b"$%d\r\n%s\r\n" % (len(word), word) for word in words)


def encode(answer):
    if isinstance(answer, Refused):
        return b"-%s\r\n" % str(answer).encode()
    if isinstance(answer, str):
        return b"+%s\r\n" % answer.encode()
    if isinstance(answer, int):
        return b":%d\r\n" % answer
    if answer is None:
        return b"$-1\r\n"
    if isinstance(answer, bytes):
        return b"$%d\r\n%s\r\n" % (len(answer), answer)
    return b"*%d\r\n" % len(answer) + b"".join(map(encode, answer))


def read(stream):
    """A reply: an array of bulk strings, or a line."""
    line = stream.readline()
    if not line:
        raise Refused("ERR the other node closed the connection")
    if not line.startswith(b"*"):
        return line.rstrip()
    return [stream.read(int(stream.readline()[1:]) + 2)[:-2] for _ in range(int(line[1:]))]
