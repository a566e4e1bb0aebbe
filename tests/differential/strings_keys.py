#!/usr/bin/env python3
"""Sends the same random commands on strings, bits, counters, keys and expiries to a real Redis (7.0) and to Haypile, in
RESP2 and RESP3, and compares the replies byte for byte. Both are started here, as by lists_zsets.py.

    tests/differential/strings_keys.py [--haypile target/debug/haypile] [--seed N] [--rounds N] [--steps N]

Ends with status 1 at the first difference, with the commands of that round. Of what counts from now (TTL, EXPIRETIME) only
the sign is compared; expiries are so far away, or so long past, that none is passed on the way.
"""
import argparse, os, random, shutil, subprocess, sys, tempfile

from lists_zsets import connect, free_port

KEYS = ["{t}k%d" % n for n in range(8)]
VALUES = ["", "a", "hello", "hello world", "10", "-5", "3.25", "99999999999999999999", b"\xff\xf0", b"\0\1\x80", "1e3",
          "9223372036854775806", "abcabcabc", "0x10", b"\xff" * 20]
WHOLE = ["0", "1", "-1", "5", "-7", "100", "9223372036854775807", "-9223372036854775808", "9223372036854775808", "01",
         "+1", "abc", "", "1.5", " 1", "3", "2", "-2"]
PARTS = ["0.1", "-0.1", "1e5", "3", "1.5e-7", "123456.789", "inf", "nan", "x", "5.0e3", "1e20", "-1e20", ".5", "5.",
         "0.3333333333333333333", "1e-10", "999999999999.999", "1e4932", "-1e4933", "1e-4950"]
# What EXPIRE and its like are called with that is no number, or so long past or so far away that it never comes to pass on the way.
NO_TIME = ["9223372036854775807", "-9223372036854775808", "9223372036854775808", "01", "+1", "abc", "", "1.5", " 1", "0", "-2"]
FAR = ["1000000", "2000000", "3000000"]
FORMS = ["u8", "i8", "u4", "i5", "i64", "u63", "u1", "i16"]


class Maker:
    """Makes commands: mostly right, sometimes wrong."""

    def __init__(self, rng):
        self.r = rng
        self.makers = [getattr(self, name) for name in sorted(dir(self)) if name.startswith("make_")]

    def command(self):
        made = self.r.choice(self.makers)()
        if self.r.random() < 0.01:
            made = made[: self.r.randint(1, len(made))]
        return [word if isinstance(word, bytes) else str(word).encode() for word in made]

    def rarely(self, wrong, right):
        return self.r.choice(wrong if self.r.random() < 0.05 else right)

    def key(self):
        return self.r.choice(KEYS)

    def keys(self, most=3):
        return [self.key() for _ in range(self.r.randint(1, most))]

    def value(self):
        return self.r.choice(VALUES)

    def near(self):
        return str(self.r.randint(-8, 14))

    def place(self):
        return self.near() if self.r.random() < 0.9 else self.r.choice(WHOLE)

    def bit(self):
        return self.rarely(["-1", "x", "4294967296"], [str(self.r.randint(0, 150))])

    def some(self, *options):
        chosen = [option for option in options if self.r.random() < 0.15]
        self.r.shuffle(chosen)
        return [word for option in chosen for word in option]

    def expiry(self):
        r = self.r
        return [["EX", self.rarely(["0", "-1", "x", "9223372036854775807"], FAR)], ["px", "99999999"],
                ["EXAT", self.rarely(["0", "x"], ["1", "99999999999"])], ["PXAT", "99999999999999"]][r.randrange(4)]

    def make_set(self):
        return ["SET", self.key(), self.value(), *self.some(["NX"], ["xx"], ["GET"], ["KEEPTTL"], self.expiry(), ["EX"], ["bad"])]

    def make_plain_set(self):
        return ["SET", self.key(), self.r.choice(VALUES + WHOLE + PARTS)]

    def make_get(self):
        return [self.r.choice(["GET", "get", "GETDEL", "STRLEN", "TYPE"]), self.key()]

    def make_getex(self):
        return ["GETEX", self.key(), *self.some(self.expiry(), ["PERSIST"], ["NX"])]

    def make_replace(self):
        return [self.r.choice(["GETSET", "SETNX", "APPEND"]), self.key(), self.value()]

    def make_setex(self):
        return [self.r.choice(["SETEX", "PSETEX"]), self.key(), self.rarely(["0", "-1", "x"], ["100000000"]), self.value()]

    def make_many(self):
        pairs = [word for key in self.keys() for word in (key, self.value())]
        return self.r.choice([["MSET", *pairs], ["MSETNX", *pairs], ["MGET", *self.keys()], ["MGET", *self.keys()]])

    def make_range(self):
        return [self.r.choice(["GETRANGE", "SUBSTR"]), self.key(), self.place(), self.place()]

    def make_setrange(self):
        return ["SETRANGE", self.key(), self.rarely(["-1", "x", "536870912"], [str(self.r.randint(0, 30))]), self.value()]

    def make_count(self):
        return self.r.choice([["INCR", self.key()], ["DECR", self.key()], ["INCRBY", self.key(), self.r.choice(WHOLE)],
                              ["DECRBY", self.key(), self.r.choice(WHOLE)], ["INCRBYFLOAT", self.key(), self.r.choice(PARTS)]])

    def make_lcs(self):
        return ["LCS", self.key(), self.key(), *self.some(["LEN"], ["IDX"], ["WITHMATCHLEN"], ["MINMATCHLEN", self.near()])]

    def make_bit(self):
        return self.r.choice([["SETBIT", self.key(), self.bit(), self.rarely(["2", "x"], ["0", "1"])],
                              ["GETBIT", self.key(), self.bit()]])

    def make_bitcount(self):
        span = self.r.choice([[], [self.place()], [self.place(), self.place()],
                              [self.place(), self.place(), self.rarely(["x"], ["BIT", "byte"])]])
        return self.r.choice([["BITCOUNT", self.key()], ["BITPOS", self.key(), self.rarely(["2", "x"], ["0", "1"])]]) + span

    def make_bitop(self):
        return ["BITOP", self.rarely(["BAD"], ["AND", "or", "XOR", "NOT"]), self.key(), *self.keys()]

    def make_bitfield(self):
        words = []
        for _ in range(self.r.randint(0, 4)):
            form = self.rarely(["u64", "i0", "x3"], FORMS)
            at = self.rarely(["-1", "x"], [str(self.r.randint(0, 90)), "#%d" % self.r.randint(0, 5)])
            by = str(self.r.choice([self.r.randint(-300, 300), self.near(), self.r.choice(WHOLE)]))
            words += self.r.choice([["GET", form, at], ["SET", form, at, by], ["INCRBY", form, at, by],
                                    ["OVERFLOW", self.rarely(["bad"], ["WRAP", "sat", "FAIL"])]])
        return [self.rarely(["BITFIELD_RO"], ["BITFIELD"]), self.key(), *words]

    def make_keys(self):
        return [self.r.choice(["DEL", "UNLINK", "EXISTS", "TOUCH", "EXISTS"]), *self.keys()]

    def make_rename(self):
        return [self.r.choice(["RENAME", "RENAMENX"]), self.key(), self.key()]

    def make_copy(self):
        return ["COPY", self.key(), self.key(), *self.some(["REPLACE"], ["DB", "0"], ["bad"])]

    def make_expire(self):
        name, times = self.r.choice([("EXPIRE", FAR), ("PEXPIRE", ["1000000000"]), ("EXPIREAT", ["99999999999", "1"]),
                                     ("PEXPIREAT", ["99999999999123", "1"])])
        return [name, self.key(), self.rarely(NO_TIME, times), *self.some(["NX"], ["xx"], ["GT"], ["LT"], ["bad"])]

    def make_tell(self):
        return [self.r.choice(["TTL", "PTTL", "EXPIRETIME", "PEXPIRETIME", "PERSIST"]), self.key()]

    def make_other_type(self):
        return self.r.choice([["RPUSH", self.key(), self.value()], ["HSET", self.key(), "f", self.value()],
                              ["SADD", self.key(), self.value()], ["ZADD", self.key(), "1", self.value()]])

    def make_connection(self):
        return self.r.choice([["PING"], ["PING", self.value()], ["ECHO", self.value()], ["SELECT", self.rarely(["x"], ["0"])],
                              ["NOSUCH", "a", self.key()], ["CLIENT", "GETNAME"], ["CLIENT", "BAD"], ["SCAN", "x"],
                              ["CLIENT", "SETNAME", "me"], ["HELLO", "9"], ["CONFIG", "BAD"], ["AUTH", "a", "b"],
                              ["SCAN", "0", "COUNT", "0"], ["COMMAND", "GETKEYS", "MSET", "a", "b", "c", "d"]])


def comparable(command, reply):
    """What of a reply must be the same."""
    raw, value = reply
    if command[0].upper() in (b"TTL", b"PTTL", b"EXPIRETIME", b"PEXPIRETIME") and raw[:1] == b":" and int(value) >= 0:
        return b"some time"
    if command[0].upper() in (b"HELLO", b"SCAN") and raw[:1] in b"*%":
        return b"something"
    return raw


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--haypile", default="target/debug/haypile")
    parser.add_argument("--seed", type=int, default=random.randrange(1 << 32))
    parser.add_argument("--rounds", type=int, default=20)
    parser.add_argument("--steps", type=int, default=1000)
    options = parser.parse_args()
    print(f"tests/differential/strings_keys.py --seed {options.seed} --rounds {options.rounds} --steps {options.steps}")
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
    clients = {proto: [connect(port, proto, server) for port, server in zip(ports, servers)] for proto in (2, 3)}
    rng, total = random.Random(options.seed), 0
    maker = Maker(rng)
    for number in range(options.rounds):
        history = []
        for client in clients[2]:
            client.run([b"DEL", *[key.encode() for key in KEYS]])
        for _ in range(options.steps):
            command, proto = maker.command(), rng.choice([2, 3])
            history.append(command)
            replies = [client.run(command) for client in clients[proto]]
            total += 1
            if comparable(command, replies[0]) != comparable(command, replies[1]):
                touched = set(command) & {key.encode() for key in KEYS}
                for past in history[-300:]:
                    if touched & set(past):
                        print(repr(b" ".join(past)[:200]))
                print(f"round {number}, RESP{proto}: {b' '.join(command)!r}")
                print(f"  redis   {replies[0][0][:2000]}\n  haypile {replies[1][0][:2000]}")
                return 1
    print(f"{total} commands, no difference")
    return 0


if __name__ == "__main__":
    main()
