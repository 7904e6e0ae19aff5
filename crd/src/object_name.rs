//! The names of `CachedImage` objects and the values of their repository label, as kuik v1 made them.

use sha2::{Digest as _, Sha224};

use crate::image::Image;
use crate::names::LABEL_MAX_CHARS;
use crate::repository::Repository;

/// The most characters of an object's name.
const NAME_MAX_CHARS: usize = 253;

/// Hex digits of the hash that tells names apart.
const HASH_CHARS: usize = 12;

/// The name of the `CachedImage` of an image: its normalised reference in lower case, with `-` for what object names cannot hold.
///
/// `docker.io/library/nginx:1.25` is `docker.io-library-nginx-1.25`. Names that would be too long end in a hash.
///
/// Two images can have the same name (`a/b-c` and `a-b/c`): the second one gets [`object_name_hashed`].
#[must_use]
pub fn object_name(image: &Image) -> String {
    let name = sanitize(&image.to_string());
    if name.len() > NAME_MAX_CHARS { object_name_hashed(image) } else { name }
}

/// The name of the `CachedImage` of an image whose [`object_name`] belongs to another image.
#[must_use]
pub fn object_name_hashed(image: &Image) -> String {
    let text = image.to_string();
    let mut name = sanitize(&text);
    name.truncate(NAME_MAX_CHARS - HASH_CHARS - 1);
    let name = name.trim_end_matches(['-', '.']);
    format!("{name}-{}", &sha224_hex(&text)[..HASH_CHARS])
}

/// The value of the label [`crate::names::REPOSITORY_LABEL`]: the sanitised repository, or its SHA-224 in hex if that is too long for a label.
#[must_use]
pub fn repository_label(repository: &Repository) -> String {
    let text = repository.to_string();
    let name = sanitize(&text);
    if name.len() > LABEL_MAX_CHARS { sha224_hex(&text) } else { name }
}

/// The pieces of `text` that an object's name may hold, joined with `-`: each begins and ends with a letter or digit.
fn sanitize(text: &str) -> String {
    let lower = text.to_ascii_lowercase();
    let mut pieces: Vec<String> = Vec::new();
    for run in lower.split(|c: char| !(c.is_ascii_alphanumeric() || c == '-' || c == '.')) {
        // Within a run, a dot must have a letter or digit on both sides.
        let labels = run.split('.').map(|label| label.trim_matches('-')).filter(|label| !label.is_empty());
        let dotted: Vec<&str> = labels.collect();
        if !dotted.is_empty() {
            pieces.push(dotted.join("."));
        }
    }
    pieces.join("-")
}

fn sha224_hex(text: &str) -> String {
    Sha224::digest(text.as_bytes()).iter().map(|byte| format!("{byte:02x}")).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn name(text: &str) -> String {
        object_name(&text.parse().unwrap())
    }

    #[test]
    fn names_are_those_of_kuik_v1() {
        for (image, expected) in [
            ("nginx", "docker.io-library-nginx-latest"),
            ("nginx:1.25", "docker.io-library-nginx-1.25"),
            ("quay.io/enix/App:V1_Beta".to_lowercase().as_str(), "quay.io-enix-app-v1-beta"),
            ("registry.local:5000/team/app:1", "registry.local-5000-team-app-1"),
            ("alpine:3.19__x", "docker.io-library-alpine-3.19-x"),
        ] {
            assert_eq!(name(image), expected, "{image}");
        }
        let digest = format!("nginx@sha256:{}", "ab".repeat(32));
        assert_eq!(name(&digest), format!("docker.io-library-nginx-sha256-{}", "ab".repeat(32)));
    }

    #[test]
    fn long_names_and_clashing_names_end_in_a_hash() {
        let long: Image = format!("quay.io/{}:{}", "a/".repeat(100) + "b", "t".repeat(128)).parse().unwrap();
        assert!(object_name(&long).len() <= NAME_MAX_CHARS);
        let (one, other): (Image, Image) = ("quay.io/a/b-c:1".parse().unwrap(), "quay.io/a-b/c:1".parse().unwrap());
        assert_eq!(object_name(&one), object_name(&other));
        assert_ne!(object_name_hashed(&one), object_name_hashed(&other));
    }

    #[test]
    fn labels_fit() {
        let image: Image = format!("quay.io/{}", "long-".repeat(15) + "name").parse().unwrap();
        assert_eq!(repository_label(image.repository()).len(), 56);
        let image: Image = "nginx".parse().unwrap();
        assert_eq!(repository_label(image.repository()), "docker.io-library-nginx");
    }
}
