//! How many connections a worker has.

use std::cell::Cell;

thread_local! {
    static CONNECTIONS: Cell<usize> = const { Cell::new(0) };
}

/// One of them, on its worker's thread, where it also ends.
pub struct Counted(());

impl Counted {
    pub fn new() -> Counted {
        CONNECTIONS.set(CONNECTIONS.get() + 1);
        Counted(())
    }
}

impl Drop for Counted {
    fn drop(&mut self) {
        CONNECTIONS.set(CONNECTIONS.get() - 1);
    }
}

/// Whether a connection's worker has more than that one.
pub fn are_there() -> bool {
    CONNECTIONS.get() > 1
}
