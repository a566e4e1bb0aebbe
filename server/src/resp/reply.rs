//! Replies: values appended to a buffer in the form that the client's protocol version has for them.
//!
//! A command says what it means (`map`, `double`, `null`); what RESP2 has no form for becomes what Redis makes of
//! it. Replies are appended only; a command that must run again has its part cut off.

use bytes::Bytes;

use crate::number;

/// Which version of the protocol a connection speaks.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug, Default)]
pub enum Proto {
    /// RESP2: what every client speaks, and the only one behind Codis.
    #[default]
    Resp2,
    /// RESP3: maps, sets, doubles, booleans, nulls and pushes of their own.
    Resp3,
}

impl Proto {
    /// The number that HELLO knows it by.
    #[must_use]
    pub fn number(self) -> i64 {
        match self {
            Proto::Resp2 => 2,
            Proto::Resp3 => 3,
        }
    }
}

/// What a string takes beside its bytes, at most.
const BULK_BYTES_MORE: usize = 25;

/// A reply that is poured out while it is written leaves in pieces of about so many bytes.
const PIECE_BYTES: usize = 256 << 10;

/// Replies being written.
#[derive(Debug, Default)]
pub struct ReplyWriter {
    out: Vec<u8>,
    proto: Proto,
    pours: Option<Pours>,
}

/// Where a reply goes that is too long to be kept whole.
struct Pours {
    into: Box<dyn FnMut(Vec<u8>) + Send>,
    poured: bool,
}

impl std::fmt::Debug for Pours {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Pours").field("poured", &self.poured).finish_non_exhaustive()
    }
}

impl ReplyWriter {
    /// An empty buffer for a client of this version.
    #[must_use]
    pub fn new(proto: Proto) -> ReplyWriter {
        ReplyWriter { out: Vec::new(), proto, pours: None }
    }

    /// Pours what is written into this, a piece at a time, whenever there is one: it can't be cut off any more.
    pub fn pour_into(&mut self, into: impl FnMut(Vec<u8>) + Send + 'static) {
        self.pours = Some(Pours { into: Box::new(into), poured: false });
    }

    /// Whether anything was poured out.
    #[must_use]
    pub fn has_poured(&self) -> bool {
        self.pours.as_ref().is_some_and(|pours| pours.poured)
    }

    #[cold]
    fn pour(&mut self) {
        if let Some(pours) = &mut self.pours {
            pours.poured = true;
            (pours.into)(std::mem::take(&mut self.out));
        }
    }

    /// The version that the replies are in.
    #[must_use]
    pub fn proto(&self) -> Proto {
        self.proto
    }

    /// Speaks another version from here on.
    pub fn switch(&mut self, proto: Proto) {
        self.proto = proto;
    }

    /// Bytes written and not taken.
    #[must_use]
    pub fn len(&self) -> usize {
        self.out.len()
    }

    /// Bytes of memory for what is written.
    #[must_use]
    pub fn capacity(&self) -> usize {
        self.out.capacity()
    }

    /// Whether nothing was written.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.out.is_empty()
    }

    /// Cuts off what was written after `len`: a command that failed half-way or runs again.
    pub fn truncate(&mut self, len: usize) {
        self.out.truncate(len);
    }

    /// What was written so far.
    #[must_use]
    pub fn as_bytes(&self) -> &[u8] {
        &self.out
    }

    /// Forgets what was written, keeps the memory unless it grew large.
    pub fn clear(&mut self) {
        self.out.clear();
        if self.out.capacity() > 1 << 20 {
            self.out = Vec::new();
        }
    }

    /// Bytes that are replies already, before those from `at` on.
    pub fn insert(&mut self, at: usize, bytes: &[u8]) {
        let at = at.min(self.out.len());
        self.out.splice(at..at, bytes.iter().copied());
    }

    /// Bytes that are a reply already.
    pub fn raw(&mut self, bytes: &[u8]) {
        self.out.extend_from_slice(bytes);
    }

    /// A short text without line ends, `+OK`.
    pub fn simple(&mut self, text: &str) {
        self.out.push(b'+');
        self.out.extend_from_slice(text.as_bytes());
        self.line_end();
    }

    /// `+OK`.
    pub fn ok(&mut self) {
        self.out.extend_from_slice(b"+OK\r\n");
    }

    /// An error. The text begins with its code (`ERR`, `WRONGTYPE` ...); line ends in it become blanks.
    pub fn error(&mut self, text: &str) {
        self.out.push(b'-');
        self.out.extend(text.bytes().map(|byte| if byte == b'\r' || byte == b'\n' { b' ' } else { byte }));
        self.line_end();
    }

    /// A whole number.
    pub fn integer(&mut self, value: i64) {
        self.head(b':', value);
    }

    /// A count.
    pub fn count(&mut self, value: usize) {
        self.integer(i64::try_from(value).unwrap_or(i64::MAX));
    }

    /// A string of any bytes.
    pub fn bulk(&mut self, bytes: &[u8]) {
        self.out.reserve(bytes.len() + BULK_BYTES_MORE);
        self.head(b'$', length(bytes.len()));
        self.out.extend_from_slice(bytes);
        self.line_end();
        if self.out.len() >= PIECE_BYTES {
            self.pour();
        }
    }

    /// A string of any bytes, or null.
    pub fn bulk_or_null(&mut self, bytes: Option<&[u8]>) {
        match bytes {
            Some(bytes) => self.bulk(bytes),
            None => self.null(),
        }
    }

    /// A whole number as a string.
    pub fn bulk_integer(&mut self, value: i64) {
        let mut buffer = number::Decimal::default();
        self.bulk(buffer.format(value));
    }

    /// Nothing, where a string would be.
    pub fn null(&mut self) {
        match self.proto {
            Proto::Resp2 => self.out.extend_from_slice(b"$-1\r\n"),
            Proto::Resp3 => self.out.extend_from_slice(b"_\r\n"),
        }
    }

    /// Nothing, where an array would be.
    pub fn null_array(&mut self) {
        match self.proto {
            Proto::Resp2 => self.out.extend_from_slice(b"*-1\r\n"),
            Proto::Resp3 => self.out.extend_from_slice(b"_\r\n"),
        }
    }

    /// The head of an array of `len` values, which follow.
    pub fn array(&mut self, len: usize) {
        self.head(b'*', length(len));
    }

    /// The head of a map of `len` pairs, which follow.
    pub fn map(&mut self, len: usize) {
        match self.proto {
            Proto::Resp2 => self.head(b'*', length(len * 2)),
            Proto::Resp3 => self.head(b'%', length(len)),
        }
    }

    /// The head of a set of `len` values, which follow.
    pub fn set(&mut self, len: usize) {
        match self.proto {
            Proto::Resp2 => self.head(b'*', length(len)),
            Proto::Resp3 => self.head(b'~', length(len)),
        }
    }

    /// The head of a message that answers no command; in RESP2 an array.
    pub fn push(&mut self, len: usize) {
        match self.proto {
            Proto::Resp2 => self.head(b'*', length(len)),
            Proto::Resp3 => self.head(b'>', length(len)),
        }
    }

    /// An array whose length is known only after its values: call `write`, which returns how many it wrote.
    pub fn array_of<E>(&mut self, write: impl FnOnce(&mut ReplyWriter) -> Result<usize, E>) -> Result<(), E> {
        let start = self.out.len();
        let pours = self.pours.take();
        let written = write(self);
        self.pours = pours;
        let len = written?;
        // The head is written behind its values, and turned to the front.
        let end = self.out.len();
        self.array(len);
        let head = self.out.len() - end;
        self.out[start..].rotate_right(head);
        Ok(())
    }

    /// A floating-point number.
    pub fn double(&mut self, value: f64) {
        if let Some(whole) = number::whole(value) {
            return match self.proto {
                Proto::Resp2 => self.bulk_integer(whole),
                Proto::Resp3 => self.head(b',', whole),
            };
        }
        match self.proto {
            Proto::Resp2 => self.bulk(number::format_double(value).as_bytes()),
            Proto::Resp3 => {
                self.out.push(b',');
                self.out.extend_from_slice(number::format_double(value).as_bytes());
                self.line_end();
            }
        }
    }

    /// True or false; 1 or 0 in RESP2.
    pub fn boolean(&mut self, value: bool) {
        match self.proto {
            Proto::Resp2 => self.integer(i64::from(value)),
            Proto::Resp3 => self.out.extend_from_slice(if value { b"#t\r\n" } else { b"#f\r\n" }),
        }
    }

    /// A text for people, with the three letters of its format (`txt`).
    pub fn verbatim(&mut self, format: &str, text: &str) {
        match self.proto {
            Proto::Resp2 => self.bulk(text.as_bytes()),
            Proto::Resp3 => {
                debug_assert_eq!(format.len(), 3, "a verbatim string's format has three letters");
                self.head(b'=', length(text.len() + 4));
                self.out.extend_from_slice(format.as_bytes());
                self.out.push(b':');
                self.out.extend_from_slice(text.as_bytes());
                self.line_end();
            }
        }
    }

    /// An array of strings.
    pub fn bulks<'b>(&mut self, values: impl ExactSizeIterator<Item = &'b Bytes>) {
        self.array(values.len());
        values.for_each(|value| self.bulk(value));
    }

    fn head(&mut self, mark: u8, value: i64) {
        // Most are short.
        if let Ok(digit @ 0..10) = u8::try_from(value) {
            return self.out.extend_from_slice(&[mark, b'0' + digit, b'\r', b'\n']);
        }
        if let Ok(number @ 10..100) = u8::try_from(value) {
            let digits = [mark, b'0' + number / 10, b'0' + number % 10, b'\r', b'\n'];
            return self.out.extend_from_slice(&digits);
        }
        let mut buffer = number::Decimal::default();
        self.out.push(mark);
        self.out.extend_from_slice(buffer.format(value));
        self.line_end();
    }

    fn line_end(&mut self) {
        self.out.extend_from_slice(b"\r\n");
    }
}

fn length(len: usize) -> i64 {
    i64::try_from(len).unwrap_or(i64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn both(write: impl Fn(&mut ReplyWriter)) -> [String; 2] {
        [Proto::Resp2, Proto::Resp3].map(|proto| {
            let mut reply = ReplyWriter::new(proto);
            write(&mut reply);
            String::from_utf8(reply.as_bytes().to_vec()).expect("text")
        })
    }

    #[test]
    fn every_kind_of_value_has_its_form_in_both_versions() {
        assert_eq!(both(|r| r.simple("OK")), ["+OK\r\n"; 2]);
        assert_eq!(both(|r| r.error("ERR a\r\nb")), ["-ERR a  b\r\n"; 2]);
        assert_eq!(both(|r| r.integer(i64::MIN)), [":-9223372036854775808\r\n"; 2]);
        assert_eq!(both(|r| r.bulk(b"")), ["$0\r\n\r\n"; 2]);
        assert_eq!(both(|r| r.bulk_integer(-12)), ["$3\r\n-12\r\n"; 2]);
        assert_eq!(both(ReplyWriter::null), ["$-1\r\n", "_\r\n"]);
        assert_eq!(both(ReplyWriter::null_array), ["*-1\r\n", "_\r\n"]);
        assert_eq!(both(|r| r.map(2)), ["*4\r\n", "%2\r\n"]);
        assert_eq!(both(|r| r.set(2)), ["*2\r\n", "~2\r\n"]);
        assert_eq!(both(|r| r.push(2)), ["*2\r\n", ">2\r\n"]);
        assert_eq!(both(|r| r.double(3.0)), ["$1\r\n3\r\n", ",3\r\n"]);
        assert_eq!(both(|r| r.double(f64::NEG_INFINITY)), ["$4\r\n-inf\r\n", ",-inf\r\n"]);
        assert_eq!(both(|r| r.boolean(true)), [":1\r\n", "#t\r\n"]);
        assert_eq!(both(|r| r.verbatim("txt", "hi")), ["$2\r\nhi\r\n", "=6\r\ntxt:hi\r\n"]);
    }

    #[test]
    fn an_array_written_before_its_length_is_known_reads_the_same() {
        let written = both(|r| {
            r.ok();
            r.array_of(|r| {
                r.integer(1);
                r.integer(2);
                Ok::<_, ()>(2)
            })
            .expect("nothing fails");
        });
        assert_eq!(written, ["+OK\r\n*2\r\n:1\r\n:2\r\n"; 2]);
    }
}
