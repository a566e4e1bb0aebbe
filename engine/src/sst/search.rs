//! Searching sorted keys by their first bytes, kept side by side as numbers.
//!
//! Keys begin with a uniform hash, so where a number stands among others is guessed well by interpolation; where it
//! is not (many elements of one collection), doubling steps from the guess still find it in logarithmic time.

use std::ops::Range;

/// The first 8 bytes as a number that sorts as they do; a shorter key is filled up with zeros.
pub(crate) fn prefix_of(key: &[u8]) -> u64 {
    if let Some(prefix) = key.first_chunk::<8>() {
        return u64::from_be_bytes(*prefix);
    }
    let mut prefix = [0; 8];
    prefix[..key.len()].copy_from_slice(key);
    u64::from_be_bytes(prefix)
}

/// The first of `sorted` that is not below `target`.
pub(crate) fn first_not_below(sorted: &[u64], target: u64) -> usize {
    let (Some(&least), Some(&most)) = (sorted.first(), sorted.last()) else { return 0 };
    if target <= least {
        return 0;
    }
    if target > most {
        return sorted.len();
    }
    #[allow(clippy::cast_precision_loss, clippy::cast_possible_truncation, clippy::cast_sign_loss)] // a guess
    let guess = ((target - least) as f64 / (most - least) as f64 * (sorted.len() - 1) as f64) as usize;
    let guess = guess.min(sorted.len() - 1);
    let mut step = 1;
    // What is sought is above `low`, and not above `high`.
    let (mut low, mut high);
    if sorted[guess] < target {
        (low, high) = (guess, (guess + 1).min(sorted.len() - 1));
        while sorted[high] < target {
            step *= 2;
            (low, high) = (high, (high + step).min(sorted.len() - 1));
        }
    } else {
        (low, high) = (guess.saturating_sub(1), guess);
        while sorted[low] >= target {
            step *= 2;
            (low, high) = (low.saturating_sub(step), low);
        }
    }
    while high - low > 1 {
        let middle = low.midpoint(high);
        if sorted[middle] < target {
            low = middle;
        } else {
            high = middle;
        }
    }
    high
}

/// As [`first_not_below`], of the few numbers of a node: one look at each cache line and one at the numbers of the right
/// one, none of which waits for another to come from memory, and no branch that can be guessed wrong.
pub(crate) fn first_not_below_few(sorted: &[u64], target: u64) -> usize {
    /// Numbers of a cache line.
    const LINE: usize = 8;
    let (lines, _) = sorted.as_chunks::<LINE>();
    let below: usize = lines.iter().map(|line| usize::from(line[LINE - 1] < target)).sum();
    match lines.get(below) {
        Some(line) => below * LINE + line.iter().map(|&number| usize::from(number < target)).sum::<usize>(),
        None => {
            let rest = &sorted[below * LINE..];
            below * LINE + rest.iter().map(|&number| usize::from(number < target)).sum::<usize>()
        }
    }
}

/// Among `count` sorted keys whose prefixes are `prefixes`: the first for which `is_before` does not hold.
/// `is_before` decides only among keys whose prefix is `target`.
pub(super) fn partition_point(prefixes: &[u64], target: u64, is_before: impl Fn(usize) -> bool) -> usize {
    let low = first_not_below(prefixes, target);
    if prefixes.get(low) != Some(&target) {
        return low;
    }
    if prefixes.get(low + 1) != Some(&target) {
        return low + usize::from(is_before(low));
    }
    let high = low + prefixes[low..].partition_point(|&prefix| prefix == target);
    partition_within(low..high, is_before)
}

/// Among places that `is_before` holds for first and then no more: the first for which it does not, or the end.
pub(crate) fn partition_within(places: Range<usize>, is_before: impl Fn(usize) -> bool) -> usize {
    let Range { start: mut low, end: mut high } = places;
    while low < high {
        let middle = low.midpoint(high);
        if is_before(middle) {
            low = middle + 1;
        } else {
            high = middle;
        }
    }
    low
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn the_guess_never_changes_the_answer(
            mut sorted in proptest::collection::vec(
                prop_oneof![any::<u64>(), 0u64..10, Just(u64::MAX), (0u64..9).prop_map(|n| n << 60)], 0..200),
            targets in proptest::collection::vec(prop_oneof![any::<u64>(), 0u64..12], 10),
        ) {
            sorted.sort_unstable();
            for target in targets.into_iter().chain(sorted.clone()).chain([0, u64::MAX]) {
                let expected = sorted.partition_point(|&number| number < target);
                prop_assert_eq!(first_not_below(&sorted, target), expected);
                prop_assert_eq!(first_not_below_few(&sorted, target), expected);
                let above = sorted.partition_point(|&number| number <= target);
                for cut in expected..=above {
                    prop_assert_eq!(partition_point(&sorted, target, |index| index < cut), cut);
                }
            }
        }
    }

    #[test]
    fn prefixes_sort_as_keys_do() {
        let keys: [&[u8]; 7] = [b"", b"\0", b"a", b"ab", b"ab\0", b"abcdefgh", b"abcdefghi"];
        assert!(keys.windows(2).all(|pair| prefix_of(pair[0]) <= prefix_of(pair[1])));
    }
}
