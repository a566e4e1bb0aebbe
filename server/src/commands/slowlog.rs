//! SLOWLOG: the commands that took long.

use crate::cx::{Fail, integer};
use crate::session::SessionCx;
use crate::table::{Command, Flags, Group};

const ADMIN: Flags = Flags::ADMIN.with(Flags::DANGEROUS);

const T: Group = Group("server");

/// See the file's head.
pub const COMMANDS: &[Command] =
    &[T.family("slowlog", Flags::NONE, "2.2.12", "Tells which commands took long.", SUBS)];

#[rustfmt::skip]
const SUBS: &[Command] = &[
    T.session("slowlog|get", -2, ADMIN, "2.2.12", "Gives the newest entries, 10 unless told.", get)
        .differs("a command's time includes what it waited for: the device, a slot that is handed over"),
    T.session("slowlog|len", 2, ADMIN, "2.2.12", "Counts the entries.", |cx| {
        let count = cx.node.measured.slow_len();
        cx.reply.count(count);
        Ok(())
    }),
    T.session("slowlog|reset", 2, ADMIN, "2.2.12", "Empties the log.", |cx| {
        cx.node.measured.forget_slow();
        cx.reply.ok();
        Ok(())
    }),
];

fn get(cx: &mut SessionCx<'_>) -> Result<(), Fail> {
    const WRONG: &str = "ERR count should be greater than or equal to -1";
    let count = match cx.args[2..] {
        [] => 10,
        [count] => match integer(count).map_err(|_| Fail::error(WRONG))? {
            -1 => usize::MAX,
            count => usize::try_from(count).map_err(|_| Fail::error(WRONG))?,
        },
        _ => return Err(Fail::arity("slowlog|get")),
    };
    let log = cx.node.measured.slow(count);
    cx.reply.array(log.len());
    for slow in log {
        let number = |value: u64| i64::try_from(value).unwrap_or(i64::MAX);
        cx.reply.array(6);
        cx.reply.integer(number(slow.id));
        cx.reply.integer(number(slow.at_s));
        cx.reply.integer(number(slow.took_us));
        cx.reply.array(slow.args.len());
        slow.args.iter().for_each(|arg| cx.reply.bulk(arg));
        cx.reply.bulk(slow.client.0.as_bytes());
        cx.reply.bulk(slow.client.1.as_bytes());
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use crate::testing::Bench;

    #[test]
    fn slow_commands_are_kept_as_the_settings_say() {
        let mut bench = Bench::new();
        bench.check(
            "config set slowlog-log-slower-than 0 slowlog-max-len 3 -> +OK
             slowlog reset         -> +OK
             slowlog len           -> :1
             client setname me     -> +OK
             set k v               -> +OK
             get k                 -> $1 v
             slowlog len           -> :3
             slowlog get -2        -> -ERR count should be greater than or equal to -1
             slowlog get x         -> -ERR count should be greater than or equal to -1
             slowlog get 1 2       -> -ERR wrong number of arguments for 'slowlog|get' command
             config set slowlog-log-slower-than -1 -> +OK
             get k                 -> $1 v",
        );
        let told = bench.run("slowlog get 1");
        assert!(told.contains("*4 $7 slowlog $3 get $1 1 $1 2 $11 127.0.0.1:1 $2 me"), "{told}");
        assert!(bench.run("slowlog get -1").starts_with("*3 *6 :"));
        bench.check(
            "slowlog reset   -> +OK
             slowlog get     -> *0",
        );
    }
}
