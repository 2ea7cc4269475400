//! What the engine itself promises: a transaction is as if nothing else had happened meanwhile.

use std::cell::Cell;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;

use coffre::engine::{Counts, Engine, Key, Scope, Txn, TxnError};
use coffre::value::View;

use super::txn::OptimisticTxn;
use super::{CONFLICTS_MAX, Optimistic};

fn key(bytes: &[u8]) -> Key<'_> {
    Key { database: 0, bytes }
}

fn set(engine: &Optimistic, name: &[u8], value: u64) {
    let value = value.to_string();
    let write =
        |txn: &mut OptimisticTxn<'_>| txn.put(key(name), View::Short(value.as_bytes()), None);
    engine.run::<_, TxnError>(&mut (), Scope::One(name), write).unwrap();
}

fn number<T: Txn>(txn: &mut T, name: &[u8]) -> Result<u64, TxnError> {
    let value = txn.get(key(name))?.map(|entry| entry.value().to_vec());
    Ok(value.map_or(0, |value| String::from_utf8(value).unwrap().parse().unwrap()))
}

/// Runs `read` as a transaction that also writes, and `change` in each of its first four runs, of which two may be
/// repeated in any case; returns how many conflicts there were, and what was read last.
fn runs_with_changes<T>(
    engine: &Optimistic,
    mut read: impl FnMut(&mut OptimisticTxn<'_>) -> Result<T, TxnError>,
    change: impl Fn(),
) -> (usize, T) {
    let runs = Cell::new(0);
    let before = engine.conflicts.load(Ordering::Relaxed);
    let result = engine.run::<_, TxnError>(&mut (), Scope::All, |txn| {
        let result = read(txn)?;
        txn.put(key(b"done"), View::Short(b"1"), None)?;
        runs.set(runs.get() + 1);
        if runs.get() <= 4 {
            change();
        }
        Ok(result)
    });
    let conflicts = engine.conflicts.load(Ordering::Relaxed) - before;
    (conflicts as usize, result.unwrap())
}

#[test]
fn what_changed_after_it_was_read_is_read_again() {
    let engine = Optimistic::new(2);
    let clear = |database| {
        let clear = |txn: &mut OptimisticTxn<'_>| txn.clear(Some(database));
        engine.run::<_, TxnError>(&mut (), Scope::All, clear).unwrap();
    };
    let swap = || {
        let swap = |txn: &mut OptimisticTxn<'_>| txn.swap(0, 1);
        engine.run::<_, TxnError>(&mut (), Scope::All, swap).unwrap();
    };
    let next = Cell::new(1);
    let count =
        |txn: &mut OptimisticTxn<'_>| txn.counts().map(|counts: Vec<Counts>| counts[0].keys as u64);
    let change = || {
        next.set(next.get() + 1);
        set(&engine, b"a", next.get());
    };
    // A value, a key that was not there, all keys.
    let (conflicts, value) = runs_with_changes(&engine, |txn| number(txn, b"a"), change);
    assert!(conflicts >= 2 && value == next.get(), "{conflicts}, {value}");
    let new = || set(&engine, format!("new:{}", next.replace(next.get() + 1)).as_bytes(), 1);
    let (conflicts, keys) = runs_with_changes(&engine, count, new);
    // The keys `a`, `done` of before, and the new ones.
    assert!(conflicts >= 2 && keys >= 4, "{conflicts}, {keys}");
    clear(0);
    let (conflicts, value) = runs_with_changes(
        &engine,
        |txn| number(txn, b"b"),
        || {
            set(&engine, b"b", 7);
            swap();
            swap();
        },
    );
    assert!(conflicts >= 2 && value == 7, "{conflicts}, {value}");
    let (conflicts, value) = runs_with_changes(&engine, |txn| number(txn, b"b"), || clear(0));
    assert!(conflicts >= 1 && value == 0, "{conflicts}, {value}");
    // What it did not read is no conflict.
    let (conflicts, _) = runs_with_changes(&engine, |txn| number(txn, b"other"), change);
    assert_eq!(conflicts, 0);
}

/// Two accounts that together must not be overdrawn, though each transaction writes but one of them.
#[test]
fn no_two_transactions_write_what_the_other_has_read() {
    const ROUNDS: usize = 200;
    let engine = Optimistic::new(1);
    for _ in 0..ROUNDS {
        let names: [&[u8]; 2] = [b"one", b"two"];
        names.iter().for_each(|name| set(&engine, name, 1));
        let withdraw = |name: &'static [u8]| {
            let engine = &engine;
            move || {
                engine.run::<_, TxnError>(&mut (), Scope::Many(&[b"one", b"two"]), |txn| {
                    let sum = number(txn, b"one")? + number(txn, b"two")?;
                    thread::yield_now();
                    if sum == 2 {
                        txn.put(key(name), View::Short(b"0"), None)?;
                    }
                    Ok(sum == 2)
                })
            }
        };
        let won = thread::scope(|scope| {
            let both = [scope.spawn(withdraw(b"one")), scope.spawn(withdraw(b"two"))];
            both.map(|one| one.join().unwrap().unwrap())
        });
        assert_eq!(won.iter().filter(|won| **won).count(), 1);
    }
}

#[test]
fn a_transaction_ends_however_often_others_change_what_it_reads() {
    let engine = Optimistic::new(1);
    let is_over = AtomicBool::new(false);
    thread::scope(|scope| {
        scope.spawn(|| {
            for value in 0.. {
                set(&engine, b"a", value);
                if is_over.load(Ordering::Relaxed) {
                    return;
                }
            }
        });
        for _ in 0..20 {
            let runs = Cell::new(0);
            let done = engine.run::<_, TxnError>(&mut (), Scope::Many(&[b"a", b"b"]), |txn| {
                runs.set(runs.get() + 1);
                let value = number(txn, b"a")?;
                // Long enough for the other to write, if it can.
                thread::sleep(std::time::Duration::from_millis(1));
                txn.put(key(b"b"), View::Short(value.to_string().as_bytes()), None)
            });
            done.unwrap();
            // Twice in any case, and once when nothing else commits.
            assert!(runs.get() <= CONFLICTS_MAX + 3, "{} runs", runs.get());
        }
        is_over.store(true, Ordering::Relaxed);
    });
}
