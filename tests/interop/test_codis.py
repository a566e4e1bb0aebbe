"""Behind Codis: what its dashboard and proxies ask of nodes while slots move, against a double that asks in their way."""

import threading
import unittest

import redis

from codis import Codis, ProxyLoad, Refused
from harness import LONG, Case, key_in, seed

SLOTS = range(0, 12)


class Behind(Case):
    """Two groups; all slots of the first begin at `one`."""

    def cluster(self, method="semi-async", slots=SLOTS, **more):
        self.one, self.two = self.node("one", **more), self.node("two", **more)
        self.one.pkcluster("addslots", f"{slots[0]}-{slots[-1]}")
        self.codis = Codis(method=method)
        self.codis.assign(slots, self.one)
        return self.one, self.two

    def load(self, **more):
        return ProxyLoad(self.codis, seed(), **more)

    def check(self, load):
        """Every key at the node that Codis names, and the other one refuses it."""
        checked = 0
        for node in (self.one, self.two):
            slots = [slot for slot in self.codis.slots() if self.codis.where[slot] is node]
            checked += load.check(node, slots)
        self.assertGreater(checked, 0)


class Joining(Behind):
    def test_a_node_answers_what_the_dashboard_asks_of_a_server(self):
        one, _ = self.cluster()
        one.do("SET", key_in(3, "k"), "v")
        self.assertIn([3, 1], one.do("SLOTSINFO"))
        self.assertEqual(one.do("CONFIG", "GET", "maxmemory")[0], b"maxmemory")
        self.assertTrue(int(one.do("CONFIG", "GET", "maxmemory")[1]) > 0)
        info = one.client().info()
        self.assertEqual((len(info["run_id"]), info["role"], info["loading"]), (40, "master", 0))
        self.assertEqual([name for name in one.client().info("keyspace") if name.startswith("db")], ["db0"])
        self.assertEqual(one.do("SLOTSHASHKEY", "a", "{a}b"), [579, 579])
        self.assertEqual(one.do("SLOTSSCAN", 3, 0), [b"0", [key_in(3, "k")]])

    def test_what_a_proxy_forwards_can_not_spoil_a_connection_that_others_share(self):
        one, _ = self.cluster()
        client = one.client(single_connection_client=True)
        self.assertIn("NOPROTO", one.error("HELLO", 3))
        for db in range(16):
            self.assertTrue(client.execute_command("SELECT", db))
        self.assertIn("DB index is out of range", one.error("SELECT", 16))
        self.assertTrue(client.execute_command("SELECT", 0))
        self.assertTrue(client.execute_command("PING"))


class Closed(Behind):
    def test_operators_commands_are_closed_and_slots_move_and_replicas_follow_with_the_products_password_alone(self):
        flags = ("--requirepass", "product", "--admin-requirepass", "boss")
        self.one, self.two, three = (self.node(name, *flags, password="boss") for name in ("one", "two", "three"))
        one, two = self.one, self.two
        one.pkcluster("addslots", "0-11")
        two.pkcluster("addslots", "20")
        for node in (one, two, three):
            node.password = "product"
        for words in (("PKCLUSTER", "INFO", "SLOT", 1), ("REPLICAOF", "NO", "ONE"), ("ACL", "LIST"), ("CONFIG", "GET", "*"),
                      ("HAYPILE.ADOPT", 1, "127.0.0.1", two.port), ("HAYPILE.SYNC", 1, "x", "y")):
            self.assertIn("is for operators", one.error(*words))
        for words in (("RESET",), ("SSUBSCRIBE", "c"), ("SUNSUBSCRIBE", "a", "b"), ("HELLO", 3)):
            one.error(*words)
        for words in (("BLPOP", "l", 0), ("BZPOPMIN", "z", 0), ("BLMOVE", "{l}", "l", "LEFT", "LEFT", 0),
                      ("BLMPOP", 0, 1, "l", "LEFT"), ("BZMPOP", 0, 1, "z", "MIN")):
            key = key_in(1, "nothing")
            self.assertIsNone(one.do(*(key if word in ("l", "{l}", "z") else word for word in words)), words)
        self.assertFalse(one.do("XREAD", "BLOCK", 0, "STREAMS", key_in(1, "nothing"), "$"))
        self.codis = Codis()
        self.codis.assign(SLOTS, one)
        one.do("SET", key_in(3, "k"), "v")
        self.codis.migrate(3, two)
        self.assertEqual(two.do("GET", key_in(3, "k")), b"v")
        self.assertEqual(three.do("CONFIG", "GET", "maxmemory")[0], b"maxmemory")
        client = three.client()
        dashboard = client.pipeline(transaction=True)
        for words in (("CONFIG", "SET", "masterauth", "product"), ("SLAVEOF", "127.0.0.1", two.port),
                      ("CLIENT", "KILL", "TYPE", "normal", "SKIPME", "yes")):
            dashboard.execute_command(*words)
        answers = dashboard.execute(raise_on_error=False)
        self.assertEqual(len(answers), 3, answers)
        self.assertFalse([answer for answer in answers if isinstance(answer, Exception)], answers)
        client.close()
        def reads():
            try:
                return three.do("GET", key_in(3, "k")) == b"v"
            except redis.RedisError:  # it is being copied
                return False

        self.wait(reads, "the replica has the slot")
        self.assertEqual(three.client().info("replication")["master_port"], two.port)


class Moving(Behind):
    def test_slots_move_there_and_back_under_load_with_nothing_prepared_and_no_client_error(self):
        one, two = self.cluster()
        with self.load(hot=SLOTS[:3]) as load:
            load.run_until_acked(2000)
            for target in (two, one, two):
                for slot in SLOTS[:6]:
                    self.codis.migrate(slot, target)
                load.run_until_acked(500)
            load.stop()
        self.check(load)
        self.assertGreater(load.wrapped(), 0, "requests came while slots moved")
        self.assertEqual((load.refused(), load.in_doubt()), (0, 0))

    def test_replicas_of_the_new_group_have_the_slot_too(self):
        one, two = self.cluster()
        replica = self.node("two-b")
        two.pkcluster("addslots", "100")
        replica.do("SLAVEOF", "127.0.0.1", two.port)
        self.wait_until_slave_has_all(two, replica, [100])
        key = key_in(5, "k")
        one.do("SET", key, "v")
        self.codis.migrate(5, two)
        self.wait(lambda: replica.slot(5) is not None, "the replica follows the slot")
        self.wait_until_slave_has_all(two, replica, [5, 100])
        self.assertEqual(replica.do("GET", key), b"v")
        self.assertEqual(two.client().info("replication")["connected_slaves"], 1)

    def test_replicas_tell_how_much_they_have_alike_although_one_still_has_a_slot_that_went_to_another_group(self):
        one, two = self.cluster()
        left, right = self.node("one-b"), self.node("one-c")
        rest = [slot for slot in SLOTS if slot != 3]
        for replica in (left, right):
            replica.do("SLAVEOF", "127.0.0.1", one.port)
            self.wait_until_slave_has_all(one, replica, SLOTS)
        for slot in SLOTS:
            for number in range(20):
                one.do("SET", key_in(slot, "k"), number)
        self.codis.migrate(3, two)
        right.do("SLAVEOF", "127.0.0.1", one.port)
        self.wait_until_slave_has_all(one, right, rest)
        self.assertEqual((left.slot(3) is None, right.slot(3) is None), (False, True))

        def told():
            offset = lambda node: node.client().info("replication").get("slave_repl_offset")
            return offset(left), offset(right), one.client().info("replication")["master_repl_offset"]

        self.wait(lambda: len(set(told())) == 1, lambda: f"the same offset: {told()}")
        self.assertEqual(left.client().info("replication")["master_link_status"], "up")

    def test_a_replica_that_still_has_a_slot_which_went_elsewhere_follows_a_new_master_that_has_given_it_up(self):
        one, two = self.cluster()
        left, right = self.node("one-b"), self.node("one-c")
        rest = [slot for slot in SLOTS if slot != 3]
        for replica in (left, right):
            replica.do("SLAVEOF", "127.0.0.1", one.port)
            self.wait_until_slave_has_all(one, replica, SLOTS)
        self.codis.migrate(3, two)
        right.do("SLAVEOF", "127.0.0.1", one.port)
        self.wait_until_slave_has_all(one, right, rest)
        one.kill()
        right.do("SLAVEOF", "NO", "ONE")
        left.do("SLAVEOF", "127.0.0.1", right.port)
        self.wait_until_slave_has_all(right, left, rest)
        told = left.client().info("replication")
        self.assertEqual((told["role"], told["master_port"], told["master_link_status"]), ("slave", right.port, "up"))

    def test_a_replica_of_a_group_without_slots_takes_those_that_come(self):
        one, two = self.cluster()
        replica = self.node("two-b")
        replica.do("SLAVEOF", "127.0.0.1", two.port)
        told = replica.client().info("replication")
        self.assertEqual((told["role"], told["master_port"]), ("slave", two.port))
        for slot in SLOTS[:3]:
            one.do("SET", key_in(slot, "k"), "v")
            self.codis.migrate(slot, two)
        self.wait(lambda: set(replica.slots()) == set(SLOTS[:3]), lambda: f"it has all slots, not only {list(replica.slots())}")
        self.wait_until_slave_has_all(two, replica, SLOTS[:3])
        self.assertEqual(two.client().info("replication")["connected_slaves"], 1)

    def test_a_replica_without_slots_that_is_to_follow_nobody_stays_as_it_is(self):
        one, two = self.cluster()
        replica = self.node("two-b")
        replica.do("SLAVEOF", "127.0.0.1", two.port)
        replica.do("SLAVEOF", "NO", "ONE")
        self.assertEqual(replica.client().info("replication")["role"], "master")
        self.assertIn("can't follow itself", replica.error("SLAVEOF", *replica.address.split(":")))
        self.assertEqual(replica.client().info("replication")["role"], "master")

    def test_a_slot_that_comes_from_another_group_is_not_promoted_with_the_others_after_a_restart_either(self):
        one, two = self.cluster()
        replica = self.node("two-b")
        two.pkcluster("addslots", "100")
        two.do("SET", key_in(100, "k"), "v")
        replica.do("SLAVEOF", "127.0.0.1", two.port)
        self.wait_until_slave_has_all(two, replica, [100])
        for number in range(40):
            one.do("SET", key_in(3, "k"), number)
        two.do("HAYPILE.ADOPT", 3, *one.address.split(":"))
        self.wait(lambda: replica.slot(3) is not None, "the replica follows the slot that comes")
        self.wait_until_slave_has_all(two, replica, [3, 100])

        def own_records():
            told = replica.client().info("replication")
            return (told["role"], told["slave_repl_offset"] if told["role"] == "slave" else None)

        self.wait(lambda: own_records()[0] == "slave", "it is a slave")
        before = own_records()
        self.assertLess(before[1], 40, "what comes does not count")
        replica.kill()
        replica.start()
        self.wait(lambda: own_records() == before, lambda: f"it knows again what is its group's: {own_records()}, {before}")
        two.kill()
        replica.do("SLAVEOF", "NO", "ONE")
        self.assertEqual((replica.slot(100).role, replica.slot(3).role), ("Master", "Slave"))
        self.assertEqual(one.slot(3).role, "Master")

    def test_a_replica_that_was_down_when_slots_came_takes_them_when_it_is_back(self):
        one, two = self.cluster()
        replica = self.node("two-b")
        two.pkcluster("addslots", "100")
        replica.do("SLAVEOF", "127.0.0.1", two.port)
        self.wait_until_slave_has_all(two, replica, [100])
        replica.kill()
        for slot in SLOTS[:3]:
            one.do("SET", key_in(slot, "k"), "v")
            self.codis.migrate(slot, two)
        replica.start()
        self.wait(lambda: set(replica.slots()) == {100, *SLOTS[:3]}, lambda: f"it has all slots, not only {list(replica.slots())}")
        self.wait_until_slave_has_all(two, replica, [100, *SLOTS[:3]])
        self.assertEqual(two.client().info("replication")["connected_slaves"], 1)

    def test_who_comes_back_follows_although_a_slot_went_to_another_group_meanwhile(self):
        one, two = self.cluster()
        heir, third = self.node("one-b"), self.node("one-c")
        rest = [slot for slot in SLOTS if slot != 3]
        for replica in (heir, third):
            replica.do("SLAVEOF", "127.0.0.1", one.port)
            self.wait_until_slave_has_all(one, replica, SLOTS)
        one.kill()
        third.kill()
        heir.do("SLAVEOF", "NO", "ONE")
        heir.do("SET", key_in(5, "k"), "v")
        self.codis.assign(SLOTS, heir)
        self.codis.migrate(3, two)
        for node in (one, third):
            node.start()
            node.do("SLAVEOF", "127.0.0.1", heir.port)
            self.wait_until_slave_has_all(heir, node, rest)
            told = node.client().info("replication")
            self.assertEqual((told["role"], told["master_port"]), ("slave", heir.port))
            self.assertEqual(node.do("GET", key_in(5, "k")), b"v")
            self.assertIn("Partition not found", node.error("GET", key_in(3, "k")))
        self.assertEqual(heir.client().info("replication")["connected_slaves"], 2)

    def test_a_slot_that_only_the_old_master_has_comes_to_the_new_one_before_the_old_one_follows(self):
        old, new = self.node("old"), self.node("new")
        old.pkcluster("addslots", "100")
        new.pkcluster("addslots", "0-3,100")
        old.do("SET", key_in(100, "k"), "v")
        new.pkcluster("slotsslaveof", "127.0.0.1", str(old.port), "100")
        new.do("SET", key_in(2, "k"), "w")
        self.assertIn(old.do("SLAVEOF", "127.0.0.1", new.port), (b"OK", True))
        self.assertEqual(new.slot(100).role, "Master")
        self.wait_until_slave_has_all(new, old, [0, 1, 2, 3, 100])
        self.assertEqual((new.do("GET", key_in(100, "k")), old.do("GET", key_in(2, "k"))), (b"v", b"w"))
        told = old.client().info("replication")
        self.assertEqual((told["role"], told["master_port"]), ("slave", new.port))

    def test_a_master_does_not_give_up_what_the_one_that_it_is_told_to_follow_handed_over_to_it(self):
        one, two = self.cluster()
        one.do("SET", key_in(3, "k"), "v")
        self.codis.migrate(3, two)
        self.assertIn("slot 3 was handed over to", two.error("SLAVEOF", "127.0.0.1", one.port))
        self.assertEqual((two.slot(3).role, two.do("GET", key_in(3, "k"))), ("Master", b"v"))

    def test_a_master_that_a_slot_comes_to_is_one_to_its_dashboard_also_if_it_has_nothing_else(self):
        one, two = self.cluster()
        two.do("HAYPILE.ADOPT", 3, *one.address.split(":"))
        self.assertEqual(two.client().info("replication")["role"], "master")
        self.assertIn(two.do("SLAVEOF", "NO", "ONE"), (b"OK", True))
        self.assertEqual((one.slot(3).role, two.slot(3).role), ("Master", "Slave"), "a slot is not taken by mistake")
        self.codis.migrate(3, two)
        self.assertEqual(two.slot(3).role, "Master")

    def test_an_old_master_follows_the_promoted_one_although_a_slot_of_it_went_to_another_group(self):
        one, two = self.cluster()
        heir = self.node("one-b")
        self.codis.migrate(3, two)
        heir.do("SLAVEOF", "127.0.0.1", one.port)
        rest = [slot for slot in SLOTS if slot != 3]
        self.wait_until_slave_has_all(one, heir, rest)
        heir.do("SLAVEOF", "NO", "ONE")
        one.do("SLAVEOF", "127.0.0.1", heir.port)
        self.wait_until_slave_has_all(heir, one, rest)
        told = one.client().info("replication")
        self.assertEqual((told["role"], told["master_port"]), ("slave", heir.port))
        self.assertEqual(heir.client().info("replication")["connected_slaves"], 1)

    def test_the_method_sync_moves_a_slot_whose_replica_was_prepared(self):
        one, two = self.cluster(method="sync")
        two.pkcluster("addslots", "0-5")
        two.pkcluster("slotsslaveof", "127.0.0.1", str(one.port), "0-5")
        with self.load(writers=4) as load:
            load.run_until_acked(500)
            self.wait_until_slaves_stream(one, two, range(6))
            for slot in range(6):
                self.codis.migrate(slot, two)
            load.run_until_acked(200)
            load.stop()
        self.check(load)
        self.assertEqual((load.refused(), load.in_doubt()), (0, 0))

    def wait_until_slaves_stream(self, master, replica, slots):
        def streaming():
            infos = master.slots()
            slaves = [infos[slot].slave_at(replica.address) for slot in slots]
            return all(slave and slave.status == "SlaveBinlogSync" for slave in slaves)

        self.wait(streaming, "the replica gets records of all slots")

    def test_what_can_not_be_moved_is_an_error_and_never_done(self):
        one, two = self.cluster()
        one.do("SET", key_in(1, "k"), "one's")
        self.codis.assign([600], one)
        with self.assertRaisesRegex(Refused, "slot 600 is not on this node"):
            self.codis.migrate(600, two)
        self.assertIn("not on this node", one.error("SLOTSMGRT-EXEC-WRAPPER", key_in(600, "k"), "GET", key_in(600, "k")))
        self.assertIn("destination address error", one.error("SLOTSMGRTTAGSLOT", "127.0.0.1", one.port, 1000, 1))
        two.stop()
        with self.assertRaisesRegex(Refused, "can't be moved"):
            self.codis.migrate(1, two)
        two.start()
        two.pkcluster("addslots", "2")
        two.do("SET", key_in(2, "k"), "two's own")
        one.do("SET", key_in(2, "k"), "one's")
        with self.assertRaisesRegex(Refused, "is this node's own and has keys"):
            self.codis.migrate(2, two)
        self.assertEqual(one.do("SLOTSMGRT-EXEC-WRAPPER", key_in(2, "k"), "GET", key_in(2, "k")), [2, b"one's"])
        self.codis.assign([1, 2], one)
        self.assertEqual(one.do("GET", key_in(2, "k")), b"one's")
        self.codis.migrate(1, two)
        self.assertEqual(two.do("GET", key_in(1, "k")), b"one's")

    def test_a_move_that_is_given_up_at_any_moment_leaves_the_slot_with_its_clients(self):
        one, two = self.cluster()
        given_up = 0
        with self.load(writers=4, hot=[1, 2]) as load:
            load.run_until_acked(500)
            for _ in range(20 if LONG else 8):
                for slot in (1, 2):
                    self.codis.begin(slot, two)
                    moving = Caught(self.codis.go_on, slot, two)
                    load.run_until_acked(self.random.randrange(0, 80))
                    if self.codis.give_up(slot):
                        given_up += 1
                        moving.join()
                        load.run_until_acked(20)
                        continue
                    moving.join()
                    if self.random.random() < 0.5:
                        # Too late, which the operator can't know.
                        self.codis.assign([slot], one)
                        load.run_until_acked(20)
                    else:
                        self.codis.migrate(slot, one)
            load.stop()
        self.check(load)
        self.assertEqual((load.refused(), load.in_doubt()), (0, 0))
        self.assertGreater(given_up, 0, "no move was given up in its midst")

    def hand_over_untold(self, slot):
        """A move up to where the slot is the other node's, and the dashboard was not told."""
        one, two = self.one, self.two
        self.codis.begin(slot, two)
        while two.slot(slot) is None or two.slot(slot).role != "Master":
            self.assertEqual(one.do("SLOTSMGRTTAGSLOT-ASYNC", *two.address.split(":"), 5000, 200, 33554432, slot, 500)[0], 0)

    def test_a_slot_comes_back_although_its_old_node_was_killed_after_the_handover(self):
        one, two = self.cluster()
        key = key_in(3, "k")
        one.do("SET", key, "v")
        self.hand_over_untold(3)
        two.do("APPEND", key, "w")
        one.kill()
        one.start()
        self.assertTrue(self.codis.give_up(3))
        self.assertEqual(one.do("GET", key), b"vw")
        self.assertEqual(two.slot(3).role, "Slave")

    def test_a_slot_that_was_handed_over_by_hand_stays_although_its_old_node_was_started_again(self):
        one, two = self.cluster()
        key = key_in(3, "k")
        one.do("SET", key, "v")
        two.pkcluster("addslots", "3")
        two.pkcluster("slotsslaveof", "127.0.0.1", str(one.port), "3")
        self.wait_until_slave_has_all(one, two, [3])
        two.pkcluster("slotsslaveof", "no", "one", "3")
        one.kill()
        one.start()
        self.assertIn("slot 3 was handed over to", one.error("SET", key, "w"))
        self.assertEqual(two.do("GET", key), b"v")

    def test_either_node_may_be_killed_at_any_step_of_a_move(self):
        may_refuse = lambda words: any(part in words for part in ("handed over", "follows", "TRYAGAIN", "LOADING"))
        one, two = self.cluster()
        with self.load(writers=4, hot=SLOTS[:4], may_refuse=may_refuse) as load:
            load.run_until_acked(500)
            for number in range(12 if LONG else 5):
                slot = SLOTS[number % 4]
                source = self.codis.where[slot]
                target = two if source is one else one
                victim = self.random.choice([one, two])
                self.codis.begin(slot, target)
                errors = ("connection", "can't be moved", "not on this node", "cancelled", "LOADING")
                moving = Caught(self.codis.go_on, slot, target, 60, errors)
                load.run_until_acked(self.random.randrange(0, 60))
                victim.kill()
                victim.start()
                moving.join()
                load.run_until_acked(50)
            load.stop()
        self.check(load)


class Caught(threading.Thread):
    """A thread whose failure is the test's."""

    def __init__(self, function, *args):
        super().__init__(daemon=True)
        self.function, self.args, self.failure = function, args, None
        self.start()

    def run(self):
        try:
            self.function(*self.args)
        except BaseException as failure:  # whatever it is, the test must hear of it
            self.failure = failure

    def join(self):
        super().join(120)
        assert not self.is_alive(), "a move hangs"
        if self.failure:
            raise self.failure


if __name__ == "__main__":
    unittest.main()
