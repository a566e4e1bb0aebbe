#!/usr/bin/env python3
"""Sends the same random list and sorted-set commands to a real Redis (7.0) and to Haypile, in RESP2 and RESP3, and
compares the replies byte for byte. Both are started here, on free loopback ports, in a folder that goes afterwards.

    tests/differential/lists_zsets.py [--haypile target/debug/haypile] [--seed N] [--rounds N] [--steps N]

Ends with status 1 at the first difference, with the commands of that round on its keys. What is left to chance or to a
hash's order (ZRANDMEMBER, ZSCAN) is compared as a set of elements, and the sign of a zero is not looked at: here it is
kept nowhere, in Redis in large sorted sets.
"""
import argparse, os, random, shutil, socket, subprocess, sys, tempfile, time

SCORES = ["0", "1", "2", "-1", "1.5", "3.1", "-0", "1e17", "1e300", "inf", "-inf", "+inf", "0.1", "-1e-300", "17"]
BAD = ["nan", "", "abc", "1x", " 1", "1 ", "9223372036854775808", "--1", "(1", "0x10", "1e400", "infinity"]


class Client:
    def __init__(self, port, proto):
        self.socket = socket.create_connection(("127.0.0.1", port))
        self.file = self.socket.makefile("rb")
        self.proto = proto
        if proto == 3 and self.run([b"HELLO", b"3"])[0][:1] == b"-":
            sys.exit("a server does not speak RESP3")

    def run(self, args):
        out = b"*%d\r\n" % len(args) + b"".join(b"$%d\r\n%s\r\n" % (len(a), a) for a in args)
        self.socket.sendall(out)
        return self.read()

    def read(self):
        """The reply: its raw bytes and what it stands for."""
        line = self.file.readline()
        kind, rest = line[:1], line[1:-2]
        if kind in b"+-:,_#(":
            return line, rest
        if kind in b"$=":
            if int(rest) < 0:
                return line, None
            data = self.file.read(int(rest) + 2)
            return line + data, data[:-2]
        if kind in b"*~>%":
            count = int(rest) * (2 if kind == b"%" else 1)
            if count < 0:
                return line, None
            parts = [self.read() for _ in range(count)]
            return line + b"".join(raw for raw, _ in parts), [value for _, value in parts]
        raise ValueError(line)


class Maker:
    """Makes commands: mostly right, sometimes wrong."""

    def __init__(self, rng, big):
        self.r, self.big = rng, big
        self.lists = ["{t}l%d" % n for n in range(3)]
        self.zsets = ["{t}z%d" % n for n in range(3)]

    def key(self, keys):
        if self.r.random() < 0.02:
            return self.r.choice(["{t}string", "{t}missing", "{t}set", self.lists[0], self.zsets[0]])
        return self.r.choice(keys)

    def number(self):
        r = self.r
        if r.random() < 0.02:
            return r.choice(BAD)
        return str(r.choice([0, 1, 2, 5, -1, -2, -5, r.randint(-400, 400), r.randint(-20, 20)]))

    def count(self):
        return str(self.r.choice([0, 1, 2, 3, 10, 300])) if self.r.random() < 0.95 else self.number()

    def item(self):
        r = self.r
        if r.random() < 0.01:
            return "x" * r.randint(60, 70)
        return "i%d" % r.randint(0, 400 if self.big else 30)

    def items(self):
        return [self.item() for _ in range(self.r.choice([1, 1, 2, 5, 60 if self.big else 3]))]

    def score(self):
        return self.r.choice(SCORES) if self.r.random() < 0.98 else self.r.choice(BAD)

    def end(self):
        return self.r.choice(["LEFT", "right"]) if self.r.random() < 0.98 else "up"

    def bound(self):
        return ("(" if self.r.random() < 0.3 else "") + self.score()

    def cut(self):
        r = self.r
        if r.random() < 0.02:
            return r.choice(["i1", "", "+1", "--"])
        return r.choice(["-", "+"]) if r.random() < 0.3 else r.choice("[(") + self.item()

    def some(self, *options):
        """Some of these groups of words, in any order."""
        chosen = [option for option in options if self.r.random() < 0.3]
        self.r.shuffle(chosen)
        return [word for option in chosen for word in option]

    def list_command(self):
        r, key = self.r, lambda: self.key(self.lists)
        keys = [key() for _ in range(r.randint(1, 3))]
        return r.choice([
            lambda: [r.choice(["LPUSH", "RPUSH", "lpush", "rpush", "LPUSHX", "RPUSHX"]), key(), *self.items()],
            lambda: [r.choice(["LPUSH", "RPUSH"]), key(), *self.items()],
            lambda: [r.choice(["LPUSH", "RPUSH"]), key(), *self.items()],
            lambda: [r.choice(["LPOP", "RPOP"]), key(), *([self.count()] if r.random() < 0.5 else [])],
            lambda: ["LLEN", key()],
            lambda: ["LINDEX", key(), self.number()],
            lambda: ["LSET", key(), self.number(), self.item()],
            lambda: ["LRANGE", key(), self.number(), self.number()],
            lambda: ["LRANGE", key(), "0", "-1"],
            lambda: ["LTRIM", key(), self.number(), self.number()] if r.random() < 0.3 else ["LLEN", key()],
            lambda: ["LINSERT", key(), r.choice(["BEFORE", "after", "after", "at"]), self.item(), self.item()],
            lambda: ["LREM", key(), self.number(), self.item()],
            lambda: ["LPOS", key(), self.item(), *self.some(["RANK", self.number()], ["COUNT", self.number()],
                                                            ["MAXLEN", self.number()], ["bad"] if r.random() < 0.1 else [])],
            lambda: ["LMOVE", key(), key(), self.end(), self.end()],
            lambda: ["RPOPLPUSH", key(), key()],
            lambda: ["LMPOP", str(len(keys)) if r.random() < 0.97 else self.number(), *keys, self.end(),
                     *self.some(["COUNT", self.count()])],
        ])()

    def combined(self, store):
        r = self.r
        keys = [self.key(self.zsets + ["{t}set"]) for _ in range(r.randint(1, 3))]
        operation = r.choice(["UNION", "INTER", "DIFF"])
        numbered = [str(len(keys)) if r.random() < 0.97 else self.number(), *keys]
        if not store and r.random() < 0.2:
            return ["ZINTERCARD", *numbered, *self.some(["LIMIT", self.count()])]
        weights = ["WEIGHTS", *[self.score() for _ in keys]]
        options = self.some(weights, ["AGGREGATE", r.choice(["SUM", "min", "MAX", "SUM", "avg"])])
        if operation == "DIFF" and r.random() < 0.95:
            options = []
        if not store or r.random() < 0.02:
            options += self.some(["WITHSCORES"])
        return (["Z" + operation + "STORE", self.key(self.zsets)] if store else ["Z" + operation]) + numbered + options

    def zset_command(self):
        r, key = self.r, lambda: self.key(self.zsets)
        keys = [key() for _ in range(r.randint(1, 3))]
        pairs = lambda: [word for item in self.items() for word in (self.score(), item)]
        limit = ["LIMIT", self.number(), self.number()]
        def ranged():
            by, ends = r.choice([([], (self.number(), self.number())), (["BYSCORE"], (self.bound(), self.bound())),
                                 (["BYRANK"], ("0", "-1"))])
            return [*ends, *by, *self.some(["REV"], limit if by or r.random() < 0.1 else [])]
        return r.choice([
            lambda: ["ZADD", key(), *pairs()],
            lambda: ["ZADD", key(), *pairs()],
            lambda: ["ZADD", key(), *self.some(["NX"], ["xx"], ["GT"], ["LT"], ["CH"], ["INCR"])[:2], *pairs()],
            lambda: ["ZADD", key(), "INCR", self.score(), self.item()],
            lambda: ["ZINCRBY", key(), self.score(), self.item()],
            lambda: ["ZREM", key(), *self.items()],
            lambda: ["ZCARD", key()],
            lambda: ["ZSCORE", key(), self.item()],
            lambda: ["ZMSCORE", key(), *self.items()],
            lambda: [r.choice(["ZRANK", "ZREVRANK"]), key(), self.item()],
            lambda: ["ZCOUNT", key(), self.bound(), self.bound()],
            lambda: ["ZRANGE", key(), *ranged(), *self.some(["WITHSCORES"])],
            lambda: ["ZRANGE", key(), "0", "-1", "WITHSCORES"],
            lambda: ["ZRANGESTORE", key(), key(), *ranged()],
            lambda: ["ZREVRANGE", key(), self.number(), self.number(), *self.some(["WITHSCORES"])],
            lambda: [r.choice(["ZRANGEBYSCORE", "ZREVRANGEBYSCORE"]), key(), self.bound(), self.bound(),
                     *self.some(["WITHSCORES"], limit)],
            lambda: ["ZREMRANGEBYRANK", key(), self.number(), self.number()] if r.random() < 0.3 else ["ZCARD", key()],
            lambda: ["ZREMRANGEBYSCORE", key(), self.bound(), self.bound()] if r.random() < 0.3 else ["ZCARD", key()],
            lambda: [r.choice(["ZPOPMIN", "ZPOPMAX"]), key(), *([self.count()] if r.random() < 0.6 else [])],
            lambda: ["ZMPOP", str(len(keys)) if r.random() < 0.97 else self.number(), *keys,
                     r.choice(["MIN", "max", "max", "mid"]), *self.some(["COUNT", self.count()])],
            lambda: ["ZRANDMEMBER", key()],
            lambda: ["ZSCAN", key(), "0", "COUNT", "100000", *self.some(["MATCH", "i*1*"])],
            lambda: self.combined(False),
            lambda: self.combined(True),
        ])()

    def lex_command(self):
        """On keys whose members all have one score: elsewhere a range of members has no meaning."""
        r, key = self.r, lambda: r.choice(["{t}x0", "{t}x1"])
        limit = ["LIMIT", self.number(), self.number()]
        return r.choice([
            lambda: ["ZADD", key(), *[word for item in self.items() for word in ("5", item)]],
            lambda: ["ZREM", key(), *self.items()],
            lambda: ["ZLEXCOUNT", key(), self.cut(), self.cut()],
            lambda: [r.choice(["ZRANGEBYLEX", "ZREVRANGEBYLEX"]), key(), self.cut(), self.cut(), *self.some(limit)],
            lambda: ["ZRANGE", key(), self.cut(), self.cut(), "BYLEX", *self.some(["REV"], limit)],
            lambda: ["ZRANGESTORE", key(), key(), self.cut(), self.cut(), "BYLEX", *self.some(["REV"], limit)],
            lambda: ["ZREMRANGEBYLEX", key(), self.cut(), self.cut()] if r.random() < 0.2 else ["ZCARD", key()],
        ])()

    def command(self):
        made = self.r.choice([self.list_command, self.list_command, self.zset_command, self.zset_command,
                              self.zset_command, self.lex_command])()
        if self.r.random() < 0.01:
            made = made[: self.r.randint(1, len(made))]
        return [word.encode() for word in made]


def comparable(command, reply):
    """What of a reply must be the same; the rest is chance."""
    raw, value = reply
    name = command[0].upper()
    if raw[:1] == b"-" or value is None:
        return raw
    if name == b"ZSCAN":
        pairs = value[1] or []
        return sorted((pairs[n], float(pairs[n + 1])) for n in range(0, len(pairs), 2))
    if name == b"ZRANDMEMBER":
        return raw[:1]
    return raw.replace(b"$2\r\n-0\r\n", b"$1\r\n0\r\n").replace(b",-0\r\n", b",0\r\n")


def free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def connect(port, proto, process):
    for _ in range(400):
        if process.poll() is not None:
            sys.exit("a server ended before it served")
        try:
            return Client(port, proto)
        except ConnectionRefusedError:
            time.sleep(0.025)
    sys.exit("a server does not answer")


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--haypile", default="target/debug/haypile")
    parser.add_argument("--seed", type=int, default=random.randrange(1 << 32))
    parser.add_argument("--rounds", type=int, default=20)
    parser.add_argument("--steps", type=int, default=1000)
    parser.add_argument("--protos", type=int, nargs="+", default=[2, 3])
    options = parser.parse_args()
    again = f"tests/differential/lists_zsets.py --seed {options.seed} --rounds {options.rounds} --steps {options.steps}"
    print(again)
    folder = tempfile.mkdtemp()
    ports = [free_port(), free_port()]
    quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
    servers = [
        subprocess.Popen(["redis-server", "--port", str(ports[0]), "--bind", "127.0.0.1", "--save", "", "--dir", folder], **quiet),
        subprocess.Popen([options.haypile, "serve", "--port", str(ports[1]), "--standalone", "--dir",
                          os.path.join(folder, "data")], **quiet),
    ]
    try:
        sys.exit(compare(options, ports, servers))
    finally:
        for server in servers:
            server.kill()
            server.wait()
        shutil.rmtree(folder)


def compare(options, ports, servers):
    clients = {proto: [connect(port, proto, server) for port, server in zip(ports, servers)] for proto in options.protos}
    keys = ["{t}%s" % name for name in "l0 l1 l2 z0 z1 z2 x0 x1 string set missing".split()]
    rng, total = random.Random(options.seed), 0
    for number in range(options.rounds):
        maker, history = Maker(rng, big=number % 2 == 1), []
        for client in clients[options.protos[0]]:
            client.run([b"DEL", *[key.encode() for key in keys]])
            client.run([b"SET", b"{t}string", b"s"])
            client.run([b"SADD", b"{t}set", *[b"i%d" % n for n in range(0, 60, 3)]])
        for _ in range(options.steps):
            command, proto = maker.command(), rng.choice(options.protos)
            history.append(command)
            replies = [client.run(command) for client in clients[proto]]
            total += 1
            if comparable(command, replies[0]) != comparable(command, replies[1]):
                touched = set(command) & {key.encode() for key in keys}
                for past in history[-300:]:
                    if touched & set(past):
                        print(b" ".join(past)[:200].decode())
                print(f"round {number}, RESP{proto}: {b' '.join(command).decode()}")
                print(f"  redis   {replies[0][0][:2000]}\n  haypile {replies[1][0][:2000]}")
                return 1
    print(f"{total} commands, no difference")
    return 0


if __name__ == "__main__":
    main()
