//! BITFIELD: whole numbers of any width in a string's bits.

use super::bits::bit_offset;
use super::strings::{check_length, replace};
use crate::cx::{Cx, Fail, integer, is};
use crate::kind::Kind;
use crate::node::Node;
use crate::number;
use crate::table::{Command, Flags, Group, Keys};

/// See the file's head.
pub const COMMANDS: &[Command] = &[
    Group("bitmap").data(
        "bitfield",
        -2,
        Flags::WRITE,
        Keys::FIRST,
        "3.2.0",
        "Reads and changes numbers in a string's bits.",
        |cx| bitfield(cx, Allowed::Everything),
    ),
    Group("bitmap").data(
        "bitfield_ro",
        -2,
        Flags::READONLY.with(Flags::FAST),
        Keys::FIRST,
        "6.0.0",
        "Reads numbers in a string's bits.",
        |cx| bitfield(cx, Allowed::Reading),
    ),
];

#[derive(Clone, Copy, PartialEq, Eq)]
enum Allowed {
    Everything,
    Reading,
}

/// A number's form: how many bits, with or without sign.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
struct Form {
    signed: bool,
    /// Invariant: 1 to 64, and below 64 without sign.
    bits: u32,
}

impl Form {
    fn parse(text: &[u8]) -> Result<Form, Fail> {
        let wrong = "ERR Invalid bitfield type. Use something like i16 u8. Note that u64 is not supported but i64 is.";
        let wrong = || Fail::error(wrong);
        let (signed, digits, most) = match text {
            [b'i', digits @ ..] => (true, digits, 64),
            [b'u', digits @ ..] => (false, digits, 63),
            _ => return Err(wrong()),
        };
        let bits = number::integer(digits).and_then(|bits| u32::try_from(bits).ok()).ok_or_else(wrong)?;
        if (1..=most).contains(&bits) { Ok(Form { signed, bits }) } else { Err(wrong()) }
    }

    fn least(self) -> i128 {
        if self.signed { -(1 << (self.bits - 1)) } else { 0 }
    }

    fn most(self) -> i128 {
        if self.signed { (1 << (self.bits - 1)) - 1 } else { (1 << self.bits) - 1 }
    }

    /// The number that the lowest bits of `value` stand for.
    fn wrap(self, value: i128) -> i128 {
        let low = value & ((1 << self.bits) - 1);
        if low > self.most() { low - (1 << self.bits) } else { low }
    }

    /// The number that SET's argument means: as in Redis, one below zero is a large one where there is no sign.
    fn given(self, value: i64) -> i128 {
        if self.signed { i128::from(value) } else { i128::from(value.cast_unsigned()) }
    }

    fn read(self, bytes: &[u8], offset: usize) -> i128 {
        let places = offset..offset + self.bits as usize;
        let raw = places.fold(0i128, |value, place| {
            let bit = bytes.get(place / 8).map_or(0, |byte| byte >> (7 - place % 8) & 1);
            value << 1 | i128::from(bit)
        });
        self.wrap(raw)
    }

    /// # Panics
    /// If the bytes are too few.
    fn write(self, bytes: &mut [u8], offset: usize, value: i128) {
        for index in 0..self.bits {
            let place = offset + index as usize;
            let mask = 0x80 >> (place % 8);
            let set = value >> (self.bits - 1 - index) & 1 == 1;
            let byte = &mut bytes[place / 8];
            *byte = if set { *byte | mask } else { *byte & !mask };
        }
    }

    /// Where a number begins: a bit's place, or with `#` a number's.
    fn place(self, node: &Node, text: &[u8]) -> Result<usize, Fail> {
        let wrong = || Fail::error("ERR bit offset is not an integer or out of range");
        let Some(index) = text.strip_prefix(b"#") else { return bit_offset(node, text) };
        let index = number::integer(index).ok_or_else(wrong)?;
        let offset = index.checked_mul(i64::from(self.bits)).ok_or_else(wrong)?;
        bit_offset(node, offset.to_string().as_bytes())
    }
}

/// What becomes of a number that does not fit.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Overflow {
    Wrap,
    Saturate,
    Fail,
}

impl Overflow {
    fn parse(text: &[u8]) -> Result<Overflow, Fail> {
        match text.to_ascii_lowercase().as_slice() {
            b"wrap" => Ok(Overflow::Wrap),
            b"sat" => Ok(Overflow::Saturate),
            b"fail" => Ok(Overflow::Fail),
            _ => Err(Fail::error("ERR Invalid OVERFLOW type specified")),
        }
    }

    /// The number that is stored, if any.
    fn fit(self, form: Form, value: i128) -> Option<i128> {
        if (form.least()..=form.most()).contains(&value) {
            return Some(value);
        }
        match self {
            Overflow::Wrap => Some(form.wrap(value)),
            Overflow::Saturate => Some(value.clamp(form.least(), form.most())),
            Overflow::Fail => None,
        }
    }
}

/// One of BITFIELD's operations.
enum Operation {
    Get(Form, usize),
    Set(Form, usize, i64, Overflow),
    Add(Form, usize, i64, Overflow),
}

impl Operation {
    /// How long a string it needs, in bytes, if it writes.
    fn writes_until(&self) -> Option<usize> {
        match self {
            Operation::Get(..) => None,
            Operation::Set(form, offset, ..) | Operation::Add(form, offset, ..) => {
                Some((offset + form.bits as usize).div_ceil(8))
            }
        }
    }
}

fn operations(node: &Node, args: &[&[u8]]) -> Result<Vec<Operation>, Fail> {
    let mut overflow = Overflow::Wrap;
    let mut operations = Vec::new();
    let mut rest = args;
    loop {
        rest = match rest {
            [] => return Ok(operations),
            [name, form, offset, after @ ..] if is(name, "get") => {
                let form = Form::parse(form)?;
                operations.push(Operation::Get(form, form.place(node, offset)?));
                after
            }
            [name, how, after @ ..] if is(name, "overflow") => {
                overflow = Overflow::parse(how)?;
                after
            }
            [name, form, offset, value, after @ ..] if is(name, "set") || is(name, "incrby") => {
                let form = Form::parse(form)?;
                let offset = form.place(node, offset)?;
                let value = integer(value)?;
                operations.push(match is(name, "set") {
                    true => Operation::Set(form, offset, value, overflow),
                    false => Operation::Add(form, offset, value, overflow),
                });
                after
            }
            _ => return Err(Fail::syntax()),
        };
    }
}

fn bitfield(cx: &mut Cx<'_>, allowed: Allowed) -> Result<(), Fail> {
    let operations = operations(cx.node, &cx.args[2..])?;
    let reads = operations.iter().all(|operation| matches!(operation, Operation::Get(..)));
    if allowed == Allowed::Reading && !reads {
        return Err(Fail::error("ERR BITFIELD_RO only supports the GET subcommand"));
    }
    let key = cx.key(0);
    let old = cx.read(key, Kind::String)?;
    let mut bytes = old.as_ref().map_or_else(Vec::new, |old| old.payload.to_vec());
    if let Some(end) = operations.iter().filter_map(Operation::writes_until).max() {
        // As in Redis, room is made even for what then does not fit.
        check_length(end)?;
        bytes.resize(bytes.len().max(end), 0);
    }
    cx.reply.array(operations.len());
    for operation in operations {
        let (form, offset, answer, stored) = match operation {
            Operation::Get(form, offset) => (form, offset, Some(form.read(&bytes, offset)), None),
            Operation::Set(form, offset, value, overflow) => {
                let stored = overflow.fit(form, form.given(value));
                (form, offset, stored.map(|_| form.read(&bytes, offset)), stored)
            }
            Operation::Add(form, offset, by, overflow) => {
                let sum = overflow.fit(form, form.read(&bytes, offset) + i128::from(by));
                (form, offset, sum, sum)
            }
        };
        if let Some(value) = stored {
            form.write(&mut bytes, offset, value);
        }
        match answer {
            Some(value) => cx.reply.integer(i64::try_from(value).expect("a form holds 64 bits at most")),
            None => cx.reply.null(),
        }
    }
    // As in Redis, who watches the key is not told of what changes nothing.
    let is_same = old.as_ref().is_some_and(|old| old.payload[..] == bytes[..]);
    if reads || is_same { Ok(()) } else { replace(cx, key, old.as_ref(), bytes) }
}

#[cfg(test)]
mod tests {
    use crate::testing::Bench;

    #[test]
    fn numbers_in_bits_are_read_and_changed() {
        Bench::new().check(
            "bitfield k incrby i5 100 1 get u4 0          -> *2 :1 :0
             bitfield k set u8 0 255 get u8 0 get i8 0    -> *3 :0 :255 :-1
             bitfield k set i8 #1 -5 get i8 8 get u16 0   -> *3 :0 :-5 :65531
             bitfield k set i64 0 -9223372036854775808    -> *1 :-1407374883553280
             bitfield k get i64 0 get u63 1               -> *2 :-9223372036854775808 :0
             bitfield_ro k get u4 0                       -> *1 :8
             bitfield_ro k set u4 0 1                     -> -ERR BITFIELD_RO only supports the GET subcommand
             bitfield nope get u8 0                       -> *1 :0
             exists nope                                  -> :0
             bitfield nope                                -> *0",
        );
    }

    #[test]
    fn what_does_not_fit_wraps_saturates_or_fails() {
        Bench::new().check(
            "bitfield k overflow sat incrby u2 100 5 overflow wrap incrby u2 102 5  -> *2 :3 :1
             bitfield k overflow fail incrby u2 100 1                               -> *1 $-1
             bitfield k overflow fail set i4 0 8 get i4 0                           -> *2 $-1 :0
             bitfield k overflow sat set i4 0 -100 get i4 0                         -> *2 :0 :-8
             bitfield k set i4 0 9 get i4 0                                         -> *2 :-8 :-7
             bitfield k overflow sat set u4 0 -1 get u4 0                           -> *2 :9 :15
             bitfield room overflow fail set u4 12 16                               -> *1 $-1
             strlen room                                                            -> :2",
        );
    }

    #[test]
    fn what_makes_no_sense_is_refused() {
        let form = "-ERR Invalid bitfield type. Use something like i16 u8. Note that u64 is not supported but i64 is.";
        let mut bench = Bench::new();
        for wrong in ["u64", "i65", "u0", "x8", "i", "u-1"] {
            assert_eq!(bench.run(&format!("bitfield k get {wrong} 0")), form);
        }
        bench.check(
            "bitfield k get u8              -> -ERR syntax error
             bitfield k foo u8 0            -> -ERR syntax error
             bitfield k get u8 -1           -> -ERR bit offset is not an integer or out of range
             bitfield k get u8 #x           -> -ERR bit offset is not an integer or out of range
             bitfield k get u8 4294967296   -> -ERR bit offset is not an integer or out of range
             bitfield k set u8 0 x          -> -ERR value is not an integer or out of range
             bitfield k overflow foo        -> -ERR Invalid OVERFLOW type specified",
        );
    }
}
