// ioredis.
import Redis from "ioredis";
import { ok, port } from "./check.mjs";

const client = new Redis({ port, connectionName: "essai", maxRetriesPerRequest: 1 });
await client.flushall();
ok("SET, GET", [await client.set("a", "1"), await client.get("a"), await client.get("b")], ["OK", "1", null]);
ok("SET EX NX", [await client.set("a", "2", "EX", 10, "NX"), await client.set("t", "x", "EX", 100)], [null, "OK"]);
ok("TTL", [99, 100].includes(await client.ttl("t")));
ok("MSET, MGET", [await client.mset({ x: "1", y: "2" }), await client.mget("x", "none", "y")], ["OK", ["1", null, "2"]]);
ok("buffers", (await client.getBuffer("x")).equals(Buffer.from("1")));
await client.mset(Object.fromEntries(Array.from({ length: 300 }, (_, i) => [`scan:${i}`, "1"])));
const seen = new Set();
for await (const keys of client.scanStream({ match: "scan:*", count: 50 })) keys.forEach((key) => seen.add(key));
ok("scanStream", seen.size, 300);
ok("pipeline", await client.pipeline().set("p", "1").incr("p").exec(), [[null, "OK"], [null, 2]]);
ok("multi", await client.multi().set("m", "1").incr("m").exec(), [[null, "OK"], [null, 2]]);
const other = client.duplicate();
await other.watch("m");
await client.incr("m");
ok("watch notices a conflict", await other.multi().set("m", "0").exec(), null);
const third = new Redis({ port, db: 3 });
ok("db", [await third.set("a", "3"), await client.get("a")], ["OK", "1"]);
ok("keyPrefix", await new Redis({ port, keyPrefix: "pre:", lazyConnect: true }).set("k", "1"), "OK");
const error = await client.incr("t").catch((error) => error.message);
ok("errors", error, "ERR value is not an integer or out of range");
ok("INFO", (await client.info("server")).includes("redis_mode:standalone"));
process.exit(0);
