//! SORT and SORT_RO: the elements of a list, set or sorted set in an order of their own or of other keys.
//!
//! BY and GET read keys that only the elements name. Behind Codis those must lie in slots that the command has locked: in the
//! slot of the sorted key (or of STORE's), as with one hash tag in all of them; Redis asks for the same in a cluster. A
//! standalone node runs the command again with all its slots locked.

use std::cmp::Ordering;

use bytes::Bytes;
use haypile_engine::key::Key;
use haypile_engine::read::Direction;

use crate::cx::{Cx, Fail, integer, is};
use crate::kind::Kind;
use crate::number;
use crate::table::{Command, Flags, Group, Keys};
use crate::types::dict::Dict;
use crate::types::list::{End, List};
use crate::types::zset::Zset;

/// See the file's head.
#[rustfmt::skip]
pub const COMMANDS: &[Command] = &[
    GROUP.data("sort", -2, Flags::WRITE, KEYS, "1.0.0", "Gives or stores the elements of a collection in order.", |cx| sort(cx, Storing::Allowed)).differs(TAG),
    GROUP.data("sort_ro", -2, Flags::READONLY, Keys::FIRST, "7.0.0", "Gives the elements of a collection in order.", |cx| sort(cx, Storing::Refused)).differs(TAG),
];

const GROUP: Group = Group("generic");

const TAG: &str =
    "behind Codis BY and GET read keys in the slot of the sorted key only: give all of them one {hash tag}";

const KEYS: Keys = Keys::Custom(|args, positions| {
    positions.push(1);
    // The last STORE counts; what follows an option of its own is not one.
    let (mut at, mut target) = (2, None);
    while at < args.len() {
        let taken = [("limit", 2), ("get", 1), ("by", 1), ("store", 1)];
        let taken = taken.into_iter().find(|(name, _)| is(args[at], name));
        if is(args[at], "store") && at + 1 < args.len() {
            target = Some(at + 1);
        }
        at += 1 + taken.map_or(0, |(_, count)| count);
    }
    positions.extend(target);
});

/// Whether STORE is an option.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Storing {
    Allowed,
    Refused,
}

/// What SORT's options say.
struct Options<'a> {
    descending: bool,
    /// By bytes instead of by number.
    alpha: bool,
    first: i64,
    /// Below 0: all.
    count: i64,
    by: Option<Pattern<'a>>,
    /// Nothing is sorted: BY names no other key.
    as_it_is: bool,
    get: Vec<Pattern<'a>>,
    store: bool,
}

/// What BY and GET look up for an element.
enum Pattern<'a> {
    /// The element itself: `#`.
    Element,
    /// Nothing: without a star there is no key to look up.
    Nothing,
    /// The key of these bytes around the element, or the field of the hash there.
    Key { before: &'a [u8], after: &'a [u8], field: Option<&'a [u8]> },
}

impl<'a> Pattern<'a> {
    fn read(text: &'a [u8]) -> Pattern<'a> {
        if text == b"#" {
            return Pattern::Element;
        }
        let Some(star) = text.iter().position(|byte| *byte == b'*') else { return Pattern::Nothing };
        let (before, after) = (&text[..star], &text[star + 1..]);
        match after.windows(2).position(|pair| pair == b"->") {
            Some(arrow) if arrow + 2 < after.len() => {
                Pattern::Key { before, after: &after[..arrow], field: Some(&after[arrow + 2..]) }
            }
            _ => Pattern::Key { before, after, field: None },
        }
    }

    /// What it means for an element; `None` if there is nothing.
    fn look_up(&self, cx: &mut Cx<'_>, element: &Bytes) -> Result<Option<Bytes>, Fail> {
        let (before, after, field) = match self {
            Pattern::Element => return Ok(Some(element.clone())),
            Pattern::Nothing => return Ok(None),
            Pattern::Key { before, after, field } => (before, after, field),
        };
        let key = Key::new(&[before, &element[..], after].concat());
        cx.check_reach(&key, Flags::READONLY, || {
            "ERR BY and GET of SORT read keys in the slot of the sorted key only: give all of them one {hash tag}"
                .to_owned()
        })?;
        let Some(value) = cx.tx.get(&key)? else { return Ok(None) };
        match (Kind::of(&value), field) {
            (Some(Kind::String), None) => Ok(Some(value.payload)),
            (Some(Kind::Hash), Some(field)) => Ok(Dict::hash(&key, &value)?.get(&mut cx.tx, field)?),
            _ => Ok(None),
        }
    }
}

impl<'a> Options<'a> {
    fn read(args: &[&'a [u8]], storing: Storing) -> Result<Options<'a>, Fail> {
        let mut options = Options {
            descending: false,
            alpha: false,
            first: 0,
            count: -1,
            by: None,
            as_it_is: false,
            get: Vec::new(),
            store: false,
        };
        let mut rest = args;
        while let Some((option, more)) = rest.split_first() {
            rest = more;
            if is(option, "asc") {
                options.descending = false;
            } else if is(option, "desc") {
                options.descending = true;
            } else if is(option, "alpha") {
                options.alpha = true;
            } else if is(option, "limit")
                && let [first, count, more @ ..] = more
            {
                (options.first, options.count) = (integer(first)?, integer(count)?);
                rest = more;
            } else if is(option, "store")
                && storing == Storing::Allowed
                && let [_, more @ ..] = more
            {
                options.store = true;
                rest = more;
            } else if is(option, "by")
                && let [pattern, more @ ..] = more
            {
                options.as_it_is |= !pattern.contains(&b'*');
                options.by = Some(Pattern::read(pattern));
                rest = more;
            } else if is(option, "get")
                && let [pattern, more @ ..] = more
            {
                options.get.push(Pattern::read(pattern));
                rest = more;
            } else {
                return Err(Fail::syntax());
            }
        }
        Ok(options)
    }

    /// Which of `len` elements in order are wanted.
    fn part(&self, len: usize) -> std::ops::Range<usize> {
        let first = usize::try_from(self.first.max(0)).unwrap_or(usize::MAX).min(len);
        let count = usize::try_from(self.count).unwrap_or(usize::MAX);
        first..first.saturating_add(count).min(len)
    }
}

/// The elements of the first key, in their own order if they have one; backward if that is asked for.
fn elements(cx: &mut Cx<'_>, options: &mut Options<'_>) -> Result<Vec<Bytes>, Fail> {
    let key = cx.key(0);
    let Some(value) = cx.tx.get(key)? else { return Ok(Vec::new()) };
    let direction =
        if options.as_it_is && options.descending { Direction::Backward } else { Direction::Forward };
    let mut out = Vec::new();
    match Kind::of(&value) {
        Some(Kind::List) => {
            let list = List::decode(key, &value)?;
            list.walk(&mut cx.tx, 0, list.len(), direction, |_, item| {
                out.push(Bytes::copy_from_slice(item));
                true
            })?;
        }
        Some(Kind::Set) => {
            out.extend(Dict::set(key, &value)?.all(&mut cx.tx)?.into_iter().map(|(member, _)| member));
            if options.as_it_is && options.store {
                // What is stored has an order that everybody can tell.
                (options.as_it_is, options.alpha, options.by) = (false, true, None);
            }
        }
        Some(Kind::SortedSet) => {
            let zset = Zset::decode(key, &value)?;
            let members = zset.by_rank(&mut cx.tx, 0, zset.len(), direction)?;
            out.extend(members.into_iter().map(|(member, _)| member));
        }
        _ => return Err(Fail::wrong_type()),
    }
    Ok(out)
}

/// A number as C's `strtod` finds it at the beginning of a string that ends with the number (or a zero byte).
fn score(text: &[u8]) -> Result<f64, Fail> {
    let end = text.iter().position(|byte| *byte == 0).unwrap_or(text.len());
    let text = &text[..end];
    let digits = text.trim_ascii_start();
    if text.is_empty() { Some(0.0) } else { number::double(digits) }
        .ok_or_else(|| Fail::error("ERR One or more scores can't be converted into double"))
}

/// Up to the first zero byte: what C compares.
fn text_of(bytes: &Bytes) -> &[u8] {
    bytes.split(|byte| *byte == 0).next().unwrap_or_default()
}

/// Puts elements in the order that is asked for.
fn order(cx: &mut Cx<'_>, options: &Options<'_>, elements: Vec<Bytes>) -> Result<Vec<Bytes>, Fail> {
    let mut keyed = Vec::with_capacity(elements.len());
    for element in elements {
        let by = match &options.by {
            Some(pattern) => pattern.look_up(cx, &element)?,
            None => Some(element.clone()),
        };
        let number = match &by {
            Some(by) if !options.alpha => score(by)?,
            _ => 0.0,
        };
        keyed.push((number, by, element));
    }
    let compare = |a: &(f64, Option<Bytes>, Bytes), b: &(f64, Option<Bytes>, Bytes)| -> Ordering {
        let ordering = if options.alpha {
            match (&a.1, &b.1) {
                (Some(a), Some(b)) if !options.store => text_of(a).cmp(text_of(b)),
                (a, b) => a.cmp(b),
            }
        } else {
            a.0.total_cmp(&b.0).then_with(|| a.2.cmp(&b.2))
        };
        if options.descending { ordering.reverse() } else { ordering }
    };
    keyed.sort_by(compare);
    Ok(keyed.into_iter().map(|(_, _, element)| element).collect())
}

fn sort(cx: &mut Cx<'_>, storing: Storing) -> Result<(), Fail> {
    let args = cx.args;
    let mut options = Options::read(&args[2..], storing)?;
    let mut elements = elements(cx, &mut options)?;
    if !options.as_it_is {
        elements = order(cx, &options, elements)?;
    }
    let part = options.part(elements.len());
    let mut out: Vec<Option<Bytes>> = Vec::new();
    for element in &elements[part] {
        if options.get.is_empty() {
            out.push(Some(element.clone()));
        }
        for pattern in &options.get {
            out.push(pattern.look_up(cx, element)?);
        }
    }
    if !options.store {
        cx.reply.array(out.len());
        out.iter().for_each(|item| cx.reply.bulk_or_null(item.as_deref()));
        return Ok(());
    }
    let target = cx.key(1);
    cx.tx.delete(target)?;
    if !out.is_empty() {
        let mut list = List::new(target);
        for item in &out {
            list.push(&mut cx.tx, End::Tail, item.as_deref().unwrap_or_default())?;
        }
        list.save(&mut cx.tx)?;
    }
    cx.reply.count(out.len());
    Ok(())
}

#[cfg(test)]
mod tests {
    use crate::config::Settings;
    use crate::testing::Bench;

    #[test]
    fn collections_are_sorted_by_number_by_bytes_and_by_other_keys() {
        let mut bench = Bench::new();
        bench.check(
            "rpush {t}l 3 1 2                           -> :3
             sort {t}l                                  -> *3 $1 1 $1 2 $1 3
             sort {t}l desc                             -> *3 $1 3 $1 2 $1 1
             sort {t}l limit 1 1                        -> *1 $1 2
             sort {t}l limit 5 1                        -> *0
             sort {t}l limit 0 -1                       -> *3 $1 1 $1 2 $1 3
             sort {t}l limit x 1                        -> -ERR value is not an integer or out of range
             sort {t}l by nosort                        -> *3 $1 3 $1 1 $1 2
             sort {t}l by nosort desc                   -> *3 $1 2 $1 1 $1 3
             mset {t}w1 30 {t}w2 10 {t}w3 20            -> +OK
             hset {t}h1 f one                           -> :1
             sort {t}l by {t}w*                         -> *3 $1 2 $1 3 $1 1
             sort {t}l by {t}none*                      -> *3 $1 1 $1 2 $1 3
             sort {t}l get nothing                      -> *3 $-1 $-1 $-1
             sort {t}l by {t}w* store {t}o              -> :3
             lrange {t}o 0 -1                           -> *3 $1 2 $1 3 $1 1
             sort {t}none store {t}o                    -> :0
             exists {t}o                                -> :0
             sort_ro {t}l store {t}o                    -> -ERR syntax error
             sort_ro {t}l alpha desc                    -> *3 $1 3 $1 2 $1 1
             sadd {t}s b a c                            -> :3
             sort {t}s                                  -> -ERR One or more scores can't be converted into double
             sort {t}s alpha                            -> *3 $1 a $1 b $1 c
             zadd {t}z 1 x 2 y                          -> :2
             sort {t}z by nosort desc                   -> *2 $1 y $1 x
             sort {t}w1                                 -> -WRONGTYPE Operation against a key holding the wrong kind of value
             mset other1 1 other2 3 other3 2            -> +OK
             sort {t}l by other* get other*             -> *3 $1 1 $1 2 $1 3
             sort_ro {t}l by other* desc                -> *3 $1 2 $1 3 $1 1",
        );
        let mut codis = Bench::with(Settings::default());
        codis.check(
            "rpush {t}l 3 1 2                           -> :3
             sort {t}l by other*                        -> -ERR BY and GET of SORT read keys in the slot of the sorted key only: give all of them one {hash tag}",
        );
        let fields = bench.run("sort {t}l by {t}w* get # get {t}h*->f");
        assert_eq!(fields, "*6 $1 2 $-1 $1 3 $-1 $1 1 $3 one");
    }
}
