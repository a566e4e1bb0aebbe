//! One step of a history: a command, or a `MULTI` with its commands up to `EXEC`. All of it happens, or nothing.

use super::effect::{Effect, Touch, parse};

/// Between the commands of a line.
const SEPARATOR: &str = ";";

/// A command, as words and as what it does.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Request {
    /// The words that are sent.
    pub words: Vec<String>,
    /// What they do. Empty for `MULTI` and `EXEC`.
    pub touches: Vec<Touch>,
}

/// A command or a transaction.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Operation {
    /// What is sent: one command, or `MULTI`, commands, `EXEC`.
    requests: Vec<Request>,
}

impl Operation {
    /// A single command.
    ///
    /// # Errors
    /// If the tester does not know it.
    pub fn single(words: Vec<String>) -> Result<Operation, String> {
        let touches = parse(&words)?;
        Ok(Operation { requests: vec![Request { words, touches }] })
    }

    /// A transaction of these commands.
    ///
    /// # Errors
    /// If the tester does not know one of them.
    pub fn transaction(commands: Vec<Vec<String>>) -> Result<Operation, String> {
        let mark = |word: &str| Request { words: vec![word.to_owned()], touches: Vec::new() };
        let mut requests = vec![mark("MULTI")];
        for words in commands {
            let touches = parse(&words)?;
            requests.push(Request { words, touches });
        }
        requests.push(mark("EXEC"));
        Ok(Operation { requests })
    }

    /// Reads a line of commands, such as `SET k v ; MULTI ; INCR a ; INCR b ; EXEC`.
    ///
    /// # Errors
    /// What is wrong with it.
    pub fn parse_line(words: &[&str]) -> Result<Vec<Operation>, String> {
        let mut operations = Vec::new();
        let mut open: Option<Vec<Vec<String>>> = None;
        for command in words.split(|&word| word == SEPARATOR) {
            let command: Vec<String> = command.iter().map(|&word| word.to_owned()).collect();
            let verb = command.first().ok_or("a command is missing")?.to_ascii_uppercase();
            match (verb.as_str(), open.take()) {
                ("MULTI", None) => open = Some(Vec::new()),
                ("EXEC", Some(commands)) => operations.push(Operation::transaction(commands)?),
                (_, Some(mut commands)) => {
                    commands.push(command);
                    open = Some(commands);
                }
                (_, None) => operations.push(Operation::single(command)?),
            }
        }
        if open.is_some() {
            return Err("a MULTI without its EXEC".to_owned());
        }
        Ok(operations)
    }

    /// The same with other words behind the keys; as it is, if those make no sense.
    #[must_use]
    pub fn mapped(&self, word: impl Fn(&str) -> &str) -> Operation {
        let words: Vec<Vec<String>> = self
            .commands()
            .map(|request| {
                let place = |(index, text): (usize, &String)| {
                    if index < 2 { text.clone() } else { word(text).to_owned() }
                };
                request.words.iter().enumerate().map(place).collect()
            })
            .collect();
        let mapped = match (self.is_transaction(), words) {
            (true, words) => Operation::transaction(words),
            (false, mut words) => words.pop().map_or(Err(String::new()), Operation::single),
        };
        mapped.unwrap_or_else(|_| self.clone())
    }

    /// What is sent; each is answered once.
    #[must_use]
    pub fn requests(&self) -> &[Request] {
        &self.requests
    }

    /// Whether it is a `MULTI`.
    #[must_use]
    pub fn is_transaction(&self) -> bool {
        self.requests.len() > 1
    }

    /// The requests that do something: not `MULTI` and `EXEC`.
    pub fn commands(&self) -> impl Iterator<Item = &Request> {
        self.requests.iter().filter(|request| !request.touches.is_empty())
    }

    /// Everything that it does, in order.
    pub fn touches(&self) -> impl Iterator<Item = &Touch> {
        self.requests.iter().flat_map(|request| &request.touches)
    }

    /// What it does to one key.
    pub fn effects_on<'a>(&'a self, key: &'a str) -> impl Iterator<Item = &'a Effect> {
        self.touches().filter(move |touch| touch.key == key).map(|touch| &touch.effect)
    }

    /// The keys, each once.
    #[must_use]
    pub fn keys(&self) -> Vec<&str> {
        let mut keys: Vec<&str> = self.touches().map(|touch| touch.key.as_str()).collect();
        keys.sort_unstable();
        keys.dedup();
        keys
    }
}

impl std::fmt::Display for Operation {
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        for (index, request) in self.requests.iter().enumerate() {
            let between = if index > 0 { " ; " } else { "" };
            write!(out, "{between}{}", request.words.join(" "))?;
        }
        Ok(())
    }
}
