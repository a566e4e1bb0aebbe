"""Writes that wait for replicas: WAIT, ack, min-replicas-to-write, with replicas that are stopped, slow or gone."""

import os
import re
import signal
import threading
import time

import redis

from harness import Case, key_in
from test_differential import start_redis
from test_sessions import Line


class Acks(Case):
    def replicated(self, *flags, replicas=1, slots="0-9"):
        """A master and its replicas, which have all that there is."""
        master = self.node("master", *flags)
        master.pkcluster("addslots", slots)
        followers = [self.node(f"replica{number}") for number in range(replicas)]
        for replica in followers:
            replica.pkcluster("addslots", slots)
            self.assertEqual(replica.pkcluster("slotsslaveof", "127.0.0.1", master.port, slots), b"OK")
        self.wait(
            lambda: all(len(slot.slaves) == replicas for slot in master.slots().values())
            and all(slot.status == "kConnected" for replica in followers for slot in replica.slots().values()),
            "all replicas follow",
        )
        return (master, *followers)

    def test_wait_counts_the_replicas_that_have_everything_and_a_stopped_one_is_none(self):
        master, one, two = self.replicated(replicas=2)
        client = master.client(single_connection_client=True)
        for slot in range(10):
            client.execute_command("SET", key_in(slot, "k"), "1")
        self.assertEqual(client.execute_command("WAIT", 2, 0), 2)
        self.stop(two)
        client.execute_command("SET", key_in(3, "k"), "2")
        begin = time.monotonic()
        self.assertEqual(client.execute_command("WAIT", 2, 300), 1)
        self.assertGreaterEqual(time.monotonic() - begin, 0.3)
        self.assertEqual(client.execute_command("WAIT", 1, 0), 1)
        os.kill(two.pid, signal.SIGCONT)
        self.assertEqual(client.execute_command("WAIT", 2, 0), 2)
        self.assertEqual(two.do("GET", key_in(3, "k")), b"2")

    def test_without_replicas_wait_answers_as_redis_does(self):
        lines = [Line(port) for port in (start_redis(self), self.node("node", "--standalone").port)]
        steps = ["WAIT 0 0", "WAIT 1 20", "SET k v", "WAIT 0 0", "WAIT 1 20", "WAIT -1 0", "WAIT x 0", "WAIT 1 x", "WAIT 1 -1", "WAIT 1", "WAIT 1 1.5",
                 "MULTI", "SET k w", "WAIT 3 0", "GET k", "WAIT x 0", "EXEC", "CONFIG SET min-replicas-to-write 1", "SET k x", "GET k", "MULTI", "GET k",
                 "EXEC", "FLUSHALL", "CONFIG GET min-replicas-max-lag", "CONFIG GET min-slaves-to-write", "CONFIG SET min-slaves-to-write 0", "SET k x"]
        for step in steps:
            theirs, ours = (line.ask(step.split()) for line in lines)
            self.assertEqual(str(ours), str(theirs), step)

    def test_a_slot_counts_its_own_replicas(self):
        master, one = self.replicated(slots="0-4")
        master.pkcluster("addslots", "5-9")
        client = master.client(single_connection_client=True)
        client.execute_command("SET", key_in(2, "k"), "1")
        self.assertEqual(client.execute_command("WAIT", 1, 0), 1)
        client.execute_command("SET", key_in(7, "k"), "1")
        self.assertEqual(client.execute_command("WAIT", 1, 50), 0, "nobody follows slot 7")

    def test_a_wait_for_ever_ends_with_its_client_and_by_client_unblock(self):
        master, one = self.replicated()
        self.stop(one)
        client = master.client(single_connection_client=True)
        client.execute_command("SET", key_in(1, "k"), "1")
        number = client.execute_command("CLIENT", "ID")
        answers = []
        waits = threading.Thread(target=lambda: answers.append(client.execute_command("WAIT", 1, 0)))
        waits.start()
        self.wait(lambda: master.do("CLIENT", "UNBLOCK", number) == 1, "it waits")
        waits.join()
        self.assertEqual(answers, [0])
        gone = master.client(single_connection_client=True)
        gone.execute_command("SET", key_in(1, "k"), "2")
        blocked = lambda: master.do("INFO", "clients")["blocked_clients"]
        gone.connection.send_command("WAIT", 1, 0)
        self.wait(lambda: blocked() == 1, "it waits")
        gone.close()
        self.wait(lambda: blocked() == 0, "nobody waits any more")

    def test_what_was_acknowledged_under_ack_survives_kill_9_of_the_master(self):
        master, replica = self.replicated("--ack", "1", "--ack-timeout-ms", "0")
        acked = [0] * 4
        stop = threading.Event()

        def writes(writer):
            client = master.client(single_connection_client=True)
            number = 0
            while not stop.is_set():
                pipe = client.pipeline(transaction=False)
                for _ in range(16):
                    number += 1
                    pipe.set(key_in(writer, b"k%d" % number), number)
                try:
                    pipe.execute()
                except redis.RedisError:
                    return
                acked[writer] = number

        writers = [threading.Thread(target=writes, args=(writer,)) for writer in range(4)]
        for writer in writers:
            writer.start()
        self.wait(lambda: min(acked) >= 500, "writes are acknowledged")
        master.kill()
        stop.set()
        for writer in writers:
            writer.join()
        self.assertEqual(replica.pkcluster("slotsslaveof", "no", "one", "all"), b"OK")
        for writer, last in enumerate(acked):
            for number in range(1, last + 1):
                self.assertEqual(replica.do("GET", key_in(writer, b"k%d" % number)), b"%d" % number)

    def test_a_write_that_no_replica_has_in_time_is_an_error_in_its_place(self):
        master, replica = self.replicated("--ack", "1", "--ack-timeout-ms", "0")
        mine, other = key_in(1, "k"), key_in(2, "k")
        self.assertTrue(master.do("SET", mine, "1"))
        self.stop(replica)
        master.do("CONFIG", "SET", "ack-timeout-ms", "300")
        pipe = master.client().pipeline(transaction=False)
        pipe.get(mine)
        pipe.set(mine, "2")
        pipe.get(mine)
        pipe.set(other, "2")
        pipe.exists(mine)
        answers = pipe.execute(raise_on_error=False)
        self.assertEqual([answers[0], answers[2], answers[4]], [b"1", b"2", 1])
        for at in (1, 3):
            self.assertIn("NOACK done on this node, but 0 of 1 replicas", str(answers[at]))
        os.kill(replica.pid, signal.SIGCONT)
        # What was refused in time gets there all the same.
        self.wait(lambda: replica.do("GET", other) == b"2", "the replica has it")
        master.do("CONFIG", "SET", "ack-timeout-ms", "0")
        self.assertTrue(master.do("SET", mine, "3"))
        master.do("CONFIG", "SET", "ack", "0")
        self.stop(replica)
        self.assertTrue(master.do("SET", mine, "4"))

    def test_a_slot_tells_how_its_replicas_stand_who_is_away_and_what_keeps_the_log(self):
        master, replica = self.replicated(slots="3")
        key = key_in(3, "k")
        master.do("SET", key, "1")
        self.wait_until_slave_has_all(master, replica, [3])
        told = lambda: master.slot(3).text
        self.assertRegex(told(), r"replica\[0\]: addr=%s,acked=\d+,lag_records=0,lag_bytes=0,lag_seconds=0,heard_seconds_ago=\d" % replica.address)
        self.assertNotIn("away[0]", told())
        info = replica.do("INFO", "replication")
        self.assertEqual(info["master_link_status"], "up")
        self.assertLessEqual(0, info["master_last_io_seconds_ago"])
        self.assertEqual(info["slave_repl_offset"], master.do("INFO", "replication")["master_repl_offset"])
        self.stop(replica)
        master.do("SET", key, "2")
        # After ten seconds of silence its connection is given up: where the test itself is as slow as that, it sees only this.
        late = r"replica\[0\]: \S*,lag_records=1,lag_bytes=\d+,lag_seconds=[1-9]|away\[0\]: "
        self.wait(lambda: re.search(late, told()), told)
        silent = lambda: int(master.do("INFO", "replication").get("slave0", {"lag": 10})["lag"]) >= 2
        self.wait(silent, "the silence shows")
        replica.kill()
        self.wait(lambda: "away[0]: addr=%s,acked=" % replica.address in told(), told)
        self.assertIn("away_error[0]: ", told())
        self.assertRegex(told(), r"log_pin\[\d\]: by=%s,after=\d+,segment=0x[0-9a-f]+,bytes=\d+" % replica.address)
        replica.start()
        self.wait_until_slave_has_all(master, replica, [3])
        self.assertNotIn("away[0]", told())

    def test_a_link_that_fails_again_and_again_is_told_once(self):
        master, replica = self.replicated(slots="3")
        master.kill()
        downs = lambda: replica.said().count("the link is down")
        self.wait(lambda: replica.slot(3).status == "kTryConnect", "the link is down")
        # It tries after 0.1 s, 0.2 s ...: each try has its reason, which does not change.
        reasons = set()
        self.wait(lambda: (reasons.add(replica.slot(3).text.partition("last_error: ")[2].split("\r")[0]), "refused" in str(reasons))[1], "it was tried")
        before = downs()
        since = lambda: int(replica.slot(3).text.partition("since_seconds: ")[2].split("\r")[0])
        self.wait(lambda: since() >= 3, "it goes on trying")
        self.assertLessEqual(downs() - before, 1, replica.said())
        self.assertLessEqual(downs(), 3, replica.said())

    def test_writes_are_refused_without_enough_replicas_that_are_heard(self):
        master, replica = self.replicated()
        key = key_in(4, "k")
        master.do("CONFIG", "SET", "min-replicas-to-write", 1, "min-replicas-max-lag", 3)

        def refused():
            try:
                return not master.do("SET", key, "2")
            except redis.ResponseError as error:
                self.assertEqual(str(error), "NOREPLICAS Not enough good replicas to write.")
                return True

        self.wait(lambda: not refused(), "the replica is heard")
        self.stop(replica)
        self.wait(refused, "the silent replica counts no more")
        os.kill(replica.pid, signal.SIGCONT)
        self.wait(lambda: not refused(), "it counts again")
