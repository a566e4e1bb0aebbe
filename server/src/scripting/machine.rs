//! A worker's Lua state, and how it runs a script within a command.
//!
//! The state is made at a worker's first script and then kept, with what it has compiled. What a script is given is
//! what [`prelude.lua`](prelude.lua) lets it see. Only one script runs at a time on a worker.
//!
//! The state's memory is limited while it runs what others wrote, and not while strings and tables are made for it here: under
//! a limit Lua makes each of them in a protected call of its own.

use std::cell::{Cell, RefCell};
use std::collections::HashMap;
use std::rc::Rc;
use std::sync::Arc;

use bytes::Bytes;
use haypile_engine::engine::Engine;
use haypile_engine::key::{Key, hash48};
use haypile_engine::tx::Stop;
use mlua::chunk::ChunkMode;
use mlua::{Function, HookTriggers, IntoLua, Lua, LuaOptions, StdLib, Table, Value, Variadic, VmState};
use rand::rngs::Xoshiro256PlusPlus;
use rand::{RngExt, SeedableRng};

use super::aside::Asides;
use super::functions::{self, Library};
use super::{Running, Script, Scripts, bits, convert, json, msgpack, sha1hex, structs};
use crate::clients::monotonic_ms;
use crate::commands::{events, walk};
use crate::cx::{Cx, Fail, Turn};
use crate::notify::Event;
use crate::number;
use crate::pubsub::{Kind, Message};
use crate::resp::Proto;
use crate::table::{self, Command, Flags, Run, Unfit};

/// The most memory of a worker's state, in bytes.
const MEMORY_MAX: usize = 256 << 20;
const NO_LIMIT: usize = 0;

/// Compiled scripts that a worker keeps.
const COMPILED_MAX: usize = 4096;

/// A script that has run on a worker for so long is given up, to be run off the workers; in milliseconds.
const WORKER_MS: u64 = 50;

/// Instructions between two looks at the time.
const INSTRUCTIONS: u32 = 20_000;

/// The name by which errors call a script.
const CHUNK: &str = "@user_script";
/// The name by which errors call a library.
const LIBRARY_CHUNK: &str = "@user_function";
/// Looks at a library that is being loaded before it is stopped: about a second.
const LOADING_LOOKS: u32 = 5_000;
/// Libraries that a worker keeps loaded.
const LIBRARIES_MAX: usize = 256;

/// What works on data and is refused in scripts, as in Redis.
const NOT_IN_SCRIPTS: [&str; 6] = ["blpop", "brpop", "blmove", "brpoplpush", "bzpopmin", "bzpopmax"];

/// Levels of the stack that are looked through for the script.
const LEVELS_MAX: usize = 16;

thread_local! {
    static MACHINE: RefCell<Option<Machine>> = const { RefCell::new(None) };
}

/// What a library has registered.
type Registered = Vec<(functions::Function, Function)>;

/// A library's functions, by name.
type Loaded = HashMap<String, Function>;

struct Machine {
    lua: Lua,
    /// What the prelude calls.
    host: Table,
    /// What scripts see.
    env: Table,
    /// Runs one.
    run: Function,
    /// Calls a library's function.
    call: Function,
    /// Runs a library's text.
    load_library: Function,
    /// The functions of the libraries that were called here, with the text that they are of.
    libraries: HashMap<String, (Bytes, Loaded)>,
    /// What `redis` stands for in scripts; `call` is set for each run.
    redis: Table,
    compiled: HashMap<String, Function>,
    flushes: u64,
    /// Scripts by a hash of their text, as the node knew them after so many changes.
    texts: HashMap<u64, Arc<Script>>,
    changes: u64,
    watch: Rc<Watch>,
}

/// What is known of the script that runs.
struct Watch {
    stopped: Cell<bool>,
    why: Cell<Option<Why>>,
    /// Whether the next call is a `pcall`.
    catches: Cell<bool>,
    in_resp3: Cell<bool>,
    random: RefCell<Xoshiro256PlusPlus>,
    limit: RefCell<Option<Limit>>,
    /// How often may still be looked at a library that is being loaded.
    looks_left: Cell<Option<u32>>,
    /// What it wants logged, once it has ended.
    log: RefCell<Vec<(i64, String)>>,
}

struct Limit {
    engine: Arc<Engine>,
    until_ms: u64,
    /// What it means if it has run for longer.
    then: Why,
    running: Arc<Running>,
    asides: Arc<Asides>,
}

/// Why a script was stopped from outside.
#[derive(Clone, Copy)]
enum Why {
    Killed,
    /// This setting says so.
    TooLong(&'static str),
    /// It is to run off the worker.
    Long,
}

impl Watch {
    fn look(&self) {
        if let Some(left) = self.looks_left.get() {
            self.looks_left.set(Some(left.saturating_sub(1)));
            self.stopped.set(left == 0);
        }
        if let Some(limit) = &*self.limit.borrow() {
            let why = if limit.running.is_killed() || limit.asides.has_ended() {
                Some(Why::Killed)
            } else {
                (monotonic_ms(limit.engine.clock()) > limit.until_ms).then_some(limit.then)
            };
            if why.is_some() {
                self.why.set(why);
                self.stopped.set(true);
            }
        }
    }
}

fn failed(error: &mlua::Error) -> Fail {
    Fail::error(format!("ERR the script engine failed: {error}"))
}

/// Checks that a script is Lua; keeps it compiled.
///
/// # Errors
/// In Redis' words if it is not.
pub fn check(script: &Script, flushes: u64) -> Result<(), Fail> {
    with(|machine| machine.function(script, flushes).map(drop))
}

/// The script of this text, which the node knows then.
///
/// # Errors
/// In Redis' words if it is none.
pub fn script(text: &[u8], scripts: &Scripts) -> Result<Arc<Script>, Fail> {
    with(|machine| machine.script(text, scripts))
}

/// Runs a script as (part of) a command: its keys stand in the arguments from the third on, so many. Whatever it
/// answers is written to the command's reply.
///
/// # Errors
/// If nothing of it may be kept: a block is not in memory, it was stopped, or it is no Lua.
pub fn run(cx: &mut Cx<'_>, script: &Script, keys: usize, may_write: MayWrite) -> Result<(), Fail> {
    with(|machine| machine.run(cx, script, keys, may_write))
}

/// Calls a library's function as (part of) a command; else as [`run`].
///
/// # Errors
/// As [`run`].
pub fn call(
    cx: &mut Cx<'_>,
    library: &Library,
    name: &str,
    keys: usize,
    may_write: MayWrite,
) -> Result<(), Fail> {
    with(|machine| {
        let callback = machine.callback(library, name)?;
        let how = Runs { name, function: callback, by: machine.call.clone() };
        machine.run_as(cx, &how, keys, may_write)
    })
}

/// Runs a library's text, to find its functions.
///
/// # Errors
/// In Redis' words if it is none.
pub fn library(text: &Bytes) -> Result<Library, Fail> {
    with(|machine| {
        let (name, functions) = machine.load(text)?;
        if functions.is_empty() {
            return Err(Fail::error("ERR No functions registered"));
        }
        let mut functions: Vec<functions::Function> = functions.into_iter().map(|(known, _)| known).collect();
        functions.sort_by(|one, other| one.name.cmp(&other.name));
        functions.iter().try_for_each(|function| functions::check_name(&function.name, "Function names"))?;
        Ok(Library { name, text: text.clone(), functions })
    })
}

/// What is run, under which name, and by which function of the prelude.
struct Runs<'a> {
    name: &'a str,
    function: Function,
    by: Function,
}

/// Whether a script may write.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[allow(missing_docs)] // the names say it
pub enum MayWrite {
    Yes,
    No,
}

impl MayWrite {
    /// # Errors
    /// In Redis' words if it may not.
    fn check(self) -> Result<(), Fail> {
        match self {
            MayWrite::Yes => Ok(()),
            MayWrite::No => Err(Fail::error("ERR Write commands are not allowed from read-only scripts.")),
        }
    }
}

fn with<T>(act: impl FnOnce(&mut Machine) -> Result<T, Fail>) -> Result<T, Fail> {
    MACHINE.with_borrow_mut(|machine| {
        let machine = match machine {
            Some(machine) => machine,
            None => machine.insert(Machine::new().map_err(|error| failed(&error))?),
        };
        act(machine)
    })
}

impl Machine {
    fn new() -> mlua::Result<Machine> {
        let options = LuaOptions::new().catch_rust_panics(false);
        let lua = Lua::new_with(StdLib::TABLE | StdLib::STRING | StdLib::MATH, options)?;
        let watch = Rc::new(Watch {
            stopped: Cell::new(false),
            why: Cell::new(None),
            catches: Cell::new(false),
            in_resp3: Cell::new(false),
            random: RefCell::new(Xoshiro256PlusPlus::seed_from_u64(0)),
            limit: RefCell::new(None),
            looks_left: Cell::new(None),
            log: RefCell::default(),
        });
        let host = host(&lua, &watch)?;
        let prelude = lua.load(include_str!("prelude.lua")).set_name("=prelude");
        let (env, run, redis, call, load_library): (Table, Function, Table, Function, Function) =
            prelude.call((host.clone(), lua.globals()))?;
        let (watched, calls) = (watch.clone(), redis.clone());
        let pcall = lua.create_function(move |_, words: Variadic<Value>| {
            watched.catches.set(true);
            calls.raw_get::<Function>("call")?.call::<Value>(words)
        })?;
        redis.raw_set("pcall", pcall)?;
        let watched = watch.clone();
        lua.set_global_hook(HookTriggers::new().every_nth_instruction(INSTRUCTIONS), move |_, _| {
            watched.look();
            if watched.stopped.get() { Err(stopped()) } else { Ok(VmState::Continue) }
        })?;
        let (compiled, libraries, texts) = (HashMap::new(), HashMap::new(), HashMap::new());
        let (flushes, changes) = (0, 0);
        Ok(Machine {
            lua,
            host,
            env,
            run,
            call,
            load_library,
            libraries,
            redis,
            compiled,
            flushes,
            texts,
            changes,
            watch,
        })
    }

    /// Does what makes Lua run or read what others wrote.
    fn limited<T>(&self, act: impl FnOnce() -> mlua::Result<T>) -> mlua::Result<T> {
        self.lua.set_memory_limit(MEMORY_MAX)?;
        let done = act();
        self.lua.set_memory_limit(NO_LIMIT)?;
        done
    }

    /// Whoever sends one script again and again has its hash made once.
    fn script(&mut self, text: &[u8], scripts: &Scripts) -> Result<Arc<Script>, Fail> {
        let changes = scripts.changes();
        if self.changes != changes {
            self.texts.clear();
            self.changes = changes;
        }
        let hash = hash48(text);
        if let Some(script) = self.texts.get(&hash).filter(|script| script.text() == text) {
            return Ok(script.clone());
        }
        let script = match scripts.find(sha1hex(text).as_bytes()) {
            Some(script) => script,
            None => {
                let script = Script::new(text)?;
                self.function(&script, scripts.flushes())?;
                scripts.note(script)
            }
        };
        if self.texts.len() >= COMPILED_MAX {
            self.texts.clear();
        }
        self.texts.insert(hash, script.clone());
        Ok(script)
    }

    fn function(&mut self, script: &Script, flushes: u64) -> Result<Function, Fail> {
        if self.flushes != flushes || self.compiled.len() > COMPILED_MAX {
            self.compiled.clear();
            self.flushes = flushes;
        }
        if let Some(function) = self.compiled.get(&script.sha) {
            return Ok(function.clone());
        }
        let chunk = self.lua.load(script.code()).set_name(CHUNK).set_mode(ChunkMode::Text);
        let function = self.limited(|| chunk.into_function()).map_err(|error| {
            let text = match error {
                mlua::Error::SyntaxError { message, .. } => message,
                other => other.to_string(),
            };
            Fail::error(format!("ERR Error compiling script (new function): {text}"))
        })?;
        function.set_environment(self.env.clone()).map_err(|error| failed(&error))?;
        self.compiled.insert(script.sha.clone(), function.clone());
        Ok(function)
    }

    fn run(
        &mut self,
        cx: &mut Cx<'_>,
        script: &Script,
        keys: usize,
        may_write: MayWrite,
    ) -> Result<(), Fail> {
        let function = self.function(script, cx.node.scripts.flushes())?;
        self.run_as(cx, &Runs { name: &script.sha, function, by: self.run.clone() }, keys, may_write)
    }

    /// The functions that a library's text registers.
    fn load(&mut self, text: &Bytes) -> Result<(String, Registered), Fail> {
        let (name, code) = functions::head(text)?;
        let chunk = self.lua.load(code).set_name(LIBRARY_CHUNK).set_mode(ChunkMode::Text);
        let chunk = self.limited(|| chunk.into_function()).map_err(|error| {
            let text = match error {
                mlua::Error::SyntaxError { message, .. } => message,
                other => other.to_string(),
            };
            Fail::error(format!("ERR Error compiling function: {text}"))
        })?;
        let failed = |error: mlua::Error| failed(&error);
        chunk.set_environment(self.env.clone()).map_err(failed)?;
        self.watch.stopped.set(false);
        self.watch.why.set(None);
        self.watch.looks_left.set(Some(LOADING_LOOKS));
        let loaded = self.limited(|| self.load_library.call(chunk));
        self.watch.looks_left.set(None);
        let (good, told): (bool, Value) = loaded.map_err(failed)?;
        if self.watch.stopped.get() {
            return Err(Fail::error("ERR Error registering functions: FUNCTION LOAD timeout"));
        }
        let told = match told {
            Value::Table(told) if good => told,
            error => {
                let text = Machine::error_words(&error);
                return Err(Fail::error(format!("ERR Error registering functions: {text}")));
            }
        };
        let mut out = Vec::new();
        for function in told.sequence_values::<Table>() {
            let function = function.map_err(failed)?;
            let known = functions::Function {
                name: function.raw_get("name").map_err(failed)?,
                description: function.raw_get("description").map_err(failed)?,
                flags: function.raw_get("flags").map_err(failed)?,
            };
            out.push((known, function.raw_get("callback").map_err(failed)?));
        }
        Ok((name, out))
    }

    /// A library's function, which is loaded here at its first call.
    fn callback(&mut self, library: &Library, name: &str) -> Result<Function, Fail> {
        let gone = || Fail::error("ERR Function not found");
        if let Some((text, functions)) = self.libraries.get(&library.name)
            && *text == library.text
        {
            return functions.get(name).cloned().ok_or_else(gone);
        }
        let (_, functions) = self.load(&library.text)?;
        let functions: Loaded =
            functions.into_iter().map(|(known, callback)| (known.name, callback)).collect();
        let callback = functions.get(name).cloned().ok_or_else(gone);
        if self.libraries.len() >= LIBRARIES_MAX {
            self.libraries.clear();
        }
        self.libraries.insert(library.name.clone(), (library.text.clone(), functions));
        callback
    }

    fn run_as(
        &mut self,
        cx: &mut Cx<'_>,
        runs: &Runs<'_>,
        keys: usize,
        may_write: MayWrite,
    ) -> Result<(), Fail> {
        let node = cx.node;
        let running = node.scripts.begin();
        self.watch.stopped.set(false);
        self.watch.why.set(None);
        self.watch.catches.set(false);
        self.watch.in_resp3.set(false);
        self.watch.log.borrow_mut().clear();
        *self.watch.random.borrow_mut() = Xoshiro256PlusPlus::seed_from_u64(cx.seed);
        let settings = node.config.now();
        let (limit_ms, then) = match cx.turn {
            Turn::Worker => (WORKER_MS, Why::Long),
            Turn::Transaction => {
                (settings.script_busy_ms.min(settings.script_ms_max), Why::TooLong("lua-time-limit"))
            }
            Turn::Aside => (settings.script_ms_max, Why::TooLong("script-time-max")),
        };
        *self.watch.limit.borrow_mut() = Some(Limit {
            engine: node.engine.clone(),
            until_ms: node.monotonic_ms() + limit_ms,
            then,
            running: running.clone(),
            asides: node.scripts.asides.clone(),
        });
        let (start, proto, seed) = (cx.reply.len(), cx.reply.proto(), cx.seed);
        let mut stop = None;
        let ended = self.call(cx, runs, keys, may_write, &mut stop);
        *self.watch.limit.borrow_mut() = None;
        node.scripts.end(&running);
        cx.reply.switch(proto);
        cx.seed = seed;
        cx.reply.truncate(start);
        if let Some(stop) = stop {
            return Err(stop.into());
        }
        match self.watch.why.get() {
            Some(Why::Killed) => {
                return Err(Fail::error(
                    "ERR Script killed by user with SCRIPT KILL. Nothing of it is kept.",
                ));
            }
            Some(Why::TooLong(setting)) => {
                return Err(Fail::error(format!(
                    "ERR the script ran longer than {setting} and was stopped; nothing of it is kept"
                )));
            }
            Some(Why::Long) => return Err(Fail::Long),
            None => {}
        }
        for (level, text) in self.watch.log.borrow_mut().drain(..) {
            match level {
                0 | 1 => tracing::debug!("script: {text}"),
                2 => tracing::info!("script: {text}"),
                _ => tracing::warn!("script: {text}"),
            }
        }
        // An error of the script is its answer: what it wrote before is kept, as in Redis.
        match ended {
            Ok((true, value)) => {
                convert::reply(cx.reply, &value, self.watch.in_resp3.get()).map_err(|error| failed(&error))
            }
            Ok((false, error)) => {
                cx.reply.error(&Machine::error_text(runs.name, &error));
                Ok(())
            }
            Err(error) => {
                self.lua.gc_collect().map_err(|error| failed(&error))?;
                Err(failed(&error))
            }
        }
    }

    /// Calls a compiled script; whether it came to its end, and what it returned or raised.
    fn call(
        &self,
        cx: &mut Cx<'_>,
        runs: &Runs<'_>,
        keys: usize,
        may_write: MayWrite,
        stop: &mut Option<Stop>,
    ) -> mlua::Result<(bool, Value)> {
        // What was made for it here may have filled what it may take itself.
        if self.lua.used_memory() > MEMORY_MAX / 2 {
            self.lua.gc_collect()?;
        }
        let strings = |words: &[&[u8]]| self.lua.create_sequence_from(words.iter().map(|word| Word(word)));
        let (keys, args) = cx.args[3..].split_at(keys);
        let (keys, args) = (strings(keys)?, strings(args)?);
        let state = RefCell::new((cx, stop));
        let calls = Cell::new(0u64);
        self.lua.scope(|scope| {
            let one = |lua: &Lua, words: &[Value]| {
                let (cx, stop) = &mut *state.borrow_mut();
                if self.watch.stopped.get() {
                    return Err(stopped());
                }
                let _unlimited = Unlimited::new(lua);
                calls.set(calls.get() + 1);
                let start = cx.reply.len();
                let outcome = words_of(words)
                    .and_then(|words| command(cx, words, may_write, self.watch.in_resp3.get(), calls.get()));
                match outcome {
                    // Within a script nothing waits: what it replied stands.
                    Ok(()) | Err(Fail::Blocks(_)) => {
                        let value = convert::to_lua(lua, &mut &cx.reply.as_bytes()[start..]);
                        cx.reply.truncate(start);
                        value.map(Ok)
                    }
                    Err(Fail::Error(text)) => {
                        cx.reply.truncate(start);
                        convert::error_table(lua, text.as_bytes()).map(Err)
                    }
                    Err(Fail::Long) => unreachable!("no script calls a script"),
                    Err(Fail::Stop(why)) => {
                        **stop = Some(why);
                        self.watch.stopped.set(true);
                        Err(stopped())
                    }
                }
            };
            // Neither is a Lua function, so that a script's frame stays where it calls one of them last: an error tells its line.
            let call = scope.create_function(move |lua, words: Variadic<Value>| {
                let catches = self.watch.catches.take();
                match one(lua, &words)? {
                    Ok(value) => Ok(value),
                    Err(error) if catches => Ok(Value::Table(error)),
                    Err(error) => {
                        self.host.raw_set("raised", error)?;
                        Err(mlua::Error::runtime("raised"))
                    }
                }
            })?;
            self.redis.raw_set("call", call)?;
            self.limited(|| runs.by.call((&runs.function, keys, args)))
        })
    }

    /// What a client is told of what a script raised.
    fn error_text(name: &str, error: &Value) -> String {
        let Value::Table(table) = error else {
            let text = error.to_string().unwrap_or_default();
            return format!("ERR Error running script {name}, {text}");
        };
        let text = Machine::error_words(error);
        match (field(table, "source"), field(table, "line")) {
            (Some(source), Some(line)) => format!("{text} script: {name}, on {source}:{line}."),
            _ => text,
        }
    }

    /// An error's own words.
    fn error_words(error: &Value) -> String {
        match error {
            Value::Table(error) => field(error, "err").unwrap_or_else(|| "ERR unknown error".to_owned()),
            other => other.to_string().unwrap_or_default(),
        }
    }
}

/// Lifts the limit of a state's memory for a while.
struct Unlimited<'l>(&'l Lua);

impl Unlimited<'_> {
    fn new(lua: &Lua) -> Unlimited<'_> {
        let _ = lua.set_memory_limit(NO_LIMIT);
        Unlimited(lua)
    }
}

impl Drop for Unlimited<'_> {
    fn drop(&mut self) {
        let _ = self.0.set_memory_limit(MEMORY_MAX);
    }
}

/// Bytes that become a string without a handle of their own.
struct Word<'a>(&'a [u8]);

impl IntoLua for Word<'_> {
    fn into_lua(self, lua: &Lua) -> mlua::Result<Value> {
        lua.create_string(self.0).map(Value::String)
    }
}

fn field(error: &Table, name: &str) -> Option<String> {
    match error.raw_get::<Value>(name) {
        Ok(Value::String(text)) => Some(text.to_string_lossy()),
        Ok(Value::Integer(line)) => Some(line.to_string()),
        Ok(Value::Number(line)) => Some(format!("{line:.0}")),
        _ => None,
    }
}

fn stopped() -> mlua::Error {
    mlua::Error::runtime("stopped")
}

/// What the prelude calls, but for the command that is set for each script.
fn host(lua: &Lua, watch: &Rc<Watch>) -> mlua::Result<Table> {
    let host = lua.create_table()?;
    let watched = watch.clone();
    host.raw_set("stopped", lua.create_function(move |_, ()| Ok(watched.stopped.get()))?)?;
    // There is one user, who may send every command that there is.
    let known = |_: &Lua, words: Variadic<mlua::LuaString>| {
        let words: Vec<_> = words.iter().map(mlua::LuaString::as_bytes).collect();
        let args: Vec<&[u8]> = words.iter().map(|word| &word[..]).collect();
        Ok(!matches!(table::resolve(&args), Err(Unfit::Unknown | Unfit::UnknownSub(_))))
    };
    host.raw_set("known", lua.create_function(known)?)?;
    let watched = watch.clone();
    let random = move |_: &Lua, ()| Ok(watched.random.borrow_mut().random::<f64>());
    host.raw_set("random", lua.create_function(random)?)?;
    let watched = watch.clone();
    let seed = move |_: &Lua, seed: f64| {
        *watched.random.borrow_mut() = Xoshiro256PlusPlus::seed_from_u64(seed.to_bits());
        Ok(())
    };
    host.raw_set("seed", lua.create_function(seed)?)?;
    let watched = watch.clone();
    let setresp = move |_: &Lua, version: f64| {
        watched.in_resp3.set(version > 2.0);
        Ok(())
    };
    host.raw_set("setresp", lua.create_function(setresp)?)?;
    let watched = watch.clone();
    let log = move |_: &Lua, (level, text): (f64, mlua::LuaString)| {
        #[allow(clippy::cast_possible_truncation)] // 0 to 3
        watched.log.borrow_mut().push((level as i64, text.to_string_lossy()));
        Ok(())
    };
    host.raw_set("log", lua.create_function(log)?)?;
    let error_text =
        |lua: &Lua, text: mlua::LuaString| lua.create_string(convert::error_text(&text.as_bytes()));
    host.raw_set("error_text", lua.create_function(error_text)?)?;
    let sha1hex = |_: &Lua, text: Option<mlua::LuaString>| {
        Ok(sha1hex(&text.map_or_else(Vec::new, |text| text.as_bytes().to_vec())))
    };
    host.raw_set("sha1hex", lua.create_function(sha1hex)?)?;
    host.raw_set(
        "line",
        lua.create_function(|lua, ()| {
            let (source, line) = line(lua).unzip();
            Ok((source, line))
        })?,
    )?;
    host.raw_set("memory", lua.create_function(|lua, ()| Ok(lua.used_memory() / 1024))?)?;
    host.raw_set("bit", bits::table(lua)?)?;
    host.raw_set("cjson", json::table(lua)?)?;
    host.raw_set("cmsgpack", msgpack::table(lua)?)?;
    host.raw_set("struct", structs::table(lua)?)?;
    Ok(host)
}

/// The line of the script that runs.
fn line(lua: &Lua) -> Option<(String, usize)> {
    (1..LEVELS_MAX).find_map(|level| {
        lua.inspect_stack(level, |debug| {
            let source = debug.source().source?.into_owned();
            let here = source == CHUNK || source == LIBRARY_CHUNK;
            here.then(|| Some((source, debug.current_line()?))).flatten()
        })
        .flatten()
    })
}

/// The arguments of a call as bytes.
fn words_of(words: &[Value]) -> Result<Vec<Vec<u8>>, Fail> {
    if words.is_empty() {
        return Err(Fail::error("ERR Please specify at least one argument for this redis lib call"));
    }
    let bytes = |word: &Value| match word {
        Value::String(text) => Some(text.as_bytes().to_vec()),
        Value::Integer(value) => Some(value.to_string().into_bytes()),
        Value::Number(value) => Some(number::format_double(*value).into_bytes()),
        _ => None,
    };
    words
        .iter()
        .map(bytes)
        .collect::<Option<Vec<_>>>()
        .ok_or_else(|| Fail::error("ERR Lua redis lib command arguments must be strings or integers"))
}

/// Runs a command for a script; its reply is appended to the script's.
fn command(
    cx: &mut Cx<'_>,
    words: Vec<Vec<u8>>,
    may_write: MayWrite,
    in_resp3: bool,
    number: u64,
) -> Result<(), Fail> {
    let words = cx.kept.words.keep(words);
    let args = cx.kept.args.keep(words.iter().map(|word| &word[..]).collect());
    let command = table::resolve(args).map_err(|unfit| match unfit {
        Unfit::Arity(_) => Fail::error("ERR Wrong number of args calling Redis command from script"),
        _ => Fail::error("ERR Unknown Redis command called from script"),
    })?;
    cx.reply.switch(if in_resp3 { Proto::Resp3 } else { Proto::Resp2 });
    match command.name {
        "time" => {
            time(cx);
            return Ok(());
        }
        "ping" | "echo" => {
            match words.get(1) {
                Some(word) => cx.reply.bulk(word),
                None => cx.reply.simple("PONG"),
            }
            return Ok(());
        }
        "publish" => return publish(cx, Kind::Channel, words, may_write),
        "spublish" => return publish(cx, Kind::Shard, words, may_write),
        "select" if number::integer(&words[1]) == Some(0) => {
            cx.reply.ok();
            return Ok(());
        }
        "select" => return Err(Fail::error("ERR DB index is out of range")),
        _ if walk::is_for_scripts(command) => {
            if command.flags.has(Flags::WRITE) {
                may_write.check()?;
            }
            return walk::in_script(cx, command, args);
        }
        _ => {}
    }
    let body = match command.run {
        _ if NOT_IN_SCRIPTS.contains(&command.name) => {
            return Err(Fail::error("ERR This Redis command is not allowed from script"));
        }
        Run::Data(body) if command.group != super::super::commands::scripting::GROUP => body,
        _ => return Err(Fail::error("ERR This Redis command is not allowed from script")),
    };
    let writes = command.flags.has(Flags::WRITE);
    if writes {
        may_write.check()?;
    }
    let mut positions = Vec::new();
    command.keys.positions(args, &mut positions);
    let keys = cx.kept.keys.keep(positions.into_iter().map(|at| Key::new(args[at])).collect());
    for key in keys {
        cx.check_reach(key, command.flags, || {
            let user = String::from_utf8_lossy(key.user());
            format!("ERR Script attempted to access the key '{user}', in whose slot none of its KEYS is: name it among them")
        })?;
    }
    let (old_args, old_keys, seed) = (cx.args, cx.keys, cx.seed);
    (cx.args, cx.keys) = (args, keys);
    cx.seed = seed.wrapping_add(number.wrapping_mul(0x9e37_79b9_7f4a_7c15));
    let mark = writes.then(|| cx.tx.mark());
    cx.in_script = true;
    let done = events::run(cx, command, body);
    (cx.args, cx.keys, cx.seed, cx.in_script) = (old_args, old_keys, seed, false);
    if let (Err(Fail::Error(_)), Some(mark)) = (&done, mark) {
        // It may have failed after it wrote.
        cx.tx.rewind(&mark);
    }
    done
}

/// Whether scripts may call it although it is neither on keys nor a walk over them.
#[must_use]
pub fn is_plain(command: &Command) -> bool {
    matches!(command.name, "time" | "ping" | "echo" | "publish" | "spublish" | "select")
}

/// The message leaves when the script is committed; who listens now is counted.
fn publish(cx: &mut Cx<'_>, kind: Kind, words: &[Vec<u8>], may_write: MayWrite) -> Result<(), Fail> {
    may_write.check()?;
    let [_, channel, text, ..] = words else {
        unreachable!("the table's arity says how many words there are")
    };
    let (channel, text) = (Bytes::copy_from_slice(channel), Bytes::copy_from_slice(text));
    cx.reply.count(cx.node.pubsub.receivers(kind, &channel));
    cx.events.push(Event::Published(Message { kind, channel, text }));
    Ok(())
}

fn time(cx: &mut Cx<'_>) {
    let now = cx.node.wall().0;
    cx.reply.array(2);
    cx.reply.bulk((now / 1000).to_string().as_bytes());
    cx.reply.bulk((now % 1000 * 1000).to_string().as_bytes());
}
