"""Locks of other packages: pottery's Redlock and NextID, which send Lua; python-redis-lock, which needs a list to wait on."""

import sys
import threading
import time

import redis
import redis_lock
from pottery import NextID, Redlock

from check import ok

client = redis.Redis(port=int(sys.argv[1]))
client.flushall()


def turns(make):
    """Whether never two of several threads are inside at once, and all come in."""
    state = {"inside": 0, "most": 0, "done": 0}

    def work():
        for _ in range(5):
            with make():
                state["inside"] += 1
                state["most"] = max(state["most"], state["inside"])
                time.sleep(0.001)
                state["inside"] -= 1
                state["done"] += 1

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return state["most"] == 1 and state["done"] == 20


if sys.argv[2] == "pottery":
    ok("Redlock: threads take turns", turns(lambda: Redlock(key="k", masters={client}, auto_release_time=10)))
    lock = Redlock(key="l", masters={client}, auto_release_time=10)
    ok("acquire, locked", lock.acquire() and lock.locked() > 5)
    ok("not twice", not Redlock(key="l", masters={client}).acquire(blocking=False))
    lock.extend()
    ok("extend", lock.locked() > 5)
    lock.release()
    ok("release", not lock.locked())
    ids = NextID(key="ids", masters={client})
    ok("NextID", [next(ids) for _ in range(3)] == [1, 2, 3])
else:
    lock = redis_lock.Lock(client, "l", expire=10)
    ok("acquire", lock.acquire(blocking=False))
    try:
        redis_lock.Lock(client, "l").acquire()
        error = ""
    except redis.ResponseError as caught:
        error = str(caught)
    ok("waiting is refused with a clear message: it is done on a list", "unknown command 'BLPOP'" in error)
