//! The memory the program uses: counted, bounded, and never the reason for its end.
//!
//! The program's allocator is the system's, with three things added. It counts. It knows the bound of
//! `--maxmemory`, for those who ask [`has_room`]. And it keeps a reserve: Rust ends a program that cannot
//! get memory for some small thing, and such things are everywhere, so when the system refuses a small
//! request the reserve is given back to the system and the request is made again. From then on memory is
//! [low](is_low): nobody may add keys until the reserve could be taken anew. What may be large never relies on
//! this: it asks with `try_reserve`, by [`try_to`], and takes no for an answer.
//!
//! Invariant: what a client decides the size of is asked for by [`try_to`], or is smaller than
//! [`SMALL_ALLOCATION_BYTES_MAX`].
//!
//! Counting costs no shared write for each allocation: a thread keeps its own balance and hands it in when
//! it has grown, and before it waits for something ([`settle`]). What a thread frees when it has ended is
//! counted at once, if it [took leave](leave).
//!
//! This module has `unsafe` in it because that an allocator is one is a promise only its author can make. It is
//! kept because each call is passed on to the system's allocator as it came.

#![allow(unsafe_code, reason = "see above; its tests run under Miri")]

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;
use std::ptr;
use std::sync::atomic::{AtomicBool, AtomicIsize, AtomicPtr, AtomicU8, AtomicUsize, Ordering};

use rustix::io::Errno;

use crate::limits::{
    AMPLE_BYTES, LOW_ALLOCATION_BYTES_MAX, MEMORY_RESERVE_BYTES, REQUEST_SLACK_SHARE,
    SMALL_ALLOCATION_BYTES_MAX, UNAUTHENTICATED_BYTES_MAX,
};

#[global_allocator]
static ALLOCATOR: Counting = Counting;

/// Allocated, in bytes, but for what threads have not handed in.
static USED: AtomicIsize = AtomicIsize::new(0);
/// Most of it ever, at the moments somebody looked, in bytes.
static PEAK: AtomicUsize = AtomicUsize::new(0);
/// How much may be used, in bytes; 0 is no bound.
static LIMIT: AtomicUsize = AtomicUsize::new(0);
/// About to be allocated, in bytes, see [`claim`].
static CLAIMED: AtomicUsize = AtomicUsize::new(0);
/// Held by [`Slack`], in bytes.
static SLACK_USED: AtomicUsize = AtomicUsize::new(0);
/// Held by clients that have yet to give the password, in bytes, see [`Unauthenticated`].
static UNAUTHENTICATED: AtomicUsize = AtomicUsize::new(0);
/// Given back when the system refuses a small request; null until there is one, and while memory is low.
static RESERVE: AtomicPtr<u8> = AtomicPtr::new(ptr::null_mut());
static LOW: AtomicBool = AtomicBool::new(false);

/// For how many seconds more memory counts as missed.
static MISSED_FOR: AtomicU8 = AtomicU8::new(0);
const MISSED_TICKS: u8 = 3;

/// What a thread has not handed in may be so much, in bytes.
const BALANCE_BYTES_MAX: isize = 16 << 10;

thread_local! {
    static BALANCE: Cell<isize> = const { Cell::new(0) };
    /// It is ending: nobody will hand its balance in.
    static LEAVING: Cell<bool> = const { Cell::new(false) };
    /// It takes no for an answer.
    static MAY_FAIL: Cell<bool> = const { Cell::new(false) };
}

/// How large the reserve is, in bytes: where there is not so much any more, half of it will do, and so on.
static RESERVE_BYTES: AtomicUsize = AtomicUsize::new(0);
const RESERVE_HALVINGS: u32 = 4;

/// The layout of a reserve of so many bytes.
fn reserve_layout(bytes: usize) -> Layout {
    // An alignment of one fits every size that there is.
    Layout::array::<u8>(bytes).unwrap_or(Layout::new::<u8>())
}

/// How much is allocated, in bytes, with what the allocator adds to each piece. The stacks of threads and
/// what the allocator keeps for later are not in it: resident memory is.
pub fn used_bytes() -> usize {
    settle();
    let used = usize::try_from(USED.load(Ordering::Relaxed)).unwrap_or(0);
    PEAK.fetch_max(used, Ordering::Relaxed);
    used
}

/// The most that [`used_bytes`] has ever returned.
pub fn peak_bytes() -> usize {
    PEAK.load(Ordering::Relaxed)
}

/// Hands in this thread's balance: call it before waiting for long, and when a thread ends.
pub fn settle() {
    let balance = BALANCE.replace(0);
    if balance != 0 {
        USED.fetch_add(balance, Ordering::Relaxed);
    }
}

/// The last thing a thread does: what it still frees is counted at once.
pub fn leave() {
    LEAVING.set(true);
    settle();
}

/// Asks for memory that need not be there: the reserve is not for this.
pub fn try_to<T, E: Into<NoMemory>>(ask: impl FnOnce() -> Result<T, E>) -> Result<T, NoMemory> {
    taking_no(ask).map_err(Into::into)
}

fn taking_no<T>(ask: impl FnOnce() -> T) -> T {
    let before = MAY_FAIL.replace(true);
    let answer = ask();
    MAY_FAIL.set(before);
    answer
}

/// There is no memory for what was asked for.
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
    try_to(|| copy.try_reserve_exact(capacity.max(bytes.len())))?;
    copy.extend_from_slice(bytes);
    Ok(copy)
}

/// Bounds what [`has_room`] and [`is_full`] allow, in bytes; 0 is no bound.
pub fn set_limit(bytes: usize) {
    LIMIT.store(bytes, Ordering::Relaxed);
}

/// How much may be allocated, in bytes; 0 if there is no bound.
pub fn limit() -> usize {
    LIMIT.load(Ordering::Relaxed)
}

/// Whether `more` bytes stay within the bound. While memory is low there is no room for anything.
pub fn has_room(more: usize) -> bool {
    if more > 0 && is_low() {
        return false;
    }
    let limit = LIMIT.load(Ordering::Relaxed);
    if limit == 0 {
        return true;
    }
    let used = usize::try_from(USED.load(Ordering::Relaxed) + BALANCE.get()).unwrap_or(0);
    // What unauthenticated clients hold has a bound of its own: it takes no room from the others.
    let used = used.saturating_sub(UNAUTHENTICATED.load(Ordering::Relaxed));
    let wanted = used.saturating_add(CLAIMED.load(Ordering::Relaxed)).saturating_add(more);
    let has_room = wanted <= limit;
    // What could never be there is not missed.
    if !has_room && more <= limit / 2 {
        MISSED_FOR.store(MISSED_TICKS, Ordering::Relaxed);
    }
    has_room
}

/// Room for so many bytes, kept until the claim is dropped: two threads that ask at the same moment do not get the same
/// room. `None` if there is not so much.
pub fn claim(bytes: usize) -> Option<Claim> {
    let has_room = has_room(bytes);
    let claim = Claim(bytes);
    CLAIMED.fetch_add(bytes, Ordering::Relaxed);
    // Another may have claimed it since; then neither may get it, which is on the safe side.
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

/// Room beyond the bound that a client's request holds, from a store that all clients share.
#[derive(Debug, Default)]
pub struct Slack {
    bytes: usize,
}

impl Slack {
    /// Takes so many bytes more; `false` if there are not so many left.
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

/// What a client holds that has yet to give the password. All of them together may hold
/// [`UNAUTHENTICATED_BYTES_MAX`]: the client that asks for more is refused.
#[derive(Debug, Default)]
pub struct Unauthenticated {
    bytes: usize,
}

impl Unauthenticated {
    /// It holds so many bytes now; `false` if that is too much.
    pub fn hold(&mut self, bytes: usize) -> bool {
        let more = bytes.saturating_sub(self.bytes);
        let others = UNAUTHENTICATED.fetch_add(more, Ordering::Relaxed);
        UNAUTHENTICATED.fetch_sub(self.bytes.saturating_sub(bytes), Ordering::Relaxed);
        self.bytes = bytes;
        more == 0 || others + more <= UNAUTHENTICATED_BYTES_MAX
    }

    /// Whether it holds anything.
    pub fn holds(&self) -> bool {
        self.bytes > 0
    }
}

impl Drop for Unauthenticated {
    fn drop(&mut self) {
        self.hold(0);
    }
}

/// Whether somebody was refused memory a moment ago: who holds some for no good should let go of it.
pub fn is_missed() -> bool {
    is_low() || MISSED_FOR.load(Ordering::Relaxed) > 0
}

/// A second is over.
pub fn tick() {
    let less = |ticks: u8| ticks.checked_sub(1);
    let _ = MISSED_FOR.fetch_update(Ordering::Relaxed, Ordering::Relaxed, less);
    used_bytes();
}

/// Whether more is used than the bound allows.
pub fn is_full() -> bool {
    !has_room(0)
}

/// Whether the system refused memory and the reserve is spent.
pub fn is_low() -> bool {
    LOW.load(Ordering::Relaxed)
}

/// Whether the system would map so many bytes just now, once the reserve is given back if need be. While memory
/// is low half of that is kept.
pub fn could_map(bytes: usize) -> bool {
    if !is_low() && (try_map(bytes) || !spend_reserve()) {
        return true;
    }
    try_map(bytes + MEMORY_RESERVE_BYTES / 2)
}

/// Whether there is so much that nobody need be careful.
pub fn could_map_amply() -> bool {
    try_map(AMPLE_BYTES)
}

fn try_map(bytes: usize) -> bool {
    use rustix::mm::{MapFlags, ProtFlags, mmap_anonymous, munmap};
    let access = ProtFlags::READ | ProtFlags::WRITE;
    // SAFETY: at no address of our choice it takes the place of nothing.
    match unsafe { mmap_anonymous(ptr::null_mut(), bytes, access, MapFlags::PRIVATE) } {
        // SAFETY: it was mapped above, and nobody has seen it.
        Ok(mapped) => unsafe { munmap(mapped, bytes) }.is_ok(),
        Err(_) => false,
    }
}

/// Takes the reserve, at first or anew; `false` while the system refuses it. For one thread to call.
pub fn take_reserve() -> bool {
    if !RESERVE.load(Ordering::Acquire).is_null() {
        return true;
    }
    for halvings in 0..RESERVE_HALVINGS {
        let bytes = MEMORY_RESERVE_BYTES >> halvings;
        // SAFETY: the layout's size is not zero.
        let reserve = unsafe { System.alloc(reserve_layout(bytes)) };
        if !reserve.is_null() {
            // Both before it is there to be spent, not after.
            LOW.store(false, Ordering::SeqCst);
            RESERVE_BYTES.store(bytes, Ordering::SeqCst);
            RESERVE.store(reserve, Ordering::SeqCst);
            return true;
        }
    }
    false
}

/// Gives the reserve back to the system; `false` if it is spent.
fn spend_reserve() -> bool {
    let reserve = RESERVE.swap(ptr::null_mut(), Ordering::SeqCst);
    if reserve.is_null() {
        return false;
    }
    LOW.store(true, Ordering::SeqCst);
    let layout = reserve_layout(RESERVE_BYTES.load(Ordering::SeqCst));
    // SAFETY: only `take_reserve` puts a pointer here, allocated with this layout, whose size it keeps until
    // the pointer is taken, and the swap makes it ours.
    unsafe { System.dealloc(reserve, layout) };
    true
}

/// The system's allocator, counting.
struct Counting;

impl Counting {
    /// Makes a request of the system, and counts what comes of it.
    fn request(layout: Layout, ask: impl Fn() -> *mut u8) -> *mut u8 {
        if Self::is_refused(layout.size()) {
            return ptr::null_mut();
        }
        let mut memory = ask();
        if memory.is_null() {
            memory = Self::again(layout, ask);
        }
        if !memory.is_null() {
            Self::note(Self::taken(layout.size()));
        }
        memory
    }

    /// While memory is low what is left is for those who cannot do without.
    fn is_refused(size: usize) -> bool {
        is_low() && size > LOW_ALLOCATION_BYTES_MAX && MAY_FAIL.try_with(Cell::get).unwrap_or(false)
    }

    /// Makes a request again that the system refused, if it is small and must not fail: with the reserve
    /// given back; or another thread is just doing that.
    fn again(layout: Layout, request: impl Fn() -> *mut u8) -> *mut u8 {
        const TRIES: usize = 10;
        let may_fail = MAY_FAIL.try_with(Cell::get).unwrap_or(false);
        if may_fail || layout.size() > SMALL_ALLOCATION_BYTES_MAX {
            return ptr::null_mut();
        }
        for _ in 0..TRIES {
            spend_reserve();
            let memory = request();
            if !memory.is_null() {
                return memory;
            }
            std::thread::yield_now();
        }
        ptr::null_mut()
    }

    fn note(bytes: isize) {
        // A thread that is ending may have lost its balance already.
        let balance = BALANCE.try_with(|balance| {
            balance.set(balance.get() + bytes);
            balance.get()
        });
        let is_leaving = LEAVING.try_with(Cell::get).unwrap_or(true);
        match balance {
            Ok(balance) if balance.abs() < BALANCE_BYTES_MAX && !is_leaving => {}
            Ok(_) => settle(),
            Err(_) => drop(USED.fetch_add(bytes, Ordering::Relaxed)),
        }
    }

    /// What an allocation takes: glibc's malloc adds eight bytes and rounds up to sixteen.
    fn taken(size: usize) -> isize {
        (size.saturating_add(8 + 15) & !15).max(32) as isize
    }
}

// SAFETY: each call is passed on to `System` with the arguments that came, and its result is returned; a
// second try after null is a request of its own. Nothing here allocates, unwinds, or keeps a pointer.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        // SAFETY: the caller's promises are those of `System`.
        Self::request(layout, || unsafe { System.alloc(layout) })
    }

    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        // SAFETY: the caller's promises are those of `System`.
        Self::request(layout, || unsafe { System.alloc_zeroed(layout) })
    }

    unsafe fn realloc(&self, old: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        let Ok(wanted) = Layout::from_size_align(size, layout.align()) else {
            return ptr::null_mut();
        };
        // SAFETY: the caller's promises are those of `System`; after null `old` is still what it was.
        let memory = Self::request(wanted, || unsafe { System.realloc(old, layout, size) });
        if !memory.is_null() {
            Self::note(-Self::taken(layout.size()));
        }
        memory
    }

    unsafe fn dealloc(&self, memory: *mut u8, layout: Layout) {
        // SAFETY: the caller's promises are those of `System`.
        unsafe { System.dealloc(memory, layout) };
        Self::note(-Self::taken(layout.size()));
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
    fn a_thread_that_took_leave_leaves_nothing_behind() {
        let before = used_bytes();
        for _ in 0..if cfg!(miri) { 2 } else { 100 } {
            // What it returns is freed by another.
            let kept = std::thread::spawn(|| {
                let kept = vec![1_u8; MUCH / 16];
                leave();
                kept
            });
            drop(kept.join().unwrap());
        }
        assert!(used_bytes() < before + MUCH / 2);
    }

    #[test]
    fn a_small_request_is_served_from_the_reserve_once() {
        assert!(take_reserve() && take_reserve());
        assert!(!is_low());
        let layout = Layout::new::<[u8; 64]>();
        let served = Cell::new(0);
        let request = || {
            served.set(served.get() + 1);
            ptr::without_provenance_mut(64)
        };
        assert!(taking_no(|| Counting::again(layout, request)).is_null(), "what may fail fails");
        assert!(!is_low());
        let large = Layout::from_size_align(SMALL_ALLOCATION_BYTES_MAX + 1, 1).unwrap();
        assert!(Counting::again(large, request).is_null(), "large ones take no for an answer");
        // Others of this process must not be refused because of this: nothing is in between.
        let (memory, was_low) = (Counting::again(layout, request), is_low());
        assert!(take_reserve() && !is_low());
        assert!(!memory.is_null() && was_low && served.get() == 1);
    }

    #[test]
    fn what_unauthenticated_clients_hold_is_bounded_together() {
        let (mut one, mut two) = (Unauthenticated::default(), Unauthenticated::default());
        assert!(one.hold(UNAUTHENTICATED_BYTES_MAX / 2) && two.hold(UNAUTHENTICATED_BYTES_MAX / 2));
        assert!(!two.hold(UNAUTHENTICATED_BYTES_MAX / 2 + 1));
        assert!(two.hold(1) && two.holds(), "less is never too much");
        drop(two);
        assert!(one.hold(UNAUTHENTICATED_BYTES_MAX));
    }

    #[test]
    fn the_taken_size_is_that_of_glibc() {
        for (size, taken) in [(0, 32), (1, 32), (24, 32), (25, 48), (40, 48), (41, 64)] {
            assert_eq!(Counting::taken(size), taken);
        }
    }
}
