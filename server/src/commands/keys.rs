//! Keys of any type: removed, counted, renamed, copied.

use std::ops::Bound;

use haypile_engine::key::{Generation, Key};
use haypile_engine::read::Direction;
use haypile_engine::value::Value;

use crate::cx::{Cx, Fail, Turn, integer, is};
use crate::kind::Kind;
use crate::table::{Command, Flags, Group, Keys};

const READ: Flags = Flags::READONLY.with(Flags::FAST);
const WRITE: Flags = Flags::WRITE;
const FAST: Flags = Flags::WRITE.with(Flags::FAST);

/// See the file's head.
pub const COMMANDS: &[Command] = &[
    GROUP.data("del", -2, WRITE, Keys::ALL, "1.0.0", "Removes keys.", del),
    GROUP.data(
        "unlink",
        -2,
        FAST,
        Keys::ALL,
        "4.0.0",
        "Removes keys; as DEL, which takes no longer here.",
        del,
    ),
    GROUP.data("exists", -2, READ, Keys::ALL, "1.0.0", "Counts which of the keys are there.", exists),
    GROUP.data("touch", -2, READ, Keys::ALL, "3.2.1", "Counts which of the keys are there.", exists),
    GROUP.data("type", 2, READ, Keys::FIRST, "1.0.0", "Gives the type of what stands at a key.", kind),
    GROUP.data("rename", 3, WRITE, Keys::FIRST_TWO, "1.0.0", "Gives a key another name.", rename),
    GROUP.data(
        "renamenx",
        3,
        FAST,
        Keys::FIRST_TWO,
        "1.0.0",
        "Gives a key another name that is free.",
        renamenx,
    ),
    GROUP.data("copy", -3, WRITE, Keys::FIRST_TWO, "6.2.0", "Copies what stands at a key to another.", copy),
];

const GROUP: Group = Group("generic");

fn del(cx: &mut Cx<'_>) -> Result<(), Fail> {
    let mut removed = 0;
    for key in cx.keys {
        removed += usize::from(cx.tx.delete(key)?);
    }
    cx.reply.count(removed);
    Ok(())
}

fn exists(cx: &mut Cx<'_>) -> Result<(), Fail> {
    let mut found = 0;
    for key in cx.keys {
        found += usize::from(cx.tx.look(key, |_| ())?.is_some());
    }
    cx.reply.count(found);
    Ok(())
}

fn kind(cx: &mut Cx<'_>) -> Result<(), Fail> {
    let kind = cx.tx.look(cx.key(0), |value| Kind::of(&value))?;
    cx.reply.simple(kind.map_or("none", |kind| kind.map_or("unknown", Kind::name)));
    Ok(())
}

/// How many elements are copied at a time.
const ELEMENTS_AT_ONCE: usize = 1024;

/// Who copies more elements does so off the workers: these take some ten milliseconds.
const ELEMENTS_ON_WORKER: usize = 32 * ELEMENTS_AT_ONCE;

/// Sets `to` to the value of `from`, elements included. They get a generation of their own, as the old ones may go on
/// living at `from`.
fn copy_value(cx: &mut Cx<'_>, from: &Key, to: &Key, value: &Value) -> Result<(), Fail> {
    let Some(old) = value.generation else {
        return Ok(cx.tx.put(to, value)?);
    };
    let new = cx.tx.next_generation(to);
    cx.tx.put(to, &Value { generation: Some(new), ..value.clone() })?;
    copy_elements(cx, (from, old), (to, new))
}

fn copy_elements(cx: &mut Cx<'_>, from: (&Key, Generation), to: (&Key, Generation)) -> Result<(), Fail> {
    let mut last = None;
    let mut copied = 0;
    loop {
        if copied >= ELEMENTS_ON_WORKER && cx.turn == Turn::Worker && !cx.in_script {
            return Err(Fail::Long);
        }
        let start = last.as_deref().map_or(Bound::Unbounded, Bound::Excluded);
        let page =
            cx.tx.elements(from.0, from.1, start, Bound::Unbounded, Direction::Forward, ELEMENTS_AT_ONCE)?;
        for (sub, value) in &page {
            cx.tx.put_element(to.0, to.1, sub, value.clone());
        }
        if page.len() < ELEMENTS_AT_ONCE {
            return Ok(());
        }
        copied += page.len();
        last = page.into_iter().next_back().map(|(sub, _)| sub);
    }
}

fn source(cx: &mut Cx<'_>) -> Result<Value, Fail> {
    cx.tx.get(cx.key(0))?.ok_or_else(|| Fail::error("ERR no such key"))
}

fn rename(cx: &mut Cx<'_>) -> Result<(), Fail> {
    let (from, to) = (cx.key(0), cx.key(1));
    let value = source(cx)?;
    if from != to {
        copy_value(cx, from, to, &value)?;
        cx.tx.delete(from)?;
    }
    cx.reply.ok();
    Ok(())
}

fn renamenx(cx: &mut Cx<'_>) -> Result<(), Fail> {
    let (from, to) = (cx.key(0), cx.key(1));
    let value = source(cx)?;
    let free = from != to && cx.tx.get(to)?.is_none();
    if free {
        copy_value(cx, from, to, &value)?;
        cx.tx.delete(from)?;
    }
    cx.reply.integer(i64::from(free));
    Ok(())
}

fn copy(cx: &mut Cx<'_>) -> Result<(), Fail> {
    let (from, to) = (cx.key(0), cx.key(1));
    let mut replace = false;
    let mut rest = cx.args[3..].iter();
    while let Some(arg) = rest.next() {
        if is(arg, "replace") {
            replace = true;
        } else if is(arg, "db") {
            let db = integer(rest.next().ok_or_else(Fail::syntax)?)?;
            if db != 0 {
                return Err(Fail::error("ERR DB index is out of range"));
            }
        } else {
            return Err(Fail::syntax());
        }
    }
    if from == to {
        return Err(Fail::error("ERR source and destination objects are the same"));
    }
    let copied = match cx.tx.get(from)? {
        Some(value) if replace || cx.tx.get(to)?.is_none() => {
            copy_value(cx, from, to, &value)?;
            true
        }
        _ => false,
    };
    cx.reply.integer(i64::from(copied));
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::ops::Bound;

    use bytes::Bytes;
    use haypile_engine::engine::Fetched;
    use haypile_engine::key::Key;
    use haypile_engine::read::Direction;
    use haypile_engine::value::Value;

    use super::ELEMENTS_AT_ONCE;
    use crate::kind::Kind;
    use crate::testing::Bench;

    #[test]
    fn keys_are_removed_counted_and_renamed_as_in_redis() {
        Bench::new().check(
            "mset a 1 b 2        -> +OK
             exists a a b c      -> :3
             touch a c           -> :1
             type a              -> +string
             type c              -> +none
             del a a c           -> :1
             unlink a b          -> :1
             rename a b          -> -ERR no such key
             set a 1 ex 100      -> +OK
             rename a a          -> +OK
             renamenx a a        -> :0
             set b 2             -> +OK
             renamenx a b        -> :0
             rename a b          -> +OK
             ttl b               -> :100
             exists a            -> :0
             renamenx b c        -> :1
             get c               -> $1 1
             copy c c            -> -ERR source and destination objects are the same
             copy c d            -> :1
             copy c d            -> :0
             copy c d replace    -> :1
             copy nope d replace -> :0
             copy c d db 1       -> -ERR DB index is out of range
             copy c d foo        -> -ERR syntax error
             ttl d               -> :100",
        );
    }

    #[test]
    fn a_renamed_collection_takes_all_its_elements_along() {
        let mut bench = Bench::new();
        let (from, to) = (Key::new(b"from"), Key::new(b"to"));
        let count = ELEMENTS_AT_ONCE * 2 + 3;
        let fetched = Fetched::default();
        let mut tx = bench.node.engine.begin(&[from.slot()], &fetched);
        let generation = tx.next_generation(&from);
        let meta = Value { generation: Some(generation), ..Value::whole(Kind::Hash as u8, 1, &b"meta"[..]) };
        tx.put(&from, &meta).expect("in memory");
        (0..count)
            .for_each(|n| tx.put_element(&from, generation, &n.to_be_bytes(), Bytes::from(n.to_string())));
        tx.commit().expect("the log takes it");
        bench.check("set to x -> +OK\nrename from to -> +OK\nexists from -> :0\ntype to -> +hash");
        let mut tx = bench.node.engine.begin(&[to.slot()], &fetched);
        let moved = tx.get(&to).expect("in memory").expect("there");
        assert_eq!(&moved.payload[..], b"meta");
        let generation = moved.generation.expect("a large collection");
        let (first, last) = (Bound::Unbounded, Bound::Unbounded);
        let elements =
            tx.elements(&to, generation, first, last, Direction::Forward, usize::MAX).expect("in memory");
        assert_eq!(elements.len(), count);
        for (n, (sub, value)) in elements.into_iter().enumerate() {
            assert_eq!((&sub[..], value), (&n.to_be_bytes()[..], Bytes::from(n.to_string())));
        }
    }
}
