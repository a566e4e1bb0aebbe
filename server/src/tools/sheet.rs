//! Tables, as people read them or as one JSON value, from the same rows. Written as they come; nothing is kept.

use std::io::{Result, Write};

/// For whom.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Form {
    /// People.
    Text,
    /// Programs: an object with an array for each table, an object for each row; cells without a value have no key.
    Json,
}

/// A column: its name, which is its key in JSON, and how wide it is at least.
pub(super) type Column = (&'static str, usize);

/// What stands in a row at a column.
#[derive(Clone, PartialEq, Debug)]
pub(super) enum Cell {
    None,
    Number(u64),
    Share(f64),
    Flag(bool),
    Text(String),
}

impl From<u64> for Cell {
    fn from(number: u64) -> Cell {
        Cell::Number(number)
    }
}

impl From<usize> for Cell {
    fn from(number: usize) -> Cell {
        Cell::Number(number as u64)
    }
}

impl From<String> for Cell {
    fn from(text: String) -> Cell {
        Cell::Text(text)
    }
}

impl From<&str> for Cell {
    fn from(text: &str) -> Cell {
        Cell::Text(text.to_owned())
    }
}

impl<T: Into<Cell>> From<Option<T>> for Cell {
    fn from(value: Option<T>) -> Cell {
        value.map_or(Cell::None, Into::into)
    }
}

/// See the file's head.
pub(super) struct Sheet<'o> {
    out: &'o mut dyn Write,
    form: Form,
    columns: &'static [Column],
    tables: usize,
    rows: usize,
}

impl<'o> Sheet<'o> {
    pub(super) fn begin(out: &'o mut dyn Write, form: Form) -> Result<Sheet<'o>> {
        if form == Form::Json {
            write!(out, "{{")?;
        }
        Ok(Sheet { out, form, columns: &[], tables: 0, rows: 0 })
    }

    /// Begins a table.
    pub(super) fn table(&mut self, name: &str, columns: &'static [Column]) -> Result<()> {
        self.end_table()?;
        self.columns = columns;
        self.rows = 0;
        let first = self.tables == 0;
        self.tables += 1;
        match self.form {
            Form::Json => write!(self.out, "{}\n\"{name}\": [", if first { "" } else { "," }),
            Form::Text => {
                writeln!(self.out, "{}{name}", if first { "" } else { "\n" })?;
                let mut line = String::new();
                for (name, width) in columns {
                    line.push_str(&format!("  {name:<width$}"));
                }
                writeln!(self.out, "{}", line.trim_end())
            }
        }
    }

    /// Adds a row: a cell for each column.
    pub(super) fn row(&mut self, cells: &[Cell]) -> Result<()> {
        assert_eq!(cells.len(), self.columns.len(), "a cell for each column");
        self.rows += 1;
        match self.form {
            Form::Text => {
                let mut line = String::new();
                for (cell, (_, width)) in cells.iter().zip(self.columns) {
                    line.push_str("  ");
                    line.push_str(&match cell {
                        Cell::None => " ".repeat(*width),
                        Cell::Number(number) => format!("{number:>width$}"),
                        Cell::Share(share) => format!("{share:>width$.4}"),
                        Cell::Flag(flag) => format!("{:<width$}", if *flag { "yes" } else { "no" }),
                        Cell::Text(text) => format!("{text:<width$}"),
                    });
                }
                writeln!(self.out, "{}", line.trim_end())
            }
            Form::Json => {
                write!(self.out, "{}\n{{", if self.rows == 1 { "" } else { "," })?;
                let mut first = true;
                for (cell, (name, _)) in cells.iter().zip(self.columns) {
                    let value = match cell {
                        Cell::None => continue,
                        Cell::Number(number) => number.to_string(),
                        Cell::Share(share) => format!("{share:.6}"),
                        Cell::Flag(flag) => flag.to_string(),
                        Cell::Text(text) => quoted(text),
                    };
                    write!(self.out, "{}\"{name}\": {value}", if first { "" } else { ", " })?;
                    first = false;
                }
                write!(self.out, "}}")
            }
        }
    }

    fn end_table(&mut self) -> Result<()> {
        if self.tables > 0 && self.form == Form::Json {
            write!(self.out, "]")?;
        }
        Ok(())
    }

    /// Ends it.
    pub(super) fn end(mut self) -> Result<()> {
        self.end_table()?;
        if self.form == Form::Json { writeln!(self.out, "\n}}") } else { Ok(()) }
    }
}

/// A text as JSON has it.
fn quoted(text: &str) -> String {
    let mut out = String::from("\"");
    for letter in text.chars() {
        match letter {
            '"' | '\\' => out.extend(['\\', letter]),
            letter if letter.is_control() => out.push_str(&format!("\\u{:04x}", u32::from(letter))),
            letter => out.push(letter),
        }
    }
    out.push('"');
    out
}

/// Bytes as a person reads them, on one line: what is no printable ASCII as `\xNN`, long ones cut.
pub(super) fn shown(bytes: &[u8]) -> String {
    const SHOWN_MAX: usize = 64;
    let text = bytes[..bytes.len().min(SHOWN_MAX)].escape_ascii().to_string();
    match bytes.len().saturating_sub(SHOWN_MAX) {
        0 => text,
        more => format!("{text}... {more} bytes more"),
    }
}
