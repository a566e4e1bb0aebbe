//! LCS: the longest common subsequence of two strings.

use crate::cx::{Cx, Fail, integer, is};
use crate::kind::Kind;
use crate::table::{Command, Flags, Group, Keys};

/// See the file's head.
pub const COMMANDS: &[Command] = &[Group("string").data(
    "lcs",
    -3,
    Flags::READONLY,
    Keys::FIRST_TWO,
    "7.0.0",
    "Finds the longest subsequence that two strings have in common.",
    lcs,
)];

/// The greatest table of lengths: the slots are locked while it is filled.
const CELLS_MAX: usize = 64 << 20;

#[derive(Default)]
struct Options {
    length: bool,
    places: bool,
    with_lengths: bool,
    least: usize,
}

fn options(args: &[&[u8]]) -> Result<Options, Fail> {
    let mut options = Options::default();
    let mut rest = args.iter();
    while let Some(arg) = rest.next() {
        if is(arg, "idx") {
            options.places = true;
        } else if is(arg, "len") {
            options.length = true;
        } else if is(arg, "withmatchlen") {
            options.with_lengths = true;
        } else if is(arg, "minmatchlen") {
            let least = integer(rest.next().ok_or_else(Fail::syntax)?)?;
            options.least = usize::try_from(least.max(0)).unwrap_or(usize::MAX);
        } else {
            return Err(Fail::syntax());
        }
    }
    if options.length && options.places {
        return Err(Fail::error("ERR If you want both the length and indexes, please just use IDX."));
    }
    Ok(options)
}

fn lcs(cx: &mut Cx<'_>) -> Result<(), Fail> {
    let mut strings = [0, 1].map(|_| bytes::Bytes::new());
    for (string, key) in strings.iter_mut().zip(cx.keys) {
        match cx.tx.get(key)? {
            Some(value) if value.kind != Kind::String as u8 => {
                return Err(Fail::error("ERR The specified keys must contain string values"));
            }
            Some(value) => *string = value.payload,
            None => {}
        }
    }
    let options = options(&cx.args[3..])?;
    let [a, b] = &strings;
    if (a.len() + 1).saturating_mul(b.len() + 1) > CELLS_MAX {
        return Err(Fail::error(
            "ERR Insufficient memory, transient memory for LCS exceeds proto-max-bulk-len",
        ));
    }
    let (common, matches) = common(a, b);
    if options.length {
        cx.reply.count(common.len());
    } else if options.places {
        let told: Vec<&Match> = matches.iter().filter(|found| found.len >= options.least).collect();
        cx.reply.map(2);
        cx.reply.bulk(b"matches");
        cx.reply.array(told.len());
        for found in told {
            cx.reply.array(if options.with_lengths { 3 } else { 2 });
            for start in [found.in_a, found.in_b] {
                cx.reply.array(2);
                cx.reply.count(start);
                cx.reply.count(start + found.len - 1);
            }
            if options.with_lengths {
                cx.reply.count(found.len);
            }
        }
        cx.reply.bulk(b"len");
        cx.reply.count(common.len());
    } else {
        cx.reply.bulk(&common);
    }
    Ok(())
}

/// A run of bytes that both strings have.
struct Match {
    in_a: usize,
    in_b: usize,
    len: usize,
}

/// The longest common subsequence, and the runs that it is made of, last first, as Redis gives them.
fn common(a: &[u8], b: &[u8]) -> (Vec<u8>, Vec<Match>) {
    let width = b.len() + 1;
    // The length for each pair of beginnings of the strings.
    let mut lengths = vec![0u32; (a.len() + 1) * width];
    for (i, byte) in a.iter().enumerate() {
        for (j, other) in b.iter().enumerate() {
            let at = (i + 1) * width + j + 1;
            lengths[at] = if byte == other {
                lengths[at - width - 1] + 1
            } else {
                lengths[at - 1].max(lengths[at - width])
            };
        }
    }
    let mut common = Vec::new();
    let mut matches: Vec<Match> = Vec::new();
    let (mut i, mut j) = (a.len(), b.len());
    while i > 0 && j > 0 {
        if a[i - 1] == b[j - 1] {
            common.push(a[i - 1]);
            (i, j) = (i - 1, j - 1);
            match matches.last_mut() {
                Some(found) if (found.in_a, found.in_b) == (i + 1, j + 1) => {
                    (found.in_a, found.in_b, found.len) = (i, j, found.len + 1);
                }
                _ => matches.push(Match { in_a: i, in_b: j, len: 1 }),
            }
        } else if lengths[(i - 1) * width + j] > lengths[i * width + j - 1] {
            i -= 1;
        } else {
            j -= 1;
        }
    }
    common.reverse();
    (common, matches)
}

#[cfg(test)]
mod tests {
    use crate::testing::Bench;

    #[test]
    fn the_longest_common_subsequence_is_told_as_in_redis() {
        Bench::new().check(
            "mset a ohmytext b mynewtext                    -> +OK
             lcs a b                                        -> $6 mytext
             lcs a b len                                    -> :6
             lcs a b idx                                    -> *4 $7 matches *2 *2 *2 :4 :7 *2 :5 :8 *2 *2 :2 :3 *2 :0 :1 $3 len :6
             lcs a b idx minmatchlen 4 withmatchlen         -> *4 $7 matches *1 *3 *2 :4 :7 *2 :5 :8 :4 $3 len :6
             lcs a nope                                     -> $0
             lcs a b len idx                                -> -ERR If you want both the length and indexes, please just use IDX.
             lcs a b foo                                    -> -ERR syntax error
             lcs a b minmatchlen                            -> -ERR syntax error",
        );
    }
}
