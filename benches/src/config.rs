//! A target's own settings as text: `name=value,name=value`.

use std::collections::BTreeMap;

use crate::error::{Error, Result};

/// Settings that are taken out one by one, so that one that nobody knows is found.
#[derive(Clone, Debug, Default)]
pub struct Config(BTreeMap<String, String>);

impl Config {
    /// Reads `name=value,name=value`.
    ///
    /// # Errors
    /// If it is none.
    pub fn parse(text: &str) -> Result<Config> {
        let mut all = BTreeMap::new();
        for word in text.split(',').filter(|word| !word.is_empty()) {
            let Some((name, value)) = word.split_once('=') else {
                return Err(Error::Usage(format!("'{word}' is not name=value")));
            };
            if all.insert(name.trim().to_owned(), value.trim().to_owned()).is_some() {
                return Err(Error::Usage(format!("'{name}' is set twice")));
            }
        }
        Ok(Config(all))
    }

    /// A text.
    #[must_use]
    pub fn text(&mut self, name: &str, default: &str) -> String {
        self.0.remove(name).unwrap_or_else(|| default.to_owned())
    }

    /// A number of bytes: `4096`, `64k`, `256m`, `2g`, in powers of 1024.
    ///
    /// # Errors
    /// If it is none.
    pub fn size(&mut self, name: &str, default: usize) -> Result<usize> {
        let Some(text) = self.0.remove(name) else { return Ok(default) };
        parse_size(&text)
            .ok_or_else(|| Error::Usage(format!("{name}={text}: bytes, such as 4096, 64k, 256m, 2g")))
    }

    /// A whole number.
    ///
    /// # Errors
    /// If it is none.
    pub fn number(&mut self, name: &str, default: u64) -> Result<u64> {
        let Some(text) = self.0.remove(name) else { return Ok(default) };
        text.parse().map_err(|_| Error::Usage(format!("{name}={text}: a whole number")))
    }

    /// `yes` or `no`.
    ///
    /// # Errors
    /// If it is neither.
    pub fn switch(&mut self, name: &str, default: bool) -> Result<bool> {
        match self.0.remove(name).as_deref() {
            None => Ok(default),
            Some("yes") => Ok(true),
            Some("no") => Ok(false),
            Some(text) => Err(Error::Usage(format!("{name}={text}: yes or no"))),
        }
    }

    /// To be called last.
    ///
    /// # Errors
    /// If a setting was not taken out.
    pub fn all_used(&self) -> Result<()> {
        match self.0.keys().next() {
            None => Ok(()),
            Some(name) => Err(Error::Usage(format!("this target has no setting '{name}'"))),
        }
    }
}

/// A number of bytes with an optional k, m or g.
#[must_use]
pub fn parse_size(text: &str) -> Option<usize> {
    let lower = text.to_ascii_lowercase();
    let (digits, shift) = match lower.as_bytes().last()? {
        b'k' => (&lower[..lower.len() - 1], 10),
        b'm' => (&lower[..lower.len() - 1], 20),
        b'g' => (&lower[..lower.len() - 1], 30),
        _ => (&lower[..], 0),
    };
    digits.parse::<usize>().ok()?.checked_mul(1 << shift)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn settings_are_read_and_what_nobody_knows_is_refused() {
        let mut config = Config::parse("memory=64m, compress=no,depth=3").expect("parses");
        assert_eq!(config.size("memory", 1).expect("a size"), 64 << 20);
        assert_eq!(config.size("block", 7).expect("a size"), 7);
        assert!(!config.switch("compress", true).expect("a switch"));
        assert!(config.all_used().is_err());
        assert_eq!(config.number("depth", 0).expect("a number"), 3);
        config.all_used().expect("all were used");
        for text in ["memory", "a=1,a=2"] {
            assert!(Config::parse(text).is_err(), "{text}");
        }
        assert!(Config::parse("memory=lots").expect("parses").size("memory", 1).is_err());
    }
}
