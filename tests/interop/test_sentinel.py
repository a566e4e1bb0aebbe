"""Fail-over by Debian's redis-sentinel: who is found, who is promoted, what is lost, and what the old master does then."""

import os
import signal
import unittest

import redis

from harness import LONG, Case, key_in, seed
from sentinel import NAME, Group, Router, Sentinel, SentinelLoad

SLOTS = range(0, 8)


class Watched(Case):
    """A master with two replicas, attached as the dashboard does it, and sentinels."""

    def group(self, sentinels=3, replicas=2, flags=(), password=None, slots=SLOTS):
        flags = (*flags, *(("--requirepass", password) if password else ()))
        nodes = [self.node(f"node{number}", *flags, password=password) for number in range(1 + replicas)]
        nodes[0].pkcluster("addslots", f"{slots[0]}-{slots[-1]}")
        for replica in nodes[1:]:
            self.attach(replica, nodes[0])
        for replica in nodes[1:]:
            self.wait_until_slave_has_all(nodes[0], replica, slots)
        group = Group(nodes, [])
        for number in range(sentinels):
            sentinel = Sentinel(self.folder, f"sentinel{number}", nodes[0], sentinels // 2 + 1, password)
            self.nodes.append(sentinel)
            sentinel.start()
            group.sentinels.append(sentinel)
        self.wait(lambda: self.is_found(group), lambda: f"all are found: {[sentinel.known() for sentinel in group.sentinels]}")
        return group

    def attach(self, replica, master):
        """As the dashboard's sync-action."""
        client = replica.client()
        pipeline = client.pipeline(transaction=True)
        for words in (("CONFIG", "SET", "masterauth", master.password or ""), ("SLAVEOF", "127.0.0.1", master.port),
                      ("CONFIG", "REWRITE"), ("CLIENT", "KILL", "TYPE", "normal", "SKIPME", "yes")):
            pipeline.execute_command(*words)
        answers = pipeline.execute(raise_on_error=False)
        client.close()
        self.assertFalse([answer for answer in answers if isinstance(answer, Exception)], answers)

    def is_found(self, group):
        """Whether every sentinel knows all replicas, which it hears of from the master, and all other sentinels, which it
        hears of over the nodes' channel."""
        replicas = {node.port for node in group.nodes} - {group.nodes[0].port}
        for sentinel in group.sentinels:
            slaves, others = sentinel.known()
            if set(slaves) != replicas or len(others) != len(group.sentinels) - 1:
                return False
            if any(entry["master-link-status"] != "ok" or entry["flags"] != "slave" for entry in slaves.values()):
                return False
        return True

    def promoted(self, group, former):
        return self.wait(lambda: group.promoted(former), lambda: f"somebody takes {former.name}'s place: {self.views(group)}", 120)

    def all_follow(self, group, master, slots=SLOTS):
        for node in group.nodes:
            if node is not master:
                self.wait(lambda node=node: group.follows(node, master), lambda: f"{node.name} follows {master.name}: {self.views(group)}", 120)
                self.wait_until_slave_has_all(master, node, slots)

    def views(self, group):
        def view(node):
            try:
                told = node.client(timeout=5).info("replication")
                return {name: told.get(name) for name in ("role", "master_port", "master_link_status", "slave_repl_offset")}
            except (redis.RedisError, OSError) as error:
                return str(error)

        sentinels = [(sentinel.master(), {port: entry["flags"] for port, entry in sentinel.known()[0].items()}) for sentinel in group.sentinels]
        return {node.port: view(node) for node in group.nodes}, sentinels


class FailOver(Watched):
    def test_masters_are_killed_under_load_and_what_a_replica_acknowledged_is_never_lost(self):
        group = self.group(flags=("--ack", "1", "--ack-timeout-ms", "0"))
        router, master = Router(), group.nodes[0]
        router.route(SLOTS, master)
        with SentinelLoad(router, seed(), writers=4) as load:
            for _ in range(6 if LONG else 3):
                load.run_until_acked(500)
                former = master
                former.kill()
                master = self.promoted(group, former)
                router.route(SLOTS, master)
                load.run_until_acked(200)
                former.start()
                self.all_follow(group, master)
            load.stop()
        self.assertGreater(load.in_doubt(), 0, "nobody wrote when a master was killed")
        self.assertEqual(load.refused(), 0)
        self.all_follow(group, master)
        for node in group.nodes:
            load.check(node, SLOTS)

    def test_the_replica_that_has_most_is_promoted_and_a_master_that_hung_follows_it(self):
        group = self.group(flags=("--ack", "1", "--ack-timeout-ms", "0"), password="secret")
        former, ahead, behind = group.nodes
        self.stop(behind)
        # More than the sockets between them hold.
        values = {key_in(slot, f"k{number}"): self.random.randbytes(1 << 20) for slot in SLOTS for number in range(4)}
        for key, value in values.items():
            former.do("SET", key, value)
        self.stop(former)
        os.kill(behind.pid, signal.SIGCONT)
        self.assertIs(self.promoted(group, former), ahead)
        ahead.do("SET", key_in(0, "since"), "then")
        os.kill(former.pid, signal.SIGCONT)
        self.all_follow(group, ahead)
        for node in group.nodes:
            self.assertEqual([node.do("GET", key) == value for key, value in values.items()].count(False), 0, node.name)
            self.assertEqual(node.do("GET", key_in(0, "since")), b"then")
        self.assertIn("Server in read-only", former.error("SET", key_in(0, "k"), "v"))

    def test_a_slot_that_comes_from_another_group_is_neither_seen_nor_promoted(self):
        other = self.node("other")
        other.pkcluster("addslots", "100-101")
        other.do("SET", key_in(100, "k"), "v")
        group = self.group(sentinels=1)
        former = group.nodes[0]
        # What the other node says when its dashboard wants the slot there; then the dashboard dies, and the slot stays on its way.
        former.do("HAYPILE.ADOPT", 100, *other.address.split(":"))
        self.wait(lambda: all(node.slot(100) for node in group.nodes), "master and replicas follow the slot")
        for node in group.nodes:
            self.wait(lambda node=node: node.slot(100).status == "kConnected", "it is connected")
        told = former.client().info("replication")
        self.assertEqual((told["role"], told["connected_slaves"]), ("master", 2))
        for replica in group.nodes[1:]:
            told = replica.client().info("replication")
            self.assertEqual((told["role"], told["master_port"], told["master_link_status"]), ("slave", former.port, "up"))
        former.kill()
        master = self.promoted(group, former)
        self.assertEqual((master.slot(0).role, master.slot(100).role), ("Master", "Slave"))
        self.wait(lambda: master.slot(100).master == other.address, "the promoted node follows the slot's owner itself")
        other.do("APPEND", key_in(100, "k"), "w")
        former.start()
        self.all_follow(group, master)
        # The dashboard goes on, with the group's master of now.
        host, port = master.address.split(":")
        wanted = ("SLOTSMGRTTAGSLOT-ASYNC", host, port, 5000, 200, 33554432)
        self.wait(lambda: other.do(*wanted, 100, 500)[1] == 0, "the slot is handed over", 120)
        self.assertEqual(master.do("GET", key_in(100, "k")), b"vw")
        self.all_follow(group, master, [*SLOTS, 100])
        self.assertEqual(group.sentinels[0].do("SENTINEL", "CKQUORUM", NAME)[:2], b"OK")


class ByHand(Watched):
    """What does without sentinels: codis-ha, and the dashboard of Pika's Codis."""

    def stats(self, node, *section):
        """What a dashboard learns of a server each second, or None if it counts as failed."""
        try:
            client = node.client(timeout=5)
            told = client.info(*section)
            name, limit = client.execute_command("CONFIG", "GET", "maxmemory")
            self.assertEqual((name, int(limit) > 0), (b"maxmemory", True))
            client.close()
            return told
        except (redis.ConnectionError, redis.TimeoutError):
            return None

    def set_master(self, node, *words):
        """The real one's five commands; every answer has to be good."""
        client = node.client(single_connection_client=True)
        connection = client.connection
        commands = [("MULTI",), ("CONFIG", "SET", "masterauth", ""), words, ("CONFIG", "REWRITE"), ("CLIENT", "KILL", "TYPE", "normal"), ("EXEC",)]
        connection.send_packed_command(connection.pack_commands(commands))
        answers = [connection.read_response() for _ in commands]
        self.assertEqual(answers[:5], [b"OK"] + [b"QUEUED"] * 4)
        self.assertFalse([answer for answer in answers[5] if isinstance(answer, Exception)], answers)
        self.assertEqual(len(answers[5]), 4)

    def test_codis_ha_promotes_whose_link_is_down_shortest_and_shuts_the_others_down(self):
        group = self.group(sentinels=0)
        former, *replicas = group.nodes
        key = key_in(3, "k")
        former.do("SET", key, "v")
        for replica in replicas:
            self.wait_until_slave_has_all(former, replica, SLOTS)
        self.assertNotIn("master_host", self.stats(former))
        for replica in replicas:
            told = self.stats(replica)
            self.assertEqual((told["master_host"], told["master_port"], told["master_link_status"]), ("127.0.0.1", former.port, "up"))
        former.kill()
        self.assertIsNone(self.stats(former))
        down = lambda node: (told := self.stats(node))["master_link_status"] == "down" and told
        since = {node: self.wait(lambda node=node: down(node), "its link is down")["master_link_down_since_seconds"] for node in replicas}
        picked = min(replicas, key=since.get)
        self.assertGreaterEqual(since[picked], 0)
        self.set_master(picked, "SLAVEOF", "NO", "ONE")
        self.assertNotIn("master_host", self.stats(picked))
        self.assertEqual(picked.do("GET", key), b"v")
        picked.do("SET", key, "w")
        # The others follow the dead one: codis-ha takes them out of the group, and ends them.
        rest = next(node for node in replicas if node is not picked)
        self.assertEqual(self.stats(rest)["master_port"], former.port)
        try:
            rest.do("SHUTDOWN")
        except redis.ConnectionError:
            pass
        self.assertEqual(rest.process.wait(60), 0)
        for node in (rest, former):
            node.start()
            self.set_master(node, "SLAVEOF", "127.0.0.1", picked.port)
        self.all_follow(group, picked)
        self.assertEqual(former.do("GET", key), b"w")

    def test_the_dashboard_of_pikas_codis_finds_whom_to_promote(self):
        group = self.group(sentinels=0)
        former, *replicas = group.nodes
        for number in range(10):
            former.do("SET", key_in(number % 8, f"k{number}"), number)
        for replica in replicas:
            self.wait_until_slave_has_all(former, replica, SLOTS)
        told = self.stats(former, "replication")
        self.assertEqual((told["role"], told["connected_slaves"]), ("master", 2))
        self.assertEqual({told[f"slave{number}"]["port"] for number in range(2)}, {node.port for node in replicas})
        self.assertNotIn("db0", former.client().info("server"))
        former.kill()
        def offset(node):
            told = self.stats(node, "replication")
            self.assertEqual(told["is_eligible_for_master_election"], "true")
            term, seq = told["db0"]["binlog_offset"].split(" ")
            return int(term), int(seq)

        picked = max(replicas, key=offset)
        self.assertEqual(offset(picked)[1] >= 10, True)
        for words in (("CONFIG", "SET", "masterauth", ""), ("SLAVEOF", "NO", "ONE"), ("CONFIG", "REWRITE")):
            self.assertIn(picked.do(*words), (True, b"OK"))
        rest = next(node for node in replicas if node is not picked)
        former.start()
        for node in (rest, former):
            for words in (("CONFIG", "SET", "masterauth", ""), ("SLAVEOF", "127.0.0.1", picked.port, "-f"), ("CONFIG", "REWRITE")):
                self.assertIn(node.do(*words), (True, b"OK"))
        self.all_follow(group, picked)


if __name__ == "__main__":
    unittest.main()
