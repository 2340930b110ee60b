//! Log lines in etcd's look.
//!
//! ```text
//! {"level":"info","ts":"2026-01-02T15:04:05.000000Z","caller":"edge/serve.rs:21","msg":"ready …","k":"v"}
//! 2026-01-02T15:04:05.000000Z⇥info⇥edge/serve.rs:21⇥ready …⇥{"k": "v"}      (⇥ is a tab)
//! ```
//!
//! Keys, levels and the look of times are those of etcd's zap logger, because tools wait for its lines. Times are UTC;
//! etcd prints local time, which in containers is the same. An event with `target: "fatal"` is the line before an exit.
//!
//! A terminal that is stopped, a pipe nobody reads or a full disk must not stop a core. So each output has its own thread
//! behind a bounded queue; a line that finds it full is dropped and counted, and an error while writing is only counted.
//! `tracing-appender` does nearly this; it isn't used because at exit it waits up to a second for a stuck output, which is
//! all the time that stopping may take, and its drops can't be told per output.

use std::fmt::{self, Write as _};
use std::io::Write;
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError, SyncSender, TrySendError, sync_channel};
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use tracing::field::{Field, Visit};
use tracing::{Event, Level, Metadata, Subscriber};
use tracing_subscriber::layer::{Context, Layer, SubscriberExt};

use super::journal::{self, Journal};
use super::rotation::{self, Rotating};
use crate::config::{Log, LogFormat, LogLevel, LogOutput, LogRotation, limits};
use crate::sys::fatal::{Fatal, FatalReason};

/// Target of events that are the last words before an exit.
pub const FATAL: &str = "fatal";

static DROPPED: AtomicU64 = AtomicU64::new(0);
static FAILED: AtomicU64 = AtomicU64::new(0);

/// Lines dropped because an output's queue was full, since start.
pub fn lines_dropped() -> u64 {
    DROPPED.load(Ordering::Relaxed)
}

/// Lines an output refused to take, since start.
pub fn lines_failed() -> u64 {
    FAILED.load(Ordering::Relaxed)
}

/// The outputs of the process's log, once it is open.
static OUTPUTS: OnceLock<Vec<Output>> = OnceLock::new();

/// Opens the outputs and makes this the process's log. Keep the guard until the end.
///
/// # Errors
/// If a log file can't be opened, or if a log is open already.
pub fn init(log: &Log) -> Result<Guard, Fatal> {
    let mut outputs = Vec::new();
    for output in &log.outputs {
        outputs.push(Output::open(output, log.rotation)?);
    }
    let opened = OUTPUTS.set(outputs.clone()).is_ok();
    let layer = Lines { format: log.format, level: log.level, outputs };
    tracing::subscriber::set_global_default(tracing_subscriber::registry().with(layer))
        .map_err(|error| Fatal::new(FatalReason::StartFailed, format!("cannot open the log: {error}")))?;
    assert!(opened, "the log is opened once, together with the global subscriber");
    Ok(Guard(()))
}

/// Waits until all lines so far are written, for at most [`limits::LOG_FLUSH_MILLIS_MAX`].
pub fn flush() {
    let deadline = Instant::now() + Duration::from_millis(limits::LOG_FLUSH_MILLIS_MAX);
    for output in OUTPUTS.get().into_iter().flatten() {
        output.flush(deadline);
    }
}

/// The last line of a process that can't go on: in the log, or on standard error if there is none yet.
pub fn say_fatal(fatal: &Fatal) {
    let code = fatal.reason.exit_code();
    if OUTPUTS.get().is_some() {
        let reason = format!("{:?}", fatal.reason);
        tracing::error!(target: FATAL, reason, "exit-code" = code, "{}", fatal.message);
        flush();
    } else {
        let fields =
            [("reason", json_string(&format!("{:?}", fatal.reason))), ("exit-code", code.to_string())];
        let caller = "sys/mod.rs".into();
        let message = fatal.message.as_str();
        let line = Line { level: "fatal", micros: now_micros(), caller, message, fields: &fields }
            .render(LogFormat::Json);
        let _ = std::io::stderr().write_all(line.as_bytes());
    }
}

/// Flushes the log when dropped.
#[derive(Debug)]
pub struct Guard(());

impl Drop for Guard {
    fn drop(&mut self) {
        flush();
    }
}

enum Message {
    Line(Arc<str>),
    Flush(SyncSender<()>),
}

/// One place where lines go, and the thread that takes them there.
#[derive(Clone, Debug)]
struct Output {
    queue: SyncSender<Message>,
}

impl Output {
    fn open(output: &LogOutput, rotation: Option<LogRotation>) -> Result<Output, Fatal> {
        match output {
            LogOutput::Stderr => Output::start("log-stderr", std::io::stderr()),
            LogOutput::Stdout => Output::start("log-stdout", std::io::stdout()),
            // As etcd: without journald the lines go to standard error.
            LogOutput::Journal => match Journal::connect(Path::new(journal::SOCKET)) {
                Ok(journal) => Output::start("log-journal", journal),
                Err(_) => Output::start("log-stderr", std::io::stderr()),
            },
            LogOutput::File(path) => {
                let refused = |error| {
                    Fatal::new(
                        FatalReason::Config,
                        format!("cannot open the log file {} of --log-outputs: {error}", path.display()),
                    )
                };
                match rotation {
                    Some(rules) => Output::start("log-file", Rotating::open(path, rules).map_err(refused)?),
                    None => Output::start("log-file", rotation::append_to(path).map_err(refused)?),
                }
            }
        }
    }

    fn start(name: &str, sink: impl Write + Send + 'static) -> Result<Output, Fatal> {
        let (queue, lines) = sync_channel(limits::LOG_LINES_MAX);
        std::thread::Builder::new().name(name.into()).spawn(move || write_lines(sink, &lines)).map_err(
            |error| Fatal::new(FatalReason::StartFailed, format!("cannot start a thread: {error}")),
        )?;
        Ok(Output { queue })
    }

    fn send(&self, line: &Arc<str>) {
        if self.queue.try_send(Message::Line(line.clone())).is_err() {
            DROPPED.fetch_add(1, Ordering::Relaxed);
        }
    }

    fn flush(&self, deadline: Instant) {
        let (done, wait) = sync_channel(1);
        let mut message = Message::Flush(done);
        loop {
            match self.queue.try_send(message) {
                Ok(()) => break,
                Err(TrySendError::Disconnected(_)) => return,
                Err(TrySendError::Full(back)) if Instant::now() < deadline => {
                    message = back;
                    std::thread::sleep(Duration::from_millis(1));
                }
                Err(TrySendError::Full(_)) => return,
            }
        }
        let left = deadline.saturating_duration_since(Instant::now());
        match wait.recv_timeout(left) {
            Ok(()) | Err(RecvTimeoutError::Timeout | RecvTimeoutError::Disconnected) => {}
        }
    }
}

fn write_lines(mut sink: impl Write, lines: &Receiver<Message>) {
    while let Ok(message) = lines.recv() {
        match message {
            Message::Line(line) => {
                if sink.write_all(line.as_bytes()).and_then(|()| sink.flush()).is_err() {
                    FAILED.fetch_add(1, Ordering::Relaxed);
                }
            }
            Message::Flush(done) => drop(done.send(())),
        }
    }
}

/// The `tracing` layer: an event becomes a line.
struct Lines {
    format: LogFormat,
    level: LogLevel,
    outputs: Vec<Output>,
}

impl<S: Subscriber> Layer<S> for Lines {
    fn enabled(&self, metadata: &Metadata<'_>, _: Context<'_, S>) -> bool {
        metadata.is_event() && is_wanted(self.level, metadata)
    }

    fn on_event(&self, event: &Event<'_>, _: Context<'_, S>) {
        let metadata = event.metadata();
        let mut fields = Fields::default();
        event.record(&mut fields);
        let line = Line {
            level: level_name(metadata),
            micros: now_micros(),
            caller: caller(metadata.file().unwrap_or(""), metadata.line().unwrap_or(0)),
            message: &fields.message,
            fields: &fields.fields,
        };
        let text: Arc<str> = line.render(self.format).into();
        for output in &self.outputs {
            output.send(&text);
        }
    }
}

/// Whether a line passes `--log-level`. Libraries may warn, but their chatter stays out.
fn is_wanted(level: LogLevel, metadata: &Metadata<'_>) -> bool {
    if metadata.target() == FATAL {
        return true;
    }
    let ours = metadata.target().starts_with("ringd") || metadata.target().starts_with("node");
    if !ours && *metadata.level() > Level::WARN {
        return false;
    }
    let max = match level {
        LogLevel::Debug => Level::TRACE,
        LogLevel::Info => Level::INFO,
        LogLevel::Warn => Level::WARN,
        LogLevel::Error => Level::ERROR,
        LogLevel::Panic | LogLevel::Fatal => return false,
    };
    *metadata.level() <= max
}

fn level_name(metadata: &Metadata<'_>) -> &'static str {
    match *metadata.level() {
        _ if metadata.target() == FATAL => "fatal",
        Level::ERROR => "error",
        Level::WARN => "warn",
        Level::INFO => "info",
        Level::DEBUG | Level::TRACE => "debug",
    }
}

/// zap's short caller: the last folder, the file and the line.
fn caller(file: &str, line: u32) -> String {
    let start = file.rmatch_indices('/').nth(1).map_or(0, |(at, _)| at + 1);
    format!("{}:{line}", &file[start..])
}

/// The fields of an event, their values already JSON.
#[derive(Default)]
struct Fields {
    message: String,
    fields: Vec<(&'static str, String)>,
}

impl Fields {
    fn push(&mut self, field: &Field, json: String) {
        self.fields.push((field.name(), json));
    }

    fn push_text(&mut self, field: &Field, text: &str) {
        if field.name() == "message" {
            self.message = text.into();
        } else {
            self.push(field, json_string(text));
        }
    }
}

impl Visit for Fields {
    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        self.push_text(field, &format!("{value:?}"));
    }

    fn record_str(&mut self, field: &Field, value: &str) {
        self.push_text(field, value);
    }

    fn record_i64(&mut self, field: &Field, value: i64) {
        self.push(field, value.to_string());
    }

    fn record_u64(&mut self, field: &Field, value: u64) {
        self.push(field, value.to_string());
    }

    fn record_bool(&mut self, field: &Field, value: bool) {
        self.push(field, value.to_string());
    }

    fn record_f64(&mut self, field: &Field, value: f64) {
        // zap writes what JSON has no number for as a string.
        self.push(field, if value.is_finite() { value.to_string() } else { json_string(&value.to_string()) });
    }
}

/// One line before it has its look.
struct Line<'a> {
    level: &'a str,
    /// Since 1970.
    micros: u64,
    caller: String,
    message: &'a str,
    /// Names, and values as JSON.
    fields: &'a [(&'static str, String)],
}

impl Line<'_> {
    fn render(&self, format: LogFormat) -> String {
        let mut out = String::with_capacity(256);
        let time = timestamp(self.micros);
        match format {
            LogFormat::Json => {
                let message = json_string(self.message);
                let caller = json_string(&self.caller);
                let _ = write!(
                    out,
                    r#"{{"level":"{}","ts":"{time}","caller":{caller},"msg":{message}"#,
                    self.level
                );
                for (name, value) in self.fields_that_fit() {
                    let _ = write!(out, ",{}:{value}", json_string(name));
                }
                out.push_str("}\n");
            }
            LogFormat::Console => {
                let message = cut(self.message).replace(['\n', '\r', '\t'], " ");
                let _ = write!(out, "{time}\t{}\t{}\t{message}", self.level, self.caller);
                for (at, (name, value)) in self.fields_that_fit().enumerate() {
                    let _ =
                        write!(out, "{}{}: {value}", if at == 0 { "\t{" } else { ", " }, json_string(name));
                }
                out.push_str(if self.fields.is_empty() { "\n" } else { "}\n" });
            }
        }
        out
    }

    /// The fields until [`limits::LOG_LINE_BYTES_MAX`] is used up, but always the first.
    fn fields_that_fit(&self) -> impl Iterator<Item = (&'static str, &str)> {
        let mut used = 0;
        self.fields.iter().map(|(name, value)| (*name, value.as_str())).take_while(move |(name, value)| {
            let fits = used < limits::LOG_LINE_BYTES_MAX / 2;
            used += name.len() + value.len();
            fits
        })
    }
}

/// A JSON line of now, outside of the log: for what is said before the log is open.
pub fn line_now(level: &str, caller: &str, message: &str, fields: &[(&'static str, &str)]) -> String {
    let fields: Vec<(&'static str, String)> =
        fields.iter().map(|&(name, value)| (name, json_string(value))).collect();
    Line { level, micros: now_micros(), caller: caller.into(), message, fields: &fields }
        .render(LogFormat::Json)
}

/// `text` as a JSON string, cut to a quarter of a line.
fn json_string(text: &str) -> String {
    serde_json::to_string(cut(text)).expect("a string is always JSON")
}

/// At most a quarter of a line, on a character boundary.
fn cut(text: &str) -> &str {
    let mut end = text.len().min(limits::LOG_LINE_BYTES_MAX / 4);
    while !text.is_char_boundary(end) {
        end -= 1;
    }
    &text[..end]
}

fn now_micros() -> u64 {
    micros(SystemTime::now())
}

fn micros(time: SystemTime) -> u64 {
    let since = time.duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_micros()).unwrap_or(u64::MAX)
}

/// A time as lines show it.
pub fn show_time(time: SystemTime) -> String {
    timestamp(micros(time))
}

/// Go's layout `2006-01-02T15:04:05.000000Z0700` in UTC.
fn timestamp(micros: u64) -> String {
    let (seconds, micros) = (micros / 1_000_000, micros % 1_000_000);
    let (days, second) = (seconds / 86_400, seconds % 86_400);
    let (year, month, day) = civil(days);
    let (hour, minute, second) = (second / 3600, second / 60 % 60, second % 60);
    format!("{year:04}-{month:02}-{day:02}T{hour:02}:{minute:02}:{second:02}.{micros:06}Z")
}

/// Year, month and day of a count of days since 1970-01-01, in the proleptic Gregorian calendar: an era has 400 years of
/// 146 097 days, and a year that starts in March ends with its leap day.
fn civil(days: u64) -> (u64, u64, u64) {
    let shifted = days + 719_468; // since 0000-03-01
    let (era, day_of_era) = (shifted / 146_097, shifted % 146_097);
    let year_of_era = (day_of_era - day_of_era / 1460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let month_from_march = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * month_from_march + 2) / 5 + 1;
    let month = if month_from_march < 10 { month_from_march + 3 } else { month_from_march - 9 };
    (era * 400 + year_of_era + u64::from(month <= 2), month, day)
}

#[cfg(test)]
mod tests {
    use std::sync::Mutex;

    use super::*;

    #[test]
    fn times_are_gos() {
        for (micros, want) in [
            (0, "1970-01-01T00:00:00.000000Z"),
            (951_782_400_000_000, "2000-02-29T00:00:00.000000Z"),
            (1_767_366_245_000_123, "2026-01-02T15:04:05.000123Z"),
            (1_798_761_599_999_999, "2026-12-31T23:59:59.999999Z"),
            (4_107_542_399_000_000, "2100-02-28T23:59:59.000000Z"),
            (4_107_542_400_000_000, "2100-03-01T00:00:00.000000Z"),
        ] {
            assert_eq!(timestamp(micros), want);
        }
    }

    #[test]
    fn callers_are_short() {
        for (file, want) in [
            ("server/src/edge/serve.rs", "edge/serve.rs:7"),
            ("src/x.rs", "src/x.rs:7"),
            ("x.rs", "x.rs:7"),
            ("", ":7"),
        ] {
            assert_eq!(caller(file, 7), want);
        }
    }

    fn line<'a>(message: &'a str, fields: &'a [(&'static str, String)]) -> Line<'a> {
        Line { level: "info", micros: 1_767_366_245_000_000, caller: "a/b.rs:1".into(), message, fields }
    }

    #[test]
    fn both_formats_have_etcds_look() {
        let fields = [("count", "3".to_string()), ("member-id", json_string("8e9e"))];
        assert_eq!(
            line("say \"x\"\n", &fields).render(LogFormat::Json),
            "{\"level\":\"info\",\"ts\":\"2026-01-02T15:04:05.000000Z\",\"caller\":\"a/b.rs:1\",\
             \"msg\":\"say \\\"x\\\"\\n\",\"count\":3,\"member-id\":\"8e9e\"}\n"
        );
        assert_eq!(
            line("say\nx", &fields).render(LogFormat::Console),
            "2026-01-02T15:04:05.000000Z\tinfo\ta/b.rs:1\tsay x\t{\"count\": 3, \"member-id\": \"8e9e\"}\n"
        );
        assert_eq!(
            line("x", &[]).render(LogFormat::Console),
            "2026-01-02T15:04:05.000000Z\tinfo\ta/b.rs:1\tx\n"
        );
    }

    #[test]
    fn a_giant_line_is_cut_and_still_json() {
        let long = "é".repeat(limits::LOG_LINE_BYTES_MAX);
        let fields: Vec<(&'static str, String)> = (0..100).map(|_| ("k", json_string(&long))).collect();
        let text = line(&long, &fields).render(LogFormat::Json);
        assert!(text.len() <= 2 * limits::LOG_LINE_BYTES_MAX, "{}", text.len());
        serde_json::from_str::<serde_json::Value>(&text).expect("still JSON");
    }

    /// A sink that blocks while the test holds its lock.
    struct Gate(Arc<Mutex<Vec<u8>>>);

    impl Write for Gate {
        fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
            self.0.lock().expect("not poisoned").extend_from_slice(bytes);
            Ok(bytes.len())
        }

        fn flush(&mut self) -> std::io::Result<()> {
            Ok(())
        }
    }

    #[test]
    fn an_output_that_is_stuck_drops_lines_and_delays_nobody() {
        let written = Arc::new(Mutex::new(Vec::new()));
        let output = Output::start("log-test", Gate(written.clone())).expect("a thread");
        let text: Arc<str> = "x\n".into();
        let stuck = written.lock().expect("not poisoned");
        let (before, start) = (lines_dropped(), Instant::now());
        for _ in 0..limits::LOG_LINES_MAX + 10 {
            output.send(&text);
        }
        // The thread may have taken one line out of the queue; all others had to wait or go.
        assert!(lines_dropped() - before >= 9, "{}", lines_dropped() - before);
        output.flush(Instant::now() + Duration::from_millis(20));
        assert!(start.elapsed() < Duration::from_secs(5), "{:?}", start.elapsed());
        drop(stuck);
        output.flush(Instant::now() + Duration::from_secs(10));
        let count = written.lock().expect("not poisoned").len() / 2;
        assert!((limits::LOG_LINES_MAX..=limits::LOG_LINES_MAX + 1).contains(&count), "{count}");
    }

    struct Broken;

    impl Write for Broken {
        fn write(&mut self, _: &[u8]) -> std::io::Result<usize> {
            Err(std::io::ErrorKind::BrokenPipe.into())
        }

        fn flush(&mut self) -> std::io::Result<()> {
            Ok(())
        }
    }

    #[test]
    fn an_output_that_fails_is_counted_and_nothing_more() {
        let output = Output::start("log-test", Broken).expect("a thread");
        let before = lines_failed();
        output.send(&"x\n".into());
        output.flush(Instant::now() + Duration::from_secs(10));
        assert!(lines_failed() > before);
    }

    #[test]
    fn events_become_lines_by_level_and_origin() {
        // level, the messages that pass
        let cases = [
            (LogLevel::Debug, "debug info warn error library-warn last"),
            (LogLevel::Info, "info warn error library-warn last"),
            (LogLevel::Warn, "warn error library-warn last"),
            (LogLevel::Error, "error last"),
            (LogLevel::Fatal, "last"),
        ];
        for (level, want) in cases {
            let written = Arc::new(Mutex::new(Vec::new()));
            let output = Output::start("log-test", Gate(written.clone())).expect("a thread");
            let layer = Lines { format: LogFormat::Json, level, outputs: vec![output.clone()] };
            tracing::subscriber::with_default(tracing_subscriber::registry().with(layer), || {
                tracing::debug!(count = 1_u64, "debug");
                tracing::info!(ready = true, "member-id" = "8e9e", "info");
                tracing::warn!(offset = -1_i64, ratio = 0.5, "warn");
                tracing::error!(error = ?Some("x"), "error");
                tracing::info!(target: "rustls::conn", "library-info");
                tracing::warn!(target: "rustls::conn", "library-warn");
                tracing::error!(target: FATAL, "last");
            });
            output.flush(Instant::now() + Duration::from_secs(10));
            let written = String::from_utf8(written.lock().expect("not poisoned").clone()).expect("UTF-8");
            let messages: Vec<String> = written
                .lines()
                .map(|line| {
                    serde_json::from_str::<serde_json::Value>(line).expect("JSON")["msg"]
                        .as_str()
                        .expect("text")
                        .into()
                })
                .collect();
            assert_eq!(messages.join(" "), want, "{level:?}");
            if level == LogLevel::Debug {
                assert!(written.contains(r#""msg":"info","ready":true,"member-id":"8e9e"}"#), "{written}");
                assert!(written.contains(r#""msg":"warn","offset":-1,"ratio":0.5}"#), "{written}");
                assert!(written.contains(r#""level":"fatal""#), "{written}");
                assert!(written.contains(r#""caller":"observe/logs.rs:"#), "{written}");
            }
        }
    }
}
