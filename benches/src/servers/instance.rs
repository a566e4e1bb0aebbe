//! A server that runs for a table: a process of its own on a free loopback port with a new folder, or one that somebody else
//! runs. A process ends with its value, however that ends.

use std::fmt::Write as _;
use std::fs::File;
use std::net::TcpListener;
use std::os::unix::fs::FileExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use haypile_engine::clock::SystemClock;
use tempfile::TempDir;

use crate::error::{Error, Result};
use crate::files;
use crate::lane::{self, Moment};
use crate::process::{Process, Sample};
use crate::targets::resp::{Access, Control};

/// How long a server may take until it serves, or ends.
const PATIENCE: Duration = Duration::from_secs(120);
/// How often it is asked meanwhile.
const LOOK_EVERY: Duration = Duration::from_millis(1);
/// Ports that are tried: another process may take one between the asking and the start.
const PORTS_TRIED: usize = 5;
/// How much of its output is looked at.
const OUTPUT_BYTES_MAX: usize = 64 << 10;

/// Which server.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Product {
    /// This program, or another build of it.
    Haypile(PathBuf),
    /// redis-server, with its log as it comes when it is on: `everysec`. It takes no snapshot and does not rewrite its log: both
    /// would only cost it.
    Redis(PathBuf),
    /// One that somebody runs at this address with settings of their choice: Kvrocks, Pika, Valkey.
    Given(String),
}

impl Product {
    /// What it is called in tables.
    #[must_use]
    pub fn name(&self) -> &str {
        match self {
            Product::Haypile(_) => "haypile",
            Product::Redis(_) => "redis",
            Product::Given(address) => address,
        }
    }

    /// Whether the table starts it, so that it can be stopped, killed and given a replica too.
    #[must_use]
    pub fn is_ours(&self) -> bool {
        !matches!(self, Product::Given(_))
    }

    fn command(&self, port: u16, data: &Path, memory: &str) -> Option<Command> {
        let (port, data) = (port.to_string(), data.display().to_string());
        let (program, words) = match self {
            Product::Given(_) => return None,
            Product::Haypile(program) => (
                program,
                vec!["serve", "--port", &port, "--dir", &data, "--maxmemory", memory, "--loglevel", "warn"],
            ),
            Product::Redis(program) => (
                program,
                vec![
                    "--port",
                    &port,
                    "--bind",
                    "127.0.0.1",
                    "--dir",
                    &data,
                    "--appendonly",
                    "yes",
                    "--appendfsync",
                    "everysec",
                    "--auto-aof-rewrite-percentage",
                    "0",
                    "--save",
                    "",
                ],
            ),
        };
        let mut command = Command::new(program);
        command.args(words).env_remove("RUST_LOG").stdin(Stdio::null());
        Some(command)
    }
}

/// How a server is started.
#[derive(Clone, Copy, Debug)]
pub struct Start<'a> {
    /// Haypile's memory budget.
    pub memory: &'a str,
    /// Further words for Haypile.
    pub words: &'a [&'a str],
}

/// A standalone Haypile.
pub const STANDALONE: &[&str] = &["--standalone"];

/// A server that answers.
pub struct Instance {
    /// Which.
    pub product: Product,
    /// How it is reached.
    pub access: Access,
    /// From its start until its first answer.
    pub ready_seconds: f64,
    child: Option<Child>,
    folder: Option<TempDir>,
    output: Option<File>,
}

impl Instance {
    /// Starts a server on a new folder, or looks for the one that is given, and empties it.
    ///
    /// # Errors
    /// If it does not come to answer.
    pub fn start(product: &Product, start: Start<'_>, parent: &Path) -> Result<Instance> {
        if let Product::Given(address) = product {
            let access = Access { address: address.clone(), ..Access::default() };
            Control::open(&access)?.ask(&[b"FLUSHALL"])?;
            return Ok(Instance {
                product: product.clone(),
                access,
                ready_seconds: 0.0,
                child: None,
                folder: None,
                output: None,
            });
        }
        let folder = tempfile::Builder::new()
            .prefix("haypile-bench-")
            .tempdir_in(parent)
            .map_err(|error| Error::file(parent, error))?;
        Self::start_in(product, start, folder)
    }

    fn start_in(product: &Product, start: Start<'_>, folder: TempDir) -> Result<Instance> {
        let mut why = String::new();
        for _ in 0..PORTS_TRIED {
            let port = TcpListener::bind(("127.0.0.1", 0))?.local_addr()?.port();
            let clock = SystemClock::new();
            let begun = lane::now(&clock);
            // A file and no pipe: nobody has to read it while the server runs.
            let output = tempfile::tempfile()?;
            let child = spawn(product, start, port, folder.path(), &output)?;
            let access = Access {
                address: format!("127.0.0.1:{port}"),
                process: Some(child.id()),
                folder: Some(folder.path().to_owned()),
                password: None,
            };
            let mut instance = Instance {
                product: product.clone(),
                access,
                ready_seconds: 0.0,
                child: Some(child),
                folder: None,
                output: Some(output),
            };
            match instance.wait_until_ready(&clock, begun) {
                Ok(()) => {
                    instance.folder = Some(folder);
                    return Ok(instance);
                }
                Err(error) => {
                    why.clear();
                    let said = instance.output();
                    write!(why, "{error}: {}", said.lines().last().unwrap_or("it said nothing"))
                        .expect("a string takes everything");
                }
            }
        }
        Err(Error::target("start a server", format!("{}: {why}", product.name())))
    }

    fn wait_until_ready(&mut self, clock: &SystemClock, begun: Moment) -> Result<()> {
        loop {
            let asked = Control::open(&self.access).and_then(|mut control| control.ask(&[b"PING"]));
            let took = lane::now(clock).since(begun);
            match asked {
                Ok(_) => {
                    self.ready_seconds = took as f64 / 1e9;
                    return Ok(());
                }
                Err(error) if u128::from(took) > PATIENCE.as_nanos() => return Err(error),
                Err(_) => {}
            }
            if let Some(status) = self.child.as_mut().map(Child::try_wait).transpose()?.flatten() {
                self.child = None;
                return Err(Error::target("start a server", status));
            }
            std::thread::sleep(LOOK_EVERY);
        }
    }

    /// Asks it something; the text of the answer.
    ///
    /// # Errors
    /// What it answers.
    pub fn ask(&self, words: &[&str]) -> Result<String> {
        let words: Vec<&[u8]> = words.iter().map(|word| word.as_bytes()).collect();
        Ok(Control::open(&self.access)?.ask(&words)?.unwrap_or_default())
    }

    /// A field of its INFO.
    ///
    /// # Errors
    /// If it does not answer.
    pub fn info(&self, name: &str) -> Result<Option<String>> {
        let info = self.ask(&["INFO"])?;
        let mut lines = info.lines();
        Ok(lines.find_map(|line| Some(line.strip_prefix(name)?.strip_prefix(':')?.trim().to_owned())))
    }

    /// Its process now.
    #[must_use]
    pub fn sample(&self) -> Option<Sample> {
        Process::new(self.access.process?).sample()
    }

    /// What it said on its output.
    #[must_use]
    pub fn output(&self) -> String {
        let mut bytes = vec![0; OUTPUT_BYTES_MAX];
        let read = self.output.as_ref().and_then(|file| file.read_at(&mut bytes, 0).ok()).unwrap_or_default();
        String::from_utf8_lossy(&bytes[..read]).into_owned()
    }

    /// Ends it, cleanly or by force, and starts it again on the same folder. Gives how long the end took, in seconds.
    ///
    /// # Errors
    /// If it is not ours, does not end, or does not come back.
    pub fn restart(mut self, end: End, start: Start<'_>) -> Result<(Instance, f64)> {
        let clock = SystemClock::new();
        let begun = lane::now(&clock);
        self.end(end)?;
        let took = lane::now(&clock).since(begun) as f64 / 1e9;
        let folder = self.folder.take().ok_or_else(|| Error::target("restart", "this server is not ours"))?;
        Ok((Self::start_in(&self.product, start, folder)?, took))
    }

    fn end(&mut self, end: End) -> Result<()> {
        let Some(child) = &mut self.child else { return Ok(()) };
        match end {
            End::Killed => child.kill()?,
            End::Asked => {
                let pid = i32::try_from(child.id()).ok().and_then(rustix::process::Pid::from_raw);
                let pid = pid.ok_or_else(|| Error::target("stop a server", "it has no process"))?;
                rustix::process::kill_process(pid, rustix::process::Signal::TERM)
                    .map_err(std::io::Error::from)?;
            }
        }
        child.wait()?;
        self.child = None;
        Ok(())
    }
}

/// How a server ends.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum End {
    /// By SIGTERM.
    Asked,
    /// By SIGKILL.
    Killed,
}

impl Drop for Instance {
    fn drop(&mut self) {
        // It may have ended by itself; its folder goes with it.
        let _ = self.end(End::Killed);
    }
}

fn spawn(product: &Product, start: Start<'_>, port: u16, folder: &Path, output: &File) -> Result<Child> {
    let data = folder.join("data");
    files::real().create_dir_all(&data)?;
    let mut command = product
        .command(port, &data, start.memory)
        .ok_or_else(|| Error::target("start a server", "somebody else runs it"))?;
    if matches!(product, Product::Haypile(_)) {
        command.args(start.words);
    }
    command.stdout(output.try_clone()?).stderr(output.try_clone()?);
    command.spawn().map_err(|error| Error::target("start a server", format!("{}: {error}", product.name())))
}
