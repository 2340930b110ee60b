//! The forms of the command line and the environment, and who wins.
//!
//! The grammar is that of Go's `flag` package, and scripts rely on its corners: one dash or two, `--flag value` or
//! `--flag=value`, a boolean never takes the next word, the last of two wins, the first word that is no flag ends the
//! flags. `clap` parses another language (`-name` would be `-n -a -m -e`), and to translate one into the other needs
//! the same table and the same loop as reading it; so here is the loop. Texts and exit codes are Go's and etcd's too.
//!
//! A variable counts where its flag isn't given. Both given is fatal; an empty variable counts as not given.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::fmt::Write as _;
use std::io::{Read as _, Write as _};
use std::path::PathBuf;

use super::table::{self, Class, FLAGS, Flag, Kind};
use super::{Config, ETCD_VERSION, Warning, values};
use super::{check, file};
use crate::observe::logs;
use crate::sys::fatal::FatalReason;

/// etcd's text, one closing parenthesis too many included: tools grep for it.
const CONFLICT: &str = "conflicting environment variable is shadowed by corresponding command-line flag (either unset \
                        environment variable or disable flag))";

const USAGE: &str = "Usage:\n\n  ringd [flags]\n    Start a ringd server.\n\n  ringd --version\n    Show the version of \
                     ringd.\n\n  ringd -h | --help\n    Show the help information about ringd.\n";

/// The process is to end here, with this said.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Exit {
    /// 0 for `--help` and `--version`, else that of a [`FatalReason`].
    pub code: u8,
    /// For standard output.
    pub stdout: String,
    /// For standard error.
    pub stderr: String,
}

impl Exit {
    /// Says it and returns the code. A reader who went away, as in `ringd --help | head -1`, is nobody's error.
    pub fn report(&self) -> u8 {
        let _ = std::io::stdout().write_all(self.stdout.as_bytes()).and_then(|()| std::io::stdout().flush());
        let _ = std::io::stderr().write_all(self.stderr.as_bytes());
        self.code
    }

    fn asked(stdout: String) -> Exit {
        Exit { code: 0, stdout, stderr: String::new() }
    }

    /// As Go's `flag`: the error, the usage, exit 2.
    fn usage(error: &str) -> Exit {
        Exit {
            code: FatalReason::Usage.exit_code(),
            stdout: String::new(),
            stderr: format!("{error}\n{USAGE}\n"),
        }
    }

    /// As etcd: a line of its log, exit 1.
    fn refused(level: &str, message: &str, field: (&'static str, &str)) -> Exit {
        Exit {
            code: FatalReason::Config.exit_code(),
            stdout: String::new(),
            stderr: logs::line_now(level, "config/args.rs", message, &[field]),
        }
    }

    fn unverified(error: &str) -> Exit {
        Exit::refused("warn", "failed to verify flags", ("error", error))
    }
}

/// From the command line (without the program's name) and the environment to a checked configuration.
///
/// # Errors
/// What to print and the code to exit with; also for `--help` and `--version`.
pub fn parse(
    args: impl IntoIterator<Item = OsString>,
    env: impl IntoIterator<Item = (OsString, OsString)>,
) -> Result<Config, Exit> {
    let mut given = Given::default();
    let rest = given.read_args(args)?;
    if given.bool("help") {
        return Err(Exit::asked(help()));
    }
    if let Some(word) = rest {
        return Err(Exit::unverified(&format!("{word:?} is not a valid flag")));
    }
    if given.bool("version") {
        return Err(Exit::asked(version()));
    }
    let variables: Vec<(OsString, OsString)> = env.into_iter().collect();
    let path = match given.text("config-file") {
        "" => variable(&variables, "ETCD_CONFIG_FILE"),
        path => Some(PathBuf::from(path)),
    };
    if let Some(path) = path {
        return from_file(path).map_err(|error| Exit::unverified(&error));
    }
    given.read_env(variables)?;
    check::config(given).map_err(|error| Exit::unverified(&error))
}

/// The value of a variable, if it isn't empty.
fn variable(env: &[(OsString, OsString)], name: &str) -> Option<PathBuf> {
    let (_, value) = env.iter().find(|(known, _)| known == name)?;
    (!value.is_empty()).then(|| PathBuf::from(value))
}

fn from_file(path: PathBuf) -> Result<Config, String> {
    let shown = path.display();
    let unreadable = |error: std::io::Error| format!("cannot read the configuration file {shown}: {error}");
    let mut text = String::new();
    let file = std::fs::File::open(&path).map_err(unreadable)?;
    file.take(file::BYTES_MAX + 1).read_to_string(&mut text).map_err(unreadable)?;
    if text.len() as u64 > file::BYTES_MAX {
        return Err(format!("the configuration file {shown} is longer than {} bytes", file::BYTES_MAX));
    }
    let in_file = |error: String| format!("the configuration file {shown}: {error}");
    let given = file::read(&text).map_err(in_file)?;
    let config = check::config(given).map_err(in_file)?;
    Ok(Config { config_file: Some(path), ..config })
}

/// Who set a value.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Source {
    Flag,
    Variable,
    File,
}

/// The values given, still as text but each of its flag's kind.
#[derive(Debug, Default)]
pub(super) struct Given {
    values: BTreeMap<&'static str, (String, Source)>,
    pub(super) warnings: Vec<Warning>,
}

impl Given {
    /// The value, or the default.
    pub(super) fn text(&self, name: &'static str) -> &str {
        match self.values.get(name) {
            Some((value, _)) => value,
            None => table::find(name).unwrap_or_else(|| panic!("no flag {name} in the table")).default,
        }
    }

    /// Whether flag or variable was given.
    pub(super) fn is_set(&self, name: &str) -> bool {
        self.values.contains_key(name)
    }

    /// The flags given, in the order of their names.
    pub(super) fn iter(&self) -> impl Iterator<Item = (&'static Flag, &str)> {
        self.values.iter().filter_map(|(name, (value, _))| Some((table::find(name)?, value.as_str())))
    }

    /// The value of a boolean.
    pub(super) fn bool(&self, name: &'static str) -> bool {
        values::parse_bool(self.text(name)).expect("checked when it was given")
    }

    /// Reads flags up to the first word that is none, which is returned.
    fn read_args(&mut self, args: impl IntoIterator<Item = OsString>) -> Result<Option<String>, Exit> {
        let mut args = args.into_iter();
        while let Some(word) = args.next() {
            let word = utf8(word)?;
            if word.len() < 2 || !word.starts_with('-') {
                return Ok(Some(word));
            }
            if word == "--" {
                return args.next().map(utf8).transpose();
            }
            let body = word.strip_prefix("--").unwrap_or(&word[1..]);
            if body.is_empty() || body.starts_with(['-', '=']) {
                return Err(Exit::usage(&format!("bad flag syntax: {word}")));
            }
            let (name, value) = match body.split_once('=') {
                Some((name, value)) => (name, Some(value.to_string())),
                None => (body, None),
            };
            let name = if name == "h" { "help" } else { name };
            let Some(flag) = table::find(name) else {
                return Err(Exit::usage(&format!("flag provided but not defined: -{name}")));
            };
            let value = match (value, flag.kind) {
                (Some(value), _) => value,
                (None, Kind::Bool) => "true".into(),
                (None, _) => match args.next() {
                    Some(value) => utf8(value)?,
                    None => return Err(Exit::usage(&format!("flag needs an argument: -{name}"))),
                },
            };
            self.set_flag(flag, value)?;
        }
        Ok(None)
    }

    fn set_flag(&mut self, flag: &'static Flag, value: String) -> Result<(), Exit> {
        if let Err(error) = check_kind(flag, &value) {
            let what = if flag.kind == Kind::Bool { "boolean value" } else { "value" };
            return Err(Exit::usage(&match flag.kind {
                Kind::Bool => format!("invalid {what} {value:?} for -{}: {error}", flag.name),
                _ => format!("invalid {what} {value:?} for flag -{}: {error}", flag.name),
            }));
        }
        self.values.insert(flag.name, (value, Source::Flag));
        Ok(())
    }

    /// A value of the configuration file.
    pub(super) fn set_from_file(&mut self, flag: &'static Flag, value: String) -> Result<(), String> {
        check_kind(flag, &value)?;
        self.values.insert(flag.name, (value, Source::File));
        Ok(())
    }

    /// Takes the `ETCD_…` variables of flags that weren't given.
    fn read_env(&mut self, env: impl IntoIterator<Item = (OsString, OsString)>) -> Result<(), Exit> {
        let mut ours: BTreeMap<String, String> = BTreeMap::new();
        for (name, value) in env {
            let (Ok(name), value) = (name.into_string(), value.into_string()) else { continue };
            if !name.starts_with("ETCD_") {
                continue;
            }
            match value {
                Ok(value) => drop(ours.insert(name, value)),
                Err(_) => return Err(Exit::unverified(&format!("the value of {name} is not UTF-8"))),
            }
        }
        if let Some(value) = ours.remove("ETCD_VERSION").filter(|value| !value.is_empty()) {
            self.warn(format!("cannot set special environment variable (to {value:?})"), "ETCD_VERSION");
        }
        for flag in FLAGS.iter().filter(|flag| flag.class != Class::Asks) {
            let name = flag.variable();
            let Some(value) = ours.remove(&name).filter(|value| !value.is_empty()) else { continue };
            if self.values.contains_key(flag.name) {
                return Err(Exit::refused("fatal", CONFLICT, ("environment-variable", &name)));
            }
            if let Err(error) = check_kind(flag, &value) {
                return Err(Exit::unverified(&format!("invalid value {value:?} for {name}: {error}")));
            }
            self.values.insert(flag.name, (value, Source::Variable));
        }
        for name in ours.into_keys() {
            self.warn("unrecognized environment variable".into(), &name);
        }
        Ok(())
    }

    pub(super) fn warn(&mut self, message: String, about: &str) {
        self.warnings.push(Warning { message, about: about.into() });
    }
}

fn utf8(word: OsString) -> Result<String, Exit> {
    word.into_string().map_err(|word| Exit::usage(&format!("not UTF-8: {}", word.to_string_lossy())))
}

/// Whether `value` is of the flag's kind, with Go's words if not.
fn check_kind(flag: &Flag, value: &str) -> Result<(), String> {
    if flag.class == Class::Ignored {
        return Ok(());
    }
    match flag.kind {
        Kind::Text | Kind::List | Kind::Word(_) => Ok(()),
        Kind::Bool => values::parse_bool(value).map(drop),
        Kind::Int => values::parse_int(value).map(drop),
        Kind::Uint => values::parse_uint(value).map(drop),
        Kind::Uint32 => match values::parse_uint(value)? {
            number if u32::try_from(number).is_ok() => Ok(()),
            _ => Err("value out of range".into()),
        },
        Kind::Duration => values::parse_duration(value).map(drop),
        Kind::Urls => values::parse_urls(value).map(drop),
        Kind::OneOf(words) if words.contains(&value) => Ok(()),
        Kind::OneOf(_) => Err("invalid value".into()),
    }
}

/// What `--version` prints.
fn version() -> String {
    let mut text = String::new();
    let _ = writeln!(text, "ringd Version: {}", env!("CARGO_PKG_VERSION"));
    let _ = writeln!(text, "etcd Version: {ETCD_VERSION}");
    if let Some(commit) = option_env!("RINGD_GIT_SHA") {
        let _ = writeln!(text, "Git SHA: {commit}");
    }
    let _ = writeln!(text, "OS/Arch: {}/{}", std::env::consts::OS, std::env::consts::ARCH);
    text
}

/// What `--help` prints: the table.
fn help() -> String {
    let mut text = format!("{USAGE}\nFlags:\n");
    for flag in FLAGS {
        let note = match flag.class {
            Class::Works | Class::Cluster | Class::Asks => String::new(),
            Class::Later { what, .. } => format!(" (not there yet: {what})"),
            Class::Meaningless { .. } => " (accepted, no effect)".into(),
            Class::Ignored => continue,
        };
        let value = match flag.kind {
            Kind::Bool => format!("[={}]", flag.default),
            _ => format!(" '{}'", flag.default),
        };
        let _ = writeln!(text, "  --{}{value}\n    {}{note}", flag.name, flag.help);
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    fn run(line: &str, env: &[(&str, &str)]) -> Result<Config, Exit> {
        parse(line.split(' ').filter(|word| !word.is_empty()).map(OsString::from), variables(env))
    }

    fn variables(env: &[(&str, &str)]) -> Vec<(OsString, OsString)> {
        env.iter().map(|&(name, value)| (name.into(), value.into())).collect()
    }

    #[test]
    fn every_form_sets_the_name() {
        for line in
            ["--name a", "--name=a", "-name a", "-name=a", "--name b --name a", "--name a --", "-v --name=a"]
        {
            assert_eq!(run(line, &[]).expect("good flags").name, "a", "{line}");
        }
        // A value may look like a flag, or be empty.
        assert_eq!(run("--name --data-dir", &[]).expect("good flags").name, "--data-dir");
        assert_eq!(run("--quota-backend-bytes -1", &[]).expect("good flags").quota_backend_bytes, None);
    }

    #[test]
    fn booleans_never_take_the_next_word() {
        assert!(run("", &[]).expect("good flags").pre_vote);
        for (line, want) in [
            ("--pre-vote", true),
            ("--pre-vote=false", false),
            ("-pre-vote=F", false),
            ("--pre-vote=0 --pre-vote", true),
        ] {
            assert_eq!(run(line, &[]).expect("good flags").pre_vote, want, "{line}");
        }
        let exit = run("--pre-vote false", &[]).expect_err("false is a stray word");
        assert_eq!(exit.code, 1);
        assert!(exit.stderr.contains(r#"\"false\" is not a valid flag"#), "{}", exit.stderr);
    }

    #[test]
    fn what_is_wrong_ends_with_gos_words_and_codes() {
        // line, exit code, text on stderr
        let cases = [
            ("--nosuch", 2, "flag provided but not defined: -nosuch"),
            ("-n", 2, "flag provided but not defined: -n"),
            ("--nosuch=1 word", 2, "flag provided but not defined: -nosuch"),
            (
                "--experimental-corrupt-check-time=1s",
                2,
                "flag provided but not defined: -experimental-corrupt-check-time",
            ),
            ("--name", 2, "flag needs an argument: -name"),
            ("---name=a", 2, "bad flag syntax: ---name=a"),
            ("--=a", 2, "bad flag syntax: --=a"),
            ("--pre-vote=maybe", 2, "invalid boolean value \"maybe\" for -pre-vote: parse error"),
            ("--pre-vote=", 2, "invalid boolean value \"\" for -pre-vote: parse error"),
            ("--heartbeat-interval=-1", 2, "invalid value \"-1\" for flag -heartbeat-interval: parse error"),
            ("--heartbeat-interval=1s", 2, "invalid value \"1s\" for flag -heartbeat-interval: parse error"),
            (
                "--grpc-keepalive-min-time=5",
                2,
                "invalid value \"5\" for flag -grpc-keepalive-min-time: parse error",
            ),
            (
                "--max-concurrent-streams=4294967296",
                2,
                "for flag -max-concurrent-streams: value out of range",
            ),
            (
                "--initial-cluster-state=old",
                2,
                "invalid value \"old\" for flag -initial-cluster-state: invalid value",
            ),
            (
                "--listen-client-urls=localhost:2379",
                2,
                "URL scheme must be http, https, unix, or unixs: localhost:2379",
            ),
            ("word", 1, r#"\"word\" is not a valid flag"#),
            ("word --nosuch", 1, r#"\"word\" is not a valid flag"#),
            ("-", 1, r#"\"-\" is not a valid flag"#),
            ("-- word", 1, r#"\"word\" is not a valid flag"#),
            ("--version word", 1, r#"\"word\" is not a valid flag"#),
        ];
        for (line, code, text) in cases {
            let exit = run(line, &[]).expect_err(line);
            assert_eq!(exit.code, code, "{line}: {}", exit.stderr);
            assert!(exit.stderr.contains(text), "{line}: {}", exit.stderr);
            assert_eq!(exit.stdout, "", "{line}");
            assert_eq!(exit.stderr.contains("Usage:"), code == 2, "{line}: {}", exit.stderr);
        }
    }

    #[test]
    fn version_and_help_are_for_stdout() {
        for line in ["--version", "-version", "--version --name=x"] {
            let exit = run(line, &[]).expect_err(line);
            assert_eq!((exit.code, exit.stderr.as_str()), (0, ""), "{line}");
            let mut lines = exit.stdout.lines();
            assert_eq!(lines.next(), Some(concat!("ringd Version: ", env!("CARGO_PKG_VERSION"))));
            assert_eq!(lines.next(), Some("etcd Version: 3.7.1"));
        }
        for line in ["--help", "-h", "-help", "--version -h"] {
            let exit = run(line, &[]).expect_err(line);
            assert_eq!((exit.code, exit.stderr.as_str()), (0, ""), "{line}");
            assert!(exit.stdout.contains("--listen-client-urls"), "{line}");
        }
    }

    #[test]
    fn a_variable_counts_where_the_flag_is_not_given() {
        let config =
            run("--heartbeat-interval=50", &[("ETCD_NAME", "a"), ("PATH", "x")]).expect("good flags");
        assert_eq!(config.name, "a");
        assert_eq!(config.heartbeat_interval.as_millis(), 50);
        // An empty one counts as not given, also beside its flag.
        assert_eq!(run("", &[("ETCD_NAME", "")]).expect("good flags").name, "default");
        assert_eq!(run("--name=b", &[("ETCD_NAME", "")]).expect("good flags").name, "b");
        assert_eq!(run("", &[("ETCD_RINGD_EXECUTORS", "1")]).expect("good flags").placement.executors_max, 1);
    }

    #[test]
    fn flag_and_variable_together_are_fatal() {
        let exit = run("--name=a", &[("ETCD_NAME", "a")]).expect_err("a conflict");
        assert_eq!(exit.code, 1);
        assert!(exit.stderr.contains(CONFLICT) && exit.stderr.contains("ETCD_NAME"), "{}", exit.stderr);
        assert!(exit.stderr.contains(r#""level":"fatal""#), "{}", exit.stderr);
    }

    #[test]
    fn a_bad_variable_is_refused_with_code_1() {
        let exit = run("", &[("ETCD_HEARTBEAT_INTERVAL", "x")]).expect_err("no number");
        assert_eq!(exit.code, 1);
        let text = r#"invalid value \"x\" for ETCD_HEARTBEAT_INTERVAL: parse error"#;
        assert!(exit.stderr.contains(text), "{}", exit.stderr);
    }

    #[test]
    fn strange_variables_only_warn() {
        let env =
            [("ETCD_NO_SUCH", "x"), ("ETCD_VERSION", "v3"), ("ETCD_HELP", "true"), ("ETCDCTL_API", "3")];
        let about: Vec<String> = run("--name=a", &env)
            .expect("good flags")
            .warnings
            .into_iter()
            .map(|warning| warning.about)
            .collect();
        assert_eq!(about, ["ETCD_VERSION", "ETCD_HELP", "ETCD_NO_SUCH"]);
    }

    #[test]
    fn what_is_not_utf8_is_refused() {
        use std::os::unix::ffi::OsStringExt;
        let bad = OsString::from_vec(vec![b'-', b'-', 0xff]);
        assert_eq!(parse([bad.clone()], []).expect_err("no UTF-8").code, 2);
        assert_eq!(parse([], [("ETCD_NAME".into(), bad.clone())]).expect_err("no UTF-8").code, 1);
        assert!(parse([], [(bad.clone(), bad)]).is_ok(), "not ours");
    }
}
