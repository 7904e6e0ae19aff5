//! What the chart takes and refuses.

use anyhow::{Context as _, Result, ensure};
use serde_json::{Value, json};

use crate::env::Env;
use crate::kuik::Kuik;

/// A key that does not exist is refused by the schema, with its name, and nothing changes.
pub(crate) fn a_wrong_key_is_refused_with_its_name(env: &Env) -> Result<()> {
    let kuik = Kuik::installed(env)?;
    let wrong: [(&str, Value); 4] = [
        ("cachedImagesExpirationDelay", json!({ "cachedImagesExpirationDelay": 3 })),
        ("maxSzie", json!({ "agent": { "cache": { "maxSzie": "30%" } } })),
        ("ignoredNamespace", json!({ "controllers": { "webhook": { "ignoredNamespace": ["x"] } } })),
        ("plainHTTP", json!({ "registries": { "a.b": { "plainHTTP": true } } })),
    ];
    for (key, values) in wrong {
        let refused = kuik.helm.install_with(&values, &["--dry-run"]).err().with_context(|| format!("{key} should have been refused"))?;
        let message = format!("{refused:#}");
        ensure!(message.contains(key), "the message does not name {key}: {message}");
    }
    Ok(())
}
