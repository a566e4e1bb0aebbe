//! Sums as Redis makes them for INCRBYFLOAT: in the 80-bit floating-point numbers of x86, written with 17
//! decimals. So the same sums have the same digits here, on every machine.

use num_bigint::BigUint;

/// Bits of the mantissa.
const BITS: u64 = 64;
/// Beyond this power of two a number is infinite.
const EXPONENT_MAX: i64 = 16384;
/// Below this power of two it is zero.
const EXPONENT_MIN: i64 = -16446;
/// Decimals that are written.
const DECIMALS: u32 = 17;
/// The longest text that is read as a number.
const TEXT_BYTES_MAX: usize = 5 * 1024 - 1;

/// A finite number: `mantissa * 2^exponent`, below zero if `negative`.
///
/// Invariant: the mantissa has no more than 64 bits.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Extended {
    negative: bool,
    mantissa: BigUint,
    exponent: i64,
}

/// What a text says.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Parsed {
    /// A number.
    Finite(Extended),
    /// `inf` or `-inf`.
    Infinite,
}

impl Extended {
    /// Reads a number as C's `strtold` does, decimal or hexadecimal. `None` if it is none, or out of range.
    #[must_use]
    pub fn parse(text: &[u8]) -> Option<Parsed> {
        if text.len() > TEXT_BYTES_MAX {
            return None;
        }
        let (negative, digits) = match text {
            [b'-', rest @ ..] => (true, rest),
            [b'+', rest @ ..] => (false, rest),
            _ => (false, text),
        };
        if digits.eq_ignore_ascii_case(b"inf") || digits.eq_ignore_ascii_case(b"infinity") {
            return Some(Parsed::Infinite);
        }
        if let [b'0', b'x' | b'X', hexadecimal @ ..] = digits {
            let (number, fraction, exponent) = scientific(hexadecimal, 16, b'p')?;
            let number = Extended { negative, mantissa: number, exponent: exponent - 4 * fraction };
            return number.rounded().map(Parsed::Finite);
        }
        let (number, fraction, exponent) = scientific(digits, 10, b'e')?;
        let scale = exponent - fraction;
        if number == BigUint::ZERO {
            return Some(Parsed::Finite(Extended { negative, mantissa: number, exponent: 0 }));
        }
        let ten = |power: i64| Some(BigUint::from(10u32).pow(u32::try_from(power).ok()?));
        let (over, under) =
            if scale >= 0 { (number * ten(scale)?, BigUint::from(1u32)) } else { (number, ten(-scale)?) };
        quotient(negative, over, under).map(Parsed::Finite)
    }

    /// The nearest number with a mantissa of no more than 64 bits, of one that may have more.
    fn rounded(self) -> Option<Extended> {
        round(self.negative, self.mantissa, self.exponent, false)
    }

    /// The sum, rounded. `None` if it is out of range.
    #[must_use]
    pub fn add(&self, other: &Extended) -> Option<Extended> {
        let exponent = self.exponent.min(other.exponent);
        let shifted = |number: &Extended| -> Option<BigUint> {
            Some(&number.mantissa << u64::try_from(number.exponent - exponent).ok()?)
        };
        let (mine, theirs) = (shifted(self)?, shifted(other)?);
        let (negative, sum) = if self.negative == other.negative {
            (self.negative, mine + theirs)
        } else if mine >= theirs {
            (self.negative && mine != theirs, mine - theirs)
        } else {
            (other.negative, theirs - mine)
        };
        round(negative, sum, exponent, false)
    }
}

/// Writes the number with 17 decimals, without zeros at the end.
impl std::fmt::Display for Extended {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let scaled = &self.mantissa * BigUint::from(10u32).pow(DECIMALS);
        let units = match u64::try_from(self.exponent) {
            Ok(left) => scaled << left,
            Err(_) => halve(&scaled, self.exponent.unsigned_abs(), false),
        };
        let digits = format!("{:0>width$}", units.to_str_radix(10), width = DECIMALS as usize + 1);
        let (whole, fraction) = digits.split_at(digits.len() - DECIMALS as usize);
        let fraction = fraction.trim_end_matches('0');
        let zero = whole == "0" && fraction.is_empty();
        let sign = if self.negative && !zero { "-" } else { "" };
        let point = if fraction.is_empty() { "" } else { "." };
        write!(f, "{sign}{whole}{point}{fraction}")
    }
}

/// Digits with perhaps a point among them, then perhaps `mark` and a power: the digits as a whole number, how many stand
/// behind the point, the power.
fn scientific(text: &[u8], radix: u32, mark: u8) -> Option<(BigUint, i64, i64)> {
    let (mantissa, exponent) = match text.iter().position(|byte| byte.eq_ignore_ascii_case(&mark)) {
        Some(at) => (&text[..at], power(&text[at + 1..])?),
        None => (text, 0),
    };
    let (whole, fraction) = match mantissa.iter().position(|&byte| byte == b'.') {
        Some(at) => (&mantissa[..at], &mantissa[at + 1..]),
        None => (mantissa, &[][..]),
    };
    let all = [whole, fraction].concat();
    if all.is_empty() || !all.iter().all(|&digit| char::from(digit).is_digit(radix)) {
        return None;
    }
    Some((BigUint::parse_bytes(&all, radix)?, i64::try_from(fraction.len()).ok()?, exponent))
}

/// The power after the mark. What is far out of range is cut to what is out of range.
fn power(text: &[u8]) -> Option<i64> {
    const FAR: i64 = 20_000;
    let digits = text.strip_prefix(b"-").or_else(|| text.strip_prefix(b"+")).unwrap_or(text);
    if digits.is_empty() || !digits.iter().all(u8::is_ascii_digit) {
        return None;
    }
    let value = digits.iter().fold(0i64, |value, digit| (value * 10 + i64::from(digit - b'0')).min(FAR));
    Some(if text.starts_with(b"-") { -value } else { value })
}

/// `over / under`, rounded to the mantissa's bits.
fn quotient(negative: bool, over: BigUint, under: BigUint) -> Option<Extended> {
    let signed = |bits: u64| i64::try_from(bits).ok();
    // Two bits more than the mantissa has, then what is left decides how they are rounded.
    let shift = signed(BITS + 2)? - (signed(over.bits())? - signed(under.bits())?);
    let (over, under) = match u64::try_from(shift) {
        Ok(shift) => (over << shift, under),
        Err(_) => (over, under << shift.unsigned_abs()),
    };
    let whole = &over / &under;
    let exact = &whole * &under == over;
    round(negative, whole, -shift, !exact)
}

/// Rounds to the mantissa's bits, half to even; `more` says that a little was cut off already.
fn round(negative: bool, mantissa: BigUint, exponent: i64, more: bool) -> Option<Extended> {
    let excess = mantissa.bits().saturating_sub(BITS);
    let rounded = halve(&mantissa, excess, more);
    let exponent = exponent + i64::try_from(excess).ok()?;
    let top = exponent + i64::try_from(rounded.bits()).ok()?;
    if rounded != BigUint::ZERO && !(EXPONENT_MIN..=EXPONENT_MAX).contains(&top) {
        return None;
    }
    Some(Extended { negative, mantissa: rounded, exponent })
}

/// Halves `times` times, and rounds once, half to even.
fn halve(number: &BigUint, times: u64, more: bool) -> BigUint {
    if times == 0 {
        return number.clone();
    }
    let cut = number >> times;
    let half = number.bit(times - 1);
    let rest = more || number.trailing_zeros().is_some_and(|zeros| zeros < times - 1);
    if half && (rest || cut.bit(0)) { cut + 1u32 } else { cut }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn number(text: &str) -> Extended {
        match Extended::parse(text.as_bytes()) {
            Some(Parsed::Finite(number)) => number,
            other => panic!("{text}: {other:?}"),
        }
    }

    /// Lines of `a b sum`: each sum as redis-server 7.0.15 on x86-64 answers it.
    #[test]
    fn sums_have_the_digits_of_redis() {
        let cases = include_str!("extended_cases.txt");
        for line in cases.lines() {
            let words: Vec<&str> = line.split(' ').collect();
            let sum = number(words[0]).add(&number(words[1])).expect("in range");
            assert_eq!(sum.to_string(), words[2], "{line}");
        }
        assert!(cases.lines().count() > 100);
    }

    #[test]
    fn what_is_no_number_is_refused() {
        for text in [
            "", ".", "-", "1e", "1e+", "abc", "1 ", " 1", "nan", "1e5000", "1e-5000", "1.2.3", "e5", "0x",
            "0x.p1", "0xp1", "--1", "1_0", "infinit",
        ] {
            assert_eq!(Extended::parse(text.as_bytes()), None, "{text}");
        }
        assert_eq!(Extended::parse(b"-inf"), Some(Parsed::Infinite));
        let most = number("1.1e4932");
        assert_eq!(most.add(&most), None);
    }
}
