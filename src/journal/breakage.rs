//! Bugs that a test puts into group commit, to show that the model checker finds such. Outside of these tests there are
//! none.

/// A bug.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Breakage {
    /// The leader does not wake the followers of its batch.
    LostWakeup,
    /// A batch counts as committed before its fsync.
    EarlyAcknowledgement,
    /// A repair begins no epoch.
    ForgottenEpoch,
}

#[cfg(all(test, feature = "model"))]
thread_local! {
    /// The bug that the test of this thread asks for.
    pub(super) static BROKEN: std::cell::Cell<Option<Breakage>> = const { std::cell::Cell::new(None) };
}

/// Whether the code is to have this bug.
#[cfg(all(test, feature = "model"))]
pub(super) fn has(breakage: Breakage) -> bool {
    BROKEN.get() == Some(breakage)
}

/// Whether the code is to have this bug: it is not.
#[cfg(not(all(test, feature = "model")))]
pub(super) const fn has(_: Breakage) -> bool {
    false
}
