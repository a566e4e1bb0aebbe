//! ACL: there is one user, whose password is `requirepass`. What asks about users is answered, what makes them refused.

use rand::RngExt;

use super::introspect::categories;
use crate::cx::{Fail, integer, is};
use crate::session::SessionCx;
use crate::table::{self, Command, Flags, Group};

const T: Group = Group("server");

/// See the file's head.
pub const COMMANDS: &[Command] = &[T.family(
    "acl",
    Flags::ADMIN.with(Flags::OPERATOR),
    "6.0.0",
    "Tells of users and of the categories of commands.",
    SUBS,
)];

const SUBS: &[Command] = &[
    T.session("acl|cat", -2, Flags::NONE, "6.0.0", "Names the categories, or a category's commands.", cat),
    T.refused("acl|deluser", -3, "6.0.0", ONE_USER),
    T.refused("acl|dryrun", -4, "7.0.0", ONE_USER),
    T.session("acl|genpass", -2, Flags::NONE, "6.0.0", "Gives a random password [bits].", genpass),
    T.refused("acl|getuser", 3, "6.0.0", ONE_USER),
    T.session("acl|list", 2, Flags::ADMIN, "6.0.0", "Tells of the users, a line each.", list),
    T.refused("acl|load", 2, "6.0.0", ONE_USER),
    T.refused("acl|log", -2, "6.0.0", ONE_USER),
    T.refused("acl|save", 2, "6.0.0", ONE_USER),
    T.refused("acl|setuser", -3, "6.0.0", ONE_USER),
    T.session("acl|users", 2, Flags::ADMIN, "6.0.0", "Names the users.", users),
    T.session("acl|whoami", 2, Flags::NONE, "6.0.0", "Names the user of this connection.", whoami),
];

const ONE_USER: &str = "ERR there is one user here, 'default', who may run every command: its password is the setting requirepass";

const USER: &str = "default";

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
