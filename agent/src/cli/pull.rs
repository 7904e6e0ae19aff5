//! `pull`: has the agent fetch an image, and shows how far it is.

use kuik_crd::Image;
use tokio::time::Instant;

use super::api::PullEvent;
use super::bars::Bars;
use super::client::{AdminClient, Lines};
use super::plain::Plain;
use super::screen::Screen;
use super::text::{clean, size};
use super::{Failure, Platform};
use crate::args::{ClientArgs, Output, PullArgs};

/// Fetches an image.
pub(super) async fn pull(args: PullArgs, screen: &mut Screen<'_>) -> Result<(), Failure> {
    let PullArgs { image, platform, all_platforms, client: ClientArgs { admin, output } } = args;
    let platform = if all_platforms { None } else { Some(platform.unwrap_or_else(Platform::own)) };
    let client = AdminClient::new(&admin)?;
    let lines = client.pull(&image.0, platform.as_ref()).await?;
    let mut view = match output {
        Output::Json => View::Json,
        Output::Table if screen.is_terminal() => View::Bars(Bars::new()),
        Output::Table => View::Plain(Plain::default()),
    };
    let done = follow(lines, &mut view, screen).await;
    match (done, view) {
        (Ok(_), View::Json) => Ok(()),
        (Ok(done), view) => {
            view.end();
            screen.print(&summary(&image.0, &done))
        }
        (Err(failure), view) => {
            view.end();
            Err(failure)
        }
    }
}

/// How a pull is shown.
enum View {
    Json,
    Bars(Bars),
    Plain(Plain),
}

impl View {
    fn show(&mut self, line: &str, event: &PullEvent, screen: &mut Screen<'_>) -> Result<(), Failure> {
        match self {
            Self::Json => screen.print(&format!("{line}\n")),
            Self::Bars(bars) => {
                bars.show(event);
                Ok(())
            }
            Self::Plain(plain) => screen.print(&plain.lines(event, Instant::now())),
        }
    }

    fn end(self) {
        if let Self::Bars(bars) = self {
            bars.end();
        }
    }
}

/// What a finished pull brought.
#[derive(Debug)]
struct Done {
    digest: String,
    bytes: u64,
}

async fn follow(mut lines: Lines, view: &mut View, screen: &mut Screen<'_>) -> Result<Done, Failure> {
    while let Some(line) = lines.next().await? {
        let event = serde_json::from_str(&line).map_err(|error| lines.no_event(&error))?;
        view.show(&line, &event, screen)?;
        match event {
            PullEvent::Done { digest, bytes } => return Ok(Done { digest, bytes }),
            PullEvent::Error { message } => return Err(Failure::Pull(clean(&message))),
            PullEvent::Manifest { .. } | PullEvent::Blob { .. } | PullEvent::Unknown => {}
        }
    }
    Err(lines.unfinished().into())
}

fn summary(image: &Image, done: &Done) -> String {
    format!("{image} is in the cache: {}, {}\n", clean(&done.digest), size(done.bytes))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_line_names_image_digest_and_size() {
        let done = Done { digest: "sha256:aa".to_owned(), bytes: 2048 };
        assert_eq!(summary(&"nginx".parse().unwrap(), &done), "docker.io/library/nginx:latest is in the cache: sha256:aa, 2.0 KiB\n");
    }
}
