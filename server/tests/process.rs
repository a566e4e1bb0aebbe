//! The command `haypile serve` as a process: its first line, its signals, and what it says when it can't start.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::path::Path;
use std::process::{Child, Command, Output, Stdio};

use rustix::process::{Pid, Signal, kill_process};

fn haypile(args: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_haypile"));
    command.args(args).env_remove("RUST_LOG").stdout(Stdio::piped()).stderr(Stdio::piped());
    command
}

/// A process that is killed if the test fails.
struct Process(Child);

impl Drop for Process {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

impl Process {
    /// Starts a node; its first line.
    fn start(args: &[&str]) -> (Process, String) {
        let mut child = haypile(args).spawn().expect("the binary starts");
        let mut line = String::new();
        let stdout = child.stdout.as_mut().expect("a pipe");
        BufReader::new(stdout).read_line(&mut line).expect("a line");
        (Process(child), line)
    }

    /// Sends a signal; the exit status and what it said on stderr.
    fn end(mut self, signal: Signal) -> (Option<i32>, String) {
        let pid = Pid::from_child(&self.0);
        kill_process(pid, signal).expect("the process is there");
        let status = self.0.wait().expect("it ends");
        let mut said = String::new();
        self.0.stderr.take().expect("a pipe").read_to_string(&mut said).expect("text");
        (status.code(), said)
    }
}

fn address(line: &str) -> &str {
    line.strip_prefix("haypile listens at ").and_then(|rest| rest.split(',').next()).expect("the first line")
}

fn ask(address: &str, line: &str) -> String {
    let mut stream = TcpStream::connect(address).expect("it accepts");
    stream.write_all(format!("{line}\r\n").as_bytes()).expect("it reads");
    let mut reply = String::new();
    BufReader::new(stream).read_line(&mut reply).expect("it answers");
    reply
}

fn failure(args: &[&str]) -> (Option<i32>, String) {
    let Output { status, stdout, stderr } = haypile(args).output().expect("the binary starts");
    assert!(stdout.is_empty(), "{}", String::from_utf8_lossy(&stdout));
    let said = String::from_utf8_lossy(&stderr).into_owned();
    (status.code(), said)
}

fn text(path: &Path) -> &str {
    path.to_str().expect("a path of text")
}

#[test]
fn it_says_where_it_listens_and_stops_cleanly_on_signals() {
    let dir = tempfile::tempdir().expect("a folder");
    let data = dir.path().join("data");
    let flags = ["serve", "--standalone", "--port", "0", "--dir", text(&data)];
    let (process, line) = Process::start(&flags);
    assert!(line.contains(", 1024 slots; recovered in ") && line.contains("(fresh folder)"), "{line}");
    assert_eq!(ask(address(&line), "set k v"), "+OK\r\n");
    let (status, said) = process.end(Signal::TERM);
    assert_eq!(status, Some(0), "{said}");
    let (process, line) = Process::start(&flags);
    assert!(line.contains("(after a clean stop): replayed 0 records"), "{line}");
    assert_eq!(ask(address(&line), "exists k"), ":1\r\n");
    assert_eq!(ask(address(&line), "set k2 v"), "+OK\r\n");
    let (status, _) = process.end(Signal::KILL);
    assert_eq!(status, None);
    let (process, line) = Process::start(&flags);
    assert!(line.contains("(after an unclean stop): replayed "), "{line}");
    assert_eq!(ask(address(&line), "exists k k2"), ":2\r\n");
    let (status, said) = process.end(Signal::INT);
    assert_eq!(status, Some(0), "{said}");
}

#[test]
fn it_is_configured_by_file_and_flags_and_keeps_what_was_rewritten() {
    let dir = tempfile::tempdir().expect("a folder");
    let (data, file) = (dir.path().join("data"), dir.path().join("haypile.conf"));
    let written = "# mine\nstandalone yes\nport 0\ntimeout 7\nmaxclients 99\n";
    write(&file, written);
    let flags = ["serve", "--config", text(&file), "--dir", text(&data), "--maxclients", "55"];
    let (process, line) = Process::start(&flags);
    let mut stream = TcpStream::connect(address(&line)).expect("it accepts");
    stream
        .write_all(b"config get timeout maxclients\r\nconfig set timeout 8\r\nconfig rewrite\r\nquit\r\n")
        .expect("sent");
    let mut replies = String::new();
    stream.read_to_string(&mut replies).expect("text");
    assert_eq!(
        replies,
        "*4\r\n$10\r\nmaxclients\r\n$2\r\n55\r\n$7\r\ntimeout\r\n$1\r\n7\r\n+OK\r\n+OK\r\n+OK\r\n"
    );
    assert_eq!(process.end(Signal::TERM).0, Some(0));
    let rewritten = "# mine\nstandalone yes\nport 0\ntimeout 8\nmaxclients 55\n";
    assert_eq!(read(&file), rewritten);
}

#[test]
fn it_says_in_one_line_why_it_can_not_start() {
    let dir = tempfile::tempdir().expect("a folder");
    let path = |name: &str| dir.path().join(name);
    let data = path("data");
    let taken = TcpListener::bind(("127.0.0.1", 0)).expect("a free port");
    let port = taken.local_addr().expect("bound").port().to_string();
    let (config, file) = (path("config"), path("file"));
    write(&config, "port 0\nfoo bar\n");
    write(&file, "not a folder");
    let (_running, line) = Process::start(&["serve", "--port", "0", "--dir", text(&data)]);
    assert!(line.contains(", 0 slots; "), "{line}");
    let cases: &[(&[&str], i32, &str)] = &[
        (&["serve", "--port", &port], 1, "the port is taken; stop who has it, or choose another with --port"),
        (&["serve", "--port", "0", "--dir", text(&data)], 1, "in use by another process"),
        (&["serve", "--port", "0", "--dir", text(&file)], 1, text(&file)),
        (&["serve", "--bind", "203.0.113.1", "--port", "0"], 1, "not an address of this machine"),
        (&["serve", "--config", text(&config)], 1, "config:2: unknown key 'foo'"),
        (&["serve", "--config", "/nowhere"], 1, "/nowhere: "),
        (&["serve", "--port", "70000"], 2, "--port: expected a number from 0 to 65535, not '70000'"),
        (&["serve", "--slots", "0-1024"], 2, "slot 1024 is out of range"),
        (&["serve", "--nosuch"], 2, "--nosuch"),
        (&["nosuch"], 2, "nosuch"),
    ];
    for (args, status, words) in cases {
        let (got, said) = failure(args);
        assert_eq!(got, Some(*status), "{args:?}: {said}");
        assert!(said.contains(words), "{args:?}: {said}");
        // What it waits for before it gives up is told besides, as it waits.
        let why = said.trim_end().lines().filter(|line| !line.contains(" WARN "));
        assert!(*status == 2 || why.count() == 1, "{args:?}: {said}");
    }
}

#[allow(clippy::disallowed_methods)] // a test's own files
fn write(path: &Path, text: &str) {
    std::fs::write(path, text).expect("a file");
}

#[allow(clippy::disallowed_methods)] // a test's own files
fn read(path: &Path) -> String {
    String::from_utf8(std::fs::read(path).expect("a file")).expect("text")
}
