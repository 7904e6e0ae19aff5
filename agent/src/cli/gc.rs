//! `gc`, `pin` and `unpin`.

use jiff::Timestamp;

use super::Failure;
use super::api::{GcImage, GcReport, Pinned};
use super::client::AdminClient;
use super::screen::Screen;
use super::text::{age, clean, maybe_size, size, table};
use crate::args::{ClientArgs, GcArgs, Output, PinArgs};

/// Makes room, or says what would go.
pub(super) async fn gc(args: GcArgs, screen: &mut Screen<'_>) -> Result<(), Failure> {
    let GcArgs { dry_run, client: ClientArgs { admin, output } } = args;
    let client = AdminClient::new(&admin)?;
    let json = client.gc(dry_run).await?;
    let report = client.parse(&json)?;
    match output {
        Output::Json => screen.print(&format!("{}\n", json.trim_end())),
        Output::Table => screen.print(&text(&report, dry_run, Timestamp::now())),
    }
}

/// Pins an image, or lets it go.
pub(super) async fn pin(args: PinArgs, pinned: bool, screen: &mut Screen<'_>) -> Result<(), Failure> {
    let PinArgs { image, client: ClientArgs { admin, output } } = args;
    let client = AdminClient::new(&admin)?;
    let json = client.pin(&image.0, pinned).await?;
    let said = client.parse(&json)?;
    match output {
        Output::Json => screen.print(&format!("{}\n", json.trim_end())),
        Output::Table => screen.print(&pin_text(&said)),
    }
}

fn pin_text(said: &Pinned) -> String {
    let what = match (said.pinned, said.changed) {
        (true, true) => "is never evicted from here on",
        (true, false) => "was pinned already",
        (false, true) => "may be evicted from here on",
        (false, false) => "was not pinned",
    };
    format!("{} {what}\n", clean(&said.reference))
}

fn text(report: &GcReport, dry_run: bool, now: Timestamp) -> String {
    let GcReport { budget_bytes, used_bytes, target_bytes, missing_bytes, images, orphans } = report;
    let head = ["ACTION", "REASON", "SIZE", "LAST USED", "REFERENCE"].map(str::to_owned);
    let row = |image: &GcImage| {
        [clean(&image.action), clean(&image.reason), size(image.size_bytes), age(image.last_used, now), clean(&image.reference)]
    };
    let mut text = table(&std::iter::once(head).chain(images.iter().map(row)).collect::<Vec<_>>());
    let evicted = images.iter().filter(|image| image.action == "evict").count();
    let (went, verb) = if dry_run { ("would go", "takes") } else { ("went", "now takes") };
    text.push_str(&format!(
        "\n{evicted} of {} images and {} orphaned blobs ({}) {went}; the cache {verb} {} of {}, and eviction ends at {}\n",
        images.len(),
        orphans.blobs,
        size(orphans.bytes),
        size(*used_bytes),
        maybe_size(*budget_bytes),
        maybe_size(*target_bytes),
    ));
    if *missing_bytes > 0 {
        text.push_str(&format!("{} more should go and cannot: see the reasons of what is kept\n", size(*missing_bytes)));
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_plan_is_shown_with_the_reason_for_each_image() {
        let json = r#"{"budgetBytes": 1048576, "usedBytes": 943718, "targetBytes": 838861, "planMicros": 5, "missingBytes": 2048,
            "images": [{"reference": "docker.io/library/a:1", "action": "evict", "reason": "unused", "sizeBytes": 2048, "lastUsed": "2026-01-02T03:01:05Z"},
                       {"reference": "docker.io/library/b:1", "action": "keep", "reason": "last copy", "sizeBytes": 10, "lastUsed": null}],
            "orphans": {"blobs": 1, "bytes": 7}}"#;
        let report: GcReport = serde_json::from_str(json).unwrap();
        let expected = "\
ACTION   REASON      SIZE      LAST USED   REFERENCE
evict    unused      2.0 KiB   3m          docker.io/library/a:1
keep     last copy   10 B      -           docker.io/library/b:1

1 of 2 images and 1 orphaned blobs (7 B) would go; the cache takes 921.6 KiB of 1.0 MiB, and eviction ends at 819.2 KiB
2.0 KiB more should go and cannot: see the reasons of what is kept
";
        assert_eq!(text(&report, true, "2026-01-02T03:04:05Z".parse().unwrap()), expected);
    }

    #[test]
    fn a_pin_says_what_has_changed() {
        let said = |pinned, changed| pin_text(&Pinned { reference: "r".to_owned(), pinned, changed });
        assert_eq!(said(true, true), "r is never evicted from here on\n");
        assert_eq!(said(true, false), "r was pinned already\n");
        assert_eq!(said(false, true), "r may be evicted from here on\n");
        assert_eq!(said(false, false), "r was not pinned\n");
    }
}
