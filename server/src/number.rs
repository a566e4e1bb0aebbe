//! Numbers in text, read and written exactly as Redis does.

/// Reads a whole number as Redis does: an optional minus, digits without a leading zero, nothing else around.
#[must_use]
pub fn integer(text: &[u8]) -> Option<i64> {
    let (negative, digits) = match text {
        [b'-', rest @ ..] => (true, rest),
        _ => (false, text),
    };
    match digits {
        [b'0'] => return (!negative).then_some(0),
        [b'1'..=b'9', ..] if digits.len() <= 19 => {}
        _ => return None,
    }
    let mut value = 0i64;
    for &digit in digits {
        let digit = i64::from(digit.checked_sub(b'0').filter(|digit| *digit <= 9)?);
        // Built downwards: the least number has no positive counterpart.
        value = value.checked_mul(10)?.checked_sub(digit)?;
    }
    if negative { Some(value) } else { value.checked_neg() }
}

/// Whole numbers of so many digits are exact as floating-point numbers.
const EXACT_DIGITS: usize = 15;

/// Reads a floating-point number as Redis does; not-a-number and what is out of range are refused.
#[must_use]
pub fn double(text: &[u8]) -> Option<f64> {
    // Most scores are whole, and so many digits are exact.
    if (1..=EXACT_DIGITS).contains(&text.len()) && text.iter().all(u8::is_ascii_digit) {
        let whole = text.iter().fold(0, |value: u64, digit| value * 10 + u64::from(digit - b'0'));
        #[allow(clippy::cast_precision_loss)] // 15 digits fit in a mantissa
        return Some(whole as f64);
    }
    let text = std::str::from_utf8(text).ok()?;
    let value: f64 = match hexadecimal(text) {
        Some(value) => value,
        None => text.parse().ok()?,
    };
    let digits = text.trim_start_matches(['+', '-']);
    let spelled = digits.get(..3).is_some_and(|head| head.eq_ignore_ascii_case("inf"));
    if value.is_nan() || (value.is_infinite() && !spelled) {
        return None;
    }
    // Underflow to zero is out of range too, as with C's strtod.
    let mantissa = digits.split(['e', 'E']).next().unwrap_or_default();
    if value == 0.0 && mantissa.bytes().any(|byte| matches!(byte, b'1'..=b'9')) {
        return None;
    }
    Some(value)
}

/// C's `0x1f` form, whole numbers only.
fn hexadecimal(text: &str) -> Option<f64> {
    let (negative, digits) = match text.strip_prefix('-') {
        Some(rest) => (true, rest),
        None => (false, text.strip_prefix('+').unwrap_or(text)),
    };
    let digits = digits.strip_prefix("0x").or_else(|| digits.strip_prefix("0X"))?;
    if digits.is_empty() || digits.len() > 13 || digits.starts_with('+') {
        return None;
    }
    let value = u64::from_str_radix(digits, 16).ok()?;
    #[allow(clippy::cast_precision_loss)] // 13 hexadecimal digits fit in a mantissa
    let value = value as f64;
    Some(if negative { -value } else { value })
}

/// Writes a floating-point number as Redis 7.0 replies with it: 17 significant digits as by C's `%.17g`, `inf`, `-inf`,
/// `nan`.
#[must_use]
pub fn format_double(value: f64) -> String {
    if value.is_nan() {
        return "nan".to_owned();
    }
    if value.is_infinite() {
        return if value > 0.0 { "inf" } else { "-inf" }.to_owned();
    }
    if let Some(whole) = whole(value) {
        return whole.to_string();
    }
    let scientific = format!("{value:.16e}");
    let (mantissa, exponent) = scientific.split_once('e').expect("the format has an exponent");
    let exponent: i32 = exponent.parse().expect("the format writes a whole exponent");
    if !(-4..17).contains(&exponent) {
        let mantissa = trim_zeros(mantissa);
        let sign = if exponent < 0 { '-' } else { '+' };
        return format!("{mantissa}e{sign}{:02}", exponent.abs());
    }
    let decimals = usize::try_from(16 - exponent).expect("an exponent below 17");
    trim_zeros(&format!("{value:.decimals$}")).to_owned()
}

/// The whole number that a floating-point number is, if it is one and has few enough digits to be exact.
#[must_use]
pub fn whole(value: f64) -> Option<i64> {
    let is_whole = value.abs() < 1e15 && value.fract() == 0.0;
    let is_signed_zero = value == 0.0 && value.is_sign_negative();
    #[allow(clippy::cast_possible_truncation)] // it was looked at
    (is_whole && !is_signed_zero).then_some(value as i64)
}

/// The text without zeros (and the point) at the end of its fraction.
fn trim_zeros(text: &str) -> &str {
    if text.contains('.') { text.trim_end_matches('0').trim_end_matches('.') } else { text }
}

/// Room for one whole number in decimal.
#[derive(Debug, Default)]
pub struct Decimal([u8; 20]);

impl Decimal {
    /// Writes `value`; the bytes live in `self`.
    pub fn format_unsigned(&mut self, value: u64) -> &[u8] {
        let at = self.digits(value);
        &self.0[at..]
    }

    /// Writes the digits of a number, and says where they begin.
    fn digits(&mut self, value: u64) -> usize {
        let mut at = self.0.len();
        let mut rest = value;
        loop {
            at -= 1;
            self.0[at] = b'0' + u8::try_from(rest % 10).expect("below ten");
            rest /= 10;
            if rest == 0 {
                return at;
            }
        }
    }

    /// Writes `value`; the bytes live in `self`.
    pub fn format(&mut self, value: i64) -> &[u8] {
        let mut at = self.digits(value.unsigned_abs());
        if value < 0 {
            at -= 1;
            self.0[at] = b'-';
        }
        &self.0[at..]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn whole_numbers_are_read_as_strictly_as_redis_does() {
        for value in [0, 1, -1, 10, i64::MAX, i64::MIN] {
            assert_eq!(integer(value.to_string().as_bytes()), Some(value));
            assert_eq!(Decimal::default().format(value), value.to_string().as_bytes());
        }
        for text in
            ["", "-", "-0", "01", "+1", " 1", "1 ", "1.0", "9223372036854775808", "-9223372036854775809"]
        {
            assert_eq!(integer(text.as_bytes()), None, "{text}");
        }
    }

    #[test]
    fn doubles_are_read_as_redis_does() {
        let read = |text: &str| double(text.as_bytes());
        assert_eq!(read("3.25"), Some(3.25));
        assert_eq!(read("-inf"), Some(f64::NEG_INFINITY));
        assert_eq!(read("+Infinity"), Some(f64::INFINITY));
        assert_eq!(read("1e3"), Some(1000.0));
        assert_eq!(read("0x10"), Some(16.0));
        assert_eq!(read("0e5"), Some(0.0));
        assert_eq!(read("999999999999999"), Some(999_999_999_999_999.0));
        assert_eq!(read("9007199254740993"), Some(9_007_199_254_740_992.0));
        for text in ["", "nan", "1e400", "1e-400", " 1", "1 ", "abc", "1.2.3", "0x", "0x+1"] {
            assert_eq!(read(text), None, "{text}");
        }
    }

    #[test]
    fn doubles_are_written_as_with_seventeen_significant_digits() {
        let cases = [
            (0.0, "0"),
            (-0.0, "-0"),
            (3.0, "3"),
            (3.1, "3.1000000000000001"),
            (0.1, "0.10000000000000001"),
            (1e15, "1000000000000000"),
            (1e16, "10000000000000000"),
            (1e17, "1e+17"),
            (1.5e300, "1.5000000000000001e+300"),
            (0.0001, "0.0001"),
            (0.00001, "1.0000000000000001e-05"),
            (-2.5, "-2.5"),
            (9007199254740993.0, "9007199254740992"),
            (f64::INFINITY, "inf"),
        ];
        for (value, text) in cases {
            assert_eq!(format_double(value), text);
        }
    }
}
