//! Where results are printed.

use std::io::{self, IsTerminal as _, Write};

use super::Failure;

/// Standard output, or what a test holds in its place.
pub(super) struct Screen<'a> {
    out: &'a mut dyn Write,
    is_terminal: bool,
}

impl<'a> Screen<'a> {
    /// A screen on `out`, which is standard output.
    pub(super) fn stdout(out: &'a mut io::Stdout) -> Self {
        let is_terminal = out.is_terminal();
        Self { out, is_terminal }
    }

    /// A screen that only keeps what is printed.
    #[cfg(test)]
    pub(super) fn memory(out: &'a mut Vec<u8>) -> Self {
        Self { out, is_terminal: false }
    }

    /// Whether bars can be drawn.
    pub(super) fn is_terminal(&self) -> bool {
        self.is_terminal
    }

    /// Prints `text` at once. A reader that has seen enough, such as `head`, is no error.
    pub(super) fn print(&mut self, text: &str) -> Result<(), Failure> {
        match self.out.write_all(text.as_bytes()).and_then(|()| self.out.flush()) {
            Err(error) if error.kind() != io::ErrorKind::BrokenPipe => Err(Failure::Output(error)),
            _ => Ok(()),
        }
    }
}
