"""What stands around the data: events of keys, the slow log, MONITOR, pauses, silenced replies, what COMMAND tells. A node
beside Debian's redis-server where the answers can be the same.
"""

import random
import shlex
import subprocess
import threading
import time

import redis

from harness import Case, eventually, seed
from test_differential import Commands, raw, start_redis
from test_sessions import Line

# One of each kind, and those in which a key goes or comes.
SCRIPT = """
SET k v|SET k v EX 1000|SET k v NX|SET k v XX GET|SETNX n 1|SETNX n 1|SETEX e 1000 v|PSETEX e 100000 v|MSET a 1 b 2|MSETNX a 1 c 2
MSETNX c 1 d 2|APPEND k x|SETRANGE k 0 yy|SETRANGE k 0 ""|INCR a|DECR a|INCRBY a 5|DECRBY a 2|INCRBYFLOAT a 1.5|GETSET k z|GETDEL k
GETDEL k|SET k v|GETEX k EX 100|GETEX k PERSIST|GETEX k|SETBIT bits 3 1|BITFIELD bits SET u8 0 7|BITFIELD bits GET u8 0
BITOP AND bits2 bits bits|BITOP AND bits2 nosuch nosuch2|PFADD hll a b|PFADD hll a b|PFMERGE hll2 hll|PFCOUNT hll
DEL a b nosuch|UNLINK c d|EXPIRE k 1000|EXPIRE nosuch 10|PEXPIREAT k 4000000000000|PERSIST k|PERSIST k|EXPIRE k -1|SET k v
RENAME k k2|RENAMENX k2 k3|RENAMENX k3 e|COPY k3 k4|COPY k3 k4|TOUCH k3|RPUSH l a b c|LPUSH l z|LPUSHX l y|RPUSHX nosuch y
LINSERT l BEFORE a q|LINSERT l BEFORE nosuch q|LSET l 0 first|LREM l 0 nosuch|LREM l 0 q|LTRIM l 0 10|LPOP l|RPOP l 1|LMOVE l m LEFT RIGHT
RPOPLPUSH l m|LMPOP 2 nosuch m LEFT|LTRIM m 5 10|RPUSH l 1 2|LPOP l 100|RPUSH l a|RPOP l|LPOP l
SADD s a b c|SADD s a|SREM s nosuch|SREM s a|SPOP s|SMOVE s s2 nosuch|SADD s q|SMOVE s s2 q|SINTERSTORE s3 s s2|SUNIONSTORE s3 s s2
SDIFFSTORE s3 nosuch s|SADD s1 x|SREM s1 x|SADD s1 x|SPOP s1|SADD s1 x|SPOP s1 5|HSET h f v g w|HMSET h f v|HSETNX h f v|HSETNX h i 1
HINCRBY h i 1|HINCRBYFLOAT h i 1.5|HDEL h nosuch|HDEL h f|HDEL h g i|ZADD z 1 a 2 b 3 c|ZADD z 1 a|ZADD z 5 a|ZADD z INCR 1 a|ZINCRBY z 1 a
ZREM z nosuch|ZREM z a|ZRANGESTORE zs z 0 -1|ZRANGESTORE zs nosuch 0 -1|ZUNIONSTORE zu 2 z nosuch|ZINTERSTORE zu 2 z nosuch
ZDIFFSTORE zu 1 z|ZPOPMIN z|ZPOPMAX z|ZPOPMIN z|ZADD z 1 a 2 b 3 c 4 d|ZREMRANGEBYRANK z 0 0|ZREMRANGEBYSCORE z 2 2
ZREMRANGEBYLEX z - +|ZMPOP 1 z MIN|ZADD z 1 a|ZMPOP 1 z MAX|GEOADD g 13 38 p 15 37 q|GEOADD g 13 38 p|GEOSEARCHSTORE g2 g FROMMEMBER p BYRADIUS 1000 km
GEORADIUS g 15 37 200 km STORE g3|GEORADIUS g 80 80 1 km STORE g3|RPUSH sl 3 1 2|SORT sl STORE sd|SORT nosuch STORE sd
XADD x 1-1 f v|XADD x NOMKSTREAM 1-2 f v|XADD x MAXLEN 1 1-3 f v|XADD nosuchx NOMKSTREAM 1-1 f v|XTRIM x MAXLEN 5|XSETID x 9-9|XADD x 10-1 f v
XDEL x 10-1|XDEL x 10-1|XGROUP CREATE x gr 0|XGROUP CREATE y gr $ MKSTREAM|XGROUP SETID x gr 0|XGROUP CREATECONSUMER x gr c1
XGROUP CREATECONSUMER x gr c1|XREADGROUP GROUP gr c2 COUNT 1 STREAMS x >|XREADGROUP GROUP gr c2 STREAMS x 0|XACK x gr 1-3
XCLAIM x gr c3 0 1-3|XGROUP DELCONSUMER x gr c1|XGROUP DELCONSUMER x gr nosuch|XGROUP DESTROY x gr|XGROUP DESTROY x gr
EVAL "redis.call('set', KEYS[1], 1) return redis.call('incr', KEYS[1])" 1 n|LPUSH s2 x
"""


class Listener:
    """Hears of every event of keys, in order."""

    def __init__(self, port, pattern="__key*__:*"):
        self.client = redis.Redis(port=port, protocol=2, socket_timeout=60)
        self.publisher = redis.Redis(port=port, protocol=2, socket_timeout=60)
        self.pubsub = self.client.pubsub()
        self.pubsub.psubscribe(pattern, "mark")
        for _ in range(2):
            assert self.pubsub.get_message(timeout=60)["type"] == "psubscribe"

    def heard(self):
        """What came since, up to a mark that is sent now."""
        self.publisher.publish("mark", "x")
        out = []
        while True:
            message = self.pubsub.get_message(timeout=60)
            assert message is not None, f"the mark does not come; before it: {out}"
            if message["channel"] == b"mark":
                return out
            out.append((message["channel"], message["data"]))


def split(line):
    return shlex.split(line)


class Surface(Case):
    def test_events_are_those_of_redis_in_the_same_order(self):
        theirs, ours = start_redis(self), self.node("node", "--standalone").port
        clients = [raw(port) for port in (theirs, ours)]
        for client in clients:
            client.config_set("notify-keyspace-events", "KEAn")
        listeners = [Listener(port) for port in (theirs, ours)]
        lines = [line for part in SCRIPT.split("\n") for line in part.split("|") if line.strip()]
        count = 0
        for line in lines:
            for client in clients:
                try:
                    client.execute_command(*split(line))
                except redis.ResponseError:
                    pass
            their, our = [listener.heard() for listener in listeners]
            self.assertEqual(their, our, line)
            count += len(our)
        print(f"       {len(lines)} commands told {count} events alike")

    def test_random_commands_tell_the_same_events(self):
        theirs, ours = start_redis(self), self.node("node", "--standalone").port
        clients = [raw(port) for port in (theirs, ours)]
        for client in clients:
            client.config_set("notify-keyspace-events", "KEA")
        listeners = [Listener(port) for port in (theirs, ours)]
        chance = random.Random(f"{seed()}/events")
        commands = Commands(chance)
        # What Redis picks at random is another member here, and leaves another state.
        left_out = {"SPOP", "SRANDMEMBER", "HRANDFIELD", "ZRANDMEMBER", "RANDOMKEY", "DUMP"}
        told = 0
        for number in range(2500):
            line = commands.next()
            if line[0] in left_out:
                continue
            for client in clients:
                try:
                    client.execute_command(*line)
                except redis.ResponseError:
                    pass
            their, our = [listener.heard() for listener in listeners]
            self.assertEqual(their, our, f"{line} (seed {seed()}, command {number})")
            told += len(our)
        print(f"       {told} events alike")

    def test_a_key_that_expires_tells_so_when_it_is_removed(self):
        node = self.node("node", "--standalone")
        client = node.client()
        client.config_set("notify-keyspace-events", "Ex")
        listener = Listener(node.port)
        for number in range(5):
            client.set(f"k{number}", "v", px=1 + number)
        gathered = []
        eventually(lambda: gathered.extend(listener.heard()) or len(gathered) == 5, lambda: f"five have expired: {gathered}")
        self.assertEqual({(b"__keyevent@0__:expired", b"k%d" % number) for number in range(5)}, set(gathered))

    def test_wrong_second_words_are_refused_when_they_are_queued(self):
        ports = start_redis(self), self.node("node", "--standalone").port
        for line in ["XINFO FOO x9", "CLIENT GETNAME x", "OBJECT ENCODING", "XGROUP CREATE x", "CONFIG NOSUCH", "MEMORY USAGE"]:
            told = []
            for port in ports:
                at = Line(port)
                told.append([at.ask(words) for words in (["MULTI"], split(line), ["SET", "k", "v"], ["EXEC"])])
            self.assertEqual([str(answer) for answer in told[0]], [str(answer) for answer in told[1]], line)
            self.assertTrue(str(told[1][3]).startswith("Transaction discarded because of previous errors"), told[1])

    def test_every_command_that_redis_lists_is_known(self):
        theirs, ours = [raw(port) for port in (start_redis(self), self.node("node", "--standalone").port)]
        listed = theirs.execute_command("COMMAND", "LIST")
        missing = set(listed) - set(ours.execute_command("COMMAND", "LIST"))
        self.assertEqual(set(), missing)
        for line in ["GET k", "MSET a 1 b 2", "ZUNION 2 a b", "EVAL x 1 k", "XINFO STREAM s", "SORT k STORE d", "OBJECT FREQ k", "XREAD STREAMS a b 0 0"]:
            self.assertEqual(*[client.execute_command("COMMAND", "GETKEYS", *split(line)) for client in (theirs, ours)], line)
        text = subprocess.run(["redis-cli", "-p", str(ours.connection_pool.connection_kwargs["port"]), "--json", "COMMAND", "DOCS", "SET"],
                              capture_output=True, timeout=60, text=True).stdout
        self.assertIn('"arguments"', text)

    def test_monitor_shows_what_redis_shows(self):
        told = []
        for port in (start_redis(self), self.node("node", "--standalone").port):
            watcher, client = Line(port), Line(port)
            self.assertEqual(b"OK", watcher.ask(["MONITOR"]))
            for line in ["SET k v", "CONFIG GET timeout", "MULTI", "INCR n", "PING", "EXEC", "CLIENT ID", "GET k x", "PUBLISH c m",
                         'ECHO "a\\nb"', "ECHO done"]:
                client.ask(split(line))
            heard = []
            while not heard or b"done" not in heard[-1]:
                heard.append(watcher.hear())
            told.append([line.split(b"] ", 1)[1].lower() for line in heard])
        self.assertEqual(*told)

    def test_who_monitors_and_does_not_read_is_cut_off_and_nobody_else_is_held_up(self):
        node = self.node("node", "--standalone", "--client-output-buffer-limit", "pubsub 1mb 0 0")
        watcher = Line(node.port)
        watcher.ask(["MONITOR"])
        client = node.client()
        value = "x" * 100_000
        def cut_off():
            client.set("k", value)
            return not any("cmd=monitor" in line for line in client.execute_command("CLIENT", "LIST").decode().split("\n"))
        client.response_callbacks.clear()
        eventually(cut_off, "the one that does not read is gone")

    def test_a_pause_holds_commands_back_and_ends_when_told(self):
        node = self.node("node", "--standalone")
        client, paused, reader = node.client(), Line(node.port), Line(node.port)
        client.execute_command("CLIENT", "PAUSE", 600_000, "WRITE")
        paused.connection.send_command("SET", "k", "v")
        self.assertEqual(None, reader.ask(["GET", "k"]))
        client.execute_command("CLIENT", "UNPAUSE")
        self.assertEqual(b"OK", paused.hear())
        client.execute_command("CLIENT", "PAUSE", 600_000, "ALL")
        paused.connection.send_command("GET", "k")
        client.execute_command("CLIENT", "UNPAUSE")
        self.assertEqual(b"v", paused.hear())
        began = time.monotonic()
        client.execute_command("CLIENT", "PAUSE", 200)
        self.assertEqual(b"v", paused.ask(["GET", "k"]))
        self.assertGreaterEqual(time.monotonic() - began, 0.19)

    def test_replies_are_left_out_as_in_redis(self):
        told = []
        for port in (start_redis(self), self.node("node", "--standalone").port):
            line, other = Line(port), Line(port)
            for words in (["CLIENT", "REPLY", "OFF"], ["SET", "a", "1"], ["nosuch"], ["CLIENT", "REPLY", "SKIP"], ["SET", "b", "1"]):
                line.connection.send_command(*words)
            heard = [line.ask(["CLIENT", "REPLY", "ON"]), line.ask(["PING"])]
            line.connection.send_command("CLIENT", "REPLY", "SKIP")
            line.connection.send_command("SET", "c", "1")
            heard += [line.ask(["PING"]), other.ask(["MGET", "a", "b", "c"])]
            told.append(heard)
        self.assertEqual(*told)

    def test_slow_commands_are_told_in_redis_form(self):
        told = []
        for port in (start_redis(self, "--enable-debug-command", "yes"), self.node("node", "--standalone").port):
            client = Line(port)
            for words in (["CONFIG", "SET", "slowlog-log-slower-than", "100000"], ["SLOWLOG", "RESET"], ["DEBUG", "SLEEP", "0.2"]):
                client.ask(words)
            log = client.ask(["SLOWLOG", "GET"])
            slept = [entry for entry in log if entry[3][0] == b"DEBUG"]
            told.append([(len(entry), entry[3]) for entry in slept])
            self.assertGreaterEqual(slept[0][2], 100_000)
        self.assertEqual(*told)
        self.assertEqual([(6, [b"DEBUG", b"SLEEP", b"0.2"])], told[1])

    def test_functions_outlive_a_kill_and_go_to_redis_and_back(self):
        theirs, node = raw(start_redis(self)), self.node("node", "--standalone")
        library = ("#!lua name=counter\nredis.register_function('add', function(keys, args) return redis.call('incrby', keys[1], args[1]) end)\n"
                   "redis.register_function{function_name='look', callback=function(keys) return redis.call('get', keys[1]) end, flags={'no-writes'}}")
        self.assertEqual(b"counter", node.do("FUNCTION", "LOAD", library))
        node.kill()
        node.start()
        self.assertEqual(5, node.do("FCALL", "add", 1, "n", 5))
        theirs.execute_command("FUNCTION", "RESTORE", node.do("FUNCTION", "DUMP"))
        self.assertEqual(7, theirs.execute_command("FCALL", "add", 1, "n", 7))
        node.do("FUNCTION", "FLUSH")
        self.assertEqual("Function not found", node.error("FCALL", "add", 1, "n", 5))
        node.do("FUNCTION", "RESTORE", theirs.execute_command("FUNCTION", "DUMP"))
        ours = raw(node.port)
        for line in (["FCALL_RO", "look", 1, "nosuch"], ["FCALL_RO", "add", 1, "n", 1], ["FCALL", "nosuch", 0], ["FUNCTION", "LOAD", library],
                     ["FUNCTION", "LOAD", "x"], ["FUNCTION", "LOAD", "#!lua name=x\nreturn 1"], ["FUNCTION", "DELETE", "nosuch"], ["FCALL", "add", "x"],
                     ["FUNCTION", "LIST", "LIBRARYNAME", "nosuch"], ["FUNCTION", "KILL"]):
            told = []
            for client in (theirs, ours):
                try:
                    told.append(client.execute_command(*line))
                except redis.ResponseError as error:
                    told.append(str(error))
            self.assertEqual(*told, line)

    def test_scripts_that_do_not_name_their_keys_are_one_step_to_all_others(self):
        node = self.node("node", "--standalone")
        accounts = [f"account {number}" for number in range(8)]
        node.client().mset({name: 100 for name in accounts})
        move = ("local from, to, n = ARGV[1], ARGV[2], tonumber(ARGV[3]) redis.call('decrby', from, n) redis.call('publish', 'moves', n) "
                "return redis.call('incrby', to, n)")
        add = "local n = 0 for _, key in ipairs(redis.call('keys', 'account *')) do n = n + redis.call('get', key) end return n"
        failures = []

        def carry(number):
            chance, client = random.Random(number), node.client()
            try:
                for _ in range(200):
                    client.eval(move, 0, *chance.sample(accounts, 2), chance.randrange(50))
            except Exception as failure:
                failures.append(failure)
            client.close()

        threads = [threading.Thread(target=carry, args=[number], daemon=True) for number in range(4)]
        for thread in threads:
            thread.start()
        reader, sums = node.client(), 0
        while any(thread.is_alive() for thread in threads) or sums < 5:
            self.assertEqual(800, reader.eval(add, 0))
            self.assertEqual(800, sum(int(value) for value in reader.mget(accounts)))
            pipeline = reader.pipeline()
            for name in accounts:
                pipeline.get(name)
            pipeline.eval(add, 0)
            *values, told = pipeline.execute()
            self.assertEqual((800, 800), (sum(int(value) for value in values), told))
            sums += 1
        self.assertEqual([], failures)
        # Behind Codis each slot may be elsewhere in a moment.
        codis = self.node("codis", "--slots", "all")
        self.assertIn("name it among them", codis.error("EVAL", "return redis.call('get', 'x')", 0))

    def test_what_a_script_publishes_is_heard_once_and_in_order(self):
        heard = []
        for port in (start_redis(self), self.node("node", "--standalone").port):
            client = raw(port)
            client.config_set("notify-keyspace-events", "KEA")
            listener = Listener(port, "*")
            for script in ("redis.call('set', 'a', 1) redis.call('publish', 'c', 'x') redis.call('set', 'b', 1) return redis.call('publish', 'c', 'y')",
                           "redis.call('publish', 'c', 'z') return redis.error_reply('no')"):
                try:
                    client.execute_command("EVAL", script, 0)
                except redis.ResponseError:
                    pass
            client.execute_command("MULTI")
            client.execute_command("EVAL", "return redis.call('publish', 'c', 'in exec')", 0)
            client.execute_command("EXEC")
            heard.append(listener.heard())
        self.assertEqual(*heard)

    def test_a_script_that_does_not_end_is_killed_over_a_new_connection(self):
        node = self.node("node", "--standalone", "--lua-time-limit", "300000")
        line = Line(node.port)
        line.connection.send_command("EVAL", "redis.call('set', KEYS[1], 1) while true do end", "1", "k")

        def killed():
            # One that came to the same worker just before it was busy is not heard.
            client = node.client(timeout=2)
            try:
                return client.execute_command("SCRIPT", "KILL")
            except (redis.ResponseError, redis.TimeoutError):
                return False
            finally:
                client.close()

        eventually(killed, "the script is killed", within=120)
        self.assertIn("Script killed by user", str(line.hear()))
        self.assertEqual(None, node.do("GET", "k"))
