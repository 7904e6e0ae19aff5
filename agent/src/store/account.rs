//! What the data directory takes on its file system, what is promised to downloads, and what both together may take.
//!
//! Every file counts with the blocks that it fills, so that the sum is what `du` says: blobs and reference records are counted as they come
//! and go, and at start-up; what few files hold (index, quarantine, notes) is measured by who watches the disk. Directories are not counted.
//!
//! A download asks for its room before its first byte ([`Store::reserve`]). What would pass the limit waits until something was evicted, for
//! a while, and is then refused: the blob passes through and is not kept.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::watch;
use tokio::time::Instant;

use super::Store;
use super::error::StoreError;

/// What a download of unknown size asks for at a time.
const STEP_BYTES: u64 = 4 << 20;

/// Manifests may pass the limit by so much together: a layer that is kept without its manifest is of no use.
const MANIFESTS_SLACK_BYTES: u64 = 1 << 20;

/// So long a download waits for others to be evicted. Its client gets bytes meanwhile, up to what is held in memory.
const ROOM_TIMEOUT: Duration = Duration::from_secs(5);

/// So long a download waits until start-up has summed up what is there.
const SETTLE_TIMEOUT: Duration = Duration::from_secs(2);

/// A round of eviction that was under way may have missed who asked; the one after it has not.
const ROUNDS_MAX: u64 = 2;

/// The sums. All are bytes on the file system unless they say otherwise.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Sums {
    /// Lengths of committed blobs, not rounded.
    pub(super) blob_bytes: u64,
    pub(super) blob_count: u64,
    blobs: u64,
    /// Reference records, a count.
    records: u64,
    /// What temporary files of downloads hold.
    temporary: u64,
    /// What downloads may hold, written or not.
    granted: u64,
    /// Index, quarantine and notes, when they were last measured.
    measured: u64,
    /// What downloads wait for, and the largest that one of them did.
    waiting: u64,
    largest: u64,
}

impl Sums {
    fn used(&self, block: u64) -> u64 {
        self.blobs + self.records * block + self.temporary + self.measured
    }

    /// With what is promised and not yet written.
    fn claimed(&self, block: u64) -> u64 {
        self.used(block) - self.temporary + self.granted
    }
}

/// The book-keeping of one data directory.
#[derive(Debug)]
pub(super) struct Account {
    /// The unit in which the file system gives out room.
    block: u64,
    /// Held for an addition or two, never across an await.
    sums: Mutex<Sums>,
    /// Held for a copy, never across an await.
    marks: Mutex<Marks>,
    /// Ticks when room is wanted that is not there, or gets scarce.
    wanted: watch::Sender<u64>,
    /// Ticks when somebody has made room, or tried to; counts rounds that are over.
    rounds: watch::Sender<u64>,
}

/// What everything together may take, and where eviction begins.
#[derive(Debug, Clone, Copy)]
struct Marks {
    limit: u64,
    high: u64,
}

/// Figures of the disk that follow from the sums.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Room {
    /// What the data directory takes.
    pub used: u64,
    /// What downloads may still add.
    pub promised: u64,
    /// What further downloads wait for,
    pub waiting: u64,
    /// and the largest that one of them does.
    pub largest: u64,
    /// What all of it may take; `u64::MAX` as long as nobody has said.
    pub limit: u64,
}

impl Account {
    pub(super) fn new(block: u64) -> Arc<Self> {
        Arc::new(Self {
            block: block.max(1),
            sums: Mutex::default(),
            marks: Mutex::new(Marks { limit: u64::MAX, high: u64::MAX }),
            wanted: watch::Sender::new(0),
            rounds: watch::Sender::new(0),
        })
    }

    fn lock(&self) -> MutexGuard<'_, Sums> {
        self.sums.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn marks(&self) -> Marks {
        *self.marks.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn limit(&self) -> u64 {
        self.marks().limit
    }

    /// What a file of this length takes.
    pub(super) fn on_disk(&self, length: u64) -> u64 {
        length.div_ceil(self.block).saturating_mul(self.block)
    }

    pub(super) fn sums(&self) -> Sums {
        *self.lock()
    }

    pub(super) fn blob_came(&self, length: u64) {
        let mut sums = self.lock();
        sums.blob_bytes += length;
        sums.blob_count += 1;
        sums.blobs += self.on_disk(length);
    }

    pub(super) fn blob_went(&self, length: u64) {
        let mut sums = self.lock();
        sums.blob_bytes = sums.blob_bytes.saturating_sub(length);
        sums.blob_count = sums.blob_count.saturating_sub(1);
        sums.blobs = sums.blobs.saturating_sub(self.on_disk(length));
    }

    pub(super) fn records_came(&self, count: u64) {
        self.lock().records += count;
    }

    pub(super) fn records_went(&self, count: u64) {
        let mut sums = self.lock();
        sums.records = sums.records.saturating_sub(count);
    }

    /// Start-up has counted.
    pub(super) fn settle(&self, lengths: impl Iterator<Item = u64>, records: u64) {
        let (mut bytes, mut count, mut blobs) = (0, 0, 0);
        for length in lengths {
            bytes += length;
            count += 1;
            blobs += self.on_disk(length);
        }
        let mut sums = self.lock();
        (sums.blob_bytes, sums.blob_count, sums.blobs, sums.records) = (bytes, count, blobs, records);
    }

    pub(super) fn measured(&self, bytes: u64) {
        self.lock().measured = bytes;
    }

    fn room(&self) -> Room {
        let sums = self.sums();
        let used = sums.used(self.block);
        Room {
            used,
            promised: sums.granted.saturating_sub(sums.temporary),
            waiting: sums.waiting,
            largest: sums.largest,
            limit: self.limit(),
        }
    }

    /// Takes room for a file of so many bytes, if there is some.
    fn try_reserve(self: &Arc<Self>, length: u64) -> Option<Reservation> {
        self.try_reserve_within(length, self.limit())
    }

    fn try_reserve_within(self: &Arc<Self>, length: u64, limit: u64) -> Option<Reservation> {
        let bytes = self.on_disk(length);
        let high = self.marks().high;
        let mut sums = self.lock();
        let claimed = sums.claimed(self.block).saturating_add(bytes);
        if claimed > limit {
            return None;
        }
        sums.granted += bytes;
        drop(sums);
        if claimed > high {
            self.tick_wanted();
        }
        Some(Reservation { account: Arc::clone(self), granted: bytes, written: 0 })
    }

    fn tick_wanted(&self) {
        self.wanted.send_modify(|count| *count += 1);
    }

    fn refusal(&self, wanted: u64) -> StoreError {
        let Room { used, promised, limit, .. } = self.room();
        StoreError::NoRoom { wanted, used: used + promised, limit }
    }
}

/// Room that a file may take. Dropped, it is given back.
#[derive(Debug)]
pub struct Reservation {
    account: Arc<Account>,
    granted: u64,
    /// What the file takes so far.
    written: u64,
}

impl Reservation {
    /// The file grows to so many bytes.
    pub(super) fn grow(&mut self, length: u64) -> Result<(), StoreError> {
        let account = Arc::clone(&self.account);
        let bytes = account.on_disk(length);
        if bytes > self.granted {
            // It turned out larger than was said, or nobody said anything.
            let more = (bytes - self.granted).max(STEP_BYTES);
            let Some(mut step) = account.try_reserve(more).or_else(|| account.try_reserve(bytes - self.granted)) else {
                account.tick_wanted();
                return Err(account.refusal(bytes - self.granted));
            };
            self.granted += std::mem::take(&mut step.granted);
        }
        if bytes > self.written {
            account.lock().temporary += bytes - self.written;
            self.written = bytes;
        }
        Ok(())
    }
}

impl Drop for Reservation {
    fn drop(&mut self) {
        let mut sums = self.account.lock();
        sums.granted = sums.granted.saturating_sub(self.granted);
        sums.temporary = sums.temporary.saturating_sub(self.written);
    }
}

/// Counts what somebody waits for as long as it lives.
struct Waiting<'a> {
    account: &'a Account,
    bytes: u64,
}

impl<'a> Waiting<'a> {
    fn new(account: &'a Account, bytes: u64) -> Self {
        let mut sums = account.lock();
        (sums.waiting, sums.largest) = (sums.waiting + bytes, sums.largest.max(bytes));
        drop(sums);
        account.tick_wanted();
        Self { account, bytes }
    }
}

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        let mut sums = self.account.lock();
        sums.waiting = sums.waiting.saturating_sub(self.bytes);
        if sums.waiting == 0 {
            sums.largest = 0;
        }
    }
}

impl Store {
    /// Asks for room for a file of so many bytes; without a size, for a first step of it. Waits, bounded, while others are evicted for it.
    ///
    /// # Errors
    /// [`StoreError::NoRoom`] if there is none.
    pub async fn reserve(&self, length: Option<u64>) -> Result<Reservation, StoreError> {
        let account = &self.inner.account;
        // Of a small cache a step must not be more than there is.
        let length = length.unwrap_or_else(|| STEP_BYTES.min(account.limit() / 16));
        let mut settled = self.inner.settled.subscribe();
        // Without the sum of what is there nobody knows what is left; but no client waits long for that.
        let _ = tokio::time::timeout(SETTLE_TIMEOUT, settled.wait_for(|settled| *settled)).await;
        if let Some(reservation) = account.try_reserve(length) {
            return Ok(reservation);
        }
        if account.on_disk(length) > account.limit() {
            // Larger than everything together may be.
            return Err(account.refusal(length));
        }
        let mut rounds = account.rounds.subscribe();
        let last = *rounds.borrow() + ROUNDS_MAX;
        let _waiting = Waiting::new(account, account.on_disk(length));
        let deadline = Instant::now() + ROOM_TIMEOUT;
        while *rounds.borrow_and_update() < last {
            if !matches!(tokio::time::timeout_at(deadline, rounds.changed()).await, Ok(Ok(()))) {
                break;
            }
            if let Some(reservation) = account.try_reserve(length) {
                return Ok(reservation);
            }
        }
        Err(account.refusal(length))
    }

    /// Room for a manifest, without waiting: who stores one keeps evictions from beginning meanwhile. Manifests may pass the limit by a little.
    ///
    /// # Errors
    /// [`StoreError::NoRoom`] if there is none.
    pub(super) fn reserve_manifest(&self, length: u64) -> Result<Reservation, StoreError> {
        let account = &self.inner.account;
        let limit = account.limit();
        if let Some(reservation) = account.try_reserve_within(length, limit) {
            return Ok(reservation);
        }
        account.tick_wanted();
        account.try_reserve_within(length, limit.saturating_add(MANIFESTS_SLACK_BYTES)).ok_or_else(|| account.refusal(length))
    }

    /// What is used, promised, waited for, and allowed.
    #[must_use]
    pub fn room(&self) -> Room {
        self.inner.account.room()
    }

    /// Everything together may take `limit` bytes from now on; above `high` who evicts is told.
    pub fn set_limit(&self, limit: u64, high: u64) {
        *self.inner.account.marks.lock().unwrap_or_else(PoisonError::into_inner) = Marks { limit, high };
    }

    /// Ticks when room is wanted that is not there.
    #[must_use]
    pub fn watch_wanted(&self) -> watch::Receiver<u64> {
        self.inner.account.wanted.subscribe()
    }

    /// Says that there may be more room, and whether a round of eviction is over: who waits looks again.
    pub fn made_room(&self, round_is_over: bool) {
        self.inner.account.rounds.send_modify(|rounds| *rounds += u64::from(round_is_over));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn mk_account(limit: u64) -> Arc<Account> {
        let account = Account::new(4096);
        *account.marks.lock().unwrap() = Marks { limit, high: limit };
        account
    }

    #[test]
    fn files_count_with_the_blocks_that_they_fill() {
        let account = mk_account(u64::MAX);
        account.blob_came(1);
        account.blob_came(4097);
        account.records_came(3);
        account.measured(10_000);
        assert_eq!(account.room().used, 4096 + 8192 + 3 * 4096 + 10_000);
        account.blob_went(4097);
        account.records_went(1);
        assert_eq!(account.room().used, 4096 + 2 * 4096 + 10_000);
        assert_eq!((account.sums().blob_bytes, account.sums().blob_count), (1, 1));
    }

    #[test]
    fn what_is_promised_is_not_promised_twice_and_comes_back() {
        let account = mk_account(10 * 4096);
        account.blob_came(4096);
        let first = account.try_reserve(6 * 4096).unwrap();
        assert!(account.try_reserve(4 * 4096).is_none());
        let second = account.try_reserve(3 * 4096).unwrap();
        assert_eq!(account.room(), Room { used: 4096, promised: 9 * 4096, waiting: 0, largest: 0, limit: 10 * 4096 });
        drop(first);
        drop(second);
        assert_eq!(account.room().promised, 0);
    }

    #[test]
    fn what_grows_beyond_its_room_asks_for_more_or_is_refused() {
        let account = mk_account(2 * STEP_BYTES);
        let mut file = account.try_reserve(4096).unwrap();
        file.grow(4096).unwrap();
        assert_eq!(account.room().used, 4096);
        file.grow(4097).unwrap();
        assert_eq!((account.room().used, account.room().promised), (8192, STEP_BYTES - 4096));
        // Less than a step is left, and enough.
        file.grow(2 * STEP_BYTES).unwrap();
        assert!(matches!(file.grow(2 * STEP_BYTES + 1), Err(StoreError::NoRoom { .. })));
        drop(file);
        assert_eq!(account.room(), Room { used: 0, promised: 0, waiting: 0, largest: 0, limit: 2 * STEP_BYTES });
    }

    #[test]
    fn a_limit_below_what_is_there_refuses_and_never_underflows() {
        let account = mk_account(0);
        account.blob_came(1 << 20);
        assert!(account.try_reserve(0).is_none());
        account.blob_went(1 << 30);
        assert_eq!(account.room().used, 0);
    }
}
