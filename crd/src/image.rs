//! Image references by the distribution grammar (`github.com/distribution/reference`), and the
//! localhost path that stands for each of them.

use std::fmt;
use std::str::FromStr;

use crate::digest::{Digest, DigestError};
use crate::registry::{Registry, RegistryError};
use crate::repository::{Repository, RepositoryError};

/// The most characters that runtimes accept before the tag or digest: the distribution grammar's limit.
pub const MAX_REPOSITORY_CHARS: usize = 255;

/// A tag: `[A-Za-z0-9_][A-Za-z0-9_.-]{0,127}`.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Tag(String);

impl Tag {
    /// The tag.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The tag of a reference that has none.
    #[must_use]
    pub fn latest() -> Self {
        Self("latest".to_owned())
    }
}

impl FromStr for Tag {
    type Err = ImageError;

    fn from_str(text: &str) -> Result<Self, ImageError> {
        let word = |b: u8| b.is_ascii_alphanumeric() || b == b'_';
        let mut bytes = text.bytes();
        let head = bytes.next().is_some_and(word);
        if head && text.len() <= 128 && bytes.all(|b| word(b) || b == b'.' || b == b'-') {
            Ok(Self(text.to_owned()))
        } else {
            Err(ImageError::Tag)
        }
    }
}

impl fmt::Display for Tag {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// What names a manifest within a repository.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Target {
    /// Its name, which may move.
    Tag(Tag),
    /// Its digest, which cannot.
    Digest(Digest),
}

impl FromStr for Target {
    type Err = ImageError;

    fn from_str(text: &str) -> Result<Self, ImageError> {
        if text.contains(':') { Ok(Self::Digest(text.parse()?)) } else { Ok(Self::Tag(text.parse()?)) }
    }
}

impl fmt::Display for Target {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Tag(tag) => tag.fmt(f),
            Self::Digest(digest) => digest.fmt(f),
        }
    }
}

/// An image reference, normalised: it always has a registry, and a tag or a digest or both.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Image {
    repository: Repository,
    tag: Option<Tag>,
    digest: Option<Digest>,
}

/// Why a text is not an image reference, or not one that a localhost path can express.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ImageError {
    /// The tag breaks the grammar.
    #[error("the tag is not 1 to 128 letters, digits, '_', '.' or '-', beginning with a letter, a digit or '_'")]
    Tag,
    /// The digest breaks the grammar.
    #[error(transparent)]
    Digest(#[from] DigestError),
    /// The repository breaks the grammar.
    #[error(transparent)]
    Repository(#[from] RepositoryError),
    /// The path form would be longer than runtimes accept.
    #[error("its localhost form would be longer than {MAX_REPOSITORY_CHARS} characters")]
    TooLong,
    /// A path that does not begin with the host that was expected.
    #[error("it does not begin with the agent's address")]
    NotLocal,
}

impl From<RegistryError> for ImageError {
    fn from(error: RegistryError) -> Self {
        Self::Repository(error.into())
    }
}

impl Image {
    /// An image by tag, by digest, or by both. Without either it is the tag `latest`.
    #[must_use]
    pub fn new(repository: Repository, tag: Option<Tag>, digest: Option<Digest>) -> Self {
        let tag = if tag.is_none() && digest.is_none() { Some(Tag::latest()) } else { tag };
        Self { repository, tag, digest }
    }

    /// Where it is.
    #[must_use]
    pub fn repository(&self) -> &Repository {
        &self.repository
    }

    /// Its tag, if the reference has one.
    #[must_use]
    pub fn tag(&self) -> Option<&Tag> {
        self.tag.as_ref()
    }

    /// Its digest, if the reference has one.
    #[must_use]
    pub fn digest(&self) -> Option<&Digest> {
        self.digest.as_ref()
    }

    /// What a runtime asks a registry for: the digest where there is one, else the tag.
    #[must_use]
    pub fn target(&self) -> Target {
        match (&self.digest, &self.tag) {
            (Some(digest), _) => Target::Digest(*digest),
            (None, Some(tag)) => Target::Tag(tag.clone()),
            (None, None) => Target::Tag(Tag::latest()),
        }
    }

    /// The reference that makes a runtime pull this image from an agent at `address`, such as `localhost:7439`.
    ///
    /// # Errors
    /// [`ImageError::TooLong`] when the part before tag and digest would pass [`MAX_REPOSITORY_CHARS`].
    pub fn to_local(&self, address: &str) -> Result<String, ImageError> {
        let path = self.repository.to_path();
        if path.len() > MAX_REPOSITORY_CHARS {
            return Err(ImageError::TooLong);
        }
        Ok(format!("{address}/{path}{}", self.suffix()))
    }

    /// Reads what [`Image::to_local`] wrote.
    ///
    /// # Errors
    /// When `text` does not begin with `address`, or the rest is no reference.
    pub fn from_local(address: &str, text: &str) -> Result<Self, ImageError> {
        let rest = text.strip_prefix(address).and_then(|rest| rest.strip_prefix('/')).ok_or(ImageError::NotLocal)?;
        let (path, tag, digest) = split(rest)?;
        Ok(Self::new(Repository::from_path(path)?, tag, digest))
    }

    fn suffix(&self) -> String {
        let tag = self.tag.as_ref().map(|tag| format!(":{tag}")).unwrap_or_default();
        let digest = self.digest.map(|digest| format!("@{digest}")).unwrap_or_default();
        tag + &digest
    }
}

/// Splits `name[:tag][@digest]`; a colon before the last slash belongs to the registry's port.
fn split(text: &str) -> Result<(&str, Option<Tag>, Option<Digest>), ImageError> {
    let (rest, digest) = match text.split_once('@') {
        Some((rest, digest)) => (rest, Some(digest.parse()?)),
        None => (text, None),
    };
    let name_start = rest.rfind('/').map_or(0, |slash| slash + 1);
    match rest[name_start..].find(':') {
        Some(colon) => {
            let colon = name_start + colon;
            Ok((&rest[..colon], Some(rest[colon + 1..].parse()?), digest))
        }
        None => Ok((rest, None, digest)),
    }
}

impl FromStr for Image {
    type Err = ImageError;

    fn from_str(text: &str) -> Result<Self, ImageError> {
        let (name, tag, digest) = split(text)?;
        let repository = match name.split_once('/') {
            Some((first, rest)) if Registry::is_registry_segment(first) => Repository::new(first.parse()?, rest)?,
            _ => Repository::new(Registry::docker_hub(), name)?,
        };
        Ok(Self::new(repository, tag, digest))
    }
}

impl fmt::Display for Image {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}{}", self.repository, self.suffix())
    }
}
