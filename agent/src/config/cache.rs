//! What the cache may take of the disk: section `cache` of the file, flags over it, and which of them cannot both be meant.

use std::path::Path;
use std::time::Duration;

use super::Amount;
use super::amount::Watermark;
use super::error::{ConfigError, Place};
use super::file::{CacheFile, ScrubFile};
use super::scalar::{Span, Text};
use crate::args::CacheArgs;

/// What the cache may take of the disk. May change while the agent runs.
#[derive(Debug, Clone, PartialEq)]
pub struct CacheConfig {
    /// The most that the data directory may take; no limit where there is none.
    pub max_size: Option<Amount>,
    /// Eviction begins at this share of what the cache may take,
    pub high_watermark: f64,
    /// and ends at this one.
    pub low_watermark: f64,
    /// What is left free of the file system.
    pub min_free: Amount,
    /// Which nodes keep what passes through them.
    pub scope: Scope,
    /// Blobs that nothing references go when they were not used for so long.
    pub orphan_grace: Duration,
    /// What is stored is hashed anew.
    pub scrub: ScrubConfig,
}

/// How stored blobs are hashed anew, all the time.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ScrubConfig {
    /// Every blob once in so long; zero turns it off.
    pub interval: Duration,
    /// The most that is read in a second, in bytes.
    pub rate: u64,
}

impl Default for CacheConfig {
    fn default() -> Self {
        Self {
            max_size: None,
            high_watermark: 0.9,
            low_watermark: 0.8,
            min_free: Amount::PerMille(100),
            scope: Scope::Node,
            orphan_grace: Duration::from_secs(3600),
            scrub: ScrubConfig { interval: Duration::from_secs(7 * 24 * 3600), rate: 20 << 20 },
        }
    }
}

/// Which nodes keep what passes through them.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, serde::Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum Scope {
    /// Every node what it pulled.
    #[default]
    Node,
    /// Only the nodes that are to keep it.
    Keepers,
}

/// Lays flags over the file, and refuses what makes no sense, under the name by which it was said.
pub(super) fn read(args: CacheArgs, file: CacheFile, path: &Path) -> Result<CacheConfig, ConfigError> {
    let CacheArgs {
        cache_max_size,
        cache_high_watermark,
        cache_low_watermark,
        cache_min_free,
        cache_orphan_grace,
        cache_scrub_interval,
        cache_scrub_rate,
    } = args;
    let CacheFile { max_size, high_watermark, low_watermark, min_free, scope, orphan_grace, scrub } = file;
    let ScrubFile { interval, rate } = scrub.unwrap_or_default();
    let defaults = CacheConfig::default();
    let span = |flag: Option<Span>, file: Option<Text<Span>>, default| {
        flag.or(file.map(|Text(span)| span)).map_or(default, |Span(duration)| duration)
    };
    let share = |flag: Option<Watermark>, file: Option<Watermark>, default| flag.or(file).map_or(default, |Watermark(share)| share);
    let rate_flag = cache_scrub_rate.is_some();
    let config = CacheConfig {
        max_size: cache_max_size.or(max_size),
        high_watermark: share(cache_high_watermark, high_watermark, defaults.high_watermark),
        low_watermark: share(cache_low_watermark, low_watermark, defaults.low_watermark),
        min_free: cache_min_free.or(min_free).unwrap_or(defaults.min_free),
        scope: scope.unwrap_or_default(),
        orphan_grace: span(cache_orphan_grace, orphan_grace, defaults.orphan_grace),
        scrub: ScrubConfig {
            interval: span(cache_scrub_interval, interval, defaults.scrub.interval),
            rate: match cache_scrub_rate.or(rate) {
                Some(Amount::Bytes(bytes)) if bytes > 0 => bytes,
                Some(_) => {
                    let message = "expected bytes in a second, such as 20Mi, and more than 0; an interval of 0s turns scrubbing off";
                    return Err(place(rate_flag, "--cache-scrub-rate", path, "cache.scrub.rate").refuse(message));
                }
                None => defaults.scrub.rate,
            },
        },
    };
    let said = Said { max_size: cache_max_size.is_some(), low: cache_low_watermark.is_some(), min_free: cache_min_free.is_some() };
    check(&config, &said, path)?;
    Ok(config)
}

/// What was said by a flag, and not in the file.
struct Said {
    max_size: bool,
    low: bool,
    min_free: bool,
}

fn place(by_flag: bool, flag: &'static str, path: &Path, key: &str) -> Place {
    // Without a file, what is wrong can only come from flags.
    if by_flag || path.as_os_str().is_empty() { Place::Flag(flag) } else { Place::key(path, key) }
}

fn check(config: &CacheConfig, said: &Said, path: &Path) -> Result<(), ConfigError> {
    let CacheConfig { max_size, high_watermark, low_watermark, min_free, .. } = config;
    let max_place = || place(said.max_size, "--cache-max-size", path, "cache.maxSize");
    if max_size.is_some_and(Amount::is_zero) {
        return Err(max_place().refuse("0 leaves no room for anything: expected more"));
    }
    if low_watermark >= high_watermark {
        let message = format!("{low_watermark} is not below highWatermark, which is {high_watermark}: expected less");
        return Err(place(said.low, "--cache-low-watermark", path, "cache.lowWatermark").refuse(message));
    }
    if let Amount::PerMille(free) = min_free {
        if *free >= 1000 {
            let place = place(said.min_free, "--cache-min-free", path, "cache.minFree");
            return Err(place.refuse(format!("{min_free} of the file system leaves no room for anything: expected less")));
        }
        if let Some(size @ Amount::PerMille(share)) = max_size
            && share + free > 1000
        {
            let message = format!("{size} and minFree, which is {min_free}, are more than the file system together: expected less");
            return Err(max_place().refuse(message));
        }
    }
    Ok(())
}
