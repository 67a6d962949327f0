//! What goes to standard output: tables for people, JSON for programs.
//!
//! A list is one JSON array, one thing is one JSON object, and a flow of things (consumed messages, publish results)
//! is JSON Lines. Field names are those of the serialised structs and are stable.

use std::io::{IsTerminal, Write};

use comfy_table::{ContentArrangement, Table, presets};
use serde::Serialize;

use crate::error::CliError;

/// How results are written.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum Format {
    /// Aligned columns and sentences.
    #[default]
    Table,
    /// One JSON document, or JSON Lines where results come one by one.
    Json,
}

/// A thing that is shown as one row of a table, and as its JSON object.
pub(crate) trait Row: Serialize {
    /// Headings of the columns.
    const HEADINGS: &'static [&'static str];

    /// One text a column.
    fn cells(&self) -> Vec<String>;
}

/// Writes results in the chosen format.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Output {
    pub(crate) format: Format,
}

impl Output {
    /// Shows a list.
    pub(crate) fn list<R: Row>(self, rows: &[R]) -> Result<(), CliError> {
        match self.format {
            Format::Json => write_json(rows),
            Format::Table => write_text(&table(rows)),
        }
    }

    /// Shows one thing: an object, or a block of labelled lines.
    pub(crate) fn one<T: Serialize>(self, value: &T, lines: &[(&str, String)]) -> Result<(), CliError> {
        match self.format {
            Format::Json => write_json(value),
            Format::Table => write_text(&labelled(lines)),
        }
    }

    /// Says that something was done: an object, or a sentence.
    pub(crate) fn done<T: Serialize>(self, value: &T, sentence: &str) -> Result<(), CliError> {
        match self.format {
            Format::Json => write_line(value),
            Format::Table => write_text(&format!("{sentence}\n")),
        }
    }

    /// Text for people only; programs get nothing.
    pub(crate) fn say(self, text: &str) -> Result<(), CliError> {
        match self.format {
            Format::Json => Ok(()),
            Format::Table => write_text(&format!("{text}\n")),
        }
    }

    /// Whether a progress bar would be seen by a person.
    pub(crate) fn draws_progress(self) -> bool {
        self.format == Format::Table && stderr_is_terminal()
    }
}

/// Whether a person reads standard error.
pub(crate) fn stderr_is_terminal() -> bool {
    std::io::stderr().is_terminal()
}

/// A remark beside the results, on standard error.
pub(crate) fn note(text: &str) {
    // A remark is a courtesy: nothing is lost when nobody reads it.
    let _ = writeln!(std::io::stderr().lock(), "{text}");
}

/// Writes text to standard output and flushes it.
pub(crate) fn write_text(text: &str) -> Result<(), CliError> {
    let mut stdout = std::io::stdout().lock();
    stdout.write_all(text.as_bytes())?;
    Ok(stdout.flush()?)
}

fn write_json<T: Serialize + ?Sized>(value: &T) -> Result<(), CliError> {
    let text = serde_json::to_string_pretty(value).map_err(not_json)?;
    write_text(&format!("{text}\n"))
}

fn write_line<T: Serialize>(value: &T) -> Result<(), CliError> {
    write_text(&json_line(value)?)
}

/// One object of JSON Lines.
pub(crate) fn json_line<T: Serialize>(value: &T) -> Result<String, CliError> {
    serde_json::to_string(value)
        .map(|text| format!("{text}\n"))
        .map_err(not_json)
}

fn not_json(error: serde_json::Error) -> CliError {
    CliError::failed("Output", format!("cannot write the result as JSON: {error}"))
}

/// A table without frames, as wide as its contents, or as the terminal when that is narrower.
fn table<R: Row>(rows: &[R]) -> String {
    let mut table = Table::new();
    table
        .load_style(presets::NOTHING)
        .set_content_arrangement(ContentArrangement::Disabled)
        .set_header(R::HEADINGS.iter().map(|heading| heading.to_uppercase()));
    for row in rows {
        table.add_row(row.cells().iter().map(|cell| printable(cell)));
    }
    trim_lines(&table.to_string())
}

fn labelled(lines: &[(&str, String)]) -> String {
    let width = lines.iter().map(|(label, _)| label.len()).max().unwrap_or(0) + 2;
    lines
        .iter()
        .map(|(label, value)| format!("{label:<width$}{}\n", printable(value)))
        .collect()
}

/// Each line without the blanks at both ends that an unframed table leaves.
fn trim_lines(text: &str) -> String {
    text.lines()
        .map(|line| format!("{}\n", line.strip_prefix(' ').unwrap_or(line).trim_end()))
        .collect()
}

/// The text with control characters written as escapes, so that a name or a body cannot drive the terminal.
pub(crate) fn printable(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for c in text.chars() {
        if c.is_control() {
            out.extend(c.escape_default());
        } else {
            out.push(c);
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Serialize)]
    struct Line(&'static str, u32);

    impl Row for Line {
        const HEADINGS: &'static [&'static str] = &["name", "ready"];
        fn cells(&self) -> Vec<String> {
            vec![self.0.to_owned(), self.1.to_string()]
        }
    }

    #[test]
    fn a_table_has_aligned_columns_without_frames() {
        let text = table(&[Line("a", 1), Line("longer", 20)]);
        assert_eq!(text, "NAME    READY\na       1\nlonger  20\n");
    }

    #[test]
    fn an_empty_list_shows_its_headings() {
        assert_eq!(table::<Line>(&[]), "NAME  READY\n");
    }

    #[test]
    fn labels_are_aligned() {
        assert_eq!(
            labelled(&[("a", "1".into()), ("long", "2".into())]),
            "a     1\nlong  2\n"
        );
    }

    #[test]
    fn control_characters_do_not_reach_the_terminal() {
        assert_eq!(printable("a\u{1b}[2Jb\n"), "a\\u{1b}[2Jb\\n");
        assert_eq!(printable("Zürich"), "Zürich");
    }
}
