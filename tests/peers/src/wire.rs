//! A TCP connection with what was read and is not understood yet, and what waits to be written.

use bytes::{Buf, BytesMut};
use pointsman_load::Error;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

/// What is read at once, in bytes.
const READ: usize = 256 * 1024;

/// A connection. Messages are appended to `output` and written together.
pub(crate) struct Wire {
    stream: TcpStream,
    /// Read and not understood yet.
    pub(crate) input: BytesMut,
    /// To be written.
    pub(crate) output: BytesMut,
}

impl Wire {
    /// Connects to a port of loopback.
    pub(crate) async fn connect(port: u16) -> Result<Wire, Error> {
        let stream = TcpStream::connect(("127.0.0.1", port)).await?;
        stream.set_nodelay(true)?;
        Ok(Wire {
            stream,
            input: BytesMut::with_capacity(READ),
            output: BytesMut::with_capacity(READ),
        })
    }

    /// The port of this end.
    pub(crate) fn local_port(&self) -> Result<u16, Error> {
        Ok(self.stream.local_addr()?.port())
    }

    /// Writes everything that waits.
    pub(crate) async fn flush(&mut self) -> Result<(), Error> {
        while self.output.has_remaining() {
            if self.stream.write_buf(&mut self.output).await? == 0 {
                return Err(Error::Broker("the server closed the connection".into()));
            }
        }
        Ok(())
    }

    /// Waits for more input. Dropping the future loses nothing.
    pub(crate) async fn fill(&mut self) -> Result<(), Error> {
        self.input.reserve(READ);
        match self.stream.read_buf(&mut self.input).await? {
            0 => Err(Error::Broker("the server closed the connection".into())),
            _ => Ok(()),
        }
    }

    /// Waits for a line, and takes it without its end.
    pub(crate) async fn line(&mut self) -> Result<String, Error> {
        loop {
            if let Some(end) = find(&self.input, b"\r\n") {
                let line = self.input.split_to(end);
                self.input.advance(2);
                return Ok(String::from_utf8_lossy(&line).into_owned());
            }
            self.fill().await?;
        }
    }
}

/// Where `what` begins.
pub(crate) fn find(input: &[u8], what: &[u8]) -> Option<usize> {
    let first = what[0];
    let mut from = 0;
    while let Some(at) = input[from..].iter().position(|byte| *byte == first) {
        if input[from + at..].starts_with(what) {
            return Some(from + at);
        }
        from += at + 1;
    }
    None
}

/// A number in decimal digits.
pub(crate) fn number(digits: &[u8]) -> Option<u64> {
    if digits.is_empty() {
        return None;
    }
    digits.iter().try_fold(0_u64, |n, digit| match digit {
        b'0'..=b'9' => n.checked_mul(10)?.checked_add(u64::from(digit - b'0')),
        _ => None,
    })
}
