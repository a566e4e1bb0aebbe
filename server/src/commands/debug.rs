//! DEBUG SLEEP and LOLWUT: what does no harm of what Redis has for its own developers.

use std::time::Duration;

use crate::cx::{Fail, is};
use crate::number;
use crate::session::SessionCx;
use crate::table::{Command, Flags, Keys, Run};

/// See the file's head.
pub const COMMANDS: &[Command] = &[
    Command {
        name: "debug",
        arity: -2,
        flags: Flags::ADMIN.with(Flags::DANGEROUS).with(Flags::NO_MULTI),
        keys: Keys::None,
        group: "server",
        since: "1.0.0",
        summary: "SLEEP seconds: answers after this time.",
        run: Run::Async(|cx| Box::pin(debug(cx))),
    },
    Command {
        name: "lolwut",
        arity: -1,
        flags: Flags::FAST,
        keys: Keys::None,
        group: "server",
        since: "5.0.0",
        summary: "Tells the version.",
        run: Run::Session(|cx| {
            cx.reply.verbatim("txt", concat!("Haypile ver. ", env!("CARGO_PKG_VERSION"), "\n"));
            Ok(())
        }),
    },
];

/// The longest sleep, in seconds.
const SLEEP_S_MAX: f64 = 3600.0;

async fn debug(cx: &mut SessionCx<'_>) -> Result<(), Fail> {
    let refused = || Fail::error("ERR of DEBUG there is SLEEP <seconds> here, and nothing else");
    let [_, sleep, seconds] = cx.args else { return Err(refused()) };
    if !is(sleep, "sleep") {
        return Err(refused());
    }
    let seconds = number::double(seconds).ok_or_else(Fail::not_float)?.clamp(0.0, SLEEP_S_MAX);
    // Only this connection waits: in Redis all do.
    tokio::time::sleep(Duration::from_secs_f64(seconds)).await;
    cx.reply.ok();
    Ok(())
}

#[cfg(test)]
mod tests {
    use crate::testing::Bench;

    #[test]
    fn sleep_answers_and_the_rest_is_refused() {
        let mut bench = Bench::new();
        bench.check(
            "debug sleep 0.001 -> +OK
             debug sleep x     -> -ERR value is not a valid float
             debug segfault    -> -ERR of DEBUG there is SLEEP <seconds> here, and nothing else",
        );
        assert!(bench.run("lolwut").contains("Haypile ver. "));
    }
}
