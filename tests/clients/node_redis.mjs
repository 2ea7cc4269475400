// node-redis.
import { createClient, WatchError } from "redis";
import { ok, port } from "./check.mjs";

for (const RESP of [2, 3]) {
  const client = createClient({ socket: { port }, RESP, name: "essai" });
  const check = (what, ...rest) => ok(`RESP${RESP}: ${what}`, ...rest);
  await client.connect();
  await client.flushAll();
  check("SET, GET", [await client.set("a", "1"), await client.get("a"), await client.get("b")], ["OK", "1", null]);
  check("SET NX EX", await client.set("a", "2", { condition: "NX", expiration: { type: "EX", value: 10 } }), null);
  await client.set("t", "x", { expiration: { type: "EX", value: 100 } });
  check("TTL", [99, 100].includes(await client.ttl("t")));
  check("MSET, MGET", [await client.mSet({ x: "1", y: "2" }), await client.mGet(["x", "none", "y"])], ["OK", ["1", null, "2"]]);
  check("INCR, INCRBYFLOAT", [await client.incr("n"), await client.incrByFloat("f", 0.5)], [1, "0.5"]);
  await client.mSet(Object.fromEntries(Array.from({ length: 300 }, (_, i) => [`scan:${i}`, "1"])));
  const seen = new Set();
  for await (const keys of client.scanIterator({ MATCH: "scan:*", COUNT: 50 })) keys.forEach((key) => seen.add(key));
  check("scanIterator", seen.size, 300);
  check("MULTI, EXEC", await client.multi().set("m", "1").incr("m").get("m").exec(), ["OK", 2, "2"]);
  const pool = await client.duplicate().connect();
  await pool.watch("m");
  await client.incr("m");
  const failed = await pool.multi().set("m", "0").exec().catch((error) => error instanceof WatchError);
  check("WATCH notices a conflict", [failed, await client.get("m")], [true, "3"]);
  await pool.select(4);
  check("SELECT", [await pool.set("a", "4"), await client.get("a")], ["OK", "1"]);
  const many = await Promise.all(Array.from({ length: 500 }, (_, i) => client.set(`p:${i}`, "x")));
  check("pipelining", many.every((reply) => reply === "OK"));
  const error = await client.incr("a").then(() => client.set("s", "x")).then(() => client.incr("s")).catch((error) => error.message);
  check("errors", error, "ERR value is not an integer or out of range");
  check("a lock", [await client.sendCommand(["SET", "lock", "me", "NX", "PX", "30000"]), await client.sendCommand(["DELEX", "lock", "IFEQ", "me"])], ["OK", 1]);
  check("CLIENT GETNAME", await client.clientGetName(), "essai");
  await pool.close();
  await client.close();
}
