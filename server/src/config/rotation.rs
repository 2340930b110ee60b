//! `--enable-log-rotation` and `--log-rotation-config-json`, with the meaning they have in etcd, which hands the text to
//! lumberjack: sizes in MiB, ages in days, 0 is the default size and otherwise no limit.

use std::time::Duration;

use serde_json::Value;

use super::{LogOutput, LogRotation};

/// lumberjack's.
const MIB_DEFAULT: u32 = 100;

/// The rules for the one file among `outputs`.
///
/// # Errors
/// There is no file or more than one, the text isn't JSON, or a value isn't what its key wants.
pub(super) fn parse(outputs: &[LogOutput], text: &str) -> Result<LogRotation, String> {
    let files = outputs.iter().filter(|output| matches!(output, LogOutput::File(_))).count();
    if files > 1 || (files == 0 && outputs.len() == 1) {
        return Err(
            "--log-outputs requires a single file path when --log-rotate-config-json is defined".into()
        );
    }
    let config: Value = serde_json::from_str(text)
        .map_err(|error| format!("improperly formatted log rotation config: {error}"))?;
    let Some(config) = config.as_object() else {
        return Err("invalid log rotation config: it is not an object".into());
    };
    let (mut mib, mut days, mut backups) = (0, 0, 0);
    for (key, value) in config {
        // Go's decoder takes keys in any case and ignores those it doesn't know.
        match key.to_ascii_lowercase().as_str() {
            "maxsize" => mib = number(key, value)?,
            "maxage" => days = number(key, value)?,
            "maxbackups" => backups = number(key, value)?,
            "localtime" | "compress" if flag(key, value)? => {
                return Err(format!("invalid log rotation config: {key} is not there yet"));
            }
            _ => {}
        }
    }
    Ok(LogRotation {
        bytes_max: u64::from(if mib == 0 { MIB_DEFAULT } else { mib }) << 20,
        age_max: (days > 0).then(|| Duration::from_secs(u64::from(days) * 24 * 3600)),
        backups_max: (backups > 0).then_some(backups as usize),
    })
}

fn number(key: &str, value: &Value) -> Result<u32, String> {
    let number = value.as_u64().and_then(|number| u32::try_from(number).ok());
    number.ok_or_else(|| format!("invalid log rotation config: {key} must be a whole number, 0 or more"))
}

fn flag(key: &str, value: &Value) -> Result<bool, String> {
    value.as_bool().ok_or_else(|| format!("invalid log rotation config: {key} must be true or false"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_text_says_when_a_file_is_put_aside() {
        let day = Duration::from_secs(24 * 3600);
        let cases = [
            ("{}", (100, None, None)),
            (
                r#"{"maxsize": 0, "maxage": 0, "maxbackups": 0, "localtime": false, "compress": false}"#,
                (100, None, None),
            ),
            (r#"{"maxsize": 1, "maxage": 7, "maxbackups": 3}"#, (1, Some(day * 7), Some(3))),
            (r#"{"MaxSize": 2, "filename": "x", "other": []}"#, (2, None, None)),
        ];
        for (text, (mib, age_max, backups_max)) in cases {
            let want = LogRotation { bytes_max: mib << 20, age_max, backups_max };
            assert_eq!(parse(&[LogOutput::Stderr, LogOutput::File("x".into())], text), Ok(want), "{text}");
        }
    }

    #[test]
    fn what_cannot_be_followed_is_refused() {
        let file = || LogOutput::File("x".into());
        let other = LogOutput::File("y".into());
        let cases: &[(&[LogOutput], &str, &str)] = &[
            (&[LogOutput::Stderr], "{}", "requires a single file path"),
            (&[LogOutput::Journal], "{}", "requires a single file path"),
            (&[file(), other], "{}", "requires a single file path"),
            (&[file()], r#"{"maxsize": true"#, "improperly formatted log rotation config: EOF"),
            (&[file()], "[]", "it is not an object"),
            (
                &[file()],
                r#"{"maxsize": true}"#,
                "invalid log rotation config: maxsize must be a whole number, 0 or more",
            ),
            (&[file()], r#"{"maxage": -1}"#, "maxage must be a whole number, 0 or more"),
            (&[file()], r#"{"maxbackups": 1.5}"#, "maxbackups must be a whole number, 0 or more"),
            (&[file()], r#"{"compress": 1}"#, "compress must be true or false"),
            (&[file()], r#"{"compress": true}"#, "compress is not there yet"),
            (&[file()], r#"{"localtime": true}"#, "localtime is not there yet"),
        ];
        for (outputs, text, want) in cases {
            let error = parse(outputs, text).expect_err(text);
            assert!(error.contains(want), "{text}: {error}");
        }
        // As in etcd, two outputs of which none is a file are fine, and nothing is rotated.
        assert!(parse(&[LogOutput::Stderr, LogOutput::Stdout], "{}").is_ok());
    }
}
