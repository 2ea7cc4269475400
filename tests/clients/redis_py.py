"""redis-py, in both protocols: what programs do with it, and the recipes that need no Lua."""

import sys
import uuid

import redis

from check import ok

PORT = int(sys.argv[1])


def use(protocol):
    client = redis.Redis(port=PORT, protocol=protocol, decode_responses=True, client_name="essai")
    name = f"RESP{protocol}:"

    def check(what, holds):
        ok(f"{name} {what}", holds)

    client.flushall()
    check("SET, GET, nothing", client.set("a", "1") and client.get("a") == "1" and client.get("b") is None)
    check("SET NX XX GET", client.set("a", "2", nx=True) is None and client.set("a", "2", get=True) == "1")
    check("bytes", redis.Redis(port=PORT, protocol=protocol).set(b"\xff\x00", b"\r\n\xfe"))
    client.set("t", "x", ex=100)
    check("TTL, EXPIRE, PERSIST", 98 <= client.ttl("t") <= 100 and client.persist("t") and client.ttl("t") == -1)
    check("MSET, MGET", client.mset({"m1": "1", "m2": "2"}) and client.mget("m1", "none", "m2") == ["1", None, "2"])
    check("INCR, INCRBYFLOAT", client.incr("n") == 1 and client.incrbyfloat("f", "0.1") == 0.1)
    check("APPEND, GETRANGE, STRLEN", client.append("s", "salut") == 5 and client.getrange("s", 0, 1) == "sa")
    client.mset({f"scan:{number}": "1" for number in range(500)})
    check("scan_iter", len(set(client.scan_iter("scan:*", count=50))) == 500)
    pipeline = client.pipeline(transaction=False)
    for number in range(1000):
        pipeline.set(f"p:{number}", number)
    check("pipeline", all(pipeline.execute()))
    with client.pipeline() as transaction:
        transaction.incr("n").incr("n").get("none")
        check("transaction", transaction.execute() == [2, 3, None])
    with client.pipeline() as transaction:
        transaction.watch("n")
        client.incr("n")
        transaction.multi()
        transaction.set("n", "100")
        try:
            transaction.execute()
            conflict = False
        except redis.WatchError:
            conflict = True
        check("WATCH notices a conflict", conflict and client.get("n") == "4")
    check("transaction(function, key)", client.transaction(lambda pipe: pipe.multi() or pipe.incr("n"), "n") == [5])
    other = redis.Redis(port=PORT, protocol=protocol, db=5, decode_responses=True)
    check("databases", other.set("a", "five") and client.get("a") == "2" and other.dbsize() == 1)
    try:
        client.incr("s")
        error = None
    except redis.ResponseError as caught:
        error = str(caught)
    check("errors", error == "value is not an integer or out of range")
    check("INFO", client.info()["redis_mode"] == "standalone" and client.info("keyspace")["db5"]["keys"] == 1)
    check("CLIENT", client.client_getname() == "essai" and int(client.client_info()["resp"]) == protocol)
    check("CONFIG GET", client.config_get("databases") == {"databases": "16"})
    token = str(uuid.uuid4())
    check("a lock", client.set("lock", token, nx=True, px=30_000) and not client.set("lock", "x", nx=True, px=1))
    check("its release", not client.delex("lock", ifeq="x") and client.delex("lock", ifeq=token) == 1)
    taken = [client.increx("rate", ubound=2, ex=60, enx=True) for _ in range(3)]
    check("a rate limiter", [applied for _, applied in taken] == [1, 1, 0])
    check("compare and set", client.set("a", "3", ifeq="2") and client.set("a", "4", ifeq="2") is None)


use(2)
use(3)
