"""What is between a client and the others: transactions. The same steps of several connections to a node and to Debian's
redis-server, the same answers.
"""

import random
import time

import redis

from harness import LONG, Case, seed
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
        try:
            return self.connection.read_response(disconnect_on_error=False)
        except redis.ResponseError as error:
            return error


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
        return commands.next()


if __name__ == "__main__":
    import unittest

    unittest.main()
