//! The memory the program uses: counted, and bounded by `--maxmemory`.
//!
//! The program's allocator is the system's, and counts. It knows the bound of `--maxmemory`, for callers that ask
//! [`has_room`] or [`claim`]. Where the system refuses memory whose size a client chose, the request that asked for it
//! fails ([`Buffer`](super::buffer::Buffer)); where it refuses a small allocation the process ends, and the journal
//! replays. So that a client's large allocation cannot take the last of what small ones need, a [`Reserve`] is kept for
//! them.
//!
//! Counting costs no shared write for each allocation: a thread keeps its own balance and adds it to the total when
//! the balance has grown, and before it waits for something ([`flush_thread_count`]). What a thread frees at its end is
//! counted at once after [`thread_exit`].
//!
//! This module has `unsafe` in it because only the author of an allocator can promise that it is one. The promise is
//! kept because each call is passed on to the system's allocator as it came.

#![allow(unsafe_code, reason = "see above; its tests run under Miri")]

use std::alloc::{GlobalAlloc, Layout, System, handle_alloc_error};
use std::cell::Cell;
use std::ptr;
use std::sync::LazyLock;
use std::sync::atomic::{AtomicIsize, AtomicPtr, AtomicUsize, Ordering};

use rustix::io::Errno;
use rustix::mm::{MapFlags, ProtFlags, mmap_anonymous, munmap};
use rustix::process::{Resource, getrlimit};

use crate::limits::{REQUEST_SLACK_SHARE, UNAUTHENTICATED_BYTES_MAX};

#[global_allocator]
static ALLOCATOR: Counting = Counting;

/// Allocated, in bytes, without the balances of threads.
static USED: AtomicIsize = AtomicIsize::new(0);
/// The largest value that [`used_bytes`] has returned, in bytes.
static PEAK: AtomicUsize = AtomicUsize::new(0);
/// The bound of `--maxmemory`, in bytes; 0 is no bound.
static LIMIT: AtomicUsize = AtomicUsize::new(0);
/// Claimed and about to be allocated, in bytes, see [`claim`].
static CLAIMED: AtomicUsize = AtomicUsize::new(0);
/// Held by [`Slack`], in bytes.
static SLACK_USED: AtomicUsize = AtomicUsize::new(0);
/// Held by clients that have not given the password, in bytes, see [`Unauthenticated`].
static UNAUTHENTICATED: AtomicUsize = AtomicUsize::new(0);

/// For small allocations that the system refuses.
static RESERVE: Reserve = Reserve(AtomicPtr::new(ptr::null_mut()));

/// An allocation of so many bytes or more is large.
const LARGE_BYTES: usize = 64 << 10;
/// A balance larger than this, in bytes, is added to the total.
const BALANCE_BYTES_MAX: isize = 16 << 10;

thread_local! {
    /// What this thread has allocated and freed since it last added that to the total.
    static BALANCE: Cell<isize> = const { Cell::new(0) };
    /// The thread is ending: every change is added to the total at once.
    static IS_EXITING: Cell<bool> = const { Cell::new(false) };
}

/// How much is allocated, in bytes, with what the allocator adds to each piece; and remembers the largest answer. The
/// stacks of threads and what the allocator keeps for later are not in it: resident memory is.
pub fn used_bytes() -> usize {
    flush_thread_count();
    let used = usize::try_from(USED.load(Ordering::Relaxed)).unwrap_or(0);
    PEAK.fetch_max(used, Ordering::Relaxed);
    used
}

/// The most that [`used_bytes`] has ever returned.
pub fn peak_bytes() -> usize {
    PEAK.load(Ordering::Relaxed)
}

/// Adds this thread's balance to the total: call it before waiting for long.
pub fn flush_thread_count() {
    let balance = BALANCE.replace(0);
    if balance != 0 {
        USED.fetch_add(balance, Ordering::Relaxed);
    }
}

/// The last call of a thread: what its end frees is counted at once.
pub fn thread_exit() {
    IS_EXITING.set(true);
    flush_thread_count();
}

/// Ends the process, as a refused small allocation of `T` does.
pub fn refused<T>() -> ! {
    handle_alloc_error(Layout::new::<T>())
}

/// The system refuses memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("out of memory")]
pub struct NoMemory;

impl From<std::collections::TryReserveError> for NoMemory {
    fn from(_: std::collections::TryReserveError) -> Self {
        Self
    }
}

impl From<hashbrown::TryReserveError> for NoMemory {
    fn from(_: hashbrown::TryReserveError) -> Self {
        Self
    }
}

impl From<NoMemory> for std::io::Error {
    fn from(_: NoMemory) -> Self {
        Errno::NOMEM.into()
    }
}

/// A copy of `bytes` with room for `capacity`, if that is more; an error if there is no memory for it.
pub fn copy(bytes: &[u8], capacity: usize) -> Result<Vec<u8>, NoMemory> {
    let mut copy = Vec::new();
    copy.try_reserve_exact(capacity.max(bytes.len()))?;
    copy.extend_from_slice(bytes);
    Ok(copy)
}

/// Sets the bound of `--maxmemory`, in bytes; 0 is no bound.
pub fn set_limit(bytes: usize) {
    LIMIT.store(bytes, Ordering::Relaxed);
}

/// The bound of `--maxmemory`, in bytes; 0 if there is none.
pub fn limit() -> usize {
    LIMIT.load(Ordering::Relaxed)
}

/// Whether `more` bytes stay within the bound.
pub fn has_room(more: usize) -> bool {
    let limit = LIMIT.load(Ordering::Relaxed);
    if limit == 0 {
        return true;
    }
    let used = usize::try_from(USED.load(Ordering::Relaxed) + BALANCE.get()).unwrap_or(0);
    // What unauthenticated clients hold has a bound of its own: it takes no room from the others.
    let used = used.saturating_sub(UNAUTHENTICATED.load(Ordering::Relaxed));
    used.saturating_add(CLAIMED.load(Ordering::Relaxed)).saturating_add(more) <= limit
}

/// How much memory of `most` bytes may be taken by a library that ends the process where the system refuses it: all of it
/// where nothing bounds the process, half of what there is where something does, and 0 if that is next to nothing. What
/// other threads take meanwhile is not known.
pub fn obtainable(most: usize) -> usize {
    const LEAST_BYTES: usize = 512 << 10;
    let mut bytes = most;
    while !has_room(bytes) && bytes / 2 >= LEAST_BYTES {
        bytes /= 2;
    }
    if [Resource::As, Resource::Data].iter().all(|of| getrlimit(*of).current.is_none())
        && !*REFUSES_EARLY
    {
        return bytes;
    }
    while bytes >= LEAST_BYTES {
        if is_there(2 * bytes) {
            return bytes;
        }
        bytes /= 2;
    }
    0
}

/// Whether the system counts memory that is not used yet.
static REFUSES_EARLY: LazyLock<bool> = LazyLock::new(|| {
    std::fs::read("/proc/sys/vm/overcommit_memory").is_ok_and(|mode| mode.starts_with(b"2"))
});

/// Whether the system grants so many bytes just now.
fn is_there(bytes: usize) -> bool {
    let (access, flags) = (ProtFlags::READ | ProtFlags::WRITE, MapFlags::PRIVATE);
    // SAFETY: what is mapped here is nowhere else, and no reference to it is made.
    unsafe {
        mmap_anonymous(ptr::null_mut(), bytes, access, flags)
            .is_ok_and(|start| munmap(start, bytes).is_ok())
    }
}

/// Whether more is used than the bound allows.
pub fn is_full() -> bool {
    !has_room(0)
}

/// Room for so many bytes, kept until the claim is dropped: two threads that ask at the same moment do not get the same
/// room. `None` where there is less.
pub fn claim(bytes: usize) -> Option<Claim> {
    let has_room = has_room(bytes);
    let claim = Claim(bytes);
    CLAIMED.fetch_add(bytes, Ordering::Relaxed);
    // Another thread may have claimed the same room since: then both may be refused, which is on the safe side.
    (has_room && self::has_room(0)).then_some(claim)
}

/// See [`claim`].
#[derive(Debug)]
pub struct Claim(usize);

impl Drop for Claim {
    fn drop(&mut self) {
        CLAIMED.fetch_sub(self.0, Ordering::Relaxed);
    }
}

/// Room beyond the bound that a client's request holds, taken from a total that all clients share.
#[derive(Debug, Default)]
pub struct Slack {
    bytes: usize,
}

impl Slack {
    /// Takes so many bytes more; `false` where fewer are left.
    pub fn take(&mut self, more: usize) -> bool {
        let most = limit() / REQUEST_SLACK_SHARE;
        let is_there = SLACK_USED.fetch_add(more, Ordering::Relaxed) + more <= most;
        match is_there {
            true => self.bytes += more,
            false => drop(SLACK_USED.fetch_sub(more, Ordering::Relaxed)),
        }
        is_there
    }

    /// Gives all of it back.
    pub fn release(&mut self) {
        SLACK_USED.fetch_sub(std::mem::take(&mut self.bytes), Ordering::Relaxed);
    }
}

impl Drop for Slack {
    fn drop(&mut self) {
        self.release();
    }
}

/// The memory of a client that has not given the password. All such clients together may hold
/// [`UNAUTHENTICATED_BYTES_MAX`]: the client that asks for more is refused.
#[derive(Debug, Default)]
pub struct Unauthenticated {
    bytes: usize,
}

impl Unauthenticated {
    /// The client holds so many bytes now; `false` if that is too much.
    pub fn hold(&mut self, bytes: usize) -> bool {
        let more = bytes.saturating_sub(self.bytes);
        let others = UNAUTHENTICATED.fetch_add(more, Ordering::Relaxed);
        UNAUTHENTICATED.fetch_sub(self.bytes.saturating_sub(bytes), Ordering::Relaxed);
        self.bytes = bytes;
        more == 0 || others + more <= UNAUTHENTICATED_BYTES_MAX
    }
}

impl Drop for Unauthenticated {
    fn drop(&mut self) {
        self.hold(0);
    }
}

/// Memory set aside while there is enough, and given back to the system when it refuses a small allocation. While the
/// reserve is spent large allocations are refused, unless it can be refilled first.
struct Reserve(AtomicPtr<u8>);

impl Reserve {
    /// As much as the requests of some clients take between two large allocations. It is never written to, so it takes
    /// address space and no page.
    const LAYOUT: Layout = Layout::new::<[u8; 512 << 10]>();

    /// Sets the memory aside if it is not; `false` if the system refuses it.
    fn refill(&self) -> bool {
        if !self.0.load(Ordering::Acquire).is_null() {
            return true;
        }
        // SAFETY: its size is not 0.
        let memory = unsafe { System.alloc(Self::LAYOUT) };
        if memory.is_null() {
            return false;
        }
        let order = Ordering::AcqRel;
        if self.0.compare_exchange(ptr::null_mut(), memory, order, Ordering::Acquire).is_err() {
            // SAFETY: it is from `System`, of this layout, and no other thread has seen it.
            unsafe { System.dealloc(memory, Self::LAYOUT) };
        }
        true
    }

    /// Gives the memory back to the system; `false` if it is spent already.
    fn spend(&self) -> bool {
        let memory = self.0.swap(ptr::null_mut(), Ordering::AcqRel);
        if !memory.is_null() {
            // SAFETY: it is from `System`, of this layout, and the swap has given it to no other thread.
            unsafe { System.dealloc(memory, Self::LAYOUT) };
        }
        !memory.is_null()
    }
}

/// The system's allocator, counting.
struct Counting;

impl Counting {
    fn note(bytes: isize) {
        // The thread-local balance may be gone already where a thread is ending.
        let balance = BALANCE.try_with(|balance| {
            balance.set(balance.get() + bytes);
            balance.get()
        });
        let is_exiting = IS_EXITING.try_with(Cell::get).unwrap_or(true);
        match balance {
            Ok(balance) if balance.abs() < BALANCE_BYTES_MAX && !is_exiting => {}
            Ok(_) => flush_thread_count(),
            Err(_) => drop(USED.fetch_add(bytes, Ordering::Relaxed)),
        }
    }

    /// What `ask` gets for `size` bytes, counted; null if it is refused. A large allocation may not take what is left when
    /// the reserve is spent, a small one may spend it.
    fn counted(size: usize, ask: impl Fn() -> *mut u8) -> *mut u8 {
        let is_large = size >= LARGE_BYTES;
        if is_large && !RESERVE.refill() {
            return ptr::null_mut();
        }
        let mut memory = ask();
        if memory.is_null() && !is_large && RESERVE.spend() {
            memory = ask();
        }
        if !memory.is_null() {
            Self::note(Self::taken(size));
        }
        memory
    }

    /// What an allocation takes: glibc's malloc adds eight bytes and rounds up to sixteen.
    fn taken(size: usize) -> isize {
        (size.saturating_add(8 + 15) & !15).max(32) as isize
    }
}

// SAFETY: each call is passed on to `System` with the arguments that came, and its result is returned: null, after which
// nothing has changed, if it was not passed on at all. Nothing here unwinds, or keeps a pointer that a caller has.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        // SAFETY: the caller's promises are those of `System`.
        Self::counted(layout.size(), || unsafe { System.alloc(layout) })
    }

    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        // SAFETY: the caller's promises are those of `System`.
        Self::counted(layout.size(), || unsafe { System.alloc_zeroed(layout) })
    }

    unsafe fn realloc(&self, old: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        // SAFETY: the caller's promises are those of `System`; after null `old` is still what it was.
        let memory = Self::counted(size, || unsafe { System.realloc(old, layout, size) });
        if !memory.is_null() {
            Self::note(-Self::taken(layout.size()));
        }
        memory
    }

    unsafe fn dealloc(&self, memory: *mut u8, layout: Layout) {
        // SAFETY: the caller's promises are those of `System`.
        unsafe { System.dealloc(memory, layout) };
        Self::note(-Self::taken(layout.size()));
        if layout.size() >= LARGE_BYTES {
            RESERVE.refill();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Other tests of this process allocate meanwhile: more than they do is asked for.
    const MUCH: usize = 256 << 20;

    #[test]
    fn what_is_allocated_counts_and_what_is_freed_does_not() {
        let before = used_bytes();
        let mut bytes: Vec<u8> = Vec::with_capacity(MUCH);
        assert!(used_bytes() > before + MUCH / 2);
        bytes.shrink_to(MUCH / 256);
        assert!(used_bytes() < before + MUCH / 2);
        bytes.reserve_exact(MUCH);
        assert!(used_bytes() > before + MUCH / 2);
        drop(bytes);
        let zeros = vec![0_u8; MUCH];
        assert!(used_bytes() > before + MUCH / 2 && peak_bytes() > before + MUCH / 2);
        drop(zeros);
        assert!(used_bytes() < before + MUCH / 2);
    }

    #[test]
    fn what_a_thread_frees_at_its_end_is_counted() {
        let before = used_bytes();
        for _ in 0..if cfg!(miri) { 2 } else { 100 } {
            // Another thread frees what this one returns.
            let kept = std::thread::spawn(|| {
                let kept = vec![1_u8; MUCH / 16];
                thread_exit();
                kept
            });
            drop(kept.join().unwrap());
        }
        assert!(used_bytes() < before + MUCH / 2);
    }

    #[test]
    fn what_unauthenticated_clients_hold_is_bounded_together() {
        let (mut one, mut two) = (Unauthenticated::default(), Unauthenticated::default());
        assert!(one.hold(UNAUTHENTICATED_BYTES_MAX / 2) && two.hold(UNAUTHENTICATED_BYTES_MAX / 2));
        assert!(!two.hold(UNAUTHENTICATED_BYTES_MAX / 2 + 1));
        assert!(two.hold(1), "less is never too much");
        drop(two);
        assert!(one.hold(UNAUTHENTICATED_BYTES_MAX));
    }

    #[test]
    fn a_reserve_is_spent_once_and_refilled() {
        let reserve = Reserve(AtomicPtr::new(ptr::null_mut()));
        assert!(!reserve.spend(), "nothing is set aside yet");
        for _ in 0..2 {
            assert!(reserve.refill() && reserve.refill());
            assert!(reserve.spend() && !reserve.spend());
        }
    }

    #[test]
    fn the_taken_size_is_that_of_glibc() {
        for (size, taken) in [(0, 32), (1, 32), (24, 32), (25, 48), (40, 48), (41, 64)] {
            assert_eq!(Counting::taken(size), taken);
        }
    }
}
