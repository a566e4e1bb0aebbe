//! Groups of slots as people write them: `5`, `0-511`, `0-3,8,10-12`.

use haypile_engine::types::{SLOT_COUNT, Slot};

/// Reads a group: numbers and ranges, joined by commas. The slots come ascending, each once.
///
/// # Errors
/// The part that makes no sense, and what was expected.
pub fn parse(text: &str) -> Result<Vec<Slot>, String> {
    let mut chosen = vec![false; usize::from(SLOT_COUNT)];
    for part in text.split(',') {
        let (first, last) = match part.split_once('-') {
            Some((first, last)) => (slot(first, part)?, slot(last, part)?),
            None => (slot(part, part)?, slot(part, part)?),
        };
        if first > last {
            return Err(format!("range '{part}' goes backwards"));
        }
        chosen[first.index()..=last.index()].fill(true);
    }
    Ok(Slot::all().filter(|slot| chosen[slot.index()]).collect())
}

fn slot(text: &str, part: &str) -> Result<Slot, String> {
    if text.is_empty() || !text.bytes().all(|byte| byte.is_ascii_digit()) {
        return Err(format!("'{part}' is no slot and no range of slots (such as 5 or 0-511)"));
    }
    text.parse::<u16>()
        .ok()
        .and_then(Slot::new)
        .ok_or_else(|| format!("slot {text} is out of range: slots are 0 to {}", SLOT_COUNT - 1))
}

/// Reads what `serve --slots` takes: `none` (or nothing), `all`, or a group.
///
/// # Errors
/// As [`parse`].
pub fn parse_choice(text: &str) -> Result<Vec<Slot>, String> {
    match text.to_ascii_lowercase().as_str() {
        "" | "none" => Ok(Vec::new()),
        "all" => Ok(Slot::all().collect()),
        group => parse(group),
    }
}

/// Writes slots as a group, neighbours joined to ranges.
#[must_use]
pub fn show(slots: &[Slot]) -> String {
    Slot::group(slots.iter().copied())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn groups_read_back_joined_and_in_order() {
        assert_eq!(parse("5,0-2,3,1").map(|slots| show(&slots)), Ok("0-3,5".to_owned()));
        assert_eq!(parse_choice("ALL").map(|slots| slots.len()), Ok(1024));
        assert_eq!(parse_choice("none"), Ok(vec![]));
    }

    #[test]
    fn what_is_no_group_is_named() {
        for text in
            ["", ",", "1,", "-1", "1-", "a", "1-2-3", "3-1", "1024", "4294967296", "0-4294967295", " 1", "+1"]
        {
            assert!(parse(text).is_err(), "{text}");
        }
    }
}
