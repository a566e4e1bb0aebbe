//! ACL: there is one user, whose password is `requirepass`. What asks about users is answered, what makes them refused.

use rand::RngExt;

use super::introspect::categories;
use super::sub::{Sub, dispatch};
use crate::cx::{Fail, integer, is};
use crate::session::SessionCx;
use crate::table::{self, Command, Flags, Keys, Run};

/// See the file's head.
pub const COMMANDS: &[Command] = &[Command {
    name: "acl",
    arity: -2,
    flags: Flags::ADMIN,
    keys: Keys::None,
    group: "server",
    since: "6.0.0",
    summary: "Tells of users and of the categories of commands.",
    run: Run::Session(|cx| dispatch(cx, "acl", SUBS)),
}];

const SUBS: &[Sub] = &[
    Sub { name: "cat", arity: -2, summary: "Names the categories, or a category's commands.", run: cat },
    Sub { name: "deluser", arity: -3, summary: "Refused: there is one user.", run: refuse },
    Sub { name: "dryrun", arity: -4, summary: "Refused: there is one user, who may do all.", run: refuse },
    Sub { name: "genpass", arity: -2, summary: "Gives a random password [bits].", run: genpass },
    Sub { name: "getuser", arity: 3, summary: "Refused: there is one user, see LIST.", run: refuse },
    Sub { name: "list", arity: 2, summary: "Tells of the users, a line each.", run: list },
    Sub { name: "load", arity: 2, summary: "Refused: there is no file of users.", run: refuse },
    Sub { name: "log", arity: -2, summary: "Refused: nothing is kept.", run: refuse },
    Sub { name: "save", arity: 2, summary: "Refused: there is no file of users.", run: refuse },
    Sub { name: "setuser", arity: -3, summary: "Refused: there is one user.", run: refuse },
    Sub { name: "users", arity: 2, summary: "Names the users.", run: users },
    Sub { name: "whoami", arity: 2, summary: "Names the user of this connection.", run: whoami },
];

const USER: &str = "default";

fn refuse(_: &mut SessionCx<'_>) -> Result<(), Fail> {
    Err(Fail::error(
        "ERR there is one user here, 'default', who may run every command: its password is the setting requirepass",
    ))
}

fn whoami(cx: &mut SessionCx<'_>) -> Result<(), Fail> {
    cx.reply.bulk(USER.as_bytes());
    Ok(())
}

fn users(cx: &mut SessionCx<'_>) -> Result<(), Fail> {
    cx.reply.array(1);
    cx.reply.bulk(USER.as_bytes());
    Ok(())
}

fn list(cx: &mut SessionCx<'_>) -> Result<(), Fail> {
    let open = cx.node.config.now().requirepass.is_empty();
    let password = if open { " nopass" } else { "" };
    cx.reply.array(1);
    cx.reply.bulk(format!("user {USER} on{password} ~* &* +@all").as_bytes());
    Ok(())
}

fn cat(cx: &mut SessionCx<'_>) -> Result<(), Fail> {
    let mut all: Vec<&str> = table::all().iter().flat_map(|command| categories(command)).collect();
    all.sort_unstable();
    all.dedup();
    let names: Vec<&str> = match &cx.args[2..] {
        [] => all.into_iter().map(|category| &category[1..]).collect(),
        [wanted] => {
            let named = |category: &&str| is(wanted, &category[1..]);
            let Some(category) = all.into_iter().find(named) else {
                let wanted = String::from_utf8_lossy(&wanted[..wanted.len().min(128)]).into_owned();
                return Err(Fail::error(format!("ERR Unknown category '{wanted}'")));
            };
            let has = |command: &&&Command| categories(command).contains(&category);
            table::all().iter().filter(has).map(|command| command.name).collect()
        }
        _ => return Err(Fail::arity("acl|cat")),
    };
    cx.reply.array(names.len());
    names.iter().for_each(|name| cx.reply.bulk(name.as_bytes()));
    Ok(())
}

fn genpass(cx: &mut SessionCx<'_>) -> Result<(), Fail> {
    const BITS_MAX: i64 = 4096;
    let bits = match &cx.args[2..] {
        [] => 256,
        [bits] => integer(bits)?,
        _ => return Err(Fail::arity("acl|genpass")),
    };
    let digits = usize::try_from(bits).ok().filter(|_| (1..=BITS_MAX).contains(&bits)).ok_or_else(|| {
        Fail::error(format!(
            "ERR ACL GENPASS argument must be the number of bits for the output password, a positive number up to {BITS_MAX}"
        ))
    })?;
    let mut rng = rand::rng();
    let password: String =
        (0..digits.div_ceil(4)).map(|_| format!("{:x}", rng.random_range(0..16u8))).collect();
    cx.reply.bulk(password.as_bytes());
    Ok(())
}

#[cfg(test)]
mod tests {
    use crate::config::Settings;
    use crate::testing::Bench;

    #[test]
    fn the_one_user_is_told_of_and_others_are_refused() {
        let mut bench = Bench::new();
        bench.check(
            "acl whoami      -> $7 default
             acl users       -> *1 $7 default
             acl list        -> *1 $34 user default on nopass ~* &* +@all
             acl cat nosuch  -> -ERR Unknown category 'nosuch'
             acl genpass 0   -> -ERR ACL GENPASS argument must be the number of bits for the output password, a positive number up to 4096
             acl setuser me  -> -ERR there is one user here, 'default', who may run every command: its password is the setting requirepass",
        );
        assert!(bench.run("acl cat").contains("sortedset"));
        assert!(bench.run("acl cat hash").contains("hgetall"));
        let (one, other) = (bench.run("acl genpass"), bench.run("acl genpass"));
        assert!(one.starts_with("$64 ") && one != other, "{one}");
        let mut closed =
            Bench::with(Settings { requirepass: "p".into(), standalone: true, ..Settings::default() });
        closed.session.authenticated = true;
        closed.check("acl list -> *1 $27 user default on ~* &* +@all");
    }
}
