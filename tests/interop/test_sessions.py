"""What is between a client and the others: transactions. The same steps of several connections to a node and to Debian's
redis-server, the same answers.
"""

import random
import time

import redis

from harness import LONG, Case, eventually, seed
from test_differential import Commands, alike, settled, start_redis

SECONDS = 120 if LONG else 10
CONNECTIONS = 3


class Line:
    """A connection, as it is: one answer for one command."""

    def __init__(self, port):
        self.port = port
        self.open()

    def open(self):
        self.connection = redis.Connection(port=self.port, protocol=2, socket_timeout=60)
        self.connection.connect()

    def ask(self, words):
        self.connection.send_command(*words)
        return self.hear()

    def hear(self):
        try:
            return self.connection.read_response(disconnect_on_error=False)
        except redis.ResponseError as error:
            return error


    def ask_all(self, words, mark):
        """What comes until the answer to a mark behind the command."""
        if words:
            self.connection.send_command(*words)
        self.connection.send_command("PING", mark)
        heard = []
        while True:
            try:
                heard.append(self.connection.read_response(disconnect_on_error=False))
            except redis.ResponseError as error:
                heard.append(error)
            if heard[-1] in (mark.encode(), [b"pong", mark.encode()]):
                return heard


class Sessions(Case):
    def test_transactions_get_the_answers_that_redis_gives(self):
        theirs, ours = start_redis(self), self.node("node", "--standalone")
        chance = random.Random(f"{seed()}/sessions")
        commands = Commands(chance)
        lines = [[Line(port) for port in (theirs, ours.port)] for _ in range(CONNECTIONS)]
        queues = [None] * CONNECTIONS
        history, counts = [], {"run": 0, "stopped": 0, "refused": 0}
        deadline = time.monotonic() + SECONDS
        while time.monotonic() < deadline or len(history) < 2000:
            who = chance.randrange(CONNECTIONS)
            words = self.step(chance, commands, queues[who] is not None)
            their, our = (line.ask(words) for line in lines[who])
            history.append((who, words))
            name = str(words[0])
            if name == "EXEC" and isinstance(their, list) and isinstance(our, list) and queues[who] is not None and len(their) == len(our):
                same = all(alike(*three) for three in zip(queues[who], their, our))
            else:
                same = alike(words, their, our)
            if not same:
                self.fail(f"after {len(history)} steps (seed {seed()}), connection {who}: {words}\n  Redis: {str(settled(words, their))[:600]!r}\n"
                          f"  ours:  {str(settled(words, our))[:600]!r}\n  before it:\n    " + "\n    ".join(map(str, history[-40:])))
            if name == "MULTI" and queues[who] is None:
                queues[who] = []
            elif name in ("EXEC", "DISCARD", "RESET"):
                if name == "EXEC" and queues[who] is not None:
                    counts["run" if isinstance(their, list) else "stopped" if their is None else "refused"] += 1
                queues[who] = None
            elif queues[who] is not None and their == b"QUEUED":
                queues[who].append(words)
        self.assertGreater(min(counts.values()), 5, counts)
        print(f"       {len(history)} steps answered alike; transactions: {counts}")

    def step(self, chance, commands, gathering):
        if chance.random() < (0.35 if gathering else 0.3):
            special = [["EXEC"]] * 6 + [["DISCARD"], ["MULTI"], ["WATCH", "k0"], ["RESET"], ["GET"]] if gathering else \
                [["MULTI"]] * 6 + [["WATCH", *commands.many(commands.k, 2)]] * 6 + [["UNWATCH"], ["EXEC"], ["DISCARD"], ["FLUSHALL"]]
            return chance.choice(special)
        while True:
            words = commands.next()
            # A subcommand that there is not is refused when it is run here, as it comes in Redis. A LTRIM that trims nothing stops
            # a transaction in Redis. What SORT needs right before it would come somewhere else.
            subcommand = gathering and words[0] in ("XINFO", "XGROUP", "OBJECT", "MEMORY", "SCRIPT", "FUNCTION")
            if not subcommand and words[0] not in ("LTRIM", "SORT", "SORT_RO"):
                return words

    def test_messages_reach_the_listeners_that_redis_says(self):
        theirs, ours = start_redis(self), self.node("node", "--standalone")
        chance = random.Random(f"{seed()}/messages")
        lines = [[Line(port) for port in (theirs, ours.port)] for _ in range(CONNECTIONS + 1)]
        names, history, counts = ["a", "b", "ab", "[a]", "x\ry"], [], {"message": 0, "pmessage": 0, "smessage": 0}
        deadline = time.monotonic() + SECONDS / 2
        while time.monotonic() < deadline or len(history) < 1000:
            who = chance.randrange(CONNECTIONS + 1)
            some = chance.sample(names, chance.randint(1, 3))
            if who == CONNECTIONS:
                words = chance.choice([["PUBLISH", some[0], f"text {len(history)}"]] * 4 + [["SPUBLISH", some[0], "text"]] * 2 + [
                    ["PUBSUB", "NUMSUB", *some], ["PUBSUB", "NUMPAT"], ["PUBSUB", "SHARDNUMSUB", *some], ["PUBSUB", "CHANNELS", "a*"],
                    ["PUBSUB", "CHANNELS"], ["PUBLISH", "a"]])
            else:
                words = chance.choice([["SUBSCRIBE", *some], ["PSUBSCRIBE", chance.choice(["*", "a*", "[ab]", "\\[a]"])], ["SSUBSCRIBE", *some],
                                       ["UNSUBSCRIBE", *some], ["PUNSUBSCRIBE", "a*", "*"], ["SUNSUBSCRIBE", *some], ["UNSUBSCRIBE"], ["PING"],
                                       ["GET", "a"], ["RESET"], ["SUBSCRIBE"]])
            history.append((who, words))
            # All that has come on every connection until now: a listener's messages may be on their way when the publisher has its answer.
            heard = [[line.ask_all(words if number == who else None, f"mark {len(history)}") for line in pair] for number, pair in enumerate(lines)]
            for number, (their, our) in enumerate(heard):
                if words == ["UNSUBSCRIBE"] or words[:2] == ["PUBSUB", "CHANNELS"]:
                    their, our = (sorted(str(sorted(map(str, answer)) if isinstance(answer, list) and words[0] == "PUBSUB" else answer[1:2]
                                             if isinstance(answer, list) else answer) for answer in one) for one in (their, our))
                if any(isinstance(answer, list) and answer[0] == b"pmessage" for answer in their):
                    # In which order a listener's patterns are tried is not said.
                    their, our = (sorted(map(str, one)) for one in (their, our))
                if str(their) != str(our):
                    self.fail(f"after {len(history)} steps (seed {seed()}), connection {number}\n  Redis: {str(their)[:600]}\n  ours:  {str(our)[:600]}\n"
                              "  before it:\n    " + "\n    ".join(map(str, history[-30:])))
                for kind in counts:
                    counts[kind] += str(their).count(f"[b'{kind}'")
        self.assertGreater(min(counts.values()), 5, counts)
        print(f"       {len(history)} steps answered alike; {counts}")

    def heard(self, line, what):
        try:
            return line.hear()
        except redis.TimeoutError as error:
            raise AssertionError(what) from error

    def waits(self, line):
        """How many clients of a server wait for others."""
        told = line.ask(["INFO", "clients"]).decode()
        return int(told.split("blocked_clients:")[1].split()[0])

    def test_those_who_wait_are_served_as_redis_serves_them(self):
        theirs, ours = start_redis(self), self.node("node", "--standalone")
        pairs = {name: [Line(port) for port in (theirs, ours.port)] for name in "abcp"}
        steps = [("a", "BLPOP l m 0"), ("b", "BLPOP l 0"), ("c", "BRPOP m l 0"), ("p", "RPUSH l 1"), ("=", "a"), ("p", "LLEN l"),
                 ("p", "MULTI"), ("p", "RPUSH l 2 3 4"), ("p", "LLEN l"), ("p", "EXEC"), ("=", "b"), ("=", "c"), ("p", "LRANGE l 0 -1"), ("p", "DEL l"),
                 ("a", "BLMOVE l m LEFT RIGHT 0"), ("b", "BLPOP m 0"), ("p", "RPUSH l x y"), ("=", "a"), ("=", "b"), ("p", "LRANGE l 0 -1"), ("p", "LRANGE m 0 -1"),
                 ("p", "DEL l m"), ("a", "BZPOPMIN z y 0"), ("b", "BZMPOP 0 2 y z MAX COUNT 5"), ("p", "SET z 1"), ("p", "DEL z"), ("p", "ZADD z 1 a 2 b 3 c"),
                 ("=", "a"), ("=", "b"), ("p", "EXISTS z"), ("a", "BRPOPLPUSH l m 0"), ("p", "SET m x"), ("p", "RPUSH l 1"), ("=", "a"), ("p", "LRANGE l 0 -1"),
                 ("a", "BLPOP nothing 0.01"), ("=", "a"), ("a", "BLMOVE nothing l LEFT LEFT 0.01"), ("=", "a"), ("a", "BLMPOP 0.01 1 nothing LEFT"), ("=", "a"),
                 ("p", "BLPOP l x"), ("p", "BLPOP l -1"), ("p", "BLPOP m 0"), ("p", "MULTI"), ("p", "BLPOP no 0"), ("p", "BLMOVE no l LEFT LEFT 0"), ("p", "EXEC"),
                 ("p", "BLPOP no l 0"), ("a", "BLPOP r 0"), ("p", "RPUSH s 1"), ("p", "RENAME s r"), ("=", "a"),
                 # What is read of a stream stays there: who waits for the same gets the same, one of a group alone.
                 ("a", "XREAD BLOCK 0 STREAMS x $"), ("b", "XREAD COUNT 5 BLOCK 0 STREAMS y x $ 0"), ("p", "XADD x 1-1 f v"), ("=", "a"), ("=", "b"),
                 ("a", "XREAD BLOCK 10 STREAMS x $"), ("=", "a"), ("a", "XREAD BLOCK 0 STREAMS n 5-0"), ("p", "XADD n 1-1 f v"), ("p", "XADD n 6-0 f v"), ("=", "a"),
                 ("a", "XREAD BLOCK 0 STREAMS x y $ $"), ("p", "MULTI"), ("p", "XADD y 1-1 f v"), ("p", "XADD x 2-1 f v"), ("p", "XADD y 1-2 f v"), ("p", "EXEC"),
                 ("=", "a"), ("p", "XGROUP CREATE x g $"), ("a", "XREADGROUP GROUP g one BLOCK 0 STREAMS x >"), ("b", "XREADGROUP GROUP g two BLOCK 0 STREAMS y x > >"),
                 ("=", "b"), ("p", "XGROUP CREATE y g $"), ("b", "XREADGROUP GROUP g two BLOCK 0 STREAMS y x > >"), ("p", "MULTI"), ("p", "XADD x 3-1 f v"),
                 ("p", "XADD x 3-2 f v"), ("p", "EXEC"), ("=", "a"), ("p", "XADD x 3-3 f v"), ("=", "b"), ("p", "XPENDING x g"),
                 ("a", "XREADGROUP GROUP g one BLOCK 0 STREAMS x >"), ("p", "XGROUP DESTROY x g"), ("=", "a"), ("p", "XGROUP CREATE x g $"),
                 ("a", "XREADGROUP GROUP g one BLOCK 0 STREAMS x >"), ("p", "XADD x 3-3 f v"), ("p", "XTRIM x MAXLEN 1"), ("p", "DEL x"), ("=", "a"),
                 ("p", "XGROUP CREATE x g $ MKSTREAM"), ("a", "XREADGROUP GROUP g one BLOCK 0 STREAMS x >"), ("p", "SET x y"), ("=", "a"),
                 ("p", "XREAD BLOCK 0 STREAMS x 0"), ("p", "DEL x"), ("a", "XREAD BLOCK 0 STREAMS x 0"), ("p", "SET x y"), ("p", "DEL x"), ("p", "XADD x 1-1 f v"),
                 ("=", "a"), ("a", "XREAD BLOCK 0 STREAMS q 0"), ("p", "RENAME x q"), ("=", "a"), ("p", "XREAD BLOCK 0 STREAMS q 0"),
                 ("p", "MULTI"), ("p", "XREAD BLOCK 0 STREAMS q $"), ("p", "EXEC"), ("p", "XREAD BLOCK -1 STREAMS q $"), ("p", "XREAD BLOCK x STREAMS q $")]
        for number, (who, text) in enumerate(steps):
            if who == "=":
                their, our = (self.heard(line, f"{name} answers {text} in step {number}: {steps[: number + 1][-12:]}")
                              for name, line in zip(("Redis", "the node"), pairs[text], strict=True))
                self.assertEqual(str(their), str(our), f"step {number}: {steps[: number + 1][-12:]}")
            elif who == "p":
                their, our = (line.ask(text.split()) for line in pairs[who])
                self.assertEqual(str(their), str(our), f"step {number}: {steps[: number + 1][-12:]}")
            else:
                answers_soon = steps[number + 1] == ("=", who)
                for line, other in zip(pairs[who], pairs["p"], strict=True):
                    waited = self.waits(other)
                    line.connection.send_command(*text.split())
                    if not answers_soon:
                        eventually(lambda: self.waits(other) > waited, f"{text} waits")
        print(f"       {len(steps)} steps answered alike")


if __name__ == "__main__":
    import unittest

    unittest.main()
