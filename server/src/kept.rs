//! Values that are added through a shared reference and stay where they are until all go: what a script's commands are
//! called with has to live as long as the transaction that they run in.

use std::cell::{Cell, OnceCell};

use haypile_engine::key::Key;

/// Cells of the first row; each row has twice as many as the one before.
const FIRST: usize = 2;

/// A growing row of values.
pub struct Chain<T>(OnceCell<Row<T>>);

struct Row<T> {
    cells: Box<[OnceCell<T>]>,
    used: Cell<usize>,
    next: OnceCell<Box<Row<T>>>,
}

impl<T> Row<T> {
    fn of(cells: usize) -> Row<T> {
        let cells = (0..cells).map(|_| OnceCell::new()).collect();
        Row { cells, used: Cell::new(0), next: OnceCell::new() }
    }
}

impl<T> Default for Chain<T> {
    fn default() -> Chain<T> {
        Chain(OnceCell::new())
    }
}

impl<T> Chain<T> {
    /// Adds a value; it stays as long as the chain.
    pub fn keep(&self, value: T) -> &T {
        let mut row = self.0.get_or_init(|| Row::of(FIRST));
        while row.used.get() == row.cells.len() {
            row = row.next.get_or_init(|| Box::new(Row::of(2 * row.cells.len())));
        }
        let at = row.used.get();
        row.used.set(at + 1);
        row.cells[at].get_or_init(|| value)
    }
}

/// See the file's head.
#[derive(Default)]
pub struct Kept<'a> {
    /// The arguments of calls; the first of each is the name.
    pub words: Chain<Vec<Vec<u8>>>,
    /// The same as commands take them.
    pub args: Chain<Vec<&'a [u8]>>,
    /// The keys among them.
    pub keys: Chain<Vec<Key>>,
}

#[test]
fn what_is_kept_stays_where_it_is() {
    let chain = Chain::default();
    let kept: Vec<&String> = (0..1000).map(|n| chain.keep(n.to_string())).collect();
    assert!(kept.iter().enumerate().all(|(n, text)| **text == n.to_string()));
}
