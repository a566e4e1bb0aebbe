"""Copies, refusals, one log, many slots: what replication promises beside the story."""

import statistics
import time
import unittest
import zlib

import redis

from harness import Case, key_in, seed
from load import Load, Router


class Replication(Case):
    def pair(self, slots="0-9", flags=()):
        master, replica = self.node("master", *flags), self.node("replica", *flags)
        for node in (master, replica):
            node.pkcluster("addslots", slots)
        return master, replica

    def follow(self, replica, master, slots, *more):
        self.assertEqual(replica.pkcluster("slotsslaveof", "127.0.0.1", master.port, slots, *more), b"OK")

    def test_unrelated_data_is_refused_without_force_and_copied_with_it(self):
        master, replica = self.pair()
        theirs, mine = key_in(3, "theirs"), key_in(3, "mine")
        master.do("SET", theirs, "1")
        replica.do("SET", mine, "2")
        # The relation is found out when the nodes talk: at once, or shown as the slot's reason soon after.
        words = "force"
        try:
            replica.pkcluster("slotsslaveof", "127.0.0.1", master.port, "3")
        except redis.ResponseError as error:
            self.assertIn(words, str(error))
        else:
            self.wait(lambda: words in replica.slot(3).text.lower(), lambda: f"an error that names force: {replica.slot(3).text}")
        self.assertEqual(replica.do("GET", mine), b"2", "nothing is wiped without force")
        self.follow(replica, master, "3", "force")
        self.wait_until_slave_has_all(master, replica, [3])
        self.assertEqual(replica.do("GET", theirs), b"1")
        self.assertIsNone(replica.do("GET", mine))
        self.assertEqual(replica.slot(3).status, "kConnected")

    def test_a_slot_with_data_is_copied_to_an_empty_one_and_followed(self):
        master, replica = self.pair(flags=("--log-segment-bytes", str(1 << 20)))
        router = Router()
        router.route(range(10), master)
        with Load(router, seed()) as load:
            load.run_until_acked(5000)
            self.follow(replica, master, "0-9")
            load.run_until_acked(5000)
        self.wait_until_slave_has_all(master, replica, range(10))
        load.check(replica, range(10))

    def test_a_replica_that_was_away_goes_on_where_it_was(self):
        master, replica = self.pair()
        self.follow(replica, master, "0-9")
        router = Router()
        router.route(range(10), master)
        with Load(router, seed()) as load:
            load.run_until_acked(1000)
            self.wait(lambda: all(info.slaves for info in master.slots().values()), "all slots are followed")
            replica.kill()
            load.run_until_acked(1000)
            replica.start()
            load.run_until_acked(1000)
        self.wait_until_slave_has_all(master, replica, range(10))
        load.check(replica, range(10))

    def test_a_write_to_a_replica_is_refused_and_a_read_is_served(self):
        master, replica = self.pair()
        self.follow(replica, master, "0-9")
        key = key_in(5, "k")
        master.do("SET", key, "v")
        self.wait_until_slave_has_all(master, replica, [5])
        self.assertEqual(replica.do("GET", key), b"v")
        for words in (("SET", key, "w"), ("DEL", key), ("INCR", key), ("EXPIRE", key, 10)):
            self.assertIn("Server in read-only", replica.error(*words))

    def test_a_slot_that_diverged_is_repaired_by_a_copy(self):
        master, replica = self.pair()
        self.follow(replica, master, "3")
        common, lost, kept = (key_in(3, name) for name in ("common", "lost", "kept"))
        master.do("SET", common, "1")
        self.wait_until_slave_has_all(master, replica, [3])
        replica.kill()
        replica.start()
        self.assertEqual(replica.do("GET", common), b"1")
        master.kill()
        # Promoted while the master is away, which is forced to own it too: both write, and part.
        replica.pkcluster("slotsslaveof", "no", "one", "3", "force")
        replica.do("SET", kept, "2")
        master.start()

        def owns():
            master.pkcluster("slotsslaveof", "no", "one", "3", "force")
            return "state: master" in master.slot(3).text

        self.wait(owns, "it is an owner besides")
        master.do("SET", lost, "3")
        self.follow(master, replica, "3")
        self.wait_until_slave_has_all(replica, master, [3])
        self.assertEqual((master.do("GET", common), master.do("GET", kept), master.do("GET", lost)), (b"1", b"2", None))

    def test_a_chain_of_four_is_built_from_its_end(self):
        nodes = [self.node(f"node{number}") for number in range(4)]
        for node in nodes:
            node.pkcluster("addslots", "7")
        for upstream, node in reversed(list(zip(nodes, nodes[1:]))):
            self.follow(node, upstream, "7")
        key = key_in(7, "k")
        for number in range(100):
            nodes[0].do("SET", key, number)
        for upstream, node in zip(nodes, nodes[1:]):
            self.wait_until_slave_has_all(upstream, node, [7])
        self.assertEqual([node.do("GET", key) for node in nodes], [b"99"] * 4)

    def test_slaveof_moves_all_slots_and_info_and_role_tell_it_in_redis_form(self):
        master, replica = self.pair("0-1023")
        self.assertIn(replica.do("SLAVEOF", "127.0.0.1", master.port), (b"OK", True))
        master.do("SET", "k", "v")
        self.wait_until_slave_has_all(master, replica, range(1024))
        told = replica.client().info("replication")
        self.assertEqual((told["role"], told["master_host"], told["master_port"], told["master_link_status"]),
                         ("slave", "127.0.0.1", master.port, "up"))
        self.assertEqual(master.client().info("replication")["connected_slaves"], 1)
        self.assertEqual(master.do("ROLE")[0], b"master")
        self.assertEqual(replica.do("ROLE")[:3], [b"slave", b"127.0.0.1", master.port])
        self.assertIn(replica.do("REPLICAOF", "NO", "ONE"), (b"OK", True))
        self.assertEqual(replica.client().info("replication")["role"], "master")

    def test_a_node_that_follows_the_one_it_handed_over_to_can_be_promoted_again_at_once(self):
        # Its last record may still be the one that grants the slot to the other.
        one, two = self.pair("0-63")
        one.do("SET", key_in(5, "k"), "v")
        self.assertIn(two.do("SLAVEOF", "127.0.0.1", one.port), (b"OK", True))
        self.wait_until_slave_has_all(one, two, range(64))
        for heir, other in ((two, one), (one, two)) * 3:
            self.assertIn(heir.do("SLAVEOF", "NO", "ONE"), (b"OK", True))
            self.assertEqual({info.role for info in heir.slots().values()}, {"Master"})
            self.assertIn(other.do("SLAVEOF", "127.0.0.1", heir.port), (b"OK", True))
        self.wait_until_slave_has_all(one, two, range(64))
        self.assertEqual(two.do("GET", key_in(5, "k")), b"v")

    def test_a_slave_takes_the_slots_that_its_master_has_besides(self):
        master, replica = self.pair()
        master.pkcluster("addslots", "20-22")
        self.assertIn(replica.do("SLAVEOF", "127.0.0.1", master.port), (b"OK", True))
        self.wait_until_slave_has_all(master, replica, [*range(10), *range(20, 23)])

    def test_a_slot_that_is_followed_is_not_removed(self):
        master, replica = self.pair("0-2")
        self.follow(replica, master, "1")
        self.wait(lambda: master.slot(1).slaves, "the master knows its replica")
        said = master.error("PKCLUSTER", "removeslots", "0-2")
        self.assertIn("1", said)
        self.assertEqual(set(master.slots()), {0, 1, 2}, "all or nothing")
        replica.pkcluster("slotsslaveof", "no", "one", "1")
        replica.pkcluster("removeslots", "1")
        self.wait(lambda: not master.slot(1).slaves, "the master has let its replica go")
        self.assertEqual(master.pkcluster("removeslots", "0-2"), b"OK")
        self.assertEqual(master.slots(), {})

    def test_passwords_between_nodes(self):
        master = self.node("master", "--requirepass", "secret", password="secret")
        replica = self.node("replica", "--masterauth", "secret")
        for node in (master, replica):
            node.pkcluster("addslots", "4")
        self.follow(replica, master, "4")
        master.do("SET", key_in(4, "k"), "v")
        self.wait_until_slave_has_all(master, replica, [4])
        self.assertEqual(replica.do("GET", key_in(4, "k")), b"v")

    def test_a_thousand_and_twenty_four_slots_are_added_in_one_call_within_a_second(self):
        took = []
        for number in range(3):
            node = self.node(f"node{number}")
            client = node.client()
            client.ping()
            begin = time.monotonic()
            self.assertEqual(client.execute_command("PKCLUSTER", "addslots", "0-1023"), b"OK")
            took.append(time.monotonic() - begin)
            self.assertEqual(len(node.slots()), 1024)
            node.kill()
            node.start()
            self.assertEqual(len(node.slots()), 1024, "they survive kill -9")
            node.kill()
        self.assertLess(statistics.median(took), 1.0)


class OneLog(Case):
    """One structure: the write-ahead log is what is shipped, and there is no second one."""

    def files(self, node):
        """All files of the node: path in its folder -> bytes."""
        return {path.relative_to(node.dir): path.read_bytes() for path in sorted(node.dir.rglob("*")) if path.is_file()}

    def test_a_write_lies_in_one_log_once_and_its_bytes_are_the_same_on_both_nodes(self):
        master, replica = [self.node(name, "--log-segment-bytes", str(1 << 20)) for name in ("master", "replica")]
        for node in (master, replica):
            node.pkcluster("addslots", "6")
        replica.pkcluster("slotsslaveof", "127.0.0.1", master.port, "6")
        self.wait(lambda: master.slot(6).slaves and master.slot(6).slaves[0].status == "SlaveBinlogSync",
                  "the replica follows")
        values = [self.random.randbytes(16).hex().encode() * 4 for _ in range(50)]
        for number, value in enumerate(values):
            master.do("SET", key_in(6, f"k{number}"), value)
        self.wait_until_slave_has_all(master, replica, [6])
        files = {node: self.files(node) for node in (master, replica)}
        for value in values:
            for node in (master, replica):
                counts = {path: content.count(value) for path, content in files[node].items()}
                where = {path: count for path, count in counts.items() if count}
                in_log = sum(count for path, count in where.items() if path.parts[0] == "log")
                self.assertEqual(in_log, 1, f"{node.name}: in the log exactly once: {where}")
                self.assertLessEqual({path.parts[0] for path in where}, {"log", "data"}, where)
            self.assertEqual(self.record(files[master], value), self.record(files[replica], value))

    def record(self, files, value):
        """The whole record around a value: its header is 20 bytes and begins with the checksum of all that follows."""
        for path, content in files.items():
            at = content.find(value) if path.parts[0] == "log" else -1
            for start in range(at - 20, max(at - 400, -1), -1):
                end = start + 20 + int.from_bytes(content[start + 4 : start + 8], "little")
                if at + len(value) <= end <= len(content):
                    crc = int.from_bytes(content[start : start + 4], "little")
                    if zlib.crc32(content[start + 4 : end]) == crc:
                        return content[start:end]
        raise AssertionError(f"no record with a right checksum holds {value[:20]!r}")

    def test_a_slot_that_was_flushed_is_still_whole_after_a_restart_without_its_log_being_read_twice(self):
        node = self.node("node", "--slots", "all", "--maxmemory", str(16 << 20), "--log-segment-bytes", str(1 << 20))
        router = Router()
        router.route(range(1024), node)
        client = node.client()
        value = self.random.randbytes(2000)
        for start in range(0, 20000, 1000):
            pipeline = client.pipeline(transaction=False)
            for number in range(start, start + 1000):
                pipeline.set(f"big:{number}", b"%d:" % number + value)
            pipeline.execute()
        self.wait(lambda: any((node.dir / "data").iterdir()), "something was flushed")
        node.kill()
        node.start()
        client = node.client()
        for start in range(0, 20000, 1000):
            found = client.mget([f"big:{number}" for number in range(start, start + 1000)])
            for number, got in zip(range(start, start + 1000), found):
                self.assertEqual(got, b"%d:" % number + value)


if __name__ == "__main__":
    unittest.main()
