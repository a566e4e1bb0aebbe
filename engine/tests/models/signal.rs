//! A signal and who waits for it.

use std::time::Duration;

use haypile_engine::signal::Signal;
use loom::sync::Arc;
use loom::thread;

#[test]
fn no_task_that_waits_for_a_signal_misses_it() {
    loom::model(|| {
        let signal = Arc::new(Signal::default());
        let notifier = {
            let signal = Arc::clone(&signal);
            thread::spawn(move || signal.notify())
        };
        loom::future::block_on(signal.wait_past(0));
        notifier.join().expect("ends");
        assert_eq!(signal.count(), 1);
    });
}

#[test]
fn no_thread_that_blocks_on_a_signal_misses_it() {
    loom::model(|| {
        let signal = Arc::new(Signal::default());
        let notifier = {
            let signal = Arc::clone(&signal);
            thread::spawn(move || {
                signal.notify();
                signal.notify();
            })
        };
        signal.block_past(1, Duration::ZERO);
        assert_eq!(signal.count(), 2);
        notifier.join().expect("ends");
    });
}
