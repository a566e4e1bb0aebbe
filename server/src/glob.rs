//! Redis' glob patterns: `*`, `?`, `[a-z]`, `[^x]`, `\` before a special one. Over bytes, not characters.

/// How often a pattern may try again: beyond it the pattern is taken as not matching, as nobody needs so many stars.
const STEPS_MAX: usize = 1 << 20;

/// Whether `text` matches `pattern`.
#[must_use]
pub fn matches(pattern: &[u8], text: &[u8]) -> bool {
    scan(pattern, text, |a, b| a == b)
}

/// Whether `text` matches `pattern`, without regard to the case of ASCII letters.
#[must_use]
pub fn matches_any_case(pattern: &[u8], text: &[u8]) -> bool {
    scan(&pattern.to_ascii_lowercase(), &text.to_ascii_lowercase(), |a, b| a == b)
}

/// Walks both; on a mismatch only the last star has to try again, since what stood before it matched as early as
/// it could.
fn scan(pattern: &[u8], text: &[u8], same: impl Fn(u8, u8) -> bool) -> bool {
    let (mut p, mut t) = (0, 0);
    let mut star: Option<(usize, usize)> = None;
    let mut steps = 0;
    loop {
        steps += 1;
        if steps > STEPS_MAX.max(text.len() * 4) {
            return false;
        }
        if pattern.get(p) == Some(&b'*') {
            star = Some((p + 1, t));
            p += 1;
            continue;
        }
        if t == text.len() {
            return p == pattern.len();
        }
        let step = if p < pattern.len() { one(&pattern[p..], text[t], &same) } else { None };
        match (step, star) {
            (Some(used), _) => {
                p += used;
                t += 1;
            }
            (None, Some((after, from))) => {
                p = after;
                t = from + 1;
                star = Some((after, from + 1));
            }
            (None, None) => return false,
        }
    }
}

/// Matches one byte with the pattern's first element; how long that is, or `None` if they differ.
fn one(pattern: &[u8], byte: u8, same: &impl Fn(u8, u8) -> bool) -> Option<usize> {
    match pattern {
        [b'?', ..] => Some(1),
        [b'[', class @ ..] => {
            let (hit, used) = class_has(class, byte, same);
            hit.then_some(used + 1)
        }
        [b'\\', literal, ..] => same(*literal, byte).then_some(2),
        [literal, ..] => same(*literal, byte).then_some(1),
        [] => None,
    }
}

/// Whether a class (after its `[`) has the byte, and how long it is. A class that is not closed ends with the pattern.
fn class_has(class: &[u8], byte: u8, same: &impl Fn(u8, u8) -> bool) -> (bool, usize) {
    let negated = class.first() == Some(&b'^');
    let mut at = usize::from(negated);
    let mut hit = false;
    loop {
        match &class[at.min(class.len())..] {
            [] => break,
            [b']', ..] => {
                at += 1;
                break;
            }
            [b'\\', literal, ..] => {
                hit |= same(*literal, byte);
                at += 2;
            }
            [from, b'-', to, ..] => {
                let (low, high) = (from.min(to), from.max(to));
                hit |= (*low..=*high).contains(&byte);
                at += 3;
            }
            [literal, ..] => {
                hit |= same(*literal, byte);
                at += 1;
            }
        }
    }
    (hit != negated, at)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn patterns_match_as_in_redis() {
        let cases = [
            ("*", "", true),
            ("", "", true),
            ("", "a", false),
            ("h?llo", "hello", true),
            ("h?llo", "hllo", false),
            ("h*llo", "heeeello", true),
            ("h[ae]llo", "hallo", true),
            ("h[^e]llo", "hello", false),
            ("h[^e]llo", "hbllo", true),
            ("h[a-b]llo", "hbllo", true),
            ("h[b-a]llo", "hallo", true),
            ("h\\*llo", "h*llo", true),
            ("h\\*llo", "hello", false),
            ("*a*b*c", "xxaxxbxxc", true),
            ("*a*b*c", "xxaxxbxx", false),
            ("a**b", "ab", true),
            ("[abc", "a", true),
            ("a[\\]]b", "a]b", true),
            ("foo*bar", "foobarbaz", false),
        ];
        for (pattern, text, expected) in cases {
            assert_eq!(matches(pattern.as_bytes(), text.as_bytes()), expected, "{pattern} {text}");
        }
        assert!(matches_any_case(b"MAX*", b"maxmemory"));
    }

    #[test]
    fn a_hostile_pattern_ends_soon() {
        let pattern = "*a".repeat(50) + "b";
        assert!(!matches(pattern.as_bytes(), &[b'a'; 20_000]));
    }
}
