"""Clients that wait, and what ends their wait but an item: CLIENT UNBLOCK as in Redis, and slots that go to another node or away."""

import redis

from harness import Case, key_in
from test_differential import start_redis
from test_sessions import Line

# Each waits for ever; `g` is a group of the stream `x`.
WAITS = """
BLPOP a b 0|BRPOP a 0|BLMOVE a b LEFT RIGHT 0|BRPOPLPUSH a b 0|BLMPOP 0 2 a b LEFT|BZPOPMIN z 0|BZPOPMAX z 0|BZMPOP 0 1 z MIN COUNT 2
XREAD BLOCK 0 STREAMS x $|XREADGROUP GROUP g c BLOCK 0 STREAMS x >
"""


def commands(text):
    return [line.split() for line in text.strip().replace("\n", "|").split("|")]


class Blocked(Case):
    def blocked(self, client):
        return client.info("clients")["blocked_clients"]

    def test_client_unblock_ends_every_kind_of_wait_as_in_redis(self):
        ports = [start_redis(self), self.node("node", "--standalone").port]
        clients = [redis.Redis(port=port) for port in ports]
        for client in clients:
            client.xgroup_create("x", "g", mkstream=True)
        for words in commands(WAITS):
            for how in ([], ["TIMEOUT"], ["ERROR"]):
                answers = []
                for port, client in zip(ports, clients):
                    line = Line(port)
                    number = line.ask(["CLIENT", "ID"])
                    line.connection.send_command(*words)
                    self.wait(lambda: self.blocked(client) == 1, f"{words} waits")
                    listed = client.client_list(client_id=[number])[0]
                    answers.append([listed["flags"], listed["cmd"], client.execute_command("CLIENT", "UNBLOCK", number, *how),
                                    str(line.hear()), client.execute_command("CLIENT", "UNBLOCK", number, *how), self.blocked(client),
                                    line.ask(["PING"])])
                    line.connection.disconnect()
                self.assertEqual(answers[0], answers[1], (words, how))
                self.assertEqual(answers[0][2], 1)
        # Nobody is there to take what comes now.
        for client in clients:
            self.assertEqual(client.rpush("a", 1), 1)
            self.assertEqual(client.llen("a"), 1)

    def test_who_waits_in_a_slot_that_is_handed_over_or_removed_is_told(self):
        owner, other = self.node("owner", "--standalone"), self.node("other", "--standalone", "--slots", "")
        here, leaves, goes = key_in(3, "q"), key_in(1, "q"), key_in(2, "q")
        other.pkcluster("addslots", "1")
        self.assertEqual(other.pkcluster("slotsslaveof", "127.0.0.1", owner.port, "1"), b"OK")
        self.wait_until_slave_has_all(owner, other, [1])
        stays, moved, removed = (Line(owner.port) for _ in range(3))
        for line, key in ((stays, here), (moved, leaves), (removed, goes)):
            line.connection.send_command("BLPOP", key, 0)
        client = owner.client()
        self.wait(lambda: self.blocked(client) == 3, "three wait")
        self.assertEqual(owner.pkcluster("handover", "127.0.0.1", other.port, "1"), b"OK")
        self.assertIn(f"handed over to 127.0.0.1:{other.port}", str(moved.hear()))
        self.assertEqual(owner.pkcluster("delslots", "2"), b"OK")
        self.assertIn("Partition not found", str(removed.hear()))
        self.assertEqual(self.blocked(client), 1)
        # Whoever is left waits on, and is served.
        self.assertEqual(client.rpush(here, "item"), 1)
        self.assertEqual(stays.hear(), [here, b"item"])
        # And on the new owner as on any.
        again = Line(other.port)
        again.connection.send_command("BLPOP", leaves, 0)
        self.wait(lambda: self.blocked(other.client()) == 1, "one waits there")
        self.assertEqual(other.do("RPUSH", leaves, "x"), 1)
        self.assertEqual(again.hear(), [leaves, b"x"])

    def test_one_transaction_serves_keys_in_the_order_in_which_they_were_written(self):
        ports = [start_redis(self), self.node("node", "--standalone").port]
        for port in ports:
            client = redis.Redis(port=port)
            for keys in (["k1", "k2", "k3"], ["k3", "k1", "k2"], ["k2", "k3", "k1"]):
                line = Line(port)
                line.connection.send_command("BLPOP", "k1", "k2", "k3", 0)
                self.wait(lambda: self.blocked(client) == 1, "it waits")
                pipeline = client.pipeline()
                for key in keys:
                    pipeline.rpush(key, f"of {key}")
                self.assertEqual(pipeline.execute(), [1, 1, 1])
                self.assertEqual(line.hear(), [keys[0].encode(), f"of {keys[0]}".encode()], f"port {port}")
                line = Line(port)
                client.delete("k1", "k2", "k3")
                line.connection.send_command("BLPOP", "k1", "k2", "k3", 0)
                self.wait(lambda: self.blocked(client) == 1, "it waits")
                script = "for i = 1, #KEYS do redis.call('rpush', KEYS[i], 'of ' .. KEYS[i]) end"
                client.eval(script, 3, *keys)
                self.assertEqual(line.hear(), [keys[0].encode(), f"of {keys[0]}".encode()], f"port {port}")
                client.delete("k1", "k2", "k3")


if __name__ == "__main__":
    import unittest

    unittest.main()
