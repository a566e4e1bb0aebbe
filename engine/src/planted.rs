//! Bugs on purpose: each is one line at the place where such a bug would be, and a test shows that the loops find it.
//!
//! Only with the feature `planted`, which no product is built with: without it [`is`] is a constant `false` and nothing
//! of a bug is left in the binary. A bug is planted for one thread, for as long as [`with`] runs, so that tests can plant
//! different ones at once. `docs/TESTING.md` has a row for each.

/// Whether this build can have bugs planted: never true of a product.
pub const ENABLED: bool = cfg!(feature = "planted");

macro_rules! bugs {
    ($($(#[doc = $what:literal])+ $name:ident,)+) => {
        /// A bug that can be planted.
        #[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
        pub enum Bug {
            $($(#[doc = $what])+ $name,)+
        }

        impl Bug {
            /// All of them.
            pub const ALL: &[Bug] = &[$(Bug::$name,)+];
        }
    };
}

bugs! {
    /// A pack file's name is not synced: its folder's sync is missing.
    NoFolderSync,
    /// `CURRENT`'s new name is not synced before the manifest file that it named goes.
    CurrentNotSynced,
    /// A manifest file that grew too large goes before `CURRENT` names the new one.
    ManifestRemovedFirst,
    /// A flush publishes its version before the manifest's frame is written.
    EarlyPublish,
    /// A version is published when the manifest's frame is written, not when it is synced.
    ManifestNotSynced,
    /// Log is let go of when a slot's memtable is frozen, not when it is in a file.
    EarlyLogRelease,
    /// Log segments are removed before the manifest says that recovery begins after them.
    LogRemovedFirst,
    /// The numbers of slots that an atomic group wrote to go on with a hole.
    SeqSkipped,
    /// A frame of the log counts whatever its checksum says.
    TornFrameAccepted,
    /// The records of a logical frame count although its last part is missing.
    HalfGroup,
    /// A flush does not sync the log past what its file will hold.
    FlushAheadOfLog,
    /// Recovery replays records of a slot's former life.
    OldEpochReplayed,
    /// What a flush or a compaction made of a slot's former life is installed into the next.
    FormerLifeInstalled,
    /// A copy that came for a slot's former life is installed into the next.
    FormerLifeCopied,
    /// A compaction drops an expired key where older runs still have a value for it.
    ExpiredDataBack,
    /// A key that has expired is hidden from a reader, and the log does not learn the time.
    TimeNotKept,
    /// A compaction drops a tombstone where older runs still have a value for it.
    TombstoneDroppedEarly,
    /// A log that was full does not notice that there is room again.
    FullForEver,
    /// A change of the sync mode is not heeded.
    SyncModeForgotten,
    /// A reply leaves when its write is written, in every mode.
    EarlyReply,
    /// A failed sync of the log is tried again, and the second answer believed.
    FsyncRetried,
    /// A segment of the log is not synced before the next receives its first frame.
    NoSyncAtRotation,
    /// After an unclean stop what nothing proves to be on the disk is not written again.
    TailNotRewritten,
    /// What a crash left in the data folder stays.
    OrphansKept,
    /// The mark of a clean stop stays in the manifest while the node runs.
    CleanMarkKept,
    /// A master serves after an unclean stop without a new epoch.
    NoEpochAfterCrash,
    /// A grant is told of before it is synced.
    GrantNotSynced,
    /// The old owner is told that its grant was taken before the new epoch is synced.
    GrantToldUnsynced,
    /// What became of a grant is forgotten, so that it can be taken again.
    GrantTakenTwice,
    /// A replica acknowledges records before they are written.
    EarlyAck,
    /// Retention keeps nothing for replicas.
    PinsIgnored,
    /// A clear that comes while a copy comes does not clear what the copy brings.
    ClearLostInCopy,
    /// A run's filter denies some of its keys.
    FilterDenies,
    /// A copy is opened without keeping the log after it.
    CopyUnpinned,
    /// A lost connection takes back what was granted over it.
    FenceLiftedEarly,
    /// A copy does not say to whom its last record grants the slot.
    GrantLostInCopy,
    /// Half of a copy passes for data when the slot is asked for again.
    HalfCopyContinued,
    /// Runs of a copy that goes on are taken for those that stood at their places in the copy before.
    PartsMistaken,
    /// Two promotions of one slot begin the same epoch.
    EpochNotUnique,
    /// A master that is asked to go on from a record goes on from the one after.
    RecordSkipped,
    /// A promotion begins no epoch: the former owner's goes on.
    PromotedInOldEpoch,
    /// A question tells of records that are not written yet.
    AskedUnwritten,
    /// A master that lost its tail with the power does not take back what its replicas have of it.
    TailIgnored,
    /// A reply that waits for replicas leaves before they acknowledged.
    ReplyBeforeAck,
    /// The block cache takes blocks of different runs of a pack for one another.
    CacheKeyCollides,
}

#[cfg(feature = "planted")]
mod chosen {
    use super::Bug;
    use std::cell::Cell;

    thread_local! {
        static CHOSEN: Cell<Option<Bug>> = const { Cell::new(None) };
    }

    /// Whether this bug is planted here and now.
    #[must_use]
    pub fn is(bug: Bug) -> bool {
        CHOSEN.get() == Some(bug)
    }

    /// Runs something with a bug, or without any.
    pub fn with<T>(bug: Option<Bug>, run: impl FnOnce() -> T) -> T {
        struct Before(Option<Bug>);

        impl Drop for Before {
            fn drop(&mut self) {
                CHOSEN.set(self.0);
            }
        }

        let _before = Before(CHOSEN.replace(bug));
        run()
    }
}

#[cfg(feature = "planted")]
pub use chosen::{is, with};

/// Whether this bug is planted here and now: not in this build.
#[cfg(not(feature = "planted"))]
#[inline(always)]
#[must_use]
pub const fn is(_: Bug) -> bool {
    false
}
