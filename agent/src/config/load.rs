//! Flags and environment over file over defaults, and everything that can be checked before a port is bound.

use std::collections::BTreeMap;
use std::collections::btree_map::Entry;
use std::path::{Path, PathBuf};

use kuik_crd::Registry;
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject as _;

use super::error::{ConfigError, Place};
use super::file::{File, LimitsFile, RegistryFile, RegistryLimitsFile, TagsFile, UpstreamFile, spell_key};
use super::scalar::{Address, Count, FilePath, Host, Span, Text, Timeout};
use super::{
    Config, ControlAddress, ControlConfig, LimitsConfig, LogConfig, RegistryConfig, Reload, TagsConfig, UpstreamConfig, auth, cache,
};
use crate::args::{ControlArgs, ServeArgs};

impl Config {
    /// The configuration that `args` and the file they name amount to.
    ///
    /// # Errors
    /// When the file or a file that it names cannot be read, or a value is not one.
    pub fn load(args: ServeArgs) -> Result<Self, ConfigError> {
        match &args.config {
            Some(path) => {
                let reload = Reload::new(&args);
                let file = File::read(path)?;
                Ok(Self { reload, ..merge(args.clone(), file, path)? })
            }
            None => merge(args, File::default(), Path::new("")),
        }
    }
}

/// Lays `args` over `file`, which was read from `path`.
pub(super) fn merge(args: ServeArgs, file: File, path: &Path) -> Result<Config, ConfigError> {
    let ServeArgs {
        listen: listen_flag,
        admin_listen: admin_flag,
        metrics_listen,
        control,
        node_name,
        data_dir: data_dir_flag,
        config: _,
        plain_http: plain_http_flag,
        registry_auth: auth_flag,
        tag_fresh_for,
        drain_timeout: drain_flag,
        auth: auth_flags,
        cache: cache_flags,
        log_format,
        log_level,
    } = args;
    let File {
        listen,
        admin_listen,
        data_dir,
        drain_timeout,
        registry_auth,
        plain_http,
        registries,
        tags,
        limits,
        upstream,
        cache: cache_file,
        auth: auth_section,
    } = file;
    let defaults = Config::default();

    let listen = if listen_flag.is_empty() { listen.into_iter().map(|Text(address)| address).collect() } else { listen_flag };
    let auth_file = match (auth_flag, registry_auth) {
        (Some(path), _) => Some((path, Place::Flag("--registry-auth"))),
        (None, Some(Text(FilePath(auth)))) => Some((auth, Place::key(path, "registryAuth"))),
        (None, None) => None,
    };
    let mut registries = read_registries(registries, path)?;
    if plain_http_flag.is_empty() {
        let hosts = plain_http.into_iter().map(|Text(host)| host).collect();
        set_plain_http(&mut registries, hosts, Some(path))?;
    } else {
        set_plain_http(&mut registries, plain_http_flag, None)?;
    }
    let registries = registries.into_iter().map(|(registry, (config, _))| (registry, config)).collect();

    let control = read_control(control)?;
    Ok(Config {
        auth: auth::read(auth_flags, auth_section, path, control.is_some())?,
        listen_is_default: listen.is_empty(),
        listen: if listen.is_empty() { defaults.listen } else { listen.into_iter().map(|Address(address)| address).collect() },
        admin_listen: admin_flag.or(admin_listen.map(|Text(address)| address)).map_or(defaults.admin_listen, |Address(address)| address),
        metrics_listen: metrics_listen.map(|Address(address)| address),
        node_name: node_name.filter(|name| !name.is_empty()),
        control,
        data_dir: data_dir_flag.or(data_dir.map(|Text(FilePath(dir))| dir)).unwrap_or(defaults.data_dir),
        drain_timeout: drain_flag.or(drain_timeout.map(|Text(span)| span)).map_or(defaults.drain_timeout, |Span(time)| time),
        tags: read_tags(tags, tag_fresh_for),
        limits: read_limits(limits),
        upstream: read_upstream(upstream, registries, auth_file.map(read_auth).transpose()?),
        cache: cache::read(cache_flags, cache_file, path)?,
        reload: None,
        log: LogConfig { format: log_format, filter: log_level },
    })
}

/// The control API, if there is to be one: then there is no doing without authorities and a token.
fn read_control(args: ControlArgs) -> Result<Option<ControlConfig>, ConfigError> {
    let ControlArgs { control_url, control_address, control_ca, control_token } = args;
    let Some(url) = control_url else {
        return Ok(None);
    };
    let needed = |file: Option<PathBuf>, flag| {
        let file = file.filter(|file| !file.as_os_str().is_empty());
        file.ok_or_else(|| Place::Flag(flag).refuse("missing: expected a file, because --control-url is given"))
    };
    let (ca, token) = (needed(control_ca, "--control-ca")?, needed(control_token, "--control-token")?);
    let (address, unexpanded) = match control_address {
        Some(ControlAddress::At(address)) => (Some(address), None),
        Some(ControlAddress::Unexpanded(text)) => (None, Some(text)),
        None => (None, None),
    };
    if address.is_some() && url.is_address() {
        let message = format!("{url} names an address already: expected a name there, or no --control-address");
        return Err(Place::Flag("--control-url").refuse(message));
    }
    Ok(Some(ControlConfig { url, address, unexpanded, ca, token }))
}

/// The registries of the file, each with what it says about plain HTTP itself.
type Registries = BTreeMap<Registry, (RegistryConfig, Option<bool>)>;

fn read_registries(file: BTreeMap<String, Option<RegistryFile>>, path: &Path) -> Result<Registries, ConfigError> {
    let mut registries = Registries::new();
    for (text, settings) in file {
        let key = format!("registries.{}", spell_key(&text));
        let Host(registry) = text.parse::<Host>().map_err(|error| Place::key(path, &key).refuse(error.to_string()))?;
        match registries.entry(registry) {
            Entry::Occupied(entry) => return Err(Place::key(path, &key).refuse(format!("{} has settings already", entry.key()))),
            Entry::Vacant(entry) => entry.insert(read_registry(settings.unwrap_or_default(), path, &key)?),
        };
    }
    Ok(registries)
}

fn read_registry(file: RegistryFile, path: &Path, key: &str) -> Result<(RegistryConfig, Option<bool>), ConfigError> {
    let RegistryFile { endpoints, plain_http, ca, insecure_skip_verify, limits } = file;
    let RegistryLimitsFile { max_connections } = limits;
    let ca = ca.map(|Text(FilePath(ca))| read_ca(ca, Place::key(path, format!("{key}.ca")))).transpose()?;
    let config = RegistryConfig {
        endpoints: endpoints.into_iter().map(|Text(endpoint)| endpoint).collect(),
        plain_http: plain_http.unwrap_or_default(),
        ca,
        insecure_skip_verify,
        max_connections: max_connections.map(Count::get),
    };
    Ok((config, plain_http))
}

/// A file of certificates, read once to see that it is one.
fn read_ca(ca: PathBuf, place: Place) -> Result<PathBuf, ConfigError> {
    let pem = read(&ca, &place)?;
    let certificates = CertificateDer::pem_slice_iter(&pem).collect::<Result<Vec<_>, _>>();
    match certificates {
        Ok(certificates) if !certificates.is_empty() => Ok(ca),
        _ => Err(place.refuse(format!("{}: not a certificate file: expected certificates in PEM", ca.display()))),
    }
}

/// A docker `config.json`, read once to see that it is one. What it holds is never repeated.
fn read_auth((auth, place): (PathBuf, Place)) -> Result<PathBuf, ConfigError> {
    let json = read(&auth, &place)?;
    match serde_json::from_slice::<serde_json::Map<String, serde_json::Value>>(&json) {
        Ok(_) => Ok(auth),
        Err(_) => Err(place.refuse(format!("{}: not a JSON object: expected a docker config.json", auth.display()))),
    }
}

fn read(path: &Path, place: &Place) -> Result<Vec<u8>, ConfigError> {
    std::fs::read(path).map_err(|source| ConfigError::File { place: place.clone(), path: path.to_owned(), source })
}

/// Marks `hosts` as plain HTTP. A flag overrules the file; the file must not contradict itself.
fn set_plain_http(registries: &mut Registries, hosts: Vec<Host>, file: Option<&Path>) -> Result<(), ConfigError> {
    for Host(registry) in hosts {
        let name = registry.to_string();
        let (config, said) = registries.entry(registry).or_default();
        if let (Some(path), Some(false)) = (file, said) {
            let key = format!("registries.{}.plainHttp", spell_key(&name));
            return Err(Place::key(path, key).refuse(format!("false, but the list plainHttp names {name}: expected one of them only")));
        }
        config.plain_http = true;
    }
    Ok(())
}

fn read_tags(file: TagsFile, fresh_for_flag: Option<Span>) -> TagsConfig {
    let TagsFile { fresh_for, revalidate_timeout } = file;
    let defaults = TagsConfig::default();
    TagsConfig {
        fresh_for: fresh_for_flag.or(fresh_for.map(|Text(span)| span)).map_or(defaults.fresh_for, |Span(time)| time),
        revalidate_timeout: time(revalidate_timeout, defaults.revalidate_timeout),
    }
}

fn read_limits(file: LimitsFile) -> LimitsConfig {
    let LimitsFile { max_connections, header_timeout, write_timeout } = file;
    let defaults = LimitsConfig::default();
    LimitsConfig {
        max_connections: max_connections.map_or(defaults.max_connections, Count::get),
        header_timeout: time(header_timeout, defaults.header_timeout),
        write_timeout: time(write_timeout, defaults.write_timeout),
    }
}

fn read_upstream(file: UpstreamFile, registries: BTreeMap<Registry, RegistryConfig>, auth_file: Option<PathBuf>) -> UpstreamConfig {
    let UpstreamFile {
        stall_timeout,
        connect_timeout,
        max_concurrent_fills,
        fill_queue_timeout,
        max_attempts,
        max_connections_per_registry,
    } = file;
    let defaults = UpstreamConfig::default();
    UpstreamConfig {
        stall_timeout: time(stall_timeout, defaults.stall_timeout),
        connect_timeout: time(connect_timeout, defaults.connect_timeout),
        max_concurrent_fills: max_concurrent_fills.map_or(defaults.max_concurrent_fills, Count::get),
        fill_queue_timeout: fill_queue_timeout.map_or(defaults.fill_queue_timeout, |Text(Span(time))| time),
        max_attempts: max_attempts.map_or(defaults.max_attempts, |Count(count)| count),
        max_connections_per_registry: max_connections_per_registry.map_or(defaults.max_connections_per_registry, Count::get),
        registries,
        auth_file,
    }
}

fn time(value: Option<Text<Timeout>>, default: std::time::Duration) -> std::time::Duration {
    value.map_or(default, |Text(Timeout(time))| time)
}
