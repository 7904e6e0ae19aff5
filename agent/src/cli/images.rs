//! `ls` and `inspect`.

use jiff::Timestamp;

use super::Failure;
use super::api::{ImageDetail, ImageEntry, Images};
use super::client::AdminClient;
use super::screen::Screen;
use super::text::{age, maybe_size, short, size, table, yes};
use crate::args::{ClientArgs, InspectArgs, LsArgs, Output};

/// Lists what the agent holds.
pub(super) async fn ls(args: LsArgs, screen: &mut Screen<'_>) -> Result<(), Failure> {
    let LsArgs { client: ClientArgs { admin, output } } = args;
    let client = AdminClient::new(&admin)?;
    let json = client.images().await?;
    let Images { mut images } = client.parse(&json)?;
    images.sort_by(|a, b| a.reference.cmp(&b.reference));
    match output {
        Output::Json => screen.print(&line(&json)),
        Output::Table => screen.print(&list(&images, Timestamp::now())),
    }
}

/// Shows one image.
pub(super) async fn inspect(args: InspectArgs, screen: &mut Screen<'_>) -> Result<(), Failure> {
    let InspectArgs { image, client: ClientArgs { admin, output } } = args;
    let client = AdminClient::new(&admin)?;
    let json = client.image(&image.0).await?;
    let detail = client.parse(&json)?;
    match output {
        Output::Json => screen.print(&line(&json)),
        Output::Table => screen.print(&details(&detail, Timestamp::now())),
    }
}

fn line(json: &str) -> String {
    format!("{}\n", json.trim_end())
}

fn list(images: &[ImageEntry], now: Timestamp) -> String {
    let head = ["REFERENCE", "DIGEST", "SIZE", "LAST USED", "TAG AGE", "UPSTREAM", "COMPLETE", "PINNED"].map(str::to_owned);
    let row = |image: &ImageEntry| {
        [
            image.reference.clone(),
            short(&image.digest),
            size(image.size_bytes),
            age(image.last_used, now),
            age(image.validated_at, now),
            upstream(image),
            yes(image.complete).to_owned(),
            yes(image.pinned).to_owned(),
        ]
    };
    table(&std::iter::once(head).chain(images.iter().map(row)).collect::<Vec<_>>())
}

fn upstream(image: &ImageEntry) -> String {
    image.upstream_status.clone().unwrap_or_else(|| "-".to_owned())
}

fn details(detail: &ImageDetail, now: Timestamp) -> String {
    let ImageDetail { image, manifests } = detail;
    let facts = [
        ("Reference:", image.reference.clone()),
        ("Digest:", image.digest.clone()),
        ("Media type:", image.media_type.clone()),
        ("Size:", size(image.size_bytes)),
        ("Complete:", yes(image.complete).to_owned()),
        ("Last used:", age(image.last_used, now)),
        ("Tag age:", age(image.validated_at, now)),
        ("Upstream:", upstream(image)),
    ]
    .map(|(name, value)| [name.to_owned(), value]);

    let mut rows = vec![["MANIFEST AND ITS BLOBS", "PLATFORM", "SIZE", "CACHED", "MEDIA TYPE"].map(str::to_owned)];
    let known = |text: &Option<String>| text.clone().unwrap_or_else(|| "-".to_owned());
    for manifest in manifests {
        let size = maybe_size(manifest.size_bytes);
        rows.push([manifest.digest.clone(), known(&manifest.platform), size, yes(manifest.cached).to_owned(), known(&manifest.media_type)]);
        for blob in &manifest.blobs {
            let digest = format!("  {}", blob.digest);
            let size = maybe_size(blob.size_bytes);
            rows.push([digest, String::new(), size, yes(blob.cached).to_owned(), known(&blob.media_type)]);
        }
    }
    format!("{}\n{}", table(&facts), table(&rows))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn mk_now() -> Timestamp {
        "2026-01-02T03:04:05Z".parse().unwrap()
    }

    #[test]
    fn images_are_listed_in_columns() {
        let json = r#"{"images": [
            {"reference": "docker.io/library/nginx:1.25", "digest": "sha256:0123456789abcdef", "mediaType": "t", "sizeBytes": 196400000,
             "complete": true, "lastUsed": "2026-01-02T03:01:05Z", "validatedAt": "2026-01-02T03:04:00Z", "upstreamStatus": "ok", "pinned": true},
            {"reference": "ghcr.io/org/app@sha256:fedcba9876543210", "digest": "sha256:fedcba9876543210", "mediaType": "t", "sizeBytes": 5,
             "complete": false, "lastUsed": null, "validatedAt": null, "upstreamStatus": null, "aFieldOfTomorrow": 1}]}"#;
        let images: Images = serde_json::from_str(json).unwrap();
        let expected = "\
REFERENCE                                 DIGEST         SIZE        LAST USED   TAG AGE   UPSTREAM   COMPLETE   PINNED
docker.io/library/nginx:1.25              0123456789ab   187.3 MiB   3m          5s        ok         yes        yes
ghcr.io/org/app@sha256:fedcba9876543210   fedcba987654   5 B         -           -         -          no         no
";
        assert_eq!(list(&images.images, mk_now()), expected);
    }

    #[test]
    fn no_images_leave_the_head() {
        assert_eq!(list(&[], mk_now()), "REFERENCE   DIGEST   SIZE   LAST USED   TAG AGE   UPSTREAM   COMPLETE   PINNED\n");
    }

    #[test]
    fn an_image_is_shown_with_its_manifests_and_blobs() {
        let json = r#"{"reference": "docker.io/library/nginx:1.25", "digest": "sha256:aa", "mediaType": "index", "sizeBytes": 2048,
            "complete": true, "lastUsed": null, "validatedAt": null, "upstreamStatus": "not-found",
            "manifests": [
                {"digest": "sha256:bb", "mediaType": "manifest", "sizeBytes": 1024, "platform": "linux/amd64", "cached": true,
                 "blobs": [{"digest": "sha256:cc", "mediaType": null, "sizeBytes": null, "cached": false}]},
                {"digest": "sha256:dd", "mediaType": null, "sizeBytes": null, "platform": null, "cached": false, "blobs": []}]}"#;
        let detail: ImageDetail = serde_json::from_str(json).unwrap();
        let expected = "\
Reference:    docker.io/library/nginx:1.25
Digest:       sha256:aa
Media type:   index
Size:         2.0 KiB
Complete:     yes
Last used:    -
Tag age:      -
Upstream:     not-found

MANIFEST AND ITS BLOBS   PLATFORM      SIZE      CACHED   MEDIA TYPE
sha256:bb                linux/amd64   1.0 KiB   yes      manifest
  sha256:cc                            -         no       -
sha256:dd                -             -         no       -
";
        assert_eq!(details(&detail, mk_now()), expected);
    }
}
