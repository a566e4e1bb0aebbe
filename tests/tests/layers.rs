//! The layers hold: `engine` <- `replication` <- `server`; files, clocks and sockets have one home each.
//!
//! Read from the sources, so that a shortcut is found when it is taken and not when it hurts.

use haypile_tests::sources::{code_lines, is_test_file, rust_files, text};

/// Fails with every line of these files that holds one of the words.
fn nothing_holds(files: &[(String, String)], words: &[&str], except: &[&str], why: &str) {
    let mut found = Vec::new();
    for (path, text) in files {
        if except.iter().any(|allowed| path.starts_with(allowed)) {
            continue;
        }
        for (number, line) in code_lines(text) {
            if words.iter().any(|word| line.contains(word)) {
                found.push(format!("{path}:{number}: {line}"));
            }
        }
    }
    assert!(found.is_empty(), "{why}:\n{}", found.join("\n"));
}

fn product(folder: &str) -> Vec<(String, String)> {
    rust_files(folder).into_iter().filter(|(path, _)| !is_test_file(path)).collect()
}

#[test]
fn the_engine_knows_neither_replication_nor_server() {
    let why = "the engine is the lowest layer";
    nothing_holds(&rust_files("engine/src"), &["haypile_replication", "haypile_server"], &[], why);
}

#[test]
fn replication_does_not_know_the_server() {
    nothing_holds(
        &rust_files("replication/src"),
        &["haypile_server"],
        &[],
        "replication is below the server",
    );
}

#[test]
fn the_engine_knows_no_socket_and_no_runtime() {
    let words = ["std::net", "tokio::"];
    nothing_holds(&product("engine/src"), &words, &[], "the engine is driven by others, it talks to nobody");
}

#[test]
fn files_are_touched_in_one_folder_only() {
    let words = ["std::fs::", "use std::fs", "tokio::fs", "std::os::unix::fs"];
    let except = ["engine/src/fs/"];
    for folder in ["engine/src", "replication/src", "server/src"] {
        nothing_holds(&product(folder), &words, &except, "files are touched through engine::fs only");
    }
}

#[test]
fn the_clock_is_read_in_one_file_only() {
    let words = ["Instant::now", "SystemTime::now", "UNIX_EPOCH"];
    for folder in ["engine/src", "replication/src", "server/src"] {
        nothing_holds(&product(folder), &words, &["engine/src/clock.rs"], "time comes from engine::clock");
    }
}

#[test]
fn only_one_file_of_replication_touches_sockets_and_its_machines_know_no_runtime() {
    let sockets = ["tokio::net", "tokio::io", "TcpStream::connect", "TcpStream::from_std"];
    let except = ["replication/src/transport.rs"];
    nothing_holds(&product("replication/src"), &sockets, &except, "sockets are in one file");
    let machines = ["decide", "handover", "message", "peer", "receiver", "shipper", "tail"];
    let files: Vec<_> = product("replication/src")
        .into_iter()
        .filter(|(path, _)| machines.iter().any(|name| path.ends_with(&format!("src/{name}.rs"))))
        .collect();
    assert_eq!(files.len(), machines.len(), "every machine is where it was");
    nothing_holds(
        &files,
        &["tokio::", "std::net", "std::thread"],
        &[],
        "a machine has no socket, clock or thread",
    );
}

#[test]
fn the_crates_depend_downwards_only() {
    let manifest = |name: &str| text(&format!("{name}/Cargo.toml"));
    for (crate_name, above) in [
        ("engine", &["haypile-replication", "haypile-server", "tokio"][..]),
        ("replication", &["haypile-server"][..]),
        ("server", &["haypile-tests", "haypile-fuzz"][..]),
        ("benches", &["haypile-replication", "haypile-server", "tokio"][..]),
    ] {
        let manifest = manifest(crate_name);
        let dependencies = manifest.split("[dev-dependencies]").next().unwrap_or_default();
        for name in above {
            assert!(!dependencies.contains(name), "{crate_name} depends on {name}");
        }
    }
}

#[test]
fn unwrap_and_leftovers_are_not_in_the_product() {
    let words = ["todo!(", "unimplemented!(", "dbg!(", "TODO", "FIXME"];
    for folder in ["engine/src", "replication/src", "server/src"] {
        nothing_holds(&product(folder), &words, &[], "unfinished");
        for (path, text) in product(folder) {
            assert!(!text.contains("TODO") && !text.contains("FIXME"), "{path} has notes to self");
        }
    }
}

#[test]
fn no_crate_of_ours_has_unsafe_code_and_the_lint_that_denies_it_is_on_in_all() {
    let workspace = text("Cargo.toml");
    assert!(workspace.contains("\nunsafe_code = \"deny\"\n"), "the lint is on");
    for name in ["engine", "replication", "server", "tests", "benches", "fuzz"] {
        let manifest = text(&format!("{name}/Cargo.toml"));
        assert!(manifest.contains("[lints]\nworkspace = true"), "{name} takes the workspace's lints");
        // What libFuzzer's macro needs is its own.
        let words = [concat!("unsafe", " "), concat!("unsafe", "("), concat!("allow(", "unsafe_code")];
        // C is called from one file of a crate that nothing depends on.
        let except = ["benches/peers/src/ffi.rs"];
        nothing_holds(&rust_files(name), &words, &except, "Miri has nothing of ours to look at");
    }
}

#[test]
fn what_models_count_is_counted_with_the_pointers_that_they_see() {
    for (path, text) in product("engine/src") {
        let counted = ["Run", "Version", "PackFile", "Frozen"]
            .iter()
            .any(|name| code_lines(&text).any(|(_, line)| line.contains(&format!("Arc<{name}>"))));
        let std_only = code_lines(&text).any(|(_, line)| line == "use std::sync::Arc;")
            && !text.contains("sync::Arc<")
            && !text.contains("crate::sync::Arc::new");
        assert!(
            !counted || !std_only,
            "{path}: use crate::sync::Arc, or it does not build with `--features loom`"
        );
    }
}
