//! The records of many frames at once, each checked: on several cores where there are many.
//!
//! Finding where a frame ends needs the one before it; what is in a frame needs nothing but its bytes. So recovery goes from
//! frame to frame on one thread, and takes them apart here.

use super::RecordAt;
use super::record::{BadRecord, Record};
use super::recover::Waiting;

/// Fewer bytes are not worth a thread.
const PART_BYTES_MIN: usize = 512 << 10;
/// More threads than this do not share them.
const THREADS_MAX: usize = 4;

/// The records of some neighbouring frames.
pub(super) struct Part<'a> {
    /// The frames.
    pub(super) frames: &'a [Waiting],
    /// How many records each has; after one that holds something else there are no more.
    pub(super) counts: Vec<usize>,
    /// The records of all of them, in order.
    pub(super) records: Vec<RecordAt<'a>>,
    /// What is no record: the frame that holds it, where in its body, and why.
    pub(super) bad: Option<(&'a Waiting, usize, BadRecord)>,
}

/// Takes whole logical frames apart, whose bodies lie in `bytes`: in order. A part with something bad is the last that
/// counts.
pub(super) fn all<'a>(frames: &'a [Waiting], bytes: &'a [u8]) -> Vec<Part<'a>> {
    let total: usize = frames.iter().map(|frame| frame.body.len()).sum();
    // How many cores there are takes the system longer to say than a short log takes here.
    let threads = match THREADS_MAX.min(total / PART_BYTES_MIN) {
        few @ 0..2 => few,
        many => std::thread::available_parallelism().map_or(1, usize::from).min(many),
    };
    if threads < 2 {
        return vec![part(frames, bytes)];
    }
    std::thread::scope(|scope| {
        let mut shares = share(frames, total, threads);
        let mine = shares.pop();
        let others: Vec<_> =
            shares.into_iter().map(|share| scope.spawn(move || part(share, bytes))).collect();
        let mine = mine.map(|share| part(share, bytes));
        let joined = others.into_iter().map(|thread| thread.join().expect("checking bytes does not panic"));
        joined.chain(mine).collect()
    })
}

/// Cuts frames into parts of about as many bytes each.
fn share(frames: &[Waiting], total: usize, parts: usize) -> Vec<&[Waiting]> {
    let mut shares = Vec::with_capacity(parts);
    let (mut rest, mut left) = (frames, total);
    for parts_left in (2..=parts).rev() {
        let mut taken = 0;
        let mine = rest.iter().take_while(|frame| {
            let before = taken;
            taken += frame.body.len();
            before < left / parts_left
        });
        let (mine, others) = rest.split_at(mine.count());
        left -= mine.iter().map(|frame| frame.body.len()).sum::<usize>();
        shares.push(mine);
        rest = others;
    }
    shares.push(rest);
    shares
}

fn part<'a>(frames: &'a [Waiting], bytes: &'a [u8]) -> Part<'a> {
    let mut out = Part { frames, counts: Vec::with_capacity(frames.len()), records: Vec::new(), bad: None };
    for frame in frames {
        let body = &bytes[frame.body.clone()];
        let (mut rest, before) = (body, out.records.len());
        while !rest.is_empty() && out.bad.is_none() {
            let read = body.len() - rest.len();
            match Record::take(&mut rest) {
                Ok(record) => out.records.push(RecordAt { lsn: frame.lsn, record }),
                Err(bad) => out.bad = Some((frame, read, bad)),
            }
        }
        out.counts.push(out.records.len() - before);
        if out.bad.is_some() {
            break;
        }
    }
    out
}
