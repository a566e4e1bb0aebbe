//! SSTs: what of a slot is in files. A *run* is one slot's sorted, self-contained, position-independent table; a
//! *pack* is a file of runs of one or many slots, so that a flush of many slots costs one file and one fsync.
//!
//! Immutable once written. Knows entries and files; does not know which runs make up a slot (`version.rs`), which
//! files are in use (the manifest) or when to merge (`compact/`). All formats: `block.rs`, `filter.rs`, `index.rs`,
//! `properties.rs`, `footer.rs`.

mod block;
mod cursor;
mod entry;
mod file;
mod filter;
mod footer;
mod index;
pub mod inspect;
mod packs;
mod properties;
mod run;
mod scan;
mod search;
#[cfg(test)]
mod tests;
mod writer;

pub use block::{BLOCK_BYTES_MAX, Block, BlockBuilder, BlockId, Blocks, TRAILER_BYTES};
pub use cursor::{RunCursor, Step};
pub use entry::EntryRef;
pub use filter::{Filter, KeyHash};
pub(crate) use footer::RUNS_MAX;
pub use footer::read_directory;
pub use index::{Index, IndexBuilder};
pub(crate) use packs::file_no_of;
pub use packs::{FileNo, OPEN_FILES_MAX, PackUsage, Packs, pack_path};
pub use properties::{Properties, RunMeta};
pub use run::{Found, Looked, Lookup, Probe, Run};
pub use scan::Scan;
pub(crate) use search::{first_not_below_few, partition_within, prefix_of};
pub use writer::{PackWriter, RunOptions};
