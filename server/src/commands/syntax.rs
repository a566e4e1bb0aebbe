//! What arguments commands take, as people write it: read from `syntax.txt`, a line for each command and second word.
//!
//! | in a line | means |
//! |---|---|
//! | `key` | an argument of this name |
//! | `COUNT count` | a word that announces one |
//! | `WITHSCORES` | a word that stands for itself |
//! | `[...]` | may be left out |
//! | `<...>` | belongs together |
//! | `a\|b` | one of them, within brackets |
//! | `x...` | one or more times |
//!
//! COMMAND DOCS tells it to clients in Redis' form, which redis-cli makes its hints of; HELP and `docs/COMMANDS.md` show it
//! as it is.

use std::collections::HashMap;
use std::iter::Peekable;
use std::sync::LazyLock;
use std::vec::IntoIter;

static LINES: LazyLock<HashMap<&'static str, &'static str>> = LazyLock::new(|| {
    include_str!("syntax.txt").lines().map(|line| line.split_once(' ').unwrap_or((line, ""))).collect()
});

/// The arguments of a command or second word (`client|list`), as text; `None` if nothing is known of it.
#[must_use]
pub fn of(name: &str) -> Option<&'static str> {
    LINES.get(name).copied()
}

/// The names that have a line.
pub fn names() -> impl Iterator<Item = &'static str> {
    LINES.keys().copied()
}

/// What kind of argument it is.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Form {
    /// A value: Redis' name for its type.
    Value(&'static str),
    /// A word that stands for itself.
    Word,
    /// One of these.
    OneOf(Vec<Argument>),
    /// All of these.
    Block(Vec<Argument>),
}

/// An argument.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Argument {
    /// Its name, in lower case.
    pub name: String,
    /// The word that announces it, or that it is.
    pub token: Option<String>,
    /// Its kind.
    pub form: Form,
    /// Whether it may be left out.
    pub optional: bool,
    /// Whether it may come more than once; with its word each time.
    pub multiple: bool,
}

impl Argument {
    fn new(name: &str, token: Option<&str>, form: Form) -> Argument {
        let (name, token) = (name.to_ascii_lowercase(), token.map(str::to_owned));
        Argument { name, token, form, optional: false, multiple: false }
    }
}

/// Reads the arguments from text; `None` if brackets don't fit.
#[must_use]
pub fn arguments(text: &str) -> Option<Vec<Argument>> {
    let mut words = split(text).into_iter().peekable();
    let list = sequence(&mut words)?;
    words.next().is_none().then_some(list)
}

fn split(text: &str) -> Vec<String> {
    let mut words: Vec<String> = Vec::new();
    let mut word = String::new();
    for char in text.replace("...", "\u{2026}").chars() {
        if "[]<>|\u{2026} ".contains(char) {
            if !word.is_empty() {
                words.push(std::mem::take(&mut word));
            }
            if char != ' ' {
                words.push(char.to_string());
            }
        } else {
            word.push(char);
        }
    }
    words.extend(Some(word).filter(|word| !word.is_empty()));
    words
}

type Words = Peekable<IntoIter<String>>;

fn stands_for_itself(word: &str) -> bool {
    !word.chars().any(|char| char.is_ascii_lowercase())
}

/// Arguments up to a closing bracket, a bar or the end.
fn sequence(words: &mut Words) -> Option<Vec<Argument>> {
    let mut out = Vec::new();
    while let Some(word) = words.next_if(|word| !["]", ">", "|"].contains(&word.as_str())) {
        let mut argument = match word.as_str() {
            "[" => Argument { optional: true, ..group(words, "]")? },
            "<" => group(words, ">")?,
            "\u{2026}" => return None,
            token if stands_for_itself(token) => announced(words, token)?,
            name => Argument::new(name, None, Form::Value(kind(name))),
        };
        argument.multiple |= words.next_if(|word| word == "\u{2026}").is_some();
        out.push(argument);
    }
    Some(out)
}

/// What a word in capitals announces: a value, a choice, or nothing but itself.
fn announced(words: &mut Words, token: &str) -> Option<Argument> {
    let is_value = |word: &String| !stands_for_itself(word) && !"[]<>|\u{2026}".contains(word.as_str());
    if let Some(name) = words.next_if(is_value) {
        return Some(Argument::new(&name, Some(token), Form::Value(kind(&name))));
    }
    if words.next_if(|word| word == "<").is_some() {
        return Some(Argument { token: Some(token.to_owned()), ..group(words, ">")? });
    }
    Some(Argument::new(token, Some(token), Form::Word))
}

/// What stands between brackets.
fn group(words: &mut Words, close: &str) -> Option<Argument> {
    let mut choices = vec![sequence(words)?];
    while words.next_if(|word| word == "|").is_some() {
        choices.push(sequence(words)?);
    }
    words.next_if(|word| word == close)?;
    let mut choices = choices.into_iter().map(block).collect::<Option<Vec<_>>>()?;
    if choices.len() == 1 {
        return choices.pop();
    }
    let name = choices[0].name.clone();
    Some(Argument::new(&name, None, Form::OneOf(choices)))
}

fn block(mut arguments: Vec<Argument>) -> Option<Argument> {
    match arguments.len() {
        0 => None,
        1 => arguments.pop(),
        _ => {
            let name = arguments.iter().map(|argument| argument.name.as_str()).collect::<Vec<_>>().join("_");
            Some(Argument::new(&name, None, Form::Block(arguments)))
        }
    }
}

/// Redis' name for the type of an argument of this name.
fn kind(name: &str) -> &'static str {
    match name {
        "key" | "key1" | "key2" | "newkey" | "source" | "destination" | "dst" | "src" | "destkey"
        | "sourcekey" => "key",
        "pattern" => "pattern",
        "unix-time-seconds" | "unix-time-milliseconds" => "unix-time",
        "count" | "numkeys" | "seconds" | "milliseconds" | "offset" | "index" | "start" | "stop" | "end"
        | "limit" | "cursor" | "timeout" | "increment" | "decrement" | "db" | "bit" | "rank" | "slot"
        | "port" | "bits" => "integer",
        "score" | "radius" | "longitude" | "latitude" | "width" | "height" | "weight" => "double",
        _ => "string",
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::table;

    #[test]
    fn every_command_has_a_line_that_can_be_read() {
        for command in table::every().filter(|command| command.subs.is_empty() && command.word() != "help") {
            let text = of(command.name).unwrap_or_else(|| panic!("{} has no line", command.name));
            assert!(arguments(text).is_some(), "{}: {text}", command.name);
            let takes_none = command.arity == i32::try_from(command.name.split('|').count()).expect("small");
            assert!(!takes_none || text.is_empty(), "{} takes nothing: {text}", command.name);
        }
        let known: Vec<&str> = table::every().map(|command| command.name).collect();
        names().for_each(|name| assert!(known.contains(&name), "{name} is no command"));
    }

    #[test]
    fn brackets_bars_and_dots_are_understood() {
        let read = arguments("key [NX|XX] [EX seconds|KEEPTTL] <field value>... [COUNT count [ANY]]")
            .expect("it fits");
        let names: Vec<&str> = read.iter().map(|argument| argument.name.as_str()).collect();
        assert_eq!(names, ["key", "nx", "seconds", "field_value", "count_any"]);
        assert!(matches!(&read[1].form, Form::OneOf(of) if of.len() == 2) && read[1].optional);
        assert!(
            read[3].multiple
                && !read[3].optional
                && matches!(&read[3].form, Form::Block(of) if of.len() == 2)
        );
        let Form::OneOf(expiry) = &read[2].form else { panic!("a choice") };
        assert_eq!((expiry[0].token.as_deref(), &expiry[1].form), (Some("EX"), &Form::Word));
        for wrong in ["[key", "key]", "<a|>", "...", "[]"] {
            assert_eq!(arguments(wrong), None, "{wrong}");
        }
    }
}
