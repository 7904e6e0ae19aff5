//! A pull in a log or a pipe: a line when a blob begins and ends, and now and then between.

use std::collections::HashMap;
use std::time::Duration;

use tokio::time::Instant;

use super::api::PullEvent;
use super::text::{clean, short, size};

/// A blob that takes its time is reported so often.
const EVERY: Duration = Duration::from_secs(10);

/// What was said so far. Pure: the time is handed in.
#[derive(Debug, Default)]
pub(super) struct Plain {
    blobs: HashMap<String, Blob>,
}

#[derive(Debug)]
struct Blob {
    begun: Instant,
    reported: Instant,
    ended: bool,
}

impl Plain {
    /// The lines that `event` is worth: often none.
    pub(super) fn lines(&mut self, event: &PullEvent, now: Instant) -> String {
        match event {
            PullEvent::Manifest { digest, media_type, size_bytes } => {
                format!("manifest {}  {}  {}\n", short(digest), size(*size_bytes), clean(media_type))
            }
            PullEvent::Blob { digest, size_bytes, done_bytes, cached: true } => {
                format!("blob     {}  {}  cached\n", short(digest), size(size_bytes.unwrap_or(*done_bytes)))
            }
            PullEvent::Blob { digest, size_bytes, done_bytes, cached: false } => self.blob(digest, *size_bytes, *done_bytes, now),
            PullEvent::Error { .. } | PullEvent::Done { .. } | PullEvent::Unknown => String::new(),
        }
    }

    fn blob(&mut self, digest: &str, size_bytes: Option<u64>, done_bytes: u64, now: Instant) -> String {
        let name = short(digest);
        let mut text = String::new();
        let blob = self.blobs.entry(digest.to_owned()).or_insert_with(|| {
            text = format!("blob     {name}  {}  begins\n", size_bytes.map_or_else(|| "of unknown size".to_owned(), size));
            Blob { begun: now, reported: now, ended: false }
        });
        if size_bytes == Some(done_bytes) && !blob.ended {
            blob.ended = true;
            text.push_str(&format!("blob     {name}  {}  done in {:.1}s\n", size(done_bytes), (now - blob.begun).as_secs_f64()));
        } else if now - blob.reported >= EVERY {
            blob.reported = now;
            text.push_str(&format!("blob     {name}  {}\n", progress(done_bytes, size_bytes)));
        }
        text
    }
}

fn progress(done_bytes: u64, size_bytes: Option<u64>) -> String {
    match size_bytes {
        Some(total @ 1..) => {
            format!("{} of {} ({}%)", size(done_bytes), size(total), u128::from(done_bytes) * 100 / u128::from(total))
        }
        _ => size(done_bytes),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn mk_blob(size_bytes: Option<u64>, done_bytes: u64, cached: bool) -> PullEvent {
        PullEvent::Blob { digest: "sha256:0123456789abcdef".to_owned(), size_bytes, done_bytes, cached }
    }

    #[test]
    fn a_blob_has_a_line_at_its_begin_and_end_and_every_ten_seconds() {
        let begin = Instant::now();
        let mut plain = Plain::default();
        let mut check = |second, done_bytes, expected: &str| {
            let now = begin + Duration::from_secs(second);
            assert_eq!(plain.lines(&mk_blob(Some(2048), done_bytes, false), now), expected, "{second}");
        };
        check(0, 0, "blob     0123456789ab  2.0 KiB  begins\n");
        check(1, 100, "");
        check(9, 200, "");
        check(10, 512, "blob     0123456789ab  512 B of 2.0 KiB (25%)\n");
        check(19, 600, "");
        check(21, 1024, "blob     0123456789ab  1.0 KiB of 2.0 KiB (50%)\n");
        check(22, 2048, "blob     0123456789ab  2.0 KiB  done in 22.0s\n");
        check(23, 2048, "");
    }

    #[test]
    fn a_blob_of_unknown_size_says_so() {
        let now = Instant::now();
        let mut plain = Plain::default();
        assert_eq!(plain.lines(&mk_blob(None, 0, false), now), "blob     0123456789ab  of unknown size  begins\n");
        assert_eq!(plain.lines(&mk_blob(None, 7, false), now + EVERY), "blob     0123456789ab  7 B\n");
        assert_eq!(plain.lines(&mk_blob(Some(9), 9, false), now + EVERY), "blob     0123456789ab  9 B  done in 10.0s\n");
    }

    #[test]
    fn what_is_there_already_has_one_line() {
        let mut plain = Plain::default();
        let now = Instant::now();
        assert_eq!(plain.lines(&mk_blob(Some(9), 9, true), now), "blob     0123456789ab  9 B  cached\n");
        let manifest = PullEvent::Manifest { digest: "sha256:aa".to_owned(), media_type: "m\u{7}t".to_owned(), size_bytes: 5 };
        assert_eq!(plain.lines(&manifest, now), "manifest aa  5 B  m\u{fffd}t\n");
        assert_eq!(plain.lines(&PullEvent::Unknown, now), "");
    }
}
