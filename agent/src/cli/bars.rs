//! A pull on a terminal: one bar per blob.

use std::collections::HashMap;

use indicatif::{MultiProgress, ProgressBar, ProgressDrawTarget, ProgressStyle};

use super::api::PullEvent;
use super::text::short;

/// One bar per blob, in the order in which they come.
#[derive(Debug)]
pub(super) struct Bars {
    all: MultiProgress,
    blobs: HashMap<String, ProgressBar>,
}

impl Bars {
    /// Bars on standard output.
    pub(super) fn new() -> Self {
        Self::on(ProgressDrawTarget::stdout())
    }

    fn on(target: ProgressDrawTarget) -> Self {
        Self { all: MultiProgress::with_draw_target(target), blobs: HashMap::new() }
    }

    /// Moves the bar that `event` is about.
    pub(super) fn show(&mut self, event: &PullEvent) {
        let PullEvent::Blob { digest, size_bytes, done_bytes, cached } = event else {
            return;
        };
        let bar = self.blobs.entry(digest.clone()).or_insert_with(|| {
            let bar = ProgressBar::no_length().with_style(style(size_bytes.is_some())).with_prefix(short(digest));
            self.all.add(bar)
        });
        if let Some(size) = size_bytes
            && bar.length() != Some(*size)
        {
            bar.set_style(style(true));
            bar.set_length(*size);
        }
        bar.set_position(*done_bytes);
        if *cached {
            bar.set_style(compiled(CACHED));
        }
        if *size_bytes == Some(*done_bytes) && !bar.is_finished() {
            bar.finish_with_message(if *cached { "cached" } else { "done" });
        }
    }

    /// Leaves the bars where they are.
    pub(super) fn end(self) {
        for bar in self.blobs.into_values().filter(|bar| !bar.is_finished()) {
            bar.abandon();
        }
    }
}

const SIZED: &str = "{prefix} [{bar:30}] {binary_bytes:>11} / {binary_total_bytes:<11} {binary_bytes_per_sec:>13} {msg}";
const UNSIZED: &str = "{prefix} {spinner:^32} {binary_bytes:>11} {binary_bytes_per_sec:>27} {msg}";
/// Without a rate: nothing was fetched.
const CACHED: &str = "{prefix} [{bar:30}] {binary_bytes:>11} / {binary_total_bytes:<25} {msg}";

fn style(with_size: bool) -> ProgressStyle {
    compiled(if with_size { SIZED } else { UNSIZED })
}

fn compiled(template: &str) -> ProgressStyle {
    ProgressStyle::with_template(template).expect("the template must parse: it is a constant").progress_chars("=> ")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn mk_blob(digest: &str, size_bytes: Option<u64>, done_bytes: u64) -> PullEvent {
        PullEvent::Blob { digest: digest.to_owned(), size_bytes, done_bytes, cached: false }
    }

    #[test]
    fn each_blob_has_one_bar_that_ends_with_it() {
        let mut bars = Bars::on(ProgressDrawTarget::hidden());
        for event in [mk_blob("sha256:a", None, 0), mk_blob("sha256:a", Some(9), 3), mk_blob("sha256:b", Some(0), 0)] {
            bars.show(&event);
        }
        let bar = bars.blobs["sha256:a"].clone();
        assert_eq!((bars.blobs.len(), bar.length(), bar.position(), bar.is_finished()), (2, Some(9), 3, false));
        bars.show(&mk_blob("sha256:a", Some(9), 9));
        assert!(bar.is_finished() && bars.blobs["sha256:b"].is_finished());
        bars.end();
    }
}
