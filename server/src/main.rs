//! The ringd server: reads its configuration, starts the cores, waits for the end.

use std::process::ExitCode;
use std::time::{Duration, Instant};

use crossbeam::channel::RecvTimeoutError;
use ringd::config;
use ringd::edge::boot::{self, Running};
use ringd::edge::messages::Order;
use ringd::edge::shared::Note;
use ringd::observe::logs;
use ringd::sys::{self, notify, signals::Signals};

/// Buffers cross cores, and glibc locks an arena on every remote free.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// How long requests in flight may take once the process was told to stop.
const STOP_DEADLINE: Duration = Duration::from_millis(700);

/// How often the main thread looks after the log device.
const STALL_CHECK_INTERVAL: Duration = Duration::from_secs(1);

fn main() -> ExitCode {
    ringd::edge::clock::now(); // the clock starts here
    sys::process::use_small_pages();
    abort_on_panic();
    let config = match config::parse(std::env::args_os().skip(1), std::env::vars_os()) {
        Ok(config) => config,
        Err(exit) => return ExitCode::from(exit.report()),
    };
    let _log = match logs::init(&config.log) {
        Ok(guard) => guard,
        Err(fatal) => sys::exit(&fatal),
    };
    if let Some(path) = &config.config_file {
        tracing::info!(
            path = %path.display(),
            "loaded server configuration, other configuration command line flags and environment variables will be \
             ignored if provided"
        );
    }
    for warning in &config.warnings {
        tracing::warn!(about = %warning.about, "{}", warning.message);
    }
    let signals = match Signals::install() {
        Ok(signals) => signals,
        Err(error) => sys::exit(&sys::Fatal::new(
            sys::FatalReason::StartFailed,
            format!("cannot install signal handlers: {error}"),
        )),
    };
    match boot::start(config) {
        Ok(running) => serve(running, signals),
        Err(fatal) => sys::exit(&fatal),
    }
}

/// One dead core is a dead process: the others must not go on without it.
fn abort_on_panic() {
    let report = std::panic::take_hook();
    std::panic::set_hook(Box::new(move |info| {
        report(info);
        std::process::abort();
    }));
}

fn serve(running: Running, signals: Signals) -> ExitCode {
    let shared = running.shared.clone();
    let waiter = std::thread::Builder::new().name("ringd-signals".into()).spawn(move || {
        match signals.wait() {
            Ok(()) => tracing::info!("received a signal; stopping"),
            Err(error) => tracing::error!(%error, "signals cannot be waited for; stopping"),
        }
        shared.note(Note::Stop);
    });
    if let Err(error) = waiter {
        sys::exit(&sys::Fatal::new(sys::FatalReason::StartFailed, format!("cannot start a thread: {error}")));
    }
    loop {
        match running.notes.recv_timeout(STALL_CHECK_INTERVAL) {
            Err(RecvTimeoutError::Timeout) => running.shared.end_if_log_stalled(ringd::edge::clock::now()),
            Ok(Note::Ready) => {
                tell(&running, || Order::Serve);
                say_ready(&running);
            }
            Ok(Note::Drained) => {}
            Ok(Note::Stop) | Err(RecvTimeoutError::Disconnected) => break,
        }
    }
    notify::stopping();
    stop(&running);
    running.remove_unix_sockets();
    logs::flush();
    ExitCode::SUCCESS
}

fn say_ready(running: &Running) {
    let config = &running.shared.config;
    tracing::info!(
        "local-member-id" = format!("{:x}", running.shared.identity.member_id),
        "local-member-name" = %config.name,
        "published local member to cluster through raft"
    );
    for listen in config.listen_client.iter().chain(&config.listen_client_http) {
        if listen.tls {
            tracing::info!(address = %listen.url, "serving client traffic securely");
        } else {
            tracing::info!(
                address = %listen.url,
                "serving client traffic insecurely; this is strongly discouraged!"
            );
        }
    }
    tracing::info!(took_ms = ringd::edge::clock::now().as_millis() as u64, "ready to serve client requests");
    notify::ready();
}

fn tell(running: &Running, message: impl Fn() -> Order) {
    for core in &running.orders {
        let _ = core.push(message()); // its ring holds more orders than there are
        core.flush();
    }
}

/// Lets every client core finish what is in flight, for a bounded time.
fn stop(running: &Running) {
    tell(running, || Order::Shutdown);
    let deadline = Instant::now() + STOP_DEADLINE;
    let mut drained = 0;
    while drained < running.orders.len() {
        match running.notes.recv_deadline(deadline) {
            Ok(Note::Drained) => drained += 1,
            Ok(_) => {}
            Err(_) => return,
        }
    }
    while running.shared.leads_others() && Instant::now() < deadline {
        std::thread::sleep(Duration::from_millis(5));
    }
}
