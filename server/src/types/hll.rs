//! HyperLogLog: how many different elements there were, to about 0.8 %, in a string of at most 12 KiB.
//!
//! ```text
//! string, Redis' format; part of the format
//!  0   4   magic      "HYLL"
//!  4   1   encoding   0 dense, 1 sparse
//!  5   3   reserved   0
//!  8   8   count      little-endian, as last computed; its top bit says that it is out of date
//! 16   n   registers  dense: 16384 of 6 bits each, from the lowest bit on
//!                     sparse: 00nnnnnn n + 1 registers of 0 | 01nnnnnn x8 as many in 14 bits | 1vvvvvnn n + 1 of v + 1
//! ```
//! Byte for byte what Redis 7.0 makes of the same calls, so that such strings can be exchanged. Knows no key.

use smallvec::SmallVec;

/// Registers of one.
pub const REGISTERS: usize = 1 << INDEX_BITS;

/// The longest sparse form, in bytes: Redis' default of `hll-sparse-max-bytes`.
const SPARSE_BYTES_MAX: usize = 3000;

const INDEX_BITS: u32 = 14;
const VALUE_BITS: u32 = 64 - INDEX_BITS;
/// Values that a register can have.
const VALUES: usize = 64;
const HEADER_BYTES: usize = 16;
const DENSE_BYTES: usize = HEADER_BYTES + REGISTERS * 6 / 8;
const DENSE: u8 = 0;
const SPARSE: u8 = 1;

/// The greatest value and the longest run that one byte of the sparse form can say.
const SPARSE_VALUE_MAX: u8 = 32;
const SPARSE_RUN_MAX: usize = 4;
/// Registers of zero that one byte can say; more take two.
const SPARSE_ZEROS_MAX: usize = 64;

/// What a register of the sparse form takes at most, where there was none.
const GROWTH_BYTES: usize = 8;

/// Bytes of runs that come in the place of one.
type Pieces = SmallVec<[u8; 8]>;

/// The registers are not what the format says.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Corrupt;

/// One, as its string.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct HyperLogLog {
    /// Invariant: a whole header; if dense, of [`DENSE_BYTES`].
    bytes: Vec<u8>,
}

/// A piece of the sparse form.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
struct Run {
    value: u8,
    registers: usize,
    /// In how many bytes it is said.
    bytes: usize,
}

impl Run {
    fn read(bytes: &[u8]) -> Option<Run> {
        let (&head, rest) = bytes.split_first()?;
        let low = usize::from(head & 0x3f);
        Some(match head >> 6 {
            0 => Run { value: 0, registers: low + 1, bytes: 1 },
            1 => Run { value: 0, registers: (low << 8 | usize::from(*rest.first()?)) + 1, bytes: 2 },
            _ => Run { value: (head >> 2 & 0x1f) + 1, registers: usize::from(head & 3) + 1, bytes: 1 },
        })
    }

    /// Appends a run, in one piece.
    fn write(out: &mut impl Extend<u8>, value: u8, registers: usize) {
        let [.., high, low] = (registers - 1).to_be_bytes();
        if value > 0 {
            out.extend([0x80 | (value - 1) << 2 | low]);
        } else if registers <= SPARSE_ZEROS_MAX {
            out.extend([low]);
        } else {
            out.extend([0x40 | high, low]);
        }
    }
}

impl HyperLogLog {
    /// One that has seen nothing.
    #[must_use]
    #[allow(clippy::new_without_default)] // there is a string behind it
    pub fn new() -> HyperLogLog {
        let mut bytes = b"HYLL\x01\0\0\0\0\0\0\0\0\0\0\0".to_vec();
        Run::write(&mut bytes, 0, REGISTERS);
        HyperLogLog { bytes }
    }

    /// Whether a string holds one. Sparse registers are not looked at yet.
    #[must_use]
    pub fn is(bytes: &[u8]) -> bool {
        let whole = bytes.len() >= HEADER_BYTES && bytes.starts_with(b"HYLL");
        whole && (bytes[4] == SPARSE || bytes[4] == DENSE && bytes.len() == DENSE_BYTES)
    }

    /// The one that a string holds; `None` if it holds none.
    #[must_use]
    pub fn read(bytes: &[u8]) -> Option<HyperLogLog> {
        // One that grows has room for a register more.
        let mut copy = Vec::with_capacity(bytes.len() + GROWTH_BYTES);
        copy.extend_from_slice(bytes);
        HyperLogLog::is(bytes).then_some(HyperLogLog { bytes: copy })
    }

    /// The string.
    #[must_use]
    pub fn as_bytes(&self) -> &[u8] {
        &self.bytes
    }

    /// Whether its registers stand one by one.
    #[must_use]
    pub fn is_dense(&self) -> bool {
        self.bytes[4] == DENSE
    }

    /// Keeps a count for the next time.
    pub fn keep_count(&mut self, count: u64) {
        self.bytes[8..HEADER_BYTES].copy_from_slice(&count.to_le_bytes());
    }

    /// Says that the kept count is out of date.
    pub fn forget_count(&mut self) {
        self.bytes[HEADER_BYTES - 1] |= 0x80;
    }

    /// Adds an element. Says whether a register changed.
    ///
    /// # Errors
    /// If the registers have no meaning.
    pub fn add(&mut self, element: &[u8]) -> Result<bool, Corrupt> {
        let (register, value) = place(element);
        self.raise(register, value)
    }

    /// Sets a register to a value unless it has a greater one. Says whether it changed.
    ///
    /// # Errors
    /// If the registers have no meaning.
    pub fn raise(&mut self, register: usize, value: u8) -> Result<bool, Corrupt> {
        if self.is_dense() {
            return Ok(raise_dense(&mut self.bytes[HEADER_BYTES..], register, value));
        }
        if value <= SPARSE_VALUE_MAX
            && let Some(changed) = self.raise_sparse(register, value)?
        {
            return Ok(changed);
        }
        self.make_dense()?;
        Ok(raise_dense(&mut self.bytes[HEADER_BYTES..], register, value))
    }

    /// As [`HyperLogLog::raise`]; `None` if there is no room for it in the sparse form.
    fn raise_sparse(&mut self, register: usize, value: u8) -> Result<Option<bool>, Corrupt> {
        let (mut at, mut first, mut before) = (HEADER_BYTES, 0, HEADER_BYTES);
        let run = loop {
            let run = Run::read(&self.bytes[at..]).ok_or(Corrupt)?;
            if register < first + run.registers {
                break run;
            }
            before = at;
            at += run.bytes;
            first += run.registers;
        };
        if run.value >= value {
            return Ok(Some(false));
        }
        let mut pieces = Pieces::new();
        let after = first + run.registers - 1 - register;
        if register > first {
            Run::write(&mut pieces, run.value, register - first);
        }
        Run::write(&mut pieces, value, 1);
        if after > 0 {
            Run::write(&mut pieces, run.value, after);
        }
        let grows = pieces.len() > run.bytes;
        if grows && self.bytes.len() + pieces.len() - run.bytes > SPARSE_BYTES_MAX {
            return Ok(None);
        }
        self.bytes.splice(at..at + run.bytes, pieces.iter().copied());
        self.join_runs(before);
        self.forget_count();
        Ok(Some(true))
    }

    /// Joins neighbours of one value, as far from a place as Redis does.
    fn join_runs(&mut self, mut at: usize) {
        const LOOKED_AT: usize = 5;
        for _ in 0..LOOKED_AT {
            let Some(run) = Run::read(&self.bytes[at..]) else { return };
            if run.value > 0
                && let Some(next) = Run::read(&self.bytes[at + 1..])
                && next.value == run.value
                && run.registers + next.registers <= SPARSE_RUN_MAX
            {
                let mut joined = Pieces::new();
                Run::write(&mut joined, run.value, run.registers + next.registers);
                self.bytes.splice(at..at + 2, joined.iter().copied());
            } else {
                at += run.bytes;
            }
        }
    }

    /// Makes a sparse one dense.
    ///
    /// # Errors
    /// If the registers have no meaning.
    pub fn make_dense(&mut self) -> Result<(), Corrupt> {
        if self.is_dense() {
            return Ok(());
        }
        let mut registers = [0; REGISTERS];
        self.join_into(&mut registers)?;
        let mut bytes = self.bytes[..HEADER_BYTES].to_vec();
        bytes[4] = DENSE;
        bytes.resize(DENSE_BYTES, 0);
        for (register, value) in registers.into_iter().enumerate() {
            raise_dense(&mut bytes[HEADER_BYTES..], register, value);
        }
        self.bytes = bytes;
        Ok(())
    }

    /// How many different elements it has seen, computed anew.
    ///
    /// # Errors
    /// If the registers have no meaning.
    pub fn count(&self) -> Result<u64, Corrupt> {
        let mut having = Having::default();
        if self.is_dense() {
            let registers = &self.bytes[HEADER_BYTES..];
            (0..REGISTERS).for_each(|register| having.add(dense_value(registers, register), 1));
            return Ok(having.count());
        }
        let (mut rest, mut all) = (&self.bytes[HEADER_BYTES..], 0);
        while !rest.is_empty() {
            let run = Run::read(rest).ok_or(Corrupt)?;
            having.add(run.value, run.registers);
            all += run.registers;
            rest = rest.get(run.bytes..).ok_or(Corrupt)?;
        }
        if all == REGISTERS { Ok(having.count()) } else { Err(Corrupt) }
    }

    /// Raises registers to the values that they have here.
    ///
    /// # Errors
    /// If the registers have no meaning.
    pub fn join_into(&self, registers: &mut [u8; REGISTERS]) -> Result<(), Corrupt> {
        if self.is_dense() {
            for (register, value) in registers.iter_mut().enumerate() {
                *value = dense_value(&self.bytes[HEADER_BYTES..], register).max(*value);
            }
            return Ok(());
        }
        let (mut rest, mut first) = (&self.bytes[HEADER_BYTES..], 0);
        while !rest.is_empty() {
            let run = Run::read(rest).ok_or(Corrupt)?;
            let covered = registers.get_mut(first..first + run.registers).ok_or(Corrupt)?;
            covered.iter_mut().for_each(|value| *value = run.value.max(*value));
            first += run.registers;
            rest = &rest[run.bytes..];
        }
        if first == REGISTERS { Ok(()) } else { Err(Corrupt) }
    }
}

/// The count of one as last computed, if nothing was added since.
///
/// # Panics
/// If these bytes are none: see [`HyperLogLog::is`].
#[must_use]
pub fn kept_count(bytes: &[u8]) -> Option<u64> {
    let raw = bytes[8..HEADER_BYTES].try_into().expect("8 bytes of the header");
    let count = u64::from_le_bytes(raw);
    (count >> 63 == 0).then_some(count)
}

/// The bits of a register: its byte and where in it.
fn dense_place(register: usize) -> (usize, usize) {
    (register * 6 / 8, register * 6 % 8)
}

fn dense_value(registers: &[u8], register: usize) -> u8 {
    let (byte, shift) = dense_place(register);
    let next = registers.get(byte + 1).copied().unwrap_or(0);
    let [low, _] = (u16::from_le_bytes([registers[byte], next]) >> shift & 0x3f).to_le_bytes();
    low
}

fn raise_dense(registers: &mut [u8], register: usize, value: u8) -> bool {
    if dense_value(registers, register) >= value {
        return false;
    }
    let (byte, shift) = dense_place(register);
    let next = registers.get(byte + 1).copied().unwrap_or(0);
    let others = u16::from_le_bytes([registers[byte], next]) & !(0x3f << shift);
    let [low, high] = (others | u16::from(value) << shift).to_le_bytes();
    registers[byte] = low;
    if let Some(next) = registers.get_mut(byte + 1) {
        *next = high;
    }
    true
}

/// The register that an element belongs to, and the value that it gives it: the place of the lowest bit set in the rest
/// of its hash.
fn place(element: &[u8]) -> (usize, u8) {
    const SEED: u64 = 0xadc8_3b19;
    let hash = murmur(element, SEED);
    let register = usize::try_from(hash % REGISTERS as u64).expect("14 bits");
    let zeros = (hash >> INDEX_BITS | 1 << VALUE_BITS).trailing_zeros();
    (register, u8::try_from(zeros + 1).expect("at most 51"))
}

/// Austin Appleby's MurmurHash64A.
fn murmur(bytes: &[u8], seed: u64) -> u64 {
    const FACTOR: u64 = 0xc6a4_a793_5bd1_e995;
    const SHIFT: u32 = 47;
    let mut hash = seed ^ (bytes.len() as u64).wrapping_mul(FACTOR);
    let (words, tail) = bytes.as_chunks::<8>();
    for word in words {
        let word = u64::from_le_bytes(*word).wrapping_mul(FACTOR);
        let word = (word ^ word >> SHIFT).wrapping_mul(FACTOR);
        hash = (hash ^ word).wrapping_mul(FACTOR);
    }
    if !tail.is_empty() {
        let mut word = [0; 8];
        word[..tail.len()].copy_from_slice(tail);
        hash = (hash ^ u64::from_le_bytes(word)).wrapping_mul(FACTOR);
    }
    hash = (hash ^ hash >> SHIFT).wrapping_mul(FACTOR);
    hash ^ hash >> SHIFT
}

/// How many registers have each value.
struct Having([usize; VALUES]);

impl Default for Having {
    fn default() -> Having {
        Having([0; VALUES])
    }
}

impl Having {
    fn add(&mut self, value: u8, registers: usize) {
        self.0[usize::from(value & 0x3f)] += registers;
    }

    /// How many different elements they tell of, by Otmar Ertl's improved estimator ("New cardinality estimation
    /// algorithms for HyperLogLog sketches", 2017).
    #[allow(clippy::cast_precision_loss, clippy::cast_possible_truncation, clippy::cast_sign_loss)]
    fn count(&self) -> u64 {
        const ALPHA: f64 = 0.721_347_520_444_481_7;
        const LAST: usize = VALUE_BITS as usize;
        let having = |value: usize| self.0[value] as f64;
        let all = REGISTERS as f64;
        let mut sum = all * tau((all - having(LAST + 1)) / all);
        for value in (1..=LAST).rev() {
            sum = (sum + having(value)) * 0.5;
        }
        sum += all * sigma(having(0) / all);
        // At least 0, at most about 2^64: what is cast fits, or saturates as it should.
        (ALPHA * all * all / sum).round() as u64
    }
}

/// How many different elements registers tell of.
#[must_use]
pub fn count(registers: &[u8; REGISTERS]) -> u64 {
    let mut having = Having::default();
    registers.iter().for_each(|value| having.add(*value, 1));
    having.count()
}

fn sigma(mut x: f64) -> f64 {
    if x == 1.0 {
        return f64::INFINITY;
    }
    let (mut y, mut z) = (1.0, x);
    loop {
        x *= x;
        let before = z;
        z += x * y;
        y += y;
        if before == z {
            return z;
        }
    }
}

fn tau(mut x: f64) -> f64 {
    if x == 0.0 || x == 1.0 {
        return 0.0;
    }
    let (mut y, mut z) = (1.0, 1.0 - x);
    loop {
        x = x.sqrt();
        let before = z;
        y *= 0.5;
        z -= (1.0 - x) * (1.0 - x) * y;
        if before == z {
            return z / 3.0;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn counted(hll: &HyperLogLog) -> u64 {
        let mut registers = [0; REGISTERS];
        hll.join_into(&mut registers).expect("sound");
        let joined = count(&registers);
        assert_eq!(hll.count(), Ok(joined));
        joined
    }

    #[test]
    fn counts_are_near_in_both_forms_and_the_form_changes_nothing() {
        let mut hll = HyperLogLog::new();
        assert_eq!((counted(&hll), kept_count(hll.as_bytes())), (0, Some(0)));
        for n in 0..100_000u64 {
            hll.add(format!("element {n}").as_bytes()).expect("sound");
            if [10, 100, 1000, 10_000, 99_999].contains(&n) {
                let (told, real) = (counted(&hll), n + 1);
                assert!(told.abs_diff(real) <= real / 50, "{told} for {real}");
                let mut dense = hll.clone();
                dense.make_dense().expect("sound");
                assert_eq!(counted(&dense), told);
            }
        }
        assert!(hll.is_dense() && hll.as_bytes().len() == DENSE_BYTES);
        assert_eq!(hll.add(b"element 7"), Ok(false));
    }

    #[test]
    fn registers_of_the_dense_form_do_not_touch_each_other() {
        let mut registers = vec![0; REGISTERS * 6 / 8];
        for register in 0..REGISTERS {
            assert!(raise_dense(&mut registers, register, u8::try_from(register % 63 + 1).expect("small")));
        }
        for register in 0..REGISTERS {
            assert_eq!(usize::from(dense_value(&registers, register)), register % 63 + 1);
        }
    }

    #[test]
    fn strings_that_are_none_are_refused_and_broken_registers_found() {
        let good = HyperLogLog::new();
        assert_eq!(HyperLogLog::read(good.as_bytes()), Some(good.clone()));
        for bad in [
            &b""[..],
            b"HYLL",
            b"HYLL\x02\0\0\0\0\0\0\0\0\0\0\0",
            b"HYLL\0\0\0\0\0\0\0\0\0\0\0\0",
            b"HYLX\x01\0\0\0\0\0\0\0\0\0\0\0",
        ] {
            assert_eq!(HyperLogLog::read(bad), None);
        }
        for registers in [&b""[..], b"\x00", b"\x7f", b"\x7f\xff\x00"] {
            let mut bytes = good.as_bytes()[..HEADER_BYTES].to_vec();
            bytes.extend_from_slice(registers);
            let mut hll = HyperLogLog::read(&bytes).expect("a header");
            assert_eq!(hll.join_into(&mut [0; REGISTERS]), Err(Corrupt));
            assert_eq!(hll.count(), Err(Corrupt));
            assert_eq!(hll.make_dense(), Err(Corrupt));
        }
    }
}
