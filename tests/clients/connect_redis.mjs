// connect-redis: sessions of Express.
import { RedisStore } from "connect-redis";
import { createClient } from "redis";
import { ok, port } from "./check.mjs";

const client = await createClient({ socket: { port } }).connect();
const store = new RedisStore({ client, prefix: "essai:", ttl: 100 });
const session = { cookie: { originalMaxAge: 60_000 }, user: "jean" };
await store.set("one", session);
ok("set, get", await store.get("one"), session);
ok("it expires", [99, 100].includes(await client.ttl("essai:one")));
await store.set("two", { cookie: {}, user: "marie" });
await store.touch("two", { cookie: {} });
ok("touch, length", await store.length(), 2);
ok("ids", (await store.ids()).sort(), ["one", "two"]);
ok("all", (await store.all()).map((found) => found.user).sort(), ["jean", "marie"]);
await store.destroy("one");
ok("destroy", (await store.get("one")) ?? null, null);
await store.clear();
ok("clear", await store.length(), 0);
await client.close();
