//! SAVE, BGSAVE, LASTSAVE: checkpoints in the words of Redis, and what INFO tells of them.

use crate::cx::{Fail, is};
use crate::node::Node;
use crate::saves::{Plan, Saves, records};
use crate::session::SessionCx;
use crate::table::{Command, Flags, Group, Pending};

use super::info::Lines;

const ADMIN: Flags = Flags::ADMIN.with(Flags::DANGEROUS);

const T: Group = Group("server");

/// See the file's head.
pub const COMMANDS: &[Command] = &[
    T.session(
        "bgsave",
        -1,
        ADMIN.with(Flags::OVER_SLOTS),
        "1.0.0",
        "Makes a checkpoint of all slots in the background.",
        bgsave,
    ),
    T.session("lastsave", 1, Flags::FAST, "1.0.0", "Tells when the last checkpoint was made.", last_save),
    T.waiting(
        "save",
        1,
        ADMIN.with(Flags::NO_MULTI).with(Flags::OVER_SLOTS),
        "1.0.0",
        "Makes a checkpoint of all slots.",
        save,
    ),
];

/// SCHEDULE is for a save that has to wait for a rewrite of the log: there is none here.
fn bgsave(cx: &mut SessionCx<'_>) -> Result<(), Fail> {
    match &cx.args[1..] {
        [] => {}
        [word] if is(word, "schedule") => {}
        _ => return Err(Fail::syntax()),
    }
    Saves::begin(cx.node, Plan::Backup).map_err(Fail::error)?;
    cx.reply.simple("Background saving started");
    Ok(())
}

/// The client waits, others go on.
fn save<'a>(cx: &'a mut SessionCx<'_>) -> Pending<'a> {
    Box::pin(run(cx, Plan::Backup))
}

/// Makes a checkpoint and answers when it is there.
///
/// # Errors
/// For the client: why there is none.
pub async fn run(cx: &mut SessionCx<'_>, plan: Plan) -> Result<(), Fail> {
    let done = Saves::begin(cx.node, plan).map_err(Fail::error)?.await;
    let done = done.map_err(|_| Fail::error("ERR the checkpoint was cut off, see the node's log"))?;
    done.map_err(|why| Fail::error(format!("ERR no checkpoint was made: {why}")))?;
    cx.reply.ok();
    Ok(())
}

fn last_save(cx: &mut SessionCx<'_>) -> Result<(), Fail> {
    let saved = cx.node.saves.status(0).saved;
    cx.reply.integer(i64::try_from(saved.0 / 1000).unwrap_or(i64::MAX));
    Ok(())
}

/// INFO's lines.
pub fn lines(node: &Node, lines: &mut Lines) {
    let status = node.saves.status(node.monotonic_ms());
    let last = status.last.as_ref();
    let seconds = |ms: Option<u64>| ms.map_or_else(|| "-1".to_owned(), |ms| (ms / 1000).to_string());
    let changes = records(&node.engine).saturating_sub(status.saved_records);
    lines.put("rdb_changes_since_last_save", changes);
    lines.put("rdb_bgsave_in_progress", u8::from(status.running.is_some()));
    lines.put("rdb_last_save_time", status.saved.0 / 1000);
    let failed = last.is_some_and(|last| last.outcome.is_err());
    lines.put("rdb_last_bgsave_status", if failed { "err" } else { "ok" });
    lines.put("rdb_last_bgsave_time_sec", seconds(last.map(|last| last.took_ms)));
    lines.put("rdb_current_bgsave_time_sec", seconds(status.running.map(|(_, ms)| ms)));
    lines.put("rdb_saves", status.taken);
    lines.put("checkpoints_failed", status.failed);
    let (done, _) = status.running.unwrap_or_default();
    lines.put("checkpoint_files", format_args!("{}/{}", done.files_done, done.files));
    lines.put("checkpoint_bytes", format_args!("{}/{}", done.bytes_done, done.bytes));
    let Some(last) = last else { return };
    lines.put("checkpoint_last_dir", last.dir.display());
    lines.put("checkpoint_last_ms", last.took_ms);
    match &last.outcome {
        Ok(made) => {
            lines.put("checkpoint_last_error", "");
            lines.put("checkpoint_last_slots", made.slots.len());
            lines.put("checkpoint_last_slots_left_out", made.left_out.len());
            lines.put("checkpoint_last_bytes", made.bytes);
            lines.put("checkpoint_last_files_linked", made.files_linked);
            lines.put("checkpoint_last_files_copied", made.files_copied);
        }
        Err(why) => {
            let why: String = why.chars().map(|c| if c.is_control() { ' ' } else { c }).collect();
            lines.put("checkpoint_last_error", why);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use haypile_engine::checkpoint::is_unused;

    use crate::config::Settings;
    use crate::testing::Bench;

    fn info(bench: &mut Bench, name: &str) -> String {
        let text = bench.run_raw(&["info", "persistence"]);
        let text = String::from_utf8(text).expect("text");
        let line = text.split("\r\n").find_map(|line| line.strip_prefix(&format!("{name}:")));
        line.unwrap_or_else(|| panic!("{name} in {text}")).to_owned()
    }

    fn copies(bench: &Bench) -> Vec<String> {
        let entries = bench.node.engine.fs().list(Path::new("/copies")).expect("the folder is there");
        entries.into_iter().map(|entry| entry.name).collect()
    }

    #[test]
    fn saves_are_made_one_after_another_and_the_oldest_go() {
        let settings = Settings { backup_dir: "/copies".to_owned(), backup_keep: 2, ..Settings::default() };
        let mut bench = Bench::with(settings);
        assert_eq!(info(&mut bench, "rdb_last_bgsave_time_sec"), "-1");
        bench.check(
            "set k v -> +OK\nsave -> +OK\nsave foo -> -ERR wrong number of arguments for 'save' command",
        );
        assert_eq!(info(&mut bench, "rdb_changes_since_last_save"), "0");
        bench.run("set k w");
        assert_eq!(info(&mut bench, "rdb_changes_since_last_save"), "1");
        let first = copies(&bench);
        assert_eq!(first.len(), 1);
        bench.check("save -> +OK\nsave -> +OK");
        let kept = copies(&bench);
        assert!(kept.len() == 2 && !kept.contains(&first[0]), "{first:?}, then {kept:?}");
        for name in &kept {
            assert!(name.starts_with(&bench.node.run_id[..8]), "{name}");
            assert!(is_unused(&**bench.node.engine.fs(), &Path::new("/copies").join(name)).expect("reads"));
        }
        assert_eq!(info(&mut bench, "rdb_saves"), "3");
        assert_eq!(info(&mut bench, "checkpoint_last_slots"), "1024");
        assert_eq!(info(&mut bench, "rdb_bgsave_in_progress"), "0");
        assert_eq!(bench.run("lastsave"), format!(":{}", info(&mut bench, "rdb_last_save_time")));
    }

    #[test]
    fn a_checkpoint_is_made_where_the_operator_says_and_nowhere_else() {
        let mut bench = Bench::new();
        bench.check(
            "set k v                              -> +OK
             pkcluster checkpoint /a/b            -> +OK
             pkcluster checkpoint /c 0-3 0        -> +OK
             pkcluster checkpoint /a/b            -> -ERR no checkpoint was made: /a/b: is there already: a checkpoint makes its folder itself; name one that is not there
             pkcluster checkpoint \"\"            -> -ERR Invalid Argument: a checkpoint needs the name of a folder
             pkcluster checkpoint                 -> -ERR syntax error: PKCLUSTER CHECKPOINT <dir> [<group|all>]",
        );
        assert_eq!(info(&mut bench, "rdb_last_bgsave_status"), "err");
        assert!(info(&mut bench, "checkpoint_last_error").contains("is there already"));
        bench.check("pkcluster checkpoint /d all -> +OK\npkcluster removeslots 5 -> +OK");
        assert_eq!(info(&mut bench, "checkpoint_last_slots"), "1024");
        assert!(bench.run("pkcluster checkpoint /e 5").starts_with("-ERR Slot 5 not found!"));
    }

    #[test]
    fn the_background_one_is_followed_in_info_and_a_second_is_refused() {
        let settings = Settings { backup_dir: "/copies".to_owned(), ..Settings::default() };
        let mut bench = Bench::with(settings);
        // A flush that is under way holds the checkpoint up.
        let node = bench.node.clone();
        let held = node.engine.hold_flushes();
        bench.check(
            "bgsave foo        -> -ERR syntax error
             bgsave            -> +Background saving started
             bgsave            -> -ERR Background save already in progress
             bgsave schedule   -> -ERR Background save already in progress
             save              -> -ERR Background save already in progress",
        );
        assert_eq!(info(&mut bench, "rdb_bgsave_in_progress"), "1");
        drop(held);
        node.saves.stop();
        assert_eq!(info(&mut bench, "rdb_bgsave_in_progress"), "0");
        bench.check("bgsave -> -ERR the node stops");
    }
}
