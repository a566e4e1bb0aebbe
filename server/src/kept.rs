//! Values that are added through a shared reference and stay where they are until all go: what a script's commands are
//! called with has to live as long as the transaction that they run in.

use std::cell::{Cell, OnceCell};

use haypile_engine::key::Key;

/// Cells of the first row; each row has twice as many as the one before.
const FIRST: usize = 2;

/// Rows: enough for any number of calls that memory holds.
const ROWS: usize = 40;

/// A growing row of values.
pub struct Chain<T>(OnceCell<Box<Rows<T>>>);

struct Rows<T> {
    used: Cell<usize>,
    rows: [OnceCell<Box<[OnceCell<T>]>>; ROWS],
}

impl<T> Default for Chain<T> {
    fn default() -> Chain<T> {
        Chain(OnceCell::new())
    }
}

impl<T> Chain<T> {
    /// Adds a value; it stays as long as the chain.
    ///
    /// # Panics
    /// After more values than memory holds.
    pub fn keep(&self, value: T) -> &T {
        let rows = self.0.get_or_init(|| {
            Box::new(Rows { used: Cell::new(0), rows: std::array::from_fn(|_| OnceCell::new()) })
        });
        let (mut row, mut at) = (0, rows.used.get());
        rows.used.set(at + 1);
        while at >= FIRST << row {
            at -= FIRST << row;
            row += 1;
        }
        let cells = rows.rows[row].get_or_init(|| (0..FIRST << row).map(|_| OnceCell::new()).collect());
        cells[at].get_or_init(|| value)
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
