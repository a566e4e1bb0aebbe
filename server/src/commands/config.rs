//! CONFIG: the settings at run time.

use std::path::PathBuf;

use super::connection::databases;
use crate::config::{PARAMS, Settings, When, find, rewrite};
use crate::cx::Fail;
use crate::files::{read_text, replace_text};
use crate::glob;
use crate::node::Node;
use crate::session::SessionCx;
use crate::table::{Command, Flags, Group};

const T: Group = Group("server");

/// See the file's head.
pub const COMMANDS: &[Command] = &[T.family(
    "config",
    Flags::ADMIN.with(Flags::DANGEROUS).with(Flags::OPERATOR),
    "2.0.0",
    "Tells and changes settings.",
    SUBS,
)];

const SUBS: &[Command] = &[
    T.session("config|get", -3, Flags::ADMIN, "2.0.0", "Gives the settings of these patterns.", get),
    T.session("config|set", -4, Flags::ADMIN, "2.0.0", "Changes settings, all or none.", set),
    T.session("config|resetstat", 2, Flags::ADMIN, "2.0.0", "Sets INFO's counters to zero.", resetstat),
    T.session(
        "config|rewrite",
        2,
        Flags::ADMIN,
        "2.8.0",
        "Writes what CONFIG SET changed to the file.",
        rewrite_file,
    ),
];

/// Keys that Redis' clients and tools ask for and that can't be set here.
fn fixed(node: &Node, settings: &Settings) -> [(&'static str, String); 8] {
    let sync = find("sync").map_or_else(String::new, |param| (param.get)(settings));
    [
        ("appendfsync", sync),
        ("appendonly", "yes".to_owned()),
        ("databases", databases(node).to_string()),
        ("maxmemory-policy", "noeviction".to_owned()),
        ("min-slaves-max-lag", settings.replica_lag_s.to_string()),
        ("min-slaves-to-write", settings.replicas_min.to_string()),
        ("replica-priority", settings.slave_priority.to_string()),
        ("save", String::new()),
    ]
}

fn get(cx: &mut SessionCx<'_>) -> Result<(), Fail> {
    let settings = cx.node.config.now();
    let wanted =
        |name: &str| cx.args[2..].iter().any(|pattern| glob::matches_any_case(pattern, name.as_bytes()));
    let own = PARAMS.iter().map(|param| (param.name, (param.get)(&settings)));
    let pairs: Vec<(&str, String)> =
        own.chain(fixed(cx.node, &settings)).filter(|(name, _)| wanted(name)).collect();
    cx.reply.map(pairs.len());
    for (name, value) in pairs {
        cx.reply.bulk(name.as_bytes());
        cx.reply.bulk(value.as_bytes());
    }
    Ok(())
}

fn set(cx: &mut SessionCx<'_>) -> Result<(), Fail> {
    let text = |bytes: &[u8]| String::from_utf8(bytes.to_vec());
    let mut pairs: Vec<(String, String)> = Vec::new();
    if !cx.args.len().is_multiple_of(2) {
        return Err(Fail::arity("config|set"));
    }
    for pair in cx.args[2..].chunks_exact(2) {
        let name = String::from_utf8_lossy(pair[0]).to_ascii_lowercase();
        let name = match name.as_str() {
            "replica-priority" => "slave-priority".to_owned(),
            "min-slaves-to-write" => "min-replicas-to-write".to_owned(),
            "min-slaves-max-lag" => "min-replicas-max-lag".to_owned(),
            _ => name,
        };
        if find(&name).is_none() {
            return Err(Fail::error(format!(
                "ERR Unknown option or number of arguments for CONFIG SET - '{name}'"
            )));
        }
        if pairs.iter().any(|(other, _)| *other == name) {
            return Err(failed(&name, "duplicate parameter"));
        }
        let value = text(pair[1]).map_err(|_| failed(&name, "not UTF-8 text"))?;
        pairs.push((name, value));
    }
    cx.node.change_settings(&pairs).map_err(|(name, why)| failed(&name, &why))?;
    cx.reply.ok();
    Ok(())
}

fn failed(name: &str, why: &str) -> Fail {
    Fail::error(format!("ERR CONFIG SET failed (possibly related to argument '{name}') - {why}"))
}

fn resetstat(cx: &mut SessionCx<'_>) -> Result<(), Fail> {
    cx.node.stats.reset();
    cx.node.measured.reset();
    cx.reply.ok();
    Ok(())
}

/// The file that CONFIG REWRITE writes, and that a start without `--config` reads: Codis' dashboard takes a refusal for a failed change.
#[must_use]
pub fn file_without_config(settings: &Settings) -> PathBuf {
    PathBuf::from(&settings.dir).join("haypile.conf")
}

fn rewrite_file(cx: &mut SessionCx<'_>) -> Result<(), Fail> {
    let settings = cx.node.config.now();
    let path = cx.node.config_file.clone().unwrap_or_else(|| file_without_config(&settings));
    let told = |why: String| Fail::error(format!("ERR Rewriting config file: {why}"));
    let old = match cx.node.fs.exists(&path) {
        Ok(false) => String::new(),
        _ => read_text(&*cx.node.fs, &path).map_err(told)?,
    };
    let new = rewrite(&old, &settings);
    debug_assert!(PARAMS.iter().any(|param| param.when == When::Always), "something can be rewritten");
    if new != old {
        replace_text(&*cx.node.fs, &path, &new).map_err(told)?;
    }
    cx.reply.ok();
    Ok(())
}

#[cfg(test)]
mod tests {
    use crate::testing::Bench;

    #[test]
    fn settings_are_told_and_changed() {
        Bench::new().check(
            "config get maxmemory                -> *2 $9 maxmemory $9 268435456
             config get TIMEOUT save nosuch      -> *4 $7 timeout $1 0 $4 save $0
             config get max*                     -> *6 $10 maxclients $5 10000 $9 maxmemory $9 268435456 $16 maxmemory-policy $10 noeviction
             config set timeout 5 maxclients 9   -> +OK
             config get timeout                  -> *2 $7 timeout $1 5
             config set timeout 5 timeout 6      -> -ERR CONFIG SET failed (possibly related to argument 'timeout') - duplicate parameter
             config set timeout x                -> -ERR CONFIG SET failed (possibly related to argument 'timeout') - timeout: expected a whole number from 0 to 1000000000, not 'x'
             config set port 5                   -> -ERR CONFIG SET failed (possibly related to argument 'port') - can't set immutable config
             config set nosuch 5                 -> -ERR Unknown option or number of arguments for CONFIG SET - 'nosuch'
             config set timeout                  -> -ERR wrong number of arguments for 'config|set' command
             config set replica-priority 7       -> +OK
             config get *-priority               -> *4 $14 slave-priority $1 7 $16 replica-priority $1 7
             config set sync always              -> +OK
             config get appendfsync              -> *2 $11 appendfsync $6 always
             config resetstat                    -> +OK",
        );
    }

    #[test]
    fn changed_settings_are_written_where_the_next_start_reads_them() {
        let mut bench = Bench::new();
        bench.check(
            "config set masterauth \"a b\"  -> +OK
             config rewrite                 -> +OK
             config rewrite                 -> +OK",
        );
        let path = super::file_without_config(&bench.node.config.now());
        let text = crate::files::read_text(&*bench.node.fs, &path);
        assert_eq!(text, Ok("masterauth \"a b\"\n".to_owned()));
    }
}
