//! The loops: when the disk is looked at, and when settings are read again.

use std::time::Duration;

use tokio::time::Instant;

use super::Disk;
use crate::config::Reload;
use crate::telemetry;

/// The disk is looked at so often, whatever happens: others write to it too.
const LOOK_EVERY: Duration = Duration::from_secs(10);

/// After a round that freed nothing, requests for room are refused without another plan for so long: it would come to the same.
const FRUITLESS_FOR: Duration = Duration::from_secs(5);

/// Images and blobs that may be orphans are looked for at least so far apart,
const SWEEP_MIN: Duration = Duration::from_secs(10);
/// and at most so far.
const SWEEP_MAX: Duration = Duration::from_secs(600);

/// The configuration file is looked at so often.
const RELOAD_EVERY: Duration = Duration::from_secs(5);

/// Makes room whenever it is wanted or the disk has filled up.
pub(super) async fn watch_disk(disk: &Disk) {
    let store = &disk.inner.store;
    let mut wanted = store.watch_wanted();
    let mut config = disk.inner.config.subscribe();
    let mut is_pressed = false;
    let mut fruitless_until: Option<Instant> = None;
    let mut sweep_at = Instant::now() + SWEEP_MIN;
    let mut looked_at = Instant::now();
    loop {
        let by_clock = tokio::select! {
            // The senders live as long as the disk.
            _ = wanted.changed() => false,
            _ = config.changed() => true,
            () = tokio::time::sleep_until(looked_at + LOOK_EVERY) => true,
        };
        wanted.mark_unchanged();
        if by_clock || fruitless_until.is_none_or(|until| until <= Instant::now()) {
            let outcome = disk.make_room().await;
            is_pressed = outcome.missing_bytes > 0;
            let is_fruitless = is_pressed && outcome.freed_bytes == 0;
            fruitless_until = is_fruitless.then(|| Instant::now() + FRUITLESS_FOR);
        } else {
            // Others may have let go of room.
            disk.look().await;
        }
        store.made_room(true);
        if by_clock {
            if is_pressed {
                disk.inner.metrics.pressure(looked_at.elapsed());
            }
            looked_at = Instant::now();
        }
        if sweep_at <= Instant::now() {
            disk.sweep().await;
            disk.mend().await;
            sweep_at = Instant::now() + (disk.config().orphan_grace / 4).clamp(SWEEP_MIN, SWEEP_MAX);
        }
    }
}

/// Reads the settings again when the file has changed. A mistake in it leaves them as they are.
pub(super) async fn watch_config(disk: &Disk, reload: Option<Reload>) {
    let Some(mut reload) = reload else {
        return;
    };
    loop {
        tokio::time::sleep(RELOAD_EVERY).await;
        let looked = tokio::task::spawn_blocking(move || {
            let config = reload.look();
            (reload, config)
        });
        let Ok((back, config)) = looked.await else {
            return;
        };
        reload = back;
        match config {
            Ok(None) => {}
            Ok(Some(config)) => {
                let changed = disk.inner.config.send_if_modified(|old| {
                    let changed = *old != config;
                    *old = config;
                    changed
                });
                if changed {
                    tracing::info!(config = ?disk.config(), "the section cache of the configuration file was read again");
                } else {
                    tracing::warn!("the configuration file has changed, and its section cache has not: a restart reads the rest");
                }
            }
            Err(error) => {
                let error = telemetry::chain(&error);
                tracing::error!(error, "the configuration file has changed and cannot be used: the settings stay as they were");
            }
        }
    }
}
