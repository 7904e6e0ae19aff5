//! Error codes and the error body, from the distribution specification, "Error Codes".

use serde::Serialize;

/// The closed list of codes that the agent answers with.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ErrorCode {
    BlobUnknown,
    Denied,
    DigestInvalid,
    ManifestInvalid,
    ManifestUnknown,
    NameInvalid,
    NameUnknown,
    SizeInvalid,
    TooManyRequests,
    Unauthorized,
    Unavailable,
    Unknown,
    Unsupported,
}

impl ErrorCode {
    /// The code as clients read it. `UNAVAILABLE` and `UNKNOWN` are the reference implementation's.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::BlobUnknown => "BLOB_UNKNOWN",
            Self::Denied => "DENIED",
            Self::DigestInvalid => "DIGEST_INVALID",
            Self::ManifestInvalid => "MANIFEST_INVALID",
            Self::ManifestUnknown => "MANIFEST_UNKNOWN",
            Self::NameInvalid => "NAME_INVALID",
            Self::NameUnknown => "NAME_UNKNOWN",
            Self::SizeInvalid => "SIZE_INVALID",
            Self::TooManyRequests => "TOOMANYREQUESTS",
            Self::Unauthorized => "UNAUTHORIZED",
            Self::Unavailable => "UNAVAILABLE",
            Self::Unknown => "UNKNOWN",
            Self::Unsupported => "UNSUPPORTED",
        }
    }
}

/// The JSON body of an error answer: `{"errors":[{"code":…,"message":…}]}`.
#[derive(Debug, Serialize)]
pub struct ErrorBody<'a> {
    errors: [ErrorEntry<'a>; 1],
}

#[derive(Debug, Serialize)]
struct ErrorEntry<'a> {
    code: &'static str,
    message: &'a str,
}

impl<'a> ErrorBody<'a> {
    /// A body with one error.
    #[must_use]
    pub fn new(code: ErrorCode, message: &'a str) -> Self {
        Self { errors: [ErrorEntry { code: code.as_str(), message }] }
    }

    /// The bytes to send.
    #[must_use]
    pub fn to_json(&self) -> Vec<u8> {
        serde_json::to_vec(self).expect("an error body must serialise: it holds only strings")
    }
}
