//! Files of JSON lines: read line by line, each with its number, so that an error can name it.

use crate::failure::Failure;
use rdb_proto::limits::PAYLOAD_BYTES_MAX;
use std::fs::File;
use std::io::{self, BufRead, BufReader, Read as _};
use std::path::{Path, PathBuf};

/// A line is at most the largest payload in base64, and the rest of an event.
const LINE_BYTES_MAX: usize = 2 * PAYLOAD_BYTES_MAX;

/// A file of lines, or standard input.
pub(crate) struct Lines {
    path: PathBuf,
    input: Box<dyn BufRead + Send>,
    buffer: Vec<u8>,
    number: u64,
    bytes_read: u64,
    bytes_total: Option<u64>,
}

/// One line that is not blank.
pub(crate) struct Line<'a> {
    pub(crate) text: &'a str,
}

impl Lines {
    /// Opens a file; `-` is standard input.
    pub(crate) fn open(path: &Path) -> Result<Self, Failure> {
        let cannot = |error: io::Error| Failure::Input(format!("cannot read {}: {error}", path.display()));
        let (input, bytes_total): (Box<dyn BufRead + Send>, _) = if path == Path::new("-") {
            (Box::new(BufReader::new(io::stdin())), None)
        } else {
            let file = File::open(path).map_err(cannot)?;
            let metadata = file.metadata().map_err(cannot)?;
            if metadata.is_dir() {
                return Err(Failure::Input(format!(
                    "cannot read {}: it is a folder",
                    path.display()
                )));
            }
            let bytes = metadata.is_file().then_some(metadata.len());
            (Box::new(BufReader::with_capacity(256 << 10, file)), bytes)
        };
        Ok(Self {
            path: path.to_owned(),
            input,
            buffer: Vec::new(),
            number: 0,
            bytes_read: 0,
            bytes_total,
        })
    }

    /// The next line that is not blank.
    pub(crate) fn next(&mut self) -> Result<Option<Line<'_>>, Failure> {
        loop {
            self.buffer.clear();
            let limit = u64::try_from(LINE_BYTES_MAX).unwrap_or(u64::MAX);
            let read = (&mut self.input).take(limit).read_until(b'\n', &mut self.buffer);
            let read = read.map_err(|error| {
                let path = self.path.display();
                Failure::Input(format!("cannot read {path}: {error}"))
            })?;
            if read == 0 {
                return Ok(None);
            }
            self.number = self.number.saturating_add(1);
            self.bytes_read = self
                .bytes_read
                .saturating_add(u64::try_from(read).unwrap_or(u64::MAX));
            if read == LINE_BYTES_MAX {
                return Err(self.problem(&format!("longer than {LINE_BYTES_MAX} bytes")));
            }
            if !self.buffer.trim_ascii().is_empty() {
                break;
            }
        }
        match std::str::from_utf8(self.buffer.trim_ascii()) {
            Ok(text) => Ok(Some(Line { text })),
            Err(_) => Err(Self::problem_at(&self.path, self.number, "not UTF-8")),
        }
    }

    /// Number of the line that was read last, from 1.
    pub(crate) const fn number(&self) -> u64 {
        self.number
    }

    pub(crate) const fn bytes_read(&self) -> u64 {
        self.bytes_read
    }

    /// `None` when it is not known.
    pub(crate) const fn bytes_total(&self) -> Option<u64> {
        self.bytes_total
    }

    /// What is wrong with the line that was read last.
    pub(crate) fn problem(&self, problem: &str) -> Failure {
        Self::problem_at(&self.path, self.number, problem)
    }

    fn problem_at(path: &Path, number: u64, problem: &str) -> Failure {
        Failure::Input(format!("{} line {number}: {problem}", path.display()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn blank_lines_count_but_are_not_events() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("f");
        std::fs::write(&path, "a\n\n  \r\nb\r\n\n").unwrap();
        let mut lines = Lines::open(&path).unwrap();
        assert_eq!(lines.next().unwrap().unwrap().text, "a");
        assert_eq!(lines.next().unwrap().unwrap().text, "b");
        assert_eq!(lines.number(), 4);
        assert!(lines.next().unwrap().is_none());
    }
}
