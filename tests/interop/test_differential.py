"""The same commands to a node and to Debian's redis-server: the same answers.

Seeded random sequences over few keys, so that types collide and every branch is taken. What Redis leaves open (the
order of a set, of a hash's fields) is compared without order.
"""

import random
import subprocess
import time
import unittest
from pathlib import Path

import redis

from harness import LONG, Case, eventually, free_port, seed

SECONDS = 300 if LONG else 20
# A machine that is faster than those that this was tried on goes no further.
COMMANDS_MAX = 1 << 62 if LONG else 100_000
BATCH = 200
KEYS = [f"k{number}" for number in range(6)]
# Sorted sets in which all members have one score: only there Redis says what a range by name is.
LEX_KEYS = ["lex0", "lex1"]
# Mostly HyperLogLogs: few strings would be by chance.
HLL_KEYS = ["hll0", "hll1", "hll2"]
GEO_KEYS = ["geo0", "geo1"]
SORT_KEYS = ["{s}0", "{s}1", "{s}2"]
# Kept apart, so that streams and their groups live long enough to fill.
STREAM_KEYS = ["x0", "x1", "x2", "x9"]
FIELDS = ["a", "b", "c", "1", "2", "", "field\0x"]
UNORDERED = {"SMEMBERS", "HKEYS", "HVALS", "SUNION", "SINTER", "SDIFF", "KEYS"}
PAIRS = {"HGETALL"}
# What real servers dumped, and with a broken checksum or a type that there is not.
PAYLOADS = [bytes.fromhex(line.split()[1]) for line in (Path(__file__).parents[2] / "server/src/rdb/payloads.txt").read_text().splitlines()]
BROKEN = [b"", b"x" * 30, PAYLOADS[0][:-1] + b"x", PAYLOADS[0][:-10] + b"\xff\x00" + PAYLOADS[0][-8:]]


class Commands:
    """Makes random commands, most of them right, some of them not."""

    def __init__(self, chance):
        self.r = chance
        # Collections of hundreds of elements, which are stored in another form than small ones.
        self.wide = False
        # The greatest id given to a stream so far.
        self.top = 0
        # What comes next, if something must follow the command before.
        self.due = []
        self.makers = [getattr(self, name) for name in dir(self) if name.startswith("make_")]

    def next(self):
        if self.due:
            return self.due.pop()
        words = [str(word) if not isinstance(word, bytes) else word for word in self.r.choice(self.makers)()]
        if self.r.random() < 0.01 and len(words) > 1 and not self.due:
            words.pop()
        return words

    def k(self):
        return self.r.choice(KEYS)

    def l(self):
        return self.r.choice(LEX_KEYS)

    def make_lex(self):
        return self.r.choice([["ZADD", self.l(), *[word for _ in range(3) for word in (0, self.f())]], ["ZREM", self.l(), self.f()],
                              ["ZRANGE", self.l(), 0, -1]])

    def f(self):
        return f"field {self.r.randrange(500)}" if self.wide and self.r.random() < 0.95 else self.r.choice(FIELDS)

    def many(self, make, most=4):
        return [make() for _ in range(self.r.randint(1, most * (30 if self.wide and make == self.f else 1)))]

    def v(self):
        return self.r.choice(["", "x", "hello", "10", "-3", "3.5", "9223372036854775807", "a" * 100, "\0\1", "0", " 1", "1e3", "nan"])

    def i(self):
        return self.r.choice([0, 1, -1, 2, 3, -2, 5, -5, 100, -100, 9223372036854775807, -9223372036854775808, "x", "1.5"]
                             if self.r.random() < 0.2 else [0, 1, -1, 2, 3, -2, 5])

    def score(self):
        return self.r.choice([0, 1, 2, -1, 1.5, 2.25, "inf", "-inf", "1e10", 100, 3, "x"] if self.r.random() < 0.3 else [0, 1, 2, 3, 1.5])

    def bound(self):
        return self.r.choice(["", "("]) + str(self.score())

    def lex(self):
        return self.r.choice(["-", "+", "[a", "(a", "[b", "(c", "[", "a"])

    def option(self, *words, chance=0.3):
        return list(words) if self.r.random() < chance else []

    def ex(self):
        return self.r.choice([["EX", 1000], ["PX", 1000000], ["EXAT", 4000000000], ["PXAT", 4000000000000], ["KEEPTTL"], ["EX", 0],
                              ["EX", "x"], ["EX", -1]])

    # strings
    def make_set(self):
        return ["SET", self.k(), self.v(), *self.option(self.r.choice(["NX", "XX"])), *self.option("GET"), *self.option(*self.ex())]

    def make_get(self):
        return [self.r.choice(["GET", "STRLEN", "GETDEL"]), self.k()]

    def make_getex(self):
        return ["GETEX", self.k(), *self.option(*self.r.choice([["PERSIST"], ["EX", 1000], ["PXAT", 4000000000000], ["EX", 0]]))]

    def make_getset(self):
        return [self.r.choice(["GETSET", "SETNX", "APPEND"]), self.k(), self.v()]

    def make_incr(self):
        return [self.r.choice(["INCR", "DECR"]), self.k()]

    def make_incrby(self):
        return [self.r.choice(["INCRBY", "DECRBY"]), self.k(), self.i()]

    def make_incrbyfloat(self):
        return ["INCRBYFLOAT", self.k(), self.r.choice([1, 0.5, -2.25, "1e2", "x", "3.0"])]

    def make_range(self):
        return [self.r.choice(["GETRANGE", "SUBSTR"]), self.k(), self.i(), self.i()]

    def make_setrange(self):
        return ["SETRANGE", self.k(), self.r.choice([0, 1, 5, 20, -1]), self.v()]

    def make_mget(self):
        return ["MGET", *self.many(self.k)]

    def make_mset(self):
        return [self.r.choice(["MSET", "MSETNX"]), *[word for _ in range(self.r.randint(1, 3)) for word in (self.k(), self.v())]]

    def make_setex(self):
        return [self.r.choice(["SETEX", "PSETEX"]), self.k(), self.r.choice([100000000, 0, -1, "x"]), self.v()]

    def make_bits(self):
        return self.r.choice([
            ["SETBIT", self.k(), self.r.choice([0, 7, 8, 100, -1]), self.r.choice([0, 1, 2])],
            ["GETBIT", self.k(), self.r.choice([0, 1, 7, 100, -1])],
            ["BITCOUNT", self.k()],
            ["BITCOUNT", self.k(), self.i(), self.i(), *self.option(self.r.choice(["BIT", "BYTE"]))],
            ["BITPOS", self.k(), self.r.choice([0, 1, 2]), *self.option(self.i(), *self.option(self.i(), *self.option("BIT")))],
            ["BITOP", self.r.choice(["AND", "OR", "XOR", "NOT"]), self.k(), *self.many(self.k, 3)],
        ])

    def make_lcs(self):
        return ["LCS", self.k(), self.k(), *self.option(self.r.choice(["LEN", "IDX"]))]

    # keys
    def make_del(self):
        return [self.r.choice(["DEL", "UNLINK", "EXISTS", "TOUCH"]), *self.many(self.k)]

    def make_type(self):
        return [self.r.choice(["TYPE", "EXPIRETIME", "PEXPIRETIME", "PERSIST"]), self.k()]

    def make_expire(self):
        name, when = self.r.choice([("EXPIRE", 100000), ("PEXPIRE", 100000000), ("EXPIREAT", 4000000000), ("PEXPIREAT", 4000000000000)])
        if name in ("EXPIRE", "PEXPIRE"):
            when = self.r.choice([0, -1, "x"])  # a relative time in the future would differ by the moment it is run
        return [name, self.k(), when, *self.option(self.r.choice(["NX", "XX", "GT", "LT", "ZZ"]))]

    def make_rename(self):
        return [self.r.choice(["RENAME", "RENAMENX"]), self.k(), self.k()]

    def make_copy(self):
        return ["COPY", self.k(), self.k(), *self.option("REPLACE")]

    def make_keys(self):
        return self.r.choice([["KEYS", self.r.choice(["*", "k?", "k[0-2]", "nope*", "k[^1]"])], ["DBSIZE"]])

    def make_hyperloglog(self):
        key = lambda: self.r.choice(HLL_KEYS if self.r.random() < 0.9 else KEYS)
        elements = [f"element {self.r.randrange(20000)}" for _ in range(self.r.choice([0, 1, 3, 10, 300]))]
        return self.r.choice([["PFADD", key(), *elements], ["PFADD", key(), *elements], ["PFCOUNT", *self.many(key, 2)], ["PFMERGE", *self.many(key, 3)],
                              ["GET", key()], ["STRLEN", key()]])

    # places
    def make_geo(self):
        k = lambda: self.r.choice(GEO_KEYS if self.r.random() < 0.95 else KEYS)
        member = lambda: f"place {self.r.randrange(300 if self.wide else 12)}"
        near = lambda: [round(self.r.uniform(10, 20), 4), round(self.r.uniform(35, 45), 4)]
        anywhere = lambda: [round(self.r.uniform(-180, 180), 3), round(self.r.uniform(-85, 85), 3)]
        place = lambda: near() if self.r.random() < 0.7 else anywhere() if self.r.random() < 0.9 else self.r.choice([[181, 0], [0, 86], ["x", 1], [180, 85.05112878]])
        unit = lambda: self.r.choice(["m", "km", "KM", "ft", "mi"] if self.r.random() < 0.97 else ["parsec"])
        radius = lambda: self.r.choice([0, 1, 10, 100, 300, 1000, 5000, 500000, 1.5] if self.r.random() < 0.95 else ["x", -1, "inf", 30000000])
        centre = lambda: self.r.choice([["FROMMEMBER", member()], ["FROMLONLAT", *place()]]) if self.r.random() < 0.97 else []
        shape = lambda: self.r.choice([["BYRADIUS", radius(), unit()], ["BYBOX", radius(), radius(), unit()]]) if self.r.random() < 0.97 else []
        limits = [*self.option(self.r.choice(["ASC", "DESC"])), *self.option("COUNT", self.r.choice([1, 2, 5, 0, "x"]), *self.option("ANY"))]
        more = [*self.option("WITHCOORD"), *self.option("WITHDIST"), *self.option("WITHHASH")]
        return self.r.choice([
            ["GEOADD", k(), *self.option(self.r.choice(["NX", "XX", "CH"])), *[word for _ in range(self.r.choice([1, 1, 3, 30])) for word in (*place(), member())]],
            ["GEOADD", k(), *[word for _ in range(self.r.choice([1, 3, 10])) for word in (*near(), member())]],
            ["GEOPOS", k(), *self.many(member)], ["GEOHASH", k(), *self.many(member)], ["GEODIST", k(), member(), member(), *self.option(unit())],
            ["GEOSEARCH", k(), *centre(), *shape(), *limits, *more],
            ["GEOSEARCHSTORE", k(), k(), *centre(), *shape(), *limits, *self.option("STOREDIST", chance=0.1), *self.option("WITHDIST", chance=0.05)],
            [self.r.choice(["GEORADIUS", "GEORADIUS_RO"]), k(), *place(), radius(), unit(), *limits, *more],
            [self.r.choice(["GEORADIUSBYMEMBER", "GEORADIUSBYMEMBER_RO"]), k(), member(), radius(), unit(), *limits, *more],
            ["GEORADIUS", k(), *place(), radius(), unit(), *limits, self.r.choice(["STORE", "STOREDIST"]), k()],
            ["ZRANGE", k(), 0, -1, "WITHSCORES"], ["ZREM", k(), member()], ["DEL", k()],
        ])

    # what sorts, with keys of one slot
    def make_sort(self):
        k = lambda: self.r.choice(SORT_KEYS)
        number = lambda: self.r.choice([1, 2, 3, 10, -1, 1.5, "a", "", "1e3"] if self.r.random() < 0.2 else [1, 2, 3, 10, -1])
        by = self.option("BY", self.r.choice(["nosort", "{s}w*", "{s}h*->f", "{s}*", "{s}none*", "w*", "h*->f"]))
        get = [word for _ in range(self.r.choice([0, 0, 1, 2])) for word in ("GET", self.r.choice(["#", "{s}w*", "{s}h*->f", "{s}h*->", "x", "w*", "h*->f"]))]
        sorts = [k(), *by, *self.option("LIMIT", self.i(), self.i()), *get, *self.option(self.r.choice(["ASC", "DESC"])),
                 *self.option("ALPHA", chance=0.0 if by and by[1] != "nosort" else 0.3)]
        words = self.r.choice([
            ["RPUSH", k(), number(), number()], ["SADD", k(), number(), number()], ["ZADD", k(), 1, number(), 2, number()], ["DEL", k()], ["DEL", k(), k()],
            ["SET", f"{{s}}w{number()}", number()], ["HSET", f"{{s}}h{number()}", "f", number()], ["DEL", f"{{s}}w{number()}"],
            # In slots of their own.
            ["SET", f"w{number()}", number()], ["HSET", f"h{number()}", "f", number()],
            ["SORT", *sorts], ["SORT_RO", *sorts], ["SORT", *sorts, "STORE", k()], ["LRANGE", k(), 0, -1],
        ])
        if not words[0].startswith("SORT"):
            return words
        # Redis 7.0 refuses to sort numbers if `errno` is still ERANGE from a command before. ZADD clears it, and does no more here.
        self.due.append([str(word) for word in words])
        return ["ZADD", "{s}none", "XX", 0, "m"]

    def make_object(self):
        key = self.r.choice(KEYS + HLL_KEYS + GEO_KEYS + SORT_KEYS)
        return self.r.choice([["OBJECT", self.r.choice(["REFCOUNT", "IDLETIME", "ENCODING", "FREQ", "BAD"]), key], ["OBJECT", "ENCODING"], ["MEMORY", "USAGE", key]])

    def make_dump(self):
        return ["DUMP", self.k()]

    def make_restore(self):
        ttl = self.r.choice([0, 0, 0, -1, "x"])
        absolute = self.option("ABSTTL", chance=0.2)
        if absolute and ttl == 0:
            # Long past or far away, and far away too if the last word is left out (`next`), which makes it count from now.
            ttl = self.r.choice([1000000000000, 4000000000000])
        return ["RESTORE", self.k(), ttl, self.r.choice(PAYLOADS if self.r.random() < 0.8 else BROKEN), *self.option("REPLACE", chance=0.7), *absolute,
                *self.option(self.r.choice(["IDLETIME", "FREQ"]), self.r.choice([0, 5, -1, 300, "x"]), chance=0.1), *self.option("FREQ", chance=0.05)]

    # hashes
    def make_hset(self):
        return [self.r.choice(["HSET", "HSET", "HMSET"]), self.k(), *[word for _ in range(self.r.randint(1, 4)) for word in (self.f(), self.v())]]

    def make_hget(self):
        return [self.r.choice(["HGET", "HEXISTS", "HSTRLEN"]), self.k(), self.f()]

    def make_hmany(self):
        return [self.r.choice(["HMGET", "HDEL"]), self.k(), *self.many(self.f)]

    def make_hall(self):
        return [self.r.choice(["HGETALL", "HKEYS", "HVALS", "HLEN"]), self.k()]

    def make_hincr(self):
        return self.r.choice([["HINCRBY", self.k(), self.f(), self.i()], ["HINCRBYFLOAT", self.k(), self.f(), self.r.choice([1, 0.5, "x"])],
                              ["HSETNX", self.k(), self.f(), self.v()]])

    # lists
    def make_push(self):
        return [self.r.choice(["LPUSH", "RPUSH", "LPUSHX", "RPUSHX"]), self.k(), *self.many(self.f)]

    def make_pop(self):
        return [self.r.choice(["LPOP", "RPOP"]), self.k(), *self.option(self.r.choice([0, 1, 2, 10, -1, "x"]))]

    def make_lrange(self):
        return [self.r.choice(["LRANGE", "LTRIM"]), self.k(), self.i(), self.i()]

    def make_lindex(self):
        return self.r.choice([["LINDEX", self.k(), self.i()], ["LLEN", self.k()], ["LSET", self.k(), self.i(), self.f()],
                              ["LREM", self.k(), self.i(), self.f()],
                              ["LINSERT", self.k(), self.r.choice(["BEFORE", "AFTER", "x"]), self.f(), self.f()],
                              ["RPOPLPUSH", self.k(), self.k()],
                              ["LMOVE", self.k(), self.k(), self.r.choice(["LEFT", "RIGHT"]), self.r.choice(["LEFT", "RIGHT", "x"])]])

    def make_lpos(self):
        return ["LPOS", self.k(), self.f(), *self.option("RANK", self.r.choice([1, 2, -1, 0])), *self.option("COUNT", self.r.choice([0, 1, 2, -1])),
                *self.option("MAXLEN", self.r.choice([0, 1, 3, -1]))]

    def make_lmpop(self):
        return ["LMPOP", 2, self.k(), self.k(), self.r.choice(["LEFT", "RIGHT"]), *self.option("COUNT", self.r.choice([1, 2, 0]))]

    # sets
    def make_sadd(self):
        return [self.r.choice(["SADD", "SADD", "SREM", "SMISMEMBER"]), self.k(), *self.many(self.f)]

    def make_smembers(self):
        return [self.r.choice(["SMEMBERS", "SCARD"]), self.k()]

    def make_sismember(self):
        return self.r.choice([["SISMEMBER", self.k(), self.f()], ["SMOVE", self.k(), self.k(), self.f()]])

    def make_salgebra(self):
        name = self.r.choice(["SUNION", "SINTER", "SDIFF"])
        return [name, *self.many(self.k, 3)] if self.r.random() < 0.5 else [name + "STORE", self.k(), *self.many(self.k, 3)]

    def make_sintercard(self):
        return ["SINTERCARD", 2, self.k(), self.k(), *self.option("LIMIT", self.r.choice([0, 1, 2, -1]))]

    # sorted sets
    def make_zadd(self):
        flags = [*self.option(self.r.choice(["NX", "XX"])), *self.option(self.r.choice(["GT", "LT"]), chance=0.2), *self.option("CH"), *self.option("INCR", chance=0.1)]
        return ["ZADD", self.k(), *flags, *[word for _ in range(self.r.randint(1, 3)) for word in (self.score(), self.f())]]

    def make_zscore(self):
        return self.r.choice([["ZSCORE", self.k(), self.f()], ["ZMSCORE", self.k(), *self.many(self.f)], ["ZCARD", self.k()],
                              ["ZINCRBY", self.k(), self.score(), self.f()], ["ZREM", self.k(), *self.many(self.f)],
                              [self.r.choice(["ZRANK", "ZREVRANK"]), self.k(), self.f(), *self.option("WITHSCORE", chance=0.0)]])

    def make_zrange(self):
        by = self.r.choice(["", "BYSCORE", "BYLEX"])
        bounds = {"": [self.i(), self.i()], "BYSCORE": [self.bound(), self.bound()], "BYLEX": [self.lex(), self.lex()]}[by]
        return ["ZRANGE", self.l() if by == "BYLEX" else self.k(), *bounds, *([by] if by else []), *self.option("REV"), *self.option("LIMIT", self.r.choice([0, 1, -1]), self.i()),
                *self.option("WITHSCORES")]

    def make_zrangestore(self):
        return ["ZRANGESTORE", self.k(), self.k(), self.i(), self.i(), *self.option("REV")]

    def make_zold(self):
        return self.r.choice([
            ["ZREVRANGE", self.k(), self.i(), self.i(), *self.option("WITHSCORES")],
            [self.r.choice(["ZRANGEBYSCORE", "ZREVRANGEBYSCORE"]), self.k(), self.bound(), self.bound(), *self.option("WITHSCORES"),
             *self.option("LIMIT", 0, self.i())],
            [self.r.choice(["ZRANGEBYLEX", "ZREVRANGEBYLEX"]), self.l(), self.lex(), self.lex()],
            ["ZCOUNT", self.k(), self.bound(), self.bound()],
            ["ZLEXCOUNT", self.l(), self.lex(), self.lex()],
            ["ZREMRANGEBYRANK", self.k(), self.i(), self.i()],
            ["ZREMRANGEBYSCORE", self.k(), self.bound(), self.bound()],
            ["ZREMRANGEBYLEX", self.l(), self.lex(), self.lex()],
            [self.r.choice(["ZPOPMIN", "ZPOPMAX"]), self.k(), *self.option(self.r.choice([0, 1, 2, -1]))],
            ["ZMPOP", 2, self.k(), self.k(), self.r.choice(["MIN", "MAX"]), *self.option("COUNT", self.r.choice([1, 2, 0]))],
        ])

    def make_zalgebra(self):
        name = self.r.choice(["ZUNION", "ZINTER", "ZDIFF"])
        keys = self.many(self.k, 3)
        more = [] if name == "ZDIFF" else [*self.option("WEIGHTS", *[self.r.choice([1, 2, 0.5, "x"]) for _ in keys]),
                                           *self.option("AGGREGATE", self.r.choice(["SUM", "MIN", "MAX"]))]
        if self.r.random() < 0.5:
            return [name, len(keys), *keys, *more, *self.option("WITHSCORES")]
        return [name + "STORE", self.k(), len(keys), *keys, *more]

    def make_zintercard(self):
        return ["ZINTERCARD", 2, self.k(), self.k(), *self.option("LIMIT", self.r.choice([0, 1, 2]))]

    # streams; ids are given, as those that a server makes tell its time
    def x(self):
        return self.r.choice(STREAM_KEYS) if self.r.random() < 0.97 else self.k()

    def id(self):
        if self.r.random() < 0.04:
            return self.r.choice(["-", "+", "*", "x", "", "1-x", "-1", "1-2-3", "18446744073709551615", "18446744073709551616", "007-01",
                                  "0-0", "1-*", "0"])
        ms = self.r.randrange(self.top // 3 + 1)
        return self.r.choice([f"{ms}", f"{ms}-{self.r.randrange(4)}"])

    def interval(self):
        return self.r.choice(["-", "+"]) if self.r.random() < 0.3 else self.r.choice(["", "", "("]) + self.id()

    def group(self):
        return self.r.choice(["g", "g", "g", "h", "h", "other"])

    def consumer(self):
        return self.r.choice(["alice", "bob", "carol", ""])

    def new_id(self):
        id = self.id()
        if self.r.random() < 0.1 and id != "*":
            return id
        self.top += 1
        ms = self.top // 3
        return self.r.choice([f"{ms}-*", f"{ms}-{self.top % 3}", f"{ms}-1", f"{ms}"])

    def trim(self):
        strategy, threshold = self.r.choice([("MAXLEN", self.r.choice([0, 1, 3, 10, 100, 250, -1, "x"])), ("MINID", self.id())])
        # An approximate trimming hangs on how Redis packs entries, unless nothing or all goes.
        return [strategy, *self.option(self.r.choice(["=", "~"]) if threshold == 0 else "="), threshold,
                *self.option("LIMIT", self.r.choice([0, 5, -1]), chance=0.05)]

    def make_xadd(self):
        return ["XADD", self.x(), *self.option("NOMKSTREAM", chance=0.1), *self.option(*self.trim(), chance=0.1), self.new_id(),
                *[word for _ in range(self.r.randint(1, 3)) for word in (self.f(), self.v())]]

    make_xadd_again = make_xadd
    make_xadd_more = make_xadd

    def make_xlen(self):
        return [self.r.choice(["XLEN", "TYPE", "EXISTS"]) if self.r.random() < 0.98 else "DEL", self.x()]

    def make_xcopy(self):
        return [self.r.choice(["COPY", "RENAMENX"]), self.x(), self.r.choice([self.x(), "x9"])] if self.r.random() < 0.1 else ["XLEN", "x9"]

    def make_xrange(self):
        return [self.r.choice(["XRANGE", "XREVRANGE"]), self.x(), self.interval(), self.interval(),
                *self.option("COUNT", self.r.choice([0, 1, 2, 5, -1, "x"]))]

    def make_xall(self):
        return ["XRANGE", self.x(), "-", "+"]

    def make_xdel(self):
        return ["XDEL", self.x(), *self.many(self.id)]

    def make_xtrim(self):
        return ["XTRIM", self.x(), *self.trim()] if self.r.random() < 0.5 else ["XLEN", self.x()]

    def make_xsetid(self):
        return ["XSETID", self.x(), self.new_id() if self.r.random() < 0.5 else self.id(),
                *self.option("ENTRIESADDED", self.r.choice([0, 5, 1000, 100000, -1])), *self.option("MAXDELETEDID", self.id())]

    def make_xgroup(self):
        group = [self.x(), self.group()]
        read = self.option("ENTRIESREAD", self.r.choice([0, 3, 100, -1, -2, "x"]))
        at = self.r.choice(["$", "0", self.id()])
        return ["XGROUP", *self.r.choice([
            ["CREATE", *group, at, *self.option("MKSTREAM"), *read],
            ["CREATE", *group, at, *self.option("MKSTREAM"), *read],
            ["SETID", *group, at, *read],
            ["DESTROY", *group] if self.r.random() < 0.3 else ["FOO", *group],
            ["CREATECONSUMER", *group, self.consumer()],
            ["DELCONSUMER", *group, self.consumer()],
        ])]

    def reads(self):
        return [*self.option("COUNT", self.r.choice([0, 1, 2, 10, -1, "x"]), chance=0.7)]

    def make_xread(self):
        keys = self.many(self.x, 3)
        return ["XREAD", *self.reads(), *self.option("NOACK", chance=0.01), "STREAMS", *keys,
                *[self.r.choice([self.id(), "$", "0", "0"]) if self.r.random() < 0.98 else ">" for _ in keys]]

    def make_xreadgroup(self):
        keys = self.many(self.x, 2)
        return ["XREADGROUP", "GROUP", self.group(), self.consumer(), *self.reads(), *self.option("NOACK", chance=0.1), "STREAMS", *keys,
                *[self.r.choice([">", ">", ">", "0", self.id()]) if self.r.random() < 0.98 else "$" for _ in keys]]

    make_xreadgroup_again = make_xreadgroup

    def make_xack(self):
        return ["XACK", self.x(), self.group(), *self.many(self.id)]

    def make_xpending(self):
        return ["XPENDING", self.x(), self.group(), *self.option(*self.option("IDLE", self.r.choice([0, 1000000, "x"])), self.interval(),
                self.interval(), self.r.choice([0, 1, 5, 100, -1]), *self.option(self.consumer()), chance=0.7)]

    def idle(self):
        return self.r.choice([0, 0, 100000000, 100000000000000, -1, "x"]) if self.r.random() < 0.3 else 0

    def make_xclaim(self):
        return ["XCLAIM", self.x(), self.group(), self.consumer(), self.idle(), *self.many(self.id), *self.option("FORCE"),
                *self.option("JUSTID"), *self.option("IDLE", self.r.choice([1000000000, "x"])), *self.option("TIME", self.r.choice([1000, -5])),
                *self.option("RETRYCOUNT", self.r.choice([0, 5, -1, "x"])), *self.option("LASTID", self.id()), *self.option("BAD", chance=0.01)]

    def make_xautoclaim(self):
        return ["XAUTOCLAIM", self.x(), self.group(), self.consumer(), self.idle(), self.interval() if self.r.random() < 0.4 else "0",
                *self.option("COUNT", self.r.choice([1, 2, 5, 0, -1, "x"])), *self.option("JUSTID")]

    def make_xinfo(self):
        return ["XINFO", *self.r.choice([["GROUPS", self.x()], ["CONSUMERS", self.x(), self.group()], ["STREAM", self.x()],
                                         ["STREAM", self.x(), "FULL", *self.option("COUNT", self.r.choice([0, 1, 5, -1]))], ["FOO", self.x()]])]

    make_xinfo_again = make_xinfo

    # scripts, each with all its keys named
    def make_eval(self):
        script, keys, args = self.r.choice([
            ("return redis.call(ARGV[1], KEYS[1])", 1, [self.r.choice(["get", "llen", "hlen", "incr", "lpop", "nosuch", "xlen"])]),
            ("return redis.pcall('set', KEYS[1], ARGV[1])", 1, [self.v()]),
            ("redis.call('rpush', KEYS[1], ARGV[1]) return redis.call('lrange', KEYS[1], 0, -1)", 1, [self.v()]),
            ("redis.call('append', KEYS[1], 'x') redis.call('lpush', KEYS[2], 'y') return 1", 2, []),
            ("local n = 0 for i, key in ipairs(KEYS) do if type(redis.pcall('rpoplpush', key, KEYS[1])) == 'table' then n = n + 1 end end "
             "return n", 3, []),
            ("local r = redis.call('hmget', KEYS[1], 'a', 'b') return {r[1], r[2], #r}", 1, []),
            ("return redis.call('zadd', KEYS[1], ARGV[1], ARGV[2])", 1, [self.score(), self.f()]),
            ("return tonumber(ARGV[1])", 0, [self.r.choice([1, 2.5, -3.9, "x"])]),
            ("return {KEYS[1], ARGV[1] == 'x', {ok = 'y'}, 3.7, false}", 1, [self.v()]),
            ("return cjson.encode({ARGV[1], tonumber(ARGV[1]) or cjson.null})", 0, [self.r.choice([1, 0.5, "x", "1e3"])]),
            ("error(ARGV[1])", 0, ["bad"]),
            # With keys that they do not name.
            ("return redis.call(ARGV[1], ARGV[2])", 0, [self.r.choice(["get", "llen", "type", "incr", "lpop", "del"]), self.k()]),
            ("redis.call('append', KEYS[1], 'x') redis.pcall('lpush', ARGV[1], 'y') return {redis.call('dbsize'), redis.call('type', ARGV[1])}",
             1, [self.k()]),
            ("local found = redis.call('keys', 'k*') table.sort(found) return found", 0, []),
            ("local may = redis.acl_check_cmd(ARGV[1], ARGV[2] or 'x') return may", 0, [self.r.choice(["get", "nosuch"]), self.k()]),
        ])
        return [self.r.choice(["EVAL", "EVAL", "EVAL_RO"]), script, keys, *[self.k() for _ in range(keys)], *args]


def alike(words, their, our):
    """Whether two answers say the same. A moment that was given as seconds from now may differ by the time between."""
    their, our = settled(words, their), settled(words, our)
    if words[0].upper() in ("EXPIRETIME", "PEXPIRETIME") and isinstance(their, int) and isinstance(our, int):
        second = 1000 if words[0].upper().startswith("P") else 1
        return min(their, our) == max(their, our) or min(their, our) > 0 and abs(their - our) < 100 * second
    return their == our


# What XINFO tells of time, and of how entries are packed.
PASSING = {b"idle", b"seen-time", b"radix-tree-keys", b"radix-tree-nodes"}


def timeless(answer):
    """What XINFO answers without what passes."""
    if not isinstance(answer, list):
        return answer
    out = [timeless(item) for item in answer]
    for at in range(0, len(out) - 1, 2):
        if isinstance(out[at], bytes) and out[at] in PASSING:
            out[at + 1] = None
        if out[at] == b"pending" and isinstance(out[at + 1], list):
            # id, consumer, given, count; or id, given, count
            out[at + 1] = [[*one[:-2], one[-2] < 1000000, one[-1]] for one in out[at + 1]]
    return out


def settled(words, answer):
    """An answer in a form that can be compared: errors as text, what has no order sorted."""
    name = words[0].upper()
    if isinstance(answer, Exception) and "no serialisation" not in str(answer):
        return f"error: {answer}"
    if name == "XINFO":
        return timeless(answer)
    if name == "MEMORY" and isinstance(answer, int):
        return "some bytes"
    if name == "OBJECT" and answer is not None and words[1] in ("REFCOUNT", "IDLETIME", "ENCODING"):
        # A value's past decides there, and which numbers are shared: what is here is told by unit tests.
        return "something"
    if name.startswith("SORT") and "nosort" in map(str, words) and isinstance(answer, list):
        return sorted(map(repr, answer)) if "LIMIT" not in words else len(answer)
    if name.startswith("GEO") and isinstance(answer, list) and "ANY" in words:
        return len(answer)
    if name.startswith("GEO") and isinstance(answer, list) and name not in ("GEOPOS", "GEOHASH") and not {"ASC", "DESC", "COUNT"} & set(map(str, words)):
        return sorted(map(repr, answer))
    if name == "XPENDING" and len(words) > 3 and isinstance(answer, list):
        return [[id, consumer, idle > 1000000, count] for id, consumer, idle, count in answer]
    if name == "DUMP" and (isinstance(answer, bytes) or "no serialisation" in str(answer)):
        return "a payload"  # each writes the forms that it likes; whether the other reads them is a test of its own
    if isinstance(answer, list):
        if name in UNORDERED:
            return sorted(answer)
        if name in PAIRS:
            return sorted(zip(answer[::2], answer[1::2]))
    if isinstance(answer, (set, frozenset)):
        return sorted(answer)
    return answer


def raw(port):
    """A client that gives answers as they came: no conversion may hide a difference."""
    client = redis.Redis(port=port, protocol=2, socket_timeout=60)
    client.response_callbacks.clear()
    return client


def start_redis(case, *options):
    """Starts Debian's redis-server for a test; its port."""
    port = free_port()
    log = open(case.folder / "redis.log", "wb")
    process = subprocess.Popen(["redis-server", "--port", str(port), "--bind", "127.0.0.1", "--save", "", "--dir", str(case.folder), *options],
                               stdout=log, stderr=log)
    case.addCleanup(log.close)
    case.addCleanup(process.wait)
    case.addCleanup(process.kill)
    client = raw(port)

    def up():
        try:
            return client.ping()
        except redis.ConnectionError:
            assert process.poll() is None, "redis-server ended"
            return False

    eventually(up, "redis-server answers")
    return port


class Differential(Case):
    def test_random_commands_get_the_answers_that_redis_gives(self):
        theirs = raw(start_redis(self))
        node = self.node("node", "--standalone", "--maxmemory", str(16 << 20), "--log-segment-bytes", str(1 << 20))
        ours = raw(node.port)
        chance = random.Random(f"{seed()}/differential")
        commands = Commands(chance)
        deadline = time.monotonic() + SECONDS
        history, count, restarts = [], 0, 0
        while count < COMMANDS_MAX and (time.monotonic() < deadline or count < 2000):
            batch = [commands.next() for _ in range(BATCH)]
            if chance.random() < 0.02:
                batch[0] = ["FLUSHALL"]
                history = []
                commands.wide = chance.random() < 0.5
                commands.top = 0
            if chance.random() < 0.005:
                # Whatever was answered is there after kill -9 too.
                node.kill()
                node.start()
                restarts += 1
            answers = []
            for client in (theirs, ours):
                pipeline = client.pipeline(transaction=False)
                for words in batch:
                    pipeline.execute_command(*words)
                pipeline.response_callbacks = {}
                answers.append(pipeline.execute(raise_on_error=False))
            for words, their, our in zip(batch, *answers, strict=True):
                history.append(words)
                count += 1
                if not alike(words, their, our):
                    touched = set(map(str, words[1:])) & {*KEYS, *LEX_KEYS, *STREAM_KEYS, *HLL_KEYS, *GEO_KEYS, *SORT_KEYS}
                    before = [one for one in history[-400:] if touched & set(map(str, one[1:]))][-12:]
                    self.fail(f"after {count} commands (seed {seed()}), {words}\n  Redis: {str(settled(words, their))[:600]!r}\n  ours:  "
                              f"{str(settled(words, our))[:600]!r}\n  before it on these keys:\n    " + "\n    ".join(map(str, before)))
        print(f"       {count} commands answered alike, {restarts} restarts after kill -9 between them")

    def test_what_one_dumps_the_other_restores(self):
        theirs = raw(start_redis(self))
        node = self.node("node", "--standalone")
        ours = raw(node.port)
        # It looks at every byte of a packed form, and not only at the checksum.
        theirs.config_set("sanitize-dump-payload", "yes")
        chance = random.Random(f"{seed()}/dump")
        commands, kinds = Commands(chance), set()
        for round_number in range(12):
            commands.wide = round_number % 2 == 1
            for client in (theirs, ours):
                client.flushall()
            for _ in range(400):
                words = commands.next()
                if words[0] != "FLUSHALL":
                    for client in (theirs, ours):
                        try:
                            client.execute_command(*words)
                        except redis.ResponseError:
                            pass
            made = [["SET", "t0", commands.v()], ["RPUSH", "t1", *commands.many(commands.f)], ["SADD", "t2", *commands.many(commands.f)],
                    ["HSET", "t3", commands.f(), commands.v()], ["ZADD", "t4", chance.random(), commands.f(), "-inf", "other"],
                    ["SADD", "t5", *commands.many(lambda: chance.randrange(100000))]]
            for client in (theirs, ours):
                client.delete(*[words[1] for words in made])
                for words in made:
                    client.execute_command(*words)
            for giver, taker in ((theirs, ours), (ours, theirs)):
                for key in KEYS + LEX_KEYS + HLL_KEYS + GEO_KEYS + STREAM_KEYS + [words[1] for words in made]:
                    payload = giver.execute_command("DUMP", key)
                    if payload is None:
                        continue
                    self.assertEqual(b"OK", taker.execute_command("RESTORE", "copy", 0, payload, "REPLACE"))
                    kind = giver.execute_command("TYPE", key).decode()
                    self.assertEqual(kind, taker.execute_command("TYPE", "copy").decode())
                    kinds.add(kind)
                    ask = {"string": ["GET", ""], "list": ["LRANGE", "", 0, -1], "set": ["SMEMBERS", ""], "hash": ["HGETALL", ""],
                           "zset": ["ZRANGE", "", 0, -1, "WITHSCORES"], "stream": ["XINFO", "STREAM", "", "FULL", "COUNT", 0]}[kind]
                    told = [settled(ask, client.execute_command(*[word or at for word in map(str, ask)])) for client, at in ((giver, key), (taker, "copy"))]
                    self.assertEqual(told[0], told[1], f"{kind} (seed {seed()})")
                taker.delete("copy")
        self.assertEqual(6, len(kinds))


if __name__ == "__main__":
    unittest.main()
