//! `grpc-timeout`: at most eight digits and a unit.

use std::time::Duration;

/// Decodes a timeout. What no `Duration` can hold saturates. The error text is grpc-go's.
pub fn decode(value: &[u8]) -> Result<Duration, String> {
    let text = String::from_utf8_lossy(value);
    let (digits, unit) = match value {
        [] | [_] => {
            return Err(format!("malformed grpc-timeout: transport: timeout string is too short: {text:?}"));
        }
        [_, .., _] if value.len() > 9 => {
            return Err(format!("malformed grpc-timeout: transport: timeout string is too long: {text:?}"));
        }
        [digits @ .., unit] => (digits, unit),
    };
    if !digits.iter().all(u8::is_ascii_digit) {
        return Err(format!("malformed grpc-timeout: {text:?}"));
    }
    let number = digits.iter().fold(0u64, |n, b| n * 10 + u64::from(b - b'0'));
    Ok(match unit {
        b'H' => Duration::from_secs(number * 3600),
        b'M' => Duration::from_secs(number * 60),
        b'S' => Duration::from_secs(number),
        b'm' => Duration::from_millis(number),
        b'u' => Duration::from_micros(number),
        b'n' => Duration::from_nanos(number),
        _ => {
            return Err(format!(
                "malformed grpc-timeout: transport: timeout unit is not recognized: {text:?}"
            ));
        }
    })
}

/// The field's value for a timeout, in the finest unit that holds it (rounded up, as grpc-go does).
pub fn encode(timeout: Duration) -> String {
    const MAX: u128 = 99_999_999;
    let nanos = timeout.as_nanos();
    let units = [(1, 'n'), (1_000, 'u'), (1_000_000, 'm'), (1_000_000_000, 'S'), (60_000_000_000, 'M')];
    for (size, unit) in units {
        let number = nanos.div_ceil(size);
        if number <= MAX {
            return format!("{number}{unit}");
        }
    }
    format!("{}H", nanos.div_ceil(3_600_000_000_000).min(MAX))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn timeouts_are_decoded_or_refused() {
        let cases: [(&str, Option<Duration>); 14] = [
            ("5S", Some(Duration::from_secs(5))),
            ("2H", Some(Duration::from_secs(7200))),
            ("3M", Some(Duration::from_secs(180))),
            ("100m", Some(Duration::from_millis(100))),
            ("7u", Some(Duration::from_micros(7))),
            ("0n", Some(Duration::ZERO)),
            ("99999999H", Some(Duration::from_secs(99_999_999 * 3600))),
            ("999999999S", None),
            ("", None),
            ("S", None),
            ("5", None),
            ("5s", None),
            ("-5S", None),
            ("5 S", None),
        ];
        for (text, want) in cases {
            assert_eq!(decode(text.as_bytes()).ok(), want, "{text}");
        }
        assert!(decode(b"\xffS").unwrap_err().starts_with("malformed grpc-timeout"));
    }

    #[test]
    fn encoded_timeouts_are_never_shorter() {
        for nanos in [0, 1, 99_999_999, 100_000_001, 5_000_000_000, u64::MAX] {
            let timeout = Duration::from_nanos(nanos);
            let text = encode(timeout);
            assert!(text.len() <= 9, "{text}");
            assert!(decode(text.as_bytes()).unwrap() >= timeout, "{text}");
        }
    }
}
