//! Reading and writing the primitives of the layouts, with every bound checked.

use super::{NAME_MAX, VERSION};
use crate::Value;

/// Why bytes are not what the contract says. The text names the part and the bound.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum PackedError {
    /// The bytes end inside the named part.
    Truncated(&'static str),
    /// There are this many bytes after the last part.
    Trailing(usize),
    /// The layout has another version.
    Version(u8),
    /// The named part is not UTF-8.
    NotText(&'static str),
    /// The named part has a bit, kind or number that this version does not know.
    Unknown(&'static str, u64),
    /// The named part is over its limit.
    OverLimit {
        /// Which part.
        part: &'static str,
        /// What it has.
        got: u64,
        /// The limit.
        limit: u64,
    },
    /// The answer has another number of decisions than the batch has messages.
    WrongCount {
        /// Decisions in the answer.
        decisions: u32,
        /// Messages in the batch.
        messages: u32,
    },
    /// A decision names a target that does not exist.
    TargetOutOfRange {
        /// The target it names.
        target: u32,
        /// How many there are.
        targets: u32,
    },
}

impl std::fmt::Display for PackedError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            PackedError::Truncated(part) => write!(f, "the bytes end inside the {part}"),
            PackedError::Trailing(count) => write!(f, "{count} bytes follow the last part"),
            PackedError::Version(got) => write!(f, "the layout has version {got}, not {VERSION}"),
            PackedError::NotText(part) => write!(f, "the {part} is not UTF-8"),
            PackedError::Unknown(part, got) => write!(f, "{part} {got} is unknown to version {VERSION}"),
            PackedError::OverLimit { part, got, limit } => {
                write!(f, "a {part} of {got} is over the limit of {limit}")
            }
            PackedError::WrongCount { decisions, messages } => {
                write!(f, "{decisions} decisions answer a batch of {messages} messages")
            }
            PackedError::TargetOutOfRange { target, targets } => {
                write!(
                    f,
                    "target {target} does not exist: there are {targets}, numbered from 0"
                )
            }
        }
    }
}

impl std::error::Error for PackedError {}

/// A place in bytes that are read front to back.
#[derive(Clone, Debug)]
pub(crate) struct Reader<'a> {
    rest: &'a [u8],
}

impl<'a> Reader<'a> {
    /// Starts at a blob's version byte and checks it.
    pub(crate) fn versioned(bytes: &'a [u8], part: &'static str) -> Result<Reader<'a>, PackedError> {
        let mut reader = Reader { rest: bytes };
        match reader.u8(part)? {
            VERSION => Ok(reader),
            other => Err(PackedError::Version(other)),
        }
    }

    pub(crate) fn of(bytes: &'a [u8]) -> Reader<'a> {
        Reader { rest: bytes }
    }

    pub(crate) fn take(&mut self, len: usize, part: &'static str) -> Result<&'a [u8], PackedError> {
        let (taken, rest) = self
            .rest
            .split_at_checked(len)
            .ok_or(PackedError::Truncated(part))?;
        self.rest = rest;
        Ok(taken)
    }

    fn array<const N: usize>(&mut self, part: &'static str) -> Result<[u8; N], PackedError> {
        let (taken, rest) = self
            .rest
            .split_first_chunk()
            .ok_or(PackedError::Truncated(part))?;
        self.rest = rest;
        Ok(*taken)
    }

    pub(crate) fn u8(&mut self, part: &'static str) -> Result<u8, PackedError> {
        Ok(u8::from_le_bytes(self.array(part)?))
    }

    pub(crate) fn u16(&mut self, part: &'static str) -> Result<u16, PackedError> {
        Ok(u16::from_le_bytes(self.array(part)?))
    }

    pub(crate) fn u32(&mut self, part: &'static str) -> Result<u32, PackedError> {
        Ok(u32::from_le_bytes(self.array(part)?))
    }

    pub(crate) fn u64(&mut self, part: &'static str) -> Result<u64, PackedError> {
        Ok(u64::from_le_bytes(self.array(part)?))
    }

    /// A text behind two bytes of length, up to `limit` bytes long.
    pub(crate) fn text(&mut self, part: &'static str, limit: usize) -> Result<&'a str, PackedError> {
        let len = self.u16(part)?;
        let len = within(part, len.into(), limit)?;
        as_text(self.take(len, part)?, part)
    }

    /// A name behind two bytes of length.
    pub(crate) fn name(&mut self, part: &'static str) -> Result<&'a str, PackedError> {
        self.text(part, NAME_MAX)
    }

    /// A header: its name, and its value behind four bytes of length.
    pub(crate) fn header(&mut self) -> Result<(&'a str, Value<'a>), PackedError> {
        let name = self.name("header name")?;
        let len = self.u32("header value")?;
        let value = self.take(len as usize, "header value")?;
        Ok((name, decode_value(value)?))
    }

    pub(crate) fn end(&self) -> Result<(), PackedError> {
        match self.rest.len() {
            0 => Ok(()),
            left => Err(PackedError::Trailing(left)),
        }
    }
}

/// A count or length that must not be over a limit.
pub(crate) fn within(part: &'static str, got: u64, limit: usize) -> Result<usize, PackedError> {
    let over = PackedError::OverLimit {
        part,
        got,
        limit: limit as u64,
    };
    usize::try_from(got).ok().filter(|&got| got <= limit).ok_or(over)
}

pub(crate) fn as_text<'a>(bytes: &'a [u8], part: &'static str) -> Result<&'a str, PackedError> {
    std::str::from_utf8(bytes).map_err(|_| PackedError::NotText(part))
}

/// A value that fills `bytes`.
pub(crate) fn decode_value(bytes: &[u8]) -> Result<Value<'_>, PackedError> {
    const PART: &str = "header value";
    let mut reader = Reader::of(bytes);
    let value = match reader.u8(PART)? {
        0 => match reader.u8(PART)? {
            0 => Value::Bool(false),
            1 => Value::Bool(true),
            other => return Err(PackedError::Unknown("bool", other.into())),
        },
        1 => Value::Int(i64::from_le_bytes(reader.array(PART)?)),
        2 => Value::Float(f64::from_le_bytes(reader.array(PART)?)),
        3 => return Ok(Value::Str(as_text(reader.rest, PART)?)),
        4 => return Ok(Value::Bytes(reader.rest)),
        other => return Err(PackedError::Unknown("kind of header value", other.into())),
    };
    reader.end()?;
    Ok(value)
}

/// Appends a value.
pub(crate) fn encode_value(out: &mut Vec<u8>, value: Value<'_>) {
    match value {
        Value::Bool(truth) => out.extend([0, truth.into()]),
        Value::Int(number) => {
            out.push(1);
            out.extend(number.to_le_bytes());
        }
        Value::Float(number) => {
            out.push(2);
            out.extend(number.to_le_bytes());
        }
        Value::Str(text) => {
            out.push(3);
            out.extend_from_slice(text.as_bytes());
        }
        Value::Bytes(bytes) => {
            out.push(4);
            out.extend_from_slice(bytes);
        }
    }
}

/// Appends a header: its name, and its value behind four bytes of length.
pub(crate) fn encode_header(out: &mut Vec<u8>, name: &str, value: Value<'_>) {
    encode_text(out, name);
    let len_at = out.len();
    out.extend([0; 4]);
    encode_value(out, value);
    let len = (out.len() - len_at - 4) as u32;
    out[len_at..len_at + 4].copy_from_slice(&len.to_le_bytes());
}

/// Appends a text behind two bytes of length; what is over 65,535 bytes is cut, which no name or key may be.
pub(crate) fn encode_text(out: &mut Vec<u8>, text: &str) {
    let text = cut(text, u16::MAX.into());
    out.extend((text.len() as u16).to_le_bytes());
    out.extend_from_slice(text.as_bytes());
}

/// The longest beginning of a text that has at most `limit` bytes.
pub(crate) fn cut(text: &str, limit: usize) -> &str {
    &text[..text.floor_char_boundary(limit)]
}
