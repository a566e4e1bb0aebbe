//! A small Redis client, to ask another node: commands out, replies in, in order.
//!
//! Replies are limited in size and depth; nothing that comes panics. For what is rare: it builds each reply anew.

use bytes::{Buf, Bytes, BytesMut};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpStream, ToSocketAddrs};

/// The longest reply that is taken.
const REPLY_BYTES_MAX: usize = 64 << 20;
/// The deepest nesting of arrays that is taken.
const DEPTH_MAX: usize = 8;

/// What a node answers.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Reply {
    /// `+OK` and the like.
    Simple(String),
    /// The text behind the minus.
    Error(String),
    /// A whole number.
    Integer(i64),
    /// Bytes, or null.
    Bulk(Option<Bytes>),
    /// Replies; null is empty.
    Array(Vec<Reply>),
}

impl Reply {
    /// The reply as text, whatever it is.
    #[must_use]
    pub fn text(&self) -> String {
        match self {
            Reply::Simple(text) | Reply::Error(text) => text.clone(),
            Reply::Integer(number) => number.to_string(),
            Reply::Bulk(Some(bytes)) => String::from_utf8_lossy(bytes).into_owned(),
            Reply::Bulk(None) => "(nil)".to_owned(),
            Reply::Array(items) => items.iter().map(Reply::text).collect::<Vec<_>>().join(" "),
        }
    }
}

/// A connection to a node.
pub struct Client {
    stream: TcpStream,
    unread: BytesMut,
    out: Vec<u8>,
}

impl Client {
    /// Connects.
    ///
    /// # Errors
    /// The operating system's.
    pub async fn connect(address: impl ToSocketAddrs) -> std::io::Result<Client> {
        let stream = TcpStream::connect(address).await?;
        stream.set_nodelay(true)?;
        Ok(Client { stream, unread: BytesMut::new(), out: Vec::new() })
    }

    /// Adds a command to those that are sent next.
    pub fn push(&mut self, words: &[&[u8]]) {
        self.out.extend_from_slice(format!("*{}\r\n", words.len()).as_bytes());
        for word in words {
            self.out.extend_from_slice(format!("${}\r\n", word.len()).as_bytes());
            self.out.extend_from_slice(word);
            self.out.extend_from_slice(b"\r\n");
        }
    }

    /// Bytes that were pushed and not sent.
    #[must_use]
    pub fn unsent(&self) -> usize {
        self.out.len()
    }

    /// Sends what was pushed.
    ///
    /// # Errors
    /// The operating system's.
    pub async fn send(&mut self) -> std::io::Result<()> {
        self.stream.write_all(&self.out).await?;
        self.out.clear();
        Ok(())
    }

    /// Waits for the next reply.
    ///
    /// # Errors
    /// If the connection ends, or brings no reply.
    pub async fn receive(&mut self) -> std::io::Result<Reply> {
        loop {
            let mut ahead = &self.unread[..];
            match take(&mut ahead, DEPTH_MAX) {
                Ok(reply) => {
                    let used = self.unread.len() - ahead.len();
                    self.unread.advance(used);
                    return Ok(reply);
                }
                Err(Stop::Broken) => return Err(std::io::ErrorKind::InvalidData.into()),
                Err(Stop::Incomplete) if self.unread.len() > REPLY_BYTES_MAX => {
                    return Err(std::io::ErrorKind::InvalidData.into());
                }
                Err(Stop::Incomplete) => {
                    self.unread.reserve(64 << 10);
                    if self.stream.read_buf(&mut self.unread).await? == 0 {
                        return Err(std::io::ErrorKind::UnexpectedEof.into());
                    }
                }
            }
        }
    }

    /// Sends a command given as words joined by blanks, and waits for its reply.
    ///
    /// # Errors
    /// As [`Client::receive`].
    pub async fn call(&mut self, line: &str) -> std::io::Result<Reply> {
        let words: Vec<&[u8]> = line.split(' ').map(str::as_bytes).collect();
        self.push(&words);
        self.send().await?;
        self.receive().await
    }
}

enum Stop {
    Incomplete,
    Broken,
}

fn take(bytes: &mut &[u8], depth: usize) -> Result<Reply, Stop> {
    let end = bytes.windows(2).position(|pair| pair == b"\r\n").ok_or(Stop::Incomplete)?;
    let line = std::str::from_utf8(&bytes[..end]).map_err(|_| Stop::Broken)?;
    let (mark, text) = line.split_at_checked(1).ok_or(Stop::Broken)?;
    *bytes = &bytes[end + 2..];
    let number = || text.parse::<i64>().map_err(|_| Stop::Broken);
    match mark {
        "+" => Ok(Reply::Simple(text.to_owned())),
        "-" => Ok(Reply::Error(text.to_owned())),
        ":" => Ok(Reply::Integer(number()?)),
        "$" => {
            let Ok(len) = usize::try_from(number()?) else { return Ok(Reply::Bulk(None)) };
            if bytes.len() < len.saturating_add(2) {
                return Err(Stop::Incomplete);
            }
            let bulk = Bytes::copy_from_slice(&bytes[..len]);
            *bytes = &bytes[len + 2..];
            Ok(Reply::Bulk(Some(bulk)))
        }
        "*" if depth > 0 => {
            let len = usize::try_from(number()?).unwrap_or(0);
            (0..len).map(|_| take(bytes, depth - 1)).collect::<Result<_, _>>().map(Reply::Array)
        }
        _ => Err(Stop::Broken),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn whole(text: &str) -> Option<Reply> {
        let mut bytes = text.as_bytes();
        take(&mut bytes, DEPTH_MAX).ok().filter(|_| bytes.is_empty())
    }

    #[test]
    fn replies_are_read_whole_or_not_at_all() {
        let text = "*3\r\n$2\r\na\n\r\n:-7\r\n*2\r\n$-1\r\n-ERR x\r\n";
        let nested = Reply::Array(vec![Reply::Bulk(None), Reply::Error("ERR x".to_owned())]);
        let expected =
            Reply::Array(vec![Reply::Bulk(Some(Bytes::from_static(b"a\n"))), Reply::Integer(-7), nested]);
        assert_eq!(whole(text), Some(expected));
        for end in 0..text.len() {
            let mut part = &text.as_bytes()[..end];
            assert!(matches!(take(&mut part, DEPTH_MAX), Err(Stop::Incomplete)), "{end}");
        }
        assert_eq!(whole("?1\r\n"), None);
    }
}
