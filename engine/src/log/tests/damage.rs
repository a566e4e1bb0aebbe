//! Torn ends and flipped bits: told apart, named, and cut only where nothing was promised.

use super::*;

/// A log of three groups, the first two synced before the third was written.
fn small_log() -> (MemoryFs, Vec<Lsn>, Vec<Written>) {
    let fs = MemoryFs::new();
    let opened = open(&fs, 1).unwrap();
    let all = vec![(1, 1, 20), (2, 1, 5), (1, 2, 60), (2, 2, 9)];
    let mut ends = vec![opened.log.end()];
    for group in [&all[..2], &all[2..3], &all[3..]] {
        append(&opened.log, group).unwrap();
        opened.log.write().unwrap();
        ends.push(opened.log.end());
        if group.len() == 1 && group[0].0 == 1 {
            opened.log.sync().unwrap();
        }
    }
    (fs, ends, all)
}

fn overwrite(fs: &MemoryFs, number: u64, offset: u64, bytes: &[u8]) {
    let file = fs.open(&segment_path(number), OpenMode::Write).unwrap();
    file.write_at(bytes, offset).unwrap();
}

#[test]
fn every_flipped_bit_is_reported_or_lies_in_what_nothing_promised() {
    let (fs, ends, all) = small_log();
    let bytes = read_file(&fs, &segment_path(0));
    for bit in 0..usize::try_from(ends[3].0).unwrap() * 8 {
        let fs = fs.restart();
        overwrite(&fs, 0, (bit / 8) as u64, &[bytes[bit / 8] ^ 1 << (bit % 8)]);
        let promised = (bit as u64) / 8 < ends[2].0;
        match open(&fs, 2) {
            Err(Error::Corrupt { path, offset, what }) => {
                assert!(promised, "bit {bit}: {what}");
                assert_eq!(path, segment_path(0));
                assert!(offset <= bit as u64 / 8);
                let held = match ends.iter().filter(|end| end.0 <= bit as u64 / 8).count() {
                    0 => continue,
                    1 => "it held slot 1 seq 1..1, slot 2 seq 1..1",
                    _ => "it held slot 1 seq 2..2",
                };
                assert!(what.ends_with(held), "bit {bit}: {what}");
            }
            Err(error) => panic!("bit {bit}: {error}"),
            Ok(opened) => {
                assert!(!promised, "bit {bit} was cut silently");
                assert_eq!(opened.records, all[..3]);
                let cut = opened.recovered.cut.unwrap();
                assert_eq!(cut.lsn, ends[2]);
                assert!(open(&fs, 3).unwrap().recovered.cut.is_none(), "cut once");
            }
        }
    }
}

#[test]
fn a_file_cut_at_any_byte_is_a_torn_end_or_damage() {
    let (fs, ends, all) = small_log();
    // One more than each frame's padding.
    let bytes = [0, 32 + 65, 32 + 80, 32 + 29];
    let padding = bytes.map(|bytes: u64| bytes.next_multiple_of(8) - bytes + 1);
    for size in 0..ends[3].0 {
        let fs = fs.restart();
        fs.open(&segment_path(0), OpenMode::Write).unwrap().set_size(size).unwrap();
        match open(&fs, 2) {
            // The promise went with the third frame: nothing but the manifest can tell.
            Ok(opened) => {
                assert!(size >= 64);
                // A frame's padding is zeros, like what a shorter file lacks.
                let whole = ends.iter().filter(|end| end.0 <= size.next_multiple_of(8)).count() - 1;
                let lacks_body = ends[whole].0 > size && ends[whole].0 - size >= padding[whole];
                let expected = [&all[..0], &all[..2], &all[..3], &all[..]][whole - usize::from(lacks_body)];
                assert_eq!(opened.records, expected, "{size}");
                assert_eq!(read_file(&fs, &segment_path(0)).len() as u64, SEGMENT_BYTES_MIN);
                append(&opened.log, &[(9, 1, 1)]).unwrap();
                opened.log.stop_clean().unwrap();
                let again = open(&fs.crash(size), 3).unwrap();
                assert_eq!(again.records, [expected, &[(9, 1, 1)]].concat());
            }
            Err(Error::Corrupt { .. }) => assert!(size < 64),
            Err(error) => panic!("{size}: {error}"),
        }
        let fs = fs.restart();
        fs.open(&segment_path(0), OpenMode::Write).unwrap().set_size(size).unwrap();
        let promised = Start { promised: ends[2], ..start(9) };
        assert_eq!(open_at(&fs, promised).is_err(), size <= ends[2].0 - padding[2], "{size}");
    }
}

#[test]
fn damage_names_the_slots_and_seqs_that_it_hit() {
    let fs = MemoryFs::new();
    let opened = open(&fs, 1).unwrap();
    let all = some_records(700, 300);
    for record in &all {
        append(&opened.log, &[*record]).unwrap();
        opened.log.write().unwrap();
    }
    opened.log.sync().unwrap();
    append(&opened.log, &[(9, 1, 1)]).unwrap();
    opened.log.write().unwrap();
    let segments = opened.log.segments();
    let what = |fs: &MemoryFs| match open(fs, 2).err().unwrap() {
        Error::Corrupt { what, .. } => what,
        error => panic!("{error}"),
    };
    // In the middle of a sealed segment: the hole is one record.
    let lost = all.iter().find(|record| record.0 == 3 && record.1 == 8).unwrap();
    let at = opened.log.locate(slot(3), Seq(1)).unwrap();
    let mut reader = opened.log.reader(at);
    let offset = loop {
        let ReadOutcome::Frame { lsn, records, .. } = reader.next() else { panic!("not found") };
        if super::super::records(&records).any(|record| written(&record.unwrap()) == *lost) {
            break lsn.0;
        }
    };
    let damaged = fs.restart();
    overwrite(&damaged, 0, offset + 40, b"X");
    let text = what(&damaged);
    assert!(text.contains("wrong checksum") && text.ends_with("it held slot 3 seq 8..8"), "{text}");
    // In the segment that is written now: told from the frames around it.
    let active = segments.last().unwrap();
    let damaged = fs.restart();
    overwrite(&damaged, segments.len() as u64 - 1, 64, &[0xff; 2000]);
    let text = what(&damaged);
    assert!(text.contains("the frame at") && text.contains("it held slot "), "{text}");
    // A missing segment.
    let damaged = fs.restart();
    damaged.remove(&segment_path(1)).unwrap();
    let text = what(&damaged);
    assert!(text.contains("the segment before it is missing"), "{text}");
    // A damaged seal hurts nobody: it is made again from the frames.
    let damaged = fs.restart();
    let seal = usize::try_from(segments[0].base.0 + SEGMENT_BYTES_MIN - 8).unwrap();
    let trailer = &read_file(&fs, &segment_path(0))[seal..];
    overwrite(&damaged, 0, u64::from_le_bytes(trailer.try_into().unwrap()) + 50, &[0xee; 3]);
    let healed = open(&damaged, 2).unwrap();
    assert_eq!(healed.records.len(), all.len() + 1);
    assert_eq!(healed.log.segments()[0].index, segments[0].index);
    let _ = active;
}

#[test]
fn what_lay_beyond_an_earlier_cut_is_never_taken_for_new() {
    let (fs, ends, all) = small_log();
    // The third frame is torn, then lies there whole again behind a new one, as if the cut had never reached the disk.
    let file = read_file(&fs, &segment_path(0));
    let (from, to) = (usize::try_from(ends[2].0).unwrap(), usize::try_from(ends[3].0).unwrap());
    let old = file[from..to].to_vec();
    overwrite(&fs, 0, ends[2].0, &vec![0; old.len()]);
    let opened = open(&fs, 5).unwrap();
    assert_eq!(opened.records, all[..3]);
    drop(opened);
    overwrite(&fs, 0, ends[2].0, &old);
    let opened = open(&fs, 6).unwrap();
    assert_eq!(opened.records, all, "the same position after the same frame: it is the old frame itself");
    drop(opened);

    // A newer frame of another length, then the old one at its old place.
    overwrite(&fs, 0, ends[2].0, &vec![0; old.len()]);
    let (fs, third) = (fs.restart(), (2, 2, 1));
    let opened = open(&fs, 7).unwrap();
    append(&opened.log, &[third]).unwrap();
    opened.log.write().unwrap();
    let end = opened.log.end();
    let salt = super::super::segment::SegmentHeader {
        node: NODE,
        number: 0,
        base: Lsn(0),
        bytes: SEGMENT_BYTES_MIN,
    }
    .salt();
    let header = frame::FrameHeader { flags: 0, incarnation: 1, lsn: end, synced: Lsn(64) };
    let mut stale = vec![0; frame::HEADER_BYTES];
    stale.extend_from_slice(&old[frame::HEADER_BYTES..]);
    frame::seal_up(&mut stale, &header, salt);
    overwrite(&fs, 0, end.0, &stale);
    let opened = open(&fs, 8).unwrap();
    assert_eq!(opened.records, [&all[..3], &[third]].concat());
    assert_eq!(opened.recovered.cut.unwrap().lsn, end);
}

#[test]
fn a_flipped_bit_in_any_of_many_segments_is_reported_or_harmless() {
    let fs = MemoryFs::new();
    let log = open(&fs, 1).unwrap().log;
    let mut all = some_records(300, 300);
    all.insert(150, (60, 1, 150_000));
    for pair in all.chunks(3) {
        append(&log, pair).unwrap();
        log.write().unwrap();
    }
    log.sync().unwrap();
    let promised = log.watermark().synced().lsn;
    let mut reported = 0;
    for number in 0..600u64 {
        let mut mixed = number.wrapping_mul(0x9e37_79b9_7f4a_7c15);
        mixed ^= mixed >> 29;
        let (at, bit) = (mixed % promised.0, mixed >> 61);
        let (segment, offset) = (at / SEGMENT_BYTES_MIN, at % SEGMENT_BYTES_MIN);
        let mut byte = [0];
        let file = fs.open(&segment_path(segment), OpenMode::Write).unwrap();
        file.read_at(&mut byte, offset).unwrap();
        file.write_at(&[byte[0] ^ 1 << bit], offset).unwrap();
        // The manifest's word stands in for a frame that would come later.
        match open_at(&fs.restart(), Start { promised, ..start(2) }) {
            Err(Error::Corrupt { path, .. }) => {
                assert!(path == segment_path(segment) || offset < 64, "{number}");
                reported += 1;
            }
            Err(error) => panic!("{number}: {error}"),
            Ok(opened) => assert_eq!(opened.records, all, "{number}: cut silently"),
        }
        file.write_at(&byte, offset).unwrap();
    }
    assert!(reported > 300, "{reported}");
}

#[test]
fn another_nodes_log_and_a_future_start_are_refused() {
    let (fs, ..) = small_log();
    let other = Start { node: NodeId([8; 20]), ..start(2) };
    assert!(matches!(open_at(&fs.restart(), other), Err(Error::Unusable { .. })));
    assert!(matches!(open(&fs.restart(), 0), Err(Error::Corrupt { .. })));
    let beyond = Start { promised: Lsn(1 << 20), ..start(2) };
    assert!(matches!(open_at(&fs.restart(), beyond), Err(Error::Corrupt { .. })));
}

#[test]
fn inspect_walks_through_damage_and_saves_the_records_that_it_spared() {
    use super::super::inspect::{Hole, Item, walk};
    let (fs, ends, all) = small_log();
    let look = |fs: &MemoryFs| {
        let (mut records, mut frames, mut holes): (Vec<Written>, usize, Vec<Hole>) = (vec![], 0, vec![]);
        walk(fs, &segment_path(0), &mut |item| match item {
            Item::Record(at) => records.push(written(&at.record)),
            Item::Frame { .. } => frames += 1,
            Item::Hole(hole) => holes.push(hole),
            _ => {}
        })
        .unwrap();
        (records, frames, holes)
    };
    assert_eq!(look(&fs), (all.clone(), 3, vec![]));
    // Within the body of the first frame's second record.
    overwrite(&fs, 0, ends[0].0 + 32 + 40 + 22, b"X");
    let (records, frames, holes) = look(&fs);
    assert_eq!((records, frames), ([&all[..1], &all[2..]].concat(), 2));
    assert_eq!(holes.len(), 1);
    assert_eq!((holes[0].offset, holes[0].bytes), (ends[0].0, ends[1].0 - ends[0].0));
    assert_eq!(holes[0].what, "wrong checksum");
    let lost: Vec<_> =
        holes[0].lost.iter().map(|lost| (lost.header.slot.number(), lost.header.seq.0)).collect();
    assert_eq!((lost, holes[0].unknown), (vec![(2, 1)], false));
}
