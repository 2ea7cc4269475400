// Packages that send Lua: locks and rate limiters, each as its users use it.
import bottleneck from "bottleneck";
import { createCache } from "cache-manager";
import express from "express";
import { rateLimit } from "express-rate-limit";
import { Redis } from "ioredis";
import KeyvRedis from "@keyv/redis";
import { Keyv } from "keyv";
import { RateLimiterRedis } from "rate-limiter-flexible";
import { RedisStore } from "rate-limit-redis";
import Redlock from "redlock";
import { createClient, defineScript } from "redis";

import { ok, port } from "./check.mjs";

const client = new Redis(port);
await client.flushall();
const pause = (time) => new Promise((done) => setTimeout(done, time));

const programs = {
  async redlock() {
    const redlock = new Redlock([client], { retryCount: 1000, retryDelay: 5 });
    let [inside, most, done] = [0, 0, 0];
    const work = async () => {
      for (let n = 0; n < 5; n++) {
        const lock = await redlock.lock("lock", 10_000);
        most = Math.max(most, ++inside);
        await pause(1);
        inside--;
        done++;
        await lock.unlock();
      }
    };
    await Promise.all([1, 2, 3, 4, 5].map(work));
    ok("five tasks take turns", [most, done], [1, 25]);
    const lock = await redlock.lock("lock", 1000);
    const longer = await lock.extend(100_000);
    ok("extend", (await client.pttl("lock")) > 90_000);
    await longer.unlock();
    ok("unlock", await client.exists("lock"), 0);
  },
  async "rate-limiter-flexible"() {
    const limiter = new RateLimiterRedis({ storeClient: client, points: 30, duration: 100 });
    const results = await Promise.allSettled(Array.from({ length: 100 }, () => limiter.consume("user")));
    ok("30 of 100 requests pass", results.filter((result) => result.status === "fulfilled").length, 30);
    const rejected = results.find((result) => result.status === "rejected").reason;
    ok("when to try again", rejected.msBeforeNext > 90_000 && rejected.remainingPoints === 0);
    await limiter.delete("user");
    ok("delete", (await limiter.consume("user")).remainingPoints, 29);
  },
  async "rate-limit-redis"() {
    const app = express();
    const sendCommand = (command, ...words) => client.call(command, ...words);
    app.use(rateLimit({ windowMs: 60_000, limit: 5, store: new RedisStore({ sendCommand }) }));
    app.get("/", (_, reply) => reply.send("bonjour"));
    const server = app.listen(0, "127.0.0.1");
    await new Promise((done) => server.once("listening", done));
    const get = async () => (await fetch(`http://127.0.0.1:${server.address().port}/`)).status;
    const statuses = [];
    for (let n = 0; n < 7; n++) statuses.push(await get());
    ok("express-rate-limit: 5 requests pass", statuses, [200, 200, 200, 200, 200, 429, 429]);
    server.closeAllConnections();
    server.close();
  },
  async "cache-manager"() {
    const cache = createCache({ stores: [new Keyv(new KeyvRedis(`redis://127.0.0.1:${port}`))] });
    await cache.set("a", { x: 1 }, 60_000);
    ok("set, get", await cache.get("a"), { x: 1 });
    let made = 0;
    const make = () => cache.wrap("b", async () => ++made, 60_000);
    ok("wrap", [await make(), await make()], [1, 1]);
    ok("mset, mget", await cache.mset([{ key: "c", value: 1 }]).then(() => cache.mget(["c", "none"])), [1, undefined]);
    await cache.del("a");
    ok("del", await cache.get("a"), undefined);
    await cache.disconnect();
  },
  async "node-redis"() {
    const redis = createClient({
      socket: { port },
      scripts: {
        add: defineScript({
          SCRIPT: "return redis.call('INCRBY', KEYS[1], ARGV[1])",
          NUMBER_OF_KEYS: 1,
          parseCommand: (parser, key, number) => {
            parser.pushKey(key);
            parser.push(number.toString());
          },
          transformReply: (reply) => reply,
        }),
      },
    });
    await redis.connect();
    ok("defineScript", [await redis.add("n", 5), await redis.add("n", 1)], [5, 6]);
    ok("multi", await redis.multi().add("n", 1).get("n").exec(), [7, "7"]);
    redis.destroy();
  },
  async ioredis() {
    client.defineCommand("add", { numberOfKeys: 1, lua: "return redis.call('INCRBY', KEYS[1], ARGV[1])" });
    ok("defineCommand", [await client.add("m", 5), await client.add("m", 1)], [5, 6]);
    await client.script("FLUSH");
    ok("a script that the server forgot is sent again", await client.add("m", 1), 7);
    ok("pipeline", await client.pipeline().add("m", 1).get("m").exec(), [[null, 8], [null, "8"]]);
  },
  async bottleneck() {
    const limiter = new bottleneck({ datastore: "ioredis", clientOptions: { port }, id: "b", maxConcurrent: 1 });
    const error = await new Promise((found) => {
      limiter.on("error", found);
      limiter.schedule(async () => 1).catch(found);
    });
    ok("clustering is refused with a clear message: it keeps hashes", /Unknown Redis command|unknown command/.test(error.message));
    process.exit(0);
  },
};

await programs[process.argv[3]]();
client.disconnect();
