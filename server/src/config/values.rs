//! How Go writes values: booleans, integers, durations; and URLs as etcd checks them.
//!
//! Each function answers with the text Go or etcd would print behind `invalid value "…" for flag -…: `.

use std::net::IpAddr;

pub use node::url::{Url, parse_url};

/// Go's `strconv.ParseBool`.
///
/// # Errors
/// `parse error`
pub fn parse_bool(text: &str) -> Result<bool, String> {
    match text {
        "1" | "t" | "T" | "true" | "TRUE" | "True" => Ok(true),
        "0" | "f" | "F" | "false" | "FALSE" | "False" => Ok(false),
        _ => Err("parse error".into()),
    }
}

/// Go's `strconv.ParseUint(text, 0, 64)`: decimal, `0x…`, `0o…`, `0…` (octal), `0b…`; `_` between digits.
///
/// # Errors
/// `parse error` or `value out of range`
pub fn parse_uint(text: &str) -> Result<u64, String> {
    let lower = text.to_ascii_lowercase();
    let (radix, digits) = match lower.as_bytes() {
        [b'0', b'x', ..] => (16, &lower[2..]),
        [b'0', b'o', ..] => (8, &lower[2..]),
        [b'0', b'b', ..] => (2, &lower[2..]),
        [b'0', _, ..] => (8, &lower[1..]),
        _ => (10, lower.as_str()),
    };
    // Go takes "_" only between digits, or between the base's prefix and a digit.
    let after_prefix = radix != 10;
    if digits.ends_with('_') || digits.contains("__") || (!after_prefix && digits.contains('_')) {
        return Err("parse error".into());
    }
    let digits: String = digits.chars().filter(|&c| c != '_').collect();
    if digits.is_empty() || !digits.chars().all(|c| c.is_digit(radix)) {
        return Err("parse error".into());
    }
    u64::from_str_radix(&digits, radix).map_err(|_| "value out of range".into())
}

/// Go's `strconv.ParseInt(text, 0, 64)`.
///
/// # Errors
/// `parse error` or `value out of range`
pub fn parse_int(text: &str) -> Result<i64, String> {
    let (negative, digits) = match text.as_bytes() {
        [b'-', ..] => (true, &text[1..]),
        [b'+', ..] => (false, &text[1..]),
        _ => (false, text),
    };
    let magnitude = i128::from(parse_uint(digits)?);
    i64::try_from(if negative { -magnitude } else { magnitude }).map_err(|_| "value out of range".into())
}

/// Go's `time.ParseDuration`, in nanoseconds: `300ms`, `-1.5h`, `2h45m`, `0`.
///
/// # Errors
/// `parse error`, also for what doesn't fit in 64 bits.
pub fn parse_duration(text: &str) -> Result<i64, String> {
    let bad = || "parse error".to_string();
    let (sign, mut rest) = match text.as_bytes() {
        [b'-', ..] => (-1, &text[1..]),
        [b'+', ..] => (1, &text[1..]),
        _ => (1, text),
    };
    if rest == "0" {
        return Ok(0);
    }
    if rest.is_empty() {
        return Err(bad());
    }
    let mut total: i128 = 0;
    while !rest.is_empty() {
        let number_len = rest.find(|c: char| !c.is_ascii_digit() && c != '.').ok_or_else(bad)?;
        let (number, tail) = rest.split_at(number_len);
        let unit_len = tail.find(|c: char| c.is_ascii_digit() || c == '.').unwrap_or(tail.len());
        let (unit, tail) = tail.split_at(unit_len);
        total = total.checked_add(nanos(number, unit).ok_or_else(bad)?).ok_or_else(bad)?;
        rest = tail;
    }
    i64::try_from(sign * total).map_err(|_| bad())
}

/// Go's `time.Duration.String`: `1h30m0s`, `1.5s`, `300ms`, `2µs`, `0s`.
pub fn show_duration(duration: std::time::Duration) -> String {
    let nanos = duration.as_nanos();
    // Digits below the unit without the zeros at their end.
    let with_fraction = |per: u128, unit: &str| {
        let text = format!("{:0width$}", nanos % per, width = per.ilog10() as usize);
        match text.trim_end_matches('0') {
            "" => format!("{}{unit}", nanos / per),
            fraction => format!("{}.{fraction}{unit}", nanos / per),
        }
    };
    match nanos {
        0 => "0s".into(),
        1..1_000 => format!("{nanos}ns"),
        1_000..1_000_000 => with_fraction(1_000, "µs"),
        1_000_000..1_000_000_000 => with_fraction(1_000_000, "ms"),
        1_000_000_000..60_000_000_000 => with_fraction(1_000_000_000, "s"),
        _ => {
            let minutes = nanos / 60_000_000_000;
            let below = std::time::Duration::from_nanos((nanos % 60_000_000_000) as u64);
            let seconds = match show_duration(below) {
                text if below.as_secs() > 0 || below.is_zero() => text,
                _ => format!("0.{}s", format!("{:09}", below.as_nanos()).trim_end_matches('0')),
            };
            match minutes / 60 {
                0 => format!("{minutes}m{seconds}"),
                hours => format!("{hours}h{}m{seconds}", minutes % 60),
            }
        }
    }
}

/// `number` of `unit` in nanoseconds, the fraction cut off below one.
fn nanos(number: &str, unit: &str) -> Option<i128> {
    let unit: i128 = match unit {
        "ns" => 1,
        "us" | "µs" | "μs" => 1_000,
        "ms" => 1_000_000,
        "s" => 1_000_000_000,
        "m" => 60_000_000_000,
        "h" => 3_600_000_000_000,
        _ => return None,
    };
    let (whole, fraction) = number.split_once('.').unwrap_or((number, ""));
    if (whole.is_empty() && fraction.is_empty()) || fraction.contains('.') || whole.len() > 19 {
        return None;
    }
    let whole: i128 = if whole.is_empty() { 0 } else { whole.parse().ok()? };
    let mut total = whole.checked_mul(unit)?;
    let mut scale = unit;
    for digit in fraction.chars().take(15) {
        let digit = i128::from(digit.to_digit(10)?);
        // Digits below a nanosecond add less than one and are dropped.
        total += digit * scale / 10;
        scale /= 10;
    }
    Some(total)
}

/// A comma-separated list of URLs, sorted and without duplicates. An empty text is an empty list.
///
/// # Errors
/// etcd's sentence about the first that is wrong.
pub fn parse_urls(text: &str) -> Result<Vec<Url>, String> {
    if text.is_empty() {
        return Ok(Vec::new());
    }
    let mut urls = text.split(',').map(parse_url).collect::<Result<Vec<_>, _>>()?;
    urls.sort();
    urls.dedup();
    Ok(urls)
}

/// What may be listened on: an IP address or `localhost` (etcd: `checkBindURLs`).
///
/// # Errors
/// etcd's sentence.
pub fn check_bind(urls: &[Url]) -> Result<(), String> {
    for url in urls.iter().filter(|url| url.is_tcp()) {
        if url.host != "localhost" && url.host.parse::<IpAddr>().is_err() {
            return Err(format!("expected IP in URL for binding ({})", url.text));
        }
    }
    Ok(())
}

/// What may be advertised: any host, but not none (etcd: `checkHostURLs`).
///
/// # Errors
/// etcd's sentence.
pub fn check_host(urls: &[Url]) -> Result<(), String> {
    match urls.iter().find(|url| url.is_tcp() && url.host.is_empty()) {
        Some(url) => Err(format!("unexpected empty host ({})", url.text)),
        None => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_as_go_writes_them() {
        for text in [
            "0s",
            "1ns",
            "999ns",
            "1µs",
            "1.5µs",
            "300ms",
            "1.000001ms",
            "5s",
            "1.5s",
            "59.999999999s",
            "1m0s",
            "1m0.5s",
            "1m0.000000001s",
            "1m30s",
            "59m59s",
            "1h0m0s",
            "2h45m0.25s",
            "100h0m0s",
        ] {
            let nanos = parse_duration(text).expect("Go's own");
            assert_eq!(show_duration(std::time::Duration::from_nanos(nanos as u64)), text);
        }
    }

    #[test]
    fn durations_as_go_reads_them() {
        let cases = [
            ("0", Some(0)),
            ("5s", Some(5_000_000_000)),
            ("1m0s", Some(60_000_000_000)),
            ("300ms", Some(300_000_000)),
            ("2h45m", Some(9_900_000_000_000)),
            ("1.5h", Some(5_400_000_000_000)),
            ("-1.5s", Some(-1_500_000_000)),
            ("+5ns", Some(5)),
            (".5s", Some(500_000_000)),
            ("1.s", Some(1_000_000_000)),
            ("100us", Some(100_000)),
            ("100µs", Some(100_000)),
            ("0.000000001s", Some(1)),
            ("0s", Some(0)),
            ("", None),
            ("5", None),
            ("s", None),
            (".s", None),
            ("1.2.3s", None),
            ("5 s", None),
            ("1d", None),
            ("-", None),
            ("9999999999h", None),
            ("99999999999999999999999999999999999999999999999999s", None),
        ];
        for (text, want) in cases {
            assert_eq!(parse_duration(text).ok(), want, "{text:?}");
        }
    }

    #[test]
    fn integers_as_go_reads_them() {
        let cases = [
            ("0", Some(0)),
            ("-1", Some(-1)),
            ("+7", Some(7)),
            ("0x10", Some(16)),
            ("010", Some(8)),
            ("0o17", Some(15)),
            ("0b101", Some(5)),
            ("0x_ff", Some(255)),
            ("9223372036854775807", Some(i64::MAX)),
            ("-9223372036854775808", Some(i64::MIN)),
            ("9223372036854775808", None),
            ("18446744073709551616", None),
            ("", None),
            ("-", None),
            ("--1", None),
            ("+-1", None),
            ("1_000", None), // Go takes underscores only with a base prefix
            ("0x1__0", None),
            ("08", None),
            ("1e3", None),
            ("5s", None),
            ("é", None),
        ];
        for (text, want) in cases {
            assert_eq!(parse_int(text).ok(), want, "{text:?}");
        }
        assert_eq!(parse_uint("18446744073709551615"), Ok(u64::MAX));
        assert_eq!(parse_uint("-1"), Err("parse error".into()));
        assert_eq!(parse_uint("18446744073709551616"), Err("value out of range".into()));
    }

    #[test]
    fn urls_as_etcd_checks_them() {
        let form = "URL address does not have the form \"host:port\": ";
        let scheme = "URL scheme must be http, https, unix, or unixs: ";
        let path = "URL must not contain a path: ";
        let cases = [
            ("http://localhost:2379", Ok(("http", "localhost", 2379))),
            (" https://10.0.0.1:443 ", Ok(("https", "10.0.0.1", 443))),
            ("http://[::1]:2379", Ok(("http", "::1", 2379))),
            ("HTTP://a.b:1", Ok(("http", "a.b", 1))),
            ("http://:2379", Ok(("http", "", 2379))),
            ("unix:///run/x.sock", Ok(("unix", "/run/x.sock", 0))),
            ("http://localhost", Err(form)),
            ("http://localhost:", Err(form)),
            ("http://::1:2379", Err(form)),
            ("http://[::1:2379", Err(form)),
            ("http://a:65536", Err(form)),
            ("http://a:-1", Err(form)),
            ("http://a:http", Err(form)),
            ("http://u@a:1", Err(form)),
            ("http://a:1/", Err(path)),
            ("http://a:1/b", Err(path)),
            ("ftp://a:1", Err(scheme)),
            ("localhost:2379", Err(scheme)),
            ("", Err(scheme)),
        ];
        for (text, want) in cases {
            let got = parse_url(text);
            match want {
                Ok((scheme, host, port)) => {
                    let url = got.unwrap_or_else(|error| panic!("{text:?}: {error}"));
                    assert_eq!(
                        (url.scheme.as_str(), url.host.as_str(), url.port),
                        (scheme, host, port),
                        "{text:?}"
                    );
                }
                Err(sentence) => assert_eq!(got, Err(format!("{sentence}{}", text.trim())), "{text:?}"),
            }
        }
    }

    #[test]
    fn lists_of_urls_are_sorted_and_unique() {
        let urls = parse_urls("http://b:1,http://a:1,http://b:1").expect("good URLs");
        assert_eq!(
            urls.iter().map(|url| url.text.as_str()).collect::<Vec<_>>(),
            ["http://a:1", "http://b:1"]
        );
        assert_eq!(parse_urls(""), Ok(Vec::new()));
        assert!(parse_urls("http://a:1,").is_err());
    }

    #[test]
    fn only_addresses_are_listened_on() {
        for (text, good) in [
            ("http://localhost:1", true),
            ("http://127.0.0.1:1", true),
            ("http://[::]:1", true),
            ("unix://x", true),
            ("http://example.com:1", false),
            ("http://:1", false),
        ] {
            let urls = parse_urls(text).expect("good URLs");
            assert_eq!(check_bind(&urls).is_ok(), good, "{text}");
        }
        assert!(check_host(&parse_urls("http://:1").expect("a URL")).is_err());
        assert!(check_host(&parse_urls("http://example.com:1").expect("a URL")).is_ok());
    }
}
