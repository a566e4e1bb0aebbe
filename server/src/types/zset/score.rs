//! Scores: their order, and how they stand in elements.
//!
//! ```text
//! sub-key of a score's element, part of the format
//!  0   1   tag        2
//!  1   8   score      big-endian bits of the f64 ; of a negative one all turned, else the top one
//!  9   n   member
//! ```

use std::cmp::Ordering;

use bytes::Bytes;

use super::Scored;
use crate::types::SubKey;

/// Tag of the elements that are in the order of scores.
pub const SCORES: u8 = 2;

/// A score in 8 little-endian bytes.
pub fn encode(score: f64) -> [u8; 8] {
    unsigned_zero(score).to_le_bytes()
}

/// The score in 8 little-endian bytes; `None` if it is none.
pub fn decode(bytes: &[u8]) -> Option<f64> {
    let score = f64::from_le_bytes(bytes.try_into().ok()?);
    (!score.is_nan()).then_some(score)
}

/// The order of members with their scores.
pub fn order(a: (&[u8], f64), b: (&[u8], f64)) -> Ordering {
    a.1.partial_cmp(&b.1).expect("a score is a number").then_with(|| a.0.cmp(b.0))
}

/// Puts members in their order.
pub fn sort(members: &mut [Scored]) {
    members.sort_unstable_by(|a, b| order((&a.0, a.1), (&b.0, b.1)));
}

/// The score as it is kept: a zero without sign.
pub fn unsigned_zero(score: f64) -> f64 {
    score + 0.0
}

/// A number that orders as the scores do.
pub fn rank(score: f64) -> u64 {
    let bits = unsigned_zero(score).to_bits();
    if bits >> 63 == 0 { bits | 1 << 63 } else { !bits }
}

fn of_rank(rank: u64) -> f64 {
    f64::from_bits(if rank >> 63 == 1 { rank & !(1 << 63) } else { !rank })
}

/// The first bytes of the sub-keys of a score.
pub fn prefix(rank: u64) -> Vec<u8> {
    [&[SCORES][..], &rank.to_be_bytes()].concat()
}

/// The sub-key of a member with this score.
pub fn sub_key(score: f64, member: &[u8]) -> SubKey {
    let mut out = SubKey::new();
    out.push(SCORES);
    out.extend_from_slice(&rank(score).to_be_bytes());
    out.extend_from_slice(member);
    out
}

/// The member and its score out of an element in the order of scores; `None` if it is none.
pub fn split(sub: &Bytes) -> Option<Scored> {
    member_in(sub).map(|(_, score)| (sub.slice(9..), score))
}

/// The same, borrowed.
pub fn member_in(sub: &[u8]) -> Option<(&[u8], f64)> {
    let raw = sub.get(1..9)?.try_into().ok()?;
    let score = of_rank(u64::from_be_bytes(raw));
    (!score.is_nan()).then(|| (&sub[9..], score))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sub_keys_sort_as_scores_and_read_back() {
        let scores = [
            f64::NEG_INFINITY,
            f64::MIN,
            -1.5,
            -1.0,
            -f64::MIN_POSITIVE,
            -0.0,
            1e-320,
            2.0,
            f64::MAX,
            f64::INFINITY,
        ];
        for pair in scores.windows(2) {
            assert!(sub_key(pair[0], b"z") < sub_key(pair[1], b"a"), "{pair:?}");
        }
        for score in scores.into_iter().chain([0.0]) {
            let (member, back) = split(&Bytes::copy_from_slice(&sub_key(score, b"m"))).expect("whole");
            assert_eq!((&member[..], back.to_bits()), (&b"m"[..], unsigned_zero(score).to_bits()));
        }
        assert_eq!(rank(0.0), rank(-0.0));
        assert_eq!(split(&Bytes::from_static(b"\x02short")), None);
        assert_eq!(decode(&encode(f64::NAN)), None);
    }
}
