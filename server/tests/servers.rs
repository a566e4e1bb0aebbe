//! `haypile bench servers` as a process: the table of servers with few keys and without Redis, so that each of its parts is
//! known to work before somebody waits ten minutes for it.

use std::process::Command;

#[test]
fn the_table_of_servers_is_measured_whole() {
    let dir = tempfile::tempdir().expect("a folder");
    let file = |name: &str| dir.path().join(name).to_str().expect("a path of text").to_owned();
    let words = ["bench", "servers", "--redis", "none", "--keys", "1000", "--repeat", "1"];
    let groups = ["--groups", "load,replica,recovery,slots,restart"];
    let (json, summary, markdown) = (file("runs.json"), file("summary.json"), file("table.md"));
    let files = ["--dir", &file(""), "--json", &json, "--summary", &summary, "--markdown", &markdown];
    let output = Command::new(env!("CARGO_BIN_EXE_haypile"))
        .args(words.iter().chain(&groups).chain(&files))
        .output()
        .expect("the binary starts");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let read = |path: &str| std::fs::read_to_string(path).expect("it was written");
    let table = read(&markdown);
    assert_eq!(table.as_bytes(), &output.stdout[..table.len()], "what is written is what is shown");
    for row in [
        "| SET, pipeline 16 |",
        "| ZADD, pipeline 1 |",
        "| SET synced each, pipeline 16 |",
        "| one deep connection, SET and GET |",
        "| SET, with a replica, CPU with / without |",
        "| recovery of the log, MB/s |",
        "| clean restart, s |",
        "| 1024 empty slots, files | 0.00 |",
    ] {
        assert!(table.contains(row), "{row} is not in\n{table}");
    }
    let runs = read(&json);
    assert!(runs.lines().count() > 16, "{runs}");
    for line in runs.lines() {
        assert!(line.contains("\"errors\":0"), "{line}");
    }
    assert!(read(&summary).contains("\"goals\""));
}
