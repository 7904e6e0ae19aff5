//! Certificates from files, for those who have cert-manager make them. Kubelets change such files by swapping a link, so they are read
//! now and then, and compared.

use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use tokio::time::MissedTickBehavior;
use tokio_util::sync::CancellationToken;

use super::loaded::Certificates;
use super::x509::Pair;

/// How often the files are read.
const INTERVAL: Duration = Duration::from_secs(5);

/// Loads the files, and again whenever they have changed, until `stop`.
pub(super) async fn follow(dir: PathBuf, certificates: Certificates, stop: CancellationToken) {
    let mut ticks = tokio::time::interval(INTERVAL);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut complained = None;
    loop {
        tokio::select! {
            () = stop.cancelled() => return,
            _ = ticks.tick() => {}
        }
        let trouble = match read(&dir).await {
            Ok((pair, bundle)) => certificates.load(&pair, &bundle).err().map(|error| super::chain(&error)),
            Err(error) => Some(error.to_string()),
        };
        if let Some(trouble) = &trouble {
            certificates.metrics().error("files");
            if complained.as_ref() != Some(trouble) {
                tracing::error!("the certificate in {} cannot be used: {trouble}", dir.display());
            }
        }
        complained = trouble;
    }
}

async fn read(dir: &Path) -> io::Result<(Pair, String)> {
    let file = async |name: &str| {
        let path = dir.join(name);
        let text = tokio::fs::read_to_string(&path).await;
        text.map_err(|error| io::Error::new(error.kind(), format!("{}: {error}", path.display())))
    };
    let pair = Pair { certificate: file("tls.crt").await?, key: file("tls.key").await? };
    // Issuers of public certificates give no authority.
    let bundle = match file("ca.crt").await {
        Err(error) if error.kind() == io::ErrorKind::NotFound => String::new(),
        bundle => bundle?,
    };
    Ok((pair, bundle))
}
