//! A counted pointer as std's, each step of whose count a model sees. Loom's own has no weak ones.

use std::fmt;
use std::ops::Deref;

use loom::sync::atomic::{AtomicUsize, Ordering, fence};

/// Stands in for [`std::sync::Arc`], with its orderings.
pub struct Arc<T> {
    /// Dropped before the count is: whoever takes the count to zero is the last who has the value.
    value: std::sync::Arc<T>,
    strong: std::sync::Arc<AtomicUsize>,
}

/// Stands in for [`std::sync::Weak`].
pub struct Weak<T> {
    value: std::sync::Weak<T>,
    /// `None` if it never pointed to anything.
    strong: Option<std::sync::Arc<AtomicUsize>>,
}

impl<T> Arc<T> {
    /// A value with one owner.
    pub fn new(value: T) -> Arc<T> {
        Arc { value: std::sync::Arc::new(value), strong: std::sync::Arc::new(AtomicUsize::new(1)) }
    }

    /// Whether both are the same value.
    #[must_use]
    pub fn ptr_eq(this: &Arc<T>, other: &Arc<T>) -> bool {
        std::sync::Arc::ptr_eq(&this.value, &other.value)
    }

    /// A pointer that keeps nothing alive.
    #[must_use]
    pub fn downgrade(this: &Arc<T>) -> Weak<T> {
        Weak {
            value: std::sync::Arc::downgrade(&this.value),
            strong: Some(std::sync::Arc::clone(&this.strong)),
        }
    }
}

impl<T> Weak<T> {
    /// The value, if anybody still owns it.
    #[must_use]
    pub fn upgrade(&self) -> Option<Arc<T>> {
        let strong = self.strong.as_ref()?;
        let mut count = strong.load(Ordering::Relaxed);
        loop {
            if count == 0 {
                return None;
            }
            match strong.compare_exchange(count, count + 1, Ordering::Acquire, Ordering::Relaxed) {
                Ok(_) => break,
                Err(now) => count = now,
            }
        }
        let value = self.value.upgrade().expect("what has an owner is there");
        Some(Arc { value, strong: std::sync::Arc::clone(strong) })
    }

    /// How many own the value.
    #[must_use]
    pub fn strong_count(&self) -> usize {
        self.strong.as_ref().map_or(0, |strong| strong.load(Ordering::Relaxed))
    }
}

impl<T> Clone for Arc<T> {
    fn clone(&self) -> Arc<T> {
        self.strong.fetch_add(1, Ordering::Relaxed);
        Arc { value: std::sync::Arc::clone(&self.value), strong: std::sync::Arc::clone(&self.strong) }
    }
}

impl<T> Drop for Arc<T> {
    fn drop(&mut self) {
        if self.strong.fetch_sub(1, Ordering::Release) == 1 {
            fence(Ordering::Acquire);
        }
    }
}

impl<T> Deref for Arc<T> {
    type Target = T;

    fn deref(&self) -> &T {
        &self.value
    }
}

impl<T: Default> Default for Arc<T> {
    fn default() -> Arc<T> {
        Arc::new(T::default())
    }
}

impl<T: fmt::Debug> fmt::Debug for Arc<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.value.fmt(f)
    }
}

impl<T> Default for Weak<T> {
    fn default() -> Weak<T> {
        Weak { value: std::sync::Weak::new(), strong: None }
    }
}
