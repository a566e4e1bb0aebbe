//! The documents say what the code says: formats, dependencies, flags, where things are.
//!
//! `HAYPILE_REWRITE=1 cargo test -p haypile-tests --test documents` brings the tables that have changed in the code into
//! the documents (a table is known by its first line); a new table is placed by hand.

use std::collections::BTreeSet;

use haypile_tests::sources::{replace, root, rust_files, text};

/// The fenced tables of a file's head (`//!`), each as its lines without the comment signs.
fn head_tables(source: &str) -> Vec<String> {
    let head: Vec<&str> = source
        .lines()
        .take_while(|line| line.starts_with("//!"))
        .map(|line| line.strip_prefix("//!").map_or("", |rest| rest.strip_prefix(' ').unwrap_or(rest)))
        .collect();
    tables(&head.join("\n"))
}

fn tables(text: &str) -> Vec<String> {
    text.split("```").skip(1).step_by(2).filter_map(|block| block.strip_prefix("text\n")).map(flat).collect()
}

/// Without trailing blanks, so that only what is said counts.
fn flat(block: &str) -> String {
    block.lines().map(str::trim_end).collect::<Vec<_>>().join("\n").trim_matches('\n').to_owned()
}

/// A table of bytes, not a drawing of something else.
fn is_format(table: &str) -> bool {
    let head = table.lines().next().unwrap_or_default();
    table.contains("part of the format")
        || head.contains("part of the protocol")
        || head.starts_with("frame;")
}

/// Puts a table of the code into the place of the document's table with the same first line.
fn rewrite(page: &mut String, table: &str) {
    let head = table.lines().next().unwrap_or_default();
    let old = tables(page).into_iter().find(|old| old.lines().next() == Some(head));
    if let Some(old) = old {
        *page = page.replace(&old, table);
    }
}

fn is_repeated(folder: &str, document: &str) {
    if std::env::var("HAYPILE_REWRITE").is_ok() {
        let mut page = text(document);
        for (_, source) in rust_files(folder) {
            head_tables(&source).iter().for_each(|table| rewrite(&mut page, table));
        }
        replace(document, &page);
    }
    let said = tables(&text(document));
    let mut missing = Vec::new();
    let mut found = 0;
    for (path, source) in rust_files(folder) {
        for table in head_tables(&source).into_iter().filter(|table| is_format(table)) {
            found += 1;
            if !said.contains(&table) {
                missing.push(format!("{path}: {}", table.lines().next().unwrap_or_default()));
            }
        }
    }
    assert!(found > 0, "no tables in {folder}: has their form changed?");
    assert!(
        missing.is_empty(),
        "{document} has not these tables as the code has them:\n{}",
        missing.join("\n")
    );
}

#[test]
fn format_md_has_every_table_of_the_engine_and_of_the_types_word_for_word() {
    is_repeated("engine/src", "docs/FORMAT.md");
    is_repeated("server/src/types", "docs/FORMAT.md");
}

#[test]
fn protocol_md_has_every_table_of_replication_word_for_word() {
    is_repeated("replication/src", "docs/PROTOCOL.md");
}

#[test]
fn every_table_of_format_md_is_in_the_code() {
    let mut coded = BTreeSet::new();
    for folder in ["engine/src", "server/src", "replication/src"] {
        for (_, source) in rust_files(folder) {
            coded.extend(head_tables(&source));
        }
    }
    for document in ["docs/FORMAT.md", "docs/PROTOCOL.md"] {
        for table in tables(&text(document)).iter().filter(|table| is_format(table)) {
            let head = table.lines().next().unwrap_or_default();
            assert!(coded.contains(table), "{document} describes what no file does: {head}");
        }
    }
}

#[test]
fn every_dependency_has_a_line_that_says_why() {
    let manifest = text("Cargo.toml");
    let section = manifest.split("[workspace.dependencies]").nth(1).unwrap_or_default();
    let section = section.split("\n[").next().unwrap_or_default();
    let ours = |name: &&str| !name.is_empty() && !name.starts_with('#') && !name.starts_with("haypile-");
    let used: BTreeSet<&str> =
        section.lines().filter_map(|line| line.split('=').next()).map(str::trim).filter(ours).collect();
    let page = text("docs/ARCHITECTURE.md");
    let rows =
        page.lines().filter_map(|line| line.strip_prefix("| `")).filter_map(|row| row.split_once(" | "));
    let mut explained = BTreeSet::new();
    for (names, _) in rows {
        explained.extend(names.split(',').map(|name| name.trim().trim_matches(['`', '|', ' ']).to_owned()));
    }
    assert!(used.len() > 5, "{used:?}: has the manifest's form changed?");
    let silent: Vec<_> = used.iter().filter(|name| !explained.contains(**name)).collect();
    assert!(silent.is_empty(), "docs/ARCHITECTURE.md has no row `| crate | why |` for {silent:?}");
}

#[test]
fn no_external_storage_engine_is_depended_on() {
    let lock = text("Cargo.lock");
    for name in [
        "rocksdb",
        "sled",
        "fjall",
        "lsm-tree",
        "redb",
        "heed",
        "lmdb",
        "rusqlite",
        "libmdbx",
        "persy",
        "raft-engine",
    ] {
        assert!(!lock.contains(&format!("name = \"{name}\"")), "{name} is a storage engine");
    }
}

#[test]
fn links_between_documents_lead_somewhere() {
    let mut broken = Vec::new();
    for document in [
        "README.md",
        "CHANGELOG.md",
        "docs/ARCHITECTURE.md",
        "docs/FORMAT.md",
        "docs/PROTOCOL.md",
        "docs/PERFORMANCE.md",
        "docs/TESTING.md",
    ] {
        let folder = root().join(document).parent().expect("in the workspace").to_owned();
        for target in text(document).split("](").skip(1).filter_map(|rest| rest.split(')').next()) {
            let path = target.split('#').next().unwrap_or_default();
            if !path.is_empty() && !path.contains("://") && !folder.join(path).exists() {
                broken.push(format!("{document}: {target}"));
            }
        }
    }
    assert!(broken.is_empty(), "links to nothing:\n{}", broken.join("\n"));
}

#[test]
fn the_readme_shows_flags_that_exist() {
    let mut known: BTreeSet<String> =
        haypile_server::config::PARAMS.iter().map(|param| param.name.to_owned()).collect();
    let bench = haypile_bench::cli::command(haypile_bench::cli::BUILT_IN);
    let flags = bench.get_subcommands().flat_map(|command| command.get_arguments());
    known.extend(flags.filter_map(|flag| flag.get_long().map(str::to_owned)));
    let readme = text("README.md");
    let others = [
        "release",
        "config",
        "long",
        "only",
        "scan",
        "no-auth-warning",
        "version",
        "help",
        "seconds",
        "server",
        "promise",
        "replay",
        "slot",
        "appendonly",
    ];
    for word in readme.split(|c: char| c.is_whitespace() || "`[](),|=".contains(c)) {
        let Some(flag) = word.strip_prefix("--").filter(|flag| flag.starts_with(char::is_alphabetic)) else {
            continue;
        };
        assert!(
            known.contains(flag) || others.contains(&flag),
            "README names --{flag}, which does not exist"
        );
    }
}

#[test]
fn commands_md_is_what_the_table_of_commands_says() {
    let page = haypile_server::commands::document::page();
    if std::env::var("HAYPILE_REWRITE").is_ok() {
        replace("docs/COMMANDS.md", &page);
    }
    assert_eq!(text("docs/COMMANDS.md"), page, "haypile commands > docs/COMMANDS.md");
}
