//! GET, SET and what else works on strings.

use haypile_engine::value::Value;

use crate::cx::{Cx, Fail};
use crate::kind::Kind;
use crate::table::{Command, Flags, Keys, Run};

/// See the file's head.
pub const COMMANDS: &[Command] = &[
    Command {
        name: "get",
        arity: 2,
        flags: Flags::READONLY.with(Flags::FAST),
        keys: Keys::FIRST,
        group: "string",
        since: "1.0.0",
        summary: "Gives the string at a key.",
        run: Run::Data(get),
    },
    Command {
        name: "set",
        arity: 3,
        flags: Flags::WRITE,
        keys: Keys::FIRST,
        group: "string",
        since: "1.0.0",
        summary: "Sets a key to a string.",
        run: Run::Data(set),
    },
];

fn get(cx: &mut Cx<'_>) -> Result<(), Fail> {
    let value = cx.read(cx.key(0), Kind::String)?;
    cx.reply.bulk_or_null(value.as_ref().map(|value| &value.payload[..]));
    Ok(())
}

fn set(cx: &mut Cx<'_>) -> Result<(), Fail> {
    cx.tx.put(cx.key(0), &Value::whole(Kind::String as u8, 0, cx.arg(2).clone()))?;
    cx.reply.ok();
    Ok(())
}
