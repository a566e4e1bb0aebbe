//! Every decoder as a function over bytes that must not panic, whatever the bytes; and what it takes it must give back.
//!
//! A [`Target`] is plain code, so that it runs with any fuzzer. `cargo +nightly fuzz run NAME` (`fuzz_targets/`) is
//! guided by coverage. The runner of this crate ([`mutate`], `main.rs`) needs no nightly compiler: it changes the inputs
//! of a corpus at random, by seed. Both repair checksums half of the time, so that what lies behind them is reached,
//! and both hold a target to its memory.
//!
//! Corpora are in `fuzz/corpus/NAME/`; an input that once broke something stays there.

pub mod corpus;
pub mod mutate;
mod targets;
#[cfg(test)]
mod tests;

#[cfg(fuzzing)]
pub use libfuzzer_sys;
use peak_alloc::PeakAlloc;

/// Counts what is allocated, so that memory taken on an unchecked length is a finding.
#[global_allocator]
static MEMORY: PeakAlloc = PeakAlloc;

/// A decoder under test.
#[derive(Clone, Copy, Debug)]
pub struct Target {
    /// Its name, its corpus' folder, and its program in `fuzz_targets/`.
    pub name: &'static str,
    /// Decodes. A panic is a finding.
    pub run: fn(&[u8]),
    /// Makes checksums hold again after a mutation, as far as that makes sense.
    pub repair: fn(&mut [u8]),
    /// Inputs to begin with: what our own encoders write.
    pub samples: fn() -> Vec<Vec<u8>>,
    /// Memory that it may take at a time, whatever the input.
    memory_bytes: usize,
    /// Memory that it may take for each byte of the input.
    memory_per_byte: usize,
}

/// All targets.
pub const TARGETS: &[Target] = targets::ALL;

/// The target of this name.
#[must_use]
pub fn find(name: &str) -> Option<&'static Target> {
    TARGETS.iter().find(|target| target.name == name)
}

impl Target {
    const fn new(name: &'static str, run: fn(&[u8]), samples: fn() -> Vec<Vec<u8>>) -> Target {
        Target { name, run, repair: |_| (), samples, memory_bytes: 1 << 16, memory_per_byte: 64 }
    }

    const fn repaired(self, repair: fn(&mut [u8])) -> Target {
        Target { repair, ..self }
    }

    const fn memory(self, bytes: usize, per_byte: usize) -> Target {
        Target { memory_bytes: bytes, memory_per_byte: per_byte, ..self }
    }

    /// Runs the target and looks at the memory that it took. For programs with one thread: what other threads take
    /// counts too.
    ///
    /// # Panics
    /// If the target does, or if it took too much.
    pub fn run_within_memory(&self, input: &[u8]) {
        let before = MEMORY.current_usage();
        MEMORY.reset_peak_usage();
        (self.run)(input);
        let taken = MEMORY.peak_usage().saturating_sub(before);
        let allowed = self.memory_bytes + self.memory_per_byte * input.len();
        assert!(taken <= allowed, "{taken} bytes of memory for an input of {}, not {allowed}", input.len());
    }
}

/// The program of a target for `cargo fuzz`. Built without it, as `cargo build --workspace` does, a program says how to
/// build it, and needs neither libFuzzer nor this crate: to link each with everything would take long.
#[cfg(fuzzing)]
#[macro_export]
macro_rules! fuzz_program {
    ($name:literal) => {
        use $crate::libfuzzer_sys;

        fn target() -> &'static $crate::Target {
            $crate::find($name).expect("a program is named as its target")
        }

        libfuzzer_sys::fuzz_target!(|input: &[u8]| target().run_within_memory(input));
        libfuzzer_sys::fuzz_mutator!(|buffer: &mut [u8], len: usize, len_max: usize, seed: u32| {
            let len = libfuzzer_sys::fuzzer_mutate(buffer, len, len_max);
            if seed % 2 == 0 {
                (target().repair)(&mut buffer[..len]);
            }
            len
        });
    };
}
