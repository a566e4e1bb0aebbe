//! The ends of runs and packs: where their parts lie.
//!
//! ```text
//! run, part of the format; all numbers little-endian; offsets from the run's first byte
//!  0   .   blocks      `block.rs`, one after another
//!  .   .   filter      `filter.rs`, and its CRC-32
//!  .   .   index       `index.rs`, and its CRC-32
//!  .   .   properties  `properties.rs`, and their CRC-32
//!  .   52  footer
//!        0   8   filter offset
//!        8   8   index offset
//!       16   8   properties offset
//!       24   8   length of the run, footer included
//!       32   2   slot
//!       34   2   format version, 1
//!       36   4   magic "HRUN"
//!       40   8   features      `features.rs`
//!       48   4   CRC-32 of the 48 bytes before
//!
//! pack file `data/NNNNNN.pack`, part of the format; offsets from the file's first byte
//!  0   .   runs        1 to 1024, one after another
//!  .   22n directory   each: u16 slot, u64 offset, u64 length, u32 CRC-32 of the whole run
//!  .   64  footer
//!        0   8   directory offset
//!        8   4   runs
//!       12   4   CRC-32 of the directory
//!       16   8   file number
//!       24   20  node that wrote it
//!       44   2   format version, 1
//!       46   6   magic "HPPACK"
//!       52   8   features      `features.rs`
//!       60   4   CRC-32 of the 60 bytes before
//! ```
//! A run is read through the manifest, which knows its place, length and checksum; the directory is for tools, and
//! for repair when a manifest is lost.

use std::path::Path;

use super::FileNo;
use super::file::PackFile;
use super::inspect::Directory;
use super::properties::{Properties, RunMeta};
use crate::error::{Error, Result};
use crate::features::Features;
use crate::fs::{Fs, OpenMode};
use crate::sync::Arc;
use crate::types::{NodeId, Slot};

/// Bytes of a run's footer. Part of the format.
pub(super) const RUN_FOOTER_BYTES: usize = 52;
/// Bytes of a pack's footer. Part of the format.
pub(super) const PACK_FOOTER_BYTES: usize = 64;
/// Bytes of a directory's entry. Part of the format.
const DIRECTORY_ENTRY_BYTES: usize = 22;
/// Runs in a pack. Part of the format: a flush holds each slot at most once.
pub(crate) const RUNS_MAX: usize = 1024;
const RUN_MAGIC: [u8; 4] = *b"HRUN";
const PACK_MAGIC: [u8; 6] = *b"HPPACK";
const FORMAT_VERSION: u16 = 1;

/// Where a run's parts lie.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct RunFooter {
    pub(super) filter_at: u64,
    pub(super) index_at: u64,
    pub(super) properties_at: u64,
    pub(super) run_len: u64,
    pub(super) slot: Slot,
}

fn le16(bytes: &[u8]) -> u16 {
    bytes.first_chunk().map_or(0, |raw| u16::from_le_bytes(*raw))
}

fn le32(bytes: &[u8]) -> u32 {
    bytes.first_chunk().map_or(0, |raw| u32::from_le_bytes(*raw))
}

fn le64(bytes: &[u8]) -> u64 {
    bytes.first_chunk().map_or(0, |raw| u64::from_le_bytes(*raw))
}

/// Appends the CRC-32 of `out[from..]`.
pub(super) fn seal(out: &mut Vec<u8>, from: usize) {
    let crc = crc32fast::hash(&out[from..]);
    out.extend_from_slice(&crc.to_le_bytes());
}

/// What stands before a CRC-32, if that holds.
pub(super) fn unseal(sealed: &[u8]) -> Option<&[u8]> {
    let (body, crc) = sealed.split_last_chunk::<4>()?;
    (crc32fast::hash(body) == u32::from_le_bytes(*crc)).then_some(body)
}

impl RunFooter {
    pub(super) fn encode(&self, out: &mut Vec<u8>) {
        let start = out.len();
        for number in [self.filter_at, self.index_at, self.properties_at, self.run_len] {
            out.extend_from_slice(&number.to_le_bytes());
        }
        out.extend_from_slice(&self.slot.number().to_le_bytes());
        out.extend_from_slice(&FORMAT_VERSION.to_le_bytes());
        out.extend_from_slice(&RUN_MAGIC);
        out.extend_from_slice(&Features::WRITTEN.encode());
        seal(out, start);
    }

    /// Reads the footer of a run of `run_len` bytes that lies at `offset` of the file.
    pub(super) fn decode(
        raw: &[u8; RUN_FOOTER_BYTES],
        run_len: u64,
        path: &Path,
        offset: u64,
    ) -> Result<RunFooter> {
        let corrupt = |what: &str| Error::corrupt(path, offset, what);
        let body = unseal(raw).ok_or_else(|| corrupt("wrong checksum of a run's footer"))?;
        if body[36..40] != RUN_MAGIC {
            return Err(corrupt("not a run's footer"));
        }
        known_version(le16(&body[34..]), path)?;
        Features::decode(&body[40..]).check(path)?;
        let footer = RunFooter {
            filter_at: le64(body),
            index_at: le64(&body[8..]),
            properties_at: le64(&body[16..]),
            run_len: le64(&body[24..]),
            slot: Slot::new(le16(&body[32..])).ok_or_else(|| corrupt("slot out of range"))?,
        };
        let end = run_len.saturating_sub(RUN_FOOTER_BYTES as u64);
        let ordered = 0 < footer.filter_at
            && footer.filter_at < footer.index_at
            && footer.index_at < footer.properties_at
            && footer.properties_at < end
            && footer.run_len == run_len;
        if ordered { Ok(footer) } else { Err(corrupt("parts of a run don't fit each other")) }
    }
}

fn known_version(version: u16, path: &Path) -> Result<()> {
    if version == FORMAT_VERSION {
        return Ok(());
    }
    Err(Error::Unusable {
        path: path.to_owned(),
        why: format!(
            "its runs have format version {version}, this program reads {FORMAT_VERSION}: start it with the \
             release that wrote it, or a newer one"
        ),
    })
}

/// A directory's entry.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct DirectoryEntry {
    /// Whose run it is.
    pub slot: Slot,
    /// Its first byte in the file.
    pub offset: u64,
    /// Its bytes.
    pub len: u64,
    /// CRC-32 of all of them.
    pub crc: u32,
}

/// Appends directory and footer to a pack that is `directory_at` bytes long.
pub(super) fn encode_directory(
    runs: &[DirectoryEntry],
    directory_at: u64,
    file: FileNo,
    node: NodeId,
    out: &mut Vec<u8>,
) {
    let start = out.len();
    for run in runs {
        out.extend_from_slice(&run.slot.number().to_le_bytes());
        out.extend_from_slice(&run.offset.to_le_bytes());
        out.extend_from_slice(&run.len.to_le_bytes());
        out.extend_from_slice(&run.crc.to_le_bytes());
    }
    let crc = crc32fast::hash(&out[start..]);
    let footer = out.len();
    out.extend_from_slice(&directory_at.to_le_bytes());
    out.extend_from_slice(&u32::try_from(runs.len()).expect("at most RUNS_MAX").to_le_bytes());
    out.extend_from_slice(&crc.to_le_bytes());
    out.extend_from_slice(&file.0.to_le_bytes());
    out.extend_from_slice(&node.0);
    out.extend_from_slice(&FORMAT_VERSION.to_le_bytes());
    out.extend_from_slice(&PACK_MAGIC);
    out.extend_from_slice(&Features::WRITTEN.encode());
    seal(out, footer);
}

/// The runs of a pack file by its own account, without a manifest: for tools and repair.
///
/// # Errors
/// `Corrupt` if the directory, or the footer or properties of a run, do not hold; `Unusable` if it is of a newer
/// format; `Io`.
pub fn read_directory(fs: &dyn Fs, path: &Path) -> Result<(FileNo, NodeId, Vec<RunMeta>)> {
    let file = fs.open(path, OpenMode::Read).map_err(|error| Error::io(path, "open", &error))?;
    let file = Arc::new(PackFile::unshared(FileNo(0), path.to_owned(), file));
    let Directory { file: file_no, node, runs, .. } = read_entries(&file)?;
    let metas = runs.into_iter().map(|DirectoryEntry { slot, offset, len, crc }| {
        let props = read_properties(&file, offset, len)?.1;
        if props.slot != slot {
            return Err(Error::corrupt(path, offset, "directory and run name different slots"));
        }
        Ok(RunMeta { file: file_no, offset, len, crc, props })
    });
    Ok((file_no, node, metas.collect::<Result<_>>()?))
}

/// The directory at a pack's end.
pub(super) fn read_entries(file: &Arc<PackFile>) -> Result<Directory> {
    let path = &file.path;
    let size = file.size()?;
    let footer_at = size
        .checked_sub(PACK_FOOTER_BYTES as u64)
        .ok_or_else(|| Error::corrupt(path, 0, format!("{size} bytes are no pack file")))?;
    let corrupt = |what: &str| Error::corrupt(path, footer_at, what);
    let mut raw = [0; PACK_FOOTER_BYTES];
    file.read(&mut raw, footer_at, "pack footer")?;
    let footer = unseal(&raw).ok_or_else(|| corrupt("wrong checksum of a pack's footer"))?;
    if footer[46..52] != PACK_MAGIC {
        return Err(corrupt("not a pack file"));
    }
    known_version(le16(&footer[44..]), path)?;
    Features::decode(&footer[52..]).check(path)?;
    let directory_at = le64(footer);
    let count = usize::try_from(le32(&footer[8..])).unwrap_or(usize::MAX);
    let fits = (1..=RUNS_MAX).contains(&count)
        && directory_at.checked_add((count * DIRECTORY_ENTRY_BYTES) as u64) == Some(footer_at);
    if !fits {
        return Err(corrupt("directory and footer of a pack don't fit each other"));
    }
    let mut directory = vec![0; count * DIRECTORY_ENTRY_BYTES];
    file.read(&mut directory, directory_at, "pack directory")?;
    let corrupt = |what: &str| Error::corrupt(path, directory_at, what);
    if crc32fast::hash(&directory) != le32(&footer[12..]) {
        return Err(corrupt("wrong checksum of a pack's directory"));
    }
    let mut node = NodeId([0; 20]);
    node.0.copy_from_slice(&footer[24..44]);
    let runs = directory.chunks_exact(DIRECTORY_ENTRY_BYTES).map(|entry| {
        let (offset, len) = (le64(&entry[2..]), le64(&entry[10..]));
        if offset.checked_add(len).is_none_or(|end| end > directory_at) {
            return Err(corrupt("a run lies beyond the directory"));
        }
        let slot = Slot::new(le16(entry)).ok_or_else(|| corrupt("slot out of range"))?;
        Ok(DirectoryEntry { slot, offset, len, crc: le32(&entry[18..]) })
    });
    Ok(Directory { file: FileNo(le64(&footer[16..])), node, bytes: size, runs: runs.collect::<Result<_>>()? })
}

/// Reads the footer and the properties of a run.
pub(super) fn read_properties(
    file: &Arc<PackFile>,
    offset: u64,
    len: u64,
) -> Result<(RunFooter, Properties)> {
    let path = &file.path;
    let footer_at = len
        .checked_sub(RUN_FOOTER_BYTES as u64)
        .ok_or_else(|| Error::corrupt(path, offset, format!("{len} bytes are no run")))?;
    let mut raw = [0; RUN_FOOTER_BYTES];
    file.read(&mut raw, offset + footer_at, "run footer")?;
    let footer = RunFooter::decode(&raw, len, path, offset + footer_at)?;
    let at = offset + footer.properties_at;
    let corrupt = |what: &str| Error::corrupt(path, at, what);
    let bytes =
        usize::try_from(footer_at - footer.properties_at).map_err(|_| corrupt("properties too large"))?;
    let mut sealed = vec![0; bytes];
    file.read(&mut sealed, at, "properties of a run")?;
    let mut body = unseal(&sealed).ok_or_else(|| corrupt("wrong checksum of a run's properties"))?;
    let props = Properties::take(&mut body).filter(|props| body.is_empty() && props.slot == footer.slot);
    Ok((footer, props.ok_or_else(|| corrupt("properties of a run have no meaning"))?))
}
