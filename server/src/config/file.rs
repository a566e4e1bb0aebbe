//! The configuration file: `name value` a line, `#` begins a comment line, values quoted as in Redis.

use super::{PARAMS, Settings, When, find};
use crate::resp::split_words;

/// The lines of a file that say something: the line's number from 1, and its words or why it has none.
pub fn split_lines(text: &str) -> impl Iterator<Item = (usize, Result<Vec<String>, &'static str>)> {
    text.lines().enumerate().filter_map(|(index, line)| {
        let line = line.trim();
        (!line.is_empty() && !line.starts_with('#')).then(|| (index + 1, words(line)))
    })
}

fn words(line: &str) -> Result<Vec<String>, &'static str> {
    let words = split_words(line.as_bytes()).ok_or("unbalanced quotes")?;
    words.into_iter().map(|word| String::from_utf8(word).map_err(|_| "not UTF-8")).collect()
}

/// The file's text with the settings as they are now: lines of keys that can change at run time get their values, comments and the
/// rest stay, keys that differ from the default and were not there come at the end.
#[must_use]
pub fn rewrite(text: &str, settings: &Settings) -> String {
    let defaults = Settings::default();
    let mut written = Vec::new();
    let mut out = String::new();
    for line in text.lines() {
        let name = words(line.trim()).ok().and_then(|words| words.into_iter().next());
        match name.as_deref().and_then(find) {
            Some(param) if param.when == When::Always => {
                if !written.contains(&param.name) {
                    written.push(param.name);
                    out.push_str(&entry(param.name, &(param.get)(settings)));
                }
            }
            _ => {
                out.push_str(line);
                out.push('\n');
            }
        }
    }
    for param in PARAMS.iter().filter(|param| param.when == When::Always && !written.contains(&param.name)) {
        let value = (param.get)(settings);
        if value != (param.get)(&defaults) {
            out.push_str(&entry(param.name, &value));
        }
    }
    out
}

fn entry(name: &str, value: &str) -> String {
    let plain =
        !value.is_empty() && value.bytes().all(|byte| byte.is_ascii_graphic() && !b"\"'\\#".contains(&byte));
    if plain {
        return format!("{name} {value}\n");
    }
    let mut quoted = String::new();
    for c in value.chars() {
        match c {
            '"' | '\\' => quoted.extend(['\\', c]),
            '\n' => quoted.push_str("\\n"),
            '\r' => quoted.push_str("\\r"),
            '\t' => quoted.push_str("\\t"),
            // Others stand for themselves: `\x85` would be a byte, and no text.
            c if c.is_ascii_control() => quoted.push_str(&format!("\\x{:02x}", u32::from(c))),
            c => quoted.push(c),
        }
    }
    format!("{name} \"{quoted}\"\n")
}
