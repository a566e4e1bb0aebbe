//! Memory for a batch, which a worker's connections pass on to each other.

use std::cell::RefCell;
use std::thread::LocalKey;

use bytes::BytesMut;

use super::READ_BYTES;
use crate::ahead::Ahead;

/// No more of each are kept.
const KEPT_MAX: usize = 64;

thread_local! {
    static BUFFERS: RefCell<Vec<BytesMut>> = const { RefCell::new(Vec::new()) };
    static AHEADS: RefCell<Vec<Ahead>> = const { RefCell::new(Vec::new()) };
}

/// A buffer to receive into, without a byte in it.
pub fn take() -> BytesMut {
    BUFFERS.with_borrow_mut(Vec::pop).unwrap_or_default()
}

/// Gives one back, unless it has grown.
pub fn give(mut buffer: BytesMut) {
    buffer.clear();
    if (1..=2 * READ_BYTES).contains(&buffer.capacity()) {
        keep(&BUFFERS, buffer);
    }
}

/// What finds requests.
pub fn take_ahead() -> Ahead {
    AHEADS.with_borrow_mut(Vec::pop).unwrap_or_default()
}

/// Gives it back, once its batch has ended.
pub fn give_ahead(ahead: Ahead) {
    if !ahead.is_large() {
        keep(&AHEADS, ahead);
    }
}

fn keep<T>(kept: &'static LocalKey<RefCell<Vec<T>>>, one: T) {
    kept.with_borrow_mut(|kept| {
        if kept.len() < KEPT_MAX {
            kept.push(one);
        }
    });
}
