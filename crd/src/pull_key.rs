//! The public half of what signs pull tokens.

use serde::{Deserialize, Serialize};

/// What agents check tokens with.
#[derive(Debug, Clone, Default, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct PullKey {
    /// The first 16 hex digits of the SHA-256 of the public key.
    pub id: String,
    /// The public key, 32 bytes in base64url without padding.
    pub public_key: String,
}
