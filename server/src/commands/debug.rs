//! DEBUG and LOLWUT: what does no harm of what Redis has for its own developers.

use std::time::Duration;

use crate::cx::{Cx, Fail};
use crate::number;
use crate::session::SessionCx;
use crate::table::{Command, Flags, Group, Keys};

const T: Group = Group("server");

/// See the file's head.
#[rustfmt::skip]
pub const COMMANDS: &[Command] = &[
    T.family("debug", ADMIN.with(Flags::OPERATOR), "1.0.0", "What does no harm of what Redis has for its own developers.", SUBS)
        .differs("only what does no harm: SLEEP (only its own connection sleeps), OBJECT, JMAP"),
    T.session("lolwut", -1, Flags::FAST, "5.0.0", "Tells the version.", |cx| {
        cx.reply.verbatim("txt", concat!("Haypile ver. ", env!("CARGO_PKG_VERSION"), "\n"));
        Ok(())
    }).differs("no picture, only the version"),
];

const ADMIN: Flags = Flags::ADMIN.with(Flags::DANGEROUS);

#[rustfmt::skip]
const SUBS: &[Command] = &[
    T.session("debug|jmap", 2, ADMIN, "1.0.0", "Does nothing, as in Redis.", |cx| {
        cx.reply.ok();
        Ok(())
    }),
    T.data("debug|object", -3, Flags::READONLY.with(ADMIN), Keys::Range { first: 2, last: 2, step: 1 }, "1.0.0", "Tells how a value is kept.", object),
    T.waiting("debug|sleep", 3, ADMIN.with(Flags::NO_MULTI), "1.0.0", "Answers after this time, in seconds.", |cx| Box::pin(sleep(cx))),
];

fn object(cx: &mut Cx<'_>) -> Result<(), Fail> {
    let key = cx.key(0);
    let value = cx.tx.get(key)?.ok_or_else(|| Fail::error("ERR no such key"))?;
    let encoding = super::object::encoding(cx, key, &value)?;
    let length = value.encoded_len();
    cx.reply.simple(&format!(
        "Value at:0x0 refcount:1 encoding:{encoding} serializedlength:{length} lru:0 lru_seconds_idle:0"
    ));
    Ok(())
}

/// The longest sleep, in seconds.
const SLEEP_S_MAX: f64 = 3600.0;

async fn sleep(cx: &mut SessionCx<'_>) -> Result<(), Fail> {
    let seconds = number::double(cx.arg(2)).ok_or_else(Fail::not_float)?.clamp(0.0, SLEEP_S_MAX);
    // Only this connection waits: in Redis all do.
    tokio::time::sleep(Duration::from_secs_f64(seconds)).await;
    cx.reply.ok();
    Ok(())
}

#[cfg(test)]
mod tests {
    use crate::testing::Bench;

    #[test]
    fn what_does_no_harm_answers_and_the_rest_is_refused() {
        let mut bench = Bench::new();
        bench.check(
            "debug sleep 0.001 -> +OK
             debug sleep x     -> -ERR value is not a valid float
             debug segfault    -> -ERR unknown subcommand 'segfault'. Try DEBUG HELP.
             debug jmap        -> +OK
             debug object none -> -ERR no such key",
        );
        assert!(bench.run("lolwut").contains("Haypile ver. "));
    }
}
