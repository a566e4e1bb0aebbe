// What ioredis does ordinarily, against a node of either profile: `node ioredis.mjs PORT standalone|codis`. Ends with a status above 0,
// and says why, if something is not as expected.

import assert from "node:assert/strict";
import { createRequire } from "node:module";

const require = createRequire(`${process.env.HAYPILE_NODE_MODULES}/`);
const Redis = require("ioredis");
const port = Number(process.argv[2]);
const waits = process.argv[3] === "standalone";
const redis = new Redis({ port, maxRetriesPerRequest: 0 });

// Strings, expiry, buffers.
assert.equal(await redis.set("s", "väl\0ue", "EX", 100), "OK");
assert.equal(await redis.get("s"), "väl\0ue");
assert.deepEqual(await redis.getBuffer("s"), Buffer.from("väl\0ue"));
assert.ok((await redis.ttl("s")) > 90);
assert.equal(await redis.incrby("n", 41), 41);
assert.deepEqual(await redis.mget("n", "absent"), ["41", null]);

// Collections.
assert.equal(await redis.hset("h", { a: 1, b: "two" }), 2);
assert.deepEqual(await redis.hgetall("h"), { a: "1", b: "two" });
assert.equal(await redis.rpush("l", 1, 2, 3), 3);
assert.deepEqual(await redis.lrange("l", 0, -1), ["1", "2", "3"]);
assert.equal(await redis.sadd("set", ["x", "y"]), 2);
assert.deepEqual((await redis.smembers("set")).sort(), ["x", "y"]);
assert.equal(await redis.zadd("z", 1.5, "a", "+inf", "b"), 2);
assert.deepEqual(await redis.zrange("z", 0, -1, "WITHSCORES"), ["a", "1.5", "b", "inf"]);
const id = await redis.xadd("x", "*", "f", "v");
assert.deepEqual(await redis.xrange("x", "-", "+"), [[id, ["f", "v"]]]);

// Pipelines and transactions, with an error among the answers.
const piped = await redis.pipeline().set("p", 1).incr("p").lpush("p", 1).get("p").exec();
assert.deepEqual([piped[0][1], piped[1][1], piped[3][1]], ["OK", 2, "2"]);
assert.match(piped[2][0].message, /^WRONGTYPE/);
assert.deepEqual(await redis.multi().set("m", 1).incr("m").exec(), [[null, "OK"], [null, 2]]);
await redis.watch("m");
await redis.duplicate().set("m", 7);
assert.equal(await redis.multi().incr("m").exec(), null);

// Scripts: by their text first, then by their SHA.
redis.defineCommand("twice", { numberOfKeys: 1, lua: "return redis.call('incrby', KEYS[1], ARGV[1] * 2)" });
assert.equal(await redis.twice("t", 21), 42);
assert.equal(await redis.twice("t", 1), 44);

// Walks over keys and members, as streams.
for (let i = 0; i < 500; i += 1) await redis.set(`scan:${i}`, i);
const keys = new Set();
for await (const page of redis.scanStream({ match: "scan:*", count: 37 })) page.forEach((key) => keys.add(key));
assert.equal(keys.size, 500);
await redis.hset("large", Object.fromEntries(Array.from({ length: 1000 }, (_, i) => [`f${i}`, i])));
let fields = 0;
for await (const page of redis.hscanStream("large")) fields += page.length / 2;
assert.equal(fields, 1000);

// Messages, and what waits: behind Codis nothing does.
const listener = redis.duplicate();
await listener.subscribe("news");
const heard = new Promise((resolve) => listener.on("message", (channel, text) => resolve([channel, text])));
assert.equal(await redis.publish("news", "hello"), 1);
assert.deepEqual(await heard, ["news", "hello"]);
await listener.psubscribe("n*");
const matched = new Promise((resolve) => listener.on("pmessage", (pattern, channel, text) => resolve([pattern, channel, text])));
await redis.publish("none", "x");
assert.deepEqual(await matched, ["n*", "none", "x"]);
await listener.unsubscribe("news");
await listener.punsubscribe("n*");
assert.equal(await listener.ping(), "PONG");
const waiter = redis.duplicate();
if (waits) {
  const popped = waiter.blpop("queue", 30);
  await redis.rpush("queue", "item");
  assert.deepEqual(await popped, ["queue", "item"]);
} else {
  assert.equal(await waiter.blpop("queue", 30), null);
}

// Many at once on one connection, each answer to its own.
const many = await Promise.all(Array.from({ length: 2000 }, (_, i) => (i % 2 ? redis.get(`auto:${i - 1}`) : redis.set(`auto:${i}`, i))));
assert.ok(many.every((answer, i) => answer === (i % 2 ? String(i - 1) : "OK")));

// A cluster's client is told that this is none.
const cluster = new Redis.Cluster([{ host: "127.0.0.1", port }], { clusterRetryStrategy: () => null, lazyConnect: true });
cluster.on("error", () => {});
const failure = await cluster.connect().then(() => null, (error) => error);
assert.match(String(failure?.lastNodeError ?? failure), /cluster support disabled|Failed to refresh slots cache|None of startup nodes/);

assert.match(await redis.info("server"), /redis_version:/);
[redis, listener, waiter].forEach((one) => one.disconnect());
process.exit(0);
