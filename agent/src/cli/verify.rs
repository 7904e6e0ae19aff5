//! `verify`: has the agent hash everything that it holds.

use std::time::Duration;

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use tokio::time::Instant;

use super::Failure;
use super::api::VerifyEvent;
use super::client::{AdminClient, Lines};
use super::screen::Screen;
use super::text::{blobs, clean, size};
use crate::args::{ClientArgs, Output, VerifyArgs};

/// In a log or a pipe the progress is reported so often.
const EVERY: Duration = Duration::from_secs(10);

/// Whether everything is as it should be.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Verdict {
    /// Every blob has its digest.
    Good,
    /// At least one has not.
    Bad,
}

/// Hashes everything.
pub(super) async fn verify(args: VerifyArgs, screen: &mut Screen<'_>) -> Result<Verdict, Failure> {
    let VerifyArgs { client: ClientArgs { admin, output } } = args;
    let lines = AdminClient::new(&admin)?.verify().await?;
    let mut view = match output {
        Output::Json => View::Json,
        Output::Table if screen.is_terminal() => View::Bar(mk_bar()),
        Output::Table => View::Plain(Instant::now()),
    };
    let verdict = follow(lines, &mut view, screen).await;
    if let View::Bar(bar) = view
        && !bar.is_finished()
    {
        bar.abandon();
    }
    verdict
}

/// How it is shown.
enum View {
    Json,
    Bar(ProgressBar),
    /// When the progress was last reported.
    Plain(Instant),
}

impl View {
    fn show(&mut self, line: &str, event: &VerifyEvent, screen: &mut Screen<'_>) -> Result<(), Failure> {
        match self {
            Self::Json => screen.print(&format!("{line}\n")),
            Self::Bar(bar) => {
                if let VerifyEvent::Progress { checked, total, bytes } = event {
                    bar.set_length(*total);
                    bar.set_position(*checked);
                    bar.set_message(size(*bytes));
                    return Ok(());
                }
                if matches!(event, VerifyEvent::Done { .. }) {
                    bar.finish_and_clear();
                }
                bar.suspend(|| screen.print(&text(event)))
            }
            Self::Plain(reported) => {
                if matches!(event, VerifyEvent::Progress { .. }) {
                    if reported.elapsed() < EVERY {
                        return Ok(());
                    }
                    *reported = Instant::now();
                }
                screen.print(&text(event))
            }
        }
    }
}

async fn follow(mut lines: Lines, view: &mut View, screen: &mut Screen<'_>) -> Result<Verdict, Failure> {
    let mut verdict = Verdict::Good;
    while let Some(line) = lines.next().await? {
        let event = serde_json::from_str(&line).map_err(|error| lines.no_event(&error))?;
        view.show(&line, &event, screen)?;
        match event {
            VerifyEvent::Bad { .. } => verdict = Verdict::Bad,
            VerifyEvent::Done { quarantined: 1.., .. } => return Ok(Verdict::Bad),
            VerifyEvent::Done { .. } => return Ok(verdict),
            VerifyEvent::Progress { .. } | VerifyEvent::Unknown => {}
        }
    }
    Err(lines.unfinished().into())
}

/// What an event is in words.
fn text(event: &VerifyEvent) -> String {
    match event {
        VerifyEvent::Progress { checked, total, bytes } => format!("{checked} of {}, {}\n", blobs(*total), size(*bytes)),
        VerifyEvent::Bad { digest, reason } => format!("bad: {}: {}\n", clean(digest), clean(reason)),
        VerifyEvent::Done { checked, bytes, quarantined } => {
            format!("{} checked, {}: {quarantined} quarantined\n", blobs(*checked), size(*bytes))
        }
        VerifyEvent::Unknown => String::new(),
    }
}

fn mk_bar() -> ProgressBar {
    let style = ProgressStyle::with_template("[{bar:30}] {pos} of {len} blobs, {msg}").expect("the template must parse: it is a constant");
    ProgressBar::with_draw_target(Some(0), ProgressDrawTarget::stdout()).with_style(style.progress_chars("=> "))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn events_are_told_in_words() {
        let check = |event, expected| assert_eq!(text(&event), expected);
        check(VerifyEvent::Progress { checked: 1, total: 2, bytes: 1024 }, "1 of 2 blobs, 1.0 KiB\n");
        check(VerifyEvent::Bad { digest: "sha256:aa".to_owned(), reason: "rot\n".to_owned() }, "bad: sha256:aa: rot\u{fffd}\n");
        check(VerifyEvent::Done { checked: 2, bytes: 2048, quarantined: 1 }, "2 blobs checked, 2.0 KiB: 1 quarantined\n");
        check(VerifyEvent::Unknown, "");
    }
}
