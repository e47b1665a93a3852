//! One stream of lines from many processes: each line of a node begins with its name. Notices of `dev` itself and the
//! nodes' addresses go to standard output, the nodes' logs to standard error, where `serve` has them too.

use std::io::{self, Write};
use std::sync::Mutex;

use tokio::io::{AsyncRead, AsyncReadExt};

/// A line without an end is broken here, in bytes, so that memory stays bounded.
const LINE_BYTES_MAX: usize = 64 << 10;
/// Bytes read from a node's output at once.
const READ_BYTES: usize = 16 << 10;

type Sink = Mutex<Box<dyn Write + Send>>;

pub(super) struct Console {
    out: Sink,
    err: Sink,
}

impl Console {
    pub(super) fn standard() -> Self {
        Self::new(Box::new(io::stdout()), Box::new(io::stderr()))
    }

    pub(super) fn new(out: Box<dyn Write + Send>, err: Box<dyn Write + Send>) -> Self {
        Self { out: Mutex::new(out), err: Mutex::new(err) }
    }

    /// What `dev` itself has to say. An indented line is a command, bare so that it can be copied whole.
    pub(super) fn notice(&self, text: &str) {
        let prefix = |line: &str| if line.starts_with(' ') { "" } else { "dev | " };
        let lines: String = text.lines().map(|line| format!("{}{line}\n", prefix(line))).collect();
        write(&self.out, lines.as_bytes());
    }

    pub(super) fn plain(&self, text: &str) {
        write(&self.out, text.as_bytes());
    }

    /// Carries a process's output here, line by line, until it ends.
    pub(super) async fn carry(&self, name: &str, mut from: impl AsyncRead + Unpin) {
        let mut prefixer = Prefixer::new(name);
        let mut bytes = vec![0; READ_BYTES];
        while let Ok(count @ 1..) = from.read(&mut bytes).await {
            write(&self.err, &prefixer.feed(&bytes[..count]));
        }
        write(&self.err, &prefixer.finish());
    }
}

/// Nobody may be reading any more; the nodes go on all the same.
fn write(sink: &Sink, bytes: &[u8]) {
    let mut sink = sink.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
    let _ = sink.write_all(bytes).and_then(|()| sink.flush());
}

/// Puts a prefix before each line of a stream that comes in pieces. A line is given out only when it is whole, so that
/// lines of several processes never mix.
struct Prefixer {
    prefix: String,
    /// The beginning of a line, without its end. Shorter than `LINE_BYTES_MAX`.
    partial: Vec<u8>,
}

impl Prefixer {
    fn new(name: &str) -> Self {
        Self { prefix: format!("{name} | "), partial: Vec::new() }
    }

    fn feed(&mut self, bytes: &[u8]) -> Vec<u8> {
        let mut lines = Vec::new();
        for piece in bytes.split_inclusive(|byte| *byte == b'\n') {
            let mut rest = piece;
            while self.partial.len() + rest.len() > LINE_BYTES_MAX {
                let (now, later) = rest.split_at(LINE_BYTES_MAX - self.partial.len());
                self.partial.extend_from_slice(now);
                rest = later;
                lines.append(&mut self.finish());
            }
            self.partial.extend_from_slice(rest);
            if self.partial.last() == Some(&b'\n') {
                self.partial.pop();
                self.end_line(&mut lines);
            }
        }
        lines
    }

    /// What is left when the stream ends without a newline.
    fn finish(&mut self) -> Vec<u8> {
        let mut lines = Vec::new();
        if !self.partial.is_empty() {
            self.end_line(&mut lines);
        }
        lines
    }

    fn end_line(&mut self, lines: &mut Vec<u8>) {
        lines.extend_from_slice(self.prefix.as_bytes());
        lines.append(&mut self.partial);
        lines.push(b'\n');
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn every_line_begins_with_the_nodes_name() {
        let mut prefixer = Prefixer::new("n1");
        assert_eq!(prefixer.feed(b"one\n\ntwo\nth"), b"n1 | one\nn1 | \nn1 | two\n");
        assert_eq!(prefixer.feed(b"ree\n"), b"n1 | three\n");
        assert_eq!(prefixer.finish(), b"");
        assert_eq!(prefixer.feed(b"\xff last"), b"");
        assert_eq!(prefixer.finish(), b"n1 | \xff last\n");
    }

    #[test]
    fn a_line_without_an_end_is_broken_and_not_kept() {
        let mut prefixer = Prefixer::new("n1");
        let out = prefixer.feed(&vec![b'x'; 2 * LINE_BYTES_MAX + 1]);
        assert_eq!(out.iter().filter(|byte| **byte == b'\n').count(), 2);
        assert_eq!(prefixer.partial.len(), 1);
    }

    proptest! {
        #[test]
        fn where_the_stream_is_cut_makes_no_difference(text in "[a\n]{0,60}", cuts in proptest::collection::vec(1usize..9, 0..60)) {
            let mut whole = Prefixer::new("n");
            let mut wanted = whole.feed(text.as_bytes());
            wanted.extend(whole.finish());
            let mut pieces = Prefixer::new("n");
            let (mut got, mut rest) = (Vec::new(), text.as_bytes());
            for cut in cuts {
                let (piece, later) = rest.split_at(cut.min(rest.len()));
                got.extend(pieces.feed(piece));
                rest = later;
            }
            got.extend(pieces.feed(rest));
            got.extend(pieces.finish());
            prop_assert_eq!(got, wanted);
        }
    }
}
