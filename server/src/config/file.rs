//! `--config-file`: etcd's configuration file, YAML or JSON (which is YAML).
//!
//! Its keys are named as the flags, but for three groups that lie in maps of their own (below). Values have the types of
//! etcd's `embed.Config`: lists of URLs are comma-separated texts, durations are whole nanoseconds (`5000000000`, not
//! `5s`), and a text may be written as a number or a boolean. A null counts as not given. Keys that etcd's file does not
//! have are ignored as etcd does, each with a warning. Where a file is given, all other flags and variables are ignored.
//!
//! ```yaml
//! name: node-1
//! listen-client-urls: https://10.0.0.1:2379,https://127.0.0.1:2379
//! watch-progress-notify-interval: 5000000000
//! log-outputs: [stderr, /var/log/ringd.log]
//! client-transport-security: { cert-file: a.crt, key-file: a.key, client-cert-auth: true, trusted-ca-file: ca.crt }
//! ```

use saphyr::{LoadableYamlNode, Scalar, Yaml};

use super::args::Given;
use super::table::{self, Class, Flag, Kind};

/// Longest file that is read.
pub const BYTES_MAX: u64 = 1 << 20;

/// Maps of the file: their name, and for each key in them the flag that it is.
const MAPS: &[(&str, &[(&str, &str)])] = &[
    (
        "client-transport-security",
        &[
            ("cert-file", "cert-file"),
            ("key-file", "key-file"),
            ("client-cert-file", "client-cert-file"),
            ("client-key-file", "client-key-file"),
            ("client-cert-auth", "client-cert-auth"),
            ("trusted-ca-file", "trusted-ca-file"),
            ("auto-tls", "auto-tls"),
            ("allowed-hostname", "client-cert-allowed-hostname"),
        ],
    ),
    (
        "peer-transport-security",
        &[
            ("cert-file", "peer-cert-file"),
            ("key-file", "peer-key-file"),
            ("client-cert-file", "peer-client-cert-file"),
            ("client-key-file", "peer-client-key-file"),
            ("client-cert-auth", "peer-client-cert-auth"),
            ("trusted-ca-file", "peer-trusted-ca-file"),
            ("auto-tls", "peer-auto-tls"),
            ("allowed-cn", "peer-cert-allowed-cn"),
            ("allowed-hostname", "peer-cert-allowed-hostname"),
            ("skip-client-san-verification", "peer-skip-client-san-verification"),
        ],
    ),
    ("socket-options", &[("reuse-port", "socket-reuse-port"), ("reuse-address", "socket-reuse-address")]),
];

/// Flags that the file has no key for, beside those of [`MAPS`].
const NO_KEYS: &[&str] = &[
    "client-crl-file",
    "peer-crl-file",
    "raft-read-timeout",
    "raft-write-timeout",
    "discovery-token",
    "discovery-endpoints",
    "discovery-dial-timeout",
    "discovery-request-timeout",
    "discovery-keepalive-time",
    "discovery-keepalive-timeout",
    "discovery-insecure-transport",
    "discovery-insecure-skip-tls-verify",
    "discovery-cert",
    "discovery-key",
    "discovery-cacert",
    "discovery-user",
    "discovery-password",
    "discovery-fallback",
    "config-file",
];

/// Reads the text of a file into values of flags.
///
/// # Errors
/// One sentence about what is wrong in it.
pub(super) fn read(text: &str) -> Result<Given, String> {
    let mut given = Given::default();
    let documents = Yaml::load_from_str(text).map_err(|error| format!("not YAML: {error}"))?;
    let Some(document) = documents.first() else { return Ok(given) };
    if is_null(document) {
        return Ok(given);
    }
    for (key, value) in entries(document, "the file")? {
        let Some((_, keys)) = MAPS.iter().find(|(map, _)| *map == key) else {
            let flag = top_level(&key);
            set(&mut given, flag, &key, value)?;
            continue;
        };
        if is_null(value) {
            continue;
        }
        for (inner, value) in entries(value, &key)? {
            let flag = keys.iter().find(|(name, _)| *name == inner).and_then(|(_, flag)| table::find(flag));
            set(&mut given, flag, &format!("{key}.{inner}"), value)?;
        }
    }
    Ok(given)
}

/// The flag of a key outside of the maps.
fn top_level(key: &str) -> Option<&'static Flag> {
    let in_a_map = MAPS.iter().flat_map(|(_, keys)| *keys).any(|(_, flag)| *flag == key);
    let flag = table::find(key).filter(|_| !in_a_map && !NO_KEYS.contains(&key))?;
    (!matches!(flag.class, Class::Ignored | Class::Asks)).then_some(flag)
}

fn set(given: &mut Given, flag: Option<&'static Flag>, key: &str, value: &Yaml<'_>) -> Result<(), String> {
    let Some(flag) = flag else {
        given.warn("ignored: etcd's configuration file has no such key".into(), key);
        return Ok(());
    };
    if is_null(value) {
        return Ok(());
    }
    let text = text(flag.kind, value).ok_or_else(|| format!("{key} must be {}", wanted(flag.kind)))?;
    given.set_from_file(flag, text).map_err(|error| format!("invalid value for {key}: {error}"))
}

fn entries<'a>(node: &'a Yaml<'a>, what: &str) -> Result<Vec<(String, &'a Yaml<'a>)>, String> {
    let map = node.as_mapping().ok_or_else(|| format!("{what} must be a map of keys to values"))?;
    let name = |key: &Yaml<'_>| scalar(key).ok_or_else(|| format!("{what} has a key that is no text"));
    map.iter().map(|(key, value)| Ok((name(key)?, value))).collect()
}

/// The value as the flag's text, if it has the type that etcd's file wants.
fn text(kind: Kind, value: &Yaml<'_>) -> Option<String> {
    match (kind, value) {
        (Kind::Bool, Yaml::Value(Scalar::Boolean(value))) => Some(value.to_string()),
        (Kind::Int, Yaml::Value(Scalar::Integer(value))) => Some(value.to_string()),
        (Kind::Uint | Kind::Uint32, Yaml::Value(Scalar::Integer(value))) if *value >= 0 => {
            Some(value.to_string())
        }
        (Kind::Duration, Yaml::Value(Scalar::Integer(nanos))) => Some(format!("{nanos}ns")),
        (Kind::Bool | Kind::Int | Kind::Uint | Kind::Uint32 | Kind::Duration, _) => None,
        (Kind::List, Yaml::Sequence(items)) => {
            let items: Option<Vec<String>> = items.iter().map(scalar).collect();
            items.map(|items| items.join(","))
        }
        (_, value) => scalar(value),
    }
}

fn wanted(kind: Kind) -> &'static str {
    match kind {
        Kind::Bool => "true or false",
        Kind::Int => "a whole number",
        Kind::Uint | Kind::Uint32 => "a whole number, 0 or more",
        Kind::Duration => "a number of nanoseconds",
        Kind::List => "a list of texts",
        _ => "a text",
    }
}

fn scalar(node: &Yaml<'_>) -> Option<String> {
    match node {
        Yaml::Value(Scalar::String(text)) => Some(text.to_string()),
        Yaml::Value(Scalar::Integer(number)) => Some(number.to_string()),
        Yaml::Value(Scalar::Boolean(value)) => Some(value.to_string()),
        Yaml::Value(Scalar::FloatingPoint(number)) => Some(number.to_string()),
        _ => None,
    }
}

fn is_null(node: &Yaml<'_>) -> bool {
    matches!(node, Yaml::Value(Scalar::Null))
}
