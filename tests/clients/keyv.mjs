// keyv with its Redis store.
import KeyvRedis from "@keyv/redis";
import Keyv from "keyv";
import { ok, port } from "./check.mjs";

const keyv = new Keyv({ store: new KeyvRedis(`redis://127.0.0.1:${port}`), namespace: "essai" });
ok("set, get", [await keyv.set("a", { b: 1 }), await keyv.get("a")], [true, { b: 1 }]);
await keyv.set("soon", 1, 20);
await new Promise((resolve) => setTimeout(resolve, 60));
ok("a time to live", await keyv.get("soon"), undefined);
ok("has", [await keyv.has("a"), await keyv.has("b")], [true, false]);
await keyv.setMany([{ key: "x", value: 1 }, { key: "y", value: 2 }]);
ok("getMany", await keyv.getMany(["x", "y", "z"]), [1, 2, undefined]);
const keys = [];
for await (const [key] of keyv.iterator("essai")) keys.push(key);
ok("iterator", keys.sort(), ["a", "x", "y"]);
ok("delete", [await keyv.delete("a"), await keyv.delete("a")], [true, false]);
await keyv.clear();
ok("clear", await keyv.get("x"), undefined);
await keyv.disconnect();
