//! How rows of the table of commands are made.

use super::{AtOnce, Command, Flags, Keys, Pending, Run, Stand};
use crate::cx::{Cx, Fail};
use crate::session::SessionCx;

/// A group of commands in Redis' documentation: makes the rows of a family.
#[derive(Clone, Copy)]
pub struct Group(pub &'static str);

impl Group {
    /// A command on the data of its keys.
    #[allow(clippy::too_many_arguments)] // it is a row of a table
    #[must_use]
    pub const fn data(
        self,
        name: &'static str,
        arity: i32,
        flags: Flags,
        keys: Keys,
        since: &'static str,
        summary: &'static str,
        run: fn(&mut Cx<'_>) -> Result<(), Fail>,
    ) -> Command {
        self.row(name, arity, flags, keys, since, summary, Run::Data(run))
    }

    /// A command on the connection or the node, that waits for nothing.
    #[must_use]
    pub const fn session(
        self,
        name: &'static str,
        arity: i32,
        flags: Flags,
        since: &'static str,
        summary: &'static str,
        run: fn(&mut SessionCx<'_>) -> Result<(), Fail>,
    ) -> Command {
        self.row(name, arity, flags, Keys::None, since, summary, Run::Session(run))
    }

    /// A command on the connection or the node, that may wait.
    #[must_use]
    pub const fn waiting(
        self,
        name: &'static str,
        arity: i32,
        flags: Flags,
        since: &'static str,
        summary: &'static str,
        run: for<'a> fn(&'a mut SessionCx<'_>) -> Pending<'a>,
    ) -> Command {
        self.row(name, arity, flags, Keys::None, since, summary, Run::Async(run))
    }

    /// A command whose second word says what it does.
    #[must_use]
    pub const fn family(
        self,
        name: &'static str,
        flags: Flags,
        since: &'static str,
        summary: &'static str,
        subs: &'static [Command],
    ) -> Command {
        let row = self.row(name, -2, flags, Keys::None, since, summary, Run::Family);
        Command { subs, ..row }
    }

    /// A command that is refused on purpose, with words that say what to use instead.
    #[must_use]
    pub const fn refused(
        self,
        name: &'static str,
        arity: i32,
        since: &'static str,
        words: &'static str,
    ) -> Command {
        let row = self.session(name, arity, Flags::NONE, since, "Refused: the answer says why.", refuse);
        Command { stand: Stand::Refused(words), ..row }
    }

    /// A command of any kind.
    #[allow(clippy::too_many_arguments)] // it is a row of a table
    #[must_use]
    pub const fn row(
        self,
        name: &'static str,
        arity: i32,
        flags: Flags,
        keys: Keys,
        since: &'static str,
        summary: &'static str,
        run: Run,
    ) -> Command {
        let (at_once, subs, stand) = (None, &[], Stand::Same);
        Command { name, arity, flags, keys, group: self.0, since, summary, run, at_once, subs, stand, id: 0 }
    }
}

impl Command {
    /// The same, with keys.
    #[must_use]
    pub const fn at(self, keys: Keys) -> Command {
        Command { keys, ..self }
    }

    /// The same, which is nearly always done without waiting.
    #[must_use]
    pub const fn at_once(self, at_once: AtOnce) -> Command {
        Command { at_once: Some(at_once), ..self }
    }

    /// The same, which differs from Redis' in this.
    #[must_use]
    pub const fn differs(self, how: &'static str) -> Command {
        Command { stand: Stand::Differs(how), ..self }
    }

    /// The same, of whose name Redis has none.
    #[must_use]
    pub const fn own(self) -> Command {
        Command { stand: Stand::Own, ..self }
    }
}

/// Answers with the words of the row.
fn refuse(cx: &mut SessionCx<'_>) -> Result<(), Fail> {
    match super::resolve(cx.args) {
        Ok(Command { stand: Stand::Refused(words), .. }) => Err(Fail::error(*words)),
        _ => Err(Fail::error("ERR refused")),
    }
}
